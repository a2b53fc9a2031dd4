"""Worked solutions by the teacher: asked where no file has them, checked against the label, kept."""

import sys

import pytest
import yaml

from data_builders import examples as builder
from logreasoner import examples
from logreasoner.answer_format import Trajectory
from logreasoner.config import declare, resolve
from logreasoner.files import read_json, read_jsonl, write_jsonl

AD, PFP = "anomaly_detection", "potential_failure_prediction"


@pytest.fixture
def run(workdir, monkeypatch):
    monkeypatch.setenv("SCRIPTED_TEACHER_URL", "http://127.0.0.1:1/v1")
    made = declare("r", resolve("demo", [f"tasks={AD},{PFP}"]))
    write_jsonl(made.splits / "examples.jsonl", [
        {"id": f"{name}-{at}", "task": name, "source": "s", "log": f"log {at}", "label": label}
        for name, label in ((AD, "normal"), (PFP, "True")) for at in range(3)])
    return made


def step(monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["data_builders.examples", "--run", "r", name])
    builder.main()
    path = builder.load_run("r").dataset("shared", "examples")
    return [record for _, record in read_jsonl(path / "examples.requests.jsonl")], path


def answered(path, asked, answer=lambda key: "normal" if key.startswith(AD) else "True", steps=("Read.", "Judge.")):
    """Write the teacher's responses."""
    write_jsonl(path / "examples.responses.jsonl", ({"custom_id": line["custom_id"], "error": None, "response": {
        "status_code": 200, "body": {"choices": [{"message": {"content": Trajectory(
            steps, answer(line["custom_id"])).render()}}]}}} for line in asked))


def test_the_first_right_answer_is_kept_in_a_file_that_a_person_may_edit(run, monkeypatch, capsys):
    asked, path = step(monkeypatch, "requests")
    assert "anomaly_detection, potential_failure_prediction have no worked solutions yet" in capsys.readouterr().out
    assert [line["custom_id"] for line in asked] == [f"{name}-{at}" for name in (AD, PFP) for at in range(3)]
    answered(path, [*asked, {"custom_id": f"{AD}-0#2"}],
             lambda key: "abnormal" if key == f"{AD}-0" else "normal" if key.startswith(AD) else "True")
    step(monkeypatch, "solutions")
    file = examples.written_file(run, AD)
    rows = yaml.safe_load(file.read_text())["examples"]
    assert rows == [{"id": f"{AD}-{at}", "steps": ["Read.", "Judge."], "answer": "normal"} for at in range(3)]
    solved = examples.read(run, {AD})[AD]
    assert solved[0].solution == "<solutions>\n1. Read.\n2. Judge.\n</solutions>\n<answer> normal </answer>"
    assert read_json(run.dir / "examples" / "manifest.json")["written"] == [AD, PFP]
    file.write_text(file.read_text().replace("Judge.", "Decide.", 1))
    assert step(monkeypatch, "requests")[0] == []  # what is there is neither asked nor written again
    step(monkeypatch, "solutions")
    assert examples.read(run, {AD})[AD][0].steps == ("Read.", "Decide.")


def test_an_example_is_asked_again_until_an_answer_with_steps_is_right(run):
    object_to = builder.objection(run)
    assert object_to(f"{AD}-0", Trajectory(("Read.",), "abnormal").render()) == "wrong"
    assert object_to(f"{AD}-0", "<answer>normal</answer>") == "no steps"
    assert object_to(f"{AD}-0", "I cannot say.") == "unparsed"
    assert object_to(f"{AD}-0", Trajectory(("Read.",), "normal").render()) == ""


def test_an_example_without_a_right_answer_is_named_and_left_to_a_person(run, monkeypatch):
    asked, path = step(monkeypatch, "requests")
    answered(path, asked, lambda key: "abnormal" if key.startswith(f"{AD}-2") else "normal" if AD in key else "True")
    with pytest.raises(SystemExit, match=f"{AD}.yaml: {AD}-2: has no steps; write the steps that lead to normal"):
        step(monkeypatch, "solutions")
    file = examples.written_file(run, AD)
    file.write_text(file.read_text().replace("steps: []", "steps: [Look.]"))
    assert step(monkeypatch, "requests")[0] == []
    step(monkeypatch, "solutions")
    assert examples.read(run, {AD})[AD][2].steps == ("Look.",)


def test_labels_alone_and_no_shots_need_no_teacher(run, monkeypatch):
    for name, changes in (("labels", {"examples": "label-only"}), ("none", {"shots": 0})):
        other = declare(name, run.experiment.model_copy(update=changes))
        write_jsonl(other.splits / "examples.jsonl", (row for _, row in read_jsonl(run.splits / "examples.jsonl")))
        assert builder.open_examples(other) == []
        assert all(not shot.solution for shot in examples.read(other, {AD})[AD])


def test_without_a_teacher_it_is_said_what_can_be_done(run, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    teacher = run.experiment.teacher.model_copy(update={"base_url": None, "scripted": False})
    declare("r2", run.experiment.model_copy(update={"teacher": teacher}))
    write_jsonl(builder.load_run("r2").splits / "examples.jsonl", (row for _, row in read_jsonl(
        run.splits / "examples.jsonl")))
    monkeypatch.setattr(sys, "argv", ["data_builders.examples", "--run", "r2", "requests"])
    with pytest.raises(SystemExit, match="OPENAI_API_KEY is not set.*TEACHER_BASE_URL=.*examples/anomaly_detection.yaml"
                                         ".*yourself.*anomaly_detection-0.*EXAMPLES=label-only"):
        builder.main()
    with pytest.raises(builder.UserError, match="have no worked solutions yet. `make examples`"):
        examples.read(builder.load_run("r2"), {AD})
