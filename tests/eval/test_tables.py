import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from eval import score, tables
from logreasoner.config import Run, declare, resolve, task
from logreasoner.files import read_json, write_json, write_jsonl
from logreasoner.paper import Column


def make_run(name: str, scripted: bool = False) -> Run:
    """A run with one anomaly detection source (3 of 4 abnormal, and one seen) and one of root causes."""
    experiment = resolve("paper", [])
    teacher = experiment.teacher.model_copy(update={"scripted": scripted})
    run = declare(name, experiment.model_copy(update={"teacher": teacher}))
    labels = [("anomaly_detection", "bgl", "abnormal")] * 3 + [("anomaly_detection", "bgl", "normal")] + [
        ("root_cause_analysis", "huawei-security", "EventTrap")]
    write_jsonl(run.splits / "test.jsonl", (
        {"id": f"t{at}", "task": task_name, "source": source, "log": str(at), "label": label}
        for at, (task_name, source, label) in enumerate(labels)))
    write_jsonl(run.splits / "test_seen.jsonl", [
        {"id": "s0", "task": "anomaly_detection", "source": "bgl", "log": "seen", "label": "abnormal"}])
    return run


def baseline(run: Run, name: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Score a baseline that always gives the same answer to anomaly detection, and EventTrap to root causes."""
    evaluate(run, name, "baseline", *[answer] * 4, "EventTrap", answer, monkeypatch=monkeypatch)


def evaluate(run: Run, model: str, stage: str, *answers: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Score a model whose answers to t0 .. t4 and s0 are given; a sentence is not put in the form that is asked for."""
    write_jsonl("R.jsonl", ({"custom_id": key, "error": None, "response": {"status_code": 200, "body": {
        "choices": [{"message": {"content": answer if answer.endswith(".") else f"<answer>{answer}</answer>"}}]}}}
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
    assert {row["state"] for row in found} == {"not run", "does not fit"}
    assert sum(row["test_set"] == "all" and row["published"] != "" for row in found) == 15 * 30
    assert only(found, table="3", row="bert", column="anomaly_detection/bgl", metric="recall",
                test_set="all")["published"] == "100.0"


def test_measured_stands_beside_published_with_baselines(workdir: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("toy")
    evaluate(run, "qwen2.5-7b", "dpo", *ANSWERS, monkeypatch=monkeypatch)
    evaluate(run, "qwen2.5-7b", "thought-sft", *ANSWERS, monkeypatch=monkeypatch)
    baseline(run, "majority", "abnormal", monkeypatch)
    capsys.readouterr()
    found = command(run, monkeypatch)
    cell = {"table": "3", "column": "anomaly_detection/bgl", "metric": "recall", "test_set": "disjoint"}
    ours = only(found, **cell, row="logreasoner-qwen2.5-7b")
    assert ours["published"] == "95.35" and ours["state"] == "measured"
    assert (ours["value"], ours["n"], ours["unparsed"]) == ("66.6667", "4", "1")
    assert 0 < float(ours["low"]) < 66.6667 < float(ours["high"]) < 100
    assert only(found, **cell, row="qwen2.5-7b/thought-sft")["published"] == ""  # a row the paper lacks
    assert only(found, **cell, row="majority")["value"] == "100.0000"
    assert only(found, **cell, row="majority")["state"] == "baseline"
    markdown = Path("out/tables.md").read_text()
    rows = (r"\| LogReasoner \(Qwen2.5-7B\) \| published \| 60.87 \| 95.35 \| 74.31 \(\+24.7\) \|  \|  \|  \|\n"
            r"\|  \| disjoint \| 100\.0 \[34\.2, 100\.0\] \| 66\.7 \[.*?\] \| 80\.0 \[.*?\] \| 4 \| 1 \|  \|\n"
            r"\|  \| all \| .* \| 5 \| 1 \| 1 \|\n")
    assert re.search(rows, markdown)
    assert "### Root Cause Analysis, huawei-security (not in the paper)" in markdown
    terminal = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "LogReasoner (Qwen2.5-7B) published 60.87 95.35 74.31 (+24.7)" in terminal
    assert "Baseline: TF-IDF and logistic regression not run" in terminal
    assert any(line.startswith("Few test logs, so that scores say little of these labels:") for line in terminal)
    assert re.findall(r"labels: (.*)", markdown)[0] == "normal 1, abnormal 4."


def test_results_come_as_a_data_frame(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("toy")
    evaluate(run, "qwen2.5-7b", "dpo", *ANSWERS, monkeypatch=monkeypatch)
    found = tables.frame(run)
    assert tuple(found.columns) == tables.HEADER and found["value"].dtype == float
    best = found[found["state"] == "measured"].groupby("metric")["value"].max()
    assert best["recall"] == 75.0


def test_markdown_and_latex_rows_have_all_their_columns(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("toy")
    evaluate(run, "qwen2.5-7b", "base", *ANSWERS, monkeypatch=monkeypatch)
    command(run, monkeypatch)
    markdown, latex = (Path("out", f"tables.{kind}").read_text() for kind in ("md", "tex"))
    blocks = [[line.count("|") for line in block.splitlines() if line.startswith("|")]
              for block in markdown.split("### ")[1:]]
    assert len(blocks) == 4 + 1 + 4 + 4  # one test file that the paper lacks
    assert all(len(set(block)) == 1 and len(block) > 2 for block in blocks)
    tabulars = [[line.count("&") for line in block.splitlines() if line.endswith("\\\\")]
                for block in latex.split("\\begin{tabular}")[1:]]
    assert [len(block) for block in tabulars] == [len(block) - 1 for block in blocks]
    assert [set(block) for block in tabulars] == [{block[0] - 2} for block in blocks]
    assert latex.count("\\begin{table*}") == latex.count("\\end{table*}") == latex.count("\\bottomrule") == 13
    assert latex.count("{") == latex.count("}")


def test_a_terminal_of_120_columns_is_wide_enough(workdir: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Long names are wrapped, what a lenient reader takes has a row, and no name commands the terminal."""
    run = make_run("toy", scripted=True)
    for model in ("qwen2.5-7b", "llama3.1-8b"):
        evaluate(run, model, "dpo", *ANSWERS[:3], "The answer is normal.", *ANSWERS[4:], monkeypatch=monkeypatch)
    monkeypatch.setattr(tables, "_title", lambda name: f"{name} \x1b[2J" + "with a long name " * 20)
    capsys.readouterr()
    command(run, monkeypatch)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120 and "\x1b" not in printed and "\\x1b[2J" in printed
    assert "disjoint, lenient" in printed and '"lenient": the same answers' in printed


def test_a_task_of_many_metrics_has_several_tables() -> None:
    rules = task("anomaly_detection")
    names = ["precision", "recall", "f1", "accuracy", "weighted_f1"]
    column = Column(task=rules.name, source="", group="", title="Disks", metrics=names)
    row = scored("", [[30_000, 0, 0], [0, 30_000, 1]])
    line = tables.Line("x", "a method", [[""] * 5], {test_set: [row] for test_set in tables.TEST_SETS})
    blocks = list(tables.Sheet("x", "X", [column], [line]).blocks())
    assert [block.metrics for block in blocks] == [names[:3], names[3:]]
    assert all(len(text) <= 120 for block in blocks for text in block.plain().splitlines())
    assert [part.rows[0].n for part in blocks] == ["60,001"] * 2 and blocks[0].rows[0].test_set == "disjoint = all"


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
    baseline(run, "majority", "abnormal", monkeypatch)
    found = command(run, monkeypatch)
    assert {row["table"] for row in found} == {"demo"} and {row["published"] for row in found} == {""}
    assert list(dict.fromkeys(row["row"] for row in found)) == [
        "tiny/base", "tiny/thought-sft", "tiny/solution-sft", "tiny/dpo", "majority/baseline"]
    cell = {"column": "anomaly_detection", "metric": "f1", "test_set": "all"}
    assert only(found, **cell, row="tiny/dpo")["n"] == "5"
    assert only(found, **cell, row="tiny/thought-sft")["state"] == "not run"
    for name in ("tables.md", "tables.tex"):
        text = Path("out", name).read_text()
        assert "scripted teacher" in text.lower() and "tiny" in text
        assert not re.search(r"95\.35|[|&] published", text)
        assert "Table 3" not in text.replace("Tables 3-5", "")


def scored(source: str, matrix: list[list[int]], whole: int = 0) -> tables.Scored:
    """Anomaly detection with a confusion matrix, of a test set of `whole` instances (0: of all)."""
    rules, n = task("anomaly_detection"), sum(map(sum, matrix))
    return tables.Scored(task=rules.name, source=source, test_set="all", whole=whole or n, **score.summary(
        matrix, rules), lenient={
        "counts": matrix, **score.summary(matrix, rules)})  # type: ignore[arg-type]


def test_sources_are_pooled_by_adding_their_matrices() -> None:
    total = tables.pooled([scored("a", [[1, 2, 0], [0, 3, 1]]), scored("b", [[4, 0, 0], [1, 1, 0]])])
    assert (total.n, total.unparsed, total.confusion["counts"]) == (13, 1, [[5, 2, 0], [1, 4, 1]])
    assert total.metrics == score.scores([[5, 2, 0], [1, 4, 1]], task("anomaly_detection"))


def test_subsets_of_sources_are_pooled_by_the_sizes_of_the_sources() -> None:
    """Ten of each: nine right of the source of 900, one right of the source of 100."""
    rows = ([[5, 0, 0], [1, 4, 0]], [[1, 4, 0], [5, 0, 0]])
    total = tables.pooled([scored("large", rows[0], 900), scored("small", rows[1], 100)])
    assert (total.n, total.whole, total.confusion["counts"]) == (20, 1000, [[6, 4, 0], [6, 4, 0]])
    assert total.metrics["accuracy"]["value"] == pytest.approx(0.9 * 0.9 + 0.1 * 0.1)
    assert total.metrics["recall"]["value"] == pytest.approx(0.9 * 0.8)
    effective = 1000**2 / (10 * 90**2 + 10 * 10**2)  # Kish
    assert (total.metrics["accuracy"]["low"], total.metrics["accuracy"]["high"]) == pytest.approx(
        score.wilson(0.82 * effective, effective))
    assert total.metrics["f1"]["low"] < total.metrics["f1"]["value"] < total.metrics["f1"]["high"]
    equal = tables.pooled([scored("a", rows[0], 70), scored("b", rows[1], 70)])
    assert equal.metrics["accuracy"]["low"] == pytest.approx(score.wilson(10, 20)[0])


def test_pooled_scores_that_are_perfect_are_not_certain() -> None:
    total = tables.pooled([scored(str(size), [[2, 0, 0], [0, 1, 0]], size) for size in (700, 110, 13)])
    for part in total.metrics.values():
        assert part["value"] == pytest.approx(1) and part["low"] < 0.9 and part["high"] <= 1


@pytest.mark.parametrize(("change", "said"), [
    ({"teacher": "scripted"}, "teacher: 'scripted' -> 'model'"),
    ({"run": "other"}, "run: 'other' -> 'toy'"),
    ({"model": "tiny"}, "model: 'tiny' -> 'qwen2.5-7b'"),
    ({"stage": "base"}, "stage: 'base' -> 'dpo'"),
    ({"identity": "0"}, "identity: '0' -> "),
    ({"splits": {}}, "splits.test.jsonl: not there -> "),
    ({"answered_by": None}, "not a result of eval.score --run as it is now: answered_by"),
    ({"results": [{}]}, "as it is now: results.0.task"),
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
    split = run.splits / "test.jsonl"
    split.write_text(split.read_text().replace('"abnormal"', '"normal"', 1))
    evaluate(run, "qwen2.5-7b", "dpo", *ANSWERS, monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"base/result.json: scored under .* test instances .*\(splits.test.jsonl: "):
        command(run, monkeypatch)
