"""The think-then-answer form (sections 3.3.1 and appendix A) and nothing else about answers.

Strict: after an optional `<think>` part, exactly one `<answer>` element whose content is one of the task's labels.
A trajectory also needs exactly one `<solutions>` element before it, with steps numbered 1, 2, 3 ...
Lenient: other forms that name one label unambiguously; a strict answer is never changed.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

QUOTES = "\"'`*\u201c\u201d\u2018\u2019"  # quotes and Markdown's emphasis
STEP = re.compile(r"^[ \t]*(?:\*\*)?(\d{1,3})[.)](?!\d)[ \t]*", re.MULTILINE)  # not 2.5, nor an IP address
# A lenient reader looks at answer elements (the end may be missing), \boxed{...}, "the answer is ...", "Answer: ...".
STATEMENT = re.compile(rf"<answer>(.*?)(?=</?answer>|\Z)|\\boxed\{{(?:\\\w+\{{)?([^{{}}\n]*)"
                       rf"|\banswer\b[{QUOTES} \t]*(?:\bis\b|[:=])\s*([^\n<\\]*)", re.IGNORECASE | re.DOTALL)
OPENING = re.compile(rf"[\s{QUOTES}:(\[]*")
CLAUSE_END = re.compile(rf"[{QUOTES})\]]*"
                        r"(?:[ \t]*[\r\n]|\s*(?:\Z|[.,;:!](?!\w)|[(<\u2013\u2014]|(?:because|since|as)\b))")


@dataclass(frozen=True)
class Trajectory:
    """Numbered reasoning steps (without their numbers) and the label they end in."""

    steps: tuple[str, ...]
    answer: str

    def render(self) -> str:
        """Return the text a model is trained to write."""
        return f"{render_steps(self.steps)}\n{answer_element(self.answer)}"


def answer_element(label: str) -> str:
    """Return the `<answer>` element of a label."""
    return f"<answer> {label} </answer>"


def render_steps(steps: Sequence[str]) -> str:
    """Return a `<solutions>` element with the steps numbered from 1."""
    lines = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join(["<solutions>", *lines, "</solutions>"])


def after_thinking(text: str) -> str:
    """Return what follows the first `</think>` (a chat template may have opened it), "" if thinking never ended."""
    before, tag, after = text.partition("</think>")
    if tag:
        return after
    return "" if before.lstrip().startswith("<think>") else text


def element(text: str, tag: str) -> str | None:
    """Return the content of a text's one `<tag>` element, None unless both tags occur once and in order."""
    if text.count(f"<{tag}>") != 1 or text.count(f"</{tag}>") != 1:
        return None
    body, end, _ = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")
    return body if end else None


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label in the text's one `<answer>` element, as the task spells it, or None.

    Case, surrounding white space, quotes and a final full stop do not matter; anything else does.
    """
    content = element(after_thinking(text), "answer")
    return None if content is None else _label(content, labels)


def parse_label_leniently(text: str, labels: Sequence[str]) -> str | None:
    """Return the strict label, else the one named after the thinking, by the first rule that applies.

    1. The last statement (STATEMENT) that names a label decides: it must begin with the label, go on with the end of
       a clause, and name no other label, or the answer is None. "Answer: not normal" and "True or False" are none.
    2. The last line, if it is a label and the line before it is not a different one.
    """
    strict = parse_label(text, labels)
    if strict is not None:
        return strict
    text, label_pattern = after_thinking(text), _label_pattern(tuple(labels))
    statements = [next(filter(None, match.groups()), "") for match in STATEMENT.finditer(text)]
    statement = next((text for text in reversed(statements) if label_pattern.search(text)), None)
    if statement is not None:
        matches = list(label_pattern.finditer(statement))
        named = {_label(match.group(), labels) for match in matches}
        alone = (OPENING.fullmatch(statement, 0, matches[0].start())
                 and CLAUSE_END.match(statement, matches[0].end()))
        return named.pop() if alone and len(named) == 1 else None
    *_, before, last = ["", "", *filter(str.strip, text.splitlines())]
    label = _label(last, labels)
    return label if _label(before, labels) in (None, label) else None


@functools.cache
def _label_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    """Match a label as a whole word: not "normal" in "abnormal", and "C++" before "C"."""
    longest_first = map(re.escape, sorted(filter(None, labels), key=len, reverse=True))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])", re.IGNORECASE)


def _label(written: str, labels: Sequence[str]) -> str | None:
    if written.strip() in labels:
        return written.strip()
    normalised = _normalise(written)
    return next((label for label in labels if normalised and _normalise(label) == normalised), None)


def _normalise(answer: str) -> str:
    text = answer.strip().strip(QUOTES).strip().removesuffix(".").strip().strip(QUOTES).strip()
    return text.casefold()


def parse_steps(body: str) -> tuple[str, ...] | None:
    """Split a body into steps numbered 1, 2, 3 ...; a number out of order is text of its step. None without a 1."""
    starts: list[tuple[int, int]] = []
    for match in STEP.finditer(body):
        if int(match.group(1)) == len(starts) + 1:
            starts.append((match.start(), match.end()))
    if not starts or body[: starts[0][0]].strip():
        return None
    ends = [start for start, _ in starts[1:]] + [len(body)]
    steps = tuple(body[begin:end].strip() for (_, begin), end in zip(starts, ends, strict=True))
    return steps if all(steps) else None


def parse_trajectory(text: str, labels: Sequence[str]) -> Trajectory | None:
    """Parse a whole answer: `<solutions>` with numbered steps, then `<answer>` with a label; else None."""
    label = parse_label(text, labels)
    text = after_thinking(text)
    body = element(text, "solutions")
    if label is None or body is None or text.index("</solutions>") > text.index("<answer>"):
        return None
    steps = parse_steps(body)
    return Trajectory(steps, label) if steps else None


def same_text(one: str, other: str) -> bool:
    """Compare texts after white-space normalisation, which is how steps that a correction keeps are recognised."""
    return one.split() == other.split()

