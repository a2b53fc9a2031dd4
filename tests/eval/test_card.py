"""A run's files, made small with the project's own writers; the card says what they say."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_builders.recipes import render as recipe
from eval import card
from eval.predictions import Answer
from eval.score import summaries
from logreasoner.config import Run, declare, resolve, task
from logreasoner.files import digest, manifest, read_json, sha256, write_json, write_jsonl, writing
from logreasoner.instances import Instance
from logreasoner.templating import fenced
from logreasoner.weights import identity
from tests.results import write_result

STAGES = ("thought-sft", "solution-sft", "dpo")
KNOWLOG = ("build/data/raw/LeaperOvO/KnowLog/02eb769b274c1d48bbe5c3f666d428238bbc84cd/"
           "datasets/tasks/LDSM/hw_switch_train.json")
PARENT = {"hub": "Qwen/Qwen2.5-7B-Instruct", "revision": "0123456789" * 4}  # of the first stage


def shards(folder: Path, sizes: list[int]) -> dict[str, str]:
    """Weights in the safetensors layout, one tensor a file; their hashes."""
    for number, size in enumerate(sizes):
        header = json.dumps({"__metadata__": {"format": "pt"},
                             "w": {"dtype": "I8", "shape": [2, size // 2], "data_offsets": [0, size]}}).encode()
        with writing(folder / f"model-{number}.safetensors", "wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header + b"x" * size)
    return {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def trained(run: Run, name: str, stage: str, review: Any = None) -> None:
    """What a training leaves behind."""
    rows = run.dataset(name, stage) / "samples.jsonl"
    data = run.dataset(name, stage) / f"{run.stage(stage).dataset}.json"
    before = run.stage(stage).starts_from
    write_jsonl(rows, [{"id": "1"}])
    manifest(rows, [], **({"review": review} if review else {}))
    write_json(data, [stage])
    manifest(data, [rows], counts={"anomaly_detection": {"kept": 1200}}, samples=1200, dropped=["long"])
    with writing(run.recipe(name, stage)) as stream:
        stream.write(recipe(run, name, stage, "2xA100", run.recipe(name, stage)))
    weights = shards(run.stage_dir(name, stage) / "model", [4, len(stage) * 2])
    write_json(run.stage_dir(name, stage) / "manifest.json", {
        "mark": run.mark, "commit": "abc123", "finetuning": "lora", "weights": weights, "steps": 37, "epochs": 5.0,
        "first_loss": 0.6931, "last_loss": 0.25, "versions": {"llamafactory": "0.9.5", "torch": "2.13.0"},
        "inputs": {"recipe": sha256(run.recipe(name, stage)), "dataset": sha256(data), "starts_from": "x",
                   "parent": PARENT if before == "base" else identity(run, name, before)}})


def scored(run: Run, name: str, stage: str, right: int, known: int) -> None:
    """A result on ten sessions, as eval.score writes one."""
    items = [Instance(str(at), "anomaly_detection", "bgl_2k", "x", "abnormal") for at in range(10)]
    rows = [{"task": "anomaly_detection", "source": "bgl_2k", "test_set": test_set, "seen": seen, "whole": 0,
             **summaries(
        some, {item.id: Answer(*["abnormal" if int(item.id) < right else None] * 2) for item in some},
        task("anomaly_detection"))} for test_set, some, seen in (("disjoint", items[known:], 0), ("all", items, known))]
    write_result(run, name, stage, rows)


def run_of(name: str, experiment: str, model: str, *overrides: str, review: Any = None) -> Run:
    run = declare(name, resolve(experiment, list(overrides)))
    for stage in STAGES:
        trained(run, model, stage, review if stage == "thought-sft" else None)
    for split in ("test", "test_seen"):
        write_jsonl(run.splits / f"{split}.jsonl", [])
    write_json(run.splits / "manifest.json", {"overlap": 0, "seed": 42, "rows": {"stage1": 1100},
                                             "notes": ["<b>n|1</b>"]})
    write_json(run.experiment.data.folder / "manifest.json", {"inputs": {KNOWLOG: "0"}})
    return run


def command(monkeypatch: pytest.MonkeyPatch, run: str, model: str, stage: str = "dpo") -> str:
    monkeypatch.setattr(sys, "argv", ["eval.card", "--run", run, "--model", model, "--stage", stage, "--out", "out"])
    card.main()
    return Path("out/README.md").read_text(encoding="utf-8")


def front(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    return dict(yaml.safe_load(text.split("---\n")[1]))


def line(text: str, start: str) -> str:
    return next(each for each in text.splitlines() if each.startswith(start))


def test_a_card_says_what_the_runs_files_say(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("mine", "paper", "qwen2.5-7b", review={"accepted": 900, "rejected": 100})
    scored(run, "qwen2.5-7b", "dpo", 8, 2)
    scored(run, "always-positive", "baseline", 10, 2)
    text = command(monkeypatch, "mine", "qwen2.5-7b")
    assert front(text) == {"library_name": "transformers", "pipeline_tag": "text-generation", "license": "unknown",
                           "tags": ["logreasoner", "log-analysis", "dpo"], "base_model": "Qwen/Qwen2.5-7B-Instruct",
                           "base_model_relation": "finetune"}
    weights = read_json(run.stage_dir("qwen2.5-7b", "dpo") / "manifest.json")["weights"]
    lineage = line(text, "| dpo | dpo, lora | solution-sft |")
    assert all(each[:12] in lineage for each in weights.values())
    assert "| 37 | 5.0 | 0.6931 to 0.25 | abc123 |" in lineage
    assert digest(read_json(run.stage_dir("qwen2.5-7b", "solution-sft") / "manifest.json")["weights"])[:12] in lineage
    assert line(text, "| learning\\_rate") == "| learning\\_rate | 3e-05 | 3e-05 | 5e-06 |"
    assert line(text, "| pref\\_beta") == "| pref\\_beta |  |  | 0.1 |" and "global batch: thought-sft 16" in text
    assert "| 1200 | 1 | anomaly\\_detection 1200 | accepted 900, rejected 100 |" in line(text, "| thought-sft | d")
    assert "KnowLog" in text and "MIT (the repository)" in text and "LogPrompt" not in text
    assert "The base model's licence is not known" in text and "STAGE=dpo" in text and "llamafactory 0.9.5" in text
    assert "Not a model to use" not in text and "### Task" in text
    seen = line(text, "| anomaly\\_detection, bgl\\_2k, disjoint |")
    assert "75.0 [40.9, 92.9]" in seen and "n=8 unparsed=2" in seen and "not run" in seen
    assert "Always the positive class: 100.0 [67.6, 100.0] /" in seen


def test_a_scripted_toy_says_so_first_and_claims_no_base(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("demo", "demo", "tiny", review="not reviewed")
    scored(run, "tiny", "dpo", 10, 0)
    text = command(monkeypatch, "demo", "tiny")
    assert "base_model" not in front(text) and "huggingface.co" not in text
    assert text.index("**Not a model to use.**") < text.index("**A toy of 10 weights**") < text.index("## Lineage")
    assert "thought-sft: not reviewed" in text and "No baseline was run beside these scores" in text
    assert "| anomaly\\_detection, bgl\\_2k, disjoint = all |" in text and "no real system wrote them" in text


def test_without_results_there_are_no_scores(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of("mine", "paper", "qwen2.5-7b")
    assert "Not evaluated: no result of this stage" in command(monkeypatch, "mine", "qwen2.5-7b")


@pytest.mark.parametrize(("change", "said"), [
    ("parent", "was trained from other weights of solution-sft"), ("dataset", "d_pref.json: is not there, or not what"),
    ("recipe", "dpo.yaml: is not there, or not what"), ("manifest", "manifest.json: no such file"),
    ("base", "was not trained here"), ("result", "results are never mixed"),
])
def test_a_lineage_that_does_not_hold_is_no_card(change: str, said: str, workdir: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    run, stage = run_of("mine", "paper", "qwen2.5-7b"), "base" if change == "base" else "dpo"
    if change == "parent":
        made = read_json(where := run.stage_dir("qwen2.5-7b", "solution-sft") / "manifest.json")
        write_json(where, {**made, "weights": {"model.safetensors": "0"}})
    elif change == "dataset":
        write_json(run.dataset("qwen2.5-7b", "dpo") / "d_pref.json", ["other"])
    elif change == "recipe":
        run.recipe("qwen2.5-7b", "dpo").unlink()
    elif change == "manifest":
        (run.stage_dir("qwen2.5-7b", "thought-sft") / "manifest.json").unlink()
    elif change == "result":
        scored(declare("other", run.experiment), "qwen2.5-7b", "dpo", 1, 0)
        (run.dir / "results").mkdir()
        (run.dir.with_name("other") / "results" / "qwen2.5-7b").rename(run.dir / "results" / "qwen2.5-7b")
    with pytest.raises(SystemExit, match=said):
        command(monkeypatch, "mine", "qwen2.5-7b", stage)
    assert not Path("out/README.md").exists()


CHECK = """
import json, sys
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
loaded = ModelCard.load(sys.argv[1])
print(json.dumps([loaded.data.to_dict(), MarkdownIt("commonmark").enable("table").render(loaded.text)]))
"""


def test_nothing_in_a_file_becomes_markup_and_the_hubs_library_reads_it(
        in_train: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CommonMark lets HTML through, so what is escaped here is escaped by the card."""
    hostile = "<img src=x onerror=alert(1)> | [x](http://evil) ![x](http://evil) `a` **b** &lt;"
    run_of("mine", "paper", "qwen2.5-7b", f"teacher={hostile}", "teacher_base_url=http://127.0.0.1:1/v1")
    text = command(monkeypatch, "mine", "qwen2.5-7b")
    read, html = json.loads(in_train(CHECK, str(workdir / "out" / "README.md")))
    assert read == front(text)
    assert "&lt;img src=x onerror=alert(1)&gt; | [x](http://evil) ![x](http://evil) `a` **b** &amp;lt;" in html
    assert "<img" not in html and 'evil"' not in html and "&lt;b&gt;n|1&lt;/b&gt;" in html and "<td>0.1</td>" in html
    assert "&lt;answer&gt; normal &lt;/answer&gt;" in html


def test_no_fence_is_ended_by_its_content() -> None:
    assert fenced("a\n````\nb") == "`````text\na\n````\nb\n`````"
