import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_builders import splits
from demo import logs
from eval import baselines
from eval.predictions import read_test_splits
from logreasoner.answer_format import parse_label
from logreasoner.config import Run, declare, resolve, task
from logreasoner.files import read_json, read_jsonl
from logreasoner.generation.generate import content
from logreasoner.instances import Instance, by_id, read_instances

AD, LSM, PFP = (task(name) for name in
                ("anomaly_detection", "log_semantic_matching", "potential_failure_prediction"))


def rows(name: str, *pairs: tuple[str | tuple[str, ...], str], description: str = "") -> list[Instance]:
    return [Instance(f"{name} {at}", name, "s", log, label, description=description)
            for at, (log, label) in enumerate(pairs)]


@pytest.fixture
def run(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The demo's run with its splits drawn, at most a few rows of each test set."""
    experiment = resolve("demo", []).model_copy(update={"test_rows": 12})
    run = declare("demo", experiment)
    monkeypatch.setattr(sys, "argv", ["demo.logs", "--out", str(logs.FOLDER)])
    logs.main()
    splits.make_splits("demo")
    return run


def answered(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """A baseline's labels, from its responses, for every test instance of the tasks that its manifest names."""
    monkeypatch.setattr(sys, "argv", ["eval.baselines", "--run", run.name, "--model", model, "--out", "R.jsonl"])
    baselines.main()
    tasks = read_json("R.jsonl.manifest.json")["tasks"]
    items = by_id(item for part in read_test_splits(run) for item in part if item.task in tasks)
    labels = {record["custom_id"]: parse_label(content(record) or "", task(items[record["custom_id"]].task).labels)
             for _, record in read_jsonl("R.jsonl")}
    assert labels.keys() == items.keys()
    return labels


@pytest.mark.parametrize(("model", "tasks"), [
    ("majority", {"anomaly_detection", "log_semantic_matching", "potential_failure_prediction", "root_cause_analysis"}),
    ("always-positive", {"anomaly_detection", "potential_failure_prediction"}),
    ("tfidf-lr", {"anomaly_detection", "log_semantic_matching", "potential_failure_prediction", "root_cause_analysis"}),
    ("char-cosine", {"log_semantic_matching"})])
def test_every_baseline_answers_the_tasks_it_fits(run: Run, model: str, tasks: set[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    labels = answered(run, model, monkeypatch)
    items = {item.id: item for part in read_test_splits(run) for item in part}
    assert None not in labels.values() and {items[key].task for key in labels} == tasks
    manifest = read_json("R.jsonl.manifest.json")
    assert set(manifest["tasks"]) == set(manifest["fits"]) == tasks
    assert str(run.splits / "stage2.jsonl") in manifest["inputs"]
    first = Path("R.jsonl").read_bytes()
    answered(run, model, monkeypatch)
    assert Path("R.jsonl").read_bytes() == first


def test_tfidf_learns_the_bundled_root_causes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = answered(run, "tfidf-lr", monkeypatch)
    rca = [item for item in read_instances(run.splits / "test.jsonl") if item.task == "root_cause_analysis"]
    assert sum(labels[item.id] == item.label for item in rca) > 0.7 * len(rca)


@pytest.mark.parametrize("model", ["bert", "nothing"])
def test_a_name_that_is_no_baseline_is_an_error(run: Run, model: str, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["eval.baselines", "--run", "demo", "--model", model, "--out", "R.jsonl"])
    with pytest.raises(SystemExit) as stop:
        baselines.main()
    message = f"{stop.value} {capsys.readouterr().err}"
    assert f"error: '{model}' is not a baseline; the baselines are majority, always-positive" in message
    assert not Path("R.jsonl").exists()


def test_a_task_without_training_instances_is_named(run: Run) -> None:
    (run.splits / "stage2.jsonl").write_text("")
    with pytest.raises(baselines.UserError, match="anomaly_detection has 0 instances in stage2"):
        list(baselines.by_task(run, ["stage2"]))


def test_majority_is_of_the_training_instances() -> None:
    train = rows(AD.name, ("a", "abnormal"), ("b", "abnormal"), ("c", "normal"))
    test = rows(AD.name, ("d", "normal"), ("e", "normal"))
    assert baselines.majority(AD, train, test)[0] == ["abnormal"] * 2
    assert baselines.majority(AD, train[1:], test)[0] == ["normal"] * 2  # a tie: the task's first label


LINES = rows(AD.name, *[(f"kernel panic on node {at}", "abnormal") for at in range(3)],
            *[(f"session {at} opened for user", "normal") for at in range(140)])


def test_a_session_is_positive_if_one_of_its_lines_is() -> None:
    calm = tuple(f"session {at} opened for user" for at in range(19))
    test = rows(AD.name, (calm, "normal"), ((*calm, "kernel panic on node 7"), "abnormal"))
    labels, facts = baselines.tfidf_lr(AD, LINES, test)
    assert labels == ["normal", "abnormal"]
    assert facts["class_weight"] == "balanced"  # unbalanced, 3 of 143 are never labelled abnormal
    joined = [replace(item, log=(item.text,)) for item in LINES]  # trained on sessions: sessions are labelled as such
    labelled: list[baselines.Text] = []
    baselines.by_line(AD, joined, test, lambda texts: labelled.extend(texts) or ["normal"] * len(texts))
    assert labelled == [(item.text, "") for item in test]


def test_the_level_is_hidden() -> None:
    train = rows(PFP.name, *[(f"IFNET/{level}/LINK: port {at} changed", str(level == 14))
                             for at in range(20) for level in (14, 16)])
    test = rows(PFP.name, ("IFNET/14/LINK: port 3 changed", "True"), ("IFNET/16/LINK: port 3 changed", "False"))
    assert len(set(baselines.tfidf_lr(PFP, train, test)[0])) == 1
    assert baselines.tfidf_lr(PFP.model_copy(update={"mask_level": False}), train, test)[0] == ["True", "False"]


def test_one_label_cannot_be_fitted() -> None:
    with pytest.raises(baselines.UserError, match="anomaly_detection: 140 stage-2 instances cannot be fitted"):
        baselines.tfidf_lr(AD, LINES[3:], LINES[:1])


def pair(log: str, description: str, label: str) -> Instance:
    return Instance(f"{log} {description}", LSM.name, "s", log, label, description=description)


WORDS = ["fan speed", "power supply", "link flapping", "route table", "memory usage", "user login"]
PAIRS = [pair(f"DEV/{word}: {word} {at}", f"{other} was reported", str(word == other))
         for at, word in enumerate(WORDS) for other in WORDS]


def test_the_cosine_threshold_is_that_of_the_training_instances() -> None:
    test = [pair("DEV/fan speed: slot 9", "the fan speed is wrong", "True"),
            pair("DEV/fan speed: slot 9", "a user login failed", "False"), pair("DEV/fan speed: slot 9", "", "False")]
    labels, facts = baselines.char_cosine(LSM, PAIRS, test) or ([], {})
    assert labels == ["True", "False", "False"]
    assert facts["label_above"] == "True" and facts["training_accuracy"] == 1
    swapped = LSM.model_copy(update={"labels": LSM.labels[::-1]})
    assert (baselines.char_cosine(swapped, PAIRS, test) or ([], {}))[0] == labels
    assert baselines.char_cosine(LSM, [replace(item, description="") for item in PAIRS], test) is None


def test_no_other_threshold_is_right_more_often() -> None:
    noisy = [replace(item, label="True") if at % 5 == 1 else item for at, item in enumerate(PAIRS)]
    labels, facts = baselines.char_cosine(LSM, noisy, noisy) or ([], {})
    right = np.mean([label == item.label for label, item in zip(labels, noisy, strict=True)])
    assert facts["training_accuracy"] == pytest.approx(right)
    truths = {item.id for item in noisy if item.label == "True"}
    constant = max(len(truths), len(noisy) - len(truths)) / len(noisy)
    assert constant < right < 1


def test_responses_are_in_the_batch_format(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(run, "majority", monkeypatch)
    _, first = next(read_jsonl("R.jsonl"))
    assert first.keys() == {"custom_id", "response", "error"} and first["error"] is None
    assert first["response"]["body"]["choices"][0]["message"]["content"].startswith("<answer> ")
