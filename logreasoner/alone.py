"""One at a time: hold a lock file while something runs; a second one says so and waits.

make starts itself through this for what it builds into a run (Makefile, "one make at a time"). The lock belongs to the
open file, which the command and what it starts inherit: it is free again when the last of them has ended, whoever was
killed, and no file has to be removed.
"""

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logreasoner import cli


@contextmanager
def holding(path: Path, whose: str = "") -> Iterator[int]:
    """Hold the lock file, waiting for it if need be; yields its descriptor. `whose` is told to those who wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = cli.plain(stream.read(500))
            print(f"{path} is held by {holder}; waiting until that, and what it started, has ended", file=sys.stderr,
                  flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        with suppress(OSError):  # a full disk keeps nobody from waiting
            os.ftruncate(stream.fileno(), 0)
            os.write(stream.fileno(), f"process {os.getpid()}{': ' if whose else ''}{whose}".encode())
        yield stream.fileno()


def _main(given: argparse.Namespace) -> None:
    with holding(given.lock, given.whose) as descriptor:
        os.set_inheritable(descriptor, True)
        os.execvp(given.command[0], given.command)


def main() -> None:
    """Become a command that holds a lock."""
    arguments = cli.parser("logreasoner.alone", "Run a command while no other one holds the same lock.", """
python -m logreasoner.alone --lock build/locks/paper -- make dpo HELD=paper""")
    arguments.add_argument("--lock", required=True, type=Path, help="the file to hold; made if it is not there")
    arguments.add_argument("--whose", default="", help="what those who wait are told")
    arguments.add_argument("command", nargs="+", metavar="COMMAND", help="after --: what to run, and its arguments")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
