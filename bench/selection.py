"""Greedy DPP selection beside the published algorithm: time, memory, and whether both choose the same rows.

The peer is algorithm 1 of Chen, Zhang and Zhou (2018) in its usual vectorised form, with its N x N kernel of float64.
Times are of the selection from the file of embeddings on, without the start of Python; the peak memory is the whole
process's. At N = 100,000 everything is measured: the command, its start and the manifest it writes.
"""

import csv
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.measuring import Ran, Row, alternately, limit, ran, ratio
from data_builders.dpp import greedy_map
from logreasoner.files import read_json, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

WIDTH, COUNT = 1024, 1000
SIZES = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
PEER = 5_000  # rows where both are compared
SLOWEST = 1.3  # times the published algorithm's time, at most
KERNEL_FITS = 10_000  # rows; numpy's product of 20,000 rows with themselves (3.2 GB) crashed in OpenBLAS on two threads
KINDS = {
    "random": "Gaussian rows",
    "clustered": "clustered rows",
    "copies": "50 copies of each row",
    "one-hot": "one-hot rows, ties at every step",
}
Rows = NDArray[np.float32]


class Point(NamedTuple):
    """One measurement: which algorithm on what rows, how many of them, seconds, and peak memory (MB)."""

    algorithm: str
    kind: str
    rows: int
    seconds: float
    megabytes: float


