"""Few-shot examples: worked solutions in files, and which of them a prompt shows (sections 4.2.3 and 4.4).

A file is YAML with `examples:`, a list of id, steps and answer. experiments/examples/<task>.yaml holds what a person
wrote for the public data or for a custom task, and decides which instances are the examples. Without it examples are
drawn by the splits, and the teacher writes their solutions once into build/runs/<run>/examples/<task>.yaml, which a
person may edit. Other examples after the first evaluation would not be comparable: eval/predict.py refuses them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path

from pydantic import Field

from logreasoner.answer_format import Trajectory, parse_trajectory
from logreasoner.cli import UserError
from logreasoner.config import Run, example_file, load_yaml
from logreasoner.files import digest
from logreasoner.instances import Instance, read_instances
from logreasoner.schemas import Declared, Task, checked

MOST = 12  # drawn for a task with many labels


class Solution(Declared):
    """A row of an examples file. A list of ids is a window of these instances, in this order."""

    id: str | list[str] = Field(min_length=1)
    steps: list[str]
    answer: str

    @property
    def ids(self) -> list[str]:
        """Return the ids of its instances."""
        return [self.id] if isinstance(self.id, str) else self.id

    @property
    def key(self) -> str:
        """Return the id of the example: of its instance, or those of a window's joined."""
        return "+".join(self.ids)


class _File(Declared):
    examples: list[Solution] = Field(min_length=1)


@dataclass(frozen=True)
class Example:
    """A labelled instance with the steps of its worked solution, () where labels alone are shown."""

    item: Instance
    steps: tuple[str, ...] = ()

    @property
    def solution(self) -> str:
        """Return the worked solution in the answer form, "" without steps."""
        return Trajectory(self.steps, self.item.label).render() if self.steps else ""


def load(path: Path, task: Task) -> list[Solution]:
    """Read an examples file. Raises UserError naming the id whose solution is not in the answer form."""
    solutions = checked(_File, load_yaml(path), str(path)).examples
    for solution in solutions:
        if not solution.steps:
            raise UserError(f"{path}: {solution.key}: has no steps; write the steps that lead to {solution.answer}")
        worked = Trajectory(tuple(step.strip() for step in solution.steps), solution.answer)
        if solution.answer not in task.labels or parse_trajectory(worked.render(), task.labels) != worked:
            raise UserError(f"{path}: {solution.key}: cannot be shown as numbered steps and an answer; the answer is "
                            f"one of {', '.join(task.labels)}, and a step has no tags and no lines that begin with a "
                            "number")
    if repeated := {one.key for one in solutions if sum(one.key == other.key for other in solutions) > 1}:
        raise UserError(f"{path}: {min(repeated)} comes twice")
    return solutions


def written_file(run: Run, task: str) -> Path:
    """Return the file of the solutions that the teacher writes for a run, and a person may edit."""
    return run.dir / "examples" / f"{task}.yaml"


def solution_file(run: Run, task: str) -> Path:
    """Return where the solutions of a run's task are: a person's file, or the run's own."""
    return example_file(run.experiment, task) or written_file(run, task)


def count(shots: int, task: Task) -> int:
    """Return how many examples are drawn for a task: one of each label, up to MOST, and at least one prompt's."""
    return max(shots, min(len(task.labels), MOST)) if shots else 0


def window(parts: Sequence[Instance], task: Task) -> Instance:
    """Return the window of several logs, with the positive label if one of them has it; of one log, the log."""
    if len(parts) == 1:
        return parts[0]
    label = next((part.label for part in parts if part.label == task.positive), parts[0].label)
    return replace(parts[0], id="+".join(part.id for part in parts), log=tuple(part.text for part in parts),
                   label=label)


def read(run: Run, tasks: Iterable[str], assumed: tuple[str, ...] = ()) -> dict[str, tuple[Example, ...]]:
    """Read the examples of tasks, in file order, with their solutions unless the run shows labels alone.

    `assumed` are the steps of each where nobody has written solutions yet, for estimates. Raises UserError for too few
    examples, and for one without a solution.
    """
    path, shots = run.splits / "examples.jsonl", run.experiment.shots
    items = list(read_instances(path)) if shots else []
    result = {}
    for name in sorted(set(tasks)):
        own = [item for item in items if item.task == name]
        if len(own) < shots:
            raise UserError(f"{path}: {len(own)} examples of {name}, the run shows {shots}; make the splits again, "
                            "from more logs or with fewer shots")
        labelled = run.experiment.examples == "label-only" or not own
        if labelled or (assumed and not solution_file(run, name).exists()):
            result[name] = tuple(Example(item, () if labelled else assumed) for item in own)
        else:
            result[name] = _with_solutions(run, name, own)
    return result


def _with_solutions(run: Run, name: str, items: list[Instance]) -> tuple[Example, ...]:
    path = solution_file(run, name)
    if not path.exists():
        raise UserError(f"{path}: no such file: the examples of {name} have no worked solutions yet. `make examples` "
                        "has them written by the run's teacher; or write them (docs/prompts.md), or declare a run with "
                        "EXAMPLES=label-only")
    solutions = {solution.key: solution for solution in load(path, run.task(name))}
    for item in items:
        if item.id not in solutions or solutions[item.id].answer != item.label:
            raise UserError(f"{path}: needs a solution of {item.id} whose answer is its label, {item.label}")
    return tuple(Example(item, tuple(step.strip() for step in solutions[item.id].steps)) for item in items)


def shown(examples: Sequence[Example], log: str, shots: int) -> list[Example]:
    """Choose the examples of a prompt: the same for every model; where there are more than `shots`, by the log's hash.

    Each set begins where another ends, so over many logs all examples are shown equally often.
    """
    if not shots or not examples:
        return []
    sets = len(examples) // gcd(len(examples), shots)
    start = int(digest([log])[:8], 16) % sets * shots
    return [examples[(start + at) % len(examples)] for at in range(shots)]
