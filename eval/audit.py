"""Is there a confusion matrix behind a published number, and does it beat a constant answer? (docs/audit.md)

Without a file: the paper's Tables 3-5 and where the paper contradicts itself. With one: any paper's tables. Where only
the size n of a test set is known, every number of positives is tried. How matrices are found: eval/reachable.py.
"""

import argparse
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval import contradictions
from eval.printed import HOW, Array, Column, Printed, Table, Tables, read_cell
from eval.reachable import by_chance, highest, one_class, rights, two_classes, witness
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import checked, load_yaml, task
from logreasoner.files import TEMPLATES, writing
from logreasoner.paper import NAMES, Published, published
from logreasoner.templating import environment

HEADER = ("table", "row", "column", "printed", "truncated", "rounded", "by_chance", "matrix", "constant", "beats")


@dataclass(frozen=True)
class Cell:
    """An audited cell: matrices by convention; where the label counts are not known, numbers of positives with one."""

    table: str
    row: str
    column: str
    printed: str
    found: dict[str, int]
    by_chance: float
    matrix: str
    constant: str
    beats: str

    @property
    def reachable(self) -> bool:
        """Whether a matrix was found in either convention."""
        return any(self.found.values())


@dataclass
class TestSet:
    """An audited column; by convention, which numbers of positives fit most of its rows."""

    table: str
    column: Column
    cells: list[Cell] = field(default_factory=list)
    fitted: dict[str, int] = field(default_factory=dict)  # how many rows they fit
    best: dict[str, list[int]] = field(default_factory=dict)  # those numbers
    expected: dict[str, float] = field(default_factory=dict)  # how many of them chance would give

    @property
    def how(self) -> str:
        """The convention in which one number of positives fits more rows."""
        return max(HOW, key=lambda how: self.fitted.get(how, 0))

    def fit(self, how: str, fits: Array, chance: Array) -> None:
        """Which numbers of positives (1, 2, ...) fit most rows; `fits` and `chance` have a line a row."""
        total = fits.sum(0)
        self.fitted[how] = int(total.max())
        self.best[how] = (np.flatnonzero(total == total.max()) + 1).tolist()
        odds = np.zeros((len(chance) + 1, chance.shape[1]))  # of so many rows fitting by chance
        odds[0] = 1
        for one in chance:
            odds[1:] = odds[1:] * (1 - one) + odds[:-1] * one
            odds[0] *= 1 - one
        self.expected[how] = float(odds[self.fitted[how]:].sum())


def explain(column: Column, cell: Printed, how: str) -> tuple[int, str]:
    """Matrices of a cell with known label counts (of more than two classes: 1 if any), and one of them or why not."""
    n, positives = column.rows, column.positives
    if positives is not None:
        search = one_class if column.one_class else two_classes
        matrices, tp, fp = (int(part[0]) for part in search(cell, np.array([positives]), n, how))
        if matrices:
            return matrices, f"TP {tp}, FN {positives - tp}, FP {fp}, TN {n - positives - fp}"
        if column.one_class:
            least, most = cell["recall"].numerators(positives, how) if "recall" in cell else (0, positives)
            return 0, f"no TP of {positives:,} gives this recall" if least > most else "no FP fits all numbers"
    able = rights(cell, n, how)
    if not able:
        return 0, _unright(n)
    if "weighted_f1" not in cell:
        return 1, f"{able[0]} right"
    counts, number = list((column.counts or {}).values()), cell["weighted_f1"]
    for unparsed in (False, True):
        for right in able:
            if found := witness(counts, right, number, how, unparsed):
                return 1, f"{right} right ({' '.join(map(str, found[0]))}){', some unparsed' * unparsed}"
    above = all(number.limits(how)[0] > 2 * number.scale * highest(counts, right) for right in able)
    return 0, f"{able[0]} right, but weighted F1 is {'too high for that' if above else 'undecided'}"


def _unright(n: int) -> str:
    return f"no number of right answers of {n:,} gives this accuracy"


