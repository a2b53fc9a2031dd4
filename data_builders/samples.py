"""What a stage trains on: samples.jsonl from the answers that stages 1 and 2 kept, all tasks mixed (section 4.1).

One function for each kind of samples that experiments/stages.yaml declares. SFT samples have a prompt and a response,
preference pairs a prompt with chosen and rejected. The parts that figure 5 trains on are nested: 20% lies in 40%.
"""

import random
from pathlib import Path
from typing import Any

from data_builders import responses, review, stage1, stage2
from data_builders.thoughts import check_thought
from logreasoner import cli, prompts
from logreasoner.answer_format import answer_element
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.files import manifest, read_jsonl, write_jsonl
from logreasoner.instances import Instance, by_id, read_instances

Row = dict[str, Any]
SHARED = ("thoughts", "rationales", "labels")  # kinds that do not depend on the model


def folder(run: Run, model: str, stage: str) -> Path:
    """Where a stage's samples.jsonl lies."""
    return run.dataset("shared" if run.stage(stage).samples.kind in SHARED else model, stage)


def part(rows: list[Row], share: float, seed: int) -> list[Row]:
    """A share of each task's rows, drawn by the seed; a smaller share is a part of every larger one."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        random.Random(f"{seed} {task}").shuffle(mine)
        found += mine[: round(share * len(mine))]
    return found


def thoughts(run: Run, stage: str) -> tuple[list[Row], dict[str, Any]]:
    """D_thought (equation 1): prompt x, response (C_high, T_high)."""
    path, reviewed = stage1.folder(run) / "thoughts.jsonl", review.thoughts(run)
    kept, decided = reviewed.accepted()
    kept = part(kept, run.stage(stage).samples.share, run.experiment.seed)
    return [{"id": row["id"], "task": row["task"],
             "prompt": prompts.render("thought_sft", problem=row["problem"]),
             "response": check_thought(row["thought"], row["problem"])[0].render()}  # type: ignore[union-attr]
            for row in kept], {"inputs": [path, *reviewed.files()], "review": decided}


def rationales(run: Run, stage: str) -> tuple[list[Row], dict[str, Any]]:
    """The CoT-SFT baseline (section 4.4.4): right rationales for stage 2's instances, and stage 1's raw analyses D.

    The paper merges "the original analytical processes collected in the first stage": here those that the DPP kept,
    so that both methods see the same cases. A handbook case has an analysis and no answer.
    """
    path, items = stage1.folder(run, stage) / "analyses.jsonl", _labelled(run)
    rows = [row for _, row in read_jsonl(path)] + stage1.selected(run)
    found = []
    for row in rows:
        item = items.get(row["id"])
        asked = prompts.solution(item, run.tasks()[item.task]) if item else row["problem"]
        ending = f"\n{answer_element(item.label)}" if item else ""
        found.append({"id": row["id"], "task": row["task"], "prompt": asked, "response": row["analysis"] + ending})
    return found, {"inputs": [path, stage1.folder(run) / "analyses.jsonl", stage1.folder(run) / "selected.json"]}


def labels(run: Run, stage: str) -> tuple[list[Row], dict[str, Any]]:
    """Direct fine-tuning (section 5.1): the same labelled instances, and nothing but the label to answer."""
    return [{"id": item.id, "task": item.task, "prompt": prompts.solution(item, run.tasks()[item.task]),
             "response": answer_element(item.label)} for item in _labelled(run).values()
            ], {"inputs": [run.splits / "stage1.jsonl", run.splits / "stage2.jsonl"]}


def _labelled(run: Run) -> dict[str, Instance]:
    return by_id(item for split in ("stage1", "stage2") for item in read_instances(run.splits / f"{split}.jsonl"))


def _instances(run: Run, share: float) -> dict[str, Instance]:
    """The stage-2 instances of a share, by id."""
    items = list(read_instances(run.splits / "stage2.jsonl"))
    kept = {row["id"] for row in part([{"id": item.id, "task": item.task} for item in items], share,
                                      run.experiment.seed)}
    return by_id(item for item in items if item.id in kept)


def solutions(run: Run, stage: str, model: str) -> tuple[list[Row], dict[str, Any]]:
    """D_corr (equation 3): the policy's own right solutions, with the prompt they were asked by."""
    declared = run.stage(stage).samples
    path, items = run.dataset(model, declared.solutions) / "solutions.jsonl", _instances(run, declared.share)
    return [{"id": row["id"], "task": row["task"],
             "prompt": prompts.solution(items[row["id"]], run.tasks()[row["task"]]),
             "response": stage2.trajectory(row).render()}
            for _, row in read_jsonl(path) if row["outcome"] == "right" and row["id"] in items], {"inputs": [path]}


