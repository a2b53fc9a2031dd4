import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from eval import score, tables
from logreasoner.config import Run, declare, models, resolve, task
from logreasoner.files import read_json, write_json, write_jsonl

DECLARED = tables.published()


def each_cell() -> list[tuple[tables.Table, str, tables.Column, dict[str, float]]]:
    return [(table, row, column, dict(zip(column.metrics, map(float, text.split(" / ")), strict=True)))
            for table in DECLARED.tables for row, texts in table.published.items()
            for column, text in zip(table.columns, texts, strict=True)]


def test_the_published_tables_are_complete() -> None:
    """15 methods; 3 and 5: 10 and 12 numbers a row, 4: 8; (+X) for three rows of four columns in each."""
    assert all(list(table.published) == list(DECLARED.rows) for table in DECLARED.tables)
    numbers = [sum(len(cell) for other, *_, cell in each_cell() if other is table) for table in DECLARED.tables]
    assert numbers == [15 * 10, 15 * 8, 15 * 12]
    assert [sum(map(len, table.gains.values())) for table in DECLARED.tables] == [12, 12, 12]
    printed = [part for table in DECLARED.tables for texts in table.published.values()
               for text in texts for part in text.split(" / ")]
    assert all(re.fullmatch(r"\d{1,2}\.\d{2}|100\.0", number) for number in printed)


def test_every_row_names_something_that_exists() -> None:
    for row in DECLARED.rows.values():
        assert row.base is None or row.base in DECLARED.rows
        assert row.filled_by is None or row.filled_by.model in models()
    for *_, column, cell in each_cell():
        assert list(cell) == task(column.task).metrics and column.gain in column.metrics


def test_one_published_f1_contradicts_its_precision_and_recall() -> None:
    """Printed digits may be truncated or rounded: each stands for [x - 0.005, x + 0.01)."""
    wrong = []
    for table, row, column, cell in each_cell():
        if "f1" in cell:
            low, high = (2 * p * r / (p + r) for p, r in ((cell["precision"] + by, cell["recall"] + by)
                                                          for by in (-0.005, 0.01)))
            if not (cell["f1"] - 0.005 <= high and low <= cell["f1"] + 0.01):
                wrong.append((table.number, row, column.source, cell["f1"], round((low + high) / 2, 2)))
    assert wrong == [(5, "qwen2.5-1.5b", "h3c-routers", 64.19, 63.27)]


def test_seven_of_the_printed_gains_are_not_the_difference_of_their_rows() -> None:
    cells = {(table.number, row, column.source, column.task): cell for table, row, column, cell in each_cell()}
    wrong = []
    for table in DECLARED.tables:
        for row, gains in table.gains.items():
            for column, gain in zip(table.columns, gains, strict=True):
                base = DECLARED.rows[row].base or ""
                ours, theirs = (cells[table.number, name, column.source, column.task] for name in (row, base))
                difference = ours[column.gain] - theirs[column.gain]
                if abs(difference - float(gain)) > 0.15:
                    wrong.append((table.number, row, column.source, gain, f"{difference:+.2f}"))
    assert wrong == [
        (4, "logreasoner-qwen2.5-1.5b", "huawei-switches", "+12.2", "+13.22"),
        (4, "logreasoner-qwen2.5-1.5b", "huawei-routers", "+13.4", "+12.45"),
        (4, "logreasoner-qwen2.5-7b", "huawei-routers", "+9.8", "+6.78"),
        (4, "logreasoner-llama3.1-8b", "huawei-routers", "+4.5", "+3.58"),
        (5, "logreasoner-qwen2.5-1.5b", "h3c-switches", "+11.7", "+13.26"),
        (5, "logreasoner-qwen2.5-1.5b", "h3c-routers", "+14.4", "+6.73"),
        (5, "logreasoner-llama3.1-8b", "huawei-routers", "+5.3", "+3.16"),
    ]


