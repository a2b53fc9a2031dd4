"""Results of a run -> the paper's Tables 3-5, measured beside published; for a scripted teacher a demo table instead.

Each row of a table has a line for what the paper prints and one for each test set; baselines stand below, since a
constant answer beats many published cells (docs/evaluation.md).
"""

import argparse
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from eval.predictions import add_limit_and_samples
from eval.provenance import check_weights, described, make_again, split_hashes
from eval.score import cell, summary
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, checked, differences, identity, load_run, models, stages, task
from logreasoner.files import EXPERIMENTS, TEMPLATES, manifest, read_json, writing
from logreasoner.paper import Column, Row, published
from logreasoner.templating import environment

if TYPE_CHECKING:
    import pandas

TEST_SETS = ("disjoint", "all")
HEADER = ("table", "row", "column", "metric", "test_set", "published", "value", "low", "high", "n", "unparsed", "seen",
          "lenient", "lenient_unparsed", "state")
NUMBERS = ("published", "value", "low", "high", "n", "unparsed", "seen", "lenient", "lenient_unparsed")
NOT_RUN, NO_ROWS, NOT_FIT, NOT_PRINTED = "not run", "no such logs", "does not fit", "-"
MAIN = ("base", "thought-sft", "solution-sft", "dpo")
TEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}"}


class Lenient(BaseModel):
    """What a lenient reader of the same answers finds (docs/evaluation.md)."""

    unparsed: int
    counts: list[list[int]]
    metrics: dict[str, dict[str, float]]


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
    lenient: Lenient
    seen: int = 0


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


@dataclass(frozen=True)
class Line:
    """A method of a table: printed cells (None where the paper has no such row), and measured ones by test set."""

    key: str
    title: str
    printed: list[str] | None
    cells: dict[str, list[Cell]]
    baseline: bool = False


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
        """The text rows of a method: (what they are, cells); nothing more below a published row that was not run."""
        if line.printed is not None:
            yield "published", line.printed
        texts = [[_text(one, column) for one, column in zip(line.cells[test_set], self.columns, strict=True)]
                 for test_set in TEST_SETS]
        none = all(text in (NOT_RUN, NOT_FIT) for text in texts[0])
        if none and line.printed is None:
            yield "measured", texts[0]
        elif texts[0] == texts[1] and not none:
            yield " = ".join(TEST_SETS), texts[0]
        elif not none:
            yield from zip(TEST_SETS, texts, strict=True)


def _text(one: Cell, column: Column) -> str:
    if isinstance(one, str):
        return one
    seen = f" seen={one.seen:,}" if one.seen else ""
    other = " / ".join(f"{100 * one.lenient.metrics[name]['value']:.1f}" for name in column.metrics)
    lenient = f" (read leniently: {other} u={one.lenient.unparsed:,})" if one.lenient.unparsed != one.unparsed else ""
    return cell(one.metrics, column.metrics, one.n, one.unparsed) + seen + lenient


def results_dir(run: Run, limit: int | None = None, samples: int = 1) -> Path:
    """Where results lie: those of a stratified sample or of voting samples never beside the others."""
    return run.dir / f"results{f'.limit{limit}' if limit else ''}{f'.samples{samples}' if samples > 1 else ''}"


def load_results(run: Run, limit: int | None = None, samples: int = 1) -> Results:
    """All results of a run.

    Raises UserError for one of another run, declaration, teacher or test set, or of other weights than are there now.
    """
    found: Results = {}
    for path in sorted(results_dir(run, limit, samples).glob("*/*/result.json")):
        result = read_result(run, path)
        found[result.model, result.stage] = {(row.task, row.source, row.test_set): row for row in result.results}
    return found


def read_result(run: Run, path: Path) -> Result:
    """One result of a run, .../<model>/<stage>/result.json; raises UserError as load_results does."""
    result = checked(Result, read_json(path), f"{path}: not a result of eval.score --run")
    name, stage = path.parts[-3:-1]
    again = make_again(run, name, stage)
    wanted = {"run": run.name, "model": name, "stage": stage, "teacher": run.mark,
              "identity": identity(run, name, stage), "splits": split_hashes(run)}
    if changed := differences({key: getattr(result, key) for key in wanted}, wanted):
        raise UserError(f"{path}: scored under other settings or other test instances than those of run {run.name} "
                        f"({changed[0]}); results are never mixed: {again}, or move it away")
    check_weights(run, name, stage, result.answered_by, path, again)
    return result


