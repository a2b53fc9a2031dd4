"""Choose diverse rows: greedy MAP inference for a determinantal point process (section 3.2.1).

The algorithm is Chen, Zhang and Zhou, "Fast Greedy MAP Inference for Determinantal Point Process to Improve
Recommendation Diversity" (2018), algorithm 1: the next row is the one with the largest gain, its squared distance to
the span of the rows chosen so far. The N x N kernel is never made. With a linear kernel the Cholesky column of a
chosen row is the product of all rows with one orthonormal direction, so the rows and the directions are all there is
to keep: O(N d k) time, in matrix products, and memory for `count` directions beside the rows. Gains only fall, so an
old gain bounds today's, and only rows that could be next are brought up to date at each step (lazy greedy).
"""

import argparse
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.files import manifest, up_to_date, write_json

Array = NDArray[np.float64]
Kernel = Literal["linear", "rbf"]

EXHAUSTED = 1e-10  # no gain above this share of a row's own (1): nothing new is left. Chen et al.'s code has the same
# What rounding can do to a gain of 1 that is found by subtraction (measured: 6e-15 at d = 1,024 and k = 1,000). To a
# gain g found from its residual it does at most sqrt(g) times that: gains so close are ties, and the lowest row wins.
NOISE = 1e-13
VAGUE = 0.1  # a gain below this share of the one that was subtracted from is too rough to tell ties
TIE_RBF = 1e-9  # relative: the same for the other kernel, whose gains are all found by subtraction
LITTLE = 0.01  # a gain above this was found in one go: the rounding in its direction is at most ten times that of 1
SPAN = 256  # directions at once: few enough to be in a cache still for their second product
BLOCK = 64  # rows converted to float64 at once: few enough to be in the cache still when they are multiplied
PENDING = 128  # directions that may wait until every row's gain is brought up to date by one matrix product
READING = 8  # reading and converting a row costs about as much as multiplying it by so many directions
PROMISING = 16  # rows to bring up to date first


