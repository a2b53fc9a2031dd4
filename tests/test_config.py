import pytest

from logreasoner import config
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, load_run, resolve, run_dir


def test_a_declared_run_is_read_back(workdir):
    declare("paper", resolve("paper", []))
    run = load_run("paper")
    assert run.experiment.stage1.select == 1000
    assert run.stage("dpo").arguments["pref_beta"] == 0.1
    assert run.weights("qwen2.5-7b", "base") == "Qwen/Qwen2.5-7B-Instruct"


def test_the_papers_sample_sizes_stand_in_the_declaration():
    paper = resolve("paper", [])
    table1 = {"anomaly_detection": 2000, "log_semantic_matching": 2000, "potential_failure_prediction": 2000,
              "root_cause_analysis": 1000}
    assert {task: sum(groups.values()) for task, groups in paper.stage2.samples.items()} == table1
    assert paper.stage1.handbook + sum(sum(groups.values()) for groups in paper.stage1.samples.values()) == 1500


@pytest.mark.parametrize(("overrides", "key"), [
    (["finetuning=full"], "experiment.finetuning"), (["seed=1"], "experiment.seed"),
    (["tasks=root_cause_analysis"], "experiment.tasks"), (["teacher=other"], "experiment.teacher.model"),
    (["teacher=self"], "experiment.corrections_by"),
    (["examples=inline"], "experiment.examples: 'turns' -> 'inline'"),
])
def test_a_run_declared_otherwise_is_an_error(workdir, overrides, key):
    declare("paper", resolve("paper", []))
    with pytest.raises(UserError, match=key):
        declare("paper", resolve("paper", overrides))


def test_self_correction_leaves_stage_1_to_the_teacher():
    found = resolve("paper", ["teacher=self"])
    assert (found.corrections_by, found.teacher.model) == ("self", "gpt-4o-2024-08-06")


@pytest.mark.parametrize("wrong", ["finetuning=half", "tasks=nothing", "colour=red", "seed=x", "examples=3"])
def test_a_wrong_override_is_named(wrong):
    with pytest.raises(UserError, match=wrong.split("=")[0].rstrip("s")):
        resolve("paper", [wrong])


def test_a_run_asks_in_the_wording_that_it_declares():
    paper = resolve("paper", [])
    ours = Run("t", paper.model_copy(update={"wording": "explained"}))
    papers, explained = (run.tasks()["anomaly_detection"].question for run in (Run("p", paper), ours))
    assert papers.startswith("Please check the following log entry") and "window of consecutive" in explained
    assert ours.task("root_cause_analysis") == Run("p", paper).task("root_cause_analysis")  # it has no other wording


def test_a_wording_that_no_task_has_is_named(workdir, monkeypatch):
    declared = {**config.experiment("paper"), "wording": "brief"}
    monkeypatch.setattr(config, "experiment", lambda name: declared)
    with pytest.raises(UserError, match="no task of the run has 'brief'; they have explained"):
        resolve("paper", [])


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_run_is_one_plain_folder(name):
    with pytest.raises(UserError, match="run name"):
        run_dir(name)


def test_what_differs_from_the_stages_is_merged():
    demo = Run("demo", resolve("demo", []))
    assert demo.stage("dpo").arguments["pref_beta"] == 0.1
    assert demo.stage("dpo").arguments["learning_rate"] != 5.0e-6
    assert demo.mark == "scripted"


@pytest.mark.parametrize(("overrides", "seed"), [([], 42), (["seed=7"], 7), (["seed=7", "training_seed=0"], 0)])
def test_trainings_have_the_runs_seed_unless_they_have_their_own(overrides, seed):
    assert Run("t", resolve("paper", overrides)).training_seed == seed
