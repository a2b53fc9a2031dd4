"""Results with made-up scores, complete as eval.score writes them: readers of results refuse any others; and worked
solutions of a run's examples, as its teacher would write them."""

import yaml

from eval.provenance import split_hashes
from eval.score import NOTE
from logreasoner import examples
from logreasoner.config import identity
from logreasoner.files import write_json, write_jsonl, writing
from logreasoner.instances import read_instances


def write_solutions(run):
    """Write worked solutions of the examples that a run on bundled or own data has in its splits."""
    solutions = {}
    for item in read_instances(run.splits / "examples.jsonl"):
        steps = [f"Read {item.text}.", "Judge what it tells."]
        solutions.setdefault(item.task, []).append({"id": item.id, "steps": steps, "answer": item.label})
    for name, rows in solutions.items():
        with writing(examples.written_file(run, name)) as stream:
            yaml.safe_dump({"examples": rows}, stream)


def write_result(run, model, stage, rows, by=()):
    """Write the result of a model of a declared run; where the run has no test splits, they are made, empty."""
    for path in (run.splits / "test.jsonl", run.splits / "test_seen.jsonl"):
        if not path.exists():
            write_jsonl(path, [])
    write_json(run.result(model, stage), {
        "run": run.name, "identity": identity(run, model, stage), "model": model, "stage": stage, "teacher": run.mark,
        "splits": split_hashes(run), "answered_by": list(by), "results": rows, "intervals": NOTE})
