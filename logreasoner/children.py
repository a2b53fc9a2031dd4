"""Start programs that end with this one, however it ends; what escapes holds its log, so that no second one starts."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from logreasoner.cli import UserError

SECONDS = 30  # from SIGTERM to SIGKILL
# Beside the command, and in another group, waits for the end of the pipe that only this program holds open: it ended
# without stopping the command. It inherits the lock that make holds on the run, so no other make starts before.
WATCH = """set -m
(trap '' TERM INT HUP; read -r -u "$1" && exit; kill -TERM -- -$$
 for ((i = 0; i < $2; i++)); do kill -0 -- -$$ 2>/dev/null || exit; sleep 1; done; kill -KILL -- -$$) &
shift 2; exec "$@"
"""


@contextmanager
def child(command: Sequence[str], log: IO[bytes] | None, environment: Mapping[str, str] | None = None,
          show: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a program in a session of its own; it ends with the block, or with this program.

    log: takes its output unless it is to `show`; None: it inherits this program's output.
    """
    watched, held = os.pipe()
    os.set_inheritable(watched, True)
    output = None if show else log
    process = subprocess.Popen(["bash", "-p", "-c", WATCH, "bash", str(watched), str(SECONDS), *command],
                               env=environment, stdin=log or subprocess.DEVNULL, stdout=output, stderr=output,
                               start_new_session=True, close_fds=False)
    os.close(watched)
    try:
        yield process
    finally:
        _stop(process)
        with suppress(BrokenPipeError):
            os.write(held, b"\n")
        os.close(held)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process that leads a group, then the group: by SIGTERM, then (or at a second Ctrl-C) by SIGKILL."""
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=SECONDS)
    finally:
        with suppress(ProcessLookupError):  # the usual case: the group ends soon
            os.killpg(process.pid, signal.SIGTERM if process.poll() is not None else signal.SIGKILL)
            for _ in range(100):
                os.killpg(process.pid, 0)
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def locked_log(path: Path) -> Iterator[IO[bytes]]:
    """Open a log for appending and lock it: whatever writes to it holds the lock while it lives.

    torchrun puts its workers into sessions of their own, which no signal to a group reaches. Raises UserError naming
    the processes that hold it, after waiting SECONDS for their end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as stream:
        for second in range(SECONDS + 1):
            with suppress(BlockingIOError):
                _lock(stream)
                break
            if not second:
                print(f"{path}: {_writers(path)} of an earlier start still write to it; waiting for their end",
                      file=sys.stderr, flush=True)
            time.sleep(1)
        else:
            raise UserError(f"{path}: {_writers(path)} of an earlier start still write to it, though what started them "
                            "has ended; end them (kill and their numbers), and run the same command again")
        yield stream


def _lock(stream: IO[bytes]) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _writers(path: Path) -> str:
    """Name the processes that have a file open."""
    numbers = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it ended, or is another user's
            if descriptor.readlink() == path.resolve():
                numbers.add(int(descriptor.parts[2]))
    return f"processes {', '.join(map(str, sorted(numbers - {os.getpid()})))}" if numbers else "processes"
