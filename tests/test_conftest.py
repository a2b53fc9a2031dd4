"""What all tests rely on: data that is not there is skipped, and a test that hangs ends, with all that it started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from logreasoner.files import ROOT
from tests.conftest import running

PUBLIC = ("tests/test_instances.py", "tests/data_builders/test_normalise.py", "tests/data_builders/test_splits.py",
          "tests/eval/test_audit.py", "tests/e2e/test_baselines.py")
SHOW = "shown: ; @printenv DATA_MIRROR || echo unset"
HANGS = """
from tests.conftest import running

def test_hangs():
    with running(["bash", "-c", "echo $$ >child; exec sleep 600"], cwd={folder!r}) as process:
        process.wait()
"""


def plain(**variables):
    """The environment without a mirror and what a make above told, with the variables given."""
    above = ("DATA_MIRROR", "MAKE", "MFLAGS")
    return {**{key: value for key, value in os.environ.items() if not key.startswith(above)}, **variables}


def suite(*arguments, **variables):
    """Run pytest with the project's settings; returns the finished process."""
    return subprocess.run([sys.executable, "-m", "pytest", "-c", "pyproject.toml", *arguments], cwd=ROOT,
                          env=plain(**variables), capture_output=True, text=True, timeout=120)


def alive(pid):
    """Whether a process still runs; one that is killed needs a moment, and one that nobody waited for does not run."""
    deadline = time.monotonic() + 5
    try:
        while Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z":
            if time.monotonic() > deadline:
                return True
            time.sleep(0.05)
    except OSError:
        pass
    return False


@pytest.mark.parametrize("given", ["", "no-such-folder"])
def test_without_a_mirror_what_reads_the_public_data_is_skipped(given):
    done = suite("-m", "public", *PUBLIC, DATA_MIRROR=given)
    assert done.returncode == 0 and f"{len(PUBLIC)} skipped" in done.stdout and "passed" not in done.stdout, done.stdout


@pytest.mark.parametrize(("given", "shown"), [({}, "unset"), ({"DATA_MIRROR": "a folder"}, "a folder")])
def test_make_exports_a_mirror_only_where_one_is_given(given, shown):
    done = subprocess.run(["make", "--silent", "--eval", SHOW, "shown"], cwd=ROOT, env=plain(**given),
                          capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{shown}\n", done.stderr


def test_every_test_has_a_time_limit(request):
    assert 0 < float(request.config.getini("timeout")) <= 600


@pytest.fixture
def hangs(tmp_path):
    """A folder with a test that hangs; that writes its program's number to `child`."""
    (tmp_path / "test_hangs.py").write_text(HANGS.format(folder=str(tmp_path)))
    return tmp_path


def test_a_test_that_hangs_fails_in_time_and_leaves_nothing_behind(hangs):
    done = suite("--timeout", "2", str(hangs))
    assert done.returncode == 1 and "1 failed" in done.stdout and "Timeout" in done.stdout, done.stdout + done.stderr
    assert not alive((hangs / "child").read_text().strip())


def test_tests_that_are_killed_leave_nothing_behind(hangs):
    with running([sys.executable, "-m", "pytest", "-c", "pyproject.toml", str(hangs)], 60, cwd=ROOT, env=plain(),
                 stdout=subprocess.DEVNULL) as tests:
        while not (hangs / "child").exists() or not (child := (hangs / "child").read_text().strip()):
            assert tests.poll() is None
            time.sleep(0.05)
        tests.kill()
        assert not alive(child)


def test_a_program_that_heeds_nothing_is_killed_in_time_with_what_it_started():
    with running(["bash", "-c", "trap '' TERM; sleep 600 & echo $!; wait"], 1, stdout=subprocess.PIPE,
                 text=True) as process:
        child = process.stdout.readline()
        process.terminate()
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not alive(child.strip())
