"""Two processes train as one does: the starting scripts as they are rendered, torchrun and gloo, on this machine."""

import os
import shutil
import socket
import subprocess

import pytest

from bench.training import ENVIRONMENT, RUN, prepare, recipe, samples
from logreasoner.files import read_json

pytestmark = pytest.mark.e2e

# Two processes add up the same gradients in another order, here in float32 whatever the processor has. Ten steps of the
# tiny model end equal to five digits; a batch of other samples, or of another size, moves the loss by hundredths.
CLOSE = {"rel": 1e-4}


@pytest.fixture(scope="module")
def folder(train_python, tmp_path_factory):
    """A folder with the tiny model and its samples."""
    made = tmp_path_factory.mktemp("distributed")
    prepare(made)
    return made


def trained(folder, label, rows, **how):
    """Write a recipe and start its script on each node at once; returns LLaMA-Factory's steps, losses and output."""
    return started(folder, recipe(folder, label, rows, bf16=False, **how), how.get("nodes", 1))


def started(folder, start, count=1):
    """Start a script on so many nodes; returns LLaMA-Factory's steps, losses and output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    nodes = [subprocess.Popen(start.command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env={**os.environ, **ENVIRONMENT, **several, "NODE_RANK": str(rank), **start.environment})
             for rank in range(count)]
    printed = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * len(nodes), "".join(printed)[-3000:]
    state = read_json(start.folder / "out" / "trainer_state.json")
    return state["global_step"], [entry["loss"] for entry in state["log_history"] if "loss" in entry], "".join(printed)


def pairs(rows):
    """Pairs whose rejected answer is another sample's."""
    return [{"instruction": row["instruction"], "input": "", "chosen": row["output"], "rejected": other["output"]}
            for row, other in zip(rows, rows[1:], strict=False) if row["output"] != other["output"]]


def test_two_processes_have_the_batches_steps_and_losses_of_one(folder):
    rows = samples(folder, 160)
    steps, losses, _ = trained(folder, "one", rows)
    again, split, printed = trained(folder, "two", rows, hardware="2xcpu")
    assert "world size: 2" in printed and "distributed training: True" in printed
    assert steps == again == 10
    assert split == pytest.approx(losses, **CLOSE)


def test_two_nodes_do_too(folder, long):
    """Two nodes that meet at MASTER_ADDR, here both on loopback; and a last batch that is not full.

    Then processes get equal shares: the last batch is filled up with samples from the epoch's beginning, so its loss is
    another one.
    """
    if not long:
        pytest.skip("--long")
    rows = samples(folder, 136)
    steps, losses, _ = trained(folder, "one-more", rows)
    again, split, printed = trained(folder, "nodes", rows, nodes=2)
    assert "world size: 2" in printed and "waiting for the other nodes" in printed
    assert steps == again == 9
    assert split[:-1] == pytest.approx(losses[:-1], **CLOSE)
    assert split[-1] != pytest.approx(losses[-1], **CLOSE)


def test_dpo_on_two_processes_too(folder, long):
    if not long:
        pytest.skip("--long")
    rows = pairs(samples(folder, 100))[:80]
    steps, losses, _ = trained(folder, "dpo-one", rows, stage="dpo")
    again, split, _ = trained(folder, "dpo-two", rows, stage="dpo", hardware="2xcpu")
    assert steps == again == len(rows) // RUN.stage("dpo").global_batch
    assert split == pytest.approx(losses, **CLOSE)


def test_two_processes_resume_from_a_whole_checkpoint(folder):
    """A kill after a checkpoint leaves it alone: the steps after it are trained again, to the same losses."""
    start = recipe(folder, "resumed", samples(folder, 64), bf16=False, hardware="2xcpu", save_strategy="steps",
                   save_steps=2, save_total_limit=5)
    steps, losses, _ = started(folder, start)
    for path in [path for path in (folder / start.folder / "out").iterdir() if path.name != "checkpoint-2"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again, resumed, printed = started(folder, start)
    assert "checkpoint-2" in printed and steps == again == 4
    assert resumed == pytest.approx(losses, **CLOSE)


def test_without_the_first_nodes_address_a_node_says_what_it_needs(folder):
    start = recipe(folder, "alone", samples(folder, 16), nodes=2)
    left = {name: value for name, value in os.environ.items() if name != "MASTER_ADDR"}
    done = subprocess.run(start.command, cwd=folder, env={**left, "NODE_RANK": "1"}, capture_output=True,
                          text=True)
    assert done.returncode != 0 and "MASTER_ADDR: is not set: give the name of the node" in done.stderr
