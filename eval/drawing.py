"""Draw figures from data frames: bars, lines, dots and thoughts in the one style of templates/figures.mplstyle."""

import io
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.score import wilson
from logreasoner.cli import escape_terminal
from logreasoner.config import task
from logreasoner.files import TEMPLATES, writing
from logreasoner.paper import NAMES, Figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

TYPICAL = (4, 5)  # steps: the paper's "over 86%" of the thoughts (section 6.2.2)
INK, PALE, SHADE = "#222222", "#8A8A8A", "#E9E9E9"
DOTS, COLOURS = "os^vDP<>X*", ("#0072B2", "#7A4B00", "#D55E00", "#007A5A", "#8E3A80")  # dark enough if hollow
MARKERS, HATCHES, DASHES = "osv^<>P", ("", "////", "....", "xxxx"), ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
DIAMOND: dict[str, Any] = {"marker": "D", "markersize": 4.5, "markerfacecolor": "white", "linestyle": "none"}
CROSS: dict[str, Any] = {"marker": "x", "markersize": 4.5, "linestyle": "none"}
CONSTANT = ("majority", "always-positive")  # the latter counts where both were scored: its F1 is never the lower


def records(frame: "pd.DataFrame") -> Iterable[Any]:
    """Return the rows of a frame with its columns as attributes."""
    return frame.itertuples()


def _whisker(axes: "Axes", row: Any, x: float, colour: str) -> None:
    """Draw the interval of a measured value, or a cross on the axis where there is none."""
    if row.state != "measured":
        axes.plot(x, 0.025, color=colour, transform=axes.get_xaxis_transform(), **CROSS)
    else:
        axes.errorbar(x, row.value, yerr=[[row.value - row.low], [row.high - row.value]], color=INK, capsize=2,
                      linewidth=0.9, zorder=4)


def draw_bars(axes: "Axes", figure: Figure, rows: "pd.DataFrame", titles: dict[str, str]) -> list[Any]:
    """Draw a group of bars for each model; returns what the legend shows."""
    from matplotlib.patches import Patch

    names, keys, width = list(titles), [point.key for point in figure.points], 0.84 / len(figure.points)
    fills: list[dict[str, Any]] = [{"facecolor": f"C{at}", "hatch": HATCHES[at % len(HATCHES)], "edgecolor": "white"}
                                   for at in range(len(keys))]
    for row in records(rows):
        at = keys.index(row.point)
        x, aside = names.index(row.model) + (at - (len(keys) - 1) / 2) * width, 0.0
        if row.state == "measured":
            aside = 0.2 * width  # whisker and diamond beside each other
            axes.bar(x, row.value, 0.9 * width, **fills[at])
            axes.text(x, 2, f"{row.value:.1f}", ha="center", fontsize=6.5,
                      bbox={"facecolor": "white", "linewidth": 0, "pad": 1})
        _whisker(axes, row, x + aside, f"C{at}")
        axes.plot(x - aside, row.published, color=INK, zorder=6, **DIAMOND)
    axes.set_xticks(range(len(names)), list(titles.values()))
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, 100))
    base = titles[names[0]] if len(names) == 1 else "base model"
    return [Patch(**fill, label=point.title.replace("{model}", base))
            for fill, point in zip(fills, figure.points, strict=True)]


def draw_lines(axes: "Axes", figure: Figure, rows: "pd.DataFrame", _: dict[str, str]) -> list[Any]:
    """Draw a line for each series over x, broken where a point was not run; returns what the legend shows."""
    legend: list[Any] = []
    for at, series in enumerate(dict.fromkeys(point.series for point in figure.points)):
        own = rows[rows["series"] == series].sort_values("place", kind="stable")
        own = own.assign(place=own["place"] + 1.6 * at - 0.8)  # whiskers of two series side by side
        legend += axes.plot(own["place"], own["value"], color=f"C{at}", marker=MARKERS[at], markersize=4, linewidth=1.3,
                            label=series, zorder=5)
        axes.plot(own["place"], own["published"], color=f"C{at}", zorder=6, **DIAMOND)
        for row in records(own):
            _whisker(axes, row, row.place, f"C{at}")
    axes.margins(y=0.1)
    axes.set_xlabel("share of the stage's data (%)")
    axes.set_xticks(sorted({point.x for point in figure.points if point.x is not None}))
    return legend


