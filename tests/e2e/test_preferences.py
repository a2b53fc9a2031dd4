"""Preference losses and KTO, two steps of each by LLaMA-Factory with the tiny model: the first loss is what
data_builders/training_checks.py derives from the definitions."""

import shutil
import sys

import pytest

from bench.measuring import ran
from bench.training import ENVIRONMENT, INIT, RUN, prepare, recipe, samples
from data_builders.training_checks import check_first_loss
from logreasoner.answer_format import Trajectory
from logreasoner.config import stages
from logreasoner.files import read_json, write_json, write_jsonl
from logreasoner.instances import read_instances

pytestmark = pytest.mark.e2e

TRAIN = """
import sys, yaml
from llamafactory.train.tuner import run_exp
for path in sys.argv[1:]:
    run_exp(yaml.safe_load(open(path)))
"""
LOSSES = ["dpo", "dpo-hinge", "dpo-ipo", "orpo", "simpo"]


@pytest.fixture(scope="module")
def folder(train_python, tmp_path_factory):
    """A folder with the tiny model and its samples."""
    made = tmp_path_factory.mktemp("preferences")
    prepare(made)
    return made


def test_each_loss_starts_where_its_definition_says(folder, in_train):
    rows = samples(folder, 17)
    pairs = [{"instruction": row["instruction"], "input": "", "chosen": row["output"], "rejected": other["output"]}
             for row, other in zip(rows, rows[1:], strict=False)]
    for stage in LOSSES:
        recipe(folder, stage, pairs, stage=stage, max_steps=2)
    in_train(TRAIN, *(f"runs/{stage}/{stage}.yaml" for stage in LOSSES), cwd=folder)
    for stage in LOSSES:
        out = folder / "runs" / stage / "out"
        losses = [entry for entry in read_json(out / "trainer_state.json")["log_history"] if "loss" in entry]
        assert len(losses) == 2 and losses[0]["loss"] != losses[1]["loss"]
        check_first_loss(losses, stages()[stage], out)


def test_kto_is_prepared_trained_and_finished_from_solutions_alone(folder, monkeypatch):
    """Every command that `make train STAGE=kto` runs once pi_thought has solved the instances."""
    monkeypatch.chdir(folder)
    items = [item for item in read_instances(RUN.experiment.data.folder / "train.jsonl")
             if item.task == "potential_failure_prediction"][:40]
    write_jsonl(RUN.splits / "stage2.jsonl", (item.as_json() for item in items))
    answers = [item.label if number % 3 else str(item.label == "False") for number, item in enumerate(items)]
    write_jsonl(RUN.dataset("tiny", "solution-sft") / "solutions.jsonl", (
        {"id": item.id, "task": item.task, "outcome": "right" if item.label == answer else "wrong",
         "label": item.label, "text": Trajectory(("Look.",), answer).render()}
        for item, answer in zip(items, answers, strict=True)))
    start = RUN.stage_dir("tiny", "solution-sft")
    shutil.copytree(INIT, start / "model")
    write_json(start / "manifest.json", {"weights": {"model.safetensors": "made"}})
    of, train = ["--run", "demo", "--model", "tiny", "--stage", "kto"], ".venv-train/bin/python"
    for command in ([sys.executable, "-m", "data_builders.samples", *of],
                    [sys.executable, "-m", "data_builders.recipes", *of, "--hardware", "cpu"],
                    [train, "-m", "data_builders.llamafactory_dataset", *of],
                    [train, "-m", "data_builders.train", "prepare", *of],
                    [".venv-train/bin/llamafactory-cli", "train", str(RUN.recipe("tiny", "kto"))],
                    [train, "-m", "data_builders.train", "finish", *of]):
        ran(command, ENVIRONMENT, folder)
    tags = [row["kto_tag"] for row in read_json(RUN.dataset("tiny", "kto") / "d_feedback.json")]
    assert (tags.count(True), tags.count(False)) == (26, 14)
    manifest = read_json(RUN.stage_dir("tiny", "kto") / "manifest.json")
    assert manifest["steps"] == 15 and manifest["first_loss"] == pytest.approx(0.5) != manifest["last_loss"]
