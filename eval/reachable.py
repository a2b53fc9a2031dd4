"""Which confusion matrices print as given numbers: exact searches in whole numbers, and the odds of a chance hit.

A printed number stands for an interval of fractions, truncated or rounded at its last digit. Precision, recall and F1
of one class depend on TP and FP only; an answer that could not be parsed is a miss that claims no class and changes
neither. Accuracy and weighted F1 of two classes are counted with every answer parsed. For more classes, or unparsed
answers, there are too many matrices to count: `witness` looks for one, `highest` says what no matrix can pass.
"""

from fractions import Fraction
from itertools import permutations
from typing import NamedTuple

import numpy as np

from eval.printed import FAR, POSITIVE, Array, Number, Printed


class Found(NamedTuple):
    """For each number of positives that was tried: how many matrices there are, and (TP, FP) of one."""

    matrices: Array
    tp: Array
    fp: Array


def _kept(total: Found, more: Array, tp: Array, fp: Array) -> Found:
    first = (total.matrices == 0) & (more > 0)
    return Found(total.matrices + more, np.where(first, tp, total.tp), np.where(first, fp, total.fp))


def one_class(cell: Printed, positives: Array, n: int, how: str) -> Found:
    """Distinct (TP, FP) that print as precision, recall and F1, those of them that are given."""
    least, most = cell["recall"].numerators(positives, how) if "recall" in cell else (0 * positives, positives)
    least, most = np.maximum(least, 0), np.minimum(most, positives)
    total = Found(*(np.zeros_like(positives) for _ in range(3)))
    for step in range(int((most - least).max()) + 1):
        tp = least + step
        low, high = [tp], [tp + n - positives]  # of how many answers claim the positive class
        for metric, times, less in (("precision", 1, 0), ("f1", 2, positives)):
            if metric in cell:
                bounds = cell[metric].denominators(times * tp, how)
                low, high = [*low, bounds[0] - less], [*high, bounds[1] - less]
        claimed = np.maximum.reduce(low)
        number = np.where(tp <= most, np.maximum(np.minimum.reduce(high) - claimed + 1, 0), 0)
        total = _kept(total, number, tp, claimed - tp)
    return total


def two_classes(cell: Printed, positives: Array, n: int, how: str) -> Found:
    """Distinct (TP, TN) that print as accuracy and, if given, weighted F1, every answer parsed."""
    total = Found(*(np.zeros_like(positives) for _ in range(3)))
    number = cell.get("weighted_f1", Number(0, 1))
    low, high, is_open = number.limits(how) if "weighted_f1" in cell else (0, 2, 0)
    many = positives[:, None].astype(object if 16 * n**3 * number.scale >= FAR else np.int64)  # object: without a limit
    for right in rights(cell, n, how):
        wrong = n - right
        fn = np.arange(wrong + 1)
        tp, tn = many - fn, n - many - (wrong - fn)
        # 2 TP / (2 TP + wrong) and 2 TN / (2 TN + wrong), weighted by the rows of their classes
        above = 4 * number.scale * (many * tp * (2 * tn + wrong) + (n - many) * tn * (2 * tp + wrong))
        below = n * (2 * tp + wrong) * (2 * tn + wrong)
        fits = (tp >= 0) & (tn >= 0) & (above >= low * below) & (above <= high * below - is_open)
        first = fits.argmax(1)
        total = _kept(total, fits.sum(1), positives - first, wrong - first)
    return total


def rights(cell: Printed, n: int, how: str) -> range:
    """The numbers of right answers of n that print as the accuracy."""
    least, most = cell["accuracy"].numerators(n, how)
    return range(max(least, 0), min(most, n) + 1)


def weighted_f1(counts: list[int], hits: list[int], wrong: list[int]) -> Fraction:
    """Weighted F1 of classes of `counts` rows, `hits` of them right, which `wrong` other rows were taken for."""
    parts = zip(counts, hits, wrong, strict=True)
    return sum((Fraction(2 * rows * hit, rows + hit + more) for rows, hit, more in parts), Fraction()) / sum(counts)


