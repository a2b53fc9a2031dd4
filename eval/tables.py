"""Results of a run -> the paper's Tables 3-5, measured beside published; for a scripted teacher a demo table instead.

A table has a block for each test file. In a block a method has a row for what the paper prints and one for each test
set; baselines stand below, since a constant answer beats many published cells (docs/evaluation.md).
"""

import argparse
import csv
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from eval.provenance import check_weights, described, make_again, split_hashes
from eval.score import scores
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, differences, identity, load_run, models, stages, task
from logreasoner.files import EXPERIMENTS, TEMPLATES, manifest, read_json, writing
from logreasoner.generation.response_cache import LONGER
from logreasoner.paper import NAMES, Column, Row, published
from logreasoner.schemas import checked
from logreasoner.templating import environment
from logreasoner.text_table import aligned

if TYPE_CHECKING:
    import pandas

TEST_SETS = ("disjoint", "all")
HEADER = ("table", "row", "column", "metric", "test_set", "published", "value", "low", "high", "n", "unparsed", "cut",
          "seen", "lenient", "lenient_unparsed", "state")
NUMBERS = ("published", "value", "low", "high", "n", "unparsed", "cut", "seen", "lenient", "lenient_unparsed")
NOT_RUN, NO_ROWS, NOT_FIT = "not run", "no such logs", "does not fit"
MAIN = ("base", "thought-sft", "solution-sft", "dpo")
NOTHING = ("", "", "", "")  # instead of n, unparsed, cut, seen
TERMINAL = 120  # columns
FEW = 8  # test logs of a label; with fewer its recall is known within some 35 points at best
METRICS = 3  # in a block; four with intervals are wider than a terminal


class Lenient(BaseModel):
    """The scores of the same answers when they are read leniently (docs/evaluation.md)."""

    unparsed: int
    cut: int
    counts: list[list[int]]
    metrics: dict[str, dict[str, float]]


class Scored(BaseModel):
    """A row of a result file: one model on n instances of a test set that has `whole` of them.

    Counts: a row a true label, the last column no label.
    """

    task: str
    source: str
    test_set: str
    n: int
    whole: int
    unparsed: int
    cut: int
    label_counts: dict[str, int]
    confusion: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    lenient: Lenient
    seen: int = 0

    @property
    def read_leniently(self) -> bool:
        """Whether a lenient reading finds further labels."""
        return bool(self.lenient.counts != self.confusion["counts"])


class Result(BaseModel):
    """A result file as eval.score --run writes it."""

    run: str
    identity: str
    model: str
    stage: str
    teacher: str
    splits: dict[str, str]
    answered_by: list[dict[str, Any]]
    results: list[Scored]


Cell = Scored | str  # or why there is none
Results = dict[tuple[str, str], dict[tuple[str, str, str], Scored]]  # (model, stage) -> (task, source, test set)


class TextRow(NamedTuple):
    """A row of a block as text; `method` is empty where it is the row above's."""

    method: str
    test_set: str
    metrics: list[str]
    n: str = ""
    unparsed: str = ""
    cut: str = ""
    seen: str = ""
    baseline: bool = False

    def cells(self, cut: bool, seen: bool) -> list[str]:
        """The cells below Block.header."""
        return [self.method, self.test_set, *self.metrics, self.n, self.unparsed, *([self.cut] if cut else []),
                *([self.seen] if seen else [])]


@dataclass(frozen=True)
class Block:
    """The rows of all methods on one test file."""

    title: str
    metrics: list[str]
    rows: list[TextRow]
    few: str = ""  # labels with too few test logs

    @property
    def seen(self) -> bool:
        """Whether training has seen some of the logs, so that the block has a column of their counts."""
        return any(row.seen for row in self.rows)

    @property
    def cut(self) -> bool:
        """Whether answers were cut at max_tokens, so that the block has a column of their counts."""
        return any(row.cut for row in self.rows)

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return ["Method", "test set", *(NAMES.get(name, name) for name in self.metrics), "n", "unparsed",
                *(["cut"] if self.cut else []), *(["seen"] if self.seen else [])]

    @property
    def cells(self) -> list[list[str]]:
        """The rows below the header."""
        return [row.cells(self.cut, self.seen) for row in self.rows]

    def plain(self) -> str:
        """The block as aligned text of at most TERMINAL columns: names of methods are wrapped."""
        table = [self.header, *([cli.escape_terminal(cell) for cell in row] for row in self.cells)]
        others = aligned([row[1:] for row in table], left=1 + len(self.metrics)).splitlines()
        width = max(12, TERMINAL - 2 - max(map(len, others)))
        lines = []
        for method, text in zip((row[0] for row in table), others, strict=True):
            first, *further = textwrap.wrap(method, width, subsequent_indent="  ") or [""]
            lines += [(first, text), *((part, "") for part in further)]
        return aligned(lines)


