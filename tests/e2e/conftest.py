"""What end-to-end tests share: a copy of the checkout with the environments that are there, and make in it."""

import os
import shutil
import subprocess

import pytest

from logreasoner.files import ROOT
from tests.conftest import running

ENVIRONMENTS = (".venv", ".venv-train", ".venv-serve")


@pytest.fixture(scope="session")
def make():
    """Run make in a folder, offline, for at most `seconds`; returns the finished process with its output as text."""

    def run(folder, *arguments, seconds=1800):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        with running(["make", *arguments], seconds, cwd=folder, env={**environment, "HF_HUB_OFFLINE": "1"}, text=True,
                     stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    return run


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """Make a copy of the checkout without anything built, or skip where an environment is missing."""

    def copy(name, environments=ENVIRONMENTS):
        for environment in environments:
            if not (ROOT / environment / ".ready").exists():
                pytest.skip(f"no {environment}; `make test` makes it")
        folder = tmp_path_factory.mktemp(name) / "checkout"
        left_out = shutil.ignore_patterns(".git", "build", ".venv*", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, folder, ignore=left_out)
        for environment in environments:
            (folder / environment).symlink_to(ROOT / environment)
        return folder

    return copy
