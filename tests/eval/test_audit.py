import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from data_builders import normalise
from eval import audit
from eval.printed import Tables
from logreasoner.files import ROOT
from logreasoner.instances import read_instances
from logreasoner.paper import published

LLAMA = "LogReasoner (Llama3.1-8B)"


@pytest.fixture(scope="module")
def paper() -> tuple[str, list[audit.TestSet]]:
    return audit.page(audit.of_paper(published()), "", published())


def cells(test_sets: list[audit.TestSet], **wanted: str) -> list[audit.Cell]:
    return [cell for found in test_sets for cell in found.cells
            if all(getattr(cell, key) == value for key, value in wanted.items())]


def test_a_known_matrix(paper: tuple[str, list[audit.TestSet]]) -> None:
    cell, = cells(paper[1], table="Table 4", row="ChatGPT", column="H3C Switches")
    assert cell.printed == "66.58 / 62.57" and cell.found == {"truncate": 1, "round": 0}
    assert cell.matrix == "TP 149, FN 290, FP 0, TN 429"
    assert (cell.constant, cell.beats) == ("50.57 / 33.97", "yes")


def test_the_best_row_of_tables_4_and_5_has_no_matrix_in_any_cell(paper: tuple[str, list[audit.TestSet]]) -> None:
    """Nor, on Huawei's matching files, for any label counts."""
    found = cells(paper[1], table="Table 4", row=LLAMA) + cells(paper[1], table="Table 5", row=LLAMA)
    assert len(found) == 8 and not any(cell.reachable for cell in found)
    assert [cell.column for cell in cells(paper[1], row=LLAMA) if cell.reachable] == [
        "Anomaly Detection BGL", "Anomaly Detection Spirit", "RCA (Huawei) Switches"]


def test_the_paper_truncates_and_its_failure_labels_are_those_of_the_public_files(
        paper: tuple[str, list[audit.TestSet]]) -> None:
    found = {row["name"]: row for row in audit.tally(paper[1], "table")}
    assert [(row["cells"], row["truncate"], row["round"]) for row in found.values()] == [
        (60, 58, 46), (60, 47, 29), (60, 44, 5)]
    for test_set in paper[1]:
        if test_set.table == "Table 5":
            assert test_set.how == "truncate" and test_set.best["truncate"] == [test_set.column.positives]
            assert test_set.expected["truncate"] < 1e-8


def test_few_cells_beat_a_constant(paper: tuple[str, list[audit.TestSet]]) -> None:
    beaten = {row["name"]: row["beats"] for row in audit.tally(paper[1], "table")}
    assert beaten == {"Table 3": 28, "Table 4": 60, "Table 5": 7}
    causes = cells(paper[1], column="RCA (Huawei) Switches")
    assert {(cell.constant, cell.beats) for cell in causes} == {("71.30 / 59.36", "no")}
    bert, = cells(paper[1], row="BERT", column="Anomaly Detection BGL")
    assert re.fullmatch(r"for [\d,]+ of [\d,]+ P", bert.beats)


def test_the_committed_page_is_current(paper: tuple[str, list[audit.TestSet]]) -> None:
    assert (ROOT / "docs" / "audit.md").read_text(encoding="utf-8") == paper[0], "make audit"


def test_the_page_has_whole_tables(paper: tuple[str, list[audit.TestSet]]) -> None:
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
        found = {(row["row"], row["column"]): row for row in csv.DictReader(stream)}
    assert len(found) == 10
    assert found["some", "a"]["matrix"] == "TP 3, FN 1, FP 2, TN 4" and found["some", "a"]["constant"] == (
        "0.40 / 1.00 / 0.57")
    assert found["some", "b"]["matrix"] == "10 right (2 3 5)" and found["some", "b"]["beats"] == "yes"
    assert found["none", "b"]["matrix"] == "no number of right answers of 10 gives this accuracy"
    assert found["some", "d"]["truncated"] == "3"  # 1 of 3, 2 of 6, 3 of 9
    assert found["some", "e"]["matrix"] == "8 right" and found["some", "c"]["truncated"] != "0"
    assert {found["none", key]["truncated"] for key in "abcde"} == {"0"}
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


def test_unparsed_answers_are_tried_where_no_parsed_ones_fit(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of ten right, all others unparsed: 2 * 3 / (5 + 3) = 0.75 in both classes."""
    run(FILE % ("{title: c, metrics: [accuracy, weighted_f1], counts: {a: 5, b: 5}}", "60.00 / 75.00"),
        "--csv", "cells.csv", monkeypatch=monkeypatch)
    assert "6 right (3 3), some unparsed" in Path("cells.csv").read_text()
    run(FILE % ("{title: c, metrics: [accuracy, weighted_f1], counts: {a: 5, b: 5}}", "60.00 / 76.00"),
        "--csv", "cells.csv", monkeypatch=monkeypatch)
    assert "too high for that" in Path("cells.csv").read_text()


@pytest.mark.parametrize(("text", "said"), [
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
def test_mistakes_are_named(workdir: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(said)):
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
    tables: Tables = audit.of_paper(published())
    assert [len(table.columns) * len(table.rows) for table in tables.tables] == [60, 60, 60]
    assert tables.tables[2].columns[0].positives == 1673 and tables.tables[1].columns[2].positives == 439
