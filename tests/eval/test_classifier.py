"""A tiny random BERT, fine-tuned for real in the training environment on a few of the bundled logs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_builders import splits
from demo import logs
from eval import classifier
from eval.predictions import read_test_splits
from logreasoner.answer_format import parse_label
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, resolve, task
from logreasoner.files import ROOT, read_json, read_jsonl
from logreasoner.generation.generate import content

TASKS = ["anomaly_detection", "log_semantic_matching"]  # sessions of lines, and pairs
SAMPLES = {TASKS[0]: {"atlas": 100, "boreas": 100}, TASKS[1]: {"northwind": 60}}
FAST = {"num_train_epochs": 6, "learning_rate": 1e-3}
# The demo's embedder has weights so wide that it cannot be fine-tuned; the same model with narrower ones can.
TINY = """
from pathlib import Path
from demo import base_sft, tiny_model
base_sft.settings()["bert"]["initializer_range"] = 0.05
tiny_model.bert(Path("build/runs/r/models/embedder"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a declared run `r`, its splits and, under its models, the tiny BERT in place of the paper's."""
    where = tmp_path_factory.mktemp("classifier")
    base = resolve("demo", [])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        declare("r", base.model_copy(update={
            "tasks": TASKS, "test_rows": 12, "models": {"bert": {"path": "{run}/models/embedder"}},
            "stages": {"classifier": {"arguments": FAST}},
            "stage1": base.stage1.model_copy(update={"samples": {TASKS[0]: {"atlas": 20}, TASKS[1]: {}}}),
            "stage2": base.stage2.model_copy(update={"samples": SAMPLES})}))
        patch.setattr(sys, "argv", ["demo.logs", "--out", str(logs.FOLDER)])
        logs.main()
        splits.make_splits("r")
    return where


def classify(python: Path | str, where: Path, model: str = "bert") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [str(python), "-m", "eval.classifier", "--run", "r", "--model", model, "--out", "R.jsonl"]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.e2e
def test_an_encoder_is_trained_and_answers_and_resumes(folder: Path, train_python: Path, in_train,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    in_train(TINY, cwd=folder)
    done = classify(train_python, folder)
    assert done.returncode == 0, done.stderr[-3000:]

    run = Run("r", resolve("demo", []))
    items = {item.id: item for split in read_test_splits(run) for item in split}
    labels = {record["custom_id"]: parse_label(content(record) or "", task(items[record["custom_id"]].task).labels)
             for _, record in read_jsonl("R.jsonl")}
    assert labels.keys() == items.keys() and None not in labels.values()
    sessions = [item for item in items.values() if item.task == TASKS[0]]
    assert sum(labels[item.id] == item.label for item in sessions) > 0.7 * len(sessions)

    manifest = read_json("R.jsonl.manifest.json")
    assert manifest["tasks"] == TASKS and manifest["fits"][TASKS[0]]["trained_on"] == 20 + 200
    assert manifest["settings"]["arguments"]["num_train_epochs"] == 6 and manifest["settings"]["max_length"] == 512
    home = Path("build/runs/r/models/bert/classifier")
    config = json.loads((home / TASKS[1] / "model" / "config.json").read_text())
    assert config["label2id"] == {"True": 0, "False": 1}

    # A finished task stays; one that was stopped before its answers is repeated.
    modified = (home / TASKS[0] / "model" / "model.safetensors").stat().st_mtime_ns
    (home / TASKS[1] / "answers.json").unlink()
    done = classify(train_python, folder)
    assert f"{TASKS[0]}: done before" in done.stdout and f"{TASKS[1]}: 60 to train on" in done.stdout
    assert (home / TASKS[0] / "model" / "model.safetensors").stat().st_mtime_ns == modified
    assert {record["custom_id"] for _, record in read_jsonl("R.jsonl")} == items.keys()

    with pytest.raises(UserError, match="was made from other inputs .seed: 42 -> 43"):
        result = home / TASKS[0]
        classifier.load_result(result, {**read_json(result / "answers.json")["made_from"], "seed": 43})


def test_missing_weights_are_an_error_before_anything_is_done(folder: Path, train_python: Path) -> None:
    done = classify(train_python, folder, "knowlog")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "build/models/knowlog: no such folder" in done.stderr and "model.safetensors" in done.stderr


@pytest.mark.e2e
def test_a_pickle_is_not_loaded(folder: Path, train_python: Path) -> None:
    model = folder / "build/models/biglog"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "bert", "hidden_size": 8, "num_attention_heads": 1}')
    (model / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    done = classify(train_python, folder, "biglog")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no *.safetensors in it" in done.stderr and "model.safetensors" in done.stderr


def test_a_model_that_is_no_encoder_and_the_wrong_environment_are_named(folder: Path) -> None:
    assert "is not an encoder but of kind baseline" in classify(sys.executable, folder, "majority").stderr
    assert "run this with .venv-train/bin/python" in classify(sys.executable, folder).stderr


def test_settings_of_a_run_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = Run("r", resolve("demo", []).model_copy(update={"stages": {"classifier": {"arguments": {"seed": 1}}}}))
    assert classifier.settings(run).arguments["learning_rate"] == 2e-5
    wrong = Run("r", resolve("demo", []).model_copy(update={"stages": {"classifier": {"epochs": 3}}}))
    with pytest.raises(UserError, match="classifier.yaml.*epochs"):
        classifier.settings(wrong)
