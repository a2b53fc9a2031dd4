"""Write a run's evaluation requests: three-shot prompts at temperature 0 (section 4.2.3), or several votes each."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.predictions import fixed, read_test_splits, stratified
from logreasoner import cli, examples
from logreasoner.cli import UserError
from logreasoner.config import Run, decoding, identity, load_run, thinking_room
from logreasoner.files import read_json, sha256, write_jsonl
from logreasoner.generation.generate import served_name
from logreasoner.generation.response_cache import request
from logreasoner.prompts import few_shot


def check_examples(run: Run, files: Iterable[Path]) -> None:
    """Raise UserError where worked solutions are not those that another model of the run was shown."""
    current = {path.name: sha256(path) for path in files}
    for path in sorted(run.dir.glob("predictions/*/*/*.requests.jsonl.manifest.json")):
        for shown, checksum in read_json(path)["inputs"].items():
            if Path(shown).suffix == ".yaml" and current.get(Path(shown).name, checksum) != checksum:
                raise UserError(f"{shown} has changed since {path.name.removesuffix('.manifest.json')} of "
                                f"{path.parts[-3]}/{path.parts[-2]} was written, and answers to other examples are not "
                                f"comparable: restore it, or delete {run.dir / 'predictions'}, or declare a run of "
                                f"another name (RUN={run.name}-2)")


def solution_files(run: Run) -> list[Path]:
    """List the files of worked solutions that the run's prompts show."""
    shows = run.experiment.shots and run.experiment.examples != "label-only"
    return [examples.solution_file(run, name) for name in run.tasks()] if shows else []


def endpoint(run: Run, name: str, stage: str) -> tuple[str, str]:
    """Return what serves a model, "vllm" or "other" (without vLLM's own fields), and its name for the model.

    Raises UserError for a model that is not prompted.
    """
    declared = run.model(name)
    if fixed(run, name):
        raise UserError(f"{name} is of kind {declared.kind} (experiments/models.yaml): it answers without prompts")
    return ("other", declared.path) if declared.kind == "api" else ("vllm", served_name(name, stage))


def requests(run: Run, name: str, stage: str, *, kind: str | None = None, served: str | None = None,
             limit: int | None = None, samples: int = 1, assumed: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Make the requests of a model at a stage, `samples` for each test instance of a run or of its subset of `limit`.

    `kind` and `served` replace what `endpoint` says. The same examples for every model. Ordered by task and source,
    because prompts of a task share a prefix, which vLLM computes once. A single answer is greedy and has the instance's
    id; several votes are drawn with different seeds and have <id>#0, <id>#1, ... `assumed` as in examples.read.
    """
    default_kind, default_name = endpoint(run, name, stage)
    vllm, served = (kind or default_kind) == "vllm", served or default_name
    items = sorted((item for split in stratified(read_test_splits(run), limit) for item in split),
                   key=lambda item: (item.task, item.source))
    room = thinking_room(run.model(name).thinking)
    made = []
    for item, prompt in zip(items, few_shot(run, items, assumed), strict=True):
        if samples == 1:
            made.append(request(item.id, served, "evaluation", prompt, vllm, **room))
            continue
        seed = decoding()["sampling"]["seed"]
        made += [request(f"{item.id}#{at}", served, "sampling", prompt, vllm, **room, seed=seed + at)
                 for at in range(samples)]
    return made


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    run.check(given.model, given.stage)
    kind = given.endpoint or endpoint(run, given.model, given.stage)[0]
    made = requests(run, given.model, given.stage, kind=kind, served=given.name, limit=given.limit,
                    samples=given.samples)
    files = solution_files(run)
    check_examples(run, files)
    inputs = [*(run.splits / file for file in ("test.jsonl", "test_seen.jsonl", "examples.jsonl")), *files]
    count = write_jsonl(given.out, made, inputs, run=run.name, identity=identity(run, given.model, given.stage),
                        model=given.model, stage=given.stage, endpoint=kind, limit=given.limit, samples=given.samples,
                        requests=len(made))
    print(f"{given.out}: {count:,} requests")


def main() -> None:
    """Write a run's evaluation requests."""
    arguments = cli.parser("eval.predict", "Write the evaluation requests of a model at a stage.", """
python -m eval.predict --run paper --model qwen2.5-7b --stage dpo --out X.requests.jsonl
python -m eval.predict --run paper --model gpt-4o --stage base --limit 200 --out X.requests.jsonl
python -m eval.predict --run paper --model qwen2.5-7b --stage base --endpoint other --name qwen2.5:7b \\
    --samples 5 --out X.requests.jsonl""", required=["run", "model", "stage"], optional=["limit", "samples"])
    arguments.add_argument("--endpoint", choices=["vllm", "other"], help="other: leave out the sampling fields that "
                           "only vLLM knows (default: by the model's kind in models.yaml)")
    arguments.add_argument("--name", help="what the endpoint calls the model (default: MODEL/STAGE; an API's name)")
    arguments.add_argument("--out", required=True, type=Path)
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
