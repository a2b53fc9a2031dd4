"""Whether answers and results belong to what is there now: the test splits, the run's declaration, the weights."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.predictions import fixed
from logreasoner.cli import UserError
from logreasoner.config import Run, identity
from logreasoner.files import read_json, sha256
from logreasoner.weights import known


def split_hashes(run: Run) -> dict[str, str]:
    """SHA-256 of the files that hold a run's test instances and their labels."""
    return {name: sha256(run.splits / name) for name in ("test.jsonl", "test_seen.jsonl")}


def make_again(run: Run, name: str, stage: str) -> str:
    """What to do so that a model's result is made anew; answers that still count are not asked again."""
    first = f"remove {run.dir / 'predictions' / name / stage}, then " if fixed(run, name) else ""
    return f"{first}make eval RUN={run.name} MODEL={name} STAGE={stage}"


def check_answers(run: Run, name: str, stage: str, responses: Path) -> list[dict[str, Any]]:
    """Who gave the answers of a response file, by its manifest; [] without one (a file of the user's own).

    Raises UserError unless it answers the test splits that are there now, under the run's declaration, by the weights
    that are there now.
    """
    path = responses.with_name(responses.name + ".manifest.json")
    if not path.exists():
        return []
    again = make_again(run, name, stage)
    made = read_json(path)
    asked = [Path(file) for file in made["inputs"] if file.endswith(".requests.jsonl")]
    declared = [made, *(read_json(each) for file in asked if (each := Path(f"{file}.manifest.json")).exists())]
    inputs = {Path(file): checksum for each in declared for file, checksum in each["inputs"].items()}
    inputs[responses] = made["sha256"]
    for file, checksum in inputs.items():
        if file.exists() and sha256(file) != checksum:
            raise UserError(f"{responses}: {file} is not what it was when these answers were given; {again}")
    if any(each.get("identity", identity(run, name, stage)) != identity(run, name, stage) for each in declared):
        raise UserError(f"{responses}: was asked under other settings than {run.dir / 'run.json'} declares; {again}")
    check_weights(run, name, stage, made["answered_by"], responses, again)
    return list(made["answered_by"])


def described(by: Mapping[str, Any]) -> str:
    """Who gave answers, in words: an entry of `answered_by` in a result."""
    named = f" as {by['model']}" if by.get("model") else ""
    parts = [f"{by['address']}{named}" if "address" in by else "",
             f"{by['hub']} at {by['revision'][:12]}" if "hub" in by else "",
             by.get("folder", by.get("encoder", by.get("method", ""))),
             f"weights {by['weights'][:12]}" if "weights" in by else ""]
    return ", ".join(filter(None, parts)) + f" ({by['answers']:,} answers)"


def check_weights(run: Run, name: str, stage: str, by: Iterable[Mapping[str, Any]], where: Path, again: str) -> None:
    """Raise UserError where answers came from other weights of a trained stage than are there now."""
    there = {} if fixed(run, name) else known(run, name, stage)
    if there and any("weights" in each and each["weights"] != there["weights"] for each in by):
        raise UserError(f"{where}: is of other weights of {name}/{stage} than are there now, which were trained since; "
                        f"{again}")
