"""Where the paper contradicts itself, or the public files: derived from experiments/tables.yaml (docs/audit.md)."""

from collections.abc import Iterator
from typing import NamedTuple

from logreasoner.config import task
from logreasoner.paper import NAMES, Claim, Published, Table

THOUGHTS, SELECTION = 1_000, "section 4.1"  # how many the text keeps
CAUSES, CATEGORIES = 5, "Section 4.3.4"  # "categorized into five error types"


class Contradiction(NamedTuple):
    """Something the paper prints that does not follow from what else it prints, or from the public files."""

    where: str
    printed: str
    derived: str


def _column(table: Table, at: int) -> str:
    return f"{table.columns[at].group} {table.columns[at].title}"


def _cells(said: Published) -> Iterator[tuple[Table, str, int, dict[str, float]]]:
    for table in said.tables:
        for row in table.published:
            for at, column in enumerate(table.columns):
                yield table, row, at, dict(zip(column.metrics, map(float, table.parts(row, at)), strict=True))


def wrong_f1(said: Published) -> Iterator[Contradiction]:
    """F1 that no precision and recall with the printed digits, truncated or rounded, can have."""
    for table, row, at, numbers in _cells(said):
        if "f1" in numbers:
            low, high = (2 * p * r / (p + r) for p, r in ((numbers["precision"] + by, numbers["recall"] + by)
                                                          for by in (-0.005, 0.01)))
            if not low - 0.01 < numbers["f1"] < high + 0.005:
                yield Contradiction(f"Table {table.number}, {said.rows[row].title}, {_column(table, at)}: F1",
                                    f"{numbers['f1']:.2f}", f"{(low + high) / 2:.2f}")


def wrong_gains(said: Published) -> Iterator[Contradiction]:
    """(+X) that is not the difference of its rows, truncated or rounded, of digits truncated or rounded."""
    numbers = {(table.number, row, at): cell for table, row, at, cell in _cells(said)}
    for table in said.tables:
        for row, gains in table.gains.items():
            for at, (column, gain) in enumerate(zip(table.columns, gains, strict=True)):
                ours, base = (numbers[table.number, name, at][column.gain]
                              for name in (row, said.rows[row].base or ""))
                if abs(ours - base - float(gain)) > 0.12:
                    yield Contradiction(f"Table {table.number}, {said.rows[row].title}, {_column(table, at)}: (+X)",
                                        gain, f"{ours - base:+.2f}")


def derived(said: Published, claim: Claim) -> float:
    """The difference of two rows' means that a claim is about."""
    sources = claim.sources or [column.source for table in said.tables for column in table.columns
                                if column.task == claim.task]
    ours, base = (said.mean(row, claim.task, claim.metric, sources) for row in (claim.row, claim.than))
    return (ours or 0.0) - (base or 0.0)


def wrong_claims(said: Published) -> Iterator[Contradiction]:
    """Differences in the text that the tables do not give."""
    for claim in said.claims:
        if abs(derived(said, claim) - claim.printed) > 0.03:
            what = f"{said.rows[claim.row].title} over {said.rows[claim.than].title}, {task(claim.task).title}"
            yield Contradiction(f"Section {claim.section}: {what}, mean {NAMES[claim.metric]}",
                                f"{claim.printed:.2f}", f"{derived(said, claim):.2f}")


def wrong_sums(said: Published) -> Iterator[Contradiction]:
    """Sizes of Tables 1 and 2 that the text, or the public files whose labels the other numbers fit, contradict."""
    total = sum(row["sft"] for row in said.data_tables["table1"]["rows"] if row["stage"] == "stage1")
    if total != THOUGHTS:
        yield Contradiction(f"Table 1, stage 1, against {SELECTION}", f"{THOUGHTS:,}", f"{total:,}")
    for table in said.tables:
        for column in table.columns:
            printed = said.data_tables["table2"]["rows"][column.task][column.source]
            if column.counts and sum(column.counts.values()) != printed:
                yield Contradiction(f"Table 2, {task(column.task).title}, {column.group} {column.title}",
                                    f"{printed:,}", f"{sum(column.counts.values()):,}")
    classes = {len(column.counts) for table in said.tables for column in table.columns
               if column.counts and column.task == "root_cause_analysis"}
    for number in classes - {CAUSES}:
        yield Contradiction(f"{CATEGORIES}: error types", str(CAUSES), str(number))


def repeated(said: Published) -> Iterator[Contradiction]:
    """Cells that another row of the column has digit for digit: not impossible, but worth a look."""
    for table in said.tables:
        for at in range(len(table.columns)):
            rows: dict[str, list[str]] = {}
            for row, cells in table.published.items():
                rows.setdefault(cells[at], []).append(said.rows[row].title)
            yield from (Contradiction(f"Table {table.number}, {_column(table, at)}", cell, " = ".join(same))
                        for cell, same in rows.items() if len(same) > 1)
