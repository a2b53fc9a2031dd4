"""The same inputs and seed give the same bytes for every file before training: two copies of the checkout, in processes
whose hash seed, locale, time zone, umask, threads and folder differ."""

import os
import shutil
import subprocess
import sys

import pytest

from logreasoner.files import ROOT, sha256

LEFT_OUT = shutil.ignore_patterns(".git", "build", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "images",
                                  "tests")
# Everything that a run makes without LLaMA-Factory, vLLM and FlagEmbedding: answers come from the scripted teacher over
# HTTP, the policy's from a rule, embeddings from hashes. Arguments: the umask, the experiment.
PROGRAM = r"""
import hashlib, importlib, json, os, sys
from pathlib import Path
umask, experiment = sys.argv[1:]
os.umask(int(umask, 8))
import numpy
from demo.teacher import serving
from logreasoner.generation import response_cache
from logreasoner.answer_format import Trajectory
from logreasoner.config import load_run
from logreasoner.files import read_jsonl, write_jsonl, writing
from logreasoner.instances import read_instances

def do(module, *arguments):
    sys.argv = [module, *arguments]
    try:
        importlib.import_module(module).main()
    except SystemExit as stopped:
        assert not stopped.code, (module, stopped.code)

def ask(name, folder, role="teacher", *more):
    do("logreasoner.generation.generate", "--run", "demo", "--role", role, *more,
       "--requests", f"{folder}/{name}.requests.jsonl", "--responses", f"{folder}/{name}.responses.jsonl")

def response(text):
    return {"status_code": 200, "body": {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}}

do("demo.logs", "--out", "build/data/bundled")
do("logreasoner.config", "--run", "demo", "--experiment", experiment)
do("data_builders.splits", "--run", "demo")
run = load_run("demo")
shared, own = run.dataset("shared", "thought-sft"), run.dataset("tiny", "solution-sft")
with serving("demo") as url:
    os.environ["SCRIPTED_TEACHER_URL"] = url
    do("data_builders.stage1", "--run", "demo", "rationale-requests")
    ask("rationales", shared)
    do("data_builders.stage1", "--run", "demo", "rationales")
    texts = [row["analysis"] for _, row in read_jsonl(shared / "analyses.jsonl")]
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
    with writing(shared / "embeddings.npy", "wb") as stream:
        rows = [numpy.random.default_rng(seed).standard_normal(64) for seed in seeds]
        numpy.save(stream, numpy.array(rows, dtype=numpy.float32))
    do("data_builders.selection", "--run", "demo", "--embeddings", str(shared / "embeddings.npy"), "--out",
       str(shared / "selected.json"))
    do("data_builders.stage1", "--run", "demo", "thought-requests")
    ask("thoughts", shared)
    do("data_builders.stage1", "--run", "demo", "thoughts")
    do("data_builders.samples", "--run", "demo", "--stage", "thought-sft")
    do("data_builders.samples", "--run", "demo", "--stage", "direct-sft")
    do("data_builders.stage2", "--run", "demo", "--model", "tiny", "--stage", "solution-sft", "solution-requests")
    answers = []
    for item in read_instances(run.splits / "stage2.jsonl"):
        labels = run.tasks()[item.task].labels
        wrong = next(label for label in labels if label != item.label)
        label = wrong if hashlib.sha256(item.id.encode()).digest()[0] % 3 == 0 else item.label
        text = Trajectory(("Read the log.", "Decide."), label).render()
        answers.append({"custom_id": item.id, "response": response(text), "error": None})
    write_jsonl(own / "solutions.responses.jsonl", answers)
    do("data_builders.stage2", "--run", "demo", "--model", "tiny", "--stage", "solution-sft", "solutions")
    do("data_builders.stage2", "--run", "demo", "--model", "tiny", "--stage", "dpo", "correction-requests")
    ask("corrections", run.dataset("tiny", "dpo"), "corrector", "--model", "tiny", "--stage", "dpo")
    do("data_builders.stage2", "--run", "demo", "--model", "tiny", "--stage", "dpo", "corrections")
    do("data_builders.examples", "--run", "demo", "requests")
    ask("examples", run.dataset("shared", "examples"))
    do("data_builders.examples", "--run", "demo", "solutions")
for stage in ("solution-sft", "dpo"):
    do("data_builders.samples", "--run", "demo", "--model", "tiny", "--stage", stage)
for stage in ("thought-sft", "solution-sft", "dpo"):
    do("data_builders.recipes", "--run", "demo", "--model", "tiny", "--stage", stage, "--hardware", "cpu")
do("data_builders.recipes", "--committed")
do("demo.base_sft", "--run", "demo", "--out", str(run.dataset("tiny", "base-sft") / "samples.jsonl"))
out = f"{run.dir}/predictions/tiny/base/test.requests.jsonl"
do("eval.predict", "--run", "demo", "--model", "tiny", "--stage", "base", "--limit", "20", "--out", out)
baseline = f"{run.dir}/predictions/tfidf-lr/baseline/test.responses.jsonl"
do("eval.baselines", "--run", "demo", "--model", "tfidf-lr", "--out", baseline)
result = f"{run.dir}/results/tfidf-lr/baseline/result.json"
do("eval.score", "--run", "demo", "--model", "tfidf-lr", "--stage", "baseline", "--responses", baseline, "--out",
   result)
do("eval.tables", "--run", "demo")
do("eval.report", "--run", "demo")
do("data_builders.new_task", "--name", "disk-failures", "--from", "docs/tutorial/disk-failures.csv")
do("logreasoner.config", "--run", "disk-failures")
do("data_builders.splits", "--run", "disk-failures")
header = "1117838570 2005.06.03 R02 2005-06-03-15.42.50.363779 R02 RAS KERNEL INFO"
lines = [f"{'-' if at % 7 else 'APPREAD'} {header} \xe9v\xe9nement {at * 37 % 101}" for at in range(5_000)]
Path("build/system.log").write_bytes("\n".join(lines).encode("latin-1"))
do("data_builders.sessions", "--format", "bgl", "--limit", "3000", "--seed", "5", "--source", "made", "--out",
   "build/sessions.jsonl", "build/system.log")
"""
WORLDS = {
    "one": ("022", {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1",
                    "OMP_NUM_THREADS": "1"}),
    "another place": ("077", {"PYTHONHASHSEED": "4242", "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "LANG": "C",
                              "PYTHONUTF8": "0", "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "COLUMNS": "40"}),
}


def reproducible(path):
    """Whether a file's bytes are promised: a response cache has answers in the order of their arrival."""
    return path.is_file() and not path.name.endswith((".journal.jsonl", ".journal.lock", ".pyc"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory, long):
    """The SHA-256 of each file by its path, for each world; of the demo's run with --long, else of a smaller one."""
    started, checksums = {}, {}
    for name, (umask, variables) in WORLDS.items():
        folder = tmp_path_factory.mktemp("determinism") / name / "checkout"
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
        started[folder] = subprocess.Popen([sys.executable, "-c", PROGRAM, umask, "demo" if long else "smoke"],
                                           cwd=folder, text=True,
                                           env={**plain, **variables, "PYTHONPATH": str(folder)},
                                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for folder, process in started.items():
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-3000:]
        checksums[folder] = {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*")
                             if reproducible(path)}
    return checksums


def test_every_file_before_training_has_the_same_bytes_anywhere(trees):
    here, there = trees.values()
    assert here.keys() == there.keys()
    differ = sorted(name for name in here if here[name] != there[name])
    assert not differ, [(name, *((folder / name).read_bytes()[:300] for folder in trees)) for name in differ[:3]]
    made = [name for name in here if name.startswith("build/")]
    endings = ("splits/stage1.jsonl", "thoughts.jsonl", "selected.json", "dpo/samples.jsonl", "dpo.yaml", "report.html",
               "build/sessions.jsonl", "disk-failures/train.jsonl", "test.requests.jsonl", "tables.csv")
    assert all(any(name.endswith(ending) for name in made) for ending in endings), made


def test_no_file_says_where_or_when_it_was_made(trees):
    for folder, files in trees.items():
        for name in files:
            if name.startswith("build/"):
                assert str(folder).encode() not in (folder / name).read_bytes(), name
