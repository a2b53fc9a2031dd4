"""What end-to-end tests share: a copy of the checkout with the environments that are there, and make in it."""

import os
import shutil
import subprocess

import pytest

from logreasoner.files import ROOT

ENVIRONMENTS = (".venv", ".venv-train", ".venv-serve")


@pytest.fixture(scope="session")
def make():
    """Run make in a folder, offline; returns the finished process with its output as text."""

    def run(folder, *arguments, seconds=1800):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        return subprocess.run(["make", *arguments], cwd=folder, env={**environment, "HF_HUB_OFFLINE": "1"},
                              capture_output=True, text=True, timeout=seconds)

    return run


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """Make a copy of the checkout without anything built, or skip where an environment is missing."""

    def copy(name):
        for environment in ENVIRONMENTS:
            if not (ROOT / environment / ".ready").exists():
                pytest.skip(f"no {environment}; `make test` makes it")
        folder = tmp_path_factory.mktemp(name) / "checkout"
        left_out = shutil.ignore_patterns(".git", "build", ".venv*", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, folder, ignore=left_out)
        for environment in ENVIRONMENTS:
            (folder / environment).symlink_to(ROOT / environment)
        return folder

    return copy
