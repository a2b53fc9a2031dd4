import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from eval import score
from eval.predictions import Answer, stratified, vote
from eval.provenance import check_answers
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, resolve, task
from logreasoner.files import manifest, read_json, write_json, write_jsonl
from logreasoner.instances import Instance

RCA, AD = task("root_cause_analysis"), task("anomaly_detection")


def rows(*labels: str, name: str = "anomaly_detection") -> list[dict[str, Any]]:
    return [{"id": f"i{at}", "task": name, "source": "s", "log": f"log {at}", "label": label}
            for at, label in enumerate(labels)]


def response(custom_id: str, text: str | None, status: int = 200) -> dict[str, Any]:
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]} if status == 200 else {"error": "boom"}
    return {"custom_id": custom_id, "response": {"status_code": status, "body": body}, "error": None}


def answer(custom_id: str, label: str) -> dict[str, Any]:
    return response(custom_id, f"<solutions>\n1. look\n</solutions>\n<answer> {label} </answer>")


def run(*more: str, name: str = "anomaly_detection") -> None:
    arguments = ["--task", name, "--instances", "I.jsonl", "--responses", "R.jsonl", "--out", "out/result.json", *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["eval.score", *arguments])
        score.main()


def scored(instances: list[dict[str, Any]], responses: list[dict[str, Any]], *more: str) -> dict[str, Any]:
    write_jsonl("I.jsonl", instances)
    write_jsonl("R.jsonl", responses)
    run(*more, name=instances[0]["task"] if instances else "anomaly_detection")
    return read_json("out/result.json")


@pytest.fixture(autouse=True)
def folder(workdir: Path) -> Iterator[None]:
    yield


def test_a_worked_example() -> None:
    """Truth a a a n n; answered a, a, unparsed, a, n: TP 2, FP 1, FN 1, one normal right."""
    result = scored(rows("abnormal", "abnormal", "abnormal", "normal", "normal"),
                    [answer("i4", "normal"), answer("i0", "Abnormal"), answer("i1#0", "abnormal"),
                     response("i2", "I cannot say"), answer("i3", "abnormal")], "--fact", "model=m")
    assert (result["n"], result["unparsed"], result["task"]) == (5, 1, "anomaly_detection")
    assert result["label_counts"] == {"normal": 2, "abnormal": 3}
    assert result["confusion"] == {"rows": ["normal", "abnormal"], "columns": ["normal", "abnormal", "no label"],
                                   "counts": [[1, 1, 0], [0, 2, 1]]}
    values = {name: part["value"] for name, part in result["metrics"].items()}
    assert values == pytest.approx({"accuracy": 3 / 5, "weighted_f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3,
                                    "f1": 2 / 3})
    assert result["facts"] == {"model": "m"}
    assert read_json("out/result.json.manifest.json")["inputs"].keys() == {"I.jsonl", "R.jsonl"}


def test_a_task_without_a_positive_class_has_two_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    result = scored(rows("EventTrap", "equipmentAlarm", name="root_cause_analysis"),
                    [answer("i0", "EventTrap"), answer("i1", "EventTrap")])
    assert result["metrics"].keys() == {"accuracy", "weighted_f1"}
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy"))
    assert line.split() == ["accuracy", "50.0", "[9.5,", "90.5]", "n=2", "unparsed=0"]


MATRICES = st.integers(2, 5).flatmap(lambda size: st.lists(
    st.lists(st.integers(0, 6), min_size=size + 1, max_size=size + 1), min_size=size, max_size=size)).filter(
    lambda matrix: any(map(any, matrix)))


