"""The think-then-answer form (sections 3.3.1 and appendix A) and nothing else about answers.

Strict: after an optional `<think>` part, exactly one `<answer>` element whose content is one of the task's labels.
A trajectory also needs exactly one `<solutions>` element before it, with steps numbered 1, 2, 3 ...
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MARKS = "\"'`*\u201c\u201d\u2018\u2019"  # quotes and Markdown's emphasis
STEP = re.compile(r"^[ \t]*(?:\*\*)?(\d{1,3})[.)](?!\d)[ \t]*", re.MULTILINE)  # not 2.5, nor an address


@dataclass(frozen=True)
class Trajectory:
    """Numbered reasoning steps (without their numbers) and the label they end in."""

    steps: tuple[str, ...]
    answer: str

    def render(self) -> str:
        """The text a model is trained to write."""
        return f"{render_steps(self.steps)}\n<answer> {self.answer} </answer>"


def render_steps(steps: Sequence[str]) -> str:
    """A `<solutions>` element with the steps numbered from 1."""
    lines = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join(["<solutions>", *lines, "</solutions>"])


def after_thinking(text: str) -> str:
    """What follows the first `</think>` (a chat template may have opened it); nothing where thinking never ended."""
    before, mark, after = text.partition("</think>")
    if mark:
        return after
    return "" if before.lstrip().startswith("<think>") else text


def element(text: str, tag: str) -> str | None:
    """The content of a text's one `<tag>` element, None unless both of its tags come once and in order."""
    if text.count(f"<{tag}>") != 1 or text.count(f"</{tag}>") != 1:
        return None
    body, mark, _ = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")
    return body if mark else None


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """The label in the text's one `<answer>` element, as the task spells it, or None.

    Case, surrounding white space, quotes and a final full stop do not matter; anything else does.
    """
    found = element(after_thinking(text), "answer")
    if found is None:
        return None
    if found.strip() in labels:
        return found.strip()
    answer = _plain(found)
    return next((label for label in labels if answer and _plain(label) == answer), None)


def _plain(answer: str) -> str:
    inner = answer.strip().strip(MARKS).strip().removesuffix(".").strip().strip(MARKS).strip()
    return inner.casefold()


def parse_steps(body: str) -> tuple[str, ...] | None:
    """Steps numbered 1, 2, 3 ...; a number out of order belongs to the step it stands in. None without a 1."""
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
    """A whole answer: `<solutions>` with numbered steps, then `<answer>` with a label; None if anything is off."""
    label = parse_label(text, labels)
    text = after_thinking(text)
    body = element(text, "solutions")
    if label is None or body is None or text.index("</solutions>") > text.index("<answer>"):
        return None
    steps = parse_steps(body)
    return Trajectory(steps, label) if steps else None


def same_text(one: str, other: str) -> bool:
    """Equal after white-space normalisation, which is how kept steps are compared."""
    return one.split() == other.split()

