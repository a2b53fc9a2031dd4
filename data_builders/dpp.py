"""Choose diverse rows: greedy MAP inference for a determinantal point process (section 3.2.1).

The algorithm is Chen, Zhang and Zhou, "Fast Greedy MAP Inference for Determinantal Point Process to Improve
Recommendation Diversity" (2018), algorithm 1: the next row is the one with the largest gain, the factor by which it
raises the determinant of the kernel of the chosen rows. A Cholesky factor that grows by a row a step gives all gains.
Up to some thousand rows the N x N kernel is computed first, as published. Beyond that only the kernel rows of chosen
rows are computed, a block of columns at a time: gains only fall, so an old gain is an upper bound, and a block waits
until one of its bounds is the largest of all.
"""

import hashlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from tqdm import trange

from logreasoner.cli import UserError

Array = NDArray[np.float64]
Kernel = Literal["linear", "rbf"]

EXHAUSTED = 1e-10  # a gain of a row starts at 1; at this, nothing new is left. Chen et al.'s code has the same number
TIE = 1e-12  # gains so close are ties: rounding moves a gain by at most 5e-14 (measured at d = 1,024, 1,000 chosen)
KERNEL_BYTES = 2**28  # the largest kernel that is computed whole: that of 5,792 rows
BLOCK = 64  # columns brought up to date at once without a whole kernel: few enough for the processor's cache


class _Search:
    """The state of algorithm 1. `factors` has a line for each chosen row; the column of row i is c_i in the paper."""

    def __init__(self, rows: NDArray[Any], norms: Array, count: int, gamma: float | None) -> None:
        """`gamma` is that of the rbf kernel, None for the linear one."""
        self.rows, self.norms, self.gamma = rows, norms, gamma
        self.gains = np.ones(len(rows))  # d_i squared in the paper; -inf once chosen
        self.chosen: list[int] = []
        self.vectors = np.empty((count, rows.shape[1]))  # the chosen rows, normalised
        self.lower = np.empty((count, count))  # the Cholesky factor of the chosen rows
        whole = 8 * len(rows) ** 2 <= KERNEL_BYTES
        self.kernel = self.similarity(self.unit(slice(None)), slice(None)) if whole else None
        self.width = len(rows) if whole else BLOCK
        self.factors = [np.empty((count, min(self.width, len(rows) - start)))
                        for start in range(0, len(rows), self.width)]
        self.filled = [0] * len(self.factors)  # lines of each block's factor that are computed

    def unit(self, part: slice) -> Array:
        """Normalise rows, in float64."""
        return np.asarray(self.rows[part].astype(np.float64) / self.norms[part, None])

    def similarity(self, vectors: Array, part: slice) -> Array:
        """Return the kernel of normalised vectors with some of the rows."""
        cosine: Array = vectors @ self.unit(part).T
        return cosine if self.gamma is None else np.exp(2 * self.gamma * (np.minimum(cosine, 1) - 1))

    def update(self, at: int) -> None:
        """Bring a block's gains up to date: algorithm 1's update for each row that was chosen since."""
        block, factor, start = slice(at * self.width, (at + 1) * self.width), self.factors[at], self.filled[at]
        kernel = (self.similarity(self.vectors[start : len(self.chosen)], block) if self.kernel is None
                  else self.kernel[self.chosen[start:]])
        for line, row in enumerate(kernel, start):
            factor[line] = (row - self.lower[line, :line] @ factor[:line]) / self.lower[line, line]
            self.gains[block] -= factor[line] ** 2
        self.filled[at] = len(self.chosen)

    def choose(self) -> bool:
        """Choose the row with the largest gain, of ties the lowest; return False if no row adds anything."""
        step = len(self.chosen)
        while True:
            row = int(np.argmax(self.gains >= self.gains.max() - TIE))
            at, column = divmod(row, self.width)
            if self.filled[at] == step:
                break
            self.update(at)
        if self.gains[row] <= EXHAUSTED:
            return False
        self.lower[step, :step] = self.factors[at][:step, column]
        self.lower[step, step] = np.sqrt(self.gains[row])
        self.vectors[step] = self.unit(slice(row, row + 1))
        self.gains[row] = -np.inf
        self.chosen.append(row)
        return True


def greedy_map(embeddings: NDArray[Any], count: int, kernel: Kernel = "linear", gamma: float = 1.0) -> list[int]:
    """Choose `count` rows of an N x d array, greedily by log-determinant; return row numbers in order of choice.

    Rows are L2-normalised in float64, whatever they come in. Kernels: `linear` is the cosine, of rank at most d;
    `rbf` is exp(-gamma |x - y|^2) of the normalised rows. Memory: N x count float64 numbers beside the rows.
    Raises UserError for anything but a two-dimensional array of finite, nonzero rows, and when fewer than `count`
    rows are linearly independent: never fewer are returned.
    """
    chosen = greedy_order(embeddings, count, kernel, gamma)
    if len(chosen) == count:
        return chosen
    why = (f"every other row is a linear combination of these (a linear kernel has at most one row for each of the "
           f"{embeddings.shape[1]} dimensions); take a smaller count, a model with more dimensions, or the kernel rbf"
           if kernel == "linear" else
           "every other row repeats one of these; take a smaller count or a larger gamma")
    raise UserError(f"only {len(chosen)} of {count} rows can be chosen: {why}")


def greedy_order(embeddings: NDArray[Any], count: int, kernel: Kernel = "linear", gamma: float = 1.0) -> list[int]:
    """Choose up to `count` rows as greedy_map does: fewer where no other row adds anything."""
    norms = row_norms(embeddings)
    require_count(count, len(norms))
    first = first_copies(embeddings)
    if len(first) < len(norms):  # a copy of a lower row can never be chosen
        embeddings, norms = embeddings[first], norms[first]
    search = _Search(embeddings, norms, min(count, len(first)), gamma if kernel == "rbf" else None)
    # In products as small as a block's, the threads of BLAS wait for each other longer than they compute.
    with threadpool_limits(1 if search.kernel is None else None):
        for _ in trange(count, unit="row", desc="select", disable=None):
            if not search.choose():
                break
    return [first[row] for row in search.chosen]


def require_count(count: int, total: int) -> None:
    """Raise UserError for a number of rows that cannot be chosen."""
    if not 1 <= count <= total:
        raise UserError(f"cannot choose {count} of {total} rows; ask for 1 to {total}")


def row_norms(rows: NDArray[Any]) -> Array:
    """Return the L2 norm of each row. Raises UserError for anything but finite, nonzero rows of numbers."""
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or rows.size == 0:
        raise UserError(f"expected N x d real numbers, one row for each text; found shape {rows.shape} of {rows.dtype}")
    norms = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        block = np.array(rows[start : start + BLOCK], dtype=np.float64)
        peak = np.abs(block).max(axis=1)
        tiny = np.finfo(np.float64).tiny
        for bad, what in ((~(peak < 1e300), "holds NaN, infinity or nearly so"), (peak < tiny, "is zero")):
            if bad.any():
                raise UserError(f"row {start + int(bad.argmax())} {what}, so it has no direction; embed its text anew")
        # Divided by the peak, so that the squares neither overflow nor vanish.
        norms[start : start + BLOCK] = peak * np.linalg.norm(block / peak[:, None], axis=1)
    return norms


def first_copies(rows: NDArray[Any]) -> list[int]:
    """Return the lowest row of each set of equal rows, in order: equal texts have equal embeddings."""
    first: dict[bytes, int] = {}
    for at, row in enumerate(rows):
        first.setdefault(hashlib.sha256(row.tobytes()).digest(), at)
    return list(first.values())
