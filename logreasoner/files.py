"""Files appear whole or not at all, and each output says what made it."""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from logreasoner.cli import UserError

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path("build")
EXPERIMENTS = ROOT / "experiments"
TEMPLATES = ROOT / "templates"
PROMPTS = ROOT / "prompts"


@contextmanager
def writing(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside path and rename it into place only if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with os.fdopen(descriptor, mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp makes private files; these are ordinary ones
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def dump(record: Any) -> str:
    """One JSON line; unpaired surrogates are escaped, since no UTF-8 file can hold them."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(record)
    return line


def write_json(path: Path | str, value: Any) -> None:
    """Write one indented JSON document."""
    with writing(path) as stream:
        stream.write(json.dumps(value, indent=2) + "\n")


def write_jsonl(path: Path | str, records: Iterable[Any]) -> int:
    """Write one JSON document a line; returns how many."""
    count = 0
    with writing(path) as stream:
        for record in records:
            stream.write(dump(record) + "\n")
            count += 1
    return count


def read_json(path: Path | str) -> Any:
    """Read one JSON document. Raises UserError naming the file and the place."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_jsonl(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for each line that is not blank. Raises UserError naming file and line."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not valid JSON ({error}); mend or remove the line") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}:{number}: expected a JSON object, found {type(record).__name__}")
            yield number, record


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def commit() -> str:
    """The checkout's commit, with "+changes" where the tree differs from it; "unknown" outside git."""
    try:
        head = subprocess.run(["git", "describe", "--always", "--abbrev=12", "--dirty=+changes"],
                              cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip()


def manifest(output: Path | str, inputs: Iterable[Path | str], **facts: Any) -> None:
    """Write <output>.manifest.json (in a folder: manifest.json): inputs with checksums, commit, and the facts given."""
    output = Path(output)
    target = output / "manifest.json" if output.is_dir() else output.with_name(output.name + ".manifest.json")
    write_json(target, {
        "output": output.name,
        "sha256": None if output.is_dir() else sha256(output),
        "inputs": {str(path): sha256(path) for path in inputs},
        "commit": commit(),
        **facts,
    })
