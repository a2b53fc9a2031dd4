"""How figures look: bars, lines and thoughts on matplotlib's axes, in the one style of templates/figures.mplstyle."""

import math
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.score import wilson
from logreasoner.config import task
from logreasoner.files import TEMPLATES, writing
from logreasoner.paper import NAMES, Figure, Panel, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FLOOR = "baseline"
TYPICAL = (4, 5)  # steps: the paper's "over 86%" of the thoughts (section 6.2.2)
INK, PALE = "#222222", "#8A8A8A"
MARKERS, HATCHES, DASHES = "osv^<>P", ("", "////", "....", "xxxx"), ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
DIAMOND: dict[str, Any] = {"marker": "D", "markersize": 4.5, "markerfacecolor": "white", "linestyle": "none"}
CROSS: dict[str, Any] = {"marker": "x", "markersize": 4.5, "linestyle": "none"}


@dataclass(frozen=True)
class Mean:
    """A mean over sources with its 95% interval, in percent; the test logs and unparsed answers behind it."""

    value: float
    low: float
    high: float
    n: int
    unparsed: int


@dataclass(frozen=True)
class Mark:
    """A place in a figure on one test set: what the paper says in percent, and what was measured or why nothing was."""

    model: str
    panel: Panel
    point: Point
    test_set: str
    published: float | None
    measured: Mean | str


@dataclass(frozen=True)
class Thought:
    """A thought of D_thought, how many steps it has and where t-SNE puts it."""

    id: str
    task: str
    steps: int
    x: float
    y: float


