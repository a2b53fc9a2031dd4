"""A part of `make smoke` that changes with the day; the whole takes half an hour and is a target of its own.

SMOKE_PART=<number> runs a chosen part; the number is in the name of the test that failed.
"""

import csv
import datetime
import io
import os

import pytest

from logreasoner.config import models, stages
from logreasoner.files import read_json
from logreasoner.paper import grid

pytestmark = pytest.mark.e2e

TRAINED = sorted({(cell.model, cell.stage) for cell in grid() if cell.stage in stages()})
OTHERS = sorted({(cell.model, cell.stage) for cell in grid() if cell.model and cell.stage not in stages()
                 and models()[cell.model].kind != "open"})
PART = int(os.environ.get("SMOKE_PART") or datetime.date.today().toordinal()) % len(TRAINED)


@pytest.mark.parametrize("part", [PART])
def test_a_trained_cell_of_the_grid_and_all_that_need_no_training_here_run(part, checkout, make):
    folder, pairs = checkout("smoke"), [TRAINED[part], *OTHERS]
    done = make(folder, "smoke", "PARTS=" + " ".join(f"{model}/{stage}" for model, stage in pairs))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    run = folder / "build" / "runs" / "smoke"
    for model, stage in pairs:
        result = read_json(run / "results" / model / stage / "result.json")
        assert result["teacher"] == "scripted" and result["results"], (model, stage)
    listed = make(folder, "--silent", "matrix", "EXPERIMENT=smoke", "RUN=smoke", "FORMAT=csv").stdout
    states = {}
    for row in csv.DictReader(io.StringIO(listed)):
        states.setdefault(row["run"], set()).add(row["state"])
    for model, stage in pairs:
        assert states[f"make eval MODEL={model} STAGE={stage}"] == {"measured"}
