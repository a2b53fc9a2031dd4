"""Write what the tiny base model learns before stage 1: the answer formats, on separate logs, imperfectly.

A random model can answer nothing; the paper's models can. So an ordinary LLaMA-Factory run teaches the
demo's base the answer format, and that a prompt may ask for a plan or a correction instead: a model that knows only
answers would unlearn them in thought-sft. Some of its labels are drawn at random (demo/tiny.yaml), and all that depend
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
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run, load_yaml
from logreasoner.examples import Example
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
    """Return the logs for the answer formats: the bundled ones of the run's tasks, all of them without a run.

    For a custom task they are its training logs outside the run's splits, repeated as needed. Raises
    UserError if there are none, or if the bundled ones were not written.
    """
    if run and run.experiment.data.kind == "own":
        free = leftover(run)
        if not free:
            raise UserError(f"{run.experiment.data.folder}: no training log is left to teach the answer format; "
                            f"lower the samples of experiments/runs/{run.experiment.name}.yaml")
        times = -(-settings()["form"]["own"]["samples"] // len(free))
        return [replace(item, id=f"{item.id}-{turn}") for turn in range(times) for item in free]
    if not LOGS.exists():
        raise UserError(f"{LOGS}: no such file; write it with: python -m demo.logs --out {logs.FOLDER}")
    return [item for item in read_instances(LOGS) if run is None or item.task in run.tasks()]


def unsure(item: Instance) -> bool:
    """Tell whether the label depends on a word whose meaning the base is not taught."""
    subject, event = logs.key_words(item.text)
    if item.task not in teacher.script()["steps"]:
        return logs.dealt([subject]) < float(settings()["form"]["own"]["unsure"])
    words = logs.words()["unsure"]
    return subject in words["subjects"] if item.task == "root_cause_analysis" else event in words["events"]


def plan(task: str) -> str:
    """Write a well-formed thought, always the same for a task, so that stage 1 has something to add."""
    script = teacher.scripted("thoughts", task)
    return prompts.render("thought_answer", overview=script["overview"][0], challenges=script["challenges"][:1],
                          steps=script["steps"][:3])


def correction(item: Instance, task: Task, rng: random.Random, keep: bool) -> dict[str, str]:
    """Write a well-formed correction, so that pi_thought can correct itself: all steps anew, to the given label."""
    fixed, problem = settings()["form"]["corrections"], prompts.problem(item, task)
    wrong = rng.choice([label for label in task.labels if label != item.label])
    flawed, right = ([step[0] for step in teacher.filled(task.name, label, teacher.step_words(problem))]
                     for label in (wrong, item.label))
    reply = {"first_error": 1, "reason": fixed["reason"], "steps": [fixed["step"], *right]}
    prompt = prompts.render("correction", problem=problem, steps=flawed, answer=wrong, label=item.label, keep=keep)
    return {"prompt": prompt, "response": json.dumps(reply)}


def leftover(run: Run) -> list[Instance]:
    """Return training logs of the run's data that are in none of its splits."""
    splits = [read_instances(path) for path in sorted(run.splits.glob("*.jsonl")) if path.name != "handbook.jsonl"]
    taken = {item.masked for split in splits for item in split}
    return [item for item in read_instances(run.experiment.data.folder / "train.jsonl") if item.masked not in taken]


def unseen_logs(run: Run) -> dict[str, list[Instance]]:
    """For a run on public data: by task, training logs that are in none of its splits. Their labels are not used.

    The tiny base has never seen a word of such logs, and would forget the answer format on them.
    """
    if run.experiment.data.kind != "public":
        return {}
    free = leftover(run)
    by_task = {task: [item for item in free if item.task == task] for task in run.tasks()}
    # A task whose public rows are all test rows, or all in the splits, borrows the logs of the others.
    return {task: items or free for task, items in by_task.items()}


