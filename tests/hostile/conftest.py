"""What the tests with hostile input share: commands run as a user runs them, and a folder that nothing may leave."""

import shutil
import sys

import pytest
from hypothesis import HealthCheck, settings

from data_builders import new_task
from logreasoner import config
from logreasoner.files import ROOT

CACHED = (config.task, config.models, config.stages, config.hardware)


def some(count):
    """Return settings of a property: a number of examples, thirty times as many with --long."""
    long = settings().max_examples > 100  # the profile that tests/conftest.py loads
    return settings(max_examples=count * (30 if long else 1), deadline=None, suppress_health_check=[
        HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with declarations of its own, for all tests of a file."""
    folder = tmp_path_factory.mktemp("hostile") / "work"
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in (config, new_task):
            patch.setattr(module, "EXPERIMENTS", folder / "experiments")
        forget()
        yield folder
    forget()


def forget():
    """Let declarations be read again."""
    for function in CACHED:
        function.cache_clear()


@pytest.fixture(scope="session")
def command():
    """Run a module's command; returns 0, or what it stopped with. Any error but a user's comes through."""

    def run(module, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
            try:
                module.main()
            except SystemExit as stopped:
                return stopped.code or 0
        return 0

    return run


@pytest.fixture(scope="module")
def strays(place):
    """Lists the files in or beside the working folder that are neither declared nor built nor given."""
    known = {(place.name, part) for part in ("build", "experiments")}

    def unknown():
        return [str(path) for path in place.parent.rglob("*") if path.is_file()
                and path.relative_to(place.parent).parts[:2] not in known and not path.name.startswith("given.")]

    return unknown