def answerers(run: Run, folder: Path, results: Results) -> list[tuple[str, str]]:
    """(model/stage, who gave its answers) for each result of language models and encoders."""
    found = []
    for name, stage in _ordered(results):
        by = read_result(run, folder / name / stage / "result.json").answered_by
        if stage != "baseline":
            found.append((f"{name}/{stage}", "; ".join(map(described, by)) or "not stated: a response file of its own"))
    return found


def pooled(rows: list[Scored]) -> Scored:
    """One task's sources as one test set: confusion matrices added up and scored anew."""
    first, rules = rows[0], task(rows[0].task)
    strict = _sum([row.confusion["counts"] for row in rows])
    lenient = _sum([row.lenient.counts for row in rows])
    return Scored(task=first.task, source="", test_set=first.test_set, seen=sum(row.seen for row in rows),
                  **summary(strict, rules), lenient=Lenient(counts=lenient, **{
                      key: summary(lenient, rules)[key] for key in ("unparsed", "metrics")}))


def _sum(matrices: list[list[list[int]]]) -> list[list[int]]:
    return [[sum(cells) for cells in zip(*lines, strict=True)] for lines in zip(*matrices, strict=True)]


def _cells(columns: list[Column], scored: dict[tuple[str, str, str], Scored] | None, row: Row | None = None
           ) -> dict[str, list[Cell]]:
    def one(column: Column, test_set: str) -> Cell:
        key = (column.task, column.source)
        if scored is None or (*key, "all") not in scored:
            return NOT_FIT if row is not None and not row.fits(column.task) else NOT_RUN
        return scored.get((*key, test_set), NO_ROWS)

    return {test_set: [one(column, test_set) for column in columns] for test_set in TEST_SETS}


def paper_sheets(run: Run, results: Results) -> list[Sheet]:
    """Tables 3-5: the paper's rows in its order, then measured rows that the paper lacks, then the baselines.

    Sources of the tables' tasks that the paper does not print (samples, security devices) become columns at the end.
    """
    declared = published()
    filled = {(row.filled_by.model, row.filled_by.stage) for row in declared.rows.values()}
    sheets = []
    for table in declared.tables:
        columns = [*(_here(run, column) for column in table.columns), *_further(run, table.columns, results)]
        methods: list[Line] = []
        baselines: list[Line] = []
        for key, row in declared.rows.items():
            if not any(row.fits(column.task) for column in columns):
                continue
            cells = _cells(columns, results.get((row.filled_by.model, row.filled_by.stage)), row)
            printed = table.printed(key)
            printed += [" / ".join(NOT_PRINTED for _ in column.metrics) for column in columns[len(printed):]]
            line = Line(key, row.title, printed if key in table.published else None, cells, row.baseline)
            (baselines if row.baseline else methods).append(line)
        methods += [Line("/".join(key), f"{_title(key[0])}, {key[1]}", None, _cells(columns, results[key]))
                    for key in _ordered(results) if key not in filled]
        sheets.append(Sheet(str(table.number), f"{table.title} (the paper's Table {table.number})", columns,
                            methods + baselines))
    return sheets


def _here(run: Run, column: Column) -> Column:
    return column.model_copy(update={"source": run.source(column.source)})


def _further(run: Run, columns: list[Column], results: Results) -> list[Column]:
    """Columns for measured sources that the paper's table lacks, by task."""
    shown = {(column.task, _here(run, column).source) for column in columns}
    metrics = {column.task: column.metrics for column in columns}
    found = sorted({key[:2] for scored in results.values() for key in scored if key[0] in metrics} - shown)
    return [Column(task=name, source=source, group="not in the paper", title=f"{task(name).title}, {source}",
                   metrics=metrics[name]) for name, source in found]


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
    methods = dict.fromkeys(each for key in _ordered(results) if key not in baselines
                            for each in ([(key[0], stage) for stage in MAIN] if key[1] in MAIN else [key]))
    several = len({name for name, _ in methods}) > 1
    lines = [Line("/".join(key), f"{_title(key[0])}, {key[1]}" if several else key[1], None,
                  _cells(columns, totals.get(key))) for key in methods]
    lines += [Line("/".join(key), f"baseline: {_title(key[0])}", None, _cells(columns, totals[key],
                                                                                   published().rows.get(key[0])), True)
              for key in baselines]
    shown = " and ".join(dict.fromkeys(_title(name) for name, _ in methods))
    scripted = run.mark == "scripted"
    title = "Demonstration: scripted teacher" if scripted else run.experiment.title
    return Sheet("demo" if scripted else run.name, f"{title}, model {shown}", columns, lines)


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
                for at, (column, one) in enumerate(zip(sheet.columns, cells, strict=True)):
                    texts = line.printed[at].split(" / ") if line.printed else [""] * len(column.metrics)
                    where = f"{column.task}/{column.source}".rstrip("/")
                    for metric, text in zip(column.metrics, texts, strict=True):
                        yield (sheet.name, line.key, where, metric, test_set,
                               text.partition(" ")[0].replace(NOT_PRINTED, ""),
                               *_numbers(one, metric, "baseline" if line.baseline else "measured"))