@dataclass(frozen=True)
class Line:
    """A method of a sheet: for each column the metrics as printed (empty where they are not), and measured cells."""

    key: str
    title: str
    printed: list[list[str]]
    cells: dict[str, list[Cell]]  # by test set
    baseline: bool = False

    def rows(self, at: int, metrics: list[str], printed: list[str]) -> Iterator[TextRow]:
        """Yield the rows of a block; none where the method does not fit the task."""
        texts = [("published", printed, NOTHING)] if any(printed) else []
        disjoint, everything = (self.cells[test_set][at] for test_set in TEST_SETS)
        if isinstance(everything, Scored):
            scored = [*zip(TEST_SETS, (disjoint, everything), strict=True)]
            for name, cell in scored if everything.seen else [(" = ".join(TEST_SETS), everything)]:
                texts += _texts(name, cell, metrics)
        elif everything == NOT_RUN and not texts:
            texts = [(NOT_RUN, [""] * len(metrics), NOTHING)]
        for number, (name, values, counts) in enumerate(texts):
            yield TextRow("" if number else self.title, name, values, *counts, self.baseline)


def _texts(name: str, cell: Cell, metrics: list[str]) -> Iterator[tuple[str, list[str], tuple[str, str, str, str]]]:
    """(what a row is, percents with intervals, (n, unparsed, cut, seen)); a second row where leniency matters."""
    if isinstance(cell, str):
        yield f"{name}: {cell}", [""] * len(metrics), NOTHING
        return
    seen = f"{cell.seen:,}" if cell.seen else ""
    readings: list[tuple[str, Scored | Lenient]] = [(name, cell)]
    if cell.read_leniently:
        readings.append((f"{name}, lenient", cell.lenient))
    for title, reading in readings:
        yield title, [percent(reading.metrics[metric]) for metric in metrics], (
            f"{cell.n:,}", f"{reading.unparsed:,}", f"{reading.cut:,}" if cell.cut else "", seen)


