"""The think-then-answer form (sections 3.3.1 and appendix A) and nothing else about answers.

Strict: after an optional `<think>` part, exactly one `<answer>` element whose content is one of the task's labels.
A trajectory also needs exactly one `<solutions>` element before it, with steps numbered 1, 2, 3 ...
Lenient: other forms that name one label unambiguously, and steps in other forms; a strict answer is never changed.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

QUOTES = "\"'`*\u201c\u201d\u2018\u2019"  # quotes and Markdown's emphasis
STEP = re.compile(r"^[ \t]*(?P<bold>\*\*)?(\d{1,3})[.)](?!\d)[ \t]*", re.MULTILINE)  # not 2.5, nor an IP address
# Also "### 1.", "Step 1:", "**Step 1**:".
ANY_STEP = re.compile(r"^[ \t]*(?:#{1,6}[ \t]*)?(?P<bold>\*\*)?(?:Step[ \t]{1,9})?(\d{1,3})(?P<end>\*\*)?[.):](?!\d)"
                      r"(?P<closed>\*\*)?[ \t]*", re.MULTILINE | re.IGNORECASE)
BULLET = re.compile(r"^[-*\u2022][ \t]+", re.MULTILINE)  # at the beginning of a line; those below a step are indented
OPEN, CLOSED = re.compile(r"<solutions?>", re.IGNORECASE), re.compile(r"</solutions?>|<answer\b", re.IGNORECASE)
# A lenient reader looks at answer elements (the end may be missing), \boxed{...}, "the answer is ...", "Answer: ...".
STATEMENT = re.compile(rf"<answer>(.*?)(?=</?answer>|\Z)|\\boxed\{{(?:\\\w+\{{)?([^{{}}\n]*)"
                       rf"|\banswer\b[{QUOTES} \t]*(?:\bis\b|[:=])\s*([^\n<\\]*)", re.IGNORECASE | re.DOTALL)
EDGE = rf"[\s{QUOTES}:({{\[$]*+"
OPENING = re.compile(rf"{EDGE}(?:(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my)\s+)?(?:(?:final|correct)\s+)?"
                     rf"(?:answer|label)[{QUOTES} \t]*(?:\bis\b|[:=])|\\boxed\{{(?:\\\w+\{{)?)?{EDGE}", re.IGNORECASE)
CLAUSE_END = re.compile(rf"[{QUOTES})\]}}$]*"
                        r"(?:[ \t]*[\r\n]|\s+-\s|\s*(?:\Z|[.,;:!](?!\w)|[(<\u2013\u2014]|(?:because|since|as)\b))")
# How other keyboards and renderers write what the rules above know: zero-width characters, full-width letters and
# punctuation, corner brackets and angle quotes, and underscores for emphasis.
PLAIN = {**dict.fromkeys(map(ord, "\xad\u200b\u200c\u200d\u2060\ufeff")),
         **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
         **str.maketrans("\u3002\u300c\u300d\u300e\u300f\u300a\u300b\u3010\u3011\xab\xbb", "." + '"' * 10)}
LONGEST = 1_000  # characters of what is compared with labels: composing a long run of accents takes quadratic time
EMPHASIS = re.compile(r"(?<![^\W_])_{1,2}(?=[^\W_])|(?<=[^\W_])_{1,2}(?![^\W_])")


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


def render_steps(steps: Sequence[str], first: int = 1, before: str = "") -> str:
    """Return a `<solutions>` element with the steps numbered from `first`, after the text of earlier ones."""
    lines = [f"{number}. {step}" for number, step in enumerate(steps, first)]
    return "\n".join(["<solutions>", *([before] if before else []), *lines, "</solutions>"])


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

    Case, surrounding white space, quotes, a final full stop and how accents are composed (NFC, NFD) do not matter;
    anything else does.
    """
    content = element(after_thinking(text), "answer")
    return None if content is None else _label(content, labels)


def parse_label_leniently(text: str, labels: Sequence[str]) -> str | None:
    """Return the strict label, else the one named after the thinking, by the first rule that applies.

    1. The last statement (STATEMENT) that names a label decides: it must begin with the label (OPENING), go on with the
       end of a clause, and name no other label, or the answer is None. "Answer: not normal" and "True or False" are
       none.
    2. The last line, if it is a label and the line before it is not a different one.
    """
    strict = parse_label(text, labels)
    if strict is not None:
        return strict
    text, label_pattern = after_thinking(text), _label_pattern(tuple(labels))
    if all(_plain(label) == label for label in labels):
        text = _plain(text)
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


def _plain(text: str) -> str:
    """Write punctuation in ASCII, and leave out zero-width characters and underscores of emphasis."""
    return EMPHASIS.sub("", text.translate(PLAIN))


