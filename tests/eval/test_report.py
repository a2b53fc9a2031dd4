import base64
import gzip
import hashlib
import html
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval import report
from eval.predict import requests
from eval.score import score_run
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, resolve
from logreasoner.files import manifest, read_json, read_jsonl, write_json, write_jsonl
from logreasoner.generation.response_cache import append_lines

AD, LSM = "anomaly_detection", "log_semantic_matching"
MODEL = "qwen2.5-7b"
HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'> {{ 7 * 7 }} ${7 * 7}",
    "<!-- <script> ]]> &lt;b&gt; &#0; \u2028\u2029\u0000\u202e\ufeff end",
    "javascript:window.hacked=3 \" onmouseover=\"window.hacked = 4",
]
SURROGATE = "half a pair: \ud83d."
LOGS = [*HOSTILE, SURROGATE, "fan 2 stopped", "link up", "session closed by peer", "cache parity error", "user left"]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'


def solved(label: str, *steps: str) -> str:
    lines = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return f"<solutions>\n{lines}\n</solutions>\n<answer> {label} </answer>"


def instances() -> list[dict[str, Any]]:
    """Ten sessions of two lines and ten pairs of log and description; labels in turn; ids that need escaping."""
    return [*({"id": f"ad/{at}?%", "task": AD, "source": "atlas", "log": [log, "second line"],
               "label": ("normal", "abnormal")[at % 2]} for at, log in enumerate(LOGS)),
            *({"id": f"lsm {at}", "task": LSM, "source": "boreas", "log": log, "description": LOGS[-at - 1],
               "label": ("True", "False")[at % 2]} for at, log in enumerate(LOGS))]


def answer(item: dict[str, Any], at: int, stage: str) -> str:
    """`base` fails on places 3 (no label), 4 (lenient only) and 5 (wrong) of each task, `dpo` on 0 (wrong)."""
    other = {"normal": "abnormal", "abnormal": "normal", "True": "False", "False": "True"}[item["label"]]
    if stage == "base" and at in (3, 4):
        return HOSTILE[0] if at == 3 else f"The answer is {item['label']}."
    wrong = at == (5 if stage == "base" else 0)
    return solved(other if wrong else item["label"], f"Read it: {HOSTILE[1]}", f"The {stage} model decides.")


def evaluate(run: Run, stage: str, texts: dict[str, str], model: str = MODEL, samples: int = 1) -> Path:
    """Give and score the answers of a model at a stage, by custom_id."""
    tail = f".samples{samples}" if samples > 1 else ""
    path = run.dir / "predictions" / model / stage / f"test{tail}.responses.jsonl"
    write_jsonl(path, ({"custom_id": key, "error": None, "response": {"status_code": 200, "body": {
        "choices": [{"message": {"content": text}}]}}} for key, text in texts.items()))
    if model == MODEL:
        write_jsonl(path.with_name(f"test{tail}.requests.jsonl"), requests(run, model, stage, samples=samples))
    out = run.dir / f"results{tail}" / model / stage / "result.json"
    write_json(out, score_run(run, model, stage, path, samples=samples))
    manifest(out, [path])
    return path


def make_run(items: list[dict[str, Any]] | None = None, scripted: bool = True) -> Run:
    """A run with answers of base, dpo and a baseline; the last three instances are seen in training."""
    experiment = resolve("paper", [f"tasks={AD},{LSM}", "examples=label-only"])
    teacher = experiment.teacher.model_copy(update={"scripted": scripted, "model": "<i>teacher</i>"})
    run = declare("toy", experiment.model_copy(update={"teacher": teacher}))
    items = items or instances()
    write_jsonl(run.splits / "test.jsonl", items[:-3])
    write_jsonl(run.splits / "test_seen.jsonl", items[-3:])
    shots = [{**item, "id": f"shot {at}", "log": f"shot {at}"} for at, item in enumerate([*items[:3], *items[-3:]])]
    write_jsonl(run.splits / "examples.jsonl", shots)
    for stage in ("base", "dpo"):
        evaluate(run, stage, {item["id"]: answer(item, at % len(LOGS), stage) for at, item in enumerate(items)})
    evaluate(run, "baseline", {item["id"]: f"<answer>{items[0 if item['task'] == AD else -1]['label']}</answer>"
                            for item in items}, "majority")
    return run


