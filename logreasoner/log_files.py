"""Find the files of logs, in folders and by patterns, and order the rotated parts of a log; follow a log that grows."""

import argparse
import glob
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from logreasoner.cli import UserError
from logreasoner.reading import BLOCK, PACKED, Log, Reading

POLL = 0.2  # seconds between two looks at a file that did not grow
ENDING = r"(?:\.(?:gz|bz2|xz|zst|zip))?"
DATE = r"(?P<date>\d{4}-?[01]\d-?[0-3]\d)(?P<more>(?:[-_.T]?\d{1,6})*)"
NUMBERED = re.compile(rf"(?P<base>.+?)\.(?P<number>\d{{1,3}}){ENDING}")  # app.log.1, app.log.2.gz
DATED = (re.compile(rf"(?P<base>.+?)[.-]{DATE}{ENDING}"),  # app.log-20260131.gz, app.log.2026-01-31
         re.compile(rf"(?P<base>.+?)[.-]{DATE}(?P<end>\.[A-Za-z]+){ENDING}"))  # app-2026-01-31.0.log
NEWEST = re.compile(rf"(?P<base>.+?){ENDING}")
SEVERAL = "several: files, folders, quoted patterns; rotated files (app.log.1) are parts of one log"
HELP = f"a log, also packed, or {SEVERAL}"
LOGS = re.compile(r"\.(log|txt|out|err|jsonl?|ndjson)$")


def find(given: Sequence[Path], notes: list[str]) -> list[tuple[Path, ...]]:
    """Return the files of each log, its oldest part first, the logs of a folder or a pattern in the order of names.

    A name with *, ? or [] that is no file is a pattern. `notes` receives what was left out of a folder, and which
    files are parts of one log. Raises UserError for what is not there, and for folders and patterns without a log.
    """
    files = dict.fromkeys(file for path in given for file in _files(path, notes))
    logs: defaultdict[Path, list[tuple[tuple[int, ...], Path]]] = defaultdict(list)
    for path in files:
        base, order = _part(path, files)
        logs[base].append((order, path))
    for base, parts in logs.items():
        parts.sort()
        for (order, path), (following, other) in zip(parts, parts[1:], strict=False):
            if order == following:
                raise UserError(f"{path} and {other} are the same part of {base.name}; give one of them")
        if len(parts) > 1:
            notes.append(f"{base}: is one log of the files {', '.join(path.name for _, path in parts)}, in this order")
    return [tuple(path for _, path in parts) for parts in logs.values()]


def logs(paths: Sequence[Path], given: argparse.Namespace, reading: Reading) -> list[Log]:
    """Return the logs that a command line names; where sessions are by id, all are one: an id may be in several."""
    notes: list[str] = []
    labels = getattr(given, "labels", None)  # may lie in the folder of the logs
    found = [parts for parts in find(paths, notes) if not (labels and labels.exists() and parts[-1].samefile(labels))]
    if not found:
        raise UserError(f"{labels}: is the file of the labels, and there is no other; name the log")
    if len(found) > 1 and (reading.session if given.session is None else given.session):
        notes.append(f"{len(found)} logs are read as one, in the order of their names, since sessions are by --session")
        found = [tuple(chain.from_iterable(found))]
    result = [Log(parts[-1], given.member, given.encoding, reading.encoding, usual=reading.member, earlier=parts[:-1])
              for parts in found]
    result[0].notes += notes
    return result


def _files(path: Path, notes: list[str]) -> list[Path]:
    if path.is_dir():
        found = [name for name in path.rglob("*")
                 if not any(part.startswith(".") or part.endswith("~") for part in name.relative_to(path).parts)]
    elif str(path) == "-" or path.exists():
        return [path]
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207, of any folder
    left_out: list[str] = []
    logs = [name for name in sorted(found) if name.is_file() and _is_log(name, left_out)]
    if not logs:
        reasons = "; ".join(left_out[:5]) or ("holds no file" if path.is_dir() else "no such file")
        reasons += "; of several give the folder, or a pattern in quotes" if " " in str(path) and not left_out else ""
        raise UserError(f"{path}: {reasons}")
    notes += [f"{reason}: left out" for reason in left_out]
    return logs


def _is_log(path: Path, reasons: list[str]) -> bool:
    """Tell whether a file begins as a log does; else add the reason."""
    try:
        with closing(Log(path).blocks()) as blocks:
            next(blocks, b"")
    except UserError as error:
        reasons.append(str(error))
    except OSError as error:
        reasons.append(f"{path}: {error.strerror}")
    else:
        return True
    return False


def _part(path: Path, files: dict[Path, None]) -> tuple[Path, tuple[int, ...]]:
    """Return the log that a file is a part of, and its place there: parts with a date, with a number, the newest."""
    for form in (NUMBERED, *DATED, NEWEST):
        if (match := form.fullmatch(path.name)) is None:
            continue
        found = match.groupdict()
        base = path.with_name(found["base"] + found.get("end", ""))
        if "date" in found:
            return base, (0, int(found["date"].replace("-", "")), *map(int, re.findall(r"\d+", found["more"])))
        if "number" not in found:
            return base, (2,)
        if LOGS.search(base.name) or base in files:  # else it may be a version, or an address
            return base, (1, -int(found["number"]))
    return path, (2,)


@dataclass
class Followed:
    """A file that grows, from its present end on, as `tail -F` reads it; also after it was rotated or emptied.

    One reading ends `wait` seconds after its first line, where no more lines are there; the next one goes on.
    """

    path: Path
    wait: float
    stream: BinaryIO = field(init=False)

    def __post_init__(self) -> None:
        """Open the file at the beginning of a line. Raises UserError for what is no plain file."""
        if not self.path.is_file():
            raise UserError(f"{self.path}: only a file can be followed; a pipe is read as it comes")
        if any(form.fullmatch(self.path.name) for form in DATED):
            raise UserError(f"{self.path}: has a date in its name, so the log goes on in another file; follow a link "
                            "to the newest one, or: tail -F FILE | ... --log -")
        self.stream = open(self.path, "rb")  # noqa: SIM115, it stays open
        head = self.stream.read(BLOCK)
        if head.startswith(PACKED) or re.search(b"\n\0|\0\n", head):
            raise UserError(f"{self.path}: is packed or UTF-16; only plain text can be followed")
        self.stream.seek(max(0, self.path.stat().st_size - BLOCK))
        unfinished = self.stream.read().rpartition(b"\n")[2]
        self.stream.seek(-len(unfinished), 2)

    def blocks(self) -> Iterator[bytes]:
        """Yield whole lines as they come, any number at once; the first of a reading may take for ever."""
        first, rest = 0.0, b""
        while True:
            block = self.stream.read(BLOCK)
            if not block and self._replaced():
                time.sleep(POLL)  # until what still writes to the old file has seen it too
                block = self.stream.read()
                block += b"" if (rest + block)[-1:] in (b"", b"\n") else b"\n"
                self.stream.close()
                self.stream = open(self.path, "rb")  # noqa: SIM115
            lines, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                first = first or time.monotonic()
                yield lines + newline
            elif not block:
                if first and time.monotonic() >= first + self.wait:
                    break
                time.sleep(POLL)
        self.stream.seek(-len(rest), 1)

    def _replaced(self) -> bool:
        """Tell whether the file is another one now, or shorter than what was read."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False  # between its rotation and its new beginning
        return not os.path.samestat(now, os.fstat(self.stream.fileno())) or now.st_size < self.stream.tell()
