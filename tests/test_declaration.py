"""A run is declared once: whatever reaches its prompts, recipes or scores and is changed afterwards is an error that
names it, for `make` and for every single command, whatever the run has made by then."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from logreasoner.files import ROOT, read_json, write_json

PARTS = ("logreasoner", "data_builders", "eval", "demo", "experiments", "prompts", "templates")
RUN = "demo"
STEP = ("data_builders.stage1", "--run", RUN, "rationale-requests")
# file, what stands in it, what it is changed to, what the error names
CHANGES = {
    "a model's path": (
        "experiments/models.yaml",
        "path: Qwen/Qwen2.5-7B-Instruct",
        "path: Qwen/Qwen2.5-7B",
        "models.qwen2.5-7b.path",
    ),
    "a model's template": (
        "experiments/models.yaml",
        "template: llama3",
        "template: qwen",
        "models.llama3.1-8b.template",
    ),
    "whether a model thinks": (
        "experiments/models.yaml",
        "thinking: true",
        "thinking: false",
        "models.qwen3-0.6b.thinking",
    ),
    "what an API takes": (
        "experiments/models.yaml",
        "path: gpt-4o-2024-08-06}",
        "path: gpt-4o-2024-08-06, requests: {without: [seed]}}",
        "models.gpt-4o.requests: None -> ",
    ),
    "a model that is gone": (
        "experiments/models.yaml",
        "gpt-4o: {",
        "gpt-4o-mini: {",
        "models.gpt-4o: .* -> not there",
    ),
    "a stage": (
        "experiments/stages.yaml",
        "pref_beta: 0.1",
        "pref_beta: 0.2",
        "stages.dpo.arguments.pref_beta: 0.1 -> 0.2",
    ),
    "hardware": (
        "experiments/hardware.yaml",
        "max_per_device: {sft: 8, dpo: 2}",
        "max_per_device: {sft: 4, dpo: 2}",
        "hardware.1xH200.max_per_device.sft",
    ),
    "a speed profile": (
        "experiments/speed.yaml",
        "flash_attn: fa2}, dpo",
        "flash_attn: sdpa}, dpo",
        "speed.kernels.arguments",
    ),
    "decoding": ("experiments/decoding.yaml", "temperature: 0.7", "temperature: 0.9", "decoding.sampling.temperature"),
    "a task": (
        "experiments/tasks/potential_failure_prediction.yaml",
        "mask_level: true",
        "mask_level: false",
        "tasks.potential_failure_prediction.mask_level",
    ),
    "the classifiers": ("experiments/classifier.yaml", "2.0e-5", "3.0e-5", "files.experiments/classifier.yaml"),
    "the sources": ("experiments/sources.yaml", "licence", "license", "files.experiments/sources.yaml"),
    "control tokens": (
        "experiments/control_tokens.yaml",
        "marks:",
        "marks:\n  - <|new|>",
        "files.experiments/control_tokens.yaml",
    ),
    "a prompt": ("prompts/solution.j2", "<answer>", "<answer>\n", "files.prompts/solution.j2"),
    "a chat template": (
        "templates/chat/qwen.jinja",
        "<|im_start|>",
        "<|im_start|> ",
        "models.qwen2.5-0.5b.chat_template",
    ),
    "the recipes": (
        "templates/recipe.yaml.j2",
        "logging_steps: 1",
        "logging_steps: 5",
        "files.templates/recipe.yaml.j2",
    ),
    "the export": ("templates/export.yaml.j2", "export_size: 5", "export_size: 2", "files.templates/export.yaml.j2"),
    "the launch": ("templates/launch/torchrun.sh.j2", "set -eu", "set -e", "files.templates/launch/torchrun.sh.j2"),
    "DeepSpeed": ("templates/deepspeed/zero3.json", "{", "{ ", "files.templates/deepspeed/zero3.json"),
    "the teacher's script": ("demo/teacher.yaml", "rates:", "rates: ", "files.demo/teacher.yaml"),
    "the level mask": (
        "logreasoner/instances.py",
        'LEVEL_MASK = "[MASK]"',
        'LEVEL_MASK = "[LEVEL]"',
        "code.logreasoner/instances.py",
    ),
    "the answer parser": (
        "logreasoner/answer_format.py",
        'removesuffix(".")',
        'removesuffix("!")',
        "code.logreasoner/answer_format.py",
    ),
    "which examples are shown": (
        "logreasoner/examples.py",
        "% sets * shots",
        "% sets",
        "code.logreasoner/examples.py",
    ),
    "the turns of examples": ("prompts/next_task.j2", "### Task", "## Task", "files.prompts/next_task.j2"),
    "what is asked again": (
        "data_builders/ask.py",
        "number < run.experiment.attempts",
        "number <= run.experiment.attempts",
        "code.data_builders/ask.py",
    ),
    "what is a thought": (
        "data_builders/thoughts.py",
        "LEAST_STEPS, MOST_STEPS = 3, 8",
        "LEAST_STEPS, MOST_STEPS = 2, 8",
        "code.data_builders/thoughts.py",
    ),
    "the scores": ("eval/score.py", "RESAMPLES = 2_000", "RESAMPLES = 1_000", "code.eval/score.py"),
}


def python(folder, *arguments):
    """Run Python in the project's copy in a folder."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(folder)}, timeout=120)


