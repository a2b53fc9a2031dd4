"""Load the paper's printed numbers (experiments/tables.yaml) and list the grid of cells that reproduces them."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from logreasoner.cli import UserError
from logreasoner.config import load_yaml
from logreasoner.files import EXPERIMENTS
from logreasoner.schemas import Declared, checked

TABLE1_MODEL = "llama3.1-8b"  # Table 1 does not say whose right and wrong solutions its stage 2 counts
NAMES = {"precision": "Precision", "recall": "Recall", "f1": "F1", "accuracy": "Accuracy", "weighted_f1": "Weighted-F1"}


class ModelStage(Declared):
    """A model of models.yaml at a stage, whose results fill a row."""

    model: str
    stage: str


class Row(Declared):
    """A method of Tables 3-5; `base` is the row its printed (+X) are measured from."""

    title: str
    base: str | None = None
    filled_by: ModelStage
    tasks: list[str] = []

    def fits(self, task: str) -> bool:
        """Tell whether the method can answer a task."""
        return not self.tasks or task in self.tasks

    @property
    def baseline(self) -> bool:
        """Tell whether the method is a baseline, which needs no language model."""
        return self.filled_by.stage == "baseline"


class Column(Declared):
    """A test set of a table, and the metrics that the paper prints for it; counts or n as the head of the file says."""

    task: str
    source: str
    group: str
    title: str
    metrics: list[str]
    gain: str = ""
    counts: dict[str, int] | None = None
    n: int | None = None

    @property
    def heading(self) -> str:
        """Return the heading, like `BGL (Precision / Recall / F1)`."""
        return f"{self.title} ({' / '.join(NAMES.get(name, name) for name in self.metrics)})"


class Table(Declared):
    """A table as printed: for each row a string for each column, with parts in the order of the column's metrics."""

    number: int
    title: str
    columns: list[Column]
    published: dict[str, list[str]]
    gains: dict[str, list[str]]

    def parts(self, row: str, at: int) -> list[str]:
        """Return the numbers of a row in a column, as printed; empty strings for a row that the paper lacks."""
        if row not in self.published:
            return [""] * len(self.columns[at].metrics)
        return self.published[row][at].split(" / ")

    def printed(self, row: str) -> list[str]:
        """Return a row's cells with the (+X) after the metric it belongs to."""
        cells = []
        for at, column in enumerate(self.columns):
            parts = self.parts(row, at)
            if row in self.gains:
                parts[column.metrics.index(column.gain)] += f" ({self.gains[row][at]})"
            cells.append(" / ".join(parts))
        return cells


class Panel(Declared):
    """An axis of a figure: the mean of a metric over sources of a task."""

    key: str
    title: str
    task: str
    sources: list[str]
    metric: str


class Point(Declared):
    """A point that a figure shows for each of its models: the score of a stage (of `model` instead, if set)."""

    key: str
    title: str
    stage: str
    model: str | None = None
    series: str = ""
    x: float | None = None
    row: Literal["base", "logreasoner"] | None = None


class Statement(Declared):
    """The text about a point: its value, or its difference from another point of the panel, in percent."""

    panel: str
    point: str
    model: str | None = None
    value: float | None = None
    than: str | None = None
    difference: float | None = None
    at_least: float | None = None


class Figure(Declared):
    """A figure: points in panels for each model; kind `thoughts` shows D_thought and has neither."""

    number: int
    title: str
    section: str | float
    kind: Literal["bars", "lines", "thoughts"]
    models: list[str] = []
    panels: list[Panel] = []
    points: list[Point] = []
    stated: list[Statement] = []


class Claim(Declared):
    """A difference of two rows' means over sources, as the text prints it."""

    section: str | float
    row: str
    than: str
    task: str
    metric: str
    sources: list[str] = []
    printed: float


class Published(Declared):
    """experiments/tables.yaml."""

    metrics: list[list[str]]
    rows: dict[str, Row]
    tables: list[Table]
    data_tables: dict[str, dict[str, Any]]
    figures: list[Figure]
    claims: list[Claim]

    def figure(self, number: int) -> Figure:
        """Return a figure by its number. Raises UserError with the known ones."""
        for figure in self.figures:
            if figure.number == number:
                return figure
        known = ", ".join(str(figure.number) for figure in self.figures)
        raise UserError(f"no figure {number}; the paper's figures with results are {known}")

    def number(self, row: str, task: str, source: str, metric: str) -> float | None:
        """Return a published number of Tables 3-5, None if there is none."""
        for table in self.tables:
            for at, column in enumerate(table.columns):
                if (column.task, column.source) == (task, source) and row in table.published:
                    return float(table.parts(row, at)[column.metrics.index(metric)])
        return None

    def mean(self, row: str, task: str, metric: str, sources: list[str]) -> float | None:
        """Return the mean of a row's published numbers over sources, None unless all are published."""
        values = [self.number(row, task, source, metric) for source in sources]
        numbers = [value for value in values if value is not None]
        return sum(numbers) / len(numbers) if numbers and len(numbers) == len(values) else None

    def point_value(self, figure: Figure, panel: Panel, key: str, model: str) -> float | None:
        """Return the paper's value of a point: printed in a table, stated, or derived from both; None without one."""
        point = next(point for point in figure.points if point.key == key)
        if point.row:
            filled = ModelStage(model=model, stage={"base": "base", "logreasoner": "dpo"}[point.row])
            row = next((name for name, row in self.rows.items() if row.filled_by == filled), "")
            if (mean := self.mean(row, panel.task, panel.metric, panel.sources)) is not None:
                return mean
        for stated in figure.stated if model in figure.models else []:
            if (stated.panel, stated.point) == (panel.key, key) and stated.model in (None, model):
                if stated.value is not None:
                    return stated.value
                other = self.point_value(figure, panel, stated.than or "", model)
                return None if other is None else other + (stated.difference or 0.0)
        return None


