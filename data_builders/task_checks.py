"""Check the rows of a custom task before anything is trained.

Rows that are of no use are left out (empty, unlabelled, repeated, labelled two ways).
"""

import math
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from logreasoner import config
from logreasoner.instances import LEVEL_MASK, Instance

LEAST = 8  # distinct logs of a class: stage 1, stage 2, examples and test each need some
FEW = 50  # below it a class is warned about: a fifth of it, ten logs, measures recall within some 30 points
SMALL = 200  # distinct logs in all
SHARE, TIMES = 0.2, 3  # a label stands in its own texts: in so many of them, and so much oftener than in others'
TELLING, CODES = 0.97, 8  # see telling_place
FIRST = 300  # characters of a text in which it is looked for
WORD = re.compile(r"[^\W_]+")
CHARACTERS = 3  # of a token of log text, at the least
FRAME = 700  # tokens of a prompt and an answer without the log
Rows = list[Instance]


@dataclass
class Findings:
    """What the checks report: errors stop the task, warnings and notes do not."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def usable(items: Rows, findings: Findings) -> Rows:
    """Return one row of each log and description that has one label; warn about the rows that are left out."""
    empty = [item for item in items if not item.text.strip()]
    unlabelled = [item for item in items if item.text.strip() and not item.label]
    groups: defaultdict[tuple[str, str], Rows] = defaultdict(list)
    for item in items:
        if item.text.strip() and item.label:
            groups[item.masked, "".join(item.description.split())].append(item)
    consistent = [rows for rows in groups.values() if len({item.label for item in rows}) == 1]
    opposite = [item for rows in groups.values() if len({item.label for item in rows}) > 1 for item in rows]
    repeated = [item for rows in consistent for item in rows[1:]]
    for rows, what in ((empty, "without text"), (unlabelled, "without a label"),
                       (opposite, "with the same text and opposite labels"), (repeated, "that repeat another")):
        if rows:
            ids = ", ".join(item.id for item in rows[:3]) + (", ..." if len(rows) > 3 else "")
            findings.warnings.append(f"rows {what}: {len(rows):,} left out ({ids})")
    return [rows[0] for rows in consistent]


def check(items: Rows, labels: Sequence[str], findings: Findings) -> None:
    """Report classes with too few logs, labels that stand in their texts, and texts that are too long."""
    counts = Counter(item.label for item in items)
    if len(labels) < 2:
        findings.errors.append(f"only one class ({', '.join(labels) or 'none'}): there is nothing to tell apart")
    for label in labels:
        if counts[label] < LEAST:
            findings.errors.append(f"{label!r} has {counts[label]} distinct logs; {LEAST} are the least that stage 1, "
                                   "stage 2, examples and test can share. Label more, or merge it with another class")
        elif counts[label] < FEW:
            tested = max(1, counts[label] // 5)
            findings.warnings.append(f"{label!r} has only {counts[label]} distinct logs: on the {tested} that are "
                                     f"tested, its recall is known within some {98 / math.sqrt(tested):.0f} points. "
                                     f"{FEW} and more are better")
    if len(items) < SMALL:
        findings.warnings.append(f"{len(items):,} distinct logs in all; the paper trains on 1,000 and more a source")
    _check_labels_in_texts(items, labels, findings)
    if len(labels) > 1 and not _masks_tell(items, labels, findings) and (place := telling_place(items)):
        at, values = place
        hidden = shlex.quote("|".join(sorted(map(whole_word, values), key=len, reverse=True)))
        shown = ", ".join(sorted(values))
        findings.warnings.append(f"word {at + 1} alone ({shown}) gives the label in {TELLING:.0%} and "
                                 f"more of each class: a model need not reason. Hide it with --mask {hidden}, if it "
                                 "is a level or a code rather than the message")
    cutoff = int(config.stages()["solution-sft"].arguments["cutoff_len"])
    room = config.decoding()["serving"]["max_model_len"] - config.decoding()["evaluation"]["max_tokens"] - FRAME
    for tokens, what in ((cutoff - FRAME, f"are dropped in training (cutoff_len {cutoff:,})"),
                         (room, "may not fit into the model's context in evaluation (serving.max_model_len)")):
        long = [item for item in items if len(item.text) > tokens * CHARACTERS]
        if long:
            findings.warnings.append(f"{len(long):,} texts are longer than some {tokens * CHARACTERS:,} characters and "
                                     f"{what}: {long[0].id} has {max(len(item.text) for item in long):,}. Cut them")


def whole_word(label: str) -> str:
    """Return a regular expression for a label as a word of its own; scripts that need no blanks have no borders."""
    before = r"(?<![A-Za-z0-9_-])" if label[0].isascii() else ""
    return before + re.escape(label) + (r"(?![A-Za-z0-9_-])" if label[-1].isascii() else "")


def telling_place(items: Rows) -> tuple[int, set[str]] | None:
    """Find a place, from 0, whose word alone decides the label, and its words; None where there is none.

    Of each class the share TELLING must be right; a place with more words than there are levels or codes is a message.
    """
    texts = [WORD.findall(item.text[:FIRST]) for item in items]
    sizes = Counter(item.label for item in items)
    for at in range(max(map(len, texts), default=0)):
        words = [text[at] if at < len(text) else "" for text in texts]
        pairs = Counter(zip(words, (item.label for item in items), strict=True))
        if not 2 <= len(set(words)) <= CODES:
            continue
        best: dict[str, tuple[float, str]] = {}  # of a word, the share of the class that it stands for, and that class
        for (word, label), count in pairs.items():
            best[word] = max(best.get(word, (0.0, "")), (count / sizes[label], label))
        right = Counter({label: sum(pairs[word, label] for word in best if best[word][1] == label) for label in sizes})
        if all(right[label] >= TELLING * size for label, size in sizes.items()):
            return at, set(words) - {""}
    return None


def _shares(items: Rows, label: str, word: re.Pattern[str]) -> tuple[float, float]:
    """Return in what shares of a label's own logs, and of the others, an expression stands."""
    own, others = ([bool(word.search(f"{item.text}\n{item.description}")) for item in items
                    if (item.label == label) is same] for same in (True, False))
    return sum(own) / max(1, len(own)), sum(others) / max(1, len(others))


def _check_labels_in_texts(items: Rows, labels: Sequence[str], findings: Findings) -> None:
    for label in labels:
        own, others = _shares(items, label, re.compile(whole_word(label), re.IGNORECASE))
        if own >= SHARE and own > TIMES * others:
            findings.warnings.append(f"the label {label!r} stands in {own:.0%} of its own texts and in {others:.0%} of "
                                     f"the others: a model need not reason. Hide it with --mask "
                                     f"{shlex.quote(f'(?i){whole_word(label)}')}")


def _masks_tell(items: Rows, labels: Sequence[str], findings: Findings) -> bool:
    """Report a class of which nearly all logs have a mask, and nearly no others; return whether there is one."""
    for label in labels:
        own, others = _shares(items, label, re.compile(re.escape(LEVEL_MASK)))
        if own >= TELLING and others <= 1 - TELLING:
            findings.warnings.append(f"{LEVEL_MASK} stands in {own:.0%} of the texts of {label!r} and in {others:.0%} "
                                     "of the others: what is hidden still gives the label away. Let --mask also match "
                                     "what stands in its place in the others, such as 'INFO|WARN|ERROR'")
            return True
    return False


def logs_by_source(items: Iterable[Instance]) -> Counter[str]:
    """Count the distinct logs of each source; a log that several have counts for the first."""
    return Counter({item.masked: item.source for item in reversed(list(items))}.values())
