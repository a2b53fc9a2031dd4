"""What every test may use: a scratch copy of the working folder, and which of the real programs are here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from logreasoner.files import ROOT

TRAIN = ROOT / ".venv-train" / "bin" / "python"
SERVE = ROOT / ".venv-serve" / "bin" / "python"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="faults and fuzzing at full length (make test-long)")


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("long", max_examples=2_000, deadline=None)
    if config.getoption("--long"):
        settings.load_profile("long")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a fault test is wanted (make test-long)."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own as the current one: everything that goes under build/ lands there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def has(program: str) -> bool:
    """Whether a program is on PATH."""
    return shutil.which(program) is not None
