"""kill -9 of a real training at any moment: make, run again, goes on from the last whole checkpoint to the same end.

With one thread the weights are the same, bit for bit. With several, sums are added up in another order each time, and
two runs that nobody killed differ as well.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from logreasoner.files import read_json

pytestmark = pytest.mark.e2e

RUN = "build/runs/k"
STAGE = f"{RUN}/models/tiny/base-sft"
PREPARED = [f"{RUN}/models/tiny/init/model/config.json", f"{RUN}/datasets/tiny/base-sft/samples.jsonl"]
# 40 steps, a checkpoint after every tenth, where a loss is logged too: what is logged next after a resume is the mean
# over the steps since the resume, not since the log before it.
SMALL = {"max_samples": 160, "num_train_epochs": 4.0}


def start(folder, *goals):
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.Popen(
        ["make", "V=1", *goals, "EXPERIMENT=demo", "RUN=k", "MODEL=tiny", "HARDWARE=cpu"], cwd=folder,
        env={**variables, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def ended(process):
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said[-3000:]
    return said


@pytest.fixture(scope="module")
def fresh(checkout):
    """A checkout in which everything is there for a training that takes a few seconds, its start aside."""
    folder = checkout("kill-training")
    path = folder / "experiments" / "runs" / "demo.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["tasks"] = ["potential_failure_prediction"]
    declared["stages"]["base-sft"]["arguments"] |= SMALL
    path.write_text(yaml.safe_dump(declared))
    ended(start(folder, *PREPARED))
    return folder


def copied(fresh, folder):
    return shutil.copytree(fresh, folder, symlinks=True)


def train(folder):
    return start(folder, f"{STAGE}/manifest.json")


@pytest.fixture(scope="module")
def clean(fresh, tmp_path_factory):
    """(folder, seconds) of a training that nobody killed."""
    folder = copied(fresh, tmp_path_factory.mktemp("clean") / "checkout")
    began = time.monotonic()
    ended(train(folder))
    return folder, time.monotonic() - began


def kill(process):
    """Everything that make started, at once; returns whether it still ran."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def same(folder, clean):
    """The same end: steps, losses, weights and the dataset."""
    found, wanted = (read_json(each / STAGE / "manifest.json") for each in (folder, clean))
    assert found["steps"] == wanted["steps"] == 40
    assert found == wanted
    data = "datasets/tiny/base-sft"
    for path in sorted((clean / RUN / data).iterdir()):
        assert (folder / RUN / data / path.name).read_bytes() == path.read_bytes(), path.name
    left = [path for path in (folder / RUN).rglob("*") if path.name.endswith(".tmp")]
    assert not left, "a killed writer's file"


def checkpoints(folder):
    return sorted((folder / STAGE / "model").glob("checkpoint-*"))


def whole(checkpoint):
    return (checkpoint / "trainer_state.json").exists()


def test_killed_while_it_writes_a_checkpoint_it_resumes_from_the_one_before(fresh, clean, tmp_path):
    folder = copied(fresh, tmp_path / "checkout")
    process, first, half = train(folder), [], []
    while not (first and half) and process.poll() is None:
        there = checkpoints(folder)
        first, half = [each for each in there if whole(each)], [each for each in there if not whole(each)]
    assert kill(process) and first and half and not (folder / STAGE / "manifest.json").exists()
    last = half[0] if whole(half[0]) else first[0]  # it may have become whole before the kill came
    assert f"Resuming training from {last.relative_to(folder)}" in ended(train(folder))
    same(folder, clean[0])


def test_killed_at_any_moment_it_comes_to_the_same_end(fresh, clean, tmp_path, long):
    if not long:
        pytest.skip("part of make test-long")
    rng, kills, killed = random.Random(5), 8, 0
    for number in range(kills):
        folder = copied(fresh, tmp_path / "checkout")
        process = train(folder)
        time.sleep(clean[1] * (number + rng.random()) / kills)
        killed += kill(process)
        ended(train(folder))
        same(folder, clean[0])
        shutil.rmtree(folder)
    assert killed