def draw_scores(canvas: "Canvas", figure: Figure, titles: dict[str, str], rows: "pd.DataFrame") -> list[Any]:
    """Draw a column for each panel; of lines with several models a row for each panel and a column for each model.

    `rows` are the points on one test set, `titles` the models'. Returns what the legend shows.
    """
    from matplotlib.lines import Line2D

    lines = figure.kind == "lines"
    panels = [[(panel, titles) for panel in figure.panels]]
    if lines and len(titles) > 1:
        panels = [[(panel, {name: title}) for name, title in titles.items()] for panel in figure.panels]
    width = 2.8 if lines else max(2.8, 0.36 * len(figure.points) * len(titles))
    canvas.set_size_inches(max(7.0, 0.9 + len(panels[0]) * width), 1.3 + 2.4 * len(panels))
    grid = canvas.subplots(len(panels), len(panels[0]), squeeze=False, sharey="row" if len(panels) > 1 else False)
    baselines = list(rows["model"][rows["state"] == "baseline"].unique())
    legend: dict[str, Any] = {}
    for axes, (panel, own_titles) in zip(grid.flat, chain(*panels), strict=True):
        own = rows[(rows["panel"] == panel.key) & (rows["model"].isin([*own_titles, *baselines]))]
        models = own[own["state"] != "baseline"]
        drawn = (draw_lines if lines else draw_bars)(axes, figure, models, own_titles)
        drawn += [axes.axhline(row.value, color=PALE, linewidth=0.9, label=row.title,
                               linestyle=DASHES[baselines.index(row.model) % len(DASHES)])
                  for row in records(own[own["state"] == "baseline"])]
        sizes = [f"n = {n:,.0f}" for n in own["n"].dropna().unique()]
        axes.set_title("\n".join([panel.title, ", ".join([*(own_titles.values() if lines else ()), *sizes])]))
        axes.set_ylabel(f"{NAMES[panel.metric]} (%)")
        legend |= {label: handle for handle in drawn if (label := str(handle.get_label())) not in legend}
    if rows["published"].notna().any():
        label = f"published (section {figure.section} or tables)"
        legend[label] = Line2D([], [], label=label, color=INK, **DIAMOND)
    if missing := " or ".join(sorted(set(rows["state"]) - {"measured", "baseline"})):
        legend[missing] = Line2D([], [], label=missing, color=INK, **CROSS)
    return list(legend.values())


def draw_overview(canvas: "Canvas", rows: "pd.DataFrame") -> list[Any]:
    """Draw a panel for each task and in it a row of dots for each test file; returns what the legend shows."""
    from matplotlib.patches import Patch

    panels = [own for _, own in rows.groupby("task", sort=False)]
    first = rows.sort_values("state", key=lambda state: state != "baseline", kind="stable").drop_duplicates("method")
    first = first[~first["method"].isin(CONSTANT)]
    baselines = int((first["state"] == "baseline").sum())
    looks = {row.method: {"marker": DOTS[at % len(DOTS)], "markersize": 5, "markeredgewidth": 1.3, "linestyle": "none",
                          "color": INK if at < baselines else COLOURS[(at - baselines) % len(COLOURS)]}
             for at, row in enumerate(records(first))}
    heights = [max(own["test_file"].nunique() for own in panels[at:at + 2]) for at in range(0, len(panels), 2)]
    canvas.set_size_inches(10 if len(panels) > 1 else 7,
                           1.3 + 0.5 * len(heights) + max(0.45, 0.12 * (2 + len(looks))) * sum(heights))
    grid = canvas.subplots(len(heights), min(2, len(panels)), squeeze=False, height_ratios=heights)
    legend: dict[str, Any] = {}
    for axes, own in zip(grid.flat, panels, strict=False):
        legend = {str(handle.get_label()): handle for handle in _draw_dots(axes, own, looks)} | legend
    for axes in grid.flat[len(panels):]:
        axes.set_axis_off()
    order = [f"{title}{ending}" for title in first["title"] for ending in ("", " (published)")]
    return [Patch(facecolor=SHADE, edgecolor=INK, label="constant answer: majority class, or always positive"),
            *(legend[label] for label in order if label in legend)]


