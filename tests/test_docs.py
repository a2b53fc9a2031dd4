"""What README and docs name exists: targets, modules, pages, folders, numbers; and requirements are pinned."""

import importlib
import re
import subprocess
import textwrap

import pytest

from logreasoner.answer_format import parse_trajectory
from logreasoner.files import ROOT

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, *PAGES]
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def all_text():
    return "\n".join(path.read_text() for path in DOCUMENTS)


def test_every_make_target_named_exists():
    commands = set(re.findall(r"(?:`|^ {4}|`DATA_MIRROR=\S+ )make (?:-n )?([a-z][\w-]*)", all_text(), re.MULTILINE))
    database = subprocess.run(["make", "-pn", "help"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert commands and commands <= set(re.findall(r"^([a-z][\w-]*):", database, re.MULTILINE))


def test_every_module_named_can_be_run():
    for module in sorted(set(re.findall(r"python -m ([a-z_]+(?:\.[a-z_0-9]+)+)", all_text()))):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    targets = {link for link in LINK.findall(document.read_text()) if "://" not in link}
    assert sorted(link for link in targets if not (document.parent / link).exists()) == []


def test_the_readme_is_short_and_links_every_page():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert {f"docs/{page.name}" for page in PAGES} <= set(LINK.findall(text))


@pytest.mark.parametrize("document", [README, ROOT / "docs" / "baselines.md"], ids=lambda path: path.name)
def test_measured_numbers_are_those_of_the_results(document):
    scores = set(re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", document.read_text()))
    results = (ROOT / "docs" / "results.md").read_text()
    assert scores and sorted(score for score in scores if score not in results) == []


def test_the_example_is_what_training_and_scoring_accept():
    """Solution and pair are in the answer format; the correction keeps the steps up to the flawed one, and it."""
    blocks = re.findall(r"(?:^    .*\n)+", README.read_text(), re.MULTILINE)
    solution = parse_trajectory(textwrap.dedent(blocks[1]), ["True", "False"])
    assert solution is not None and solution.answer == "True"
    lines = textwrap.dedent(blocks[2]).splitlines()
    right = lines[0].index("chosen")
    columns = [(line[:right], line[right:]) for line in lines]
    rejected, chosen = (parse_trajectory("\n".join(line.rstrip() for line in column[1:]), ["True", "False"])
                        for column in zip(*columns, strict=True))
    assert rejected is not None and chosen is not None
    assert (rejected.answer, chosen.answer) == ("False", "True")
    assert rejected.steps[:2] == chosen.steps[:2] and rejected.steps[2] != chosen.steps[2]


@pytest.mark.parametrize("path", re.findall(r"^    ([a-z_/]+/) ", README.read_text(), re.MULTILINE))
def test_the_map_shows_folders_that_exist(path):
    assert path == "build/" or (ROOT / path).is_dir()


@pytest.mark.parametrize("module", [
    "data_builders.selection", "data_builders.sessions", "eval.score", "logreasoner.generation.generate",
    "data_builders.stage1", "data_builders.recipes", "eval.tables", "eval.plan", "eval.audit", "eval.figures",
    "eval.matrix", "eval.baselines", "logreasoner.generation.costs"])
def test_help_has_examples(module, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [module, "--help"])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(module).main()
    assert stopped.value.code == 0 and "examples:" in capsys.readouterr().out


def test_requirements_are_pinned_and_name_no_host():
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            pinned = re.fullmatch(r"[\w.\[\]-]+==[\w.]+", line)
            assert pinned or not line or line.startswith("#"), f"{path.name}: {line}"
