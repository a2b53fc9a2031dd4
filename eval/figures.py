"""Draw the paper's figures 4-8 and 10 and an overview as PNG, SVG and CSV, measured beside published (docs/figures.md).

A figure is a data frame, a row for each point; its CSV file is that frame. Equal inputs give equal bytes.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.drawing import draw_overview, draw_scores, draw_thoughts, pictures, save
from eval.score import SEED
from eval.tables import NO_ROWS, NOT_RUN, TEST_SETS, Results, Scored, Sheet, load_results, sheets_of
from logreasoner import cli
from logreasoner.answer_format import parse_steps
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run, task
from logreasoner.files import EXPERIMENTS, manifest, read_json, read_jsonl, sha256, writing
from logreasoner.paper import Column, Figure, Panel, published

if TYPE_CHECKING:
    import pandas as pd

HEADER = ("figure", "model", "panel", "series", "point", "x", "metric", "sources", "test_set", "published", "value",
          "low", "high", "n", "unparsed", "cut", "state")
OVERVIEW = ("table", "task", "test_file", "method", "metric", "test_set", "published", "value", "low", "high", "n",
            "unparsed", "cut", "seen", "state")
NUMBERS = ("published", "value", "low", "high", "n", "unparsed", "cut")
DRAWN = ["title", "file_title", "place"]  # columns of a frame that are not written
OVERVIEW_MODELS, OVERVIEW_ROWS = ["llama3.1-8b"], ["gpt-4o"]  # whose published scores the overview shows
LOGS = {"disjoint": "test logs that no training split holds", "all": "all test logs"}
SCRIPTED = "scripted teacher, tiny model: not a result"
THOUGHTS, EMBEDDED = "samples.jsonl", "thought_embeddings.npy"  # D_thought; its responses by data_builders.embed


class Picture(NamedTuple):
    """A figure before it is drawn; `inputs` are the files that it is made of."""

    title: str
    frame: "pd.DataFrame"
    draw: Callable[[Any], list[Any]]
    note: str
    inputs: list[Path]


class Subset(NamedTuple):
    """Which scores are drawn."""

    test_set: str = "disjoint"
    limit: int | None = None
    samples: int = 1

    def note(self) -> str:
        """Say on which logs the scores are measured."""
        parts = [f"on {LOGS[self.test_set]}."]
        parts += [f"A stratified subset: at most {self.limit:,} logs of a source."] if self.limit else []
        parts += [f"Votes over {self.samples} answers."] if self.samples > 1 else []
        return " ".join(parts)


def mean(rows: list[Scored], metric: str) -> dict[str, float]:
    """Average a metric over test sets, in percent, with an interval from theirs; of one test set its own interval.

    The distances from value to limit add up as independent errors do: Zou, Huang and Zhang, "A note on confidence
    interval estimation for a linear function of binomial proportions" (2009). Unlike resampling it needs no case of
    its own where a score is 0 or 1.
    """
    scores, share = [row.metrics[metric] for row in rows], 100 / len(rows)
    value = share * sum(score["value"] for score in scores)
    return {"value": value,
            "low": value - share * math.hypot(*(score["value"] - score["low"] for score in scores)),
            "high": value + share * math.hypot(*(score["high"] - score["value"] for score in scores)),
            "n": sum(row.n for row in rows), "unparsed": sum(row.unparsed for row in rows),
            "cut": sum(row.cut for row in rows)}


def points(run: Run, figure: Figure, names: list[str], results: Results) -> Iterator[dict[str, Any]]:
    """Yield every point of a figure for each model and test set, then the baselines that were measured."""
    declared = published()

    def measured(panel: Panel, key: tuple[str, str], test_set: str) -> dict[str, Any]:
        sources = list(dict.fromkeys(run.source(source) for source in panel.sources))
        scored, keys = results.get(key, {}), [(panel.task, source) for source in sources]
        row = {"figure": figure.number, "panel": panel.key, "metric": panel.metric, "sources": " ".join(sources),
               "test_set": test_set}
        if any((*key, "all") not in scored for key in keys):
            return {**row, "state": NOT_RUN}
        if any((*key, test_set) not in scored for key in keys):
            return {**row, "state": NO_ROWS}
        return {**row, "state": "measured", **mean([scored[*key, test_set] for key in keys], panel.metric)}

    for name in names:
        for panel in figure.panels:
            for point in figure.points:
                value = None if run.mark == "scripted" else declared.point_value(figure, panel, point.key, name)
                for test_set in TEST_SETS:
                    yield {**measured(panel, (point.model or name, point.stage), test_set), "model": name,
                           "series": point.series, "point": point.key, "published": value, "title": point.title,
                           "x": "" if point.x is None else f"{point.x:g}", "place": point.x}
    for row in declared.rows.values():
        for panel in figure.panels if row.baseline else []:
            for test_set in TEST_SETS:
                score = measured(panel, (row.filled_by.model, "baseline"), test_set)
                if score["state"] == "measured":
                    yield {**score, "model": row.filled_by.model, "point": "baseline", "state": "baseline",
                           "title": row.title}


def scores_picture(run: Run, figure: Figure, names: Sequence[str], subset: Subset) -> Picture:
    """Prepare figures 4-8. Raises UserError where the run has no results."""
    import pandas as pd

    results, inputs = _results(run, subset)
    titles = {name: cli.escape_terminal(run.model(name).title) for name in names or figure.models}
    frame = pd.DataFrame(points(run, figure, list(titles), results), columns=[*HEADER, "title", "place"])
    frame = frame.astype(dict.fromkeys(NUMBERS, float))
    shown = frame[frame["test_set"] == subset.test_set]
    own = shown[shown["state"] != "baseline"]
    done = own[own["state"] == "measured"]
    note = f"{len(done)} of {len(own)} points measured, {subset.note()}"
    if len(done):
        note += (" Whiskers: 95% intervals. Unparsed answers count as wrong: at most "
                 f"{(done['unparsed'] / done['n']).max():.1%} at a point.")
        if done["cut"].any():
            note += f" Cut at max_tokens: at most {(done['cut'] / done['n']).max():.1%}."
    return Picture(f"Figure {figure.number}. {figure.title}", frame,
                   partial(draw_scores, figure=figure, titles=titles, rows=shown), note, inputs)


def _results(run: Run, subset: Subset) -> tuple[Results, list[Path]]:
    results = load_results(run, *subset[1:])
    if not results:
        raise UserError(f"{run.results(*subset[1:])}: no results yet; score a model first: "
                        f"make eval RUN={run.name} MODEL=... STAGE=...")
    return results, [run.result(name, stage, *subset[1:]) for name, stage in results]


def overview_rows(sheets: list[Sheet], shown: set[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each test file, method and test set: measured scores, and the published ones of `shown` rows."""
    for sheet in sheets:
        for at, column in enumerate(sheet.columns[:len(sheet.columns) - sheet.further]):
            metric = column.gain or ("f1" if "f1" in column.metrics else column.metrics[0])
            for line in sheet.lines:
                printed = line.printed[at][column.metrics.index(metric)].partition(" ")[0]
                for test_set in TEST_SETS:
                    cell = line.cells[test_set][at]
                    row = {"table": sheet.name, "task": column.task, "test_file": column.source, "metric": metric,
                           "method": line.key.removesuffix("/baseline"), "test_set": test_set, "state": cell,
                           "published": float(printed) if printed and line.key in shown else None,
                           "title": cli.escape_terminal(line.title), "file_title": _file_title(column)}
                    if isinstance(cell, Scored):
                        row |= {**mean([cell], metric), "seen": cell.seen,
                                "state": "baseline" if line.baseline else "measured"}
                    if isinstance(cell, Scored) or row["published"] is not None:
                        yield row


