"""The order of the method, from stages.yaml to make, the plan, the lineage and the matrix."""

import os
import shutil
import subprocess
import sys

import pytest

from logreasoner import steps
from logreasoner.config import Run, resolve, stages
from logreasoner.files import ROOT

NEW = """
dpo-gentle: {like: dpo, starts_from: solution-sft-80, samples: {share: 0.8}, arguments: {pref_beta: 0.5}, section: none}
"""
PARTS = ("logreasoner", "data_builders", "eval", "demo", "experiments", "prompts", "recipes", "requirements",
         "templates")


def test_each_file_is_made_by_one_step_from_files_that_others_make():
    found = steps.steps(stages())
    outputs = [step.output for step in found]
    assert len(outputs) == len(set(outputs))
    given = {steps.SPLITS, steps.BASE, steps.weights("init")}
    assert {path for step in found for path in step.inputs} <= given | set(outputs)


@pytest.mark.parametrize(("stage", "lineage"), [
    ("base", []), ("thought-sft", ["thought-sft"]), ("cot-sft", ["cot-sft"]),
    ("dpo", ["thought-sft", "solution-sft", "dpo"]),
    ("kto", ["thought-sft", "solution-sft", "kto"]), ("dpo-no-solution", ["thought-sft", "dpo-no-solution"]),
    ("dpo-no-thought", ["solution-sft-no-thought", "dpo-no-thought"]),
    ("dpo-20", ["thought-sft", "solution-sft-20", "dpo-20"])])
def test_a_stage_needs_its_parents_and_whoever_solves_for_it(stage, lineage):
    assert Run("t", resolve("paper", [])).lineage(stage) == lineage


def test_every_step_comes_after_what_it_needs():
    for stage in stages():
        order = [step.output for step in steps.leading_to(steps.weights(stage), stages())]
        for step in steps.leading_to(steps.weights(stage), stages()):
            assert all(order.index(path) < order.index(step.output) for path in step.inputs if path in order)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with one more row in stages.yaml, and splits."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", folder)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    with open(folder / "experiments" / "stages.yaml", "a", encoding="utf-8") as stream:
        stream.write(NEW)
    for step in (("demo.logs",), ("logreasoner.config", "--run", "demo"), ("data_builders.splits", "--run", "demo")):
        command(folder, sys.executable, "-m", *step)
    return folder


def command(folder, *arguments):
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=120,
                          env={**variables, "PYTHONPATH": str(folder)})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_stage_is_a_row_of_stages_yaml_and_nothing_else(project):
    demo = ("EXPERIMENT=demo", "RUN=demo", "MODEL=tiny", "STAGE=dpo-gentle", "HARDWARE=cpu")
    shown = command(project, "make", "-n", "train", *demo)
    trained = [line.rsplit("/", 1)[1] for line in shown.splitlines() if "-- llamafactory-cli train" in line]
    assert trained == ["base-sft.yaml", "thought-sft.yaml", "solution-sft-80.yaml", "dpo-gentle.yaml"]
    plan = command(project, sys.executable, "-m", "eval.plan", "--run", "demo", "--models", "tiny",
                   "--stage", "dpo-gentle", "--hardware", "cpu", "--json")
    assert [f'"stage": "{stage}"' in plan for stage in ("thought-sft", "solution-sft-80", "dpo-gentle")] == [True] * 3
    lineage = "from logreasoner.config import load_run; print(load_run('demo').lineage('dpo-gentle'))"
    assert command(project, sys.executable, "-c", lineage) == "['thought-sft', 'solution-sft-80', 'dpo-gentle']\n"
    matrix = command(project, sys.executable, "-m", "eval.matrix", "--run", "demo")
    added = [line.split()[4] for line in matrix.splitlines() if line.startswith("not in the paper: ")]
    assert added == ["dpo-ipo", "dpo-hinge", "orpo", "simpo", "kto", "dpo-gentle"]