def add_the_rest(run: Run) -> None:
    """What training, drawing and paying leave behind."""
    stage = run.stage_dir(MODEL, "dpo")
    losses = [{"step": 1, "loss": 0.6931}, {"step": 10, "loss": 0.5}, {"step": 20, "loss": float("nan")},
              {"step": 20, "loss": 0.25}, {"step": 20, "train_loss": 0.4}]
    write_json(stage / "adapter" / "trainer_state.json", {"log_history": losses})
    write_json(stage / "manifest.json", {"inputs": {"recipe": "a" * 64, "parent": {"weights": "c" * 64}},
                                         "weights": {"w": "b" * 64}, "steps": 20, "versions": {"torch": "2.13"},
                                         "commit": "<u>c0ffee</u>"})
    samples = run.dataset(MODEL, "dpo") / "samples.jsonl"
    write_jsonl(samples, [{}])
    manifest(samples, [], counts={AD: {"kept": 3}, LSM: {"kept": 4}})
    recipe = run.recipe(MODEL, "dpo")
    recipe.parent.mkdir(parents=True)
    recipe.write_text("stage: dpo # </pre><script>window.hacked = 5</script>\n")
    append_lines(samples.with_name("corrections.journal.jsonl"), [
        {"model": "gpt-4o-2024-08-06", "response": {"status_code": 200, "body": {
            "choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 4000, "completion_tokens": 500}}}}])
    (run.dir / "results" / "figure4.svg").write_text(SVG)


def page(run: Run, **options: Any) -> str:
    report.make_report(run, Path("report.html"), **options)
    return Path("report.html").read_text("utf-8")


def block(text: str, name: str) -> Any:
    found = re.search(rf'<script type="text/plain" id="{name}">([A-Za-z0-9+/=]*)</script>', text)
    assert found, name
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


class Elements(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def words(text: str) -> str:
    """What a reader sees of the page's own text."""
    visible = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(visible).split())


def test_every_part_is_in_the_page(workdir: Path) -> None:
    run = make_run()
    add_the_rest(run)
    text = page(run)
    said = words(text)
    assert "Scripted teacher: not a result." in said
    assert "Qwen" in said and "dpo" in said and "Baseline: Majority class" in said
    assert re.search(r"90\.0 \[\d+\.\d, \d+\.\d\]", said)  # dpo errs on one of ten
    # base: a text without a label, and one that only a lenient reader understands
    assert re.search(r"base disjoint = all( \d+\.\d \[[^\]]+\]){3} 10 2 ", said)
    assert f"{MODEL}, dpo 0.6931 → 0.2500, 3 logged" in said
    assert 'points="11.0,0.0 110.0,39.2 220.0,90.0"' in text
    assert "datasets/qwen2.5-7b/dpo/corrections.journal.jsonl 1 answers, 4,000 tokens in, 500 out, 0.0150" in said
    assert f"models/{MODEL}/dpo {'b' * 12} steps 20, torch 2.13, commit <u>c0ffee</u>; from recipe {'a' * 12}" in said
    assert "kept 7" in said and "stage: dpo # </pre><script>" in said
    overview, figure = Elements(text).of("img")
    assert figure["src"] == f"data:image/svg+xml;base64,{base64.b64encode(SVG.encode()).decode()}"
    drawn = base64.b64decode(str(overview["src"]).partition(",")[2]).decode()
    assert "scripted teacher, tiny model: not a result" in drawn and "published" not in drawn
    assert text.index("overview") < text.index("Tables")


def test_a_run_with_a_real_teacher_has_the_papers_tables_and_no_mark(workdir: Path) -> None:
    said = words(page(make_run(scripted=False)))
    assert "the paper's Table 3" in said and "60.87 95.35 74.31 (+24.7)" in said
    assert "Scripted teacher" not in said and "No stage of this run was trained here." in said


def test_predictions_carry_prompt_labels_and_steps(workdir: Path) -> None:
    text = page(make_run())
    about, items = block(text, "about"), block(text, "instances")
    assert [entry["key"] for entry in about["entries"]] == [f"{MODEL}/base", f"{MODEL}/dpo", "majority/baseline"]
    assert [entry["prompted"] for entry in about["entries"]] == [True, True, False]
    asked = {line["custom_id"]: line["body"]["messages"][0]["content"] for _, line in read_jsonl(
        f"build/runs/toy/predictions/{MODEL}/base/test.requests.jsonl")}
    assert {item["id"]: about["tasks"][item["task"]]["prompt"] + item["prompt"] for item in items} == asked
    assert [item["log"] for item in items[10:]] == LOGS and items[0]["log"] == f"{LOGS[0]}\nsecond line"
    assert [item["seen"] for item in items] == [0] * 17 + [1] * 3
    base = block(text, "entry-0")
    assert base[0] == ["normal", "normal", False, [[answer(instances()[0], 0, "base"), [
        f"Read it: {HOSTILE[1]}", "The base model decides."]]]]
    assert base[3] == [None, None, False, [[HOSTILE[0], None]]]
    assert base[4][:2] == [None, "normal"] and base[5][0] == "normal"
    assert {len(block(text, f"entry-{at}")) for at in range(3)} == {20}


def test_logs_and_answers_cannot_become_markup(workdir: Path) -> None:
    run = make_run()
    add_the_rest(run)
    text = page(run)
    for hostile in ("window.hacked", "{{ 7 * 7 }}", "\u2028", "\u0000", "<i>", "<u>"):
        assert hostile not in text.replace("&lt;script&gt;window.hacked = 5", "")
    found = Elements(text)
    blocks = [each for each in found.of("script") if each.get("type") == "text/plain"]
    assert [each["id"] for each in blocks] == ["about", "instances", "entry-0", "entry-1", "entry-2"]
    assert len(found.of("script")) == len(blocks) + 1 and len(found.of("style")) == 1
    assert len(found.of("img")) == 2
    assert not [key for _, attributes in found.found for key in attributes if key.startswith("on") or key == "style"]
    places = [attributes.get(key) for _, attributes in found.found for key in ("src", "href") if key in attributes]
    assert [place for place in places if not str(place).startswith(("data:", "#"))] == []


def test_the_policy_allows_the_pages_own_script_and_style_only(workdir: Path) -> None:
    text = page(make_run())
    policy = next(each["content"] for each in Elements(text).of("meta") if each.get("http-equiv"))
    assert policy and policy.startswith("default-src 'none';") and "unsafe" not in policy
    for kind, inline in ("script", re.search(r"<script>(.*?)</script>", text, re.DOTALL)), (
            "style", re.search(r"<style>(.*?)</style>", text, re.DOTALL)):
        assert inline
        known = base64.b64encode(hashlib.sha256(inline[1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{known}';" in policy


def test_equal_inputs_give_equal_bytes(workdir: Path) -> None:
    run = make_run()
    add_the_rest(run)
    out = run.dir / "results" / "report.html"
    report.make_report(run, out)
    first = out.read_bytes()
    report.make_report(run, out)
    assert out.read_bytes() == first
    inputs = read_json(f"{out}.manifest.json")["inputs"]
    assert f"build/runs/toy/predictions/{MODEL}/dpo/test.responses.jsonl" in inputs


def test_the_command_takes_some_models(workdir: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    monkeypatch.setattr(sys, "argv", ["eval.report", "--run", "toy", "--models", f"{MODEL}/dpo", "majority"])
    report.main()
    assert "40 predictions of 2 models and stages" in capsys.readouterr().out
    text = Path("build/runs/toy/results/report.html").read_text("utf-8")
    assert [entry["key"] for entry in block(text, "about")["entries"]] == [f"{MODEL}/dpo", "majority/baseline"]
    monkeypatch.setattr(sys, "argv", ["eval.report", "--run", "toy", "--models", "gpt-5"])
    with pytest.raises(SystemExit, match=f"no results of 'gpt-5' in run toy; there are {MODEL}/base, "):
        report.main()


def test_votes_show_every_sample_and_a_refusal_says_why(workdir: Path) -> None:
    run = make_run()
    path = evaluate(run, "dpo", {f"{item['id']}#{at}": f"<answer>{item['label']}</answer> {at}"
                                 for item in instances() for at in (2, 0, 1)}, samples=3)
    lines = path.read_text().splitlines()
    refused = {"custom_id": "lsm 0#1", "response": {"status_code": 400, "body": {"error": "too long"}}}
    path.write_text("\n".join(line for line in lines if '"lsm 0#1"' not in line) + "\n" + json.dumps(refused) + "\n")
    out = run.dir / "results.samples3" / MODEL / "dpo" / "result.json"
    write_json(out, score_run(run, MODEL, "dpo", path, samples=3))
    manifest(out, [path])
    text = page(run, samples=3)
    assert "majority of 3 votes" in words(text)
    row = block(text, "entry-0")[10]
    assert row == ["True", "True", False, [
        ["<answer>True</answer> 0", None], ["(no answer: status 400: too long)", None],
        ["<answer>True</answer> 2", None]]]


def test_what_is_missing_or_changed_is_said(workdir: Path) -> None:
    run = declare("empty", resolve("paper", []))
    with pytest.raises(UserError, match="no results yet; score a model first"):
        report.make_report(run, Path("report.html"))
    run = make_run()
    path = run.dir / "predictions" / "majority" / "baseline" / "test.responses.jsonl"
    path.unlink()
    assert "Scored, but the answers are not here: majority/baseline." in words(page(run))
    path = run.dir / "predictions" / MODEL / "dpo" / "test.responses.jsonl"
    path.write_text(path.read_text().replace("abnormal", "normal"))
    with pytest.raises(UserError, match=r"dpo/test.responses.jsonl: not the answers that .* scores; score them again"):
        report.make_report(run, Path("other.html"))
    assert not Path("other.html").exists()
