"""What every test may use: a scratch copy of the working folder, which of the real programs are here, and a way to
start a program that ends with the test.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from logreasoner.files import ROOT

TRAIN = ROOT / ".venv-train" / "bin" / "python"
SERVE = ROOT / ".venv-serve" / "bin" / "python"
LIBC = ctypes.CDLL(None)
LONGEST = 3600  # seconds of a test that runs real programs: the first one pays for a module's `make demo`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="faults and fuzzing at full length (make test-long)")


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("long", max_examples=2_000, deadline=None)
    if config.getoption("--long"):
        settings.load_profile("long")
    for name in [name for name in os.environ if name.startswith("LOGREASONER_")]:
        del os.environ[name]  # a developer's own settings of make


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that read the public data, and give more time to real programs and to the long form of all."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "mirror" in fixtures:
            item.add_marker(pytest.mark.public)
        longer = item.get_closest_marker("e2e") or "train_python" in fixtures or config.getoption("--long")
        if longer and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONGEST))


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a fault test is wanted (make test-long)."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own as the current one: everything that goes under build/ lands there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own_place(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with declarations of its own."""
    from data_builders import new_task
    from logreasoner import config

    shutil.copytree(ROOT / "experiments", workdir / "experiments")
    for module in (config, new_task):
        monkeypatch.setattr(module, "EXPERIMENTS", workdir / "experiments")
    config.task.cache_clear()
    yield workdir
    config.task.cache_clear()


@pytest.fixture(scope="session")
def train_python() -> Path:
    """The training environment's Python, or skip."""
    if not (TRAIN.parent.parent / ".ready").exists():
        pytest.skip("no .venv-train; `make setup-train` makes it")
    return TRAIN


@pytest.fixture(scope="session")
def in_train(train_python: Path):
    """Run Python source in the training environment from the checkout; returns its standard output."""

    def run(source: str, *arguments: str, cwd: Path = ROOT) -> str:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run([str(train_python), "-c", source, *arguments], cwd=cwd, env=environment,
                              capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder with the public data, or skip."""
    given = os.environ.get("DATA_MIRROR", "")
    if not given or not (ROOT / given).is_dir():
        pytest.skip("DATA_MIRROR does not name a folder with the public data")
    return ROOT / given


@contextmanager
def running(command: Sequence[str | Path], seconds: float = 300, preexec_fn: Callable[[], object] = lambda: None,
            **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program that ends with the block: terminated, and killed with what it started if that does not suffice.

    It is killed after `seconds` too, so no wait for it or for its output needs a limit of its own.
    """

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):  # ignored where nohup put the tests into the background
            signal.signal(number, signal.SIG_DFL)
        if sys.platform == "linux":
            LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: where the tests are killed it ends too
        preexec_fn()

    process = subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, **options)
    late = threading.Timer(seconds, kill, [process])
    late.daemon = True
    late.start()
    try:
        yield process
    finally:
        late.cancel()
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):  # what it did not read
                if pipe:
                    pipe.close()


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a program and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def has(program: str) -> bool:
    """Whether a program is on PATH."""
    return shutil.which(program) is not None