def _file_title(column: Column) -> str:
    return f"{column.group} {column.title}".replace(task(column.task).title, "").strip() or "all sources"


def overview_picture(run: Run, names: Sequence[str], subset: Subset) -> Picture:
    """Prepare the overview: every method on each test file of the paper, or on each task of a run of another kind."""
    import pandas as pd

    results, inputs = _results(run, subset)
    rows = published().rows
    chosen = {key for key, row in rows.items() if row.base and row.filled_by.model in (names or OVERVIEW_MODELS)}
    shown = {*OVERVIEW_ROWS, *chosen, *(str(rows[key].base) for key in chosen)}
    frame = pd.DataFrame(overview_rows(sheets_of(run, results), shown), columns=[*OVERVIEW, "title", "file_title"])
    frame = frame.astype(dict.fromkeys(NUMBERS, float))
    drawn = frame[frame["test_set"] == subset.test_set]
    note = f"Filled: measured, {subset.note()} Whiskers: 95% intervals; unparsed answers count as wrong."
    if (drawn["seen"] > 0).any():
        note += " Seen: of the n logs, those in training data."
    if drawn["published"].notna().any():
        note += " Hollow: as the paper prints it, without an interval."
    return Picture("What is a score worth? In the grey area a constant answer does at least as well.", frame,
                   partial(draw_overview, rows=drawn), note, inputs)


def overview_svg(run: Run, limit: int | None, samples: int) -> bytes:
    """Draw the overview of a run as SVG."""
    picture = overview_picture(run, [], Subset("all", limit, samples))
    return pictures(["svg"], picture.title, picture.draw, picture.note, _watermark(run))[0]


def _watermark(run: Run) -> str:
    return SCRIPTED if run.mark == "scripted" else ""