def greedy_map(embeddings: NDArray[Any], count: int, kernel: Kernel = "linear", gamma: float = 1.0,
               threads: int | None = None) -> list[int]:
    """Choose `count` rows of an N x d array, greedily by log-determinant; returns row numbers in order of choice.

    Rows are L2-normalised in float64, whatever they come in. Kernels: `linear` is the cosine, of rank at most d;
    `rbf` is exp(-gamma |x - y|^2) of the normalised rows, and needs N x count float64 numbers of memory.
    `threads` (default: one for each core) changes the speed alone.
    Raises UserError for anything but a two-dimensional array of finite, nonzero rows, and when fewer than `count`
    rows are linearly independent: never fewer are returned.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    from tqdm import tqdm

    embeddings = np.ascontiguousarray(embeddings)  # a memory map stays one, as a plain array: faster to index
    norms = _norms(embeddings)
    if not 1 <= count <= len(norms):
        raise UserError(f"cannot choose {count} of {len(norms)} rows; ask for 1 to {len(norms)}")
    first = _first_copies(embeddings, norms)
    if len(first) < len(norms):  # what repeats a row adds nothing to it, and of a tie the lowest row wins
        embeddings, norms = embeddings[first], norms[first]
    # BLAS's own threads wait for each other in thousands of small products, on a busy machine many times longer than
    # they compute, and round differently for each number of threads. So threads are given whole blocks.
    threads = threads or os.cpu_count() or 1
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        search = _linear(_Gains(embeddings, norms, count, pool, threads)) if kernel == "linear" else (
            _rbf(embeddings, norms, count, gamma))
        chosen = [int(first[row]) for row in
                  tqdm(islice(search, count), total=count, unit="row", desc="select", disable=None)]
    if len(chosen) < count:
        why = (f"every other row is a linear combination of these (a linear kernel has at most one row for each of "
               f"the {embeddings.shape[1]} dimensions); take a smaller count, a model with more dimensions, "
               "or --kernel rbf" if kernel == "linear" else
               "every other row repeats one of these; take a smaller count or a larger --gamma")
        raise UserError(f"only {len(chosen)} of {count} rows can be chosen: {why}")
    return chosen


def _norms(rows: NDArray[Any]) -> Array:
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or rows.size == 0:
        raise UserError(f"expected N x d real numbers, one row for each text; found shape {rows.shape} of {rows.dtype}")
    norms = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        block = np.array(rows[start : start + BLOCK], dtype=np.float64)
        peak = np.maximum(block.max(axis=1), -block.min(axis=1))
        tiny = np.finfo(np.float64).tiny
        for bad, what in ((~(peak < 1e300), "holds NaN, infinity or nearly so"), (peak < tiny, "is zero")):
            if bad.any():
                raise UserError(f"row {start + int(bad.argmax())} {what}, so it has no direction; embed its text anew")
        block /= peak[:, None]  # so that the squares neither overflow nor vanish
        norms[start : start + BLOCK] = peak * np.sqrt(np.einsum("ij,ij->i", block, block))
    return norms


def _first_copies(rows: NDArray[Any], norms: Array) -> NDArray[np.intp]:
    """The lowest row of each set of equal ones, in order: equal texts have equal embeddings."""
    _, value, count = np.unique(norms, return_inverse=True, return_counts=True)
    kept = count[value] == 1  # equal rows have equal norms, so only the others are read
    lowest: dict[bytes, int] = {}
    for row in np.flatnonzero(~kept):
        lowest.setdefault(hashlib.sha256(rows[row]).digest(), int(row))
    kept[list(lowest.values())] = True
    return np.flatnonzero(kept)


def _unit(rows: NDArray[Any], norms: Array, index: NDArray[np.intp]) -> Array:
    return rows[index].astype(np.float64) / norms[index, None]


def _residual(unit: Array, basis: Array) -> Array:
    for _ in range(2):  # of little that is left, some is rounding along the basis: then once more, which is enough
        for start in range(0, len(basis), SPAN):
            part = basis[start : start + SPAN]
            unit -= (unit @ part.T) @ part
        if np.einsum("ij,ij->i", unit, unit).min() > LITTLE:
            break
    return unit


class _Gains:
    """Every row's gain: exact where it matters, a bound elsewhere."""

    def __init__(self, rows: NDArray[Any], norms: Array, count: int, pool: ThreadPoolExecutor, threads: int) -> None:
        self.rows, self.norms, self.pool, self.threads = rows, norms, pool, threads
        self.basis = np.empty((min(count, rows.shape[1]), rows.shape[1]))  # orthonormal; spans what is chosen
        self.step = 0  # directions that are there
        self.bound = np.ones(len(rows))  # exact at this step except where stale
        self.stale = np.zeros(len(rows), dtype=bool)
        self.base, self.flushed = self.bound.copy(), 0  # gains with respect to basis[:flushed]
        self.exact = self.bound.copy()  # the gain when it was last not found by subtraction
        self.spent = 0  # work since then that will be done again

    def settle(self, index: NDArray[np.intp] | None) -> None:
        """Bring the rows of `index` up to date, or all."""
        total = len(self.rows) if index is None else len(index)
        pending = self.basis[self.flushed : self.step].T

        def work(first: int) -> None:
            for start in range(first, total, tasks * BLOCK):
                part = slice(start, start + BLOCK) if index is None else index[start : start + BLOCK]
                along = self.rows[part].astype(np.float64, copy=False) @ pending
                along /= self.norms[part, None]
                self.bound[part] = self.base[part] - np.einsum("ij,ij->i", along, along)

        tasks = min(self.threads, -(-total // BLOCK))
        list(self.pool.map(work, range(0, tasks * BLOCK, BLOCK)) if tasks > 1 else map(work, [0]))
        if index is None:
            self.base[:], self.flushed, self.spent = self.bound, self.step, 0
            self.stale[:] = False
        else:
            self.spent += total * (self.step - self.flushed + 2 * READING)
            self.stale[index] = False

    def next(self) -> int | None:
        """The row with the largest gain, of ties the lowest one; None where the rank is exhausted."""
        sure = np.zeros(len(self.rows), dtype=bool)
        while (best := self.search()) > EXHAUSTED:
            tie = best - NOISE * np.sqrt(best)
            near = np.flatnonzero(self.bound >= tie - NOISE)
            vague = near[(self.bound[near] <= VAGUE * self.exact[near]) & ~sure[near]]
            if len(near) == 1 or not len(vague):
                return self.lowest(near, tie)
            self.refine(vague)
            sure[vague] = True
        return None

    def search(self) -> float:
        """Bring the most promising rows up to date until the others cannot exceed the best of them; returns it."""
        best, size = float(self.bound[~self.stale].max(initial=-np.inf)), PROMISING
        while True:
            enough = best + NOISE / 10 * np.sqrt(max(best, 0))  # else ties would all be brought up to date
            rivals = np.flatnonzero(self.stale & (self.bound > enough))
            if not len(rivals):
                return best
            if len(rivals) > size:
                rivals = rivals[np.argpartition(self.bound[rivals], -size)[-size:]]
            self.settle(rivals)
            best, size = max(best, float(self.bound[rivals].max())), 4 * size

    def refine(self, index: NDArray[np.intp]) -> None:
        """Compute gains from residuals, where subtraction has left too few digits."""
        for start in range(0, len(index), BLOCK):
            part = index[start : start + BLOCK]
            self.settle(part)
            gains = (self.residual(part) ** 2).sum(axis=1)
            self.base[part] += gains - self.bound[part]
            self.bound[part], self.exact[part] = gains, self.base[part]

    def lowest(self, near: NDArray[np.intp], least: float) -> int:
        """The first of the rows whose gain is at least so large."""
        start, size = 0, PROMISING
        while True:
            part = near[start : start + size]
            if self.stale[part].any():
                self.settle(part[self.stale[part]])
            if (ties := self.bound[part] >= least).any() or start + size >= len(near):
                return int(part[ties.argmax()])
            start, size = start + size, 4 * size

    def residual(self, index: NDArray[np.intp]) -> Array:
        """What of the rows is not in the span of the chosen ones."""
        return _residual(_unit(self.rows, self.norms, index), self.basis[: self.step])

    def choose(self, row: int) -> None:
        """Add the row's direction to the basis."""
        residual = self.residual(np.array([row]))[0]
        self.basis[self.step] = residual / np.linalg.norm(residual)
        self.step += 1
        self.base[row] = self.bound[row] = -np.inf
        self.stale[:] = True
        if self.step - self.flushed == PENDING or self.spent > READING * len(self.rows):
            self.settle(None)


def _linear(gains: _Gains) -> Iterator[int]:
    """Yield rows until the rank is exhausted."""
    while gains.step < len(gains.basis) and (row := gains.next()) is not None:
        yield row
        gains.choose(row)


def _rbf(rows: NDArray[Any], norms: Array, count: int, gamma: float) -> Iterator[int]:
    """Chen et al.'s algorithm 1 as published, with each kernel row computed when its row is chosen."""
    cholesky = np.empty((count, len(norms)))
    gains = np.ones(len(norms))
    for step in range(count):
        best = gains.max()
        if best <= EXHAUSTED:
            return
        row = int(np.argmax(gains >= best * (1 - TIE_RBF)))
        yield row
        mine = _unit(rows, norms, np.array([row]))[0]
        cosine = np.concatenate([rows[start : start + BLOCK].astype(np.float64) @ mine
                                 for start in range(0, len(norms), BLOCK)]) / norms
        kernel = np.exp(2 * gamma * (np.minimum(cosine, 1) - 1))
        cholesky[step] = (kernel - cholesky[:step, row] @ cholesky[:step]) / np.sqrt(best)
        gains -= cholesky[step] ** 2
        gains[row] = -np.inf


def read_embeddings(path: Path) -> NDArray[Any]:
    """Map an .npy file into memory without unpickling anything. Raises UserError for any other content."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # whatever the bytes of a file that is no .npy lead numpy to
        raise UserError(f"{path}: not an .npy array of numbers ({error}); data_builders.embed makes one") from None


def _main(given: argparse.Namespace) -> None:
    from logreasoner.config import load_run

    count = load_run(given.run).experiment.stage1.select if given.run else given.count
    settings = {"kernel": given.kernel, "gamma": given.gamma if given.kernel == "rbf" else None, "count": count}
    if up_to_date(given.out, [given.embeddings], settings):
        print(f"{given.out}: made before, from the same embeddings")
        return
    embeddings = read_embeddings(given.embeddings)
    try:
        chosen = greedy_map(embeddings, count, given.kernel, given.gamma)
    except UserError as error:
        where = f" (stage1.select of run {given.run})" if given.run else ""
        raise UserError(f"{given.embeddings}: {error}{where}") from None
    write_json(given.out, chosen)
    manifest(given.out, [given.embeddings], settings=settings, rows=len(embeddings), dimensions=embeddings.shape[1])


def main() -> None:
    """Choose diverse rows of an embedding file."""
    arguments = cli.parser("data_builders.dpp", "Choose diverse rows: greedy MAP for a determinantal point process.",
                           """
python -m data_builders.dpp --embeddings E.npy --count 1000 --out ids.json
python -m data_builders.dpp --embeddings E.npy --count 1000 --out ids.json --kernel rbf --gamma 2""")
    arguments.add_argument("--embeddings", required=True, type=Path, help="an .npy file, N x d, one row for each text")
    many = arguments.add_mutually_exclusive_group(required=True)
    many.add_argument("--count", type=int, help="how many rows to choose")
    many.add_argument("--run", help="a declared run: as many as its stage1.select says")
    arguments.add_argument("--out", required=True, type=Path, help="JSON list of row numbers, in the order of choice")
    arguments.add_argument("--kernel", default="linear", choices=["linear", "rbf"], help="on L2-normalised rows")
    arguments.add_argument("--gamma", type=float, default=1.0, help="of exp(-gamma |x - y|^2), for --kernel rbf")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
