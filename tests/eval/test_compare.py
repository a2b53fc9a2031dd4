import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import compare, score
from eval.paired import compared, holm, joint_table, mcnemar
from eval.predictions import Answer
from logreasoner.config import Run, declare, resolve, task
from logreasoner.files import manifest, read_json, write_jsonl
from logreasoner.instances import Instance

AD, RCA = task("anomaly_detection"), task("root_cause_analysis")
LABELS = ["normal", "abnormal"]


@settings(deadline=None)
@given(st.integers(0, 15), st.integers(0, 15))
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(b: int, c: int) -> None:
    """Every way in which b + c fair coins can fall, as extreme as this one or more."""
    n = b + c
    extreme = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(b - c))
    assert mcnemar(b, c) == pytest.approx(extreme / 2**n)


def test_mcnemar_and_holm_by_the_book() -> None:
    assert mcnemar(1, 9) == pytest.approx(0.021484375)
    assert mcnemar(0, 0) == 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust(., "holm")
    assert holm([0.5, 0.9]) == [1, 1] and holm([]) == []


def items(*truth: str) -> list[Instance]:
    return [Instance(id=f"i{at}", task="anomaly_detection", source="s", log="x", label=label)
            for at, label in enumerate(truth)]


def given_(answers: list[str | None]) -> dict[str, Answer]:
    return {f"i{at}": Answer(answer, answer) for at, answer in enumerate(answers)}


ROWS = st.lists(st.tuples(st.sampled_from(LABELS), *[st.sampled_from([*LABELS, None])] * 2), min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_the_scores_are_those_of_each_model_alone_and_the_interval_is_a_differences(rows: list[Any]) -> None:
    truth, a, b = ([row[at] for row in rows] for at in range(3))
    found = compared(joint_table(items(*truth), given_(a), given_(b), LABELS), AD)
    assert [row["metric"] for row in found] == ["accuracy", "f1"]
    for side, answers in (("a", a), ("b", b)):
        predicted = {f"i{at}": answer for at, answer in enumerate(answers)}
        alone = score.scores(score.confusion(items(*truth), predicted, LABELS), AD)
        assert all(row[side] == pytest.approx(alone[row["metric"]]["value"]) for row in found)
    assert found[0]["only_a_right"] == sum(x == t != y for t, x, y in rows)
    assert found[0]["only_b_right"] == sum(y == t != x for t, x, y in rows)
    for row in found:
        assert -1 <= row["low"] <= row["high"] <= 1 and 0 < row["p"] <= 1
        assert a != b or (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)


def test_the_bootstrap_keeps_both_answers_to_an_instance_together() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 120)
    a = np.where(rng.random(120) < 0.85, truth, 1 - truth)
    b = np.where(rng.random(120) < 0.8, a, 1 - a)  # errs where a errs, mostly
    names = [[LABELS[at] for at in side] for side in (truth, a, b)]
    row = compared(joint_table(items(*names[0]), given_(names[1]), given_(names[2]), LABELS), AD)[1]

    def f1(t: Any, p: Any) -> Any:
        return 2 * (t & p).sum(-1) / (t.sum(-1) + p.sum(-1))

    draws = rng.integers(0, 120, (10_000, 120))
    moved = f1(truth[draws], a[draws]) - f1(truth[draws], b[draws])
    assert (row["low"], row["high"]) == pytest.approx(np.percentile(moved, [2.5, 97.5]), abs=0.01)


def test_p_is_that_of_a_permutation_test() -> None:
    """Under the null the answers to an instance may change sides: every p above is the share of such swaps."""
    table = np.zeros((2, 3, 3), dtype=int)
    table[1, 1, 1], table[0, 0, 0], table[1, 1, 0], table[1, 0, 1] = 40, 40, 14, 5
    found = compared(table, AD)
    rng, swaps = np.random.default_rng(0), 20_000
    a_hits = 5 + 14 - (b_hits := rng.binomial(19, 0.5, swaps))
    f1 = [2 * (40 + hits) / (59 + 40 + hits) for hits in (a_hits, b_hits)]
    assert found[0]["p"] == pytest.approx((abs(a_hits - b_hits) >= 9).mean(), abs=0.01)
    assert found[1]["p"] == pytest.approx((abs(f1[0] - f1[1]) >= found[1]["difference"] - 1e-12).mean(), abs=0.01)


def test_a_few_positives_make_no_difference_significant() -> None:
    """Five instances of one side fall so by chance in 1 of 16 cases; the bootstrap said p = 0.01 and less."""
    table = np.zeros((2, 3, 3), dtype=int)
    table[1, 1, 0], table[1, 1, 1], table[0, 0, 0] = 5, 1, 94
    accuracy, f1 = compared(table, AD)
    assert accuracy["p"] == 1 / 16 and f1["p"] == pytest.approx(1 / 16, abs=0.01)


