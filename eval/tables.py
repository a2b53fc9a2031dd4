"""Results of a run -> the paper's Tables 3-5, measured beside published; for a scripted teacher a demo table instead.

Each row of a table has a line for what the paper prints and one for each test set; floors stand below, since a
constant answer beats many published cells (docs/evaluation.md).
"""

import argparse
import csv
import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eval.score import cell, summary
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Declared, Run, checked, load_run, load_yaml, models, stages, task
from logreasoner.files import EXPERIMENTS, TEMPLATES, manifest, read_json, writing
from logreasoner.templating import environment

TEST_SETS = ("disjoint", "all")
NAMES = {"precision": "Precision", "recall": "Recall", "f1": "F1", "accuracy": "Accuracy", "weighted_f1": "Weighted-F1"}
HEADER = ("table", "row", "column", "metric", "test_set", "published", "value", "low", "high", "n", "unparsed", "state")
NOT_RUN, NO_ROWS, NO_POSITIVE = "not run", "no such logs", "no positive class"
TEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}"}


class Filled(Declared):
    """The results that fill a row: a model of models.yaml at a stage."""

    model: str
    stage: str


class Row(Declared):
    """A method of the paper; `base` is the row its printed (+X) are measured from."""

    title: str
    base: str | None = None
    filled_by: Filled | None


class Column(Declared):
    """A test set of a table, and the metrics that the paper prints for it."""

    task: str
    source: str
    group: str
    title: str
    metrics: list[str]
    gain: str = ""

    @property
    def heading(self) -> str:
        """`BGL (Precision / Recall / F1)`."""
        return f"{self.title} ({' / '.join(NAMES.get(name, name) for name in self.metrics)})"


class Table(Declared):
    """A table as printed: row -> one string a column, parts in the order of the column's metrics."""

    number: int
    title: str
    columns: list[Column]
    published: dict[str, list[str]]
    gains: dict[str, list[str]]

    def printed(self, row: str) -> list[str]:
        """A row's cells with the (+X) after the metric it belongs to."""
        cells = []
        for at, (column, text) in enumerate(zip(self.columns, self.published[row], strict=True)):
            parts = text.split(" / ")
            if row in self.gains:
                parts[column.metrics.index(column.gain)] += f" ({self.gains[row][at]})"
            cells.append(" / ".join(parts))
        return cells


class Published(Declared):
    """experiments/tables.yaml."""

    metrics: list[list[str]]
    rows: dict[str, Row]
    tables: list[Table]


class Scored(BaseModel):
    """A row of a result file: one model on one test set. Counts have a row a true label and a last column unparsed."""

    task: str
    source: str
    test_set: str
    n: int
    unparsed: int
    label_counts: dict[str, int]
    confusion: dict[str, Any]
    metrics: dict[str, dict[str, float]]


class Result(BaseModel):
    """A result file as eval.score --run writes it."""

    run: str
    model: str
    stage: str
    teacher: str
    results: list[Scored]


Cell = Scored | str  # or why there is none
Results = dict[tuple[str, str], dict[tuple[str, str, str], Scored]]  # (model, stage) -> (task, source, test set)


