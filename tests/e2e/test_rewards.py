"""A step of TRL's GRPOTrainer with the dataset and the reward function of `make rewards`, and the demo's tiny model."""

import json

import pytest

from bench.training import INIT, prepare
from data_builders import rewards
from logreasoner.config import declare, resolve
from logreasoner.files import ROOT, write_jsonl
from logreasoner.instances import read_instances

pytestmark = pytest.mark.e2e

GRPO = """
import json, sys
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

folder, weights, template = sys.argv[1:]
sys.path.insert(0, folder)
from reward import reward

rows = load_dataset("parquet", data_files=f"{folder}/train.parquet", cache_dir="cache")["train"]
answer = "<solutions>\\n1. Look.\\n</solutions>\\n<answer> {} </answer>"
seen = []
def recorded(completions, **columns):
    written = reward(completions, **columns)
    answers = [answer.format(rule["ground_truth"]) for rule in columns["reward_model"]]
    right = [[{"role": "assistant", "content": text}] for text in answers]
    seen.append([written, reward(right, **columns)])
    return seen[-1][1]

tokenizer = AutoTokenizer.from_pretrained(weights)
tokenizer.chat_template = open(template).read()
options = GRPOConfig(output_dir="out", max_steps=1, per_device_train_batch_size=2, num_generations=2, use_cpu=True,
                     max_completion_length=8, max_prompt_length=None, bf16=False, logging_steps=1, report_to="none",
                     save_strategy="no")
trainer = GRPOTrainer(model=weights, reward_funcs=recorded, args=options, train_dataset=rows,
                      processing_class=tokenizer)
trainer.train()
logged = [entry["rewards/recorded/mean"] for entry in trainer.state.log_history if "rewards/recorded/mean" in entry]
print("SEEN", json.dumps([seen, logged]))
"""


def test_grpo_scores_its_completions_with_the_reward(in_train, tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = declare("t", resolve("demo", []))
    items = list(read_instances(run.experiment.data.folder / "train.jsonl"))[::200]
    for split in ("stage1", "stage2"):
        write_jsonl(run.splits / f"{split}.jsonl", (item.as_json() for item in items))
    folder = rewards.build(run).resolve()
    printed = in_train(GRPO, str(folder), str(INIT.resolve()), str(ROOT / "templates/chat/qwen.jinja"), cwd=tmp_path)
    seen, logged = json.loads(next(line for line in printed.splitlines() if line.startswith("SEEN "))[5:])
    # Two completions of a random model, which are no answers; the right answers in their place have the full reward.
    assert seen == [[[0.0, 0.0], [1.0, 1.0]]] and logged == [1.0]