def read_thoughts(folder: Path) -> "pd.DataFrame":
    """Read D_thought with its places in the t-SNE: id, task, x, y, steps.

    Raises UserError where a file is missing, the embeddings are of other thoughts, or there are fewer than two.
    """
    import numpy as np
    import pandas as pd

    path, embedded = folder / THOUGHTS, folder / EMBEDDED
    for needed, target in (path, "make thoughts"), (embedded, "make figure10"):
        if not needed.exists():
            raise UserError(f"{needed}: no such file; do: {target}")
    rows: list[dict[str, Any]] = []
    for number, sample in read_jsonl(path):
        steps = parse_steps(str(sample.get("response")).rpartition("Reasoning steps:")[2])
        if steps is None:
            raise UserError(f"{path}:{number}: no numbered reasoning steps in the response; do: make thoughts")
        rows.append({"id": str(sample.get("id")), "task": str(sample.get("task")), "steps": len(steps)})
    if len(rows) < 2:
        raise UserError(f"{path}: {len(rows)} thought{'s' * (len(rows) != 1)}; t-SNE needs two or more")
    made = read_json(f"{embedded}.manifest.json")
    if made.get("sha256") != sha256(embedded) or sha256(path) not in made.get("inputs", {}).values():
        raise UserError(f"{embedded}: not of the thoughts that {path} has now; remove it and do: make figure10")
    x, y = tsne(np.load(embedded, allow_pickle=False)).T
    return pd.DataFrame(rows).assign(x=x, y=y)[["id", "task", "x", "y", "steps"]]


def tsne(embeddings: Any) -> Any:
    """Return N x 2 coordinates of N x d embeddings, L2-normalised as for their selection; equal on every call."""
    import numpy as np
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    with threadpool_limits(1):  # threads add up in any order
        return TSNE(2, perplexity=min(30.0, (len(unit) - 1) / 3), init="random", random_state=SEED).fit_transform(unit)


def thoughts_picture(run: Run, figure: Figure) -> Picture:
    """Prepare figure 10."""
    folder = run.dataset("shared", "thought-sft")
    frame = read_thoughts(folder)
    printed = None if run.mark == "scripted" else figure.stated[0].at_least
    return Picture(f"Figure {figure.number}. {figure.title}", frame,
                   partial(draw_thoughts, thoughts=frame, published=printed), "In brackets: the 95% interval.",
                   [folder / THOUGHTS, folder / EMBEDDED])


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """Write a figure's rows: published percents with two digits, all others with four."""
    text = frame.drop(columns=DRAWN, errors="ignore")
    for name in {"published", "n", "unparsed", "cut", "seen"} & set(text):
        text[name] = text[name].map(("{:.2f}" if name == "published" else "{:.0f}").format, na_action="ignore")
    with writing(path) as stream:
        text.to_csv(stream, index=False, float_format="%.4f", lineterminator="\n")


def make_figure(run: Run, which: str, out: Path, names: Sequence[str] = (), subset: Subset | None = None) -> list[Path]:
    """Write a figure ("overview", or a number of the paper's) as .png, .svg and .csv into a folder.

    `names` are models instead of the paper's; the test set of `subset` is drawn, the CSV file has both. Raises
    UserError where there is nothing to draw from.
    """
    if which == "overview":
        picture, stem = overview_picture(run, names, subset or Subset("all")), which
    else:
        figure, stem = published().figure(int(which)), f"figure{which}"
        picture = (thoughts_picture(run, figure) if figure.kind == "thoughts" else
                   scores_picture(run, figure, names, subset or Subset()))
    png, svg, table = files = [out / f"{stem}.{form}" for form in ("png", "svg", "csv")]
    save([png, svg], picture.title, picture.draw, picture.note, _watermark(run))
    write_csv(table, picture.frame)
    for file in files:
        manifest(file, [EXPERIMENTS / "tables.yaml", *picture.inputs], run=run.name, teacher=run.mark)
    return files


def _which(text: str) -> str:
    return text if text == "overview" else str(int(text))


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    test_set = given.test_set or ("all" if given.figure == "overview" else "disjoint")
    print(*make_figure(run, given.figure, given.out or run.results(given.limit, given.samples), given.models,
                       Subset(test_set, given.limit, given.samples)))


def main() -> None:
    """Draw a figure."""
    arguments = cli.parser("eval.figures", "A figure of the paper (4-8, 10) or an overview, measured beside published.",
                           """
python -m eval.figures --run paper --figure overview
python -m eval.figures --run paper --figure 4
python -m eval.figures --run paper --figure 5 --models llama3.1-8b qwen2.5-7b --test-set all""",
                           required=["run"], optional=["limit", "samples"])
    arguments.add_argument("--figure", required=True, type=_which, help="overview, or the paper's 4, 5, 6, 7, 8 or 10")
    arguments.add_argument("--models", nargs="+", default=[], help="names of models.yaml (default: the paper's; "
                           "overview: whose published LogReasoner is shown, by default llama3.1-8b)")
    arguments.add_argument("--test-set", choices=TEST_SETS, help="drawn (default: disjoint; overview: all)")
    arguments.add_argument("--out", type=Path, help="a folder (default: build/runs/RUN/results)")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