def command(folder, module, *arguments):
    """Run a command of the project's copy in a folder."""
    return python(folder, "-m", module, *arguments)


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} no longer has {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a run that is half way: declared, splits drawn, the teacher's questions written."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for step in (("demo.logs",), ("logreasoner.config", "--run", RUN), ("data_builders.splits", "--run", RUN), STEP):
        done = command(folder, *step)
        assert done.returncode == 0, done.stderr
    return folder


# Import the commands once; for each change run them in forked processes, which have read no file yet.
WITH_EACH_CHANGE = """
import importlib, json, multiprocessing, os, sys
from pathlib import Path

changes, steps = json.loads(sys.argv[1])
mains = {module: importlib.import_module(module).main for module, *_ in steps}

def main_of(step):
    with open("build/errors", "w") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    sys.argv = step
    mains[step[0]]()

def run(step):
    process = multiprocessing.get_context("fork").Process(target=main_of, args=(step,))
    process.start()
    process.join()
    return process.exitcode, Path("build/errors").read_text()

results = {}
for kind, (file, old, new, _) in changes.items():
    path = Path(file)
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(old, new, 1), encoding="utf-8")
    changed = [run(step) for step in steps]
    path.write_text(before, encoding="utf-8")
    results[kind] = {"found": old in before, "changed": changed, "set back": run(steps[-1])}
print("RESULTS", json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(project):
    """For each change: exit status and errors of the commands with it, and of the last one when it is set back."""
    declaration = project / "build" / "runs" / RUN / "run.json"
    declared = declaration.read_bytes()
    done = python(project, "-c", WITH_EACH_CHANGE, json.dumps([CHANGES, [("logreasoner.config", "--run", RUN), STEP]]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert declaration.read_bytes() == declared
    return json.loads(done.stdout.rpartition("RESULTS ")[2])


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_after_the_declaration_is_named_and_stops_every_command(results, kind):
    file, old, _, named = CHANGES[kind]
    assert results[kind]["found"], f"{file} no longer has {old!r}"
    for status, errors in results[kind]["changed"]:
        assert status == 1 and re.search(named, errors), errors
        assert "was declared with different settings" in errors and f"RUN={RUN}-2" in errors
    assert results[kind]["set back"][0] == 0, results[kind]["set back"]


@pytest.mark.parametrize(("old", "new", "named"), [
    ("select: 60", "select: 61", "experiment.stage1.select: 60 -> 61"),
    ("select: 60", "select: 60\n  selection: {method: random}", "stage1.selection.method: 'dpp' -> 'random'"),
    ("select: 60", "select: 60\n  selection: {kernel: rbf}", "experiment.stage1.selection.kernel: 'linear' -> 'rbf'"),
    ("select: 60", "select: 60\n  selection: {gamma: 2}", "experiment.stage1.selection.gamma: 1.0 -> 2.0"),
    ("select: 60", "select: 60\nprompts: demo/none", "prompts: demo/none: no such folder"),
    ("  dpo:\n", "  kto: {arguments: {pref_beta: 0.5}}\n  dpo:\n", "stages.kto.arguments.pref_beta: 0.1 -> 0.5"),
    ("  dpo:\n", "  dpo-ipo: {arguments: {pref_loss: hinge}}\n  dpo:\n", "'ipo' -> 'hinge'")])
def test_a_change_of_the_experiment_itself_is_named(project, old, new, named):
    path = project / "experiments" / "runs" / "demo.yaml"
    before = path.read_text(encoding="utf-8")
    try:
        change(path, old, new)
        done = command(project, "logreasoner.config", "--run", RUN)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1 and named in done.stderr


def test_a_worked_solution_of_a_public_run_is_declared(project):
    declare = ("logreasoner.config", "--run", "paper")
    assert command(project, *declare).returncode == 0
    path = project / "experiments" / "examples" / "root_cause_analysis.yaml"
    before = path.read_text(encoding="utf-8")
    try:
        change(path, "steps:", "steps: ")
        done = command(project, *declare)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1 and "files.experiments/examples/root_cause_analysis.yaml" in done.stderr
    assert read_json(project / "build" / "runs" / RUN / "run.json")["files"].keys().isdisjoint(
        [str(path.relative_to(project))])  # the bundled logs have other examples


def test_prompts_of_a_runs_own_folder_are_used_and_held_and_those_they_replace_are_not(project):
    folder, shared = project / "prompts" / "terse", project / "prompts" / "rationale.j2"
    folder.mkdir()
    (folder / "rationale.j2").write_text("Explain {{ problem }}")
    declare = ("logreasoner.config", "--run", "terse", "--experiment", "demo", "prompts=prompts/terse")
    ask = ("data_builders.stage1", "--run", "terse", "rationale-requests")
    before = shared.read_text(encoding="utf-8")
    try:
        for step in (declare, ("data_builders.splits", "--run", "terse"), ask):
            assert command(project, *step).returncode == 0
        requests = project / "build/runs/terse/datasets/shared/thought-sft/rationales.requests.jsonl"
        assert all('"content":"Explain ' in line for line in requests.read_text().splitlines())
        change(shared, "\n", "\n\n")
        assert command(project, *ask).returncode == 0
        change(folder / "rationale.j2", "Explain", "Explain:")
        done = command(project, *ask)
    finally:
        shared.write_text(before, encoding="utf-8")
        shutil.rmtree(folder)
    assert done.returncode == 1 and "files.prompts/rationale.j2" in done.stderr


def test_comments_change_nothing(project):
    path = project / "logreasoner" / "answer_format.py"
    before = path.read_text(encoding="utf-8")
    try:
        change(path, '"""Numbered reasoning steps', '# A remark.\n    """Other words: numbered reasoning steps')
        assert command(project, *STEP).returncode == 0
    finally:
        path.write_text(before, encoding="utf-8")


def test_a_new_model_joins_the_run_and_is_held_from_then_on(project):
    path = project / "experiments" / "models.yaml"
    before = path.read_text(encoding="utf-8")
    run = project / "build" / "runs" / RUN / "run.json"
    declared = read_json(run)
    try:
        path.write_text(f"{before}mine: {{title: Mine, path: org/mine, template: qwen, parameters: 1.0e+9}}\n")
        assert command(project, *STEP).returncode == 0
        assert read_json(run)["models"]["mine"]["path"] == "org/mine"
        change(path, "org/mine", "org/other")
        assert "models.mine.path: 'org/mine' -> 'org/other'" in command(project, *STEP).stderr
    finally:
        path.write_text(before, encoding="utf-8")
        write_json(run, declared)


@pytest.mark.parametrize(("step", "said"), [
    (("logreasoner.config", "--run", "old", "--experiment", "demo"), "declare a new run (RUN=old-2)"),
    (("eval.tables", "--run", "old"), "check out the commit that its manifests name")])
def test_a_run_of_an_earlier_version_says_so_and_how_to_go_on(project, step, said):
    known = read_json(project / "build" / "runs" / RUN / "run.json")
    write_json(project / "build" / "runs" / "old" / "run.json",
               {key: known[key] for key in ("run", "experiment", "stages", "tasks", "decoding")})
    done = command(project, *step)
    assert done.returncode == 1 and "was written by an earlier version of this project" in done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("file", ["build/data/bundled/train.jsonl", f"build/runs/{RUN}/splits/test.jsonl"])
def test_splits_and_the_data_they_were_drawn_from_stay_what_they_were(project, file):
    """Labels that were corrected (new-task --replace), or exchanged in the splits themselves."""
    path = project / file
    before = path.read_text(encoding="utf-8")
    try:
        change(path, '"label":"True"', '"label":"False"')
        done = command(project, "logreasoner.config", "--run", RUN)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1 and f"{file} has changed since the splits of run {RUN} were drawn" in done.stderr


def test_runs_that_were_declared_with_other_settings_have_no_spread(project):
    """A training argument and a prompt were changed between the two declarations."""
    paths = [project / "experiments" / "stages.yaml", project / "prompts" / "solution.j2"]
    before = [path.read_text(encoding="utf-8") for path in paths]
    declare = ("logreasoner.config", "--experiment", "demo", "--run")
    try:
        assert command(project, *declare, "one").returncode == 0
        change(paths[0], "pref_beta: 0.1", "pref_beta: 0.2")
        change(paths[1], "<answer>", "<answer> ")
        assert command(project, *declare, "two").returncode == 0
        done = command(project, "eval.compare", "spread", "--runs", "one", "two", "--model", "tiny", "--stage", "dpo")
    finally:
        for path, text in zip(paths, before, strict=True):
            path.write_text(text, encoding="utf-8")
    assert done.returncode == 1 and "files.prompts/solution.j2" in done.stderr
    assert "stages.dpo.arguments.pref_beta" in done.stderr