@dataclass(frozen=True)
class Line:
    """A method of a table: printed cells (None where the paper has no such row), and measured ones by test set."""

    key: str
    title: str
    printed: list[str] | None
    cells: dict[str, list[Cell]]
    floor: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table to write."""

    name: str
    title: str
    columns: list[Column]
    lines: list[Line]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group, as (group, how many)."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            same = bool(found) and found[-1][0] == column.group
            found[-1:] = [(column.group, found[-1][1] + 1)] if same else [*found[-1:], (column.group, 1)]
        return found

    def shown(self, line: Line) -> Iterator[tuple[str, list[str]]]:
        """The text rows of a method: (what they are, cells)."""
        if line.printed is not None:
            yield "published", line.printed
        texts = [[_text(one, column) for one, column in zip(line.cells[test_set], self.columns, strict=True)]
                 for test_set in TEST_SETS]
        if texts[0] == texts[1]:
            none = all(text == NOT_RUN for text in texts[0])
            yield "measured" if none else " = ".join(TEST_SETS), texts[0]
        else:
            yield from zip(TEST_SETS, texts, strict=True)


def _text(one: Cell, column: Column) -> str:
    return one if isinstance(one, str) else cell(one.metrics, column.metrics, one.n, one.unparsed)


@functools.cache
def published() -> Published:
    """The declared tables. Raises UserError for a cell that does not fit its row or column."""
    path = EXPERIMENTS / "tables.yaml"
    found = checked(Published, load_yaml(path), str(path))
    for table in found.tables:
        for row, cells in table.published.items():
            where = f"{path}: table {table.number}: {row}"
            if row not in found.rows:
                raise UserError(f"{where}: not one of rows")
            parts = [len(text.split(" / ")) for text in cells]
            if parts != [len(column.metrics) for column in table.columns]:
                raise UserError(f"{where}: a cell for each column and a number for each of its metrics, please")
    return found


def load_results(run: Run) -> Results:
    """All results of a run. Raises UserError for a file of another run or teacher, and for test sets that differ."""
    found: Results = {}
    counts: dict[tuple[str, str, str], tuple[Path, dict[str, int]]] = {}
    for path in sorted((run.dir / "results").glob("*/*/result.json")):
        result = checked(Result, read_json(path), f"{path}: not a result of eval.score --run")
        wanted = (run.name, path.parent.parent.name, path.parent.name, run.mark)
        for name, is_, should in zip(("run", "model", "stage", "teacher"),
                                     (result.run, result.model, result.stage, result.teacher), wanted, strict=True):
            if is_ != should:
                raise UserError(f"{path}: its {name} is {is_!r}, here it must be {should!r}; "
                                "results are never mixed, score it again or move it away")
        for row in result.results:
            key = (row.task, row.source, row.test_set)
            if counts.setdefault(key, (path, row.label_counts))[1] != row.label_counts:
                raise UserError(f"{path}: {' '.join(key)} is not the test set of {counts[key][0]}; score both again")
        found[result.model, result.stage] = {(row.task, row.source, row.test_set): row for row in result.results}
    return found


def pooled(rows: list[Scored]) -> Scored:
    """One task's sources as one test set: confusion matrices added up and scored anew."""
    matrices = [row.confusion["counts"] for row in rows]
    total = [[sum(cells) for cells in zip(*lines, strict=True)] for lines in zip(*matrices, strict=True)]
    first = rows[0]
    return Scored(task=first.task, source="", test_set=first.test_set, **summary(total, task(first.task)))


def constant(row: Scored, answer: str | None) -> Cell:
    """What a test set gives to someone who always answers the same; None stands for a class the task lacks."""
    if answer is None:
        return NO_POSITIVE
    rules = task(row.task)
    columns = [*rules.labels, None]
    matrix = [[row.label_counts[truth] * (answer == column) for column in columns] for truth in rules.labels]
    return Scored(task=row.task, source=row.source, test_set=row.test_set, **summary(matrix, rules))


def _cells(columns: list[Column], scored: dict[tuple[str, str, str], Scored] | None) -> dict[str, list[Cell]]:
    def one(column: Column, test_set: str) -> Cell:
        key = (column.task, column.source)
        if scored is None or (*key, "all") not in scored:
            return NOT_RUN
        return scored.get((*key, test_set), NO_ROWS)

    return {test_set: [one(column, test_set) for column in columns] for test_set in TEST_SETS}


def floors(columns: list[Column], results: Results) -> list[Line]:
    """The majority class of each test set, and always the positive class where a task has one."""
    known = {key: row for scored in results.values() for key, row in scored.items()}
    kinds: dict[str, Callable[[Scored], str | None]] = {
        "majority class": lambda row: max(row.label_counts, key=row.label_counts.__getitem__)}
    if any(task(column.task).positive for column in columns):
        kinds["always the positive class"] = lambda row: task(row.task).positive
    return [Line(f"floor: {kind}", f"Floor: {kind}", None, {
                test_set: [one if isinstance(one, str) else constant(one, choose(one)) for one in cells]
                for test_set, cells in _cells(columns, known).items()}, floor=True)
            for kind, choose in kinds.items()]


def paper_sheets(results: Results) -> list[Sheet]:
    """Tables 3-5: the paper's rows in its order, then measured rows that the paper lacks, then the floors."""
    declared = published()
    filled = {(row.filled_by.model, row.filled_by.stage) for row in declared.rows.values() if row.filled_by}
    sheets = []
    for table in declared.tables:
        lines = []
        for key in table.published:
            row = declared.rows[key]
            scored = results.get((row.filled_by.model, row.filled_by.stage)) if row.filled_by else None
            lines.append(Line(key, row.title, table.printed(key), _cells(table.columns, scored)))
        lines += [Line("/".join(key), f"{_title(key[0])}, {key[1]}", None, _cells(table.columns, results[key]))
                  for key in _ordered(results) if key not in filled]
        sheets.append(Sheet(str(table.number), f"{table.title} (the paper's Table {table.number})", table.columns,
                            lines + floors(table.columns, results)))
    return sheets


