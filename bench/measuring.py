"""Time commands and functions, and make rows of the table."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from logreasoner.files import ROOT


class Row(NamedTuple):
    """One line of the table: what was measured, beside a peer or a limit measured in the same run.

    `met` says whether the target was met; None where there is no target, or nothing could be measured here.
    """

    what: str
    ours: str
    against: str
    ratio: str
    target: str
    met: bool | None


class Ran(NamedTuple):
    """A finished command: wall-clock seconds, peak resident memory of it (MiB), its standard output, CPU seconds."""

    seconds: float
    peak: float
    output: str
    cpu: float = 0


def ran(command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Ran:
    """Run a command to its end. Raises CalledProcessError with its output where it fails."""
    with tempfile.TemporaryFile() as stream:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=stream,
                                   stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        stream.seek(0)
        output = stream.read().decode(errors="replace")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return Ran(seconds, usage.ru_maxrss / 1024, output, usage.ru_utime + usage.ru_stime)


def alternately(times: int, *measured: Callable[[], Ran]) -> list[Ran]:
    """Return the fastest run of each function; they run in turns, so that other load slows all of them alike."""
    turns = [[function() for function in measured] for _ in range(times)]
    return [min(runs, key=lambda run: run.seconds) for runs in zip(*turns, strict=True)]


def ratio(ours: float, theirs: float, most: float, what: str, against: str, unit: str = "s") -> Row:
    """Make a row where less is better: ours should be at most `most` times theirs."""
    return Row(what, f"{ours:,.2f} {unit}", f"{against}: {theirs:,.2f} {unit}", f"{ours / theirs:.2f}",
               f"at most {most:g}", ours <= most * theirs)


def limit(value: float, most: float, what: str, unit: str) -> Row:
    """Make a row with a limit instead of a peer: value should be at most `most`."""
    return Row(what, f"{value:,.2f} {unit}", f"limit: {most:g} {unit}", f"{value / most:.2f}", "at most 1",
               value <= most)
