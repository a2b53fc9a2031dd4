"""Choose diverse rows: greedy MAP inference for a determinantal point process (section 3.2.1).

The algorithm is Chen, Zhang and Zhou, "Fast Greedy MAP Inference for Determinantal Point Process to Improve
Recommendation Diversity" (2018), algorithm 1: the next row is the one with the largest gain, its squared distance to
the span of the rows chosen so far. The N x N kernel is never made. With a linear kernel the Cholesky column of a
chosen row is the product of all rows with one orthonormal direction, so the rows and the directions are all there is
to keep: O(N d k) time, in matrix products, and memory for `count` directions beside the rows.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.files import manifest, write_json

Array = NDArray[np.float64]
Kernel = Literal["linear", "rbf"]

TIE = 1e-9  # relative: gains so close to the best are ties, and the lowest row wins
EXHAUSTED = 1e-10  # no gain above this share of a row's own (1): nothing new is left. Chen et al.'s code has the same
NOISE = 1e-13  # what rounding can do to a gain found by subtraction (measured: up to 4e-15 at d = 1,024 and k = 1,000)
PRECISE = 1e-3  # below this, NOISE would decide ties, so the contenders' gains are computed from their residuals
PENDING = 32  # directions that may wait before every row's gain is brought up to date by one matrix product
FITS = 2**25  # numbers (256 MiB) that are converted and normalised once; larger arrays in blocks, again and again
BLOCK = 4096  # rows converted to float64 at once


def greedy_map(embeddings: NDArray[Any], count: int, kernel: Kernel = "linear", gamma: float = 1.0) -> list[int]:
    """Choose `count` rows of an N x d array, greedily by log-determinant; returns row numbers in order of choice.

    Rows are L2-normalised in float64, whatever they come in. Kernels: `linear` is the cosine, of rank at most d;
    `rbf` is exp(-gamma |x - y|^2) of the normalised rows, and needs N x count float64 numbers of memory.
    Raises UserError for anything but a two-dimensional array of finite, nonzero rows, and when fewer than `count`
    rows are linearly independent: never fewer are returned.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    from tqdm import tqdm

    embeddings = np.asarray(embeddings)  # a memory map is as good, but slower to index
    norms = _norms(embeddings)
    if embeddings.size <= FITS:
        embeddings, norms = embeddings / norms[:, None], np.ones(len(norms))
    if not 1 <= count <= len(norms):
        raise UserError(f"cannot choose {count} of {len(norms)} rows; ask for 1 to {len(norms)}")
    search = _linear(embeddings, norms, count) if kernel == "linear" else _rbf(embeddings, norms, count, gamma)
    # Thousands of small products: on a busy machine threads wait for each other many times longer than they compute.
    # One thread also rounds the same on every machine.
    with threadpool_limits(1):
        chosen = list(tqdm(islice(search, count), total=count, unit="row", desc="select", disable=None))
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


def _unit(rows: NDArray[Any], norms: Array, index: NDArray[np.intp]) -> Array:
    return rows[index].astype(np.float64) / norms[index, None]


def _residual(unit: Array, basis: Array) -> Array:
    for _ in range(2):  # once leaves rounding along the basis, twice is enough
        for start in range(0, len(basis), 128):  # each megabyte is still in the cache for its second product
            part = basis[start : start + 128]
            unit -= (unit @ part.T) @ part
    return unit


def _linear(rows: NDArray[Any], norms: Array, count: int) -> Iterator[int]:
    """Yield rows until the rank is exhausted. Gains only fall, so an old gain bounds today's (lazy greedy)."""
    total, width = rows.shape
    basis = np.empty((min(count, width), width))  # orthonormal; spans what is chosen
    base, flushed = np.ones(total), 0  # gains with respect to basis[:flushed]
    bound = base.copy()  # at most PENDING steps old
    crowded = False

    def settle(part: slice | NDArray[np.intp], step: int) -> None:
        along = rows[part].astype(np.float64, copy=False) @ basis[flushed:step].T
        along /= norms[part, None]
        bound[part] = base[part] - np.einsum("ij,ij->i", along, along)

    for step in range(len(basis)):
        if step - flushed == PENDING or crowded:
            for start in range(0, total, BLOCK):
                settle(slice(start, start + BLOCK), step)
            base[:], flushed = bound, step
        # The most promising rows first: the best of their true gains rules out nearly all the others.
        top = np.argpartition(bound, -min(PENDING, total))[-min(PENDING, total) :]
        settle(top, step)
        rivals = np.flatnonzero(bound >= bound[top].max() * (1 - TIE) - NOISE)
        for start in range(0, len(rivals), BLOCK):
            settle(rivals[start : start + BLOCK], step)
        crowded = len(rivals) > total // 8  # then bringing all up to date costs less than picking them out
        best = bound[rivals].max()
        if best <= EXHAUSTED:
            return
        rivals = rivals[bound[rivals] >= best * (1 - TIE) - NOISE]
        gains = bound[rivals] if best > PRECISE else np.concatenate([
            (_residual(_unit(rows, norms, part), basis[:step]) ** 2).sum(axis=1)
            for part in np.array_split(rivals, -(-len(rivals) // BLOCK))])
        row = int(rivals[np.argmax(gains >= gains.max() * (1 - TIE))])
        residual = _residual(_unit(rows, norms, np.array([row])), basis[:step])[0]
        basis[step] = residual / np.linalg.norm(residual)
        base[row] = bound[row] = -np.inf
        yield row


def _rbf(rows: NDArray[Any], norms: Array, count: int, gamma: float) -> Iterator[int]:
    """Chen et al.'s algorithm 1 as published, with each kernel row computed when its row is chosen."""
    cholesky = np.empty((count, len(norms)))
    gains = np.ones(len(norms))
    for step in range(count):
        best = gains.max()
        if best <= EXHAUSTED:
            return
        row = int(np.argmax(gains >= best * (1 - TIE)))
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

    embeddings = read_embeddings(given.embeddings)
    count = load_run(given.run).experiment.stage1.select if given.run else given.count
    try:
        chosen = greedy_map(embeddings, count, given.kernel, given.gamma)
    except UserError as error:
        where = f" (stage1.select of run {given.run})" if given.run else ""
        raise UserError(f"{given.embeddings}: {error}{where}") from None
    write_json(given.out, chosen)
    kernel = {"kernel": given.kernel, **({"gamma": given.gamma} if given.kernel == "rbf" else {})}
    manifest(given.out, [given.embeddings], **kernel, rows=len(embeddings), dimensions=embeddings.shape[1],
             count=count)


def main() -> None:
    """Choose diverse rows of an embedding file."""
    arguments = cli.parser("data_builders.select", "Choose diverse rows: greedy MAP for a determinantal point process.",
                           """
python -m data_builders.select --embeddings E.npy --count 1000 --out ids.json
python -m data_builders.select --embeddings E.npy --count 1000 --out ids.json --kernel rbf --gamma 2""")
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
