import csv
import html
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import figures, score
from eval.tables import load_results
from logreasoner.cli import escape_terminal
from logreasoner.config import Run, declare, resolve, task
from logreasoner.files import manifest, write_jsonl
from logreasoner.paper import published

PFP, RCA = "potential_failure_prediction", "root_cause_analysis"
SOURCES = [(PFP, "huawei-security"), (PFP, "h3c-security"), (RCA, "huawei-security"), (RCA, "huawei-switches"),
           (RCA, "huawei-routers")]


def make_run(name: str = "toy", scripted: bool = False, **changes: Any) -> Run:
    """Each source has eight logs with two labels in turn, the first five of them disjoint from training."""
    experiment = resolve("paper", [])
    teacher = experiment.teacher.model_copy(update={"scripted": scripted})
    run = declare(name, experiment.model_copy(update={"teacher": teacher, **changes}))
    for split, places in (("test", range(5)), ("test_seen", range(5, 8))):
        write_jsonl(run.splits / f"{split}.jsonl", (
            {"id": f"{one}-{source}-{at}", "task": one, "source": source, "log": f"{source} {at}",
             "label": task(one).labels[at % 2]} for one, source in SOURCES for at in places))
    return run


def evaluate(run: Run, model: str, stage: str, wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Score answers of which the first `wrong` of each source are the other label; one more cannot be parsed."""
    def answer(one: str, at: int) -> str:
        return "no idea" if at == 7 else f"<answer>{task(one).labels[(at + (at < wrong)) % 2]}</answer>"

    write_jsonl("R.jsonl", ({"custom_id": f"{one}-{source}-{at}", "error": None, "response": {
        "status_code": 200, "body": {"choices": [{"message": {"content": answer(one, at)}}]}}}
        for one, source in SOURCES for at in range(8)))
    out = run.dir / "results" / model / stage / "result.json"
    monkeypatch.setattr(sys, "argv", ["eval.score", "--run", run.name, "--model", model, "--stage", stage,
                                      "--responses", "R.jsonl", "--out", str(out)])
    score.main()


def command(run: Run, which: int | str, monkeypatch: pytest.MonkeyPatch, *options: str, out: str = "out"
            ) -> list[dict[str, str]]:
    monkeypatch.setattr(sys, "argv", ["eval.figures", "--run", run.name, "--figure", str(which), "--out", out,
                                      *options])
    figures.main()
    name = which if which == "overview" else f"figure{which}"
    with open(f"{out}/{name}.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def only(found: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    rows = [row for row in found if all(row[key] == value for key, value in wanted.items())]
    assert len(rows) == 1, rows
    return rows[0]


def text_of(picture: Path) -> str:
    """The text of an SVG file: matplotlib draws glyphs and leaves what they say in comments."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    return html.unescape("\n".join(node.text or "" for node in ET.parse(picture, parser).iter(ET.Comment)))


def test_values_are_those_of_the_scores(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    evaluate(run, "llama3.1-8b", "dpo", 2, monkeypatch)
    evaluate(run, "majority", "baseline", 3, monkeypatch)
    found = command(run, 4, monkeypatch)
    scored = load_results(run)["llama3.1-8b", "dpo"]
    for test_set, n, unparsed in ("disjoint", 5, 0), ("all", 8, 1):
        one = scored[RCA, "huawei-security", test_set].metrics["accuracy"]
        row = only(found, panel="rca", point="logreasoner", test_set=test_set)
        assert [row[key] for key in ("value", "low", "high")] == [
            f"{100 * one[key]:.4f}" for key in ("value", "low", "high")]
        assert (row["n"], row["unparsed"], row["state"]) == (str(n), str(unparsed), "measured")
        row = only(found, panel="pfp", point="logreasoner", test_set=test_set)
        two = [scored[PFP, source, test_set].metrics["f1"]["value"] for source in ("huawei-security", "h3c-security")]
        assert row["value"] == f"{50 * sum(two):.4f}" and row["n"] == str(2 * n)
        assert float(row["low"]) < float(row["value"]) < float(row["high"])
    assert only(found, panel="rca", model="majority", test_set="all")["state"] == "baseline"
    text = text_of(Path("out/figure4.svg"))
    assert "2 of 8 points measured, on test logs that no training split holds" in " ".join(text.split())
    assert "Baseline: majority class of the training rows" in text and "n = 10" in text and "not run" in text


def test_published_values_stand_beside_measured_ones(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    evaluate(run, "llama3.1-8b", "thought-sft-60", 2, monkeypatch)
    found = command(run, 5, monkeypatch, "--test-set", "all")
    stated = only(found, panel="rca", point="thoughts-60", test_set="all")
    assert (stated["series"], stated["x"], stated["published"]) == ("Stage 1: thoughts", "60", "37.50")  # 19.04 + 18.46
    assert only(found, panel="rca", point="instances-100", test_set="all")["published"] == "50.78"  # Table 3
    assert only(found, panel="pfp", point="thoughts-60", test_set="all")["state"] == "not run"  # no such sources here
    assert len(found) == 12 * 2 * 2
    text = " ".join(text_of(Path("out/figure5.svg")).split())
    assert "1 of 24 points measured, on all test logs." in text and "published (section 4.5.3 or tables)" in text
    two = command(run, 5, monkeypatch, "--models", "llama3.1-8b", "qwen2.5-7b")
    assert {(row["model"], row["published"] != "") for row in two} == {
        ("llama3.1-8b", True), ("llama3.1-8b", False), ("qwen2.5-7b", True), ("qwen2.5-7b", False)}
    assert {row["point"] for row in two if row["model"] == "qwen2.5-7b" and row["published"]} == {
        "thoughts-0", "instances-100"}  # rows of Tables 3 and 5; what the text states is of Llama
    assert "Qwen2.5-7B" in text_of(Path("out/figure5.svg"))


@pytest.mark.parametrize("number", [4, 5, 6, 7, 8])
def test_every_picture_is_valid_and_the_same_again(number: int, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    run = make_run()
    for stage in ("dpo", "dpo-self", "solution-sft", "direct-sft"):
        evaluate(run, "llama3.1-8b", stage, 1, monkeypatch)
    command(run, number, monkeypatch)
    command(run, number, monkeypatch, out="again")
    for form in ("png", "svg", "csv"):
        one, two = (Path(folder, f"figure{number}.{form}") for folder in ("out", "again"))
        assert one.read_bytes() == two.read_bytes()
    with Image.open(f"out/figure{number}.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 1000 and len(set(image.convert("L").tobytes())) > 20
    assert f"Figure {number}. {published().figure(number).title}" in text_of(Path(f"out/figure{number}.svg"))


def test_a_scripted_run_says_so_and_has_no_published_number(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(scripted=True, sources={"huawei-security": "huawei-switches"})
    evaluate(run, "llama3.1-8b", "dpo", 1, monkeypatch)
    found = command(run, 4, monkeypatch)
    assert {row["published"] for row in found} == {""}
    assert only(found, panel="rca", point="logreasoner", test_set="all")["sources"] == "huawei-switches"
    text = text_of(Path("out/figure4.svg"))
    assert "scripted teacher, tiny model: not a result" in text and "published" not in text


def test_the_overview_puts_published_and_measured_scores_on_each_test_file(workdir: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    evaluate(run, "llama3.1-8b", "dpo", 2, monkeypatch)
    evaluate(run, "llama3.1-8b", "thought-sft", 1, monkeypatch)
    evaluate(run, "majority", "baseline", 3, monkeypatch)
    evaluate(run, "tfidf-lr", "baseline", 1, monkeypatch)
    rows = command(run, "overview", monkeypatch)
    switches = {"task": RCA, "test_file": "huawei-switches", "test_set": "all"}
    row, score = only(rows, **switches, method="logreasoner-llama3.1-8b"), load_results(run)["llama3.1-8b", "dpo"]
    assert row["value"] == f"{100 * score[RCA, 'huawei-switches', 'all'].metrics['accuracy']['value']:.4f}"
    assert [row[key] for key in ("published", "metric", "n", "unparsed", "seen", "state")] == [
        "54.63", "accuracy", "8", "1", "3", "measured"]
    assert only(rows, **switches, method="gpt-4o")["state"] == "not run"
    assert only(rows, **switches, method="llama3.1-8b/thought-sft")["published"] == ""
    assert {row["method"] for row in rows if row["published"]} == {"gpt-4o", "llama3.1-8b", "logreasoner-llama3.1-8b"}
    assert len({(row["task"], row["test_file"]) for row in rows}) == 2 + 2 + 4 + 4  # no file that the paper lacks
    text = " ".join(text_of(Path("out/overview.svg")).split())
    assert "constant answer: majority class, or always positive" in text and "n = 8, 3 seen" in text
    assert "LogReasoner (Llama3.1-8B) (published)" in text and "published only" in text
    assert "on all test logs." in text and "Hollow: as the paper prints it" in text
    command(run, "overview", monkeypatch, out="again")
    for form in ("png", "svg", "csv"):
        assert Path(f"out/overview.{form}").read_bytes() == Path(f"again/overview.{form}").read_bytes()
    other = command(run, "overview", monkeypatch, "--models", "qwen2.5-7b", "--test-set", "disjoint")
    assert {row["method"] for row in other if row["published"]} == {"gpt-4o", "qwen2.5-7b", "logreasoner-qwen2.5-7b"}
    assert "n = 5" in text_of(Path("out/overview.svg"))


def test_the_overview_of_a_scripted_run_has_no_published_number(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(scripted=True)
    evaluate(run, "tiny", "dpo", 1, monkeypatch)
    for name in ("majority", "always-positive"):
        evaluate(run, name, "baseline", 3, monkeypatch)
    rows = command(run, "overview", monkeypatch)
    assert {row["published"] for row in rows} == {""} and {row["task"] for row in rows} == {PFP, RCA}
    text = text_of(Path("out/overview.svg"))
    assert figures.SCRIPTED in text and "all sources" in text and "published" not in text


def test_names_are_text_and_nothing_else(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    title = "_$\\frac{$ <b>&--\n\x00\x1b[31m {model}"
    run = make_run(models={"llama3.1-8b": {"title": title}})
    evaluate(run, "llama3.1-8b", "dpo", 1, monkeypatch)
    command(run, 4, monkeypatch)
    assert escape_terminal(title) == "_$\\frac{$ <b>&--\\n\\x00\\x1b[31m {model}"
    assert r"_$\frac{$ &lt;b&gt;&amp;" in Path("out/figure4.svg").read_text(encoding="utf-8")
    assert "LogReasoner (_$" in text_of(Path("out/figure4.svg"))


@pytest.mark.parametrize(("options", "said"), [
    (["--figure", "4"], r"no results yet; score a model first: make eval RUN=toy"),
    (["--figure", "overview"], r"no results yet; score a model first: make eval RUN=toy"),
    (["--figure", "3"], r"no figure 3; the paper's figures with results are 4, 5, 6, 7, 8, 10"),
    (["--figure", "10"], r"samples\.jsonl: no such file; do: make thoughts"),
])
def test_what_is_missing_is_named(options: list[str], said: str, workdir: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    make_run()
    monkeypatch.setattr(sys, "argv", ["eval.figures", "--run", "toy", *options])
    with pytest.raises(SystemExit, match=said):
        figures.main()
    assert not list(Path("build").rglob("figure*"))


def test_an_unknown_model_is_named(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    evaluate(run, "llama3.1-8b", "dpo", 1, monkeypatch)
    with pytest.raises(SystemExit, match="unknown model 'llama9'"):
        command(run, 4, monkeypatch, "--models", "llama9")


def scored(source: str, matrix: list[list[int]], rules: Any) -> Any:
    found = score.summary(matrix, rules)
    return figures.Scored(task=rules.name, source=source, test_set="all", whole=found["n"], **found,
                          lenient={
                              "counts": matrix, **{key: found[key] for key in ("unparsed", "cut", "metrics")}})


def test_the_interval_of_a_mean_is_what_resampling_gives_where_scores_are_moderate() -> None:
    rules = task(PFP)
    matrices = [[[120, 40, 1], [30, 60, 1]], [[140, 30, 0], [20, 30, 2]], [[70, 30, 0], [20, 20, 2]]]
    found = figures.mean([scored(str(at), matrix, rules) for at, matrix in enumerate(matrices)], "f1")
    draws = np.zeros(score.RESAMPLES)
    for matrix in np.array(matrices):
        drawn = np.random.default_rng(1).multinomial(matrix.sum(), matrix.ravel() / matrix.sum(), len(draws))
        draws += np.random.default_rng(int(matrix.sum())).permutation(
            score.measures(drawn.reshape(-1, *matrix.shape), 0)["f1"]) / len(matrices)
    assert (found["low"], found["high"]) == pytest.approx(tuple(100 * np.percentile(draws, [2.5, 97.5])), abs=0.5)
    assert (found["n"], found["unparsed"]) == (int(np.sum(matrices)), 6)


@pytest.mark.parametrize("matrix", [[[9, 0, 0], [0, 9, 0]], [[0, 9, 0], [9, 0, 0]]])
def test_a_perfect_mean_is_not_certain(matrix: list[list[int]]) -> None:
    found = figures.mean([scored(source, matrix, task(PFP)) for source in "ab"], "f1")
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 100 + 1e-9 and found["high"] - found["low"] > 10


def write_thoughts(run: Run, steps: list[int]) -> Path:
    folder = run.dataset("shared", "thought-sft")
    names = ["handbook", *run.experiment.tasks]
    write_jsonl(folder / figures.THOUGHTS, (
        {"id": f"p-{at}", "task": names[at % 5], "prompt": "?", "response": "\n".join(
            ["Problem overview: x", "Key challenges:", "- 1. is a number", "Reasoning steps:",
             *(f"{number}. Look at 2. of it" for number in range(1, count + 1))])} for at, count in enumerate(steps)))
    np.save(folder / figures.EMBEDDED, np.random.default_rng(0).normal(size=(len(steps), 8)).astype(np.float32))
    manifest(folder / figures.EMBEDDED, [folder / figures.THOUGHTS])
    return folder


def test_figure_10_shows_every_thought(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    steps = [3, 4, 4, 5, 5, 5, 4, 8, 4, 5]
    write_thoughts(run, steps)
    found = command(run, 10, monkeypatch)
    assert [(row["id"], int(row["steps"])) for row in found] == [(f"p-{at}", count) for at, count in enumerate(steps)]
    assert len({(row["x"], row["y"]) for row in found}) == 10
    text = " ".join(text_of(Path("out/figure10.svg")).split())
    low, high = score.wilson(8, 10)
    assert f"4 or 5: 80.0% [{100 * low:.1f}, {100 * high:.1f}]; published: >86%" in text
    assert "n = 10" in text and "Handbook cases" in text and task(RCA).title in text
    assert command(run, 10, monkeypatch, out="again") == found
    assert Path("out/figure10.png").read_bytes() == Path("again/figure10.png").read_bytes()


@pytest.mark.parametrize("count", [2, 3, 40])
def test_few_thoughts_are_drawn_and_a_scripted_teachers_are_marked(count: int, workdir: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(scripted=True)
    write_thoughts(run, [4] * count)
    assert len(command(run, 10, monkeypatch)) == count
    text = text_of(Path("out/figure10.svg"))
    assert figures.SCRIPTED in text and "86%" not in text


def test_embeddings_of_other_thoughts_are_refused(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    folder = write_thoughts(run, [4, 4, 5])
    rows = (folder / figures.THOUGHTS).read_text()
    (folder / figures.THOUGHTS).write_text(rows.replace("p-0", "p-9"))
    with pytest.raises(SystemExit, match="not of the thoughts that .* has now; remove it and do: make figure10"):
        command(run, 10, monkeypatch)
    write_jsonl(folder / figures.THOUGHTS, [{"id": "p-0", "task": RCA, "response": "no steps"}])
    with pytest.raises(SystemExit, match=re.escape("samples.jsonl:1: no numbered reasoning steps")):
        command(run, 10, monkeypatch)
