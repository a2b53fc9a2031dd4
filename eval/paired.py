"""Paired tests of two models that answered the same instances (docs/evaluation.md)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.predictions import Answer
from eval.score import SEED, measures
from logreasoner.instances import Instance
from logreasoner.schemas import Task

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000  # the smallest p of the bootstrap is 2 / (RESAMPLES + 1)


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


def compared(table: "np.ndarray[Any, Any]", rules: Task) -> list[dict[str, Any]]:
    """Test accuracy and the task's F1: both scores, a - b with its 95% interval, and p.

    The bootstrap resamples instances, which is one multinomial draw over the joint table; both answers to an instance
    stay together. Its p is two-sided: twice the share of draws on the other side of 0, these counted in.
    """
    import numpy as np

    positive = None if rules.positive is None else rules.labels.index(rules.positive)
    n = int(table.sum())
    draws = np.random.default_rng(SEED).multinomial(n, table.ravel() / n, size=RESAMPLES).reshape(-1, *table.shape)
    points, resampled = ([measures(counts.sum(axis), positive) for axis in (-1, -2)] for counts in (table, draws))
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
            beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
            row |= {"test": "paired bootstrap", "p": min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))}
        rows.append(row)
    return rows
