"""Whoever is killed, nothing that was started goes on unnoticed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from logreasoner import children, logged
from logreasoner.cli import UserError
from logreasoner.files import ROOT
from tests.conftest import running

# A program with a child; both note their numbers. `deaf` does not obey SIGTERM, as vLLM while it starts.
FAMILY = """
import os, signal, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
time.sleep(600)
"""
STARTER = """
import sys, time
from logreasoner import children
children.SECONDS = 1
with children.child(sys.argv[1:], None) as process:
    process.wait()
"""
ESCAPED = "import os, time; os.fork() or (os.setsid(), time.sleep(600))"


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def alive(number):
    with suppress(OSError):
        return "Z" not in Path("/proc", number, "stat").read_text().rpartition(")")[2][:3]
    return False


@pytest.mark.parametrize("manners", ["polite", "deaf"])
def test_a_killed_programs_children_end_and_hold_its_lock_until_then(manners, tmp_path):
    """As make, which holds the run's lock by flock, and a program that is killed with it."""
    notes, lock = tmp_path / "notes", tmp_path / "lock"
    notes.mkdir()
    family = [sys.executable, "-c", FAMILY, str(notes), manners]
    with running(["flock", lock, sys.executable, "-c", STARTER, *family], cwd=ROOT) as make:
        assert wait_for(lambda: len(list(notes.iterdir())) == 2)
        os.killpg(make.pid, signal.SIGKILL)
        make.wait()
        subprocess.run(["flock", lock, "true"], check=True, timeout=60)
        assert not [path.name for path in notes.iterdir() if alive(path.name)]


def test_a_child_ends_with_the_block_and_all_that_it_started(tmp_path):
    with children.child([sys.executable, "-c", FAMILY, str(tmp_path)], None) as process:
        assert wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    assert process.returncode == -signal.SIGTERM
    assert not [path.name for path in tmp_path.iterdir() if alive(path.name)]


@pytest.mark.parametrize("shown", ["", "1"])
def test_what_escaped_holds_the_log_and_is_named(shown, tmp_path, monkeypatch, capfd):
    """As a worker of torchrun, which was killed: it would train on beside the next training."""
    monkeypatch.setattr(children, "SECONDS", 1)
    monkeypatch.setenv("V", shown)
    log, train = tmp_path / "logs" / "dpo.log", [sys.executable, "-c", ESCAPED]
    logged.run(train, log, "training dpo", None, None)
    with pytest.raises(UserError, match=r"dpo.log: processes (\d+) of an earlier start still write to it") as error:
        logged.run(train, log, "training dpo", None, None)
    assert "waiting for their end" in capfd.readouterr().err
    os.kill(int(str(error.value).split("processes ")[1].split()[0]), signal.SIGKILL)
    logged.run([sys.executable, "-c", "print('trained')"], log, "training dpo", None, None)


def test_a_program_that_failed_shows_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.delenv("V", raising=False)
    with pytest.raises(UserError, match=r"(?s)merging: no-such-program ended with status 127;.*not found"):
        logged.run(["no-such-program"], tmp_path / "log", "merging", None, None)
