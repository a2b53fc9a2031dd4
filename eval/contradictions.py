"""Find where the paper contradicts itself, or the public files, from experiments/tables.yaml (docs/audit.md)."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from logreasoner.config import task
from logreasoner.paper import NAMES, Published, Table

THOUGHTS, SELECTION = 1_000, "section 4.1"  # how many thoughts are selected, by the text
CAUSES, CATEGORIES = 5, "Section 4.3.4"  # "categorized into five error types"


class Contradiction(NamedTuple):
    """Something the paper prints that does not follow from what else it prints, or from the public files."""

    where: str
    printed: str
    derived: str


def _column(table: Table, at: int) -> str:
    return f"{table.columns[at].group} {table.columns[at].title}"


def wrong_f1(paper: Published) -> Iterator[Contradiction]:
    """Find F1 that no precision and recall with the printed digits, truncated or rounded, can have."""
    for table in paper.tables:
        for row, (at, column) in product(table.published, enumerate(table.columns)):
            if "f1" in column.metrics:
                printed = dict(zip(column.metrics, map(float, table.parts(row, at)), strict=True))
                low, high = (2 * p * r / (p + r) for p, r in ((printed["precision"] + by, printed["recall"] + by)
                                                              for by in (-0.005, 0.01)))
                if not low - 0.01 < printed["f1"] < high + 0.005:
                    yield Contradiction(f"{_cell(paper, table, row, at)}: F1", f"{printed['f1']:.2f}",
                                        f"{(low + high) / 2:.2f}")


def wrong_gains(paper: Published) -> Iterator[Contradiction]:
    """Find (+X) that is not the difference of its rows, whether these and it are truncated or rounded."""
    for table in paper.tables:
        for row, gains in table.gains.items():
            for at, (column, gain) in enumerate(zip(table.columns, gains, strict=True)):
                base = paper.rows[row].base or ""
                difference = _difference(paper, row, base, column.task, column.gain, [column.source])
                if abs(difference - float(gain)) > 0.12:
                    yield Contradiction(f"{_cell(paper, table, row, at)}: (+X)", gain, f"{difference:+.2f}")


def _cell(paper: Published, table: Table, row: str, at: int) -> str:
    return f"Table {table.number}, {paper.rows[row].title}, {_column(table, at)}"


def _difference(paper: Published, row: str, than: str, task: str, metric: str, sources: list[str]) -> float:
    ours, base = (paper.mean(name, task, metric, sources) for name in (row, than))
    return (ours or 0.0) - (base or 0.0)


def wrong_claims(paper: Published) -> Iterator[Contradiction]:
    """Find differences of two rows' means in the text that the tables do not give."""
    for claim in paper.claims:
        sources = claim.sources or [column.source for table in paper.tables for column in table.columns
                                    if column.task == claim.task]
        difference = _difference(paper, claim.row, claim.than, claim.task, claim.metric, sources)
        if abs(difference - claim.printed) > 0.03:
            what = f"{paper.rows[claim.row].title} over {paper.rows[claim.than].title}, {task(claim.task).title}"
            yield Contradiction(f"Section {claim.section}: {what}, mean {NAMES[claim.metric]}",
                                f"{claim.printed:.2f}", f"{difference:.2f}")


def wrong_sums(paper: Published) -> Iterator[Contradiction]:
    """Find sizes that the text, or the public files whose labels the other numbers fit, contradict."""
    total = sum(row["sft"] for row in paper.data_tables["table1"]["rows"] if row["stage"] == "stage1")
    if total != THOUGHTS:
        yield Contradiction(f"Table 1, stage 1, against {SELECTION}", f"{THOUGHTS:,}", f"{total:,}")
    for table in paper.tables:
        for column in table.columns:
            printed = paper.data_tables["table2"]["rows"][column.task][column.source]
            if column.counts and sum(column.counts.values()) != printed:
                yield Contradiction(f"Table 2, {task(column.task).title}, {column.group} {column.title}",
                                    f"{printed:,}", f"{sum(column.counts.values()):,}")
    classes = {len(column.counts) for table in paper.tables for column in table.columns
               if column.counts and column.task == "root_cause_analysis"}
    for number in classes - {CAUSES}:
        yield Contradiction(f"{CATEGORIES}: error types", str(CAUSES), str(number))


def repeated(paper: Published) -> Iterator[Contradiction]:
    """Find cells that another row of the column has digit for digit: not impossible, but worth a look."""
    for table in paper.tables:
        for at in range(len(table.columns)):
            rows: dict[str, list[str]] = {}
            for row, cells in table.published.items():
                rows.setdefault(cells[at], []).append(paper.rows[row].title)
            yield from (Contradiction(f"Table {table.number}, {_column(table, at)}", cell, " = ".join(same))
                        for cell, same in rows.items() if len(same) > 1)


def by_kind(paper: Published) -> dict[str, list[Contradiction]]:
    """Return every contradiction, under a title that says what kind it is."""
    gains, claims = list(wrong_gains(paper)), list(wrong_claims(paper))
    printed = sum(len(row) for table in paper.tables for row in table.gains.values())
    return {
        "F1 that its precision and recall cannot give": list(wrong_f1(paper)),
        f"{len(gains)} of the {printed} printed (+X) are not the difference of their rows": gains,
        f"{len(claims)} of the {len(paper.claims)} differences in the text that are derived from the tables are not "
        "what the tables give": claims,
        "Sizes that contradict the text, the other table, or the public files whose labels the results fit":
            list(wrong_sums(paper)),
        "Rows with the same numbers, which is possible": list(repeated(paper)),
    }
