import math
import shutil

import pytest

from data_builders import train
from data_builders.recipes import output_dir
from data_builders.train import check_first_loss, finish, prepare
from logreasoner.cli import UserError
from logreasoner.config import declare, resolve
from logreasoner.files import read_json, write_json, writing


def write(path, text):
    with writing(path) as stream:
        stream.write(text)


def trained(run, stage, weights):
    """A stage with weights, as far as the stages after it look at it."""
    write(run.stage_dir("tiny", stage) / "model" / "model.safetensors", weights)
    write_json(run.stage_dir("tiny", stage) / "manifest.json", {"weights": {"model.safetensors": weights}})


@pytest.fixture
def run(workdir, monkeypatch):
    """A run whose dpo can be trained; the tests' own environment has none of the packages that train."""
    monkeypatch.setattr(train, "PACKAGES", ("pydantic",))
    run = declare("demo", resolve("demo", []))
    for path in (run.recipe("tiny", "dpo"), run.dataset("tiny", "dpo") / "d_pref.json"):
        write(path, "first")
    trained(run, "solution-sft", "first")
    return run


def leave(run, name, text="{}"):
    write(output_dir(run, "tiny", "dpo") / name, text)


def test_a_folder_stopped_before_its_first_checkpoint_is_cleared(run):
    prepare(run, "tiny", "dpo")
    leave(run, "trainer_log.jsonl")
    prepare(run, "tiny", "dpo")
    assert not output_dir(run, "tiny", "dpo").exists()


@pytest.mark.parametrize("file", ["checkpoint-5/trainer_state.json", "trainer_state.json"])
def test_a_checkpoint_or_a_finished_training_is_kept(run, file):
    prepare(run, "tiny", "dpo")
    leave(run, file)
    prepare(run, "tiny", "dpo")
    assert (output_dir(run, "tiny", "dpo") / file).exists()


@pytest.mark.parametrize(("changed", "named"), [("recipe", "recipe"), ("dataset", "dataset"),
                                                ("parent", "parent.weights")])
def test_a_folder_trained_from_other_inputs_is_not_overwritten(run, changed, named):
    prepare(run, "tiny", "dpo")
    begun = read_json(run.stage_dir("tiny", "dpo") / "begun.json")
    if changed == "parent":
        trained(run, "solution-sft", "second")
    elif changed == "recipe":
        write(run.recipe("tiny", "dpo"), "second")
    else:
        write(run.dataset("tiny", "dpo") / "d_pref.json", "second")
    with pytest.raises(UserError, match=rf"was trained from other inputs \({named}: '\w{{12}}' -> '\w{{12}}'\)"):
        prepare(run, "tiny", "dpo")
    assert read_json(run.stage_dir("tiny", "dpo") / "begun.json") == begun


def test_nothing_is_trained_without_what_it_starts_from(run):
    shutil.rmtree(run.stage_dir("tiny", "solution-sft"))
    with pytest.raises(UserError, match="no weights; make them: make train MODEL=tiny STAGE=solution-sft"):
        prepare(run, "tiny", "dpo")
    assert not run.stage_dir("tiny", "dpo").exists()


def test_a_training_that_did_not_finish_has_no_manifest(run):
    prepare(run, "tiny", "dpo")
    with pytest.raises(UserError, match="did not finish"):
        finish(run, "tiny", "dpo")


@pytest.mark.parametrize("loss", [0.6931, math.log(2), 0.70])
def test_dpo_starts_at_ln_2(loss, tmp_path):
    check_first_loss([{"loss": loss}, {"loss": 0.1}], tmp_path)


@pytest.mark.parametrize("losses", [[{"loss": 0.0}], [{"loss": 25.8}], [{"loss": math.nan}], []])
def test_another_reference_is_an_error(losses, tmp_path):
    with pytest.raises(UserError, match="ln 2"):
        check_first_loss(losses, tmp_path)


def leave_finished(run, first_loss=0.6931):
    """What LLaMA-Factory leaves of a dpo that came to its end."""
    state = {"log_history": [{"loss": first_loss, "step": 1}], "global_step": 1, "epoch": 1.0}
    write_json(output_dir(run, "tiny", "dpo") / "trainer_state.json", state)
    write(run.stage_dir("tiny", "dpo") / "model" / "model.safetensors", "weights")


def test_a_finished_dpo_with_another_reference_has_no_manifest(run):
    prepare(run, "tiny", "dpo")
    leave_finished(run, first_loss=3.0)
    with pytest.raises(UserError, match="ln 2"):
        finish(run, "tiny", "dpo")
    assert not (run.stage_dir("tiny", "dpo") / "manifest.json").exists()


def test_a_manifest_holds_what_was_recorded_at_the_start_and_is_not_rewritten(run, monkeypatch, capsys):
    folder = run.stage_dir("tiny", "dpo")
    prepare(run, "tiny", "dpo")
    begun = read_json(folder / "begun.json")
    leave_finished(run)
    monkeypatch.setattr(train, "PACKAGES", ())  # another environment by then
    finish(run, "tiny", "dpo")
    manifest = read_json(folder / "manifest.json")
    assert list(begun["versions"]) == ["pydantic"] and {key: manifest[key] for key in begun} == begun
    text = (folder / "manifest.json").read_bytes()
    prepare(run, "tiny", "dpo")
    finish(run, "tiny", "dpo")
    assert (folder / "manifest.json").read_bytes() == text and "trained before" in capsys.readouterr().out


def test_a_manifest_of_other_weights_is_not_taken_for_that_of_these(run):
    prepare(run, "tiny", "dpo")
    leave_finished(run)
    finish(run, "tiny", "dpo")
    write(run.stage_dir("tiny", "dpo") / "model" / "model.safetensors", "other weights")
    with pytest.raises(UserError, match=r"is of another training than the files beside it \(weights.model"):
        finish(run, "tiny", "dpo")