def constant(column: Column, positives: Array) -> dict[str, Array]:
    """Metric -> fraction, for each number of positives: always the positive class, or always the majority class."""
    n = column.rows
    if column.one_class:
        return {"precision": positives / n, "recall": positives / positives, "f1": 2 * positives / (positives + n)}
    top = np.array([max(column.counts.values())]) if column.counts else np.maximum(positives, n - positives)
    return {"accuracy": top / n, "weighted_f1": top / n * 2 * top / (top + n)}


def against_constant(cell: Printed, baselines: dict[str, Array]) -> tuple[str, str]:
    """The constant's numbers, cut at the cell's digits, and whether the cell beats them by more than rounding."""
    texts, beaten = [], {}
    for metric, number in cell.items():
        ends = (number.cut(float(baselines[metric].min())), number.cut(float(baselines[metric].max())))
        texts.append("-".join(dict.fromkeys(ends)))
        if metric not in ("precision", "recall"):  # either alone can be had for nothing
            beaten[metric] = 2 * number.digits - 1 > 2 * number.scale * baselines[metric]
    both = np.logical_and.reduce(list(beaten.values())) if beaten else np.zeros(1, bool)
    if both.all() or not any(each.any() for each in beaten.values()):
        said = "yes" if both.all() else "no" if beaten else "-"
    elif len(both) == 1:
        said = ", ".join(NAMES[metric] for metric, each in beaten.items() if each.all()) + " only"
    else:
        said = f"for {both.sum():,} of {len(both):,} P"
    return " / ".join(texts), said


def audit_column(table: Table, at: int, percent: bool) -> TestSet:
    """All cells of a column. Raises UserError for a column or a cell that cannot be audited."""
    column, found = table.columns[at], TestSet(table.title, table.columns[at])
    where, n, everything = f"{table.title}: {column.title}", column.rows, np.arange(1, column.rows)
    column.check(where)
    cells = {row: cell for row, texts in table.rows.items()
             if (cell := read_cell(texts[at], column, percent, f"{where}: {row}"))}
    fits: dict[str, dict[str, Array]] = {how: {} for how in HOW}
    chance = {row: by_chance(cell, everything, n) for row, cell in cells.items()}
    if column.searched and cells:
        for how in HOW:
            search = one_class if column.one_class else two_classes
            fits[how] = {row: search(cell, everything, n, how).matrices > 0 for row, cell in cells.items()}
            found.fit(how, np.stack(list(fits[how].values())), np.stack(list(chance.values())))
    likely = np.array([column.positives or 1] if column.counts else found.best.get(found.how, everything))
    for row, cell in cells.items():
        if column.n and column.searched:
            why = "" if column.one_class or any(rights(cell, n, how) for how in HOW) else _unright(n)
            results = {how: (int(fits[how][row].sum()), why) for how in HOW}
            odds = float(1 - np.prod(1 - chance[row])) if column.one_class else float(chance[row][0])
        else:
            results = {how: explain(column, cell, how) for how in HOW}
            odds = float(by_chance(cell, likely, n)[0])
        shown = next((text for count, text in results.values() if count), results[HOW[0]][1])
        found.cells.append(Cell(table.title, row, column.title, table.rows[row][at],
                                {how: count for how, (count, _) in results.items()}, odds, shown,
                                *against_constant(cell, constant(column, likely))))
    return found


def of_paper(said: Published) -> Tables:
    """The paper's Tables 3-5 in the form of a file."""
    return Tables(tables=[Table(
        title=f"Table {table.number}",
        columns=[Column(title=f"{column.group} {column.title}", metrics=column.metrics, counts=column.counts,
                        n=column.n, positive=task(column.task).positive if column.counts else None)
                 for column in table.columns],
        rows={said.rows[row].title: cells for row, cells in table.published.items()},
    ) for table in said.tables])


def tally(test_sets: Iterable[TestSet], key: str) -> list[dict[str, Any]]:
    """Counts of cells by their `table` or `row` (an attribute of Cell), in order of appearance."""
    groups: dict[str, list[Cell]] = {}
    for cell in (cell for found in test_sets for cell in found.cells):
        groups.setdefault(getattr(cell, key), []).append(cell)
    return [{
        "name": name, "cells": len(cells), "reachable": sum(cell.reachable for cell in cells),
        "by_chance": sum(cell.by_chance for cell in cells), "beats": sum(cell.beats == "yes" for cell in cells),
        "open": sum(cell.beats.startswith("for ") for cell in cells),
        **{how: sum(cell.found[how] > 0 for cell in cells) for how in HOW},
        "only": {how: sum(cell.reachable and not cell.found[other] for cell in cells)
                 for how, other in (HOW, HOW[::-1])},
    } for name, cells in groups.items()]