@settings(deadline=None)
@given(MATRICES)
def test_point_values_are_scikit_learns(matrix: list[list[int]]) -> None:
    size = len(matrix)
    cells = [(truth, answered, count) for truth, row in enumerate(matrix) for answered, count in enumerate(row)]
    truth, answered = zip(*[(truth, answered) for truth, answered, count in cells for _ in range(count)], strict=True)
    ours = score.measures(np.array(matrix), 0)
    parts = precision_recall_fscore_support(truth, answered, labels=[0], average=None, zero_division=0)
    names = list(range(size + 1))  # unparsed is a class that no instance has
    weighted = precision_recall_fscore_support(truth, answered, labels=names, average="weighted", zero_division=0)[2]
    theirs = {"accuracy": accuracy_score(truth, answered), "weighted_f1": weighted,
              **{name: part[0] for name, part in zip(("precision", "recall", "f1"), parts, strict=False)}}
    assert {name: float(value) for name, value in ours.items()} == pytest.approx(theirs)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 50), min_size=6, max_size=6).filter(any))
def test_every_interval_holds_its_value_and_is_repeatable(counts: list[int]) -> None:
    matrix = [counts[:3], counts[3:]]
    result = score.scores(matrix, AD)
    assert result == score.scores(matrix, AD)
    for part in result.values():
        assert 0 <= part["low"] <= part["value"] <= part["high"] <= 1


def test_wilson_by_the_book() -> None:
    assert score.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Newcombe 1998's formula by hand
    assert score.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert score.wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert score.wilson(0, 0) == (0, 1)


def test_the_bootstrap_is_resampling_of_instances() -> None:
    matrix = [[30, 8, 2], [6, 50, 4]]
    pairs = np.array([(t, f) for t, row in enumerate(matrix) for f, count in enumerate(row) for _ in range(count)])
    draws = pairs[np.random.default_rng(1).integers(0, len(pairs), (20_000, len(pairs)))]
    hits = ((draws[..., 0] == 1) & (draws[..., 1] == 1)).sum(1)
    f1 = 2 * hits / ((draws[..., 0] == 1).sum(1) + (draws[..., 1] == 1).sum(1))
    ours = score.scores(matrix, AD)["f1"]
    assert (ours["low"], ours["high"]) == pytest.approx(np.percentile(f1, [2.5, 97.5]), abs=0.005)  # 5% is 0.01 away


def test_a_perfect_or_hopeless_score_is_not_certain() -> None:
    perfect, hopeless = score.scores([[5, 0, 0], [0, 5, 0]], AD), score.scores([[5, 0, 0], [5, 0, 0]], AD)
    assert perfect["f1"]["low"] < 0.8 and perfect["weighted_f1"]["low"] < 0.8
    assert hopeless["f1"]["value"] == 0 < 0.4 < hopeless["f1"]["high"] < 1
    assert hopeless["precision"] == {"value": 0, "low": 0, "high": 1}  # it never answered abnormal: nothing is known


TWO = rows("normal", "abnormal")
GOOD = [answer("i0", "normal"), answer("i1", "abnormal")]


