"""Paired tests of two models that answered the same instances (docs/evaluation.md)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.predictions import Answer
from eval.score import ROUNDING, SEED, measures
from logreasoner.instances import Instance
from logreasoner.schemas import Task

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000  # the smallest p of F1 is 1 / (RESAMPLES + 1)


def joint_table(items: Iterable[Instance], a: Mapping[str, Answer], b: Mapping[str, Answer], labels: Sequence[str]
                ) -> "np.ndarray[Any, Any]":
    """Count instances by (true label, a's strict answer, b's); the last column of an answer is unparsed."""
    import numpy as np

    cells = Counter((item.label, a[item.id].strict, b[item.id].strict) for item in items)
    columns = (*labels, None)
    return np.array([[[cells[truth, left, right] for right in columns] for left in columns] for truth in labels])


def mcnemar(b: int, c: int) -> float:
    """Return the two-sided p of McNemar's exact test; b and c count the instances that only one model has right."""
    from scipy.stats import binomtest

    return float(binomtest(b, b + c).pvalue) if b + c else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's step-down method, in the order of `ps`."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[at]))
        adjusted[at] = largest
    return adjusted


def swapped(table: "np.ndarray[Any, Any]") -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Draw the confusion matrices of both models after each instance's answers changed sides or not, by a fair coin.

    Under the null hypothesis that the models are alike these are as likely as the observed ones.
    """
    import numpy as np

    above = np.triu(np.ones(table.shape[1:], dtype=bool), 1)
    both = np.where(above, table + table.swapaxes(1, 2), 0)
    stay = np.random.default_rng(SEED).binomial(both, 0.5, size=(RESAMPLES, *table.shape))
    alike = np.diagonal(table, axis1=1, axis2=2)  # the same answer on both sides
    rows, columns = both.sum(-1), both.sum(-2)
    kept = stay.sum(-1), stay.sum(-2)
    return alike + kept[0] + columns - kept[1], alike + kept[1] + rows - kept[0]


def compared(table: "np.ndarray[Any, Any]", rules: Task) -> list[dict[str, Any]]:
    """Test accuracy and the task's F1: both scores, a - b with its 95% interval, and p.

    The intervals' bootstrap resamples instances, which is one multinomial draw over the joint table; both answers to
    an instance stay together. F1's p is that of approximate randomisation (`swapped`): the share of draws whose
    difference is at least as large, the observed one counted in.
    """
    import numpy as np

    positive = None if rules.positive is None else rules.labels.index(rules.positive)
    n = int(table.sum())
    draws = np.random.default_rng(SEED).multinomial(n, table.ravel() / n, size=RESAMPLES).reshape(-1, *table.shape)
    points, resampled = ([measures(counts.sum(axis), positive) for axis in (-1, -2)] for counts in (table, draws))
    by_chance = [measures(counts, positive) for counts in swapped(table)]
    right = [(table[at, at].sum() - table[at, at, at], table[at, :, at].sum() - table[at, at, at])
             for at in range(len(table))]
    only_a, only_b = (int(sum(counts)) for counts in zip(*right, strict=True))
    rows = []
    for name in ("accuracy", *(metric for metric in rules.metrics if metric.endswith("f1"))):
        a, b = (float(side[name]) for side in points)
        differences = resampled[0][name] - resampled[1][name]
        low, high = np.percentile(differences, [2.5, 97.5])
        row = {"n": n, "metric": name, "a": a, "b": b, "difference": a - b, "low": float(low), "high": float(high)}
        if name == "accuracy":
            row |= {"test": "McNemar, exact", "only_a_right": only_a, "only_b_right": only_b,
                    "p": mcnemar(only_a, only_b)}
        else:
            beyond = int((abs(by_chance[0][name] - by_chance[1][name]) >= abs(a - b) - ROUNDING).sum())
            row |= {"test": "approximate randomisation", "p": (beyond + 1) / (RESAMPLES + 1)}
        rows.append(row)
    return rows
