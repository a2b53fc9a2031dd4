"""Is there a confusion matrix behind a published number, and does it beat a constant answer? (docs/audit.md)

Without a file: the paper's Tables 3-5 and where the paper contradicts itself. With one: any paper's tables.

A printed number stands for an interval of fractions, truncated or rounded at its last digit; matrices are counted in
whole numbers. Precision, recall and F1 of one class depend on TP and FP only: an unparsed answer is a miss that claims
no class and changes neither. Accuracy and weighted F1 of two classes are counted with every answer parsed. Of more
classes only the accuracy is audited, their weighted F1 is not. Where only the size n of a test set is known, every
number of positives P is tried.
"""

import argparse
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from eval.contradictions import by_kind
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import load_yaml, task
from logreasoner.files import TEMPLATES, writing
from logreasoner.paper import NAMES, Published, published
from logreasoner.schemas import Declared, checked
from logreasoner.templating import environment

if TYPE_CHECKING:
    import pandas as pd

HOW = ("truncated", "rounded")
OF_ONE_CLASS, OVERALL = {"precision", "recall", "f1"}, {"accuracy", "weighted_f1"}
LARGEST = {True: 100_000, False: 1_500}  # n up to which every P is tried: with the metrics of one class, of all
UNBOUNDED = 2**62
GRID = 2**22  # pairs of P and TP that are tried at once
# Of a cell, and of the CSV: how many matrices print so, or for how many P there is one; and one of them.
CELL = ["table", "row", "column", "printed", "truncated", "rounded", "by_chance", "matrix", "constant", "beats"]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Number:
    """A printed number: the fraction digits / scale (66.58 in percent: 6658 / 10000, with two decimals)."""

    digits: int
    scale: int
    decimals: int = 0

    def cut(self, fraction: float) -> str:
        """Print another fraction like this one, truncated."""
        return f"{int(fraction * self.scale + 1e-9) / 10 ** self.decimals:.{self.decimals}f}"

    def limits(self, how: str) -> tuple[int, int, int]:
        """Return the least and greatest fraction that print so, in 1 / (2 scale), and 1 if the greatest does not."""
        twice = 2 * self.digits
        return (twice, twice + 2, 1) if how == "truncated" else (twice - 1, twice + 1, 0)

    def numerators(self, whole: Any, how: str) -> tuple[Any, Any]:
        """Return the least and greatest x for which x / whole prints so (none if the least is the greater one)."""
        low, high, is_open = self.limits(how)
        return -(-low * whole // (2 * self.scale)), (high * whole - is_open) // (2 * self.scale)

    def denominators(self, part: Array, how: str) -> tuple[Array, Array]:
        """Return the least and greatest x for which part / x prints so; 0 / 0 is 0."""
        low, high, is_open = self.limits(how)
        twice = 2 * self.scale * part
        least, most = -(-(twice + is_open) // high), twice // low if low > 0 else np.full_like(part, UNBOUNDED)
        return np.where(part == 0, 0, least), np.where(part == 0, UNBOUNDED if low <= 0 else -1, most)


Numbers = dict[str, Number]  # those of a cell, by metric


class Column(Declared):
    """A test set and the metrics printed for it: its label counts, or only its size n (then taken as two classes)."""

    title: str
    metrics: list[str]
    counts: dict[str, int] | None = None
    n: int | None = None
    positive: str | None = None

    @property
    def size(self) -> int:
        """Rows of the test set."""
        return sum(self.counts.values()) if self.counts else self.n or 0

    @property
    def one_class(self) -> bool:
        """Whether the metrics are those of the positive class."""
        return bool(OF_ONE_CLASS & set(self.metrics))

    @property
    def positives(self) -> int | None:
        """Rows of the positive class, or of the first of two; None if not known or more classes."""
        if not self.counts or (not self.one_class and len(self.counts) > 2):
            return None
        return self.counts[self.positive or next(iter(self.counts))]

    @property
    def searched(self) -> bool:
        """Whether every P is tried."""
        return self.size <= LARGEST[self.one_class] and (
            self.one_class or ("weighted_f1" in self.metrics and len(self.counts or "ab") == 2))

    @property
    def accuracy_only(self) -> bool:
        """Whether the accuracy is all that is audited."""
        return not self.searched and self.positives is None

    def check(self, where: str) -> None:
        """Raise UserError for what cannot be audited."""
        metrics, least = set(self.metrics), min((self.counts or {}).values(), default=1)
        if not (metrics and metrics <= OF_ONE_CLASS) and not ("accuracy" in metrics and metrics <= OVERALL):
            raise UserError(f"{where}: metrics: some of precision, recall, f1; or accuracy; or accuracy, weighted_f1")
        if (self.counts is None) == (self.n is None) or self.size < 2 or least < 1 or len(self.counts or "ab") < 2:
            raise UserError(f"{where}: give either counts, two labels or more with at least a row each, or n")
        if self.counts and (self.one_class or self.positive) and self.positive not in self.counts:
            raise UserError(f"{where}: positive: name the positive class, one of {', '.join(self.counts)}")
        if self.n and self.one_class and "recall" not in metrics:
            raise UserError(f"{where}: with n alone the cells need recall; give counts")
        if self.n and not self.searched and metrics != {"accuracy"}:
            raise UserError(f"{where}: {self.n:,} rows are too many to try every number of positives (at most "
                            f"{LARGEST[self.one_class]:,}); give counts")

    def read(self, text: str, percent: bool, where: str) -> Numbers | None:
        """Read a cell; None for one that is empty or a dash. Raises UserError."""
        if text.strip() in ("", "-", "\u2013", "\u2014"):
            return None
        parts = [part.strip().removesuffix("%").strip() for part in text.split("/")]
        if len(parts) != len(self.metrics) or not all(re.fullmatch(r"\d{1,3}(\.\d{1,6})?", part) for part in parts):
            raise UserError(f"{where}: {text!r}: expected {' / '.join(self.metrics)} as printed, such as 69.10 / 76.09")
        numbers = {}
        for metric, part in zip(self.metrics, parts, strict=True):
            whole, _, decimals = part.partition(".")
            scale = (100 if percent else 1) * 10 ** len(decimals)
            numbers[metric] = number = Number(int(whole + decimals), scale, len(decimals))
            if number.digits > number.scale:
                raise UserError(f"{where}: {text!r}: {part} is more than {'100 percent' if percent else '1'}")
        return numbers


class Table(Declared):
    """A table of a paper: row -> one string a column, its numbers in the order of the column's metrics."""

    title: str
    columns: list[Column]
    rows: dict[str, list[str]]


class Tables(Declared):
    """A file of tables; percent: whether 69.10 or 0.6910 is printed."""

    percent: bool = True
    tables: list[Table]


class Fit(NamedTuple):
    """The P that fit most rows of a column, how many rows that are, and how many such P chance would give."""

    rows: int
    best: list[int]
    expected: float


class TestSet(NamedTuple):
    """An audited column with its cells (CELL); by convention, which P fit where every P is tried."""

    table: str
    column: Column
    cells: list[dict[str, Any]]
    fits: dict[str, Fit]


def _claims(numbers: Numbers, tp: Array, positives: Array, n: int,
            bounds: Callable[[Number, Array], tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return the least and greatest number of answers that may claim the positive class, by precision and F1."""
    low, high = [tp], [tp + n - positives]
    for metric, times, less in (("precision", 1, 0), ("f1", 2, positives)):
        if metric in numbers:
            least, most = bounds(numbers[metric], times * tp)
            low, high = [*low, least - less], [*high, most - less]
    return np.maximum.reduce(low), np.minimum.reduce(high)


def matrices(numbers: Numbers, positives: Array, n: int, how: str) -> Array:
    """Count the (TP, FP) that print as the numbers given; for each P: matrices, and TP and FP of one.

    For each TP, precision, F1 and accuracy leave an interval of FP; the weighted F1 of two classes is tried in it.
    """
    right, many = rights(numbers, n, how), positives[:, None]
    least, most = numbers["recall"].numerators(many, how) if "recall" in numbers else (right.start + many - n, many)
    least, most = np.maximum(least, 0), np.minimum(most, many)
    steps = np.arange(max(int((most - least).max()), 0) + 1)
    if len(positives) > 1 and len(positives) * len(steps) > GRID:
        return np.hstack([matrices(numbers, half, n, how) for half in np.array_split(positives, 2)])
    tp = most - steps if "accuracy" in numbers else least + steps
    low, high = _claims(numbers, tp, many, n, lambda number, part: number.denominators(part, how))
    low, high = np.maximum(low - tp, tp - many + n - right.stop + 1), np.minimum(high - tp, tp - many + n - right.start)
    count = np.where((least <= tp) & (tp <= most), np.maximum(high - low + 1, 0), 0)
    if "weighted_f1" in numbers:
        width, least, count = count, low, np.zeros_like(count)
        for more in range(width.max()):
            fits = (more < width) & _weighted(numbers["weighted_f1"], tp, least + more, many, n, how)
            low, count = np.where(fits & (count == 0), least + more, low), count + fits
    first = np.arange(len(positives)), (count > 0).argmax(1)
    return np.stack([count.sum(1), tp[first], low[first]])


def _weighted(number: Number, tp: Array, fp: Array, positives: Array, n: int, how: str) -> Array:
    """Tell whether 2 TP / (2 TP + FP + FN) and 2 TN / (2 TN + FP + FN), weighted by their classes, print so."""
    if 16 * n**3 * number.scale >= UNBOUNDED:
        tp, fp, positives = (part.astype(object) for part in (tp, fp, positives))  # Python's whole numbers
    tn, wrong = n - positives - fp, positives - tp + fp
    above = 4 * number.scale * (positives * tp * (2 * tn + wrong) + (n - positives) * tn * (2 * tp + wrong))
    below = n * (2 * tp + wrong) * (2 * tn + wrong)
    low, high, is_open = number.limits(how)
    return np.asarray((above >= low * below) & (above <= high * below - is_open), bool)


def rights(numbers: Numbers, n: int, how: str) -> range:
    """Return the numbers of right answers of n that print as the accuracy, if one is given."""
    if "accuracy" not in numbers:
        return range(n + 1)
    least, most = numbers["accuracy"].numerators(n, how)
    return range(max(least, 0), min(most, n) + 1)


def by_chance(numbers: Numbers, positives: Array, n: int) -> Array:
    """Return, for each P, how likely a matrix would be if the label counts were unrelated to the numbers.

    As if truncated numbers fell anywhere: for accuracy n / scale (weighted F1 would only make it less), for one class
    the chance that one of the whole numbers in recall's interval has a whole number in that of precision and F1.
    """
    if "accuracy" in numbers:
        return np.full(len(positives), min(1.0, n / numbers["accuracy"].scale))
    recall = numbers.get("recall", Number(0, 1))
    hit = np.zeros(len(positives))
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):  # the mean over where in its interval recall lies
        tp = np.minimum(1, (recall.digits + part) / recall.scale) * positives
        low, high = _claims(numbers, tp, positives, n, lambda number, part: (
            part * number.scale / (number.digits + 1), part * number.scale / max(number.digits, 1e-9)))
        hit += np.clip(high - low, 0, 1) / 5
    tries = positives / recall.scale
    chance: Array = np.where(tries < 1, tries * hit, 1 - (1 - hit) ** tries)
    return chance


def constant(column: Column, positives: Array) -> dict[str, Array]:
    """Return metric -> fraction, for each P: always the positive class, or always the majority class."""
    n = column.size
    if column.one_class:
        return {"precision": positives / n, "recall": positives / positives, "f1": 2 * positives / (positives + n)}
    top = np.array([max(column.counts.values())]) if column.counts else np.maximum(positives, n - positives)
    return {"accuracy": top / n, "weighted_f1": top / n * 2 * top / (top + n)}


def against_constant(numbers: Numbers, baselines: dict[str, Array]) -> tuple[str, str]:
    """Return the constant's numbers, cut at the cell's digits, and whether the cell beats them by more than rounding.

    Precision or recall alone counts for nothing: either can be had without an effort.
    """
    texts, beaten = [], {}
    for metric, number in numbers.items():
        ends = (number.cut(float(baselines[metric].min())), number.cut(float(baselines[metric].max())))
        texts.append("-".join(dict.fromkeys(ends)))
        if metric not in ("precision", "recall"):
            beaten[metric] = 2 * number.digits - 1 > 2 * number.scale * baselines[metric]
    everywhere = np.logical_and.reduce(list(beaten.values())) if beaten else np.zeros(1, bool)
    if everywhere.all() or not any(wins.any() for wins in beaten.values()):
        verdict = "yes" if everywhere.all() else "no" if beaten else "-"
    elif len(everywhere) == 1:
        verdict = ", ".join(NAMES[metric] for metric, wins in beaten.items() if wins.all()) + " only"
    else:
        verdict = f"for {everywhere.sum():,} of {len(everywhere):,} P"
    return " / ".join(texts), verdict


def fit(counts: Array, chance: Array) -> Fit:
    """Find the P (1, 2, ...) that fit most rows; both arrays have a line a row and a column a P."""
    rows = (counts > 0).sum(0)
    odds = np.zeros((len(chance) + 1, chance.shape[1]))  # of so many rows fitting by chance
    odds[0] = 1
    for line in chance:
        odds[1:] = odds[1:] * (1 - line) + odds[:-1] * line
        odds[0] *= 1 - line
    return Fit(int(rows.max()), (np.flatnonzero(rows == rows.max()) + 1).tolist(), float(odds[rows.max():].sum()))


def explain(column: Column, numbers: Numbers, found: Array | None, how: str) -> tuple[int, str]:
    """Return how many matrices print so, or for how many P there is one, and a matrix or why there is none."""
    n, positives = column.size, column.positives
    able = rights(numbers, n, how)
    if not able:
        return 0, f"no number of right answers of {n:,} gives this accuracy"
    if found is None:
        return 1, f"{able[0]} right" + "; weighted F1 not audited" * ("weighted_f1" in numbers)
    if positives is None:
        return int((found[0] > 0).sum()), ""
    count, tp, fp = found[:, positives - 1 if column.searched else 0].tolist()
    if count:
        return count, f"TP {tp}, FN {positives - tp}, FP {fp}, TN {n - positives - fp}"
    if not column.one_class:
        return 0, f"{able[0]} right, but no matrix of them has this weighted F1"
    least, most = numbers["recall"].numerators(positives, how) if "recall" in numbers else (0, positives)
    return 0, f"no TP of {positives:,} gives this recall" if least > most else "no FP fits all numbers"


def audit_column(table: Table, at: int, percent: bool) -> TestSet:
    """Audit a column. Raises UserError for one, or a cell of it, that cannot be audited."""
    column = table.columns[at]
    where = f"{table.title}: {column.title}"
    column.check(where)
    n, positives = column.size, column.positives
    cells = {row: numbers for row, texts in table.rows.items()
             if (numbers := column.read(texts[at], percent, f"{where}: {row}"))}
    tried = np.arange(1, n) if column.searched else np.array([positives or 1])
    found = {how: {row: None if column.accuracy_only else matrices(numbers, tried, n, how)
                   for row, numbers in cells.items()} for how in HOW}
    chance = {row: by_chance(numbers, tried, n) for row, numbers in cells.items()}
    fits = {how: fit(np.stack([result[0] for result in found[how].values() if result is not None]),
                     np.stack(list(chance.values()))) for how in HOW if column.searched and cells}
    how = max(HOW, key=lambda how: fits[how].rows) if fits else HOW[0]
    likely = np.array([positives or 1] if column.counts else fits[how].best if fits else np.arange(1, n))
    audited = []
    for row, numbers in cells.items():
        results = [explain(column, numbers, found[how][row], how) for how in HOW]
        odds = 1 - np.prod(1 - chance[row]) if positives is None and column.one_class else (
            chance[row][(positives or 1) - 1 if column.searched else 0])
        matrix = next((text for count, text in results if count), results[0][1])
        values = (table.title, row, column.title, table.rows[row][at], *(count for count, _ in results), float(odds),
                  matrix, *against_constant(numbers, constant(column, likely)))
        audited.append(dict(zip(CELL, values, strict=True)))
    return TestSet(table.title, column, audited, fits)


def of_paper(paper: Published) -> Tables:
    """Return the paper's Tables 3-5 in the form of a file."""
    return Tables(tables=[Table(
        title=f"Table {table.number}",
        columns=[Column(title=f"{column.group} {column.title}", metrics=column.metrics, counts=column.counts,
                        n=column.n, positive=task(column.task).positive if column.counts else None)
                 for column in table.columns],
        rows={paper.rows[row].title: cells for row, cells in table.published.items()},
    ) for table in paper.tables])


def tally(cells: "pd.DataFrame", key: str) -> list[dict[Hashable, Any]]:
    """Count the cells of each `table` or `row`, in order of appearance."""
    truncated, rounded = cells.truncated > 0, cells.rounded > 0
    facts = cells.assign(
        cells=1, reachable=truncated | rounded, truncated=truncated, rounded=rounded,
        only_truncated=truncated & ~rounded, only_rounded=rounded & ~truncated, beats=cells.beats == "yes",
        open=cells.beats.str.startswith("for "), name=cells[key])
    groups = facts.groupby("name", sort=False).sum(numeric_only=True)
    return groups.reset_index().to_dict("records")


def page(tables: Tables, source: str, paper: Published | None) -> tuple[str, list[TestSet], "pd.DataFrame"]:
    """Return the audit as Markdown, its columns and its cells; `paper` adds where the paper contradicts itself."""
    import pandas as pd

    test_sets = [audit_column(table, at, tables.percent) for table in tables.tables for at in range(len(table.columns))]
    cells = pd.DataFrame([cell for test_set in test_sets for cell in test_set.cells], columns=CELL)
    template = environment(TEMPLATES, {"spans": spans}, keep_trailing_newline=True).get_template("audit.md.j2")
    return template.render(
        test_sets=test_sets, tables=tally(cells, "table"), rows=tally(cells, "row"), source=source, how=HOW,
        contradictions=by_kind(paper) if paper else {}), test_sets, cells


def spans(numbers: list[int]) -> str:
    """Print `1,673`, or for more than three `2,907 numbers in 4,909-12,345`."""
    if len(numbers) <= 3:
        return ", ".join(f"{number:,}" for number in numbers)
    return f"{len(numbers):,} numbers in {numbers[0]:,}-{numbers[-1]:,}"


def _main(arguments: argparse.Namespace) -> None:
    file = arguments.file
    paper = None if file else published()
    tables = of_paper(paper) if paper else checked(Tables, load_yaml(file), str(file))
    for table in tables.tables:
        for row, cells in table.rows.items():
            if len(cells) != len(table.columns):
                raise UserError(f"{file}: {table.title}: {row}: {len(cells)} cells, "
                                f"but the table has {len(table.columns)} columns")
    text, _, frame = page(tables, file.name if file else "", paper)
    for path, content in ((arguments.csv, frame.to_csv(index=False, float_format="%.4f")), (arguments.out, text)):
        if path:
            with writing(path) as stream:
                stream.write(content)
    print(arguments.out or text)


def main() -> None:
    """Audit the paper's tables, or those of a file."""
    parser = cli.parser("eval.audit", """\
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
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="YAML (default: this paper's Tables 3-5)")
    parser.add_argument("--out", type=Path, help="write the page here instead of printing it")
    parser.add_argument("--csv", type=Path, help="also write the cells as CSV")
    cli.run(parser, _main)


if __name__ == "__main__":
    main()
