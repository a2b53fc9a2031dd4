"""What the documents name exists: targets, modules, paths; and the repository names nothing of the machine it is on."""

import re
import subprocess

import pytest

from logreasoner.files import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def texts():
    return "\n".join(path.read_text() for path in DOCUMENTS)


def test_every_make_target_named_exists():
    commands = set(re.findall(r"(?:`|^ {4}|`DATA_MIRROR=\S+ )make (?:-n )?([a-z][\w-]*)", texts(), re.MULTILINE))
    database = subprocess.run(["make", "-pn", "help"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert commands and commands <= set(re.findall(r"^([a-z][\w-]*):", database, re.MULTILINE))


def test_every_module_named_can_be_run():
    for module in sorted(set(re.findall(r"python -m ([a-z_]+(?:\.[a-z_0-9]+)+)", texts()))):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


@pytest.mark.parametrize("path", re.findall(r"^    ([a-z_]+/) ", (ROOT / "README.md").read_text(), re.MULTILINE))
def test_the_map_shows_folders_that_exist(path):
    assert path == "build/" or (ROOT / path).is_dir()


@pytest.mark.parametrize(
    "module",
    [
        "data_builders.dpp",
        "data_builders.sessions",
        "eval.score",
        "logreasoner.generation.generate",
        "data_builders.stage1",
        "data_builders.recipes",
        "eval.tables",
        "eval.plan",
        "eval.audit",
        "eval.figures",
        "eval.matrix",
        "eval.baselines",
        "logreasoner.generation.costs",
    ],
)
def test_help_has_examples(module):
    done = subprocess.run([str(ROOT / ".venv" / "bin" / "python"), "-m", module, "--help"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0 and "examples:" in done.stdout


def test_requirements_are_pinned_and_name_no_host():
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            pinned = re.fullmatch(r"[\w.\[\]-]+==[\w.]+", line)
            assert pinned or not line or line.startswith("#"), f"{path.name}: {line}"
