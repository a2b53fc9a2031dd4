"""Results of a run -> the paper's figures 4-8 and 10 as PNG, SVG and CSV, measured beside published (docs/figures.md).

A point is the mean of a metric over the sources of its panel. Equal inputs give equal bytes.
"""

import argparse
import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.drawing import FLOOR, Mark, Mean, Thought, draw_scores, draw_thoughts, plain, save
from eval.predictions import add_limit_and_samples
from eval.score import SEED
from eval.tables import NO_ROWS, NOT_RUN, Results, Scored, load_results, results_dir
from logreasoner import cli
from logreasoner.answer_format import parse_steps
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.files import EXPERIMENTS, manifest, read_json, read_jsonl, sha256, writing
from logreasoner.paper import Figure, Panel, Point, published

HEADER = ("figure", "model", "panel", "series", "point", "x", "metric", "sources", "test_set", "published", "value",
          "low", "high", "n", "unparsed", "state")
TEST_SETS = {"disjoint": "test logs that no training split holds", "all": "all test logs"}
SCRIPTED = "scripted teacher, tiny model: not a result"
SAMPLES, EMBEDDED = "samples.jsonl", "thought_embeddings.npy"  # D_thought; its responses by data_builders.embed


def mean(rows: list[Scored], metric: str) -> Mean:
    """The mean of a metric over test sets, with its interval from theirs; of one test set its own interval.

    The distances from value to limit add up as independent errors do: Zou, Huang and Zhang, "A note on confidence
    interval estimation for a linear function of binomial proportions" (2009). Unlike resampling it needs no case of
    its own where a score is 0 or 1.
    """
    parts, share = [row.metrics[metric] for row in rows], 100 / len(rows)
    value = share * sum(part["value"] for part in parts)
    return Mean(value, value - share * math.hypot(*(part["value"] - part["low"] for part in parts)),
                value + share * math.hypot(*(part["high"] - part["value"] for part in parts)),
                sum(row.n for row in rows), sum(row.unparsed for row in rows))


def sources(run: Run, panel: Panel) -> list[str]:
    """The run's own sources that stand for a panel's."""
    return list(dict.fromkeys(run.source(source) for source in panel.sources))


def marks(run: Run, figure: Figure, names: list[str], results: Results) -> list[Mark]:
    """Every point of a figure for each model and test set, then the baselines that were measured."""
    said = published()

    def measured(panel: Panel, key: tuple[str, str], test_set: str) -> Mean | str:
        scored, wanted = results.get(key, {}), [(panel.task, source) for source in sources(run, panel)]
        if any((*one, "all") not in scored for one in wanted):
            return NOT_RUN
        if any((*one, test_set) not in scored for one in wanted):
            return NO_ROWS
        return mean([scored[*one, test_set] for one in wanted], panel.metric)

    def stated(panel: Panel, point: Point, name: str) -> float | None:
        return None if run.mark == "scripted" else said.point_value(figure, panel, point.key, name)

    found = [Mark(name, panel, point, test_set, stated(panel, point, name),
                  measured(panel, (point.model or name, point.stage), test_set))
             for name in names for panel in figure.panels for point in figure.points for test_set in TEST_SETS]
    baselines = [Mark(row.filled_by.model, panel, Point(key=FLOOR, title=row.title, stage=FLOOR), test_set, None,
                   measured(panel, (row.filled_by.model, FLOOR), test_set))
              for row in said.rows.values() if row.baseline for panel in figure.panels for test_set in TEST_SETS]
    return found + [baseline for baseline in baselines if isinstance(baseline.measured, Mean)]


def csv_rows(run: Run, figure: Figure, found: list[Mark]) -> Iterator[tuple[str, ...]]:
    """HEADER's fields for each mark; published, value, low and high in percent."""
    for mark in found:
        one, point = mark.measured, mark.point
        measured: tuple[str, ...] = ("", "", "", "", "", str(one))
        if isinstance(one, Mean):
            percents = (f"{percent:.4f}" for percent in (one.value, one.low, one.high))
            measured = (*percents, str(one.n), str(one.unparsed), FLOOR if point.key == FLOOR else "measured")
        yield (str(figure.number), mark.model, mark.panel.key, point.series, point.key,
               "" if point.x is None else f"{point.x:g}", mark.panel.metric, " ".join(sources(run, mark.panel)),
               mark.test_set, "" if mark.published is None else f"{mark.published:.2f}", *measured)


def note(found: list[Mark], test_set: str, limit: int | None, samples: int) -> str:
    """How many points of a picture are measured, on what, and how many answers could not be parsed."""
    points = [mark.measured for mark in found if mark.point.key != FLOOR]
    done = [one for one in points if isinstance(one, Mean)]
    said = f"{len(done)} of {len(points)} points measured, on {TEST_SETS[test_set]}."
    said += f" A stratified sample: at most {limit:,} logs of a source." if limit else ""
    said += f" Votes over {samples} answers." if samples > 1 else ""
    if not done:
        return said
    most = max(one.unparsed / one.n for one in done)
    return f"{said} Whiskers: 95% intervals. Unparsed answers count as wrong: at most {most:.1%} at a point."