def make_run(name: str, scripted: bool = False) -> Run:
    """A run with one anomaly detection source (3 of 4 abnormal, and one seen) and one of root causes."""
    experiment = resolve("paper", [])
    teacher = experiment.teacher.model_copy(update={"scripted": scripted})
    run = declare(name, experiment.model_copy(update={"teacher": teacher}))
    labels = [("anomaly_detection", "bgl", "abnormal")] * 3 + [("anomaly_detection", "bgl", "normal")] + [
        ("root_cause_analysis", "huawei-security", "EventTrap")]
    write_jsonl(run.pools / "test.jsonl", (
        {"id": f"t{at}", "task": task_name, "source": source, "log": str(at), "label": label}
        for at, (task_name, source, label) in enumerate(labels)))
    write_jsonl(run.pools / "test_seen.jsonl", [
        {"id": "s0", "task": "anomaly_detection", "source": "bgl", "log": "seen", "label": "abnormal"}])
    return run


def evaluate(run: Run, model: str, stage: str, *answers: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Score a model whose answers to t0 .. t4 and s0 are given."""
    write_jsonl("R.jsonl", ({"custom_id": key, "error": None, "response": {"status_code": 200, "body": {
        "choices": [{"message": {"content": f"<answer>{answer}</answer>"}}]}}}
        for key, answer in zip(["t0", "t1", "t2", "t3", "t4", "s0"], answers, strict=True)))
    out = run.dir / "results" / model / stage / "result.json"
    monkeypatch.setattr(sys, "argv", ["eval.score", "--run", run.name, "--model", model, "--stage", stage,
                                      "--responses", "R.jsonl", "--out", str(out)])
    score.main()
    return out


ANSWERS = ("abnormal", "abnormal", "normal", "what?", "EventTrap", "abnormal")


def command(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    monkeypatch.setattr(sys, "argv", ["eval.tables", "--run", run.name, "--out", "out"])
    tables.main()
    with open("out/tables.csv", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def only(found: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    rows = [row for row in found if all(row[key] == value for key, value in wanted.items())]
    assert len(rows) == 1, rows
    return rows[0]


def test_score_run_scores_what_is_disjoint_and_all(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = read_json(evaluate(make_run("toy"), "qwen2.5-7b", "dpo", *ANSWERS, monkeypatch=monkeypatch))
    assert (result["run"], result["model"], result["stage"], result["teacher"]) == ("toy", "qwen2.5-7b", "dpo", "model")
    shown = [(row["task"], row["source"], row["test_set"], row["n"], row["unparsed"]) for row in result["results"]]
    assert shown == [("anomaly_detection", "bgl", "disjoint", 4, 1), ("anomaly_detection", "bgl", "all", 5, 1),
                     ("root_cause_analysis", "huawei-security", "disjoint", 1, 0),
                     ("root_cause_analysis", "huawei-security", "all", 1, 0)]


def test_without_results_everything_is_not_run(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = command(make_run("toy"), monkeypatch)
    assert {row["state"] for row in found} == {"not run"}
    assert sum(row["test_set"] == "all" and row["published"] != "" for row in found) == 15 * 30
    assert only(found, table="3", row="bert", column="anomaly_detection/bgl", metric="recall",
                test_set="all")["published"] == "100.0"


def test_measured_stands_beside_published_with_floors(workdir: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("toy")
    evaluate(run, "qwen2.5-7b", "dpo", *ANSWERS, monkeypatch=monkeypatch)
    evaluate(run, "qwen2.5-7b", "thought-sft", *ANSWERS, monkeypatch=monkeypatch)
    capsys.readouterr()
    found = command(run, monkeypatch)
    cell = {"table": "3", "column": "anomaly_detection/bgl", "metric": "recall", "test_set": "disjoint"}
    ours = only(found, **cell, row="logreasoner-qwen2.5-7b")
    assert ours["published"] == "95.35" and ours["state"] == "measured"
    assert (ours["value"], ours["n"], ours["unparsed"]) == ("66.6667", "4", "1")
    assert 0 < float(ours["low"]) < 66.6667 < float(ours["high"]) < 100
    assert only(found, **cell, row="qwen2.5-7b/thought-sft")["published"] == ""  # a row the paper lacks
    assert only(found, **cell, row="floor: always the positive class")["value"] == "100.0000"
    assert only(found, **cell, row="floor: majority class")["state"] == "floor"
    markdown = Path("out/tables.md").read_text()
    assert markdown in capsys.readouterr().out
    assert "| published | 60.87 / 95.35 / 74.31 (+24.7) |" in markdown
    cells = r"\| disjoint \| 100\.0 \[34\.2, 100\.0\] / 66\.7 \[.*?\] / 80\.0 \[.*?\] n=4 u=1 \| not run \|"
    assert re.search(cells, markdown)
    assert "root_cause_analysis huawei-security" in markdown


def test_markdown_and_latex_rows_have_all_their_columns(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("toy")
    evaluate(run, "qwen2.5-7b", "base", *ANSWERS, monkeypatch=monkeypatch)
    command(run, monkeypatch)
    markdown = [line for line in Path("out/tables.md").read_text().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in markdown} == {7}
    latex = Path("out/tables.tex").read_text()
    body = [line for line in latex.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert {line.count("&") for line in body} == {5}
    assert latex.count("\\begin{table*}") == latex.count("\\end{table*}") == latex.count("\\bottomrule") == 3
    assert latex.count("{") == latex.count("}")


@pytest.mark.parametrize(("text", "escaped"), [("50% & a_b", r"50\% \& a\_b"), ("\\x{y}", r"\textbackslash{}x\{y\}")])
def test_latex_is_escaped(text: str, escaped: str) -> None:
    run: Any = type("Run", (), {"name": text})
    assert f"% Run {escaped}." in tables.render("tables.tex.j2", run=run, scripted=False, sheets=[])


def test_a_scripted_teacher_gets_a_demo_table_and_no_published_number(workdir: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("toy", scripted=True)
    with pytest.raises(SystemExit, match="no results yet"):
        command(run, monkeypatch)
    for stage in ("base", "dpo"):
        evaluate(run, "tiny", stage, *ANSWERS, monkeypatch=monkeypatch)
    found = command(run, monkeypatch)
    assert {row["table"] for row in found} == {"demo"} and {row["published"] for row in found} == {""}
    assert list(dict.fromkeys(row["row"] for row in found)) == [
        "tiny/base", "tiny/thought-sft", "tiny/solution-sft", "tiny/dpo", "floor: majority class",
        "floor: always the positive class"]
    cell = {"column": "anomaly_detection", "metric": "f1", "test_set": "all"}
    assert only(found, **cell, row="tiny/dpo")["n"] == "5"
    assert only(found, **cell, row="tiny/thought-sft")["state"] == "not run"
    for name in ("tables.md", "tables.tex"):
        text = Path("out", name).read_text()
        assert "scripted teacher" in text.lower() and "tiny" in text
        assert "published |" not in text and "95.35" not in text and "Table 3" not in text.replace("Tables 3-5", "")


def test_sources_are_pooled_by_adding_their_matrices() -> None:
    rules = task("anomaly_detection")
    rows = [tables.Scored(task=rules.name, source=source, test_set="all", **score.summary(matrix, rules))
            for source, matrix in (("a", [[1, 2, 0], [0, 3, 1]]), ("b", [[4, 0, 0], [1, 1, 0]]))]
    total = tables.pooled(rows)
    assert (total.n, total.unparsed, total.confusion["counts"]) == (13, 1, [[5, 2, 0], [1, 4, 1]])


@pytest.mark.parametrize(("change", "said"), [
    ({"teacher": "scripted"}, "its teacher is 'scripted', here it must be 'model'"),
    ({"run": "other"}, "its run is 'other'"),
    ({"stage": "base"}, "its stage is 'base'"),
    ({"results": [{}]}, "not a result of eval.score --run: results.0.task"),
])
def test_results_are_never_mixed(workdir: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any],
                                 said: str) -> None:
    run = make_run("toy")
    path = evaluate(run, "qwen2.5-7b", "dpo", *ANSWERS, monkeypatch=monkeypatch)
    write_json(path, {**read_json(path), **change})
    with pytest.raises(SystemExit, match=re.escape(said)):
        command(run, monkeypatch)
    assert not Path("out").exists()


def test_two_models_scored_on_different_test_sets(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("toy")
    evaluate(run, "qwen2.5-7b", "base", *ANSWERS, monkeypatch=monkeypatch)
    path = evaluate(run, "qwen2.5-7b", "dpo", *ANSWERS, monkeypatch=monkeypatch)
    changed = read_json(path)
    changed["results"][0]["label_counts"] = {"normal": 3, "abnormal": 1}
    write_json(path, changed)
    with pytest.raises(SystemExit, match="anomaly_detection bgl disjoint is not the test set of"):
        command(run, monkeypatch)
