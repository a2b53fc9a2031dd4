"""Check sample lengths and write the dataset that LLaMA-Factory reads (runs in the train environment).

LLaMA-Factory silently cuts samples longer than cutoff_len: an answer loses its end, DPO pairs can become equal. So
every sample is tokenised with the recipe's own model and template, and those that would be cut are dropped, or stop
the run, as the experiment's over_length says.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_builders import chat_templates
from data_builders.responses import count, show
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run, load_yaml
from logreasoner.files import read_jsonl, write_json
from logreasoner.schemas import Model, Stage

Row = dict[str, Any]
Encoder = Callable[..., tuple[list[int], list[int]]]  # of a prompt, a response and the turns before them
RESPONSES = {"sft": ("response",), "dpo": ("chosen", "rejected"), "kto": ("response",)}


def dataset_info(stage: Stage) -> dict[str, Any]:
    """Make the dataset_info.json entry: with `columns`, LLaMA-Factory ignores every column that is not listed."""
    columns = {"prompt": "instruction", "query": "input"}
    if stage.samples.kind == "base":
        columns["history"] = "history"
    entry: dict[str, Any] = {"file_name": f"{stage.dataset}.json", "formatting": "alpaca"}
    if stage.method == "dpo":
        return {stage.dataset: {**entry, "ranking": True,
                                "columns": {**columns, "chosen": "chosen", "rejected": "rejected"}}}
    if stage.method == "kto":
        columns["kto_tag"] = "kto_tag"
    return {stage.dataset: {**entry, "columns": {**columns, "response": "output"}}}


def alpaca(sample: Row, stage: Stage) -> Row:
    """Convert a sample into a row of the dataset file; the prompt is the whole user turn, after those of a history."""
    row = {"instruction": sample["prompt"], "input": ""}
    if "history" in sample:
        row["history"] = sample["history"]
    if stage.method == "dpo":
        return {**row, "chosen": sample["chosen"], "rejected": sample["rejected"]}
    if stage.method == "kto":
        row["kto_tag"] = sample["right"]
    return {**row, "output": sample["response"]}


def encoder(weights: str, model: Model) -> Encoder:
    """Load what encodes (prompt, response, earlier turns) into token ids exactly as LLaMA-Factory does for training.

    Raises UserError where the chat template that the model is served with gives other token ids.
    """
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights, trust_remote_code=False)
    form = get_template_and_fix_tokenizer(
        tokenizer, DataArguments(template=model.template, enable_thinking=model.thinking))
    chat_templates.check(tokenizer, form, model)

    def encode(prompt: str, response: str, history: Sequence[Sequence[str]] = ()) -> tuple[list[int], list[int]]:
        texts = [text for turn in (*history, (prompt, response)) for text in turn]
        messages = [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(texts)]
        source, target = form.encode_oneturn(tokenizer, messages)
        return source, target

    return encode


def length(sample: Row, stage: Stage, encode: Encoder) -> int:
    """Count the tokens of a sample with its longest response, the end-of-turn token included."""
    history = sample.get("history", ())
    return max(sum(map(len, encode(sample["prompt"], sample[key], history))) for key in RESPONSES[stage.method])


def gate(run: Run, model: str, stage_name: str, source: Path, encode: Encoder | None = None) -> None:
    """Write <dataset>.json, dataset_info.json and manifest.json for one stage.

    Raises UserError if nothing is left, or if a sample is too long and over_length is `stop`.
    """
    from tqdm import tqdm

    stage, folder = run.stage(stage_name), run.dataset(model, stage_name)
    recipe = load_yaml(run.recipe(model, stage_name))
    encode = encode or encoder(recipe["model_name_or_path"], run.model(model))
    rows = [{**row, "tokens": length(row, stage, encode)}
            for _, row in tqdm(read_jsonl(source), unit="sample", desc="lengths", disable=None)]
    # Where it packs, LLaMA-Factory reserves one token of cutoff_len and would cut a sample that needs it.
    limit = recipe["cutoff_len"] - bool(recipe.get("packing") or recipe.get("neat_packing"))
    for row in rows:
        row["outcome"] = "kept" if row["tokens"] <= limit else "too long"
    fitting = [row for row in rows if row["outcome"] == "kept"]
    counts = count(rows)
    show(f"{stage.dataset}: {len(fitting)} of {len(rows)} samples fit in {limit} tokens "
         f"(longest: {max((row['tokens'] for row in rows), default=0)})", counts)
    cut = [row["id"] for row in rows if row["outcome"] == "too long"]
    if cut and run.experiment.over_length == "stop":
        raise UserError(f"{source}: {len(cut)} samples are longer than {limit} tokens, the first {cut[0]}; raise "
                        "cutoff_len in experiments/stages.yaml, or set over_length: drop")
    if not fitting:
        raise UserError(f"{source}: no sample is left for {stage.dataset}")
    write_json(folder / "dataset_info.json", dataset_info(stage))
    write_json(folder / f"{stage.dataset}.json", [alpaca(row, stage) for row in fitting], [source],
               counts=counts, cutoff_len=limit, samples=len(fitting),
               longest=max(row["tokens"] for row in fitting), dropped=cut,
               template=recipe["template"], mark=run.mark)


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    gate(run, given.model, given.stage, run.samples(given.model, given.stage))


def main() -> None:
    """Check lengths and write the dataset of one stage."""
    arguments = cli.parser("data_builders.llamafactory_dataset",
                           "Check sample lengths and write what LLaMA-Factory reads.", """
python -m data_builders.llamafactory_dataset --run paper --model qwen2.5-7b --stage dpo""",
                           required=["run", "model", "stage"])
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
