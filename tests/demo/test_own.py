"""The demo on a task of a user's own, for which neither the teacher nor the logs have anything written."""

import pytest

from data_builders.corrections import parse_correction
from data_builders.thoughts import parse_thought
from demo import base_sft, teacher
from logreasoner import prompts
from logreasoner.answer_format import Trajectory, parse_trajectory
from logreasoner.cli import UserError
from logreasoner.config import Run, resolve
from logreasoner.files import write_jsonl
from logreasoner.instances import Instance
from logreasoner.schemas import Data, Task

TASK = Task(name="disks", title="Disks", question="Is it failing?", labels=["healthy", "failing"], metrics=["accuracy"])
WORDS = ["amber", "basalt", "cobalt", "dolomite", "emerald", "feldspar", "garnet", "hematite"]
ITEMS = [Instance(f"d-{one}-{two}", "disks", "east", f"disk {one} saw {two} <answer> {at} times",
                  TASK.labels[at % 2], split="train") for at, one in enumerate(WORDS) for two in WORDS]


class Own(Run):
    def tasks(self):
        return {"disks": TASK}


@pytest.fixture
def run(workdir, monkeypatch):
    experiment = resolve("demo", []).model_copy(update={"tasks": ["disks"], "data": Data(kind="own", name="disks")})
    made = Own("demo-disks", experiment)
    for module in (base_sft, teacher):
        monkeypatch.setattr(module, "load_run", lambda name: made)
    write_jsonl(experiment.data.folder / "train.jsonl", (item.as_json() for item in ITEMS))
    write_jsonl(made.splits / "stage2.jsonl", (item.as_json() for item in ITEMS[:32]))
    return made


def test_every_kind_of_prompt_is_answered_in_form(run):
    def ask(prompt):
        return teacher.Teacher("demo-disks").reply([prompts.user(prompt)])

    outcomes, analyses = [], set()
    for item in ITEMS[:32]:
        problem = prompts.problem(item, TASK)
        answer = parse_trajectory(ask(prompts.render("rationale", task=TASK, problem=problem)), TASK.labels)
        outcomes.append(answer is not None and answer.answer == item.label)
        analyses.add(answer and answer.steps)
    assert 0.6 * len(outcomes) < sum(outcomes) < len(outcomes)
    assert len(analyses) > 20, "a selection by diversity needs analyses that differ"
    good = 0
    for item in ITEMS[:32]:
        problem = prompts.problem(item, TASK)
        asked = prompts.render("thought", problem=problem, analysis="1. Look.", least=3, most=8)
        good += parse_thought(ask(asked), problem)[0] is not None
        wrong = next(label for label in TASK.labels if label != item.label)
        flawed = Trajectory(tuple(step[0] for step in teacher.wordings("disks", problem, wrong)), wrong)
        fixed, _ = parse_correction(ask(prompts.render(
            "correction", problem=problem, steps=flawed.steps, answer=wrong, label=item.label, keep=True)), flawed,
            item.label, TASK.labels)
        good += fixed is not None and fixed.steps[0] == flawed.steps[0] and len(fixed.steps) > 2
    assert good > 0.7 * 2 * 32


def test_the_form_is_taught_on_training_logs_outside_the_splits(run):
    samples = list(base_sft.samples("demo-disks"))
    assert samples == list(base_sft.samples("demo-disks"))
    assert len(samples) >= base_sft.settings()["form"]["own"]["samples"]
    assert len({sample["id"] for sample in samples}) == len(samples)
    pooled = {item.text.replace("<", "< ") for item in ITEMS[:32]}
    assert not any(text in sample["prompt"] for sample in samples for text in pooled)
    by_text = {item.text.replace("<", "< "): item for item in ITEMS[32:]}
    right = sure = 0
    for sample in samples:
        if sample["response"].startswith("Problem overview:") or "### Correct answer" in sample["prompt"]:
            continue
        item = by_text[sample["prompt"].rpartition("Log:\n")[2]]
        answer = parse_trajectory(sample["response"], TASK.labels)
        assert answer is not None and not any(word in " ".join(answer.steps) for word in WORDS)
        right += answer.answer == item.label and not base_sft.unsure(item)
        sure += not base_sft.unsure(item)
    assert 0.9 < right / sure < 1


def test_a_run_that_leaves_no_log_over_is_told(run):
    write_jsonl(run.splits / "test.jsonl", (item.as_json() for item in ITEMS[32:]))
    with pytest.raises(UserError, match="lower the samples"):
        list(base_sft.samples("demo-disks"))