@dataclass(frozen=True)
class Cell:
    """One number of the grid: where it is printed, what it measures, and the command whose result fills it.

    It comes from the scores of a model at a stage on (task, source) pairs, or, without a model, from a file of the run.
    """

    table: str
    row: str
    dataset: str
    metric: str
    published: str
    command: str
    model: str = ""
    stage: str = ""
    keys: tuple[tuple[str, str], ...] = ()
    file: str = ""


@functools.cache
def published() -> Published:
    """Load the declared numbers. Raises UserError for a cell that does not fit its row or column."""
    path = EXPERIMENTS / "tables.yaml"
    result = checked(Published, load_yaml(path), str(path))
    for table in result.tables:
        for row, cells in table.published.items():
            where = f"{path}: table {table.number}: {row}"
            if row not in result.rows:
                raise UserError(f"{where}: not one of `rows`")
            parts = [len(text.split(" / ")) for text in cells]
            if parts != [len(column.metrics) for column in table.columns]:
                raise UserError(f"{where}: needs a cell for each column and in it a number for each metric")
    for figure in result.figures:
        _check_stated(figure, f"{path}: figure {figure.number}")
    return result


def _check_stated(figure: Figure, where: str) -> None:
    points, panels = {point.key for point in figure.points}, {panel.key for panel in figure.panels}
    for stated in figure.stated if figure.kind != "thoughts" else []:
        if stated.panel not in panels or not {stated.point, stated.than or stated.point} <= points:
            raise UserError(f"{where}: stated: {stated.panel} {stated.point}: no such panel or point")


def evaluated(model: str, stage: str) -> str:
    """Return the command that scores a model at a stage."""
    return f"make eval MODEL={model} STAGE={stage}"


def grid(only: str | None = None, chosen: list[str] | None = None) -> list[Cell]:
    """List the cells of Tables 1-5 and figures 4-8 and 10, in order, or those of `only` one ("table3", "figure5").

    `chosen` models replace the paper's in the figures. Raises UserError for an unknown `only`.
    """
    grid_cells = [cell for cells in (_data_cells(), _table_cells(), _figure_cells(chosen)) for cell in cells]
    names = list(dict.fromkeys(cell.table for cell in grid_cells))
    if only is not None and only not in names:
        raise UserError(f"unknown table or figure {only!r}; there are {', '.join(names)}")
    return [cell for cell in grid_cells if only in (None, cell.table)]


def _data_cells() -> Iterator[Cell]:
    tables = published().data_tables
    for row in tables["table1"]["rows"]:
        first = row["stage"] == "stage1"
        command = "make data" if first else f"make corrections MODEL={TABLE1_MODEL}"
        file = "splits/manifest.json" if first else f"datasets/{TABLE1_MODEL}/dpo/corrections.jsonl"
        for metric in ("sft", "dpo"):
            if row[metric] is not None:
                yield Cell("table1", f"{row['stage']} {row['task']}", row["domain"], f"rows {metric}",
                           str(row[metric]), command, file=file)
    for task, sources in tables["table2"]["rows"].items():
        for source, count in sources.items():
            yield Cell("table2", task, source, "rows", str(count), "make data", file="splits/manifest.json")


def _table_cells() -> Iterator[Cell]:
    paper = published()
    for table in paper.tables:
        for name, row in paper.rows.items():
            for at, column in enumerate(table.columns):
                if not row.fits(column.task):
                    continue
                for metric, text in zip(column.metrics, table.parts(name, at), strict=True):
                    yield Cell(f"table{table.number}", name, f"{column.task}/{column.source}", metric, text,
                               evaluated(row.filled_by.model, row.filled_by.stage), row.filled_by.model,
                               row.filled_by.stage, ((column.task, column.source),))


def _figure_cells(chosen: list[str] | None) -> Iterator[Cell]:
    paper = published()
    for figure in paper.figures:
        name = f"figure{figure.number}"
        if figure.kind == "thoughts":
            for stated in figure.stated:
                yield Cell(name, stated.panel, stated.point, "share", f">{stated.at_least:g}", f"make {name}",
                           file=f"results/{name}.csv")
            yield Cell(name, "t-SNE", "embedded thoughts", "plot", "", f"make {name}", file=f"results/{name}.csv")
        for model in chosen or figure.models:
            for panel in figure.panels:
                for point in figure.points:
                    value = paper.point_value(figure, panel, point.key, model)
                    scored = point.model or model
                    yield Cell(name, f"{model} {point.key}", f"{panel.task}/mean", panel.metric,
                               "" if value is None else f"{value:.2f}", evaluated(scored, point.stage), scored,
                               point.stage, tuple((panel.task, source) for source in panel.sources))