def foreign(item: Instance, free: list[Instance], rng: random.Random, lines: int = 1) -> Instance:
    """Give an instance the log and description of an unseen one, or a window of so many unseen lines."""
    other = rng.choice(free)
    log = other.text if lines == 1 else tuple(rng.choice(free).text for _ in range(lines))
    return replace(item, log=log, description=other.description if item.description else "")


def solved(item: Instance, task: Task, label: str, words: dict[str, str] | None = None) -> Example:
    """Return an instance with the steps that lead to a label, in the words of its log or in others."""
    steps = teacher.filled(task.name, label, words or teacher.step_words(prompts.problem(item, task)))
    return Example(replace(item, label=label), tuple(step[0] for step in steps))


def turns(messages: list[prompts.Message]) -> dict[str, Any]:
    """Return a sample's prompt, and the turns before it as LLaMA-Factory takes them: (user, assistant) pairs."""
    texts = [message["content"] for message in messages]
    return {"prompt": texts[-1], "history": list(zip(texts[:-1:2], texts[1::2], strict=True))}


def messages(sample: dict[str, Any]) -> list[prompts.Message]:
    """Return the chat messages of a sample, without its response."""
    before = [{"role": role, "content": text} for pair in sample["history"]
              for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [*before, prompts.user(sample["prompt"])]


def samples(name: str) -> Iterator[dict[str, Any]]:
    """Yield one sample an instance, shuffled: {"id", "task", "prompt", "history", "response"}.

    Some prompts have examples, as the evaluation has them.
    """
    run, rates = load_run(name), settings()["form"]
    rng = random.Random(f"{run.experiment.seed} form")
    tasks, free, keep = run.tasks(), unseen_logs(run), run.experiment.flawed_step == "keep"
    items = instances(run)
    rng.shuffle(items)
    for item in items:
        task = tasks[item.task]
        if rng.random() < rates["plans"]:
            prompt = prompts.render("thought_sft", problem=prompts.problem(item, task))
            yield {"id": item.id, "task": item.task, "prompt": prompt, "history": [], "response": plan(task.name)}
            continue
        if rng.random() < rates["corrections"]["share"]:
            yield {"id": item.id, "task": item.task, "history": [], **correction(item, task, rng, keep)}
            continue
        mates = [mate for mate in rng.sample(items, 60) if mate.task == item.task and mate.log != item.log]
        shots = mates[:run.experiment.shots] if rng.random() < rates["with_examples"] else []
        unseen = bool(free) and rng.random() < rates["foreign"]["share"]
        guess = unseen or unsure(item) or rng.random() < rates["noise"]
        label = rng.choice(task.labels) if guess else item.label
        words = rates["foreign"]["words"] if unseen else None
        if unseen:
            # Examples are single logs, the question may be about a session.
            shots = [foreign(mate, free[task.name], rng) for mate in shots]
            item = foreign(item, free[task.name], rng, WINDOW if isinstance(item.log, tuple) else 1)
        examples = [solved(shot, task, shot.label, words) for shot in shots]
        if run.experiment.examples == "label-only":
            examples = [Example(shot) for shot in shots]
        asked = prompts.conversation(item, task, examples, run.experiment.examples == "turns")
        yield {"id": item.id, "task": item.task, **turns(asked),
               "response": solved(item, task, label, words).solution}


def write(given: argparse.Namespace) -> None:
    """Write the samples and their manifest."""
    run = load_run(given.run)
    rows = list(samples(given.run))
    count = write_jsonl(given.out, rows, INPUTS, mark=run.mark, settings=settings()["form"],
                        counts={"samples": len(rows)})
    print(f"{given.out}: {count} samples")


def main() -> None:
    """Write the samples of base-sft."""
    arguments = cli.parser("demo.base_sft", "Write what the tiny base model learns before stage 1.", """
python -m demo.base_sft --run demo --out build/runs/demo/datasets/tiny/base-sft/samples.jsonl""", required=["run"])
    arguments.add_argument("--out", type=Path, required=True, help="JSONL of {id, task, prompt, response}")
    cli.run(arguments, write)


if __name__ == "__main__":
    main()