def responses(run: Run, side: str, answers: dict[str, str], name: str = "test") -> None:
    write_jsonl(run.dir / "predictions" / side / f"{name}.responses.jsonl", (
        {"custom_id": key, "error": None, "response": {"status_code": 200, "body": {"choices": [
            {"message": {"content": f"<answer>{label}</answer>"}}]}}} for key, label in answers.items()))


def make_run(name: str, *overrides: str) -> Run:
    """A run with eight sessions of BGL, half of them abnormal, two of them seen, and two root causes."""
    run = declare(name, resolve("paper", list(overrides)))
    rows = [{"id": f"t{at}", "task": "anomaly_detection", "source": "bgl", "log": str(at), "label": LABELS[at % 2]}
            for at in range(8)]
    causes = [{"id": f"c{at}", "task": "root_cause_analysis", "source": "hw", "log": str(at), "label": "EventTrap"}
              for at in range(2)]
    write_jsonl(run.splits / "test.jsonl", [*rows[:6], *causes])
    write_jsonl(run.splits / "test_seen.jsonl", rows[6:])
    return run


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["eval.compare", *arguments, "--out", "out.json"])
    compare.main()
    return read_json("out.json")


TRUTH = {f"t{at}": LABELS[at % 2] for at in range(8)}
CAUSES = {"c0": "EventTrap", "c1": "EventTrap"}


@pytest.fixture
def run(workdir: Path) -> Run:
    """A run with a perfect dpo, and a base that always says normal."""
    found = make_run("toy")
    responses(found, "qwen2.5-7b/dpo", {**TRUTH, **CAUSES})
    responses(found, "qwen2.5-7b/base", {**dict.fromkeys(TRUTH, "normal"), **CAUSES})
    responses(found, "majority/baseline", dict.fromkeys(TRUTH, "normal"))
    return found


