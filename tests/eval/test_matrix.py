"""The grid has a command for every published number, and knows what a run has of it."""

import csv
import io
import os
import subprocess
import sys

import pytest

from eval import matrix
from eval.score import summary
from logreasoner.config import Run, declare, models, resolve, stages, task
from logreasoner.files import ROOT, read_json
from logreasoner.paper import grid, published
from tests.results import write_result

RCA = "root_cause_analysis"


@pytest.fixture
def run(workdir) -> Run:
    return declare("t", resolve("paper", []))


def result(run: Run, model: str, stage: str, *keys: tuple[str, str]) -> None:
    """A result file with a made-up confusion matrix for each (task, source)."""
    rows = []
    for name, source in keys:
        rules = task(name)
        counts = [[1] * (len(rules.labels) + 1) for _ in rules.labels]
        scored = summary(counts, rules)
        lenient = {"counts": counts, **scored}
        rows += [{"task": name, "source": source, "test_set": test_set, **scored, "whole": scored["n"],
                  "lenient": lenient}
                 for test_set in ("disjoint", "all")]
    write_result(run, model, stage, rows)


def command(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["eval.matrix", "--run", "t", *arguments])
    matrix.main()
    return capsys.readouterr().out


def states(monkeypatch, capsys, *arguments: str) -> dict[tuple[str, str, str, str], str]:
    rows = csv.DictReader(io.StringIO(command(monkeypatch, capsys, "--format", "csv", *arguments)))
    return {(row["table"], row["row"], row["dataset"], row["metric"]): row["state"] for row in rows}


def test_every_table_and_figure_of_the_paper_is_in_the_grid():
    assert list(dict.fromkeys(cell.table for cell in grid())) == [
        "table1", "table2", "table3", "table4", "table5",
        "figure4", "figure5", "figure6", "figure7", "figure8", "figure10"]


def test_no_cell_comes_twice_and_every_one_has_a_command():
    cells = grid()
    assert len({(cell.table, cell.row, cell.dataset, cell.metric) for cell in cells}) == len(cells)
    assert all(cell.command.startswith("make ") for cell in cells)


def test_every_published_number_is_in_the_grid():
    """Counted from tables.yaml alone: a number without a command is a number nobody can check."""
    declared = published()
    texts = [text for table in declared.tables for cells in table.published.values() for text in cells]
    printed = [cell for cell in grid() if cell.table in ("table3", "table4", "table5") and cell.published]
    assert len(printed) == sum(len(text.split(" / ")) for text in texts) == 450
    counts = declared.data_tables["table1"]["rows"]
    assert sum(cell.table == "table1" for cell in grid()) == sum(row[key] is not None for row in counts
                                                                 for key in ("sft", "dpo"))
    sizes = declared.data_tables["table2"]["rows"]
    assert sum(cell.table == "table2" for cell in grid()) == sum(map(len, sizes.values()))
    for figure in declared.figures:
        cells = {(cell.row, cell.dataset) for cell in grid(f"figure{figure.number}") if cell.published}
        assert len(cells) >= len(figure.stated)