def page(tables: Tables, source: str, said: Published | None) -> tuple[str, list[TestSet]]:
    """The audit as Markdown; `said` adds where the paper contradicts itself."""
    test_sets = [audit_column(table, at, tables.percent) for table in tables.tables for at in range(len(table.columns))]
    wrong = {} if said is None else {
        "f1": list(contradictions.wrong_f1(said)), "gains": list(contradictions.wrong_gains(said)),
        "claims": list(contradictions.wrong_claims(said)), "sums": list(contradictions.wrong_sums(said)),
        "repeated": list(contradictions.repeated(said)),
        "of": {"gains": sum(len(gains) for table in said.tables for gains in table.gains.values()),
               "claims": len(said.claims)}}
    template = environment(TEMPLATES, {
        "md": lambda text: " ".join(str(text).split()).replace("|", r"\|"), "spans": spans,
    }, keep_trailing_newline=True).get_template("audit.md.j2")
    return template.render(test_sets=test_sets, tally=tally, source=source, how=HOW, wrong=wrong), test_sets


def spans(numbers: list[int]) -> str:
    """`1,673`, or for more than three `2,907 numbers in 4,909-12,345`."""
    if len(numbers) <= 3:
        return ", ".join(f"{number:,}" for number in numbers)
    return f"{len(numbers):,} numbers in {numbers[0]:,}-{numbers[-1]:,}"


def rows(test_sets: list[TestSet]) -> list[list[str]]:
    """HEADER's fields for each cell."""
    return [[cell.table, cell.row, cell.column, cell.printed, str(cell.found["truncate"]), str(cell.found["round"]),
             f"{cell.by_chance:.4f}", cell.matrix, cell.constant, cell.beats]
            for found in test_sets for cell in found.cells]


def _main(given: argparse.Namespace) -> None:
    said = None if given.file else published()
    tables = of_paper(said) if said else checked(Tables, load_yaml(given.file), str(given.file))
    for table in tables.tables:
        for row, cells in table.rows.items():
            if len(cells) != len(table.columns):
                raise UserError(f"{given.file}: {table.title}: {row}: {len(cells)} cells, "
                                f"but the table has {len(table.columns)} columns")
    text, test_sets = page(tables, given.file.name if given.file else "", said)
    if given.csv:
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([HEADER, *rows(test_sets)])
        with writing(given.csv) as stream:
            stream.write(lines.getvalue())
    if given.out:
        with writing(given.out) as stream:
            stream.write(text)
    print(given.out or text)


def main() -> None:
    """Audit the paper's tables, or those of a file."""
    arguments = cli.parser("eval.audit", """\
Is there a confusion matrix behind each published number, and does it beat a constant answer?

FILE has the tables of any paper, numbers as printed:

  percent: true                # false: 0.6910 is printed, not 69.10
  tables:
    - title: Table 4
      columns:
        - {title: switches, metrics: [accuracy, weighted_f1], counts: {match: 439, other: 429}}
        - {title: BGL, metrics: [precision, recall, f1], counts: {abnormal: 28, normal: 72}, positive: abnormal}
        - {title: Spirit, metrics: [precision, recall, f1], n: 50000}   # label counts not known
      rows:
        ChatGPT: ["66.58 / 62.57", "31.55 / 100.0 / 47.96", "-"]        # a cell a column; - is none""", """
python -m eval.audit --out docs/audit.md
python -m eval.audit tables.yaml --csv cells.csv""")
    arguments.add_argument("file", nargs="?", type=Path, metavar="FILE", help="YAML (default: this paper's Tables 3-5)")
    arguments.add_argument("--out", type=Path, help="write the page here instead of printing it")
    arguments.add_argument("--csv", type=Path, help="also write the cells as CSV")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
