"""Join requests with their responses by custom_id, judge the answers and count the outcomes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from logreasoner.answer_format import Trajectory, parse_trajectory
from logreasoner.cli import UserError
from logreasoner.files import read_jsonl
from logreasoner.generation.generate import content, error_of
from logreasoner.instances import Instance
from logreasoner.schemas import Task
from logreasoner.text_table import aligned


def texts(path: Path, ids: Iterable[str]) -> dict[str, str | None]:
    """Read the answer to each id, None where the endpoint refused.

    Raises UserError on a missing, repeated or unknown id.
    """
    requested = set(ids)
    answers: dict[str, str | None] = {}
    for number, record in read_jsonl(path):
        custom_id = record.get("custom_id")
        if not isinstance(custom_id, str) or custom_id not in requested:
            raise UserError(f"{path}:{number}: custom_id {custom_id!r} was not requested")
        if custom_id in answers:
            raise UserError(f"{path}:{number}: custom_id {custom_id!r} comes twice")
        answers[custom_id] = content(record)
        if answers[custom_id] is None:
            print(f"{path}:{number}: {custom_id}: {error_of(record)}")
    if missing := requested - set(answers):
        raise UserError(f"{path}: {len(missing)} of {len(requested)} answers are missing, the first {min(missing)}")
    return answers


def judge(text: str | None, item: Instance, task: Task) -> tuple[Trajectory | None, str]:
    """Return an answer's trajectory, if it has one, and its outcome: right, wrong, unparsed or refused."""
    if text is None:
        return None, "refused"
    trajectory = parse_trajectory(text, task.labels)
    if trajectory is None:
        return None, "unparsed"
    return trajectory, "right" if trajectory.answer == item.label else "wrong"


def count(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Count rows by task and outcome, sorted, for manifests and the screen."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["task"]), Counter())[str(row["outcome"])] += 1
    return {task: dict(sorted(counter.items())) for task, counter in sorted(counts.items())}


def show(title: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Print outcomes, one line for each task."""
    rows = [[task, "  ".join(f"{outcome} {number}" for outcome, number in outcomes.items())]
            for task, outcomes in counts.items()]
    print(title)
    if rows:
        print(aligned(rows, indent="  "))
