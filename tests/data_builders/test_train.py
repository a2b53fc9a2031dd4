import json
import math
import shutil

import numpy as np
import pytest

from data_builders import train
from data_builders.recipes import output_dir
from data_builders.train import finish, prepare
from data_builders.training_checks import check_first_loss, check_losses, check_weights
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, resolve, stages
from logreasoner.files import read_json, write_json, writing
from logreasoner.text_table import sparkline


def write(path, text):
    with writing(path) as stream:
        stream.write(text)


def save(folder, kind="F32", **tensors):
    """Write a safetensors file; bfloat16 is the upper half of float32."""
    data, header = b"", {"__metadata__": {"format": "pt"}}
    for name, values in tensors.items():
        bits = np.array(values, "<f4")
        part = (bits.view("<u4") >> 16).astype("<u2").tobytes() if kind == "BF16" else bits.tobytes()
        header[name] = {"dtype": kind, "shape": [len(values)], "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    with writing(folder / "model.safetensors", "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text + data)


def trained(run, stage, weights):
    """A stage with weights, as far as the stages after it look at it."""
    save(run.stage_dir("tiny", stage) / "model", embed=[1.0, 2.0], head=[3.0])
    write_json(run.stage_dir("tiny", stage) / "manifest.json", {"weights": {"model.safetensors": weights}})


def state(step=1, steps=1, losses=(0.6931,), **more):
    """What LLaMA-Factory writes last into a training's folder or a checkpoint."""
    history = [{"loss": loss, "grad_norm": 1.5, "step": number, **more} for number, loss in enumerate(losses, 1)]
    return {"log_history": history, "global_step": step, "max_steps": steps, "epoch": 1.0}


@pytest.fixture
def run(workdir, monkeypatch):
    """A run whose dpo can be trained; the tests' own environment has none of the packages that train."""
    monkeypatch.setattr(train, "PACKAGES", ("pydantic",))
    run = declare("demo", resolve("demo", []))
    write(run.recipe("tiny", "dpo"), "bf16: true")
    write(run.dataset("tiny", "dpo") / "d_pref.json", "first")
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
    leave(run, file, json.dumps(state(5, 5)))
    prepare(run, "tiny", "dpo")
    assert (output_dir(run, "tiny", "dpo") / file).exists()


@pytest.mark.parametrize("text", ["", '{"log_history": [', "{}", "[]", json.dumps(state(1, 500))])
def test_a_training_counts_as_finished_only_with_a_whole_state_of_its_last_step(run, text):
    """A kill while trainer_state.json is written leaves it empty or cut. make trains where the file is missing."""
    output = output_dir(run, "tiny", "dpo")
    prepare(run, "tiny", "dpo")
    leave(run, "checkpoint-1/trainer_state.json", json.dumps(state(1, 500)))
    leave(run, "checkpoint-2/trainer_state.json", text if "500" not in text else "")
    leave(run, "trainer_state.json", text)
    with pytest.raises(UserError, match="training did not finish; run the same command again"):
        finish(run, "tiny", "dpo")
    prepare(run, "tiny", "dpo")
    assert [path.name for path in output.iterdir()] == ["checkpoint-1"]


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
    (of(), [{"loss": 0.65}], "0.6500"), (of(), [{"loss": 0.73}], "0.7300"),
    (of(), [{"loss": 25.8}], "25.8"), (of(), [{"loss": math.nan}], "nan, not 0.6931"), (of(), [], "nan"),
    (of(pref_loss="hinge"), [{"loss": 0.6931}], r"\(hinge\) is 0.6931, not 1.0000"),
    (of(pref_loss="ipo"), [{"loss": 1.0}], "not 25.0000"), (of("kto"), [{"loss": 0.6931}], "not 0.5000"),
    (of("kto", kto_rejected_weight=2.0), [{"loss": 1.2}], "not from 0.5000 to 1.0000"),
    (of(pref_loss="orpo"), [{"loss": math.nan}], r"\(orpo\) is nan.*diverged"),
    (of(pref_ftx=1.0), [{"loss": math.inf}], "inf")])
def test_another_start_is_an_error(stage, losses, said, tmp_path):
    with pytest.raises(UserError, match=said):
        check_first_loss(losses, stage, tmp_path)


@pytest.mark.parametrize(("arguments", "said"), [
    ({"pref_loss": "kto_pair"}, "pref_loss is one of sigmoid, ipo, hinge, orpo, simpo, not 'kto_pair'"),
    ({"pref_loss": "simpo", "ref_model": "x"}, "leave ref_model out")])
def test_a_loss_that_cannot_be_trained_is_refused_when_it_is_declared(arguments, said):
    changed = resolve("paper", []).model_copy(update={"stages": {"dpo": {"arguments": arguments}}})
    with pytest.raises(UserError, match=f"dpo: arguments: .*{said}"):
        Run("t", changed).stages()


# ---- after the training ---------------------------------------------------------------------------------------------


