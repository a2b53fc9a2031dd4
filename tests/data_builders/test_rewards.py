"""The reward file and dataset of `make rewards`, called as verl and TRL call them, outside of this project."""

import json
import subprocess
import sys

import pytest
from pyarrow import parquet

from data_builders import rewards
from logreasoner.config import declare, resolve
from logreasoner.files import write_jsonl
from logreasoner.instances import Instance

PFP = "potential_failure_prediction"
ITEMS = {split: [Instance(f"{split}-{number}", PFP, "made-switches", f"FAN/[MASK]/STUCK: {split} {number}.", label)
                 for number, label in enumerate(["True", "False"])] for split in ("stage1", "stage2")}
FORM = "<solutions>\n1. A fan stopped.\n</solutions>\n<answer> {} </answer>"
# As verl does: the file by its path, the call by keywords (verl/workers/reward_manager/naive.py).
VERL = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("custom_module", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["custom_module"] = module
spec.loader.exec_module(module)
row, texts = json.loads(sys.argv[2])
print(json.dumps([module.compute_score(
    data_source=row["data_source"], solution_str=text, ground_truth=row["reward_model"]["ground_truth"],
    extra_info=row["extra_info"]) for text in texts]))
assert not [name for name in sys.modules if name.startswith("logreasoner")]
"""


@pytest.fixture
def folder(workdir):
    run = declare("t", resolve("paper", [f"tasks={PFP}"]))
    for split, items in ITEMS.items():
        write_jsonl(run.splits / f"{split}.jsonl", (item.as_json() for item in items))
    return rewards.build(run)


def test_the_dataset_has_each_labelled_instance_in_verls_columns(folder):
    rows = parquet.read_table(folder / "train.parquet").to_pylist()
    assert [row["extra_info"]["id"] for row in rows] == ["stage1-0", "stage1-1", "stage2-0", "stage2-1"]
    assert [row["reward_model"] for row in rows[:2]] == [{"style": "rule", "ground_truth": label}
                                                         for label in ("True", "False")]
    (message,) = rows[0]["prompt"]
    assert message["role"] == "user" and "stage1 0" in message["content"] and "<answer>" in message["content"]
    assert rows[0]["data_source"] == PFP and rows[0]["extra_info"]["labels"] == ["True", "False"]


@pytest.mark.parametrize(("text", "expected"), [
    (FORM.format("True"), 1.0), (FORM.format("true") + "<|im_end|>", 1.0), ("The answer is True.", 0.9),
    (FORM.format("False"), 0.1), ("False", 0.0), ("", 0.0),
    ("<answer> True </answer><answer> False </answer>", 0.0), ("<think>" + FORM.format("True"), 0.0)])
def test_an_answer_is_scored_by_the_file_alone(folder, tmp_path, text, expected):
    row = parquet.read_table(folder / "train.parquet").to_pylist()[0]
    done = subprocess.run([sys.executable, "-I", "-c", VERL, (folder / "reward.py").resolve(),
                           json.dumps([row, [text]])], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [pytest.approx(expected)]
