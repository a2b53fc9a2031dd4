"""What is said of a task of one's own before anything is trained, and which of its rows are tested on.

Rows that cannot serve are left out (empty, unlabelled, repeated, labelled two ways). `Findings.errors` stop the task,
`warnings` do not. Training and test rows share no log, nor two that differ only in words that hold a digit.
"""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from logreasoner import config
from logreasoner.instances import Instance, mask_level

LEAST = 8  # distinct logs of a class: stage 1, stage 2, examples and test each need some
FEW = 50  # below it a class is warned about: a fifth of it, ten logs, measures recall within some 30 points
SMALL = 200  # distinct logs in all
SHARE, TIMES = 0.2, 3  # a label stands in its own texts: in so many of them, and so much oftener than in others'
CHARACTERS = 3  # of a token of log text, at the least
FRAME = 700  # tokens of a prompt and an answer without the log
Rows = list[Instance]


@dataclass
class Findings:
    """What was found: errors stop the task, warnings do not."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def template(item: Instance) -> str:
    """A log without its numbers, names with a digit, levels and white space: near-duplicates are equal in it."""
    return "".join(re.sub(r"\b\w*\d\w*", "#", mask_level(item.text)).split())


def usable(items: Rows, found: Findings) -> Rows:
    """One row of each log and description that has one label; what is left out is warned about."""
    def said(rows: Rows, what: str) -> None:
        if rows:
            shown = ", ".join(item.id for item in rows[:3])
            found.warnings.append(f"rows {what}: {len(rows):,} left out ({shown}{', ...' if len(rows) > 3 else ''})")

    said([item for item in items if not item.text.strip()], "without text")
    said([item for item in items if item.text.strip() and not item.label], "without a label")
    same: defaultdict[tuple[str, str], Rows] = defaultdict(list)
    for item in items:
        if item.text.strip() and item.label:
            same[item.masked, "".join(item.description.split())].append(item)
    split = [part for part in same.values() if len({item.label for item in part}) > 1]
    said([item for part in split for item in part], "with the same text and opposite labels")
    kept = [part for part in same.values() if len({item.label for item in part}) == 1]
    said([item for part in kept for item in part[1:]], "that repeat another")
    return [part[0] for part in kept]


def check(items: Rows, labels: Sequence[str], found: Findings) -> None:
    """Too few of a class, a label that stands in its text, texts that do not fit."""
    counts = Counter(item.label for item in items)
    if len(labels) < 2:
        found.errors.append(f"only one class ({', '.join(labels) or 'none'}): there is nothing to tell apart")
    for label in labels:
        if counts[label] < LEAST:
            found.errors.append(f"{label!r} has {counts[label]} distinct logs; {LEAST} are the least that stage 1, "
                                "stage 2, examples and test can share. Label more, or merge it with another class")
        elif counts[label] < FEW:
            tested = max(1, counts[label] // 5)
            found.warnings.append(f"{label!r} has only {counts[label]} distinct logs: on the {tested} that are tested, "
                                  f"its recall is known within some {98 / math.sqrt(tested):.0f} points. {FEW} and "
                                  "more are better")
    if len(items) < SMALL:
        found.warnings.append(f"{len(items):,} distinct logs in all; the paper trains on 1,000 and more a source")
    _tell_tale(items, labels, found)
    cutoff = int(config.stages()["solution-sft"].arguments["cutoff_len"])
    room = config.decoding()["serving"]["max_model_len"] - config.decoding()["evaluation"]["max_tokens"] - FRAME
    for most, what in ((cutoff - FRAME, f"are dropped in training (cutoff_len {cutoff:,})"),
                       (room, "may not fit into the model's context in evaluation (serving.max_model_len)")):
        long = [item for item in items if len(item.text) > most * CHARACTERS]
        if long:
            found.warnings.append(f"{len(long):,} texts are longer than some {most * CHARACTERS:,} characters and "
                                  f"{what}: {long[0].id} has {max(len(item.text) for item in long):,}. Cut them")


def _tell_tale(items: Rows, labels: Sequence[str], found: Findings) -> None:
    for label in labels:
        word = re.compile(rf"(?<![\w-]){re.escape(label)}(?![\w-])", re.IGNORECASE)
        rows, hits = Counter(item.label == label for item in items), Counter(
            item.label == label for item in items if word.search(item.text))
        mine, theirs = (hits[own] / max(1, rows[own]) for own in (True, False))
        if mine >= SHARE and mine > TIMES * theirs:
            found.warnings.append(f"the label {label!r} stands in {mine:.0%} of its own texts and in {theirs:.0%} of "
                                  f"the others: a model need not reason. Hide it with --mask '{re.escape(label)}'")


def split(items: Rows, labels: Sequence[str], share: float, seed: int, found: Findings) -> tuple[Rows, Rows]:
    """(train, test): about `share` of each class is tested on, by whole templates where the class has enough."""
    groups: defaultdict[str, Rows] = defaultdict(list)
    first: dict[str, str] = {}  # equal logs are one template even where the level was written otherwise
    for item in items:
        groups[first.setdefault(item.masked, template(item))].append(item)
    tested: set[str] = set()
    for label in labels:
        mine = [rows for rows in groups.values() if _most(rows) == label]
        wanted = max(1, round(share * sum(map(len, mine))))
        taken = _taken(mine, wanted, f"{seed} {label}")
        if 2 * sum(map(len, taken)) < wanted:
            texts: defaultdict[str, Rows] = defaultdict(list)
            for item in (item for rows in mine for item in rows):
                texts[item.masked].append(item)
            taken = _taken(list(texts.values()), wanted, f"{seed} {label}")
            found.warnings.append(f"most logs of {label!r} differ only in numbers, so the like of a tested one is "
                                  "trained on: its score flatters")
        tested |= {item.id for rows in taken for item in rows}
    for label in labels:
        if not any(item.label == label and item.id in tested for item in items):
            found.errors.append(f"no log of {label!r} can be set aside for the test; label more, or merge it")
    return [item for item in items if item.id not in tested], [item for item in items if item.id in tested]


def _most(rows: Rows) -> str:
    return Counter(item.label for item in rows).most_common(1)[0][0]


def _taken(groups: list[Rows], wanted: int, seed: str) -> list[Rows]:
    """Groups with about so many rows in all, never all of them, none that overshoots by half."""
    order = sorted(groups, key=lambda rows: rows[0].id)
    random.Random(seed).shuffle(order)
    taken: list[Rows] = []
    have = 0
    for rows in order[:-1]:
        if have < wanted and have + len(rows) <= max(wanted * 1.5, 1):
            taken.append(rows)
            have += len(rows)
    return taken


def logs_by_source(items: Iterable[Instance]) -> Counter[str]:
    """How many distinct logs each source has; a log that several have counts for the first."""
    return Counter({item.masked: item.source for item in reversed(list(items))}.values())
