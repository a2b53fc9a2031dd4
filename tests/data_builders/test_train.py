import math
import shutil

import pytest

from data_builders import train
from data_builders.recipes import output_dir
from data_builders.train import check_first_loss, finish, prepare, require_loss
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, resolve, stages
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


def of(method="dpo", **arguments):
    """A stage with further arguments."""
    declared = stages()["kto" if method == "kto" else "dpo"]
    return declared.model_copy(update={"arguments": {**declared.arguments, **arguments}})


# tests/e2e/test_preferences.py sees LLaMA-Factory start at these.
@pytest.mark.parametrize(("stage", "loss"), [
    (of(), 0.6931), (of(), math.log(2)), (of(), 0.70), (of(pref_loss="hinge"), 1.0), (of(pref_loss="ipo"), 25.0),
    (of(pref_loss="ipo", pref_beta=0.5), 1.0), (of(pref_loss="orpo"), 3.2), (of(pref_loss="simpo"), 0.01),
    (of("kto"), 0.5), (of("kto", kto_rejected_weight=2.0), 0.8), (of(pref_ftx=1.0), 2.9)])
def test_a_preference_loss_starts_where_its_definition_says(stage, loss, tmp_path):
    check_first_loss([{"loss": loss}, {"loss": 0.1}], stage, tmp_path)


@pytest.mark.parametrize(("stage", "losses", "said"), [
    (of(), [{"loss": 0.0}], r"\(sigmoid\) is 0.0000, not 0.6931: the reference is not"),
    (of(), [{"loss": 25.8}], "25.8"), (of(), [{"loss": math.nan}], "nan, not 0.6931"), (of(), [], "nan"),
    (of(pref_loss="hinge"), [{"loss": 0.6931}], r"\(hinge\) is 0.6931, not 1.0000"),
    (of(pref_loss="ipo"), [{"loss": 1.0}], "not 25.0000"), (of("kto"), [{"loss": 0.6931}], "not 0.5000"),
    (of("kto", kto_rejected_weight=2.0), [{"loss": 1.2}], "not from 0.5000 to 1.0000"),
    (of(pref_loss="orpo"), [{"loss": math.nan}], r"\(orpo\) is nan.*diverged"),
    (of(pref_ftx=1.0), [{"loss": math.inf}], "inf")])
def test_another_start_is_an_error(stage, losses, said, tmp_path):
    with pytest.raises(UserError, match=said):
        check_first_loss(losses, stage, tmp_path)


def test_a_loss_that_would_silently_be_another_is_refused_before_the_training(run, monkeypatch):
    for stage in ("dpo-ipo", "dpo-hinge"):
        monkeypatch.setattr(train, "version", {"trl": "0.24.0"}.get)
        with pytest.raises(UserError, match="TRL 0.24.0 LLaMA-Factory computes sigmoid for .*pip install trl==0.19.1"):
            prepare(run, "tiny", stage)
        assert not run.stage_dir("tiny", stage).exists()
        monkeypatch.setattr(train, "version", {"trl": "0.19.1"}.get)
        require_loss(run.stage(stage).loss)


@pytest.mark.parametrize(("arguments", "said"), [
    ({"pref_loss": "kto_pair"}, "pref_loss is one of sigmoid, ipo, hinge, orpo, simpo, not 'kto_pair'"),
    ({"pref_loss": "simpo", "ref_model": "x"}, "leave ref_model out")])
def test_a_loss_that_cannot_be_trained_is_refused_when_it_is_declared(arguments, said):
    changed = resolve("paper", []).model_copy(update={"stages": {"dpo": {"arguments": arguments}}})
    with pytest.raises(UserError, match=f"dpo: arguments: .*{said}"):
        Run("t", changed).stages()


def leave_finished(run, first_loss=0.6931):
    """What LLaMA-Factory leaves of a dpo that came to its end."""
    state = {"log_history": [{"loss": first_loss, "step": 1}], "global_step": 1, "epoch": 1.0}
    write_json(output_dir(run, "tiny", "dpo") / "trainer_state.json", state)
    write(run.stage_dir("tiny", "dpo") / "model" / "model.safetensors", "weights")


def test_a_finished_dpo_with_another_reference_has_no_manifest(run):
    prepare(run, "tiny", "dpo")
    leave_finished(run, first_loss=3.0)
    with pytest.raises(UserError, match="not 0.6931: the reference"):
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