def _draw_dots(axes: "Axes", rows: "pd.DataFrame", looks: dict[str, dict[str, Any]]) -> list[Any]:
    """Draw a task's test files below each other, each method on a line of its own, a constant answer as grey area."""
    files, methods = list(rows["test_file"].unique()), [name for name in looks if name in set(rows["method"])]
    step, handles = 0.84 / (1 + len(methods)), []
    for row in records(rows[~rows["method"].isin(CONSTANT)]):
        y = files.index(row.test_file) - 0.42 + step * (1.5 + methods.index(row.method))
        if row.value == row.value:  # not NaN
            axes.errorbar(row.value, y, xerr=[[row.value - row.low], [row.high - row.value]], color=INK, capsize=1.5,
                          linewidth=0.9, zorder=4)
            handles += axes.plot(row.value, y, label=row.title, zorder=5, **looks[row.method])
        if row.published == row.published:
            handles += axes.plot(row.published, y, label=f"{row.title} (published)", zorder=6,
                                 **looks[row.method] | {"markerfacecolor": "white"})
    constants = rows[rows["method"].isin(CONSTANT)].sort_values("method", key=lambda names: names.map(CONSTANT.index))
    for row in records(constants.drop_duplicates("test_file", keep="last")):
        at = files.index(row.test_file)
        axes.barh(at, row.value, 0.84, color=SHADE, zorder=0)
        axes.vlines(row.value, at - 0.42, at + 0.42, color=INK, linewidth=1.2, zorder=3)
        axes.errorbar(row.value, at - 0.42 + step / 2, xerr=[[row.value - row.low], [row.high - row.value]], color=INK,
                      capsize=1.5, linewidth=0.9, zorder=4)
    axes.set_yticks(range(len(files)), [_label(rows[rows["test_file"] == name]) for name in files])
    axes.set(xlim=(-1, 101), ylim=(len(files) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.set_title(f"{escape_terminal(task(rows['task'].iloc[0]).title)}, {NAMES[rows['metric'].iloc[0]]} (%)")
    return handles


def _label(rows: "pd.DataFrame") -> str:
    """Name a test file and its size."""
    n, seen = rows["n"].max(), rows["seen"].max()
    size = f"n = {n:,.0f}" + (f", {seen:,.0f} seen" if seen else "") if n > 0 else "published only"
    return "\n".join([*textwrap.wrap(escape_terminal(rows["file_title"].iloc[0]), 16), size])


def draw_thoughts(canvas: "Canvas", thoughts: "pd.DataFrame", published: float | None) -> list[Any]:
    """Draw (a) the t-SNE, coloured by task; (b) steps, with the share of TYPICAL ones beside the published percent.

    Returns what the legend shows.
    """
    canvas.set_size_inches(7.0, 3.7)
    left, right = canvas.subplots(1, 2, width_ratios=[1.2, 1])
    legend: list[Any] = []
    for at, (name, own) in enumerate(thoughts.groupby("task")):
        title = "Handbook cases" if name == "handbook" else escape_terminal(task(str(name)).title)
        legend += left.plot(own["x"], own["y"], linestyle="none", marker=MARKERS[at % len(MARKERS)],
                            markersize=3.5, markeredgewidth=0, alpha=0.8, label=title)
    left.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    left.set_title(f"(a) Embedded thoughts\nn = {len(thoughts):,}")
    steps = Counter(thoughts["steps"])
    for count, number in steps.items():
        right.bar(count, number, 0.85, color="C0" if count in TYPICAL else "#BBBBBB")
        right.text(count, number, f"{number:,}", ha="center", va="bottom", fontsize=6.5)
    right.set(xticks=range(min(steps), max(steps) + 1), xlabel="number of steps", ylabel="number of thoughts")
    right.yaxis.get_major_locator().set_params(integer=True)
    hits = sum(steps[count] for count in TYPICAL)
    low, high = wilson(hits, len(thoughts))
    beside = "" if published is None else f"; published: >{published:g}%"
    right.set_title(f"(b) Steps of the thoughts\n4 or 5: {hits / len(thoughts):.1%} "
                    f"[{100 * low:.1f}, {100 * high:.1f}]{beside}")
    return legend


def pictures(forms: list[str], title: str, draw: Callable[["Canvas"], list[Any]], note: str, watermark: str
             ) -> list[bytes]:
    """Draw once and return the picture in each of the forms (png, svg), the same bytes for the same picture."""
    import matplotlib.style
    from matplotlib.figure import Figure as Canvas

    files = []
    with matplotlib.style.context(["default", TEMPLATES / "figures.mplstyle"]):
        canvas = Canvas(layout="constrained")
        legend = draw(canvas)
        canvas.suptitle(title, x=0.01, ha="left")
        canvas.legend(handles=legend, loc="outside lower left", ncols=3, alignment="left",
                      title=textwrap.fill(note, int(17 * canvas.get_figwidth())), title_fontsize=7)
        canvas.text(0.5, 0.5, watermark, rotation=18, ha="center", va="center", fontsize=19, color="#C00000",
                    alpha=0.35, weight="bold")
        for form in forms:
            stream = io.BytesIO()
            canvas.savefig(stream, format=form, metadata={"Software": None} if form == "png" else {"Date": None})
            files.append(stream.getvalue())
    return files


def save(files: list[Path], title: str, draw: Callable[["Canvas"], list[Any]], note: str, watermark: str) -> None:
    """Draw once and write the picture to each file, by its ending."""
    for file, content in zip(files, pictures([file.suffix[1:] for file in files], title, draw, note, watermark),
                             strict=True):
        with writing(file, "wb") as stream:
            stream.write(content)
