"""The tables that docs/results.md prints come out again from the public data."""

import re

import pytest

from logreasoner.files import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.public]


def tables(markdown):
    """(heading of a table, heading of its test file) -> the table's lines."""
    parts = re.split(r"^#+ (.*)\n", markdown, flags=re.MULTILINE)
    result, sheet = {}, ""
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        if "the paper's Table" in title:
            sheet = title
        elif lines := [line for line in text.splitlines() if line.startswith("|")]:
            result[sheet, title] = lines
    return result


def test_the_tables_of_the_documents_come_out_again(mirror, checkout, make):
    folder = checkout("baselines")
    done = make(folder, "data", "baselines", "tables", f"DATA_MIRROR={mirror}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert max(map(len, done.stdout.partition('"published"')[2].splitlines())) <= 120
    made = tables((folder / "build" / "runs" / "paper" / "results" / "tables.md").read_text())
    assert sum(line.count("Baseline:") for lines in made.values() for line in lines if "disjoint" in line) >= 30
    printed = tables((ROOT / "docs" / "results.md").read_text())
    assert {key: printed.get(key) for key in made} == made
