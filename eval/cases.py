"""Print cases as the paper's figures 1, 9 and 11 do: problem, thought, each model's answer, the preference pair.

What there is of an instance depends on its split: a thought in stage 1, solutions and pairs in stage 2, predictions in
the test sets. Without an id, one case of each kind is chosen.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_builders import stage1, stage2
from logreasoner import cli, prompts
from logreasoner.answer_format import parse_label
from logreasoner.cli import UserError, escape_terminal
from logreasoner.config import Run, load_run
from logreasoner.files import read_jsonl
from logreasoner.generation.response_cache import content
from logreasoner.instances import Instance, read_instances

Row = dict[str, Any]
Section = tuple[str, str]  # heading, text
SPLITS = ("stage1", "stage2", "examples", "test", "test_seen")


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, none if it is not there."""
    if path.exists():
        yield from (row for _, row in read_jsonl(path))


def instances(run: Run, *splits: str) -> dict[str, Instance]:
    """Read instances by id."""
    paths = (run.splits / f"{name}.jsonl" for name in splits)
    return {item.id: item for path in paths if path.exists() for item in read_instances(path)}


def answers(run: Run, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (model/stage, instance id, text) of the predictions for an instance, or for all."""
    for path in sorted(run.dir.glob("predictions/*/*/test*.responses.jsonl")):
        for row in rows(path):
            item = str(row.get("custom_id")).partition("#")[0]
            if key in ("", item) and (text := content(row)) is not None:
                yield "/".join(path.parts[-3:-1]), item, text


def problem(run: Run, key: str) -> list[Section]:
    """Return the problem of an instance or handbook case. Raises UserError for an unknown id."""
    if item := instances(run, *SPLITS).get(key):
        return [(f"Problem {key} ({item.task}, {item.source}; true label: {item.label})",
                 prompts.problem(item, run.tasks()[item.task]))]
    for case in rows(run.splits / "handbook.jsonl"):
        if case["id"] == key:
            return [(f"Problem {key} (handbook case)", prompts.render("handbook_problem", symptom=case["symptom"]))]
    raise UserError(f"no instance has the id {key!r}; ids are in {run.splits}/*.jsonl")


def thought(run: Run, key: str) -> Iterator[Section]:
    """Yield the raw analysis and the thought that was made of it (figure 9)."""
    folder = stage1.folder(run)
    for row in rows(folder / "analyses.jsonl"):
        if row["id"] == key:
            yield "Raw analysis", row["analysis"]
    for row in rows(folder / "thoughts.jsonl"):
        if row["id"] == key:
            plan = row["thought"]
            text = prompts.render("thought_answer", overview=plan["problem_overview"], steps=plan["reasoning_steps"],
                                  challenges=plan["key_challenges"]) if isinstance(plan, dict) else plan
            yield f"High-level thought ({row['outcome']})", str(text)


def solutions(run: Run, key: str) -> Iterator[Section]:
    """Yield each model's solution, and the pair where it was corrected (figure 11)."""
    for path in sorted(run.dir.glob("datasets/*/*/solutions.jsonl")):
        for row in rows(path):
            if row["id"] == key:
                who = f"{path.parts[-3]}'s {run.solver(path.parts[-2])}"
                text = stage2.written(run, row) if row["steps"] is not None else str(row["text"])
                yield f"Solution by {who} ({row['outcome']})", text
    for path in sorted(run.dir.glob("datasets/*/*/corrections.jsonl")):
        for row in rows(path):
            if row["id"] == key:
                where = "/".join(path.parts[-3:-1])
                yield f"Correction for {where} ({row['outcome']})", row["chosen"] or row["text"] or ""


def case(run: Run, key: str) -> list[Section]:
    """Return all that the run has of an instance."""
    predicted = [(f"Answer of {who}", text) for who, _, text in answers(run, key)]
    return [*problem(run, key), *thought(run, key), *solutions(run, key), *predicted]


def choose(run: Run, model: str) -> list[str]:
    """Choose ids: a test instance on which answers differ (figure 1), a valid thought (9), a correction (11)."""
    items, labels = instances(run, "test"), dict[str, list[str | None]]()
    for _, key, text in answers(run):
        if key in items:
            labels.setdefault(key, []).append(parse_label(text, run.tasks()[items[key].task].labels))
    telling = (key for key, given in labels.items() if items[key].label in given and len(set(given)) > 1)
    plans, fixes = rows(stage1.folder(run) / "thoughts.jsonl"), rows(run.dataset(model, "dpo") / "corrections.jsonl")
    found = [next(telling, next(iter(labels), None)),
             next((row["id"] for row in plans if row["outcome"] == "valid"), None),
             next((row["id"] for row in fixes if row["chosen"]), None)]
    if not any(found):
        raise UserError(f"{run.dir}: no thought, correction or prediction; do: make thoughts, make dpo or make eval")
    return [key for key in found if key]


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    for key in [given.id] if given.id else choose(run, given.model):
        for heading, text in case(run, key):
            print(f"=== {escape_terminal(heading)}\n{escape_terminal(text, keep=chr(10))}\n")


def main() -> None:
    """Print cases."""
    arguments = cli.parser("eval.cases", "Print cases: problem, thought, each model's answer, preference pair.", """
python -m eval.cases --run demo --model tiny
python -m eval.cases --run demo --model tiny --id 1f0c5b6e""", required=["run", "model"])
    arguments.add_argument("--id", help="of an instance or handbook case; default: one for each of figures 1, 9 and 11")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