def pairs(run: Run, stage: str, model: str) -> tuple[list[Row], dict[str, Any]]:
    """D_pref (equation 8): wrong solutions with their corrections; without corrections, with the label alone
    (section 5.1, "we only use ground-truth labels as correct trajectories")."""
    declared = run.stage(stage).samples
    items, facts = _instances(run, declared.share), {}
    inputs = [run.dataset(model, declared.solutions) / "solutions.jsonl"]
    flawed = [row for row in stage2.wrong(run, model, declared.solutions) if row["id"] in items]
    chosen = {row["id"]: answer_element(row["label"]) for row in flawed}
    if declared.corrections:
        reviewed = review.corrections(run, model, declared.corrections)
        inputs += [run.dataset(model, declared.corrections) / "corrections.jsonl", *reviewed.files()]
        kept, facts["review"] = reviewed.accepted()
        chosen = {row["id"]: row["chosen"] for row in kept}
    return [{"id": row["id"], "task": row["task"],
             "prompt": prompts.solution(items[row["id"]], run.tasks()[row["task"]]),
             "chosen": chosen[row["id"]], "rejected": stage2.trajectory(row).render()}
            for row in flawed if row["id"] in chosen], {"inputs": inputs, **facts}


EMPTY = {
    "thoughts": "no valid thought was accepted; thoughts.jsonl has the reasons",
    "rationales": "no rationale arrived at its label; rationales.jsonl has the reasons",
    "labels": "the splits stage1 and stage2 are empty",
    "solutions": "the policy solved no instance; see solutions.jsonl",
    "pairs": "no correction was accepted, or nothing was wrong; corrections.jsonl has the reasons",
}


def _outcome(sample: Row) -> str:
    """An answer with a control token would end its turn, or open another, in the middle of training."""
    held = any(prompts.controls(sample[key]) for key in ("response", "chosen", "rejected") if key in sample)
    return "control token in the answer" if held else "samples"


def build(run: Run, stage: str, model: str = "") -> None:
    """Write a stage's samples.jsonl with its manifest. Raises UserError if there is not one sample.

    What holds a control token (experiments/control_tokens.yaml) in an answer is left out and counted.
    """
    kind, name = run.stage(stage).samples.kind, run.stage(stage).dataset
    made = {"thoughts": thoughts, "rationales": rationales, "labels": labels}
    if kind in made:
        samples, facts = made[kind](run, stage)
    elif kind in ("solutions", "pairs"):
        samples, facts = (solutions if kind == "solutions" else pairs)(run, stage, model)
    else:
        raise UserError(f"stage {stage!r} has samples of its own making ({kind})")
    path = folder(run, model, stage) / "samples.jsonl"
    counts = responses.count([{**row, "outcome": _outcome(row)} for row in samples])
    samples = [row for row in samples if _outcome(row) == "samples"]
    if not samples:
        raise UserError(f"{path}: {name.replace('d_', 'D_', 1)} is empty: {EMPTY[kind]}")
    random.Random(run.experiment.seed).shuffle(samples)
    write_jsonl(path, samples)
    decided = f"; review: {facts['review']}" if "review" in facts else ""
    responses.show(f"{stage}: {len(samples)} samples{decided}", counts)
    manifest(path, facts.pop("inputs"), counts=counts, mark=run.mark, stage=stage, **facts)


def main() -> None:
    """Write a stage's samples."""
    arguments = cli.parser("data_builders.samples", "Write what a stage of stages.yaml trains on.", """
python -m data_builders.samples --run paper --stage thought-sft
python -m data_builders.samples --run paper --model qwen2.5-7b --stage dpo""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--stage", required=True, help="a stage of experiments/stages.yaml")
    arguments.add_argument("--model", default="", help="whose solutions, for stages that need some")
    cli.run(arguments, lambda given: build(load_run(given.run), given.stage, given.model))


if __name__ == "__main__":
    main()
