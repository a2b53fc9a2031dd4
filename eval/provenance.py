"""Check that answers and results belong to the present test splits, declaration of the run and weights."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.predictions import fixed
from logreasoner.cli import UserError
from logreasoner.config import Run, identity
from logreasoner.files import read_json, sha256
from logreasoner.weights import known


def split_hashes(run: Run) -> dict[str, str]:
    """Hash the files that hold a run's test instances and their labels (SHA-256)."""
    return {name: sha256(run.splits / name) for name in ("test.jsonl", "test_seen.jsonl")}


def make_again(run: Run, name: str, stage: str) -> str:
    """Return the commands that make a model's result anew; answers that are still valid are kept."""
    first = f"remove {run.dir / 'predictions' / name / stage}, then " if fixed(run, name) else ""
    return f"{first}make eval RUN={run.name} MODEL={name} STAGE={stage}"


def check_answers(run: Run, name: str, stage: str, responses: Path) -> list[dict[str, Any]]:
    """Return who gave the answers of a response file, by its manifest; [] without one (a file from elsewhere).

    Raises UserError unless it answers the present test splits, under the run's declaration, by the present weights.
    """
    path = responses.with_name(responses.name + ".manifest.json")
    if not path.exists():
        return []
    again = make_again(run, name, stage)
    manifest = read_json(path)
    if not (isinstance(manifest, dict) and {"inputs", "sha256", "answered_by"} <= manifest.keys()):
        raise UserError(f"{path}: is no manifest of answers that this project asked for; without it, {responses} is "
                        "taken as a file from elsewhere")
    requests = [Path(f"{file}.manifest.json") for file in manifest["inputs"] if file.endswith(".requests.jsonl")]
    manifests = [manifest, *(read_json(file) for file in requests if file.exists())]
    inputs = {Path(file): checksum for row in manifests for file, checksum in row["inputs"].items()}
    inputs[responses] = manifest["sha256"]
    for file, checksum in inputs.items():
        if file.exists() and sha256(file) != checksum:
            raise UserError(f"{responses}: {file} is not what it was when these answers were given; {again}")
    declared = identity(run, name, stage)
    if any(row.get("identity", declared) != declared for row in manifests):
        raise UserError(f"{responses}: was made with other settings than {run.dir / 'run.json'} declares; {again}")
    check_weights(run, name, stage, manifest["answered_by"], responses, again)
    return list(manifest["answered_by"])


def described(by: Mapping[str, Any]) -> str:
    """Describe who gave answers: an entry of `answered_by` in a result, in words."""
    named = f" as {by['model']}" if by.get("model") else ""
    parts = [f"{by['address']}{named}" if "address" in by else "",
             f"{by['hub']} at {by['revision'][:12]}" if "hub" in by else "",
             by.get("folder", by.get("encoder", by.get("method", ""))),
             f"weights {by['weights'][:12]}" if "weights" in by else ""]
    return ", ".join(filter(None, parts)) + f" ({by['answers']:,} answers)"


def check_weights(run: Run, name: str, stage: str, by: Iterable[Mapping[str, Any]], where: Path, again: str) -> None:
    """Raise UserError where answers came from other weights of a trained stage than the present ones."""
    present = {} if fixed(run, name) else known(run, name, stage)
    if present and any("weights" in row and row["weights"] != present["weights"] for row in by):
        raise UserError(f"{where}: is of other weights of {name}/{stage} than are there now, which were trained since; "
                        f"{again}")