def _numbers(one: Cell, metric: str, state: str) -> tuple[str, ...]:
    if isinstance(one, str):
        return *[""] * 8, one
    percents = [f"{100 * one.metrics[metric][part]:.4f}" for part in ("value", "low", "high")]
    lenient = f"{100 * one.lenient.metrics[metric]['value']:.4f}"
    return *percents, str(one.n), str(one.unparsed), str(one.seen), lenient, str(one.lenient.unparsed), state


def render(template: str, **values: Any) -> str:
    """A file of templates/, with filters that escape for LaTeX and for Markdown's table cells."""
    text: str = environment(TEMPLATES, {
        "tex": lambda text: "".join(TEX.get(char, char) for char in " ".join(text.split())),
        "md": lambda text: re.sub(r"[|<`\\]|(?<=\])\(", r"\\\g<0>", " ".join(text.split())),  # no HTML, no links
    }, keep_trailing_newline=True).get_template(template).render(**values)
    return text


def sheets_of(run: Run, results: Results) -> list[Sheet]:
    """Tables 3-5; one sheet of the run's tasks where the teacher is scripted or none of them is the paper's."""
    printed = {column.task for table in published().tables for column in table.columns}
    own = run.mark == "scripted" or not printed & set(run.tasks())
    return [demo_sheet(run, results)] if own else paper_sheets(run, results)


def frame(run: Run, limit: int | None = None, samples: int = 1) -> "pandas.DataFrame":
    """tables.csv as a data frame with numbers as numbers: HEADER's columns, a row for each cell and test set."""
    import pandas

    rows = csv_rows(sheets_of(run, load_results(run, limit, samples)))
    found = pandas.DataFrame(rows, columns=list(HEADER))
    for name in NUMBERS:
        found[name] = pandas.to_numeric(found[name])
    return found


def make_tables(run: Run, out: Path, limit: int | None = None, samples: int = 1) -> str:
    """Write tables.md, tables.csv and tables.tex into a folder; returns the Markdown."""
    folder, results = results_dir(run, limit, samples), load_results(run, limit, samples)
    scripted = run.mark == "scripted"
    sheets = sheets_of(run, results)
    if not any(sheet.lines for sheet in sheets):
        raise UserError(f"{folder}: no results yet; score a model first (make eval RUN={run.name} ...)")
    values = {"run": run, "scripted": scripted, "sheets": sheets, "limit": limit, "samples": samples,
              "answerers": answerers(run, folder, results)}
    texts = {name: render(f"{name}.j2", **values) for name in ("tables.md", "tables.tex")}

    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([HEADER, *csv_rows(sheets)])
    files = [folder / name / stage / "result.json" for name, stage in results]
    for name, text in {**texts, "tables.csv": table.getvalue()}.items():
        with writing(out / name) as stream:
            stream.write(text)
        manifest(out / name, [EXPERIMENTS / "tables.yaml", *files], run=run.name, teacher=run.mark)
    return texts["tables.md"]


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    out = given.out or results_dir(run, given.limit, given.samples)
    print(make_tables(run, out, given.limit, given.samples))
    print(out / "tables.md", out / "tables.csv", out / "tables.tex")


def main() -> None:
    """Write a run's tables."""
    arguments = cli.parser("eval.tables", "Tables 3-5 of the paper, measured beside published.", """
python -m eval.tables --run paper
python -m eval.tables --run demo --out build/demo-tables""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--out", type=Path, help="a folder (default: build/runs/RUN/results)")
    add_limit_and_samples(arguments)
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