@pytest.mark.parametrize(("instances", "responses", "message"), [
    (TWO, GOOD[:1], r"R.jsonl: 1 id, the first 'i1': without an answer"),
    (TWO, [GOOD[0], response("i1", None, 500)], r"'i1': without an answer \(status 500: boom\)"),
    (TWO, [*GOOD, GOOD[0], GOOD[1]], r"R.jsonl: 2 ids, the first 'i0': answered twice"),
    (TWO, [*GOOD, answer("i9", "normal")], r"R.jsonl: 1 id, the first 'i9': of no instance"),
    (TWO, [answer("i0#x", "normal"), GOOD[1]], r"'i0#x': of no instance"),
    (TWO, [answer("i0#0", "normal"), answer("i0#1", "normal"), GOOD[1]], r"'i0#1': not one of the votes"),
    (TWO, [{"response": {}}], r"R.jsonl:1: a response needs a custom_id"),
    (TWO, [*GOOD, {"custom_id": ["i0"]}], r"R.jsonl:3: a response needs a custom_id"),
    (TWO, [{"custom_id": "i0", "response": [1]}, GOOD[1]], r"'i0': without an answer"),
    (TWO, [{"custom_id": "i0", "response": {"status_code": 200, "body": "x"}}, GOOD[1]], r"'i0': without an answer"),
    ([], [], r"I.jsonl: no instances"),
    ([*TWO, *TWO], GOOD, r"I.jsonl:3: id 'i0' comes twice"),
    (rows("normal", "odd"), GOOD, r"I.jsonl: instance 2 \('i1'\) has the label 'odd'"),
    ([TWO[0], {**TWO[1], "task": "other"}], GOOD, r"instance 2 \('i1'\) is of task 'other', not 'anomaly_detection'"),
])
def test_a_smaller_n_is_never_silent(instances: list[Any], responses: list[Any], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        scored(instances, responses)
    assert not Path("out").exists()


@pytest.mark.parametrize("line", ["[" * 100_000, "{", '"x"', "\ufeff{", "\x00", '{"custom_id": 1' + "0" * 5000 + "}"])
def test_a_broken_line_is_named(line: str) -> None:
    write_jsonl("I.jsonl", TWO)
    Path("R.jsonl").write_text(json.dumps(GOOD[0]) + "\n" + line + "\n")
    with pytest.raises(SystemExit, match="error: R.jsonl:2: "):
        run()


def test_lenient_scores_are_reported_beside_strict_ones(capsys: pytest.CaptureFixture[str]) -> None:
    result = scored(TWO, [response("i0", "Answer: normal"), GOOD[1]])
    assert (result["unparsed"], result["metrics"]["accuracy"]["value"]) == (1, 0.5)
    assert result["lenient"]["unparsed"] == 0 and result["lenient"]["counts"] == [[1, 0, 0], [0, 1, 0]]
    assert result["lenient"]["metrics"] == score.scores([[1, 0, 0], [0, 1, 0]], AD)
    assert "n=2 unparsed=1 | read leniently 100.0 [34.2, 100.0] n=2 unparsed=0" in capsys.readouterr().out
    same = scored(TWO, GOOD)
    assert same["lenient"]["metrics"] == same["metrics"] and "leniently" not in capsys.readouterr().out


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_for_good_has_no_label(status: int) -> None:
    """Too long, say: no engine asks it again, so as a missing answer it would stop the evaluation for ever."""
    result = scored(TWO, [response("i0", None, status), GOOD[1]])
    assert (result["n"], result["unparsed"]) == (2, 1)


LABEL = st.sampled_from(["normal", "abnormal", None])


@given(st.lists(st.tuples(LABEL, LABEL).map(lambda pair: Answer(*pair)), min_size=1, max_size=9))
def test_the_majority_wins_and_the_first_vote_decides_a_tie(votes: list[Answer]) -> None:
    for winner, labels in zip(vote(votes), zip(*votes, strict=True), strict=True):
        parsed = [label for label in labels if label is not None]
        best = max(map(parsed.count, parsed), default=0)
        assert winner == next((label for label in parsed if parsed.count(label) == best), None)


def test_votes_are_ordered_by_their_numbers_and_read_strictly_and_leniently() -> None:
    votes = [answer("i0#2", "normal"), answer("i0#0", "abnormal"), response("i0#1", "?"),
             response("i1#0", "Answer: normal"), response("i1#2", "Answer: normal"), answer("i1#1", "abnormal")]
    result = scored(TWO, votes, "--samples", "3")
    assert result["samples"] == 3
    assert result["confusion"]["counts"] == [[0, 1, 0], [0, 1, 0]]  # a tie in i0, the one parsed label in i1
    assert result["lenient"]["counts"] == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(("responses", "message"), [
    ([answer("i0#0", "normal"), *GOOD], "2 ids, the first 'i0': not one of the votes that are scored"),
    ([answer(f"i{at}#{sample}", "normal") for at in range(2) for sample in range(3)], "the first 'i0#2': not one of"),
    ([answer(key, "normal") for key in ("i0#0", "i0#1", "i1#1")], "1 id, the first 'i1#0': without an answer"),
    ([answer(key, "normal") for key in ("i0#0", "i0#0", "i0#1", "i1#0", "i1#1")], "the first 'i0#0': answered twice"),
    ([answer("i0#" + "9" * 5000, "normal")], "of no instance"),
])
def test_votes_that_are_missing_or_too_many(responses: list[Any], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        scored(TWO, responses, "--samples", "2")


@pytest.mark.parametrize("text", ["\x00", "<answer>" * 50_000, "[" * 100_000, "\ud800<answer>?</answer>", "", None])
def test_hostile_answers_are_unparsed_and_nothing_else(text: str | None) -> None:
    result = scored(TWO, [response("i0", text), GOOD[1]])
    assert (result["n"], result["unparsed"], result["metrics"]["accuracy"]["value"]) == (2, 1, 0.5)


def test_an_error_followed_by_an_answer_is_an_answer() -> None:
    assert scored(TWO, [response("i0", None, 429), *GOOD])["metrics"]["accuracy"]["value"] == 1


@pytest.mark.parametrize("arguments", [["--task", "anomaly_detection"], ["--run", "r"], [],
                                       ["--task", "anomaly_detection", "--instances", "I.jsonl", "--run", "r"],
                                       ["--task", "anomaly_detection", "--instances", "I.jsonl", "--limit", "5"]])
def test_the_two_forms_do_not_mix(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["eval.score", "--responses", "R.jsonl", "--out", "x.json", *arguments])
    with pytest.raises(SystemExit, match="give either --task"):
        score.main()


def test_a_metric_that_a_task_cannot_have_is_named() -> None:
    with pytest.raises(UserError, match=r"root_cause_analysis.yaml: metrics: 'recall'"):
        score.scores([[1, 0]], RCA.model_copy(update={"metrics": ["recall"]}))


def split(*groups: tuple[str, str, int], prefix: str) -> list[Instance]:
    """Instances of (source, label, how many) groups."""
    return [Instance(f"{prefix}-{source}-{label}-{at}", "anomaly_detection", source, "x", label)
            for source, label, count in groups for at in range(count)]


GROUPS = st.lists(st.tuples(st.sampled_from(["s", "t"]), st.sampled_from(["normal", "abnormal"]), st.integers(0, 40)),
                  max_size=4, unique_by=lambda group: group[:2])


@given(GROUPS, GROUPS, st.integers(1, 50), st.integers(0, 20))
def test_a_subset_is_nested_and_keeps_the_proportions(clean: list[Any], seen: list[Any], limit: int, more: int) -> None:
    splits = split(*clean, prefix="clean"), split(*seen, prefix="seen")
    subset, larger = stratified(splits, limit), stratified(splits, limit + more)
    for source in ("s", "t"):
        sizes = {("clean", label): count for where, label, count in clean if where == source} | {
            ("seen", label): count for where, label, count in seen if where == source}
        total, taken = sum(sizes.values()), [item for part in subset for item in part if item.source == source]
        assert len(taken) == min(limit, total)
        for (prefix, label), size in sizes.items():
            count = sum(item.id.startswith(f"{prefix}-") and item.label == label for item in taken)
            assert abs(count - len(taken) * size / max(total, 1)) < 3
    for part, wider, whole in zip(subset, larger, splits, strict=True):
        assert set(item.id for item in part) <= set(item.id for item in wider)
        assert part == [item for item in whole if item in part]
    assert stratified(splits, None) == splits


@pytest.mark.parametrize("limit", [1, 5, 10, 50])
def test_a_small_subset_is_not_biased_by_the_rounding_of_its_strata(limit: int) -> None:
    """Of 400 sources with 73 in 100 of one label and 27 of nine others, which rounding would always leave out."""
    labels = ["normal"] * 73 + [f"rare {at % 9}" for at in range(27)]
    items = [Instance(f"{source}-{at}", "t", f"source {source}", "x", label) for source in range(400)
             for at, label in enumerate(labels)]
    drawn = stratified((items, []), limit)[0]
    assert sum(item.label == "normal" for item in drawn) / len(drawn) == pytest.approx(0.73, abs=0.04 / limit**0.5)


def test_a_subset_depends_on_ids_alone() -> None:
    """Not on the order of the rows: it must be the same in every later version, as paid answers depend on it."""
    splits = split(("s", "normal", 30), ("s", "abnormal", 10), prefix="a"), split(("s", "normal", 20), prefix="b")
    subset = sorted(item.id for part in stratified(splits, 6) for item in part)
    backwards = stratified((splits[0][::-1], splits[1][::-1]), 6)
    assert subset == sorted(item.id for part in backwards for item in part)
    assert subset == ["a-s-abnormal-1", *(f"a-s-normal-{at}" for at in (10, 12, 13)), "b-s-normal-11", "b-s-normal-17"]


def make_run() -> Run:
    """A run with 4 clean and 2 seen sessions of BGL, and a root cause."""
    run = declare("toy", resolve("paper", []))
    sessions = split(("bgl", "normal", 3), ("bgl", "abnormal", 3), prefix="a")
    cause = rows("EventTrap", name="root_cause_analysis")
    write_jsonl(run.splits / "test.jsonl", [*(item.as_json() for item in sessions[1:5]), *cause])
    write_jsonl(run.splits / "test_seen.jsonl", (item.as_json() for item in (sessions[0], sessions[5])))
    return run


def score_run(responses: list[dict[str, Any]], *more: str, model: str = "qwen2.5-7b", stage: str = "base",
              tasks: list[str] | None = None) -> Any:
    write_jsonl("R.jsonl", responses)
    if tasks:
        manifest("R.jsonl", [], tasks=tasks, answered_by=[{"method": model}])  # as eval.baselines writes it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["eval.score", "--run", "toy", "--model", model, "--stage", stage,
                                   "--responses", "R.jsonl", "--out", "out/result.json", *more])
        score.main()
    return read_json("out/result.json")