def test_a_pair(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = command(monkeypatch, "pair", "--run", "toy", "--a", "qwen2.5-7b/dpo", "--b", "qwen2.5-7b/base")
    assert [(row["task"], row["test_set"], row["metric"], row["n"]) for row in found["rows"]] == [
        ("anomaly_detection", "disjoint", "accuracy", 6), ("anomaly_detection", "disjoint", "f1", 6),
        ("anomaly_detection", "all", "accuracy", 8), ("anomaly_detection", "all", "f1", 8),
        ("root_cause_analysis", "disjoint", "accuracy", 2), ("root_cause_analysis", "disjoint", "weighted_f1", 2)]
    whole = found["rows"][2]
    assert (whole["a"], whole["b"], whole["only_a_right"], whole["only_b_right"]) == (1, 0.5, 4, 0)
    assert whole["p"] == pytest.approx(0.125) and whole["p_holm"] == pytest.approx(6 * 0.125)  # the least of six
    assert found["rows"][4]["p"] == found["rows"][4]["p_holm"] == 1
    assert found["a"] == {"run": "toy", "model": "qwen2.5-7b", "stage": "dpo", "samples": 1}
    printed = capsys.readouterr().out
    assert "anomaly_detection bgl all accuracy: 100.0 - 50.0 = +50.0 [" in printed
    assert "McNemar, exact (4 to 0) p=0.12" in printed and "Holm, over all 6 tests" in printed


def test_a_floor_that_answers_some_tasks_and_a_sample(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = command(monkeypatch, "pair", "--run", "toy", "--a", "qwen2.5-7b/dpo", "--b", "majority/baseline",
                    "--tasks", "anomaly_detection", "--limit", "7")
    for name, tasks in (("majority", found["tasks"]), ("tfidf-lr", [*found["tasks"], "root_cause_analysis"])):
        responses(run, f"{name}/baseline", {**TRUTH, **CAUSES})
        manifest(run.dir / "predictions" / name / "baseline" / "test.responses.jsonl", [], tasks=tasks,
                 answered_by=[{"method": name}])
    for a in ("qwen2.5-7b/dpo", "tfidf-lr/baseline"):
        both = command(monkeypatch, "pair", "--run", "toy", "--a", a, "--b", "majority/baseline")
        assert both["tasks"] == found["tasks"]
    assert found["tasks"] == ["anomaly_detection"] and found["limit"] == 7
    assert {(row["test_set"], row["n"]) for row in found["rows"]} == {("disjoint", 6), ("all", 7)}


def test_a_vote_against_one_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {**TRUTH, **CAUSES}
    responses(run, "qwen2.5-7b/base", {f"{key}#{at}": both[key] if at else "normal" for key in both for at in range(3)},
              "test.samples3")
    found = command(monkeypatch, "pair", "--run", "toy", "--a", "qwen2.5-7b/base:3", "--b", "qwen2.5-7b/dpo")
    assert all((row["difference"], row["p"]) == (0, 1) for row in found["rows"])


def test_two_runs_are_paired_only_on_the_same_splits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_run("toy-43", "training_seed=43")
    responses(other, "qwen2.5-7b/dpo", {**TRUTH, **CAUSES})
    arguments = ["pair", "--run", "toy", "--run-b", "toy-43", "--a", "qwen2.5-7b/dpo", "--b", "qwen2.5-7b/dpo"]
    assert all(row["difference"] == 0 for row in command(monkeypatch, *arguments)["rows"])
    write_jsonl(other.splits / "test_seen.jsonl", [])
    with pytest.raises(SystemExit, match="hold different test instances"):
        command(monkeypatch, *arguments)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--b", "qwen2.5-7b"], "'qwen2.5-7b': expected MODEL/STAGE"),
    (["--b", "qwen2.5-7b/base:0"], "expected MODEL/STAGE"),
    (["--b", "gpt-9/base"], "unknown model 'gpt-9'"),
    (["--b", "qwen2.5-7b/sft"], "unknown stage 'sft'"),
    (["--b", "majority/base"], "majority is of kind baseline .* its one stage is 'baseline'"),
    (["--b", "qwen2.5-7b/thought-sft"], "thought-sft/test.responses.jsonl: no such file"),
    (["--b", "majority/baseline"], "majority/baseline/test.responses.jsonl: 2 ids, the first 'c0': without an answer"),
    (["--b", "qwen2.5-7b/base", "--tasks", "potential_failure_prediction"], "--tasks: run toy has no test instance of"),
])
def test_what_cannot_be_paired(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        command(monkeypatch, "pair", "--run", "toy", "--a", "qwen2.5-7b/dpo", *arguments)
    assert not Path("out.json").exists()


def result(run: Run, monkeypatch: pytest.MonkeyPatch, wrong: int, *more: str) -> None:
    """Score a dpo that has the first `wrong` sessions wrong."""
    answers = {key: LABELS[1 - LABELS.index(label)] if int(key[1:]) < wrong else label for key, label in TRUTH.items()}
    responses(run, "qwen2.5-7b/dpo", {**answers, **CAUSES})
    folder = run.dir / "results" / "qwen2.5-7b" / "dpo"
    monkeypatch.setattr(sys, "argv", ["eval.score", "--run", run.name, "--model", "qwen2.5-7b", "--stage", "dpo",
                                      "--responses", str(run.dir / "predictions/qwen2.5-7b/dpo/test.responses.jsonl"),
                                      "--out", str(folder / "result.json"), *more])
    score.main()


SPREAD = ["spread", "--model", "qwen2.5-7b", "--stage", "dpo", "--runs", "toy"]


def test_the_spread_over_seeds(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, each in enumerate([run, make_run("toy-43", "seed=43"), make_run("toy-44", "training_seed=44")]):
        result(each, monkeypatch, 2 * wrong)
    found = command(monkeypatch, *SPREAD, "toy-43", "toy-44")
    recall = next(row for row in found["rows"] if (row["test_set"], row["metric"]) == ("all", "recall"))
    assert recall["values"] == [1, 0.75, 0.5] and recall["n"] == [8, 8, 8]
    assert (recall["mean"], recall["sd"], recall["min"], recall["max"]) == pytest.approx((0.75, 0.25, 0.5, 1))
    assert found["seeds"][1] == {"seed": 43, "training_seed": None}
    assert "all recall: 75.0 sd 25.0, 50.0 to 100.0 over 3 runs, n=8, 8, 8" in capsys.readouterr().out


def test_what_has_no_spread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other, full = make_run("toy-43", "seed=43"), make_run("toy-full", "finetuning=full")
    result(run, monkeypatch, 0)
    for each in (other, full):
        result(each, monkeypatch, 0, "--tasks", "anomaly_detection")
    for names, said in ((["toy-43"], "only one has a score of root_cause_analysis hw all"),
                        (["toy-full"], "differ in more than their seed: experiment.finetuning: 'lora' -> 'full'"),
                        (["toy"], "two runs or more"), ([], "two runs or more")):
        with pytest.raises(SystemExit, match=said):
            command(monkeypatch, *SPREAD, *names)
    path = other.dir / "results" / "qwen2.5-7b" / "dpo" / "result.json"
    path.write_text(json.dumps({"results": [1]}))
    with pytest.raises(SystemExit, match="not a result of eval.score --run"):
        command(monkeypatch, *SPREAD, "toy-43")
