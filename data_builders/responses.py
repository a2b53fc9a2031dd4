"""Requests joined with their responses by custom_id, and outcomes counted: what every collecting step begins with."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from logreasoner.answer_format import Trajectory, parse_trajectory
from logreasoner.cli import UserError
from logreasoner.config import Task
from logreasoner.files import read_jsonl
from logreasoner.generation.generate import content, trouble
from logreasoner.instances import Instance


def texts(path: Path, ids: Iterable[str]) -> dict[str, str | None]:
    """The answer to each id, None where the endpoint refused. Raises UserError on a missing, doubled or unknown id."""
    wanted = set(ids)
    found: dict[str, str | None] = {}
    for number, record in read_jsonl(path):
        custom_id = record.get("custom_id")
        if not isinstance(custom_id, str) or custom_id not in wanted:
            raise UserError(f"{path}:{number}: custom_id {custom_id!r} was not asked")
        if custom_id in found:
            raise UserError(f"{path}:{number}: custom_id {custom_id!r} comes twice")
        found[custom_id] = content(record)
        if found[custom_id] is None:
            print(f"{path}:{number}: {custom_id}: {trouble(record)}")
    missing = wanted - set(found)
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(wanted)} answers are missing, the first {min(missing)}")
    return found


def judge(text: str | None, item: Instance, task: Task) -> tuple[Trajectory | None, str]:
    """The trajectory of an answer if it has one, and what became of it: right, wrong, unparsed or refused."""
    if text is None:
        return None, "refused"
    trajectory = parse_trajectory(text, task.labels)
    if trajectory is None:
        return None, "unparsed"
    return trajectory, "right" if trajectory.answer == item.label else "wrong"


def count(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """task -> outcome -> rows, sorted, for manifests and the screen."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["task"]), Counter())[str(row["outcome"])] += 1
    return {task: dict(sorted(counter.items())) for task, counter in sorted(counts.items())}


def show(title: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Print outcomes, a task a line."""
    print(title)
    for task, outcomes in counts.items():
        print(f"  {task:<30}" + "  ".join(f"{outcome} {number}" for outcome, number in outcomes.items()))