SESSIONS = [f"a-bgl-{label}-{at}" for label in ("normal", "abnormal") for at in range(3)]


def test_a_result_records_what_was_scored_and_how_much_of_it_training_has_seen() -> None:
    make_run()
    result = score_run([*(answer(key, "normal") for key in SESSIONS), answer("i0", "EventTrap")])
    assert [(row["source"], row["test_set"], row["n"], row["seen"]) for row in result["results"]] == [
        ("bgl", "disjoint", 4, 0), ("bgl", "all", 6, 2), ("s", "disjoint", 1, 0), ("s", "all", 1, 0)]
    assert (result["limit"], result["samples"]) == (None, 1)
    assert result["tasks"] == ["anomaly_detection", "root_cause_analysis"]
    assert all(row["lenient"]["metrics"] == row["metrics"] for row in result["results"])


def test_some_tasks_alone() -> None:
    """A baseline answers only the tasks that it fits."""
    make_run()
    some = [answer(key, "normal") for key in SESSIONS]
    result = score_run(some, "--tasks", "anomaly_detection", model="majority", stage="baseline")
    assert result["tasks"] == ["anomaly_detection"] and {row["source"] for row in result["results"]} == {"bgl"}
    with pytest.raises(SystemExit, match="1 id, the first 'i0': without an answer"):
        score_run(some, model="majority", stage="baseline")
    voted = score_run(some, "--samples", "5", model="majority", stage="baseline", tasks=["anomaly_detection"])
    assert voted["results"] == result["results"]
    with pytest.raises(SystemExit, match="'i0': without an answer"):
        score_run(some)
    with pytest.raises(SystemExit, match="'a-bgl-normal-9': of no instance"):
        score_run([*some, answer("a-bgl-normal-9", "normal")], "--tasks", "anomaly_detection")
    with pytest.raises(SystemExit, match="has no test instance of 'logs'; its tasks are anomaly_detection, "):
        score_run(some, "--tasks", "anomaly_detection,logs")


