"""The baseline rows that the documents print are what comes out of the public data."""

import pytest

from logreasoner.files import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.public]


def test_the_measured_rows_of_the_documents_come_out_again(mirror, checkout, make):
    folder = checkout("baselines")
    done = make(folder, "data", "baselines", "tables", f"DATA_MIRROR={mirror}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    made = (folder / "build" / "runs" / "paper" / "results" / "tables.md").read_text().splitlines()
    at = [number for number, line in enumerate(made) if line.startswith("| Baseline:")]
    rows = [line for number in at for line in (made[number], made[number + 1]) if " n=" in line]
    assert len(rows) >= 2 * 3
    printed = (ROOT / "docs" / "results.md").read_text().splitlines()
    assert [row for row in rows if row not in printed] == []