def plain(text: str) -> str:
    """A name as one line of printable characters, so that no name breaks a picture."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def _whisker(axes: "Axes", measured: Mean | str, x: float, colour: str) -> None:
    """The interval of a value, or a cross on the axis where there is none."""
    if isinstance(measured, str):
        axes.plot(x, 0.025, color=colour, transform=axes.get_xaxis_transform(), **CROSS)
    else:
        axes.errorbar(x, measured.value, yerr=[[measured.value - measured.low], [measured.high - measured.value]],
                      color=INK, capsize=2, linewidth=0.9, zorder=4)


def draw_bars(axes: "Axes", figure: Figure, shown: list[Mark], titles: dict[str, str]) -> list[Any]:
    """A group of bars for each model; returns what the legend shows."""
    from matplotlib.patches import Patch

    names, width = list(titles), 0.84 / len(figure.points)
    fills: list[dict[str, Any]] = [{"facecolor": f"C{at}", "hatch": HATCHES[at % len(HATCHES)], "edgecolor": "white"}
                                   for at in range(len(figure.points))]
    for mark in shown:
        at = figure.points.index(mark.point)
        x, aside = names.index(mark.model) + (at - (len(figure.points) - 1) / 2) * width, 0.0
        if isinstance(mark.measured, Mean):
            aside = 0.2 * width  # whisker and diamond beside each other
            axes.bar(x, mark.measured.value, 0.9 * width, **fills[at])
            axes.text(x, 2, f"{mark.measured.value:.1f}", ha="center", fontsize=6.5,
                      bbox={"facecolor": "white", "linewidth": 0, "pad": 1})
        _whisker(axes, mark.measured, x + aside, f"C{at}")
        if mark.published is not None:
            axes.plot(x - aside, mark.published, color=INK, zorder=6, **DIAMOND)
    axes.set_xticks(range(len(names)), list(titles.values()))
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, 100))
    base = titles[names[0]] if len(names) == 1 else "base model"
    return [Patch(**fill, label=point.title.replace("{model}", base))
            for fill, point in zip(fills, figure.points, strict=True)]


def draw_lines(axes: "Axes", figure: Figure, shown: list[Mark], _: dict[str, str]) -> list[Any]:
    """A line for each series over x, broken where a point was not run; returns what the legend shows."""
    legend: list[Any] = []
    for at, series in enumerate(dict.fromkeys(point.series for point in figure.points)):
        ours = sorted((mark for mark in shown if mark.point.series == series), key=lambda mark: mark.point.x or 0)
        places = [(mark.point.x or 0) + 1.6 * at - 0.8 for mark in ours]  # whiskers of two series side by side
        values = [mark.measured.value if isinstance(mark.measured, Mean) else math.nan for mark in ours]
        legend += axes.plot(places, values, color=f"C{at}", marker=MARKERS[at], markersize=4, linewidth=1.3,
                            label=series, zorder=5)
        for mark, x in zip(ours, places, strict=True):
            _whisker(axes, mark.measured, x, f"C{at}")
            if mark.published is not None:
                axes.plot(x, mark.published, color=f"C{at}", zorder=6, **DIAMOND)
    axes.margins(y=0.1)
    axes.set_xlabel("share of the stage's data (%)")
    axes.set_xticks(sorted({point.x for point in figure.points if point.x is not None}))
    return legend


def draw_floors(axes: "Axes", baselines: list[Mark], order: list[str]) -> list[Any]:
    """A thin line for each baseline, dashed by its place in `order`; returns what the legend shows."""
    return [axes.axhline(mark.measured.value, color=PALE, linewidth=0.9, label=mark.point.title,
                         linestyle=DASHES[order.index(mark.model) % len(DASHES)])
            for mark in baselines if isinstance(mark.measured, Mean)]


def draw_scores(canvas: "Canvas", figure: Figure, titles: dict[str, str], found: list[Mark]) -> list[Any]:
    """A column for each panel; of lines with several models a row for each panel and a column for each model.

    `found` are the marks of one test set, `titles` the models'. Returns what the legend shows.
    """
    from matplotlib.lines import Line2D

    lines = figure.kind == "lines"
    rows = [[(panel, titles) for panel in figure.panels]]
    if lines and len(titles) > 1:
        rows = [[(panel, {name: title}) for name, title in titles.items()] for panel in figure.panels]
    width = 2.8 if lines else max(2.8, 0.36 * len(figure.points) * len(titles))
    canvas.set_size_inches(max(7.0, 0.9 + len(rows[0]) * width), 1.3 + 2.4 * len(rows))
    grid = canvas.subplots(len(rows), len(rows[0]), squeeze=False, sharey="row" if len(rows) > 1 else False)
    order = list(dict.fromkeys(mark.model for mark in found if mark.point.key == FLOOR))
    legend: dict[str, Any] = {}
    for axes, (panel, ours) in zip(grid.flat, chain(*rows), strict=True):
        here = [mark for mark in found if mark.panel == panel]
        drawn = (draw_lines if lines else draw_bars)(axes, figure, [mark for mark in here if mark.model in ours], ours)
        drawn += draw_floors(axes, [mark for mark in here if mark.point.key == FLOOR], order)
        sizes = {f"n = {mark.measured.n:,}" for mark in here if isinstance(mark.measured, Mean)}
        axes.set_title("\n".join([panel.title, ", ".join([*(ours.values() if lines else ()), *sizes])]))
        axes.set_ylabel(f"{NAMES[panel.metric]} (%)")
        legend = legend | {str(one.get_label()): one for one in drawn if str(one.get_label()) not in legend}
    if any(mark.published is not None for mark in found):
        said = f"published (section {figure.section} or tables)"
        legend[said] = Line2D([], [], label=said, color=INK, **DIAMOND)
    if missing := " or ".join(sorted({mark.measured for mark in found if isinstance(mark.measured, str)})):
        legend[missing] = Line2D([], [], label=missing, color=INK, **CROSS)
    return list(legend.values())


def draw_thoughts(canvas: "Canvas", thoughts: list[Thought], published: float | None) -> list[Any]:
    """(a) t-SNE, coloured by task; (b) histogram of steps with the share of TYPICAL ones beside the published percent.

    Returns what the legend shows.
    """
    canvas.set_size_inches(7.0, 3.7)
    left, right = canvas.subplots(1, 2, width_ratios=[1.2, 1])
    legend: list[Any] = []
    for at, name in enumerate(sorted({thought.task for thought in thoughts})):
        places = [(thought.x, thought.y) for thought in thoughts if thought.task == name]
        title = "Handbook cases" if name == "handbook" else plain(task(name).title)
        legend += left.plot(*zip(*places, strict=True), linestyle="none", marker=MARKERS[at % len(MARKERS)],
                            markersize=3.5, markeredgewidth=0, alpha=0.8, label=title)
    left.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    left.set_title(f"(a) Embedded thoughts\nn = {len(thoughts):,}")
    steps = Counter(thought.steps for thought in thoughts)
    for count, number in steps.items():
        right.bar(count, number, 0.85, color="C0" if count in TYPICAL else "#BBBBBB")
        right.text(count, number, f"{number:,}", ha="center", va="bottom", fontsize=6.5)
    right.set(xticks=range(min(steps), max(steps) + 1), xlabel="number of steps", ylabel="number of thoughts")
    right.yaxis.get_major_locator().set_params(integer=True)
    hits = sum(steps[count] for count in TYPICAL)
    low, high = wilson(hits, len(thoughts))
    said = "" if published is None else f"; published: >{published:g}%"
    right.set_title(f"(b) Steps of the thoughts\n4 or 5: {hits / len(thoughts):.1%} "
                    f"[{100 * low:.1f}, {100 * high:.1f}]{said}")
    return legend


def save(files: list[Path], title: str, draw: Callable[["Canvas"], list[Any]], note: str, watermark: str) -> None:
    """Draw once and write a .png and a .svg file, the same bytes for the same picture."""
    import matplotlib.style
    from matplotlib.figure import Figure as Canvas

    with matplotlib.style.context(["default", TEMPLATES / "figures.mplstyle"]):
        canvas = Canvas(layout="constrained")
        legend = draw(canvas)
        canvas.suptitle(title, x=0.01, ha="left")
        canvas.legend(handles=legend, loc="outside lower left", ncols=3, alignment="left",
                      title=textwrap.fill(note, int(17 * canvas.get_figwidth())), title_fontsize=7)
        canvas.text(0.5, 0.5, watermark, rotation=18, ha="center", va="center", fontsize=19, color="#C00000",
                    alpha=0.35, weight="bold")
        for file in files:
            with writing(file, "wb") as stream:
                canvas.savefig(stream, format=file.suffix[1:],
                               metadata={"Software": None} if file.suffix == ".png" else {"Date": None})
