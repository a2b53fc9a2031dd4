"""Choose a custom task's label column and its positive class from their names and values, or ask."""

import re
from pathlib import Path

from logreasoner.cli import UserError

MOST_LABELS = 20
# How words of a label column's name begin: of some that mean nothing else, and of some that mean other things too.
SURE = ("label", "verdict", "truth", "anomal", "abnormal", "fault", "fail", "attack", "intrusion")
VAGUE = ("class", "target", "category", "cause", "outcome", "status", "state", "result")
BAD = re.compile(r"abnormal|anomal|fail|(?<!de)fault|error|bad|attack|intrusion|malicious|malware|fraud|positive|"
                 r"critical|incident|broken|^(true|yes|y|1(\.0+)?)$", re.I)
GOOD = re.compile(r"(?<!ab)normal|benign|good|healthy|success|passed|cleared|resolved|recovered|reachable|^up$|"
                  r"^(ok|pass|false|no|n|0(\.0+)?|none|-)$", re.I)
NOT = re.compile(r"(not?|non)[ _-]+|un(?=normal|healthy|reachable|success)", re.I)
BARE = re.compile(r"true|false|yes|no|y|n|[10](\.0+)?|none|-", re.I)  # which judge only what a name says


def words(name: str) -> list[str]:
    """Split a column's name into its words, in lower case: AnomalyLabel_2 is anomaly, label and 2."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name)]


def verdict_of(label: str) -> str:
    """Say what a label's words mean: "bad", "good", or "" where they tell neither or both. "no failure" is good."""
    negated = NOT.match(label)
    words_of = label[negated.end():] if negated else label
    bad, good = bool(BAD.search(words_of)), bool(GOOD.search(words_of))
    return "" if bad == good else "good" if bad is bool(negated) else "bad"


def label_column(path: Path, values: dict[str, list[str]], rows: int) -> tuple[str, str]:
    """Choose the label's column by its name, or because its values judge; returns it and why.

    A column with few values is no label for that alone: months, ports and hosts are few too. Raises UserError with the
    candidates where none or several are as likely.
    """
    sizes = {name: len(set(texts)) for name, texts in values.items()}
    possible = [name for name, size in sizes.items() if 2 <= size <= min(MOST_LABELS, max(2, rows // 4))]
    sure, vague = ([name for name in possible if any(word.startswith(kind) for word in words(name))]
                   for kind in (SURE, VAGUE))
    judging = [name for name in possible if set(map(verdict_of, values[name])) == {"bad", "good"}]
    plain = [name for name in judging if not all(map(BARE.fullmatch, values[name]))]
    likely = next(filter(None, (
        [name for name in sure if name in judging or words(name) == ["label"]],  # not label_source
        plain, sure, sorted({*vague, *judging}, key=possible.index))), [])
    if len(likely) != 1:
        listed = ", ".join(f"{name!r} ({sizes[name]} values)" for name in likely or sizes) or "no other column"
        raise UserError(f"{path}: which column is the label? A label has 2 to {MOST_LABELS} values; "
                        f"{'as likely are' if likely else 'there is'} {listed}. Name one with --label, or decide by a "
                        "pattern with --label-rule 'ERROR|FATAL=abnormal'")
    name = likely[0]
    judge, called = " that judge" if name in judging else "", ", and is called so" if name in [*sure, *vague] else ""
    return name, f"{sizes[name]} values{judge}{called}"


def positive_class(labels: list[str], option: str | None, column: str = "") -> tuple[str | None, str]:
    """Choose the positive class of two labels, and say why: the one that looks bad, or is not the one that looks good.

    Raises UserError for an option that is no label, and where the names do not say which is searched for: the rarer one
    need not be, and `true` in a column `success` is not.
    """
    if option:
        if option not in labels:
            raise UserError(f"--positive {option!r}: is not one of the labels {', '.join(labels)}")
        return option, "as you say"
    if len(labels) != 2:
        return None, f"{len(labels)} classes: accuracy and weighted F1"
    bad, good = ([label for label in labels if verdict_of(label) == kind] for kind in ("bad", "good"))
    told = {re.sub(r"\.0+$", "", label) for label in labels} != {"-1", "1"} and not GOOD.search(" ".join(words(column)))
    if told and len(bad) == 1:
        return bad[0], "looks like what is searched for"
    if told and len(good) == 1:
        return next(label for label in labels if label not in good), f"{good[0]} looks like the other"
    raise UserError(f"which label is searched for, {' or '.join(labels)}? Precision, recall and F1 are about that one: "
                    f"name it with --positive {labels[-1]}")