def steps(losses, gradients=1.0):
    return [{"loss": loss, "grad_norm": gradients, "step": number} for number, loss in enumerate(losses, 1)]


@pytest.mark.parametrize("good", [
    steps([2.0, 1.0, 0.1]), steps([0.5]), steps([0.0087, 0.0017, 0.0122]), steps([2.0] + [0.0] * 9),  # known by heart
    [{"loss": 1.0}, {"loss": 0.5}], steps([0.7, 0.9, 1.1])])
def test_a_training_that_went_well_is_accepted(good, tmp_path):
    check_losses(good, tmp_path)


@pytest.mark.parametrize(("bad", "said"), [
    (steps([1.0, math.nan, 0.5]), "loss nan at step 2"), (steps([1.0, math.inf]), "loss inf at step 2"),
    (steps([1.0, 0.0, 0.0, 0.0], math.nan), "grad_norm nan at step 1, and 3 more"),
    (steps([0.6931] + [0.0] * 9, 0.0), "loss and gradient are 0 from step 6 on"),
    ([{"loss": 0.7}, *[{"loss": 0.0}] * 3], "loss and gradient are 0"), ([], "no loss logged"),
    (steps([1.0] * 20 + [9.5] * 20), "the last losses are 9.5000 on average, the first 1.0000")])
def test_a_training_that_diverged_is_an_error(bad, said, tmp_path):
    with pytest.raises(UserError, match=f"the training diverged \\({said}.*lower its learning_rate"):
        check_losses(bad, tmp_path)


def test_half_precision_may_skip_a_step_whose_gradient_overflows(tmp_path):
    check_losses(steps([1.0, 0.5], math.inf), tmp_path, fp16=True)
    with pytest.raises(UserError, match="grad_norm inf"):
        check_losses(steps([1.0, 0.5], math.inf), tmp_path)


@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_weights_are_finite_and_not_those_of_the_start(kind, tmp_path):
    start, made = tmp_path / "start", tmp_path / "stage" / "model"
    save(start, embed=[1.0, 2.0], head=[3.0])
    save(made, kind, embed=[1.0, 2.0], head=[3.5])
    check_weights(made, start)
    save(made, kind, embed=[1.0, 2.0], head=[3.0])
    check_weights(made, None)
    with pytest.raises(UserError, match="the weights equal those of .*nothing was learnt"):
        check_weights(made, start)
    save(made, kind, embed=[1.0, math.nan], head=[math.inf], norm=[3e38])
    with pytest.raises(UserError, match=r"2 of 3 tensors hold NaN or infinity \(embed, ...\): the training diverged"):
        check_weights(made, start)


@pytest.mark.parametrize("left", [0, 7, 30, -1, -4])
def test_weights_that_were_cut_are_named(left, tmp_path):
    save(tmp_path, embed=[1.0, 2.0])
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="model.safetensors: not a whole safetensors file"):
        check_weights(tmp_path, None)


def test_losses_are_drawn_as_a_line():
    assert sparkline([8.0, 4.0, 2.0, 1.0]) == "█▄▂▁" and sparkline([0.5]) == "▁" and sparkline([]) == ""
    assert len(sparkline(range(1000))) == 40


def leave_finished(run, first_loss=0.6931, head=3.5):
    """What LLaMA-Factory leaves of a dpo that came to its end."""
    output = output_dir(run, "tiny", "dpo")
    write_json(output / "trainer_state.json", state(2, 2, [first_loss, 0.5]))
    write(output / "checkpoint-2" / "optimizer.pt", "moments")
    save(run.stage_dir("tiny", "dpo") / "model", embed=[1.0, 2.0], head=[head])


@pytest.mark.parametrize(("left", "said"), [
    ({"first_loss": 3.0}, "not 0.6931: the reference"), ({"head": math.nan}, "1 of 2 tensors"),
    ({"head": 3.0}, "nothing was learnt")])
def test_a_dpo_that_went_wrong_has_no_manifest(run, left, said):
    prepare(run, "tiny", "dpo")
    leave_finished(run, **left)
    with pytest.raises(UserError, match=said):
        finish(run, "tiny", "dpo")
    assert not (run.stage_dir("tiny", "dpo") / "manifest.json").exists()


def test_a_finished_training_shows_its_losses_and_drops_the_optimizer(run, capsys):
    prepare(run, "tiny", "dpo")
    leave_finished(run)
    finish(run, "tiny", "dpo")
    assert "2 steps, loss 0.6931 -> 0.5000\n  █▁  as a picture: make report RUN=demo" in capsys.readouterr().out
    assert not list(output_dir(run, "tiny", "dpo").glob("checkpoint-*"))
    text = (run.stage_dir("tiny", "dpo") / "manifest.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["last_loss"] == 0.5


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
    save(run.stage_dir("tiny", "dpo") / "model", embed=[1.0, 2.0], head=[4.0])
    with pytest.raises(UserError, match=r"is of another training than the files beside it \(weights.model"):
        finish(run, "tiny", "dpo")