def highest(counts: list[int], right: int) -> Fraction:
    """The greatest weighted F1 that any matrix with so many right answers has: every wrong one claims no class."""
    hits = [0] * len(counts)
    for _ in range(right):  # each right answer where it adds most: the sum is concave in each class
        gains = [Fraction(rows * rows, (rows + hit) * (rows + hit + 1)) if hit < rows else Fraction(-1)
                 for rows, hit in zip(counts, hits, strict=True)]
        hits[gains.index(max(gains))] += 1
    return weighted_f1(counts, hits, [0] * len(counts))


def witness(counts: list[int], right: int, number: Number, how: str,
            unparsed: bool) -> tuple[list[int], list[int]] | None:
    """(hits, wrong claims) of each class in a matrix with that accuracy and weighted F1; None proves nothing.

    A descent by moving hits, or wrong claims, from one class to another. Some matrix has these margins if no class has
    more wrong claims than the other classes have wrong answers.
    """
    rows, n, size, draw = np.array(counts), sum(counts), len(counts), np.random.default_rng(0)
    low, high, _ = number.limits(how)
    hits = _spread(right, rows)
    state = np.stack([np.append(hits, 0), np.append(_spread(n - right, n - right - (rows - hits)), 0)])
    moves = np.array([_move(part, a, b, step, size) for part in (0, 1) for step in (1, 3, 10, 30, 100)
                      for a, b in permutations(range(size + part * unparsed), 2)] + [np.zeros_like(state)])
    for _ in range(400):
        near = state + moves
        hit, more = near[:, 0, :size], near[:, 1, :size]
        near = near[(near >= 0).all((1, 2)) & (hit <= rows).all(1) & (more + rows - hit <= n - right).all(1)]
        hit, more = near[:, 0, :size], near[:, 1, :size]
        off = (2 * rows * hit / (rows + hit + more)).sum(1) / n - (low + high) / (4 * number.scale)
        at = int(np.argmin(abs(off)))
        found = hit[at].tolist(), more[at].tolist()
        if low <= 2 * number.scale * weighted_f1(counts, *found) < high:
            return found
        state = near[at] if draw.random() < 0.8 else near[draw.integers(len(near))]
    return None


def _move(part: int, a: int, b: int, step: int, size: int) -> Array:
    move = np.zeros((2, size + 1), dtype=int)
    move[part, a], move[part, b] = step, -step
    return move


def _spread(total: int, room: Array) -> Array:
    share = total * room // max(int(room.sum()), 1)
    share[np.flatnonzero(share < room)[: total - int(share.sum())]] += 1
    return share


def by_chance(cell: Printed, positives: Array, n: int) -> Array:
    """How likely a matrix would be if the label counts were unrelated to the numbers, for each number of positives.

    As if truncated numbers fell anywhere: for accuracy n / scale (weighted F1 would only make it less), for one class
    the chance that one of the whole numbers in recall's interval has a whole number in that of precision and F1.
    """
    if not POSITIVE & set(cell):
        return np.full(len(positives), min(1.0, n / cell["accuracy"].scale))
    recall = cell.get("recall", Number(0, 1))
    hit = np.zeros(len(positives))
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):  # the mean over where in its interval recall lies
        tp = np.minimum(1, (recall.digits + part) / recall.scale) * positives
        low, high = [tp], [tp + n - positives]
        for metric, times, less in (("precision", 1, 0), ("f1", 2, positives)):
            if metric in cell:
                digits, above = cell[metric].digits, times * tp * cell[metric].scale
                low, high = [*low, above / (digits + 1) - less], [*high, above / max(digits, 1e-9) - less]
        hit += np.clip(np.minimum.reduce(high) - np.maximum.reduce(low), 0, 1) / 5
    tries = positives / recall.scale
    chance: Array = np.where(tries < 1, tries * hit, 1 - (1 - hit) ** tries)
    return chance
