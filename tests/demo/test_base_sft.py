import pytest

from data_builders.corrections import parse_correction
from demo import base_sft, logs
from logreasoner.answer_format import Trajectory, parse_trajectory
from logreasoner.cli import UserError
from logreasoner.config import Run, resolve
from logreasoner.files import write_jsonl
from logreasoner.instances import Instance, by_id, read_instances


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(base_sft, "LOGS", tmp_path / "form.jsonl")
    monkeypatch.setattr(base_sft, "load_run", lambda name: Run("demo", resolve("demo", [])))
    return tmp_path


def test_samples_are_answers_in_form_and_mostly_right(folder):
    write_jsonl(base_sft.LOGS, (item.as_json() for item in logs.instances("form")))
    items, tasks = by_id(read_instances(base_sft.LOGS)), Run("demo", resolve("demo", [])).tasks()
    samples = list(base_sft.samples("demo"))
    assert samples == list(base_sft.samples("demo"))
    assert {sample["id"] for sample in samples} == set(items)
    right = sure = shown = 0
    plans = [sample for sample in samples if "Do not solve" in sample["prompt"]]
    assert 0.1 < len(plans) / len(samples) < 0.2
    assert all(sample["response"].startswith("Problem overview:") for sample in plans)
    corrections = [sample for sample in samples if "### Correct answer" in sample["prompt"]]
    assert 0.06 < len(corrections) / len(samples) < 0.16
    for sample in (sample for sample in samples if sample not in plans and sample not in corrections):
        item = items[sample["id"]]
        answer = parse_trajectory(sample["response"], tasks[item.task].labels)
        assert answer is not None
        assert 2 <= len(answer.steps) <= 4
        right += answer.answer == item.label and not base_sft.unsure(item)
        sure += not base_sft.unsure(item)
        shown += len(sample["history"]) == 3
        for turn, example in sample["history"]:
            assert "### Task" in turn and parse_trajectory(example, tasks[item.task].labels) is not None
    assert 0.9 < right / sure < 1
    assert 0.05 < 1 - sure / (len(samples) - len(plans) - len(corrections)) < 0.4
    assert 0 < shown < len(samples) / 2
    for sample in corrections:
        item, flawed = items[sample["id"]], Trajectory(("a", "b"), "x")
        assert parse_correction(sample["response"], flawed, item.label, tasks[item.task].labels)[0] is not None


def test_missing_logs_are_said(folder):
    with pytest.raises(UserError, match="demo.logs"):
        list(base_sft.samples("demo"))


def test_on_public_data_half_the_samples_are_public_logs_outside_the_splits(folder, monkeypatch):
    run = Run("demo-public", resolve("demo-public", []))
    run.splits = folder / "splits"
    monkeypatch.setattr(base_sft, "load_run", lambda name: run)
    monkeypatch.chdir(folder)
    write_jsonl(base_sft.LOGS, (item.as_json() for item in logs.instances("form")))
    task = "potential_failure_prediction"
    public = [Instance(f"p-{number}", task, "huawei-switches", f"PUB/[MASK]/X: {word}", "True")
              for number, word in enumerate(["free one", "free two", "taken"])]
    write_jsonl(run.experiment.data.folder / "train.jsonl", (item.as_json() for item in public))
    write_jsonl(run.splits / "stage2.jsonl", [public[2].as_json()])
    prompts = [sample["prompt"] for sample in base_sft.samples("demo-public")]
    share = sum("PUB/[MASK]/X: free" in prompt for prompt in prompts) / len(prompts)
    assert 0.35 < share < 0.55
    assert not any("taken" in prompt for prompt in prompts)
