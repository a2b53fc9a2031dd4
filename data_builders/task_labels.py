"""Choose a custom task's label column and its positive class from their names and values, or ask."""

import re
from pathlib import Path

from logreasoner.cli import UserError

MOST_LABELS = 20
# What label columns are called, the surest first: a word of the column's name, or its beginning.
NAMES = ("label", "class", "verdict", "target", "truth", "category", "cause", "outcome", "status", "state", "anomal",
         "fail", "result")
BAD = re.compile(r"(ab|not |un)normal|anomal|fail|fault|error|bad|attack|intrusion|malicious|malware|fraud|positive|"
                 r"critical|incident|broken|^(true|yes|y|1)$", re.I)
GOOD = re.compile(r"(?<!ab)(?<!not )(?<!un)normal|benign|good|healthy|success|passed|^(no|not|non)[ _-]|"
                  r"^(ok|pass|false|no|n|0|none)$",
                  re.I)


def words(name: str) -> list[str]:
    """Split a column's name into its words, in lower case: AnomalyLabel_2 is anomaly, label and 2."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name)]


def label_column(path: Path, values: dict[str, list[str]], rows: int) -> tuple[str, str]:
    """Choose the label's column: one that is called so, else the only one whose values judge; returns it and why.

    A column with few values is no label for that alone: months, ports and hosts are few too. Raises UserError with the
    candidates where none or several are as likely.
    """
    sizes = {name: len(set(texts)) for name, texts in values.items()}
    possible = [name for name, size in sizes.items() if 2 <= size <= min(MOST_LABELS, max(2, rows // 4))]
    exact = [name for kind in NAMES for name in possible if len(words(name)) == 1 and words(name)[0].startswith(kind)]
    called_so = exact[:1] or [name for name in possible if any(word.startswith(NAMES) for word in words(name))]
    judging = [name for name in possible if all(BAD.search(value) or GOOD.search(value) for value in set(values[name]))
               and len({bool(BAD.search(value)) for value in values[name]}) == 2]
    likely, why = (called_so, "and is called so") if called_so else (judging, "and they judge")
    if len(likely) != 1:
        listed = ", ".join(f"{name!r} ({sizes[name]} values)" for name in likely or sizes) or "no other column"
        raise UserError(f"{path}: which column is the label? A label has 2 to {MOST_LABELS} values; "
                        f"{'as likely are' if likely else 'there is'} {listed}. Name one with --label, or decide by a "
                        "pattern with --label-rule 'ERROR|FATAL=abnormal'")
    return likely[0], f"{sizes[likely[0]]} values, {why}"


def positive_class(labels: list[str], option: str | None) -> tuple[str | None, str]:
    """Choose the positive class of two labels, and say why: the one that looks bad, or is not the one that looks good.

    Raises UserError for an option that is no label, and where the names do not say which is searched for: the rarer one
    need not be.
    """
    if option:
        if option not in labels:
            raise UserError(f"--positive {option!r}: is not one of the labels {', '.join(labels)}")
        return option, "as you say"
    if len(labels) != 2:
        return None, f"{len(labels)} classes: accuracy and weighted F1"
    bad = [label for label in labels if BAD.search(label) and not GOOD.search(label)]
    good = [label for label in labels if GOOD.search(label)]
    if len(bad) == 1 and set(labels) != {"-1", "1"}:
        return bad[0], "looks like what is searched for"
    if len(good) == 1:
        return next(label for label in labels if label not in good), f"{good[0]} looks like the other"
    raise UserError(f"which label is searched for, {' or '.join(labels)}? Precision, recall and F1 are about that one: "
                    f"name it with --positive {labels[-1]}")