def percent(score: Mapping[str, float]) -> str:
    """`61.2 [58.0, 64.1]`: a score with its 95% interval."""
    value, low, high = (100 * score[part] for part in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


@dataclass(frozen=True)
class Sheet:
    """A table to write."""

    name: str
    title: str
    columns: list[Column]
    lines: list[Line]
    further: int = 0  # columns at the end that the paper lacks

    def blocks(self) -> Iterator[Block]:
        """Yield one block a column; a task of more than METRICS metrics has several."""
        for at, column in enumerate(self.columns):
            for first in range(0, len(column.metrics), METRICS):
                part = slice(first, first + METRICS)
                rows = [row for line in self.lines
                        for row in line.rows(at, column.metrics[part], line.printed[at][part])
                        if row.test_set != NOT_RUN or at < len(self.columns) - self.further]
                yield Block(f"{column.group} {column.title}".strip(), column.metrics[part], rows, self.few(at))

    def few(self, at: int) -> str:
        """Say which labels have fewer than FEW logs in all of a column's test logs."""
        cells = (line.cells["all"][at] for line in self.lines)
        counts = next((cell.label_counts for cell in cells if isinstance(cell, Scored)), {})
        few = [f"{label} {count}" for label, count in counts.items() if count < FEW]
        return f"Few test logs, so that scores say little of these labels: {', '.join(few)}." if few else ""


def load_results(run: Run, limit: int | None = None, samples: int = 1) -> Results:
    """Load all results of a run.

    Raises UserError for one of another run, declaration, teacher or test set, or of other weights than are there now.
    """
    results: Results = {}
    paths = sorted(run.results(limit, samples).glob("*/*/result.json"))
    splits = split_hashes(run) if paths else {}  # a run without results may have no splits yet
    for path in paths:
        result = read_result(run, path, splits)
        results[result.model, result.stage] = {(row.task, row.source, row.test_set): row for row in result.results}
    return results


def read_result(run: Run, path: Path, splits: dict[str, str]) -> Result:
    """Read one result, .../<model>/<stage>/result.json, of a run whose test splits have these hashes.

    Raises UserError as load_results does.
    """
    name, stage = path.parts[-3:-1]
    again = make_again(run, name, stage)
    result = checked(Result, read_json(path), f"{path}: {again}, it is not a result of eval.score --run as it is now")
    expected = {"run": run.name, "model": name, "stage": stage, "teacher": run.mark,
                "identity": identity(run, name, stage), "splits": splits}
    if changed := differences({key: getattr(result, key) for key in expected}, expected):
        raise UserError(f"{path}: scored under other settings or other test instances than those of run {run.name} "
                        f"({changed[0]}); results are never mixed: {again}, or move it away")
    check_weights(run, name, stage, result.answered_by, path, again)
    return result


def answerers(run: Run, results: Results, limit: int | None, samples: int) -> list[tuple[str, str]]:
    """List (model/stage, who gave its answers) for each loaded result of language models and encoders."""
    rows = []
    for name, stage in _ordered(results):
        if stage != "baseline":
            by = read_json(run.result(name, stage, limit, samples))["answered_by"]
            rows.append((f"{name}/{stage}", "; ".join(map(described, by)) or "not known: a response file from outside"))
    return rows


def pooled(rows: list[Scored]) -> Scored:
    """Score one task's sources as one test set: their confusion matrices added up, each counting by its source's size.

    Of a subset (LIMIT) the same number is drawn of a small source as of a large one. Its counts are weighted so that
    they add up to Kish's effective number of instances, from which the intervals follow.
    """
    first, rules = rows[0], task(rows[0].task)
    weights = [row.whole / row.n for row in rows]
    whole = sum(row.whole for row in rows)
    scale = whole / sum(weight * row.whole for weight, row in zip(weights, rows, strict=True))
    strict, lenient = [row.confusion["counts"] for row in rows], [row.lenient.counts for row in rows]
    sums = {key: sum(getattr(row, key) for row in rows) for key in ("n", "whole", "unparsed", "cut", "seen")}
    metrics, loose = (scores(_sum(matrices, [scale * weight for weight in weights]), rules)
                      for matrices in (strict, lenient))
    return Scored(task=first.task, source="", test_set=first.test_set, **sums, metrics=metrics,
                  label_counts={label: sum(row.label_counts[label] for row in rows) for label in rules.labels},
                  confusion={**first.confusion, "counts": _sum(strict)},
                  lenient=Lenient(counts=_sum(lenient), metrics=loose, **{
                      key: sum(getattr(row.lenient, key) for row in rows) for key in ("unparsed", "cut")}))


def _sum(matrices: list[list[list[int]]], weights: Sequence[float] = ()) -> list[list[Any]]:
    """Add up matrices, weighted where weights are given."""
    return [[sum(map(mul, cells, weights or repeat(1))) for cells in zip(*lines, strict=True)]
            for lines in zip(*matrices, strict=True)]


def _cells(columns: list[Column], scored: dict[tuple[str, str, str], Scored] | None, row: Row | None = None
           ) -> dict[str, list[Cell]]:
    def cell(column: Column, test_set: str) -> Cell:
        key = (column.task, column.source)
        if scored is None or (*key, "all") not in scored:
            return NOT_FIT if row is not None and not row.fits(column.task) else NOT_RUN
        return scored.get((*key, test_set), NO_ROWS)

    return {test_set: [cell(column, test_set) for column in columns] for test_set in TEST_SETS}


def _nothing_printed(columns: list[Column]) -> list[list[str]]:
    return [[""] * len(column.metrics) for column in columns]


def paper_sheets(run: Run, results: Results) -> list[Sheet]:
    """Tables 3-5: the paper's rows in its order, then measured rows that the paper lacks, then the baselines.

    Sources of the tables' tasks that the paper does not print (2,000-line logs, security devices) become columns at
    the end.
    """
    declared = published()
    filled = {(row.filled_by.model, row.filled_by.stage) for row in declared.rows.values()}
    sheets = []
    for table in declared.tables:
        further = _further(run, table.columns, results)
        columns = [*(_here(run, column) for column in table.columns), *further]
        methods: list[Line] = []
        baselines: list[Line] = []
        for key, row in declared.rows.items():
            if not any(row.fits(column.task) for column in columns):
                continue
            cells = _cells(columns, results.get((row.filled_by.model, row.filled_by.stage)), row)
            printed = [cell.split(" / ") for cell in table.printed(key)] + _nothing_printed(further)
            (baselines if row.baseline else methods).append(Line(key, row.title, printed, cells, row.baseline))
        methods += [Line("/".join(key), f"{_title(key[0])}, {key[1]}", _nothing_printed(columns),
                         _cells(columns, results[key])) for key in _ordered(results) if key not in filled]
        sheets.append(Sheet(str(table.number), f"{table.title} (the paper's Table {table.number})", columns,
                            methods + baselines, len(further)))
    return sheets


def _here(run: Run, column: Column) -> Column:
    return column.model_copy(update={"source": run.source(column.source)})


def _further(run: Run, columns: list[Column], results: Results) -> list[Column]:
    """Columns for measured sources that the paper's table lacks, by task."""
    shown = {(column.task, _here(run, column).source) for column in columns}
    metrics = {column.task: column.metrics for column in columns}
    keys = sorted({key[:2] for scored in results.values() for key in scored if key[0] in metrics} - shown)
    return [Column(task=name, source=source, group="", title=f"{task(name).title}, {source} (not in the paper)",
                   metrics=metrics[name]) for name, source in keys]


def demo_sheet(run: Run, results: Results) -> Sheet:
    """Each model at base and after each stage, over the run's tasks with their sources pooled; then the baselines."""
    columns = [Column(task=name, source="", group="", title=rules.title, metrics=rules.metrics)
               for name, rules in run.tasks().items()]
    totals: Results = {}
    for key, scored in results.items():
        groups: dict[tuple[str, str, str], list[Scored]] = {}
        for (name, _, test_set), row in scored.items():
            groups.setdefault((name, "", test_set), []).append(row)
        totals[key] = {group: pooled(rows) for group, rows in groups.items()}
    baselines = [key for key in _ordered(results) if key[1] == "baseline"]
    methods = dict.fromkeys(method for key in _ordered(results) if key not in baselines
                            for method in ([(key[0], stage) for stage in MAIN] if key[1] in MAIN else [key]))
    several = len({name for name, _ in methods}) > 1
    nothing, declared = _nothing_printed(columns), published().rows
    lines = [Line("/".join(key), f"{_title(key[0])}, {key[1]}" if several else key[1], nothing,
                  _cells(columns, totals.get(key))) for key in methods]
    lines += [Line("/".join(key), f"Baseline: {_title(key[0])}", nothing,
                   _cells(columns, totals[key], declared.get(key[0])), True) for key in baselines]
    scripted = run.mark == "scripted"
    title = "Demonstration: scripted teacher" if scripted else run.experiment.title
    if titles := " and ".join(dict.fromkeys(_title(name) for name, _ in methods)):
        title += f", model {titles}"
    return Sheet("demo" if scripted else run.name, title, columns, lines)


def _title(name: str) -> str:
    return models()[name].title if name in models() else name


def _ordered(results: Results) -> list[tuple[str, str]]:
    known = [(name, stage) for name in models() for stage in ("base", *stages(), "classifier", "baseline")]
    return [key for key in known if key in results] + sorted(set(results) - set(known))


def csv_rows(sheets: list[Sheet]) -> Iterator[tuple[str, ...]]:
    """HEADER's fields for each (table, row, column, metric, test set); value, low and high in percent."""
    for sheet in sheets:
        for line in sheet.lines:
            for test_set, cells in line.cells.items():
                for column, cell, printed in zip(sheet.columns, cells, line.printed, strict=True):
                    where = f"{column.task}/{column.source}".rstrip("/")
                    for metric, text in zip(column.metrics, printed, strict=True):
                        yield (sheet.name, line.key, where, metric, test_set, text.partition(" ")[0],
                               *_numbers(cell, metric, "baseline" if line.baseline else "measured"))


def _numbers(cell: Cell, metric: str, state: str) -> tuple[str, ...]:
    if isinstance(cell, str):
        return *[""] * 9, cell
    percents = [f"{100 * cell.metrics[metric][part]:.4f}" for part in ("value", "low", "high")]
    lenient = f"{100 * cell.lenient.metrics[metric]['value']:.4f}"
    counts = (str(count) for count in (cell.n, cell.unparsed, cell.cut, cell.seen))
    return *percents, *counts, lenient, str(cell.lenient.unparsed), state


def sheets_of(run: Run, results: Results) -> list[Sheet]:
    """Tables 3-5; one sheet of the run's tasks where the teacher is scripted or none of them is the paper's."""
    printed = {column.task for table in published().tables for column in table.columns}
    own = run.mark == "scripted" or not printed & set(run.tasks())
    return [demo_sheet(run, results)] if own else paper_sheets(run, results)


def frame(run: Run, limit: int | None = None, samples: int = 1) -> "pandas.DataFrame":
    """Return tables.csv as a data frame with numbers as numbers: HEADER's columns, a row for each cell and test set."""
    import pandas

    rows = pandas.DataFrame(csv_rows(sheets_of(run, load_results(run, limit, samples))), columns=list(HEADER))
    for name in NUMBERS:
        rows[name] = pandas.to_numeric(rows[name])
    return rows


def render(template: str, **values: Any) -> str:
    """Render a file of templates/."""
    text: str = environment(TEMPLATES, {"plain": cli.escape_terminal}, keep_trailing_newline=True
                            ).get_template(template).render(**values)
    return text


def make_tables(run: Run, out: Path, limit: int | None = None, samples: int = 1) -> str:
    """Write tables.md, tables.csv and tables.tex into a folder; returns the tables for a terminal."""
    folder, results = run.results(limit, samples), load_results(run, limit, samples)
    sheets = sheets_of(run, results)
    if not any(sheet.lines for sheet in sheets):
        raise UserError(f"{folder}: no results yet; score a model first (make eval RUN={run.name} ...)")
    values = {"run": run, "scripted": run.mark == "scripted", "sheets": sheets, "limit": limit, "samples": samples,
              "answerers": answerers(run, results, limit, samples), "width": TERMINAL, "longer": LONGER,
              "lenient": any(row.read_leniently for scored in results.values() for row in scored.values()),
              "cut": sum(row.cut for scored in results.values() for (*_, test_set), row in scored.items()
                         if test_set == "all")}
    texts = {name: render(f"{name}.j2", **values) for name in ("tables.md", "tables.tex")}
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([HEADER, *csv_rows(sheets)])
    files = [run.result(name, stage, limit, samples) for name, stage in results]
    for name, text in {**texts, "tables.csv": table.getvalue()}.items():
        with writing(out / name) as stream:
            stream.write(text)
        manifest(out / name, [EXPERIMENTS / "tables.yaml", *files], run=run.name, teacher=run.mark)
    return render("tables.txt.j2", **values)


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    out = given.out or run.results(given.limit, given.samples)
    print(make_tables(run, out, given.limit, given.samples))
    print(out / "tables.md", out / "tables.csv", out / "tables.tex")


def main() -> None:
    """Write a run's tables."""
    arguments = cli.parser("eval.tables", "Tables 3-5 of the paper, measured beside published.", """
python -m eval.tables --run paper
python -m eval.tables --run demo --out build/demo-tables""", required=["run"], optional=["limit", "samples"])
    arguments.add_argument("--out", type=Path, help="a folder (default: build/runs/RUN/results)")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