def demo_sheet(run: Run, results: Results) -> Sheet:
    """Each model at base and after each stage, over the run's tasks with their sources pooled."""
    columns = [Column(task=name, source="", group="", title=rules.title, metrics=rules.metrics)
               for name, rules in run.tasks().items()]
    totals: Results = {}
    for key, scored in results.items():
        groups: dict[tuple[str, str, str], list[Scored]] = {}
        for (name, _, test_set), row in scored.items():
            groups.setdefault((name, "", test_set), []).append(row)
        totals[key] = {group: pooled(rows) for group, rows in groups.items()}
    wanted = dict.fromkeys((name, stage) for name, _ in _ordered(results)
                           for stage in ("base", "thought-sft", "solution-sft", "dpo"))
    several = len({name for name, _ in wanted}) > 1
    lines = [Line("/".join(key), f"{_title(key[0])}, {key[1]}" if several else key[1], None,
                  _cells(columns, totals.get(key))) for key in wanted]
    shown = " and ".join(dict.fromkeys(_title(name) for name, _ in wanted))
    return Sheet("demo", f"Demonstration: scripted teacher, model {shown}", columns, lines + floors(columns, totals))


def _title(name: str) -> str:
    return models()[name].title if name in models() else name


def _ordered(results: Results) -> list[tuple[str, str]]:
    known = [(name, stage) for name in models() for stage in ("base", *stages())]
    return [key for key in known if key in results] + sorted(set(results) - set(known))


def csv_rows(sheets: list[Sheet]) -> Iterator[tuple[str, ...]]:
    """HEADER's fields for each (table, row, column, metric, test set); value, low and high in percent."""
    for sheet in sheets:
        for line in sheet.lines:
            for test_set, cells in line.cells.items():
                for at, (column, one) in enumerate(zip(sheet.columns, cells, strict=True)):
                    texts = line.printed[at].split(" / ") if line.printed else [""] * len(column.metrics)
                    where = f"{column.task}/{column.source}".rstrip("/")
                    for metric, text in zip(column.metrics, texts, strict=True):
                        yield (sheet.name, line.key, where, metric, test_set, text.partition(" ")[0],
                               *_numbers(one, metric, "floor" if line.floor else "measured"))


def _numbers(one: Cell, metric: str, state: str) -> tuple[str, ...]:
    if isinstance(one, str):
        return "", "", "", "", "", one
    percents = [f"{100 * one.metrics[metric][part]:.4f}" for part in ("value", "low", "high")]
    return *percents, str(one.n), str(one.unparsed), state


def render(template: str, **values: Any) -> str:
    """A file of templates/, with filters that escape for LaTeX and for Markdown's table cells."""
    text: str = environment(TEMPLATES, {
        "tex": lambda text: "".join(TEX.get(char, char) for char in " ".join(text.split())),
        "md": lambda text: " ".join(text.split()).replace("|", r"\|"),
    }, keep_trailing_newline=True).get_template(template).render(**values)
    return text


def make_tables(run: Run, out: Path) -> str:
    """Write tables.md, tables.csv and tables.tex into a folder; returns the Markdown."""
    results = load_results(run)
    scripted = run.mark == "scripted"
    if scripted and not results:
        raise UserError(f"{run.dir / 'results'}: no results yet; score a model first (make eval RUN={run.name} ...)")
    sheets = [demo_sheet(run, results)] if scripted else paper_sheets(results)
    columns = {(column.task, column.source) for sheet in sheets for column in sheet.columns}
    others = set() if scripted else {key[:2] for scored in results.values() for key in scored} - columns
    values = {"run": run, "scripted": scripted, "sheets": sheets, "others": sorted(" ".join(key) for key in others)}
    texts = {name: render(f"{name}.j2", **values) for name in ("tables.md", "tables.tex")}

    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([HEADER, *csv_rows(sheets)])
    files = [run.dir / "results" / name / stage / "result.json" for name, stage in results]
    for name, text in {**texts, "tables.csv": table.getvalue()}.items():
        with writing(out / name) as stream:
            stream.write(text)
        manifest(out / name, [EXPERIMENTS / "tables.yaml", *files], run=run.name, teacher=run.mark)
    return texts["tables.md"]


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    out = given.out or run.dir / "results"
    print(make_tables(run, out))
    print(out / "tables.md", out / "tables.csv", out / "tables.tex")


def main() -> None:
    """Write a run's tables."""
    arguments = cli.parser("eval.tables", "Tables 3-5 of the paper, measured beside published.", """
python -m eval.tables --run paper
python -m eval.tables --run demo --out build/demo-tables""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--out", type=Path, help="a folder (default: build/runs/RUN/results)")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
