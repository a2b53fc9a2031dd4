"""Results with made-up scores, complete as eval.score writes them: readers of results refuse any others."""

from eval.provenance import split_hashes
from eval.score import NOTE
from logreasoner.config import identity
from logreasoner.files import write_json, write_jsonl


def write_result(run, model, stage, rows, by=()):
    """Write the result of a model of a declared run; where the run has no test splits, they are made, empty."""
    for path in (run.splits / "test.jsonl", run.splits / "test_seen.jsonl"):
        if not path.exists():
            write_jsonl(path, [])
    write_json(run.result(model, stage), {
        "run": run.name, "identity": identity(run, model, stage), "model": model, "stage": stage, "teacher": run.mark,
        "splits": split_hashes(run), "answered_by": list(by), "results": rows, "intervals": NOTE})
