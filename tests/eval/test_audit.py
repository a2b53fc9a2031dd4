"""The audit of the paper and of any table; its searches against trying every matrix."""

import csv
import re
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders import normalise
from eval import audit
from eval.audit import HOW, Number, Numbers, by_chance, matrices, rights
from eval.score import measures
from logreasoner.files import ROOT
from logreasoner.instances import read_instances
from logreasoner.paper import published

LLAMA = "LogReasoner (Llama3.1-8B)"


@pytest.fixture(scope="module")
def paper() -> tuple[str, list[audit.TestSet], pd.DataFrame]:
    return audit.page(audit.of_paper(published()), "", published())


@pytest.fixture
def cells(paper) -> pd.DataFrame:
    return paper[2].set_index(["table", "row", "column"], drop=False)


def test_a_known_matrix(cells) -> None:
    cell = cells.loc["Table 4", "ChatGPT", "H3C Switches"]
    assert (cell.printed, cell.truncated, cell.rounded) == ("66.58 / 62.57", 1, 0)
    assert cell.matrix == "TP 149, FN 290, FP 0, TN 429"
    assert (cell.constant, cell.beats) == ("50.57 / 33.97", "yes")


def test_the_best_row_of_tables_4_and_5_has_no_matrix_in_any_cell(cells) -> None:
    """Nor, on Huawei's matching files, for any label counts."""
    best = cells[cells.row == LLAMA]
    reachable = (best.truncated > 0) | (best.rounded > 0)
    assert len(best) == 12 and best[reachable].column.tolist() == [
        "Anomaly Detection BGL", "Anomaly Detection Spirit", "RCA (Huawei) Switches"]


def test_the_paper_truncates_and_its_failure_labels_are_those_of_the_public_files(paper) -> None:
    assert [(row["cells"], row["truncated"], row["rounded"]) for row in audit.tally(paper[2], "table")] == [
        (60, 58, 46), (60, 47, 29), (60, 44, 5)]
    for test_set in paper[1]:
        if test_set.table == "Table 5":
            assert test_set.fits["truncated"].rows > test_set.fits["rounded"].rows
            assert test_set.fits["truncated"].best == [test_set.column.positives]
            assert test_set.fits["truncated"].expected < 1e-8


def test_few_cells_beat_a_constant(paper, cells) -> None:
    assert {row["name"]: row["beats"] for row in audit.tally(paper[2], "table")} == {
        "Table 3": 28, "Table 4": 60, "Table 5": 7}
    causes = cells[cells.column == "RCA (Huawei) Switches"]
    assert set(zip(causes.constant, causes.beats, strict=True)) == {("71.30 / 59.36", "no")}
    assert re.fullmatch(r"for [\d,]+ of [\d,]+ P", cells.loc["Table 3", "BERT", "Anomaly Detection BGL"].beats)


def test_weighted_f1_of_six_classes_is_not_audited(cells) -> None:
    assert cells.loc["Table 3", "BERT", "RCA (Huawei) Switches"].matrix == "433 right; weighted F1 not audited"
    assert cells.loc["Table 3", LLAMA, "RCA (Huawei) Routers"].matrix == (
        "no number of right answers of 1,252 gives this accuracy")


def test_the_committed_page_is_current(paper) -> None:
    assert (ROOT / "docs" / "audit.md").read_text(encoding="utf-8") == paper[0], "make audit"


def test_the_page_has_whole_tables(paper) -> None:
    width, tables = 0, 0
    for line, after in zip(paper[0].splitlines(), [*paper[0].splitlines()[1:], ""], strict=True):
        if after.startswith("|---"):
            width, tables = line.count("|"), tables + 1
        assert not line.startswith("|") or line.count("|") == width, line
    assert tables == 9


COLUMN = "{title: c, metrics: [precision, recall, f1], counts: {yes it: 4, no it: 6}, positive: yes it}"
FILE = "tables: [{title: T, columns: [%s], rows: {one: [%s]}}]"