@functools.cache
def _label_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    """Match a label as a whole word: not "normal" in "abnormal", and "C++" before "C"."""
    written = {unicodedata.normalize(form, label) for label in labels for form in ("NFC", "NFD")} | set(labels)
    longest_first = map(re.escape, sorted(filter(None, written), key=lambda label: (-len(label), label)))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])", re.IGNORECASE)


def _label(written: str, labels: Sequence[str]) -> str | None:
    if written.strip() in labels:
        return written.strip()
    normalised = _normalise(written)
    return next((label for label in labels if normalised and _normalise(label) == normalised), None)


def _normalise(answer: str) -> str:
    text = answer.strip().strip(QUOTES).strip().removesuffix(".").strip().strip(QUOTES).strip()
    return unicodedata.normalize("NFC", text).casefold() if len(text) <= LONGEST else ""


def parse_steps(body: str) -> tuple[str, ...] | None:
    """Split a body into steps numbered 1, 2, 3 ...; a number out of order is text of its step. None without a 1."""
    starts = _numbered(body, STEP)
    if not starts or body[: starts[0].start()].strip():
        return None
    steps = _between(body, starts)
    return steps if all(steps) else None


def _numbered(body: str, marker: re.Pattern[str]) -> list[re.Match[str]]:
    """Return the markers of steps 1, 2, 3 ... in a body; numbers out of order are no markers."""
    starts: list[re.Match[str]] = []
    for match in marker.finditer(body):
        if int(match.group(2)) == len(starts) + 1:
            starts.append(match)
    return starts


def _between(body: str, starts: Sequence[re.Match[str]]) -> tuple[str, ...]:
    """Return the texts of steps without their markers. Emphasis that a marker opens and the text ends is kept."""
    ends = [match.start() for match in starts[1:]] + [len(body)] * bool(starts)
    return tuple((_still_bold(match) + body[match.end():end]).strip() for match, end in zip(starts, ends, strict=True))


def _still_bold(marker: re.Match[str]) -> str:
    groups = marker.groupdict()
    return "**" if groups.get("bold") and not (groups.get("end") or groups.get("closed")) else ""


def read_steps(body: str) -> tuple[str, ...]:
    """Split a body into steps leniently: numbered in any way (ANY_STEP), else bullets, paragraphs or lines.

    What stands before step 1 is an opening sentence and no step. Empty steps are left out.
    """
    steps = _between(body, _numbered(body, ANY_STEP)) or _between(body, list(BULLET.finditer(body)))
    if not any(steps):
        paragraphs = re.split(r"\n[ \t]*\n", body)
        steps = tuple(paragraphs if len(paragraphs) > 1 else body.splitlines())
    return tuple(step.strip() for step in steps if step.strip())


def without_number(step: str) -> str:
    """Return a step without the number or bullet that it was written with."""
    match = ANY_STEP.match(step) or BULLET.match(step)
    return (_still_bold(match) + step[match.end():] if match else step).strip()


def parse_trajectory(text: str, labels: Sequence[str]) -> Trajectory | None:
    """Parse a whole answer: `<solutions>` with numbered steps, then `<answer>` with a label; else None."""
    label = parse_label(text, labels)
    text = after_thinking(text)
    body = element(text, "solutions")
    if label is None or body is None or text.index("</solutions>") > text.index("<answer>"):
        return None
    steps = parse_steps(body)
    return Trajectory(steps, label) if steps else None


def read_trajectory(text: str, labels: Sequence[str]) -> Trajectory | None:
    """Read an answer by its label alone, which may be written leniently; None without one (equations 3 and 5).

    Steps are those of the form, else those that can be made out (`read_steps`): in a `<solutions>` or `<solution>`
    element (its end may be missing), else in what comes before the answer. There may be none.
    """
    exact = parse_trajectory(text, labels)
    label = parse_label_leniently(text, labels)
    if exact or label is None:
        return exact
    body = after_thinking(text)
    opened = OPEN.search(body)
    body = body[opened.end() if opened else 0:]
    closed = CLOSED.search(body)
    lines = (body[:closed.start()] if closed else body).rstrip().splitlines()
    if not closed and lines and parse_label_leniently(lines[-1], labels) is not None:
        lines.pop()  # the answer itself
    return Trajectory(read_steps("\n".join(lines)), label)


def correct_steps(text: str, kept: int, steps: Sequence[str], label: str) -> str | None:
    """Return a whole answer with its first `kept` steps to the letter, then new steps and another label.

    None where the answer is not in the form.
    """
    body = element(after_thinking(text), "solutions") or ""
    starts = _numbered(body, STEP)
    if not parse_steps(body) or "<answer>" in body or kept > len(starts):
        return None
    prefix = body[: starts[kept].start() if kept < len(starts) else len(body)].strip()
    new = render_steps(steps, kept + 1, prefix)
    return f"{new}\n{answer_element(label)}"


def same_text(one: str, other: str) -> bool:
    """Compare texts after white-space normalisation, which is how steps that a correction keeps are recognised."""
    return one.split() == other.split()

