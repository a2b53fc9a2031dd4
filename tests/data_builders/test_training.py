import math

import pytest

from data_builders.recipes import output_dir
from data_builders.training import after, before, check_first_loss
from logreasoner.cli import UserError
from logreasoner.config import declare, resolve
from logreasoner.files import write_json, writing


@pytest.fixture
def run(workdir):
    run = declare("demo", resolve("demo", []))
    for path in (run.recipe("tiny", "dpo"), run.dataset("tiny", "dpo") / "d_pref.json"):
        with writing(path) as stream:
            stream.write("first")
    return run


def leave(run, name, text="{}"):
    with writing(output_dir(run, "tiny", "dpo") / name) as stream:
        stream.write(text)


def test_a_folder_stopped_before_its_first_checkpoint_is_cleared(run):
    before(run, "tiny", "dpo")
    leave(run, "trainer_log.jsonl")
    before(run, "tiny", "dpo")
    assert not output_dir(run, "tiny", "dpo").exists()


@pytest.mark.parametrize("kept", ["checkpoint-5/trainer_state.json", "trainer_state.json"])
def test_a_checkpoint_or_a_finished_training_is_kept(run, kept):
    before(run, "tiny", "dpo")
    leave(run, kept)
    before(run, "tiny", "dpo")
    assert (output_dir(run, "tiny", "dpo") / kept).exists()


def test_nothing_is_trained_over_a_folder_made_from_other_data(run):
    before(run, "tiny", "dpo")
    with writing(run.dataset("tiny", "dpo") / "d_pref.json") as stream:
        stream.write("second")
    with pytest.raises(UserError, match="another dataset"):
        before(run, "tiny", "dpo")


def test_a_training_that_did_not_finish_has_no_manifest(run):
    before(run, "tiny", "dpo")
    with pytest.raises(UserError, match="did not finish"):
        after(run, "tiny", "dpo")


@pytest.mark.parametrize("loss", [0.6931, math.log(2), 0.70])
def test_dpo_starts_at_ln_2(loss, tmp_path):
    check_first_loss([{"loss": loss}, {"loss": 0.1}], tmp_path)


@pytest.mark.parametrize("losses", [[{"loss": 0.0}], [{"loss": 25.8}], [{"loss": math.nan}], []])
def test_another_reference_is_found_out(losses, tmp_path):
    with pytest.raises(UserError, match="ln 2"):
        check_first_loss(losses, tmp_path)


def test_a_finished_dpo_with_another_reference_has_no_manifest(run):
    before(run, "tiny", "dpo")
    state = {"log_history": [{"loss": 3.0, "step": 1}], "global_step": 1, "epoch": 1.0}
    write_json(output_dir(run, "tiny", "dpo") / "trainer_state.json", state)
    with pytest.raises(UserError, match="ln 2"):
        after(run, "tiny", "dpo")
    assert not (run.stage_dir("tiny", "dpo") / "manifest.json").exists()