def run(text: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.yaml").write_text(text)
    monkeypatch.setattr("sys.argv", ["eval.audit", "t.yaml", *arguments])
    audit.main()


def test_any_table(workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("""
percent: false
tables:
  - title: T
    columns:
      - {title: a, metrics: [precision, recall, f1], counts: {bad: 4, good: 6}, positive: bad}
      - {title: b, metrics: [accuracy, weighted_f1], counts: {x: 2, y: 3, z: 5}}
      - {title: c, metrics: [accuracy, weighted_f1], n: 10}
      - {title: d, metrics: [recall], n: 10}
      - {title: e, metrics: [accuracy], n: 10}
    rows:
      some: [0.60 / 0.75 / 0.66, 1.0 / 1.0, 0.80 / 0.80, "0.33", "0.8"]
      none: [0.61 / 0.75 / 0.66, 0.55 / 0.10, 0.85 / 0.80, "0.97", "0.85"]
      left: ["-", "", "-", "-", "-"]
""", "--csv", "cells.csv", "--out", "page.md", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == "page.md\n"
    with open("cells.csv", encoding="utf-8") as stream:
        lines = {(row["row"], row["column"]): row for row in csv.DictReader(stream)}
    assert len(lines) == 10
    assert lines["some", "a"]["matrix"] == "TP 3, FN 1, FP 2, TN 4" and lines["some", "a"]["constant"] == (
        "0.40 / 1.00 / 0.57")
    assert lines["some", "b"]["matrix"] == "10 right; weighted F1 not audited" and lines["some", "b"]["beats"] == "yes"
    assert lines["none", "b"]["matrix"] == "no number of right answers of 10 gives this accuracy"
    assert lines["some", "d"]["truncated"] == "3"  # 1 of 3, 2 of 6, 3 of 9
    assert lines["some", "e"]["matrix"] == "8 right" and lines["some", "c"]["truncated"] != "0"
    assert {lines["none", key]["truncated"] for key in "abcde"} == {"0"}
    page = Path("page.md").read_text()
    assert page.startswith("# The audit of t.yaml\n") and "contradicts itself" not in page


def test_the_format_that_help_shows_is_read(workdir: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("", "--help", monkeypatch=monkeypatch)
    shown = capsys.readouterr().out.partition("  percent:")
    run(shown[1] + shown[2].partition("positional")[0], monkeypatch=monkeypatch)
    assert "| Table 4 | switches | ChatGPT | 66.58 / 62.57 | 1 | 0 | TP 149, FN 290, FP 0, TN 429 |" in (
        capsys.readouterr().out)


def test_right_answers_that_no_weighted_f1_fits(workdir: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    run(FILE % ("{title: c, metrics: [accuracy, weighted_f1], counts: {a: 5, b: 5}}", "60.00 / 75.00"),
        monkeypatch=monkeypatch)
    assert "| 0 | 0 | 6 right, but no matrix of them has this weighted F1 |" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "message"), [
    ("tables: [", "not valid YAML"),
    ("rows: []", "t.yaml: tables: Field required"),
    (FILE % (COLUMN, "69.10"), "t.yaml: tables.0.rows.one.0: Input should be a valid string"),
    (FILE % (COLUMN, "'69.10'"), "T: c: one: '69.10': expected precision / recall / f1"),
    (FILE % (COLUMN, "1 / 2 / 101.0"), "101.0 is more than 100 percent"),
    (FILE % (COLUMN, "1 / 2 / 3, 1 / 2 / 3"), "T: one: 2 cells, but the table has 1 columns"),
    (FILE % (COLUMN.replace("positive: yes it", "positive: it"), "1 / 2 / 3"), "positive: name the positive class"),
    (FILE % (COLUMN.replace("6}", "6}, n: 10"), "1 / 2 / 3"), "give either counts"),
    (FILE % (COLUMN.replace("6}", "0}"), "1 / 2 / 3"), "give either counts"),
    (FILE % (COLUMN.replace("f1", "auc"), "1 / 2 / 3"), "T: c: metrics: some of"),
    (FILE % ("{title: c, metrics: [f1], n: 10}", "'3'"), "with n alone the cells need recall"),
    (FILE % ("{title: c, metrics: [accuracy, weighted_f1], n: 5000}", "3 / 4"), "too many to try"),
])
def test_mistakes_are_named(workdir: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(text, "--out", "page.md", monkeypatch=monkeypatch)
    assert not Path("page.md").exists()


@pytest.mark.public
def test_the_label_counts_are_those_of_the_public_files(mirror: Path, tmp_path: Path) -> None:
    normalise.normalise(mirror, tmp_path)
    real: dict[tuple[str, str], Counter[str]] = {}
    for item in read_instances(tmp_path / "test.jsonl"):
        real.setdefault((item.task, item.source), Counter())[item.label] += 1
    declared = {(column.task, column.source): column.counts for table in published().tables
                for column in table.columns if column.counts}
    assert len(declared) == 8
    assert declared == {key: dict(real[key]) for key in declared}


def test_a_table_of_the_paper_keeps_its_numbers() -> None:
    tables = audit.of_paper(published())
    assert [len(table.columns) * len(table.rows) for table in tables.tables] == [60, 60, 60]
    assert tables.tables[2].columns[0].positives == 1673 and tables.tables[1].columns[2].positives == 439


def prints(value: Fraction, number: Number, how: str) -> bool:
    scaled = value * number.scale
    if how == "truncated":
        return int(scaled) == number.digits
    return abs(scaled - number.digits) <= Fraction(1, 2)


def share(above: int, below: int) -> Fraction:
    return Fraction(above, below) if below else Fraction(0)


def scored(tp: int, fp: int, positives: int, n: int) -> dict[str, Fraction]:
    fn, tn = positives - tp, n - positives - fp
    weighted = [share(2 * hit, 2 * hit + fp + fn) * rows for hit, rows in ((tp, positives), (tn, n - positives))]
    return {"precision": share(tp, tp + fp), "recall": share(tp, positives), "f1": share(2 * tp, positives + tp + fp),
            "accuracy": share(tp + tn, n), "weighted_f1": sum(weighted, Fraction()) / n}


def test_the_formulas_are_those_of_the_scores() -> None:
    """eval.score is tested against scikit-learn."""
    for tp, fp in ((3, 2), (0, 0), (4, 6), (0, 6)):
        overall = measures(np.array([[tp, 4 - tp, 0], [fp, 6 - fp, 0]]), None)
        positive = measures(np.array([[tp, 4 - tp, 0], [fp, 6 - fp, 0]]), 0)
        for metric, value in scored(tp, fp, 4, 10).items():
            assert float(value) == pytest.approx((overall | positive)[metric])


@st.composite
def numbers_of_a_matrix(draw: st.DrawFn, metrics: tuple[str, ...]) -> tuple[Numbers, int, int, str]:
    """Numbers near those of a random matrix, so that many are reachable and many are not."""
    n = draw(st.integers(2, 14))
    positives = draw(st.integers(1, n - 1))
    real = scored(draw(st.integers(0, positives)), draw(st.integers(0, n - positives)), positives, n)
    cell = {}
    for metric in metrics:
        scale = draw(st.sampled_from([10, 100, 1000, 10_000]))
        near = int(real[metric] * scale) + draw(st.sampled_from([0, 0, 0, 1, -1]))
        cell[metric] = Number(min(max(near, 0), scale), scale)
    return cell, positives, n, draw(st.sampled_from(HOW))


def brute(cell: Numbers, positives: int, n: int, how: str) -> set[tuple[int, int]]:
    return {(tp, fp) for tp, fp in product(range(positives + 1), range(n - positives + 1))
            if all(prints(scored(tp, fp, positives, n)[metric], number, how) for metric, number in cell.items())}


@given(st.sampled_from([("precision", "recall", "f1"), ("recall", "f1"), ("precision",), ("f1",),
                        ("accuracy", "weighted_f1"), ("accuracy",)]).flatmap(numbers_of_a_matrix))
def test_every_matrix_is_found(case: tuple[Numbers, int, int, str]) -> None:
    cell, positives, n, how = case
    (count,), (tp,), (fp,) = matrices(cell, np.array([positives]), n, how)
    expected = brute(cell, positives, n, how)
    assert count == len(expected)
    assert not expected or (tp, fp) in expected


@pytest.mark.parametrize("metrics", [("precision", "recall", "f1"), ("accuracy", "weighted_f1")])
@pytest.mark.parametrize("how", HOW)
def test_all_numbers_of_positives_at_once_give_what_each_gives_alone(metrics, how, monkeypatch) -> None:
    cell = {metric: Number(int(value * 1000), 1000) for metric, value in scored(31, 12, 40, 97).items()
            if metric in metrics}
    together = matrices(cell, np.arange(1, 97), 97, how)[0]
    alone = [int(matrices(cell, np.array([positives]), 97, how)[0, 0]) for positives in range(1, 97)]
    assert together.tolist() == alone
    monkeypatch.setattr(audit, "GRID", 30)
    assert matrices(cell, np.arange(1, 97), 97, how)[0].tolist() == alone
    assert how == "rounded" or together[39] > 0


@pytest.mark.parametrize(("how", "count"), [("truncated", 1), ("rounded", 101)])
def test_large_test_sets_do_not_overflow(how: str, count: int) -> None:
    """100 wrong answers of a million: only the even split has a weighted F1 of 0.9999, the others a hair less."""
    cell = {"accuracy": Number(999_900, 1_000_000), "weighted_f1": Number(999_900, 1_000_000)}
    assert matrices(cell, np.array([500_000]), 1_000_000, how)[0, 0] == count


def test_right_answers() -> None:
    assert list(rights({"accuracy": Number(6658, 10_000)}, 868, "truncated")) == [578]
    assert list(rights({"accuracy": Number(6658, 10_000)}, 868, "rounded")) == []
    assert list(rights({"accuracy": Number(1000, 1000)}, 868, "truncated")) == [868]


def test_by_chance_is_the_share_of_reachable_numbers() -> None:
    """Of all recalls and precisions around some point, with the F1 of a real pair among them."""
    positives, n, hits, tried = 300, 500, 0, 0
    cell = {}
    for precision, recall in product(range(6000, 6200, 7), range(7000, 7200, 7)):
        p, r = Fraction(2 * precision + 1, 20_000), Fraction(2 * recall + 1, 20_000)
        cell = {"precision": Number(precision, 10_000), "recall": Number(recall, 10_000),
                "f1": Number(int(2 * p * r / (p + r) * 10_000), 10_000)}
        hits += int(matrices(cell, np.array([positives]), n, "truncated")[0, 0] > 0)
        tried += 1
    chance = float(by_chance(cell, np.array([positives]), n)[0])
    assert hits / tried == pytest.approx(chance, abs=3 * (chance / tried) ** 0.5)
