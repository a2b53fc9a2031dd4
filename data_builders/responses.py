"""Join requests with their responses by custom_id, judge the answers and count the outcomes.

Answers to an instance are its attempts: `<id>`, then `<id>#2`, `<id>#3` ... where earlier ones were not accepted
(data_builders/ask.py).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logreasoner.answer_format import Trajectory, read_trajectory
from logreasoner.cli import UserError
from logreasoner.files import read_jsonl
from logreasoner.generation.response_cache import LONGER, content, cut, draft, error_of, refusal
from logreasoner.instances import Instance
from logreasoner.schemas import Task
from logreasoner.text_table import aligned

Objection = Callable[[str, str], str]  # (id, text) -> why the text is not accepted, "" if it is


@dataclass(frozen=True)
class Attempt:
    """An answer to an instance: its text (None where it was refused), its number, from 1, was it cut."""

    text: str | None
    number: int
    cut: bool = False


def attempts(path: Path, ids: Iterable[str], thinking: bool = False,
             more: Iterable[str] = ()) -> dict[str, list[Attempt]]:
    """Read the answers to each id, in the order of the attempts; to those of `more` there need not be one.

    `thinking`: what was cut off before </think> is a draft and no answer, "". Raises UserError on a missing, repeated
    or unknown id.
    """
    requested, optional = set(ids), set(more)
    answers: dict[str, dict[int, Attempt]] = {}
    for line, record in read_jsonl(path):
        custom_id = record.get("custom_id")
        key, number = attempt_of(custom_id) if isinstance(custom_id, str) else ("", 0)
        if not number or key not in requested | optional:
            raise UserError(f"{path}:{line}: custom_id {custom_id!r} was not requested")
        if number in answers.setdefault(key, {}):
            raise UserError(f"{path}:{line}: custom_id {custom_id!r} comes twice")
        text = text_of(record, thinking)
        if text is None:
            print(f"{path}:{line}: {custom_id}: {error_of(record)}")
        answers[key][number] = Attempt(text, number, cut(record))
    if missing := {key for key in requested | set(answers) if 1 not in answers.get(key, {})}:
        raise UserError(f"{path}: {len(missing)} of {len(requested)} answers are missing, the first {min(missing)}")
    return {key: [attempt for _, attempt in sorted(numbered.items())] for key, numbered in answers.items()}


def text_of(record: Mapping[str, Any], thinking: bool) -> str | None:
    """Return the text of a response, None if it is refused, "" for a draft of a model that thinks first."""
    response = dict(record)
    return None if refusal(response) else "" if thinking and draft(response) else content(response)


def attempt_of(custom_id: str) -> tuple[str, int]:
    """Return the instance's id and the number of the attempt; 0 for what is no custom_id of an attempt."""
    key, mark, number = custom_id.partition("#")
    return key, 1 if not mark else int(number) if re.fullmatch("[1-9][0-9]{0,2}", number) and number != "1" else 0


def custom_id(key: str, number: int) -> str:
    """Return the custom_id of an attempt."""
    return key if number == 1 else f"{key}#{number}"


def deciding(key: str, tried: list[Attempt], objection: Objection) -> tuple[Attempt, str]:
    """Return the first attempt without an objection and "", else the last one and why it is not accepted.

    Whatever else is wrong with an answer that was cut at max_tokens, it is "cut".
    """
    for attempt in tried:
        why = "refused" if attempt.text is None else objection(key, attempt.text)
        if not why:
            break
    return attempt, "cut" if why and attempt.cut else why


def judge(attempt: Attempt, item: Instance, task: Task) -> tuple[Trajectory | None, str]:
    """Return an answer's trajectory, if it has one, and its outcome: right, wrong, cut, unparsed or refused.

    Only the label decides, however it is written (equations 3 and 5).
    """
    if attempt.text is None:
        return None, "refused"
    trajectory = read_trajectory(attempt.text, task.labels)
    if trajectory is None:
        return None, "cut" if attempt.cut else "unparsed"
    return trajectory, "right" if trajectory.answer == item.label else "wrong"


def count(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Count rows by task and outcome, sorted, for manifests and the screen."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["task"]), Counter())[str(row["outcome"])] += 1
    return {task: dict(sorted(counter.items())) for task, counter in sorted(counts.items())}


def attempt_counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count rows by the number of the attempt that decided them, for manifests."""
    return {str(number): count for number, count in sorted(Counter(row["attempt"] for row in rows).items())}


def again(rows: Iterable[Mapping[str, Any]]) -> str:
    """Say how many rows were decided by a further attempt, "" for none."""
    further = sum(row["attempt"] > 1 for row in rows)
    return f" ({further} by a further attempt)" if further else ""


def show(title: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Print outcomes, one line for each task."""
    rows = [[task, "  ".join(f"{outcome} {number}" for outcome, number in outcomes.items())]
            for task, outcomes in counts.items()]
    print(title)
    if rows:
        print(aligned(rows, indent="  "))
    if sum(outcomes.get("cut", 0) for outcomes in counts.values()):
        print(f"  cut: at max_tokens; {LONGER}")