def test_a_manifest_that_another_program_wrote() -> None:
    write_json("R.jsonl.manifest.json", {"tool": "mine"})
    with pytest.raises(UserError, match=r"R\.jsonl\.manifest\.json: is no manifest of answers"):
        check_answers(make_run(), "qwen2.5-7b", "base", Path("R.jsonl"))


def test_a_subset_is_scored_with_its_answers_or_with_all() -> None:
    run = make_run()
    ids = [item.id for part in stratified(score.read_test_splits(run), 2) for item in part]
    result = score_run([answer(key, "normal") for key in ids], "--limit", "2")
    assert len(ids) == 3 and {row["n"] for row in result["results"] if row["test_set"] == "all"} == {1, 2}
    more = score_run([*(answer(key, "normal") for key in SESSIONS), answer("i0", "EventTrap")], "--limit", "2")
    assert result["limit"] == 2 and result["results"][0]["metrics"] == more["results"][0]["metrics"]


def test_drafts_of_a_model_that_was_cut_off_while_thinking_are_no_answers() -> None:
    make_run()
    texts = {"length": "so <answer>normal</answer>", "stop": "so <answer>normal</answer>"}
    for reason, text in texts.items():
        cut = [answer(key, "normal") for key in SESSIONS]
        cut[1] = response(SESSIONS[1], text)
        cut[1]["response"]["body"]["choices"][0]["finish_reason"] = reason
        result = score_run(cut, "--tasks", "anomaly_detection", model="r1-distill-qwen-7b")
        assert (result["results"][0]["unparsed"], result["results"][0]["cut"]) == (0, reason == "length")