def test_make_knows_every_command_of_the_grid():
    """`make -n` accepts each (model, stage): the Makefile's lists agree with models.yaml and stages.yaml."""
    trained = sorted({cell.stage for cell in grid() if cell.stage in stages()})
    for stage in trained:
        done = subprocess.run(["make", "-n", "train", "MODEL=llama3.1-8b", f"STAGE={stage}", "RUN=nobody"], cwd=ROOT,
                              capture_output=True, text=True, check=False)
        assert f"train finish --run nobody --model llama3.1-8b --stage {stage}" in done.stdout, done.stderr
    database = subprocess.run(["make", "-pn", "help"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    lists = {line.split()[0]: sorted(line.split()[2:]) for line in database.splitlines() if " := " in line}
    assert lists["API"] == sorted(name for name, row in models().items() if row.kind == "api")
    assert lists["PACKAGED"] == sorted(name for name, row in models().items() if row.package)


def test_a_cell_is_measured_only_if_all_its_test_sets_are(run, monkeypatch, capsys):
    result(run, "llama3.1-8b", "dpo", (RCA, "huawei-switches"), ("anomaly_detection", "bgl-2k"))
    result_of = states(monkeypatch, capsys)
    ours, mean = "logreasoner-llama3.1-8b", ("figure7", "llama3.1-8b full", f"{RCA}/mean", "accuracy")
    assert result_of["table3", ours, f"{RCA}/huawei-switches", "accuracy"] == "measured"
    assert result_of["table3", ours, "anomaly_detection/bgl", "f1"] == "published"  # a sample is not BGL
    assert result_of[mean] == "published"  # routers are missing
    assert result_of["table3", "tfidf-lr", f"{RCA}/huawei-switches", "accuracy"] == "not run"
    result(run, "llama3.1-8b", "dpo", (RCA, "huawei-switches"), (RCA, "huawei-routers"))
    assert states(monkeypatch, capsys)[mean] == "measured"


def test_what_is_open_is_listed_once_and_the_count_is_printed(run, monkeypatch, capsys):
    result(run, "gpt-4o", "base", ("root_cause_analysis", "huawei-security"), ("potential_failure_prediction",
           "huawei-security"), ("potential_failure_prediction", "h3c-security"))
    assert command(monkeypatch, capsys, "--only", "figure4", "--format", "open") == (
        "llama3.1-8b base\nllama3.1-8b cot-sft\nllama3.1-8b dpo\n")
    assert command(monkeypatch, capsys, "--only", "figure4", "--models", "qwen2.5-7b", "--format", "open") == (
        "qwen2.5-7b base\nqwen2.5-7b cot-sft\nqwen2.5-7b dpo\n")
    assert "cells run / cells declared: 2 / 8" in command(monkeypatch, capsys, "--only", "figure4")


def test_require_fails_while_a_cell_is_open(run, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="8 of 8 cells have no result"):
        command(monkeypatch, capsys, "--only", "figure4", "--require")


def test_an_unknown_table_is_named(run, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="unknown table or figure 'table9'; there are table1"):
        command(monkeypatch, capsys, "--only", "table9")


def test_a_run_says_which_source_stands_for_the_papers(workdir, monkeypatch, capsys):
    run = declare("t", resolve("smoke", []))
    result(run, "bert", "classifier", ("anomaly_detection", "atlas"))
    assert read_json(run.dir / "results" / "bert" / "classifier" / "result.json")["teacher"] == "scripted"
    assert states(monkeypatch, capsys)["table3", "bert", "anomaly_detection/bgl", "f1"] == "measured"


FAKE_PYTHON = """#!/bin/sh
case "$*" in
*eval.matrix*) printf 'first base\\nsecond base\\nthird base\\n' ;;
*eval.tables* | *eval.figures*) echo "drawn" ;;
esac
"""
FAKE_MAKE = """#!/bin/sh
case "$*" in *MODEL=second*) echo "error: no weights" >&2; exit 2 ;; *) echo "scored $*" ;; esac
"""


@pytest.mark.parametrize("goal", ["table3", "figure4"])
def test_a_row_that_cannot_run_stops_neither_the_others_nor_the_drawing(tmp_path, goal):
    for name, text in (("python", FAKE_PYTHON), ("make", FAKE_MAKE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(["make", f"{goal}.now", f"PY={tmp_path}/python", f"MAKE={tmp_path}/make", f"D={tmp_path}/run",
                           f"CORE={tmp_path}/python", "RUN=never-made"], cwd=ROOT, env=environment, capture_output=True,
                          text=True, timeout=60)
    assert [line.partition(" STAGE")[0] for line in done.stdout.splitlines()] == [
        "scored eval.now MODEL=first", "scored eval.now MODEL=third", "drawn"]
    assert done.returncode != 0 and "error: no weights" in done.stderr
    assert "error: not run, for the reasons above: second/base; the others are drawn" in done.stderr
