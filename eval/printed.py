"""Tables as papers print them: numbers of so many digits, and test sets of so many rows a label."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from logreasoner.cli import UserError
from logreasoner.schemas import Declared

HOW = ("truncate", "round")
POSITIVE = {"precision", "recall", "f1"}  # metrics of one class, and those of all classes
OVERALL = {"accuracy", "weighted_f1"}
MOST = {True: 100_000, False: 1_500}  # rows up to which every number of positives is tried: of one class, of both
FAR = 2**62
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Number:
    """A printed number: the fraction digits / scale (66.58 in percent: 6658 / 10000, with two decimals)."""

    digits: int
    scale: int
    decimals: int = 0

    def cut(self, fraction: float) -> str:
        """Another fraction, truncated and printed like this one."""
        return f"{int(fraction * self.scale + 1e-9) / 10 ** self.decimals:.{self.decimals}f}"

    def limits(self, how: str) -> tuple[int, int, int]:
        """Least and greatest fraction that print so, in 1 / (2 scale); the third is 1 if the greatest does not."""
        twice = 2 * self.digits
        return (twice, twice + 2, 1) if how == "truncate" else (twice - 1, twice + 1, 0)

    def numerators(self, whole: Any, how: str) -> tuple[Any, Any]:
        """The least and the greatest x for which x / whole prints so (none if the least is the greater one)."""
        low, high, is_open = self.limits(how)
        return -(-low * whole // (2 * self.scale)), (high * whole - is_open) // (2 * self.scale)

    def denominators(self, part: Array, how: str) -> tuple[Array, Array]:
        """The least and the greatest x for which part / x prints so; 0 / 0 is 0."""
        low, high, is_open = self.limits(how)
        twice = 2 * self.scale * part
        least, most = -(-(twice + is_open) // high), twice // low if low > 0 else np.full_like(part, FAR)
        return np.where(part == 0, 0, least), np.where(part == 0, FAR if low <= 0 else -1, most)


Printed = dict[str, Number]  # metric -> number


class Column(Declared):
    """A test set and the metrics printed for it: its label counts, or only its size n (then taken as two classes)."""

    title: str
    metrics: list[str]
    counts: dict[str, int] | None = None
    n: int | None = None
    positive: str | None = None

    @property
    def rows(self) -> int:
        """How many rows the test set has."""
        return sum(self.counts.values()) if self.counts else self.n or 0

    @property
    def one_class(self) -> bool:
        """Whether the metrics are those of the positive class."""
        return bool(POSITIVE & set(self.metrics))

    @property
    def positives(self) -> int | None:
        """Rows of the positive class, or of the first of two; None if not known or more classes."""
        if not self.counts or (not self.one_class and len(self.counts) > 2):
            return None
        return self.counts[self.positive or next(iter(self.counts))]

    @property
    def searched(self) -> bool:
        """Whether every number of positives is tried."""
        two = self.one_class or ("weighted_f1" in self.metrics and len(self.counts or "ab") == 2)
        return two and self.rows <= MOST[self.one_class]

    def check(self, where: str) -> None:
        """Raises UserError for what cannot be audited."""
        given, least = set(self.metrics), min((self.counts or {}).values(), default=1)
        if not (given and given <= POSITIVE) and not ("accuracy" in given and given <= OVERALL):
            raise UserError(f"{where}: metrics: some of precision, recall, f1; or accuracy; or accuracy, weighted_f1")
        if (self.counts is None) == (self.n is None) or self.rows < 2 or least < 1 or len(self.counts or "ab") < 2:
            raise UserError(f"{where}: give either counts, two labels or more with at least a row each, or n")
        if self.counts and (self.one_class or self.positive) and self.positive not in self.counts:
            raise UserError(f"{where}: positive: name the positive class, one of {', '.join(self.counts)}")
        if self.n and self.one_class and "recall" not in given:
            raise UserError(f"{where}: with n alone the cells need recall; give counts")
        if self.n and not self.searched and given != {"accuracy"}:
            raise UserError(f"{where}: {self.n:,} rows are too many to try every number of positives (at most "
                            f"{MOST[self.one_class]:,}); give counts")


class Table(Declared):
    """A table of a paper: row -> one string a column, its numbers in the order of the column's metrics."""

    title: str
    columns: list[Column]
    rows: dict[str, list[str]]


class Tables(Declared):
    """A file of tables; percent: whether 69.10 or 0.6910 is printed."""

    percent: bool = True
    tables: list[Table]


def read_cell(text: str, column: Column, percent: bool, where: str) -> Printed | None:
    """The numbers of a cell; None for a cell that is empty or a dash. Raises UserError."""
    if text.strip() in ("", "-", "\u2013", "\u2014"):
        return None
    parts = [part.strip().removesuffix("%").strip() for part in text.split("/")]
    if len(parts) != len(column.metrics) or not all(re.fullmatch(r"\d{1,3}(\.\d{1,6})?", part) for part in parts):
        raise UserError(f"{where}: {text!r}: expected {' / '.join(column.metrics)} as printed, such as 69.10 / 76.09")
    cell = {}
    for metric, part in zip(column.metrics, parts, strict=True):
        whole, _, decimals = part.partition(".")
        scale = (100 if percent else 1) * 10 ** len(decimals)
        cell[metric] = number = Number(int(whole + decimals), scale, len(decimals))
        if number.digits > number.scale:
            raise UserError(f"{where}: {text!r}: {part} is more than {'100 percent' if percent else '1'}")
    return cell