def test_answers_that_were_cut_are_counted_apart_with_the_advice(capsys: pytest.CaptureFixture[str]) -> None:
    """Right; cut after its label; cut without one; cut, but read leniently; unparsed."""
    texts = ["<answer> normal </answer>", "<answer> normal </answer> and", "1. a", "Answer: normal\n", "I cannot say"]
    answers = [response(f"i{at}", text) for at, text in enumerate(texts)]
    for row in answers[1:4]:
        row["response"]["body"]["choices"][0]["finish_reason"] = "length"
    result = scored(rows(*["normal"] * 5), answers)
    assert (result["n"], result["unparsed"], result["cut"]) == (5, 1, 2)
    assert (result["lenient"]["unparsed"], result["lenient"]["cut"]) == (1, 1)
    assert result["metrics"]["accuracy"]["value"] == 2 / 5  # n is the whole test set
    shown = capsys.readouterr().out
    assert "n=5 unparsed=1 cut=2 |" in shown and "2 answers were cut at max_tokens: raise max_tokens in" in shown
    cut, none, some = Answer(None, None, True), Answer(None, None), Answer("normal", "normal")
    assert vote([cut, none, cut]).cut and not vote([cut, some, cut]).cut and not vote([none, none]).cut


@pytest.mark.parametrize(("model", "stage", "message"), [
    ("gpt-9", "base", "unknown model 'gpt-9'"), ("qwen2.5-7b", "sft", "unknown stage 'sft'"),
    ("gpt-4o", "dpo", "gpt-4o is of kind api"), ("majority", "base", "its one stage is 'baseline', not 'base'"),
    ("bert", "dpo", "its one stage is 'classifier'"),
])
def test_stages_that_a_model_cannot_have(model: str, stage: str, message: str) -> None:
    make_run()
    with pytest.raises(SystemExit, match=message):
        score_run([], model=model, stage=stage)
