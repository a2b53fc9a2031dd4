"""Divide a custom task's rows into training and test rows, near-duplicates on one side, or by time."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from data_builders.log_templates import templates
from data_builders.task_checks import LEAST, Findings, Rows

TWINS = 0.1  # of the test rows: above it a warning, as the score is then partly one of memory


def near_duplicates(items: Rows) -> dict[str, int]:
    """Return the group of each row's id: rows of one template and label, and rows of one log, are in one.

    Templates are mined within each label: two logs that differ in the one word that makes the label are no twins.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys: list[list[object]] = [[item.masked] for item in items]
    for label in {item.label: None for item in items}:
        numbers = [number for number, item in enumerate(items) if item.label == label]
        for number, found in zip(numbers, templates(items[number].text for number in numbers), strict=True):
            keys[number].append((label, found))
    first: dict[object, int] = {}
    pairs = [(number, first.setdefault(key, number)) for number, both in enumerate(keys) for key in both]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_array(([1] * len(pairs), (rows, columns)), shape=(len(items), len(items)))
    return dict(zip((item.id for item in items), connected_components(graph, directed=False)[1].tolist(), strict=True))


def split(items: Rows, labels: Sequence[str], share: float, seed: int, findings: Findings,
          latest: bool = False) -> tuple[Rows, Rows]:
    """Divide rows into (train, test) and report what the test set is worth.

    About `share` of each class, by whole groups of near-duplicates where the class has enough; with `latest` the last
    share of all rows.
    """
    group = near_duplicates(items)
    tested = {item.id for item in items[len(items) - round(share * len(items)):]} if latest else \
        _drawn(items, labels, share, seed, group, findings)
    train, test = ([item for item in items if (item.id in tested) is side] for side in (False, True))
    counts, trained = Counter(item.label for item in test), {group[item.id] for item in train}
    for label in labels:
        if not counts[label] or counts[label] == sum(item.label == label for item in items):
            findings.errors.append(f"{label!r} is on one side only, {counts[label]} of its logs are tested: label more"
                                   f", merge it{', or divide by template, without --latest' if latest else ''}")
        elif counts[label] < LEAST:
            findings.warnings.append(f"only {counts[label]} logs of {label!r} are tested: its scores say little")
    twins = sum(group[item.id] in trained for item in test) / max(1, len(test))
    findings.notes.append(f"test logs with a near-duplicate in training (the same template): {twins:.0%}")
    if twins > TWINS:
        findings.warnings.append(f"{twins:.0%} of the test logs differ only in values from one that is trained on: the "
                                 "scores are too high for new kinds of logs")
    return train, test


def _drawn(items: Rows, labels: Sequence[str], share: float, seed: int, group: dict[str, int],
           findings: Findings) -> set[str]:
    """Draw the ids of test rows, class by class."""
    groups = _grouped(items, (group[item.id] for item in items))
    tested: set[str] = set()
    for label in labels:
        own = [rows for rows in groups if Counter(item.label for item in rows).most_common(1)[0][0] == label]
        wanted = max(1, round(share * sum(map(len, own))))
        drawn = _draw(own, wanted, f"{seed} {label}")
        if 2 * len(drawn) < wanted:
            logs = [item for rows in own for item in rows]
            drawn = _draw(_grouped(logs, (item.masked for item in logs)), wanted, f"{seed} {label}")
            findings.warnings.append(f"most logs of {label!r} differ only in values such as numbers, so near-duplicates"
                                     " of tested ones are trained on: its score is too high")
        tested |= {item.id for item in drawn}
    return tested


def _grouped(items: Rows, keys: Iterable[object]) -> list[Rows]:
    groups: defaultdict[object, Rows] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    return list(groups.values())


def _draw(groups: list[Rows], count: int, seed: str) -> Rows:
    """Draw whole groups with about so many rows in all: never all groups, none that overshoots by half."""
    order = sorted(groups, key=lambda rows: rows[0].id)
    random.Random(seed).shuffle(order)
    drawn: Rows = []
    for rows in order[:-1]:
        if len(drawn) < count and len(drawn) + len(rows) <= max(count * 1.5, 1):
            drawn += rows
    return drawn
