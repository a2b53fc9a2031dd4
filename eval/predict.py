"""A run's test pools -> evaluation requests: three-shot prompts, temperature 0 (section 4.2.3)."""

import argparse
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.score import read_test_pools
from logreasoner import cli
from logreasoner.chat import request, served_name
from logreasoner.cli import UserError
from logreasoner.config import Run, identity, load_run, model, task
from logreasoner.files import manifest, write_jsonl
from logreasoner.prompts import solution
from logreasoner.records import Instance, read_instances


def examples_by_task(path: Path, tasks: Iterable[str], wanted: int) -> dict[str, tuple[Instance, ...]]:
    """The in-context examples of each task, in file order. Raises UserError unless there are `wanted` of each."""
    pools: dict[str, list[Instance]] = defaultdict(list)
    for item in read_instances(path):
        pools[item.task].append(item)
    for name in sorted(tasks):
        if len(pools[name]) != wanted:
            raise UserError(f"{path}: {len(pools[name])} examples of {name}, the run declares {wanted}; "
                            "make the pools again")
    return {name: tuple(items) for name, items in pools.items()}


def requests(run: Run, name: str, vllm: bool = True) -> list[dict[str, Any]]:
    """One request for each test instance of a run; `name` is what the endpoint calls the model.

    The same examples for every model. Ordered by task and source, because prompts of a task share their beginning
    and vLLM computes a shared beginning once.
    """
    clean, seen = read_test_pools(run)
    items = sorted([*clean, *seen], key=lambda item: (item.task, item.source))
    examples = examples_by_task(run.pools / "examples.jsonl", {item.task for item in items}, run.experiment.examples)
    return [request(item.id, name, "evaluation", solution(item, task(item.task), examples[item.task]), vllm)
            for item in items]


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    model(given.model)
    if given.stage != "base":
        run.stage(given.stage)
    name = given.name or served_name(given.model, given.stage)
    count = write_jsonl(given.out, requests(run, name, given.endpoint == "vllm"))
    inputs = [run.pools / file for file in ("test.jsonl", "test_seen.jsonl", "examples.jsonl")]
    manifest(given.out, inputs, run=run.name, identity=identity(run), model=given.model, stage=given.stage,
             endpoint=given.endpoint, requests=count)
    print(f"{given.out}: {count:,} requests")


def main() -> None:
    """Write a run's evaluation requests."""
    arguments = cli.parser("eval.predict", "Write the evaluation requests of a model at a stage.", """
python -m eval.predict --run paper --model qwen2.5-7b --stage dpo --out X.requests.jsonl
python -m eval.predict --run paper --model qwen2.5-7b --stage base --endpoint other --name qwen2.5:7b \\
    --out X.requests.jsonl""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--model", required=True, help="a name of models.yaml")
    arguments.add_argument("--stage", required=True, help="base, thought-sft, solution-sft or dpo")
    arguments.add_argument("--endpoint", default="vllm", choices=["vllm", "other"],
                           help="other: leave out the sampling fields that only vLLM knows")
    arguments.add_argument("--name", help="what the endpoint calls the model (default: MODEL/STAGE)")
    arguments.add_argument("--out", required=True, type=Path)
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
