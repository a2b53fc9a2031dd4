"""The tutorial's commands run as written, in order, offline on a CPU, in a copy of the checkout.

A block of commands is fenced as `sh`. One that comes after the line `<!-- not run: why -->` is left out.
"""

import os
import re
import subprocess

import pytest

from logreasoner.files import ROOT, read_json

pytestmark = pytest.mark.e2e

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```sh\n(.*?)```", re.DOTALL)
BLOCKS = [commands for left_out, commands in BLOCK.findall(TEXT) if not left_out]


def test_every_block_is_either_run_or_says_why_not():
    assert len(BLOCKS) >= 4 and TEXT.count("```sh") == len(BLOCK.findall(TEXT))
    for _, commands in BLOCK.findall(TEXT):
        assert not re.search(r"OPENAI_API_KEY|2xA100", commands) or commands not in BLOCKS


def test_the_tutorial_runs_as_written(checkout):
    folder = checkout("tutorial")
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith("MAKE") and key != "OPENAI_API_KEY"}
    said = []
    for block in BLOCKS:
        done = subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", block], cwd=folder, text=True,
                              env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, timeout=1800)
        assert done.returncode == 0, f"{block}\n{(done.stdout + done.stderr)[-4000:]}"
        said.append(done.stdout)
    assert "opposite labels: 2 left out" in said[0]
    run = folder / "build" / "runs" / "demo-disk-failures"
    assert (run / "models" / "tiny" / "dpo" / "model" / "config.json").exists()
    for stage in ("base", "dpo"):
        result = read_json(run / "results" / "tiny" / stage / "result.json")
        assert {row["task"] for row in result["results"]} == {"disk-failures"}
        assert sum(row["n"] for row in result["results"] if row["test_set"] == "all") == 47
    assert re.search(r"\b(healthy|failing)\b", said[-1]), "no verdict of the served model"
