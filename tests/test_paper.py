"""What can be derived from the published numbers is derived again; and each of them has a command."""

import re

import pytest

from eval import contradictions
from logreasoner.cli import UserError
from logreasoner.config import models, stages, task
from logreasoner.paper import grid, published

SAID = published()


def shown(found) -> list[tuple[str, str, str]]:
    return [tuple(one) for one in found]


def test_the_published_tables_are_complete() -> None:
    """15 methods; 3 and 5: 10 and 12 numbers a row, 4: 8; (+X) for three rows of four columns in each."""
    printed = [[number for cells in table.published.values() for cell in cells for number in cell.split(" / ")]
               for table in SAID.tables]
    assert [len(table.published) for table in SAID.tables] == [15] * 3
    assert [len(numbers) for numbers in printed] == [15 * 10, 15 * 8, 15 * 12]
    assert all(re.fullmatch(r"\d{1,2}\.\d{2}|100\.0", number) for numbers in printed for number in numbers)
    assert [sum(map(len, table.gains.values())) for table in SAID.tables] == [12] * 3
    for table in SAID.tables:
        for column in table.columns:
            assert column.metrics == task(column.task).metrics and column.gain in column.metrics


def test_one_f1_contradicts_its_precision_and_recall() -> None:
    assert shown(contradictions.wrong_f1(SAID)) == [
        ("Table 5, Qwen2.5-1.5B, H3C Routers: F1", "64.19", "63.27")]


def test_seven_of_the_printed_gains_are_not_the_difference_of_their_rows() -> None:
    assert sum(len(gains) for table in SAID.tables for gains in table.gains.values()) == 36
    assert shown(contradictions.wrong_gains(SAID)) == [
        ("Table 4, LogReasoner (Qwen2.5-1.5B), Huawei Switches: (+X)", "+12.2", "+13.22"),
        ("Table 4, LogReasoner (Qwen2.5-1.5B), Huawei Routers: (+X)", "+13.4", "+12.45"),
        ("Table 4, LogReasoner (Qwen2.5-7B), Huawei Routers: (+X)", "+9.8", "+6.78"),
        ("Table 4, LogReasoner (Llama3.1-8B), Huawei Routers: (+X)", "+4.5", "+3.58"),
        ("Table 5, LogReasoner (Qwen2.5-1.5B), H3C Switches: (+X)", "+11.7", "+13.26"),
        ("Table 5, LogReasoner (Qwen2.5-1.5B), H3C Routers: (+X)", "+14.4", "+6.73"),
        ("Table 5, LogReasoner (Llama3.1-8B), Huawei Routers: (+X)", "+5.3", "+3.16"),
    ]


def test_one_difference_of_the_text_is_not_that_of_the_tables() -> None:
    """The others follow; 18.93 stands in two sections."""
    found = list(contradictions.wrong_claims(SAID))
    assert [(one.printed, one.derived) for one in found] == [("26.24", "31.74")]
    assert "Section 4.5.1" in found[0].where and "Root Cause Analysis" in found[0].where
    assert len(SAID.claims) == 14


def test_sizes_that_contradict_each_other() -> None:
    assert shown(contradictions.wrong_sums(SAID)) == [
        ("Table 1, stage 1, against section 4.1", "1,000", "1,500"),
        ("Table 2, Potential Failure Prediction, Huawei Switches", "2,563", "2,653"),
        ("Section 4.3.4: error types", "5", "6"),
    ]


def test_stage_2_adds_up_to_what_the_text_samples() -> None:
    """Section 4.1: 1,000 from each of BGL and Spirit, and of Huawei and H3C; root causes are Huawei's alone."""
    rows = [row for row in SAID.data_tables["table1"]["rows"] if row["stage"] == "stage2"]
    assert [row["sft"] + row["dpo"] for row in rows] == [2000, 2000, 2000, 1000]


def test_anomaly_detection_has_a_session_of_20_lines_for_each_50000() -> None:
    for table in SAID.tables:
        for column in table.columns:
            lines = SAID.data_tables["table2"]["rows"][column.task][column.source]
            if column.n is not None:
                assert column.n == (lines // 20 if column.task == "anomaly_detection" else lines)


def test_rows_with_the_same_numbers() -> None:
    assert [one.derived for one in contradictions.repeated(SAID)] == [
        "GPT-4o = Qwen2.5-7B-CoT-SFT", "Qwen2.5-7B = Qwen2.5-7B-CoT-SFT",
        "R1-Distill-Qwen-7B = LogReasoner (Qwen2.5-1.5B)"]


def test_every_published_number_is_in_the_grid() -> None:
    cells = grid()
    for table in SAID.tables:
        ours = [cell.published for cell in cells if cell.table == f"table{table.number}" and cell.published]
        printed = [number for row in SAID.rows if row in table.published
                   for text in table.published[row] for number in text.split(" / ")]
        assert ours == printed
    table1 = [row[key] for row in SAID.data_tables["table1"]["rows"] for key in ("sft", "dpo") if row[key] is not None]
    assert [cell.published for cell in cells if cell.table == "table1"] == [str(number) for number in table1]
    assert sum(cell.table == "table2" for cell in cells) == 12
    for figure in SAID.figures:
        said = [cell for cell in cells if cell.table == f"figure{figure.number}" and cell.published]
        stated = {(one.panel, one.point, one.model) for one in figure.stated}
        assert len(said) >= len(stated) > 0


def test_every_cell_of_the_grid_has_a_command_for_what_exists() -> None:
    known = {"base", "classifier", "baseline", *stages()}
    for cell in grid():
        assert re.fullmatch(r"make [a-z][\w-]*( [A-Z]+=\S+)*", cell.command), cell
        given = dict(re.findall(r"([A-Z]+)=(\S+)", cell.command))
        assert given.get("MODEL", "bert") in models() and given.get("STAGE", "base") in known, cell
        if cell.keys:
            assert (given["MODEL"], given["STAGE"]) == (cell.model, cell.stage)


def test_a_part_of_the_grid() -> None:
    assert {cell.table for cell in grid("table4")} == {"table4"}
    ours = grid("figure7", ["qwen2.5-1.5b"])
    assert {cell.model for cell in ours} == {"qwen2.5-1.5b"}
    with pytest.raises(UserError, match="there are table1, .*figure10"):
        grid("table6")
