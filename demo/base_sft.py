"""What the tiny base learns before stage 1: the answer forms, on logs of its own, imperfectly.

A random model can answer nothing; the paper's models can. So the demo's base is taught the form of an answer by an
ordinary LLaMA-Factory run, and that a prompt may ask for a plan or a correction instead: a model that knows only
answers would unlearn them in thought-sft. Some of its labels are drawn at random (demo/tiny.yaml), and all that hang
on some words (`unsure` in demo/logs.yaml), so that its answers in stage 2 are sometimes right and sometimes wrong.
"""

import argparse
import functools
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from demo import logs, teacher
from logreasoner import cli, prompts
from logreasoner.answer_format import Trajectory
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run, load_yaml
from logreasoner.files import ROOT, write_jsonl
from logreasoner.instances import Instance, read_instances
from logreasoner.schemas import Task

SETTINGS = ROOT / "demo" / "tiny.yaml"
LOGS = logs.FOLDER / "form.jsonl"
WINDOW = 20  # lines of a session (section 4.3.1)
INPUTS = [LOGS, SETTINGS, teacher.SCRIPT]


@functools.cache
def settings() -> dict[str, Any]:
    """demo/tiny.yaml."""
    return dict(load_yaml(SETTINGS))


def instances(run: Run | None = None) -> list[Instance]:
    """The logs for the answer forms: the bundled ones of the run's tasks, all of them without a run.

    For a task of a user's own they are its training logs outside the run's splits, as often as it takes. Raises
    UserError if there are none, or if the bundled ones were not written.
    """
    if run and run.experiment.data.kind == "own":
        free = leftover(run)
        if not free:
            raise UserError(f"{run.experiment.data.folder}: no training log is left to teach the tiny model its form; "
                            f"lower the samples of experiments/runs/{run.experiment.name}.yaml")
        times = -(-settings()["form"]["own"]["samples"] // len(free))
        return [replace(item, id=f"{item.id}-{turn}") for turn in range(times) for item in free]
    if not LOGS.exists():
        raise UserError(f"{LOGS}: no such file; write it with: python -m demo.logs --out {logs.FOLDER}")
    return [item for item in read_instances(LOGS) if run is None or item.task in run.tasks()]


def unsure(item: Instance) -> bool:
    """Whether the label hangs on a word of which the base is not taught what it means."""
    topic, verb = logs.telling(item.text)
    if item.task not in teacher.script()["steps"]:
        return logs.dealt([topic]) < float(settings()["form"]["own"]["unsure"])
    words = logs.words()["unsure"]
    return topic in words["topics"] if item.task == "root_cause_analysis" else verb in words["verbs"]


def plan(task: str) -> str:
    """A thought in form: for one task always the same, so that stage 1 has something to add."""
    said = teacher.scripted("thoughts", task)
    return prompts.render("thought_answer", overview=said["overview"][0], challenges=said["challenges"][:1],
                          steps=said["steps"][:3])


def correction(item: Instance, task: Task, rng: random.Random) -> dict[str, str]:
    """A correction in form, so that pi_thought can correct itself: everything is done anew, up to the label given."""
    said, problem = settings()["form"]["corrections"], prompts.problem(item, task)
    wrong = rng.choice([label for label in task.labels if label != item.label])
    flawed, right = ([step[0] for step in teacher.filled(task.name, label, teacher.telling_words(problem))]
                     for label in (wrong, item.label))
    reply = {"first_error": 1, "reason": said["reason"], "steps": [said["step"], *right], "answer": item.label}
    return {"prompt": prompts.render("correction", problem=problem, steps=flawed, answer=wrong, label=item.label),
            "response": json.dumps(reply)}


def leftover(run: Run) -> list[Instance]:
    """Training logs of the run's data that are in none of its splits."""
    splits = [read_instances(path) for path in sorted(run.splits.glob("*.jsonl")) if path.name != "handbook.jsonl"]
    taken = {item.masked for split in splits for item in split}
    return [item for item in read_instances(run.experiment.data.folder / "train.jsonl") if item.masked not in taken]


def strangers(run: Run) -> dict[str, list[Instance]]:
    """For a run on public data: by task, training logs that are in none of its splits. Their labels are not used.

    The tiny base has never seen a word of such logs, and would lose the form of an answer over them.
    """
    if run.experiment.data.kind != "public":
        return {}
    free = leftover(run)
    found = {task: [item for item in free if item.task == task] for task in run.tasks()}
    # A task whose public rows are all test rows, or all in the splits, borrows the logs of the others.
    return {task: items or free for task, items in found.items()}


def foreign(item: Instance, free: list[Instance], rng: random.Random, lines: int = 1) -> Instance:
    """The instance with a stranger's log and description, or with a window of so many strangers' lines."""
    other = rng.choice(free)
    log = other.text if lines == 1 else tuple(rng.choice(free).text for _ in range(lines))
    return replace(item, log=log, description=other.description if item.description else "")


def samples(name: str) -> Iterator[dict[str, str]]:
    """One sample an instance, shuffled: {"id", "task", "prompt", "response"}; some prompts have three examples."""
    run, said = load_run(name), settings()["form"]
    rng = random.Random(f"{run.experiment.seed} form")
    tasks, free = run.tasks(), strangers(run)
    items = instances(run)
    rng.shuffle(items)
    for item in items:
        task = tasks[item.task]
        if rng.random() < said["plans"]:
            asked = prompts.render("thought_sft", problem=prompts.problem(item, task))
            yield {"id": item.id, "task": item.task, "prompt": asked, "response": plan(task.name)}
            continue
        if rng.random() < said["corrections"]["share"]:
            yield {"id": item.id, "task": item.task, **correction(item, task, rng)}
            continue
        mates = [mate for mate in rng.sample(items, 60) if mate.task == item.task and mate.log != item.log]
        shown = mates[: run.experiment.examples] if rng.random() < said["with_examples"] else []
        strange = bool(free) and rng.random() < said["foreign"]["share"]
        guess = strange or unsure(item) or rng.random() < said["noise"]
        label = rng.choice(task.labels) if guess else item.label
        if strange:
            # As in the evaluation: examples are single logs, what is asked about may be a session.
            shown = [foreign(mate, free[task.name], rng) for mate in shown]
            item = foreign(item, free[task.name], rng, WINDOW if isinstance(item.log, tuple) else 1)
        words = said["foreign"]["words"] if strange else teacher.telling_words(prompts.problem(item, task))
        steps = tuple(step[0] for step in teacher.filled(task.name, label, words))
        yield {"id": item.id, "task": item.task, "prompt": prompts.solution(item, task, tuple(shown)),
               "response": Trajectory(steps, label).render()}


def write(given: argparse.Namespace) -> None:
    """Write the samples and their manifest."""
    run = load_run(given.run)
    rows = list(samples(given.run))
    count = write_jsonl(given.out, rows, INPUTS, mark=run.mark, settings=settings()["form"],
                        counts={"samples": len(rows)})
    print(f"{given.out}: {count} samples")


def main() -> None:
    """Write the samples of base-sft."""
    arguments = cli.parser("demo.base_sft", "Write what the tiny base learns before stage 1.", """
python -m demo.base_sft --run demo --out build/runs/demo/datasets/tiny/base-sft/samples.jsonl""")
    arguments.add_argument("--run", required=True, help="the run whose tasks, seed and examples count")
    arguments.add_argument("--out", type=Path, required=True, help="JSONL of {id, task, prompt, response}")
    cli.run(arguments, write)


if __name__ == "__main__":
    main()
