"""Run another program with its output in a log file, and show its progress on one line.

A failure shows the path and the last lines of the log. With V=1 in the environment the output is shown instead.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from logreasoner import cli
from logreasoner.children import child, locked_log
from logreasoner.cli import UserError

TAIL = 15  # lines of the log that a failure shows
EVERY = 30.0  # seconds between lines of progress where the output is not a terminal


def exported(path: Path) -> dict[str, str]:
    """Read the variables that a shell file sets, of its lines `export NAME=VALUE`."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.removeprefix("export ").partition("=") for line in lines if line.startswith("export "))
    return {name: value for name, _, value in pairs}


def environment_of(path: Path) -> dict[str, str]:
    """Return this program's environment as a shell file of `export` and `unset` lines changes it."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    unset = {name for words in lines if words[:1] == ["unset"] for name in words}
    return {**{name: value for name, value in os.environ.items() if name not in unset}, **exported(path)}


def progress(pattern: str, since: float) -> str:
    """Return the progress of a training from LLaMA-Factory's trainer_log.jsonl (a glob pattern); "" before an entry."""
    for path in Path().glob(pattern):
        with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
            entry = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
            if path.stat().st_mtime >= since:
                loss = f", loss {entry['loss']:.4f}" if "loss" in entry else ""
                return (f"step {entry['current_steps']} of {entry['total_steps']}{loss}, "
                        f"{entry.get('remaining_time', '?')} left")
    return ""


class Line:
    """A line on standard error that is overwritten on a terminal and repeated every EVERY seconds elsewhere."""

    def __init__(self, title: str):
        self.title, self.terminal, self.written = title, sys.stderr.isatty(), 0.0

    def show(self, text: str, last: bool = False) -> None:
        """Show a state; the `last` one ends the line."""
        if self.terminal:
            print(f"\r\x1b[K{self.title}: {text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or time.monotonic() - self.written >= EVERY:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)
            self.written = time.monotonic()


def run(command: list[str], log: Path, title: str, environment: dict[str, str] | None, steps: str | None) -> None:
    """Run a command to its end. Raises UserError with the end of its log where it fails."""
    start, line = time.time(), Line(title)
    with locked_log(log) as stream, child(command, stream, environment, show=bool(os.environ.get("V"))) as process:
        line.show(f"started, log: {log}")
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            if steps and (state := progress(steps, start)):
                line.show(state)
    if process.returncode:
        tail = [] if os.environ.get("V") else log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        raise UserError("\n".join([f"{title}: {command[0]} ended with status {process.returncode}; the last lines of "
                                   f"{log}:", *tail]))
    seconds = round(time.time() - start)
    line.show(f"done in {seconds // 60}:{seconds % 60:02}" + (f" ({state})" if steps and (state := progress(
        steps, start)) else ""), last=True)


def _main(given: argparse.Namespace) -> None:
    cli.stop_on_sigterm()
    environment = environment_of(given.environment) if given.environment else None
    run(given.command, given.log, given.title or given.command[0], environment, given.steps)


def main() -> None:
    """Run a command with its output in a log."""
    arguments = cli.parser("logreasoner.logged", "Run a command with its output in a log file; show its progress.", """
python -m logreasoner.logged --log build/runs/paper/logs/dpo.log --title "training dpo" -- llamafactory-cli train F""")
    arguments.add_argument("--log", required=True, type=Path, help="appended to")
    arguments.add_argument("--title", help="what the lines begin with (default: the command)")
    arguments.add_argument("--environment", type=Path, help="a shell file of export and unset lines, for the command")
    arguments.add_argument("--steps", help="trainer_log.jsonl of LLaMA-Factory, as a glob pattern")
    arguments.add_argument("command", nargs="+", metavar="COMMAND", help="after --: the command and its arguments")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