def read_thoughts(folder: Path) -> list[Thought]:
    """D_thought with its places in the t-SNE.

    Raises UserError where a file is missing, the embeddings are of other thoughts, or there are fewer than two.
    """
    import numpy as np

    path, embedded = folder / SAMPLES, folder / EMBEDDED
    for needed, how in (path, "make thoughts"), (embedded, "make figure10"):
        if not needed.exists():
            raise UserError(f"{needed}: no such file; do: {how}")
    rows: list[tuple[str, str, int]] = []
    for number, sample in read_jsonl(path):
        steps = parse_steps(str(sample.get("response")).rpartition("Reasoning steps:")[2])
        if steps is None:
            raise UserError(f"{path}:{number}: no numbered reasoning steps in the response; do: make thoughts")
        rows.append((str(sample.get("id")), str(sample.get("task")), len(steps)))
    if len(rows) < 2:
        raise UserError(f"{path}: {len(rows)} thought{'s' * (len(rows) != 1)}; t-SNE needs two or more")
    made = read_json(f"{embedded}.manifest.json")
    if made.get("sha256") != sha256(embedded) or sha256(path) not in made.get("inputs", {}).values():
        raise UserError(f"{embedded}: not of the thoughts that {path} has now; remove it and do: make figure10")
    places = tsne(np.load(embedded, allow_pickle=False)).tolist()
    return [Thought(*row, *place) for row, place in zip(rows, places, strict=True)]


def tsne(embeddings: Any) -> Any:
    """N x 2 coordinates of N x d embeddings, L2-normalised as for their selection; equal on every call."""
    import numpy as np
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    with threadpool_limits(1):  # threads add up in any order
        return TSNE(2, perplexity=min(30.0, (len(unit) - 1) / 3), init="random", random_state=SEED).fit_transform(unit)


def make_figure(run: Run, number: int, out: Path, names: Sequence[str] = (), test_set: str = "disjoint",
                limit: int | None = None, samples: int = 1) -> list[Path]:
    """Write figureN.png, .svg and .csv into a folder; raises UserError where there is nothing to draw from.

    `names` are models instead of the paper's, `test_set` is the one that is drawn: the CSV file has both.
    """
    figure = published().figure(number)
    scripted = run.mark == "scripted"
    draw: Callable[[Any], list[Any]]
    rows: list[tuple[str, ...]]
    if figure.kind == "thoughts":
        folder = run.dataset("shared", "thought-sft")
        thoughts = read_thoughts(folder)
        said, text = None if scripted else figure.stated[0].at_least, "In brackets: the 95% interval."
        draw = partial(draw_thoughts, thoughts=thoughts, published=said)
        rows = [("id", "task", "x", "y", "steps"),
                *((one.id, one.task, f"{one.x:.4f}", f"{one.y:.4f}", str(one.steps)) for one in thoughts)]
        inputs = [folder / SAMPLES, folder / EMBEDDED]
    else:
        scored, results = results_dir(run, limit, samples), load_results(run, limit, samples)
        if not results:
            raise UserError(f"{scored}: no results yet; score a model first: "
                            f"make eval RUN={run.name} MODEL=... STAGE=...")
        titles = {name: plain(run.model(name).title) for name in names or figure.models}
        found = marks(run, figure, list(titles), results)
        shown = [mark for mark in found if mark.test_set == test_set]
        draw = partial(draw_scores, figure=figure, titles=titles, found=shown)
        text = note(shown, test_set, limit, samples)
        rows = [HEADER, *csv_rows(run, figure, found)]
        inputs = [scored / name / stage / "result.json" for name, stage in results]
    png, svg, table = files = [out / f"figure{number}.{form}" for form in ("png", "svg", "csv")]
    save([png, svg], f"Figure {number}. {figure.title}", draw, text, SCRIPTED if scripted else "")
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    with writing(table) as stream:
        stream.write(lines.getvalue())
    for file in files:
        manifest(file, [EXPERIMENTS / "tables.yaml", *inputs], run=run.name, teacher=run.mark)
    return files


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    out = given.out or results_dir(run, given.limit, given.samples)
    print(*make_figure(run, given.figure, out, given.models, given.test_set, given.limit, given.samples))


def main() -> None:
    """Draw one of the paper's figures."""
    arguments = cli.parser("eval.figures", "A figure of the paper (4-8, 10), measured beside published.", """
python -m eval.figures --run paper --figure 4
python -m eval.figures --run paper --figure 5 --models llama3.1-8b qwen2.5-7b --test-set all""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--figure", required=True, type=int, help="the paper's number: 4, 5, 6, 7, 8 or 10")
    arguments.add_argument("--models", nargs="+", default=[], help="names of models.yaml (default: the paper's)")
    arguments.add_argument("--test-set", choices=list(TEST_SETS), default="disjoint", help="drawn (default: disjoint)")
    arguments.add_argument("--out", type=Path, help="a folder (default: build/runs/RUN/results)")
    add_limit_and_samples(arguments)
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
