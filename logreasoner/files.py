"""Write files whole or not at all, each output with a manifest of what made it; read JSON; hold locks."""

import codecs
import errno
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

from logreasoner.cli import UserError

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path("build")
EXPERIMENTS = ROOT / "experiments"
TEMPLATES = ROOT / "templates"
PROMPTS = ROOT / "prompts"
BUFFER = 1 << 18  # bytes written at once
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, quota or file size limit


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Name the file in the error of a full disk, where the system names none."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and not error.filename:
            error.filename = str(path)
        raise


@contextmanager
def locked(path: Path, message: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock file. Where another process holds it, print the message and wait, or raise it as a UserError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(f"{path} is held by {message}") from None
            print(f"{path} is held by {message}", file=sys.stderr, flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _temporary(path: Path) -> tuple[int, Path]:
    """Create a temporary file beside path, locked while its writer lives; remove stale ones."""
    temporary = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}\.tmp")
    for other in [other for other in path.parent.iterdir() if temporary.fullmatch(other.name)]:
        with suppress(OSError), open(other, "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other.unlink()
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with suppress(OSError):  # a file system without locks: then no file is taken for stale either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if Path(name).exists():  # else another writer removed it as stale before it was locked
            return descriptor, Path(name)
        os.close(descriptor)


def _manifest_of(output: Path) -> Path:
    return output.with_name(output.name + ".manifest.json")


@contextmanager
def writing(path: Path | str, mode: str = "w", inputs: Iterable[Path | str] | None = None, **facts: Any
            ) -> Iterator[IO[Any]]:
    """Open a temporary file beside path; rename it into place only if the block ends without an error.

    With `inputs` its manifest is written first, so that a file that exists has one; without, the manifest of the
    replaced file is removed. After a kill the temporary file stays, hidden, until path is written again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, temporary = _temporary(path)
    except OSError as error:
        error.filename = str(path)  # not the temporary name
        raise
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with naming(path), os.fdopen(descriptor, mode, BUFFER, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(0o644)  # mkstemp makes private files; these are ordinary ones
            if inputs is None:
                _manifest_of(path).unlink(missing_ok=True)
            else:
                write_json(_manifest_of(path), _manifest(path, sha256(temporary), inputs, facts))
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _line(record: Any) -> bytes:
    try:
        return orjson.dumps(record)
    except TypeError:  # text with lone surrogates, whole numbers over 64 bits, deep nesting: rare
        return json.dumps(record, separators=(",", ":")).encode()


def dump(record: Any) -> str:
    """Return one JSON line; lone surrogates are escaped, since no UTF-8 file can hold them."""
    return _line(record).decode()


def write_json(path: Path | str, value: Any, inputs: Iterable[Path | str] | None = None, **facts: Any) -> None:
    """Write one indented JSON document, with a manifest if `inputs` are given."""
    with writing(path, "w", inputs, **facts) as stream:
        stream.write(json.dumps(value, indent=2) + "\n")


def write_jsonl(path: Path | str, records: Iterable[Any], inputs: Iterable[Path | str] | None = None, **facts: Any
                ) -> int:
    """Write one JSON document a line, with a manifest if `inputs` are given; returns how many."""
    count = 0
    with writing(path, "wb", inputs, **facts) as stream:
        for record in records:
            stream.write(_line(record) + b"\n")
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
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                record = json.loads(text.decode("utf-8", "surrogatepass"))  # json would guess the encoding of bytes
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not valid JSON ({error}); fix or remove the line") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}:{number}: expected a JSON object, found {type(record).__name__}")
            yield number, record


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def hashing(path: Path | str) -> Iterator[Callable[[], str]]:
    """Compute a file's SHA-256 in a thread until the block ends; yield a function that waits for it."""
    from concurrent.futures import ThreadPoolExecutor

    stopped = threading.Event()

    def work() -> str:
        checksum, chunk = hashlib.sha256(), memoryview(bytearray(1 << 21))
        with open(path, "rb", buffering=0) as stream:
            # Reading and hashing release the GIL; large chunks, since this thread waits for it after each.
            while not stopped.is_set() and (size := stream.readinto(chunk)):
                checksum.update(chunk[:size])
        return checksum.hexdigest()

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(work).result
        finally:
            stopped.set()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hex, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def commit() -> str:
    """Return the checkout's commit, with "+changes" where the tree differs from it; "unknown" outside git."""
    try:
        head = subprocess.run(["git", "describe", "--always", "--abbrev=12", "--dirty=+changes"],
                              cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip()


def _relative(path: Path | str) -> str:
    """Return a path as manifests hold it: relative to the checkout where it lies in it."""
    path = Path(path)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def manifest(output: Path | str, inputs: Iterable[Path | str] | Mapping[Path | str, str], **facts: Any) -> None:
    """Write the manifest of a folder, or of a file whose facts are not known before it is written.

    <output>.manifest.json (in a folder: manifest.json) holds the inputs with checksums, the commit and `facts`.
    Inputs that are given with their SHA-256 are not read.
    """
    output = Path(output)
    target = output / "manifest.json" if output.is_dir() else _manifest_of(output)
    write_json(target, _manifest(output, None if output.is_dir() else sha256(output), inputs, facts))


def _manifest(output: Path, checksum: str | None, inputs: Iterable[Path | str] | Mapping[Path | str, str],
              facts: Mapping[str, Any]) -> dict[str, Any]:
    checksums = inputs if isinstance(inputs, Mapping) else {path: sha256(path) for path in inputs}
    return {"output": output.name, "sha256": checksum,
            "inputs": {_relative(path): value for path, value in checksums.items()}, "commit": commit(), **facts}


def up_to_date(output: Path, inputs: Iterable[Path | str], settings: Mapping[str, Any]) -> bool:
    """Tell from its manifest whether these inputs and settings made an output; if so, touch it, so that make agrees.

    For outputs that take long or differ when they are made again: inputs with new time stamps alone change nothing.
    """
    if not output.exists() or not _manifest_of(output).exists():
        return False
    made = read_json(_manifest_of(output))
    same: bool = (made.get("settings") == settings and made.get("sha256") == sha256(output)
            and made.get("inputs") == {_relative(path): sha256(path) for path in inputs})
    if same:
        output.touch()
    return same