def embeddings(kind: str, size: int = SIZES[-1]) -> Rows:
    """L2-normalised float32 rows, size x WIDTH.

    `clustered` is like embeddings of texts: a common direction, topics, and variances that fall over the directions.
    """
    draw = np.random.default_rng(42)
    if kind == "one-hot":
        return np.eye(WIDTH, dtype=np.float32)[np.arange(size) % WIDTH]
    if kind == "copies":
        return embeddings("random", size // 50)[draw.integers(size // 50, size=size)]
    rows = draw.standard_normal((size, WIDTH), dtype=np.float32)
    if kind == "clustered":
        topics = draw.standard_normal((2_000, WIDTH), dtype=np.float32)
        rows += 2 * topics[(2_000 * draw.random(size) ** 2).astype(int)]  # large topics and small ones
        rows *= np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
        rows[:, 0] += 7
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def cosines(rows: NDArray[Any]) -> NDArray[np.float64]:
    """The N x N kernel of N x d rows; its diagonal is exactly 1."""
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    kernel = unit @ unit.T
    np.fill_diagonal(kernel, 1)
    return kernel


def reference(kernel: NDArray[np.float64], count: int) -> list[int]:
    """Algorithm 1 of Chen, Zhang and Zhou (2018) on an N x N kernel; rows in the order of choice."""
    cholesky = np.zeros((count, len(kernel)))
    gains = kernel.diagonal().copy()
    chosen = [int(gains.argmax())]
    for step in range(count - 1):
        last = chosen[-1]
        cholesky[step] = (kernel[last] - cholesky[:step, last] @ cholesky[:step]) / np.sqrt(gains[last])
        gains -= cholesky[step] ** 2
        gains[last] = -np.inf
        chosen.append(int(gains.argmax()))
    return chosen


def select(algorithm: str, path: str, size: str) -> None:
    """Choose among the first rows of a file, in a process of its own; print seconds and the rows as JSON."""
    start = time.perf_counter()
    rows = np.load(path, mmap_mode="r")[: int(size)]
    chosen = greedy_map(rows, COUNT) if algorithm == "ours" else reference(cosines(rows), COUNT)
    print(json.dumps({"seconds": time.perf_counter() - start, "chosen": chosen}))


def _child(function: str, *arguments: object) -> Ran:
    code = f"import sys; from bench import selection; selection.{function}(*sys.argv[1:])"
    return ran([sys.executable, "-c", code, *map(str, arguments)])


def _selected(algorithm: str, path: Path, size: int) -> Ran:
    result = _child("select", algorithm, path, size)
    return result._replace(seconds=json.loads(result.output)["seconds"])


def make(kind: str, path: str) -> None:
    """Write the rows of a kind, in a process of its own, so that they do not count in the peaks measured."""
    np.save(path, embeddings(kind))


def _point(algorithm: str, kind: str, rows: int, result: Ran) -> Point:
    return Point(algorithm, kind, rows, result.seconds, result.peak * 2**20 / 1e6)


def _beside(path: Path, kind: str) -> tuple[list[Point], list[Row]]:
    """Run both algorithms on PEER rows: which is faster, and whether they choose the same."""
    ours, theirs = alternately(5, partial(_selected, "ours", path, PEER), partial(_selected, "reference", path, PEER))
    rows = np.load(path, mmap_mode="r")  # of equal copies, rounding decides which one the reference takes
    same = sum(bool((rows[mine] == rows[other]).all()) for mine, other in zip(
        json.loads(ours.output)["chosen"], json.loads(theirs.output)["chosen"], strict=True))
    what = f"N = {PEER:,}, {KINDS[kind]}"
    return [_point("ours", kind, PEER, ours), _point("reference", kind, PEER, theirs)], [
        ratio(ours.seconds, theirs.seconds, SLOWEST, what, "algorithm 1 with its kernel"),
        Row(f"{what}: choices that are the same", f"{same:,}", f"algorithm 1: {COUNT:,}", f"{same / COUNT:g}", "all",
            same == COUNT)]


def _largest(path: Path, kind: str, out: Path) -> tuple[Point, list[Row]]:
    """Run the command on every row."""
    result = ran([sys.executable, "-m", "data_builders.selection", "--embeddings", str(path), "--count", str(COUNT),
                  "--out", str(out)])
    if len(set(read_json(out))) != COUNT:
        raise AssertionError(f"{out}: not {COUNT} rows")
    point, what = _point("ours", kind, SIZES[-1], result), f"N = {SIZES[-1]:,}, {KINDS[kind]}"
    return point, [limit(point.seconds, 60, what, "s"), limit(point.megabytes / 1e3, 2, f"{what}: peak memory", "GB")]


def _draw(points: list[Point], canvas: "Canvas") -> list[Any]:
    from matplotlib.lines import Line2D

    from eval.drawing import INK, MARKERS, PALE

    canvas.set_size_inches(7.0, 3.6)
    legend: list[Any] = []
    for axes, column, top, unit, ticks in zip(
            canvas.subplots(1, 2), ("seconds", "megabytes"), (60, 2_000), ("time (s)", "peak memory (MB)"),
            ((0.5, 1, 2, 5, 10, 20, 60), (50, 100, 500, 2_000, 10_000, 80_000)), strict=True):
        lines = []
        for at, kind in enumerate(KINDS):
            ours = sorted((point.rows, getattr(point, column)) for point in points if point[:2] == ("ours", kind))
            lines += axes.plot(*zip(*ours, strict=True), color=f"C{at}", marker=MARKERS[at], markersize=4,
                               linewidth=1.2, label=f"ours: {KINDS[kind]}")
        theirs = sorted((point.rows, getattr(point, column)) for point in points
                        if point[:2] == ("reference", "random"))
        lines += axes.plot(*zip(*theirs, strict=True), color=INK, marker="D", markersize=4, linewidth=1.2,
                           label="algorithm 1 with its kernel: Gaussian rows")
        lines.append(axes.axhline(top, color=PALE, linestyle="--", linewidth=0.9, label="limit at N = 100,000"))
        if column == "megabytes":
            axes.plot(SIZES, [8e-6 * size**2 for size in SIZES], color=INK, linestyle=":", linewidth=0.9)
            legend = [*lines, Line2D([], [], color=INK, linestyle=":", linewidth=0.9, label="its kernel alone")]
        axes.set(xscale="log", yscale="log", xlabel="rows (N)", ylabel=unit)
        axes.set_xticks(SIZES, [f"{size // 1000}k" for size in SIZES])
        axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
        axes.minorticks_off()
    return legend


def _plot(folder: Path, points: list[Point]) -> None:
    from eval.drawing import save

    with writing(folder / "selection.csv") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(Point._fields)
        table.writerows((*point[:3], f"{point.seconds:.3f}", f"{point.megabytes:.0f}") for point in points)
    save([folder / "selection.png", folder / "selection.svg"], f"Greedy DPP selection of {COUNT:,} rows, d = {WIDTH:,}",
         partial(_draw, points), "Each point is a process of its own.", "")


def measure(folder: Path) -> list[Row]:
    """Rows for PEER and for the largest size of every kind; selection.png, .svg and .csv for all sizes."""
    points: list[Point] = []
    peer: list[Row] = []
    largest: list[Row] = []
    path = folder / "embeddings.npy"
    for kind in KINDS:
        _child("make", kind, path)
        compared, rows = _beside(path, kind)
        points, peer = [*points, *compared], [*peer, *rows]
        others = {size for size in SIZES[:-1] if size != PEER}
        points += [_point("ours", kind, size, _selected("ours", path, size)) for size in sorted(others)]
        if kind == "random":
            points += [_point("reference", kind, size, _selected("reference", path, size))
                       for size in sorted(others) if size <= KERNEL_FITS]
        point, rows = _largest(path, kind, folder / "chosen.json")
        points, largest = [*points, point], [*largest, *rows]
    path.unlink()
    _plot(folder, points)
    return [*peer, *largest]
