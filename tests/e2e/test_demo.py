"""`make demo` in a copy of the checkout: the real LLaMA-Factory, vLLM and FlagEmbedding, from logs to pi_dpo."""

import json
import math
import os
import re
import shutil

import pytest

from logreasoner.config import stages, task
from logreasoner.files import read_json, read_jsonl, sha256

pytestmark = pytest.mark.e2e

STAGES = ("base", "thought-sft", "solution-sft", "dpo")


@pytest.fixture(scope="module")
def demo(checkout, make):
    """The folder in which `make demo` ran."""
    folder = checkout("demo")
    done = make(folder, "demo")
    (folder / "demo.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return folder


def run_dir(demo):
    return demo / "build" / "runs" / "demo"


def rows(path):
    return [row for _, row in read_jsonl(path)]


def test_it_ends_with_a_table_of_all_stages_over_the_four_tasks(demo):
    printed = (demo / "demo.log").read_text()
    assert "scripted teacher" in printed and "everything it made is under build/runs/demo" in printed
    table = (run_dir(demo) / "results" / "tables.md").read_text()
    assert all(stage in table for stage in STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_every_test_log_is_scored_and_marked(demo, stage):
    result = read_json(run_dir(demo) / "results" / "tiny" / stage / "result.json")
    assert result["teacher"] == "scripted"
    split = rows(run_dir(demo) / "splits" / "test.jsonl")
    scored = [row for row in result["results"] if row["test_set"] == "disjoint"]
    assert sum(row["n"] for row in scored) == len(split)
    assert {row["task"] for row in scored} == {row["task"] for row in split}
    assert all(0 <= row["unparsed"] <= row["n"] for row in scored)


def test_right_solutions_and_corrected_pairs_both_came_out(demo):
    d_corr = read_json(run_dir(demo) / "datasets" / "tiny" / "solution-sft" / "d_corr.json")
    d_pref = read_json(run_dir(demo) / "datasets" / "tiny" / "dpo" / "d_pref.json")
    assert d_corr and d_pref
    assert all(pair["chosen"] != pair["rejected"] for pair in d_pref)


def test_every_kind_of_teachers_answer_was_met(demo):
    """The scripted teacher is sometimes wrong; what it got wrong was rejected and counted, or asked for again."""
    folder = run_dir(demo) / "datasets"
    counts = read_json(folder / "shared" / "thought-sft" / "analyses.jsonl.manifest.json")["counts"]
    assert len({outcome for task_counts in counts.values() for outcome in task_counts}) > 1, counts
    for path in (folder / "shared" / "thought-sft" / "thoughts.jsonl", folder / "tiny" / "dpo" / "corrections.jsonl"):
        assert len(read_json(path.with_name(f"{path.name}.manifest.json"))["attempts"]) > 1, path


@pytest.mark.parametrize("stage", ["thought-sft", "solution-sft", "dpo"])
def test_the_manifest_holds_the_lineage(demo, stage):
    manifest = read_json(run_dir(demo) / "models" / "tiny" / stage / "manifest.json")
    assert manifest["mark"] == "scripted" and manifest["weights"] and manifest["inputs"]["parent"]
    assert manifest["steps"] > 0 and manifest["versions"]["llamafactory"]
    if stage == "dpo":
        assert math.isclose(manifest["first_loss"], math.log(2), abs_tol=0.02)


def test_vllm_saw_as_many_prompt_tokens_as_llama_factory_trains_on(demo, in_train):
    folder = run_dir(demo) / "datasets" / "tiny" / "solution-sft"
    used = {row["custom_id"]: row["response"]["body"]["usage"]["prompt_tokens"]
            for row in rows(folder / "solutions.responses.jsonl")}
    samples = rows(folder / "samples.jsonl")
    counts = in_train("""
import json, sys
from data_builders.llamafactory_dataset import encoder
from logreasoner.config import models
encode = encoder(sys.argv[1], models()["tiny"])
rows = [json.loads(line) for line in open(sys.argv[2])]
print("LENGTHS", json.dumps({row["id"]: len(encode(row["prompt"], row["response"])[0]) for row in rows}))
""", str(run_dir(demo) / "models" / "tiny" / "thought-sft" / "model"), str(folder / "samples.jsonl"))
    lengths = json.loads(next(line for line in counts.splitlines() if line.startswith("LENGTHS"))[8:])
    assert {row["id"]: used[row["id"]] for row in samples} == lengths


def test_a_second_time_nothing_is_made_again(demo, make):
    again = make(demo, "-n", "dpo", "EXPERIMENT=demo", "RUN=demo", "MODEL=tiny", "HARDWARE=cpu")
    assert again.returncode == 0
    assert "data_builders.train" not in again.stdout and "logreasoner.generation.generate" not in again.stdout


def test_a_copy_with_new_time_stamps_makes_nothing_again(demo, make, tmp_path):
    """The clock says that every output is older than its input; checksums say that nothing has changed."""
    kept = ("**/manifest.json", "**/*.journal.jsonl", "**/embeddings.npy", "**/selected.json", "**/*.safetensors")
    paths = sorted({path for pattern in kept for path in run_dir(demo).glob(pattern)})
    before = {path: sha256(path) for path in paths}
    files = [path for path in (demo / "build").rglob("*") if path.is_file()]
    for number, path in enumerate(sorted(files, key=lambda path: -path.stat().st_mtime)):
        os.utime(path, (number, number))
    done = make(demo, "demo")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    changed = [path for path, checksum in before.items() if sha256(path) != checksum]
    assert not [path for path in changed if "splits" not in path.parts], changed
    counted = re.findall(r"(\d+) answered before, (\d+) to ask", done.stdout)
    assert counted and all(int(new) == 0 for _, new in counted), counted


def test_a_scripted_run_gets_no_published_numbers(demo):
    table = (run_dir(demo) / "results" / "tables.csv").read_text()
    assert "BERT" not in table and "published" not in table.splitlines()[1]


def test_another_fine_tuning_needs_another_run(demo, make):
    other = make(demo, "dpo", "EXPERIMENT=demo", "RUN=demo", "MODEL=tiny", "HARDWARE=cpu", "FINETUNING=lora")
    assert other.returncode != 0 and "experiment.finetuning: 'full' -> 'lora'" in other.stderr


def test_lora_dpo_starts_at_ln_2_and_is_merged(demo, make):
    """LoRA on the same pairs, from the same pi_solution: policy and reference are equal at the first step."""
    settings = ["EXPERIMENT=demo", "RUN=demo-lora", "MODEL=tiny", "HARDWARE=cpu", "FINETUNING=lora"]
    target = run_dir(demo).with_name("demo-lora")
    declared = make(demo, "declare", *settings)
    assert declared.returncode == 0, declared.stderr
    for part in ("splits", "examples", "datasets/shared", "datasets/tiny", "models/tiny"):
        shutil.copytree(run_dir(demo) / part, target / part, symlinks=True)
    shutil.rmtree(target / "models" / "tiny" / "dpo")
    done = make(demo, "dpo", *settings)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    manifest = read_json(target / "models" / "tiny" / "dpo" / "manifest.json")
    assert manifest["finetuning"] == "lora" and math.isclose(manifest["first_loss"], math.log(2), abs_tol=0.02)
    full = read_json(run_dir(demo) / "models" / "tiny" / "solution-sft" / "manifest.json")
    assert manifest["weights"] != full["weights"], "the merged weights are pi_solution's: the adapter was not merged"
    # The answers of the other weights came along, and are nobody's answers to these.
    shutil.copytree(run_dir(demo) / "predictions", target / "predictions")
    scored = make(demo, "eval", "STAGE=dpo", *settings)
    assert scored.returncode == 0, (scored.stdout + scored.stderr)[-3000:]
    assert re.search(r"test: 0 answered before, \d+ to ask \(\d+ answers of other weights", scored.stdout)
    results = [read_json(run / "results" / "tiny" / "dpo" / "result.json") for run in (run_dir(demo), target)]
    assert results[0]["answered_by"][0]["weights"] != results[1]["answered_by"][0]["weights"]


def test_the_demo_covers_every_declared_label(demo):
    for name in {row["task"] for row in rows(run_dir(demo) / "splits" / "test.jsonl")}:
        labels = {row["label"] for row in rows(run_dir(demo) / "splits" / "test.jsonl") if row["task"] == name}
        assert labels == set(task(name).labels)
    assert set(stages()) >= {"thought-sft", "solution-sft", "dpo"}
