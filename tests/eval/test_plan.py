import json

import pytest

from data_builders import stage1
from demo import logs
from eval import plan
from eval.estimates import shared_prefix
from logreasoner.cli import UserError
from logreasoner.config import declare, resolve
from logreasoner.files import read_jsonl, write_json, write_jsonl
from logreasoner.generation import generate
from logreasoner.generation.openai_live import OPENAI
from logreasoner.generation.response_cache import Journal, endpoints
from tests.results import write_solutions

PRICE_IN, PRICE_OUT = 2.5e-6, 1e-5


@pytest.fixture
def run(workdir):
    """The paper's run with a handful of bundled logs in its splits, one test log twice."""
    run = declare("paper", resolve("paper", ["examples=label-only"]))
    items = [item.as_json() for item in logs.instances("train")]
    by_task = {name: [item for item in items if item["task"] == name] for name in run.experiment.tasks}
    for split, at in (("stage1", 0), ("stage2", 10), ("test", 20)):
        rows = [row for rows in by_task.values() for row in rows[at : at + 10]]
        if split == "test":
            rows.append({**rows[0], "id": "again"})
        write_jsonl(run.splits / f"{split}.jsonl", rows)
    write_jsonl(run.splits / "test_seen.jsonl", [])
    write_jsonl(run.splits / "examples.jsonl", [row for rows in by_task.values() for row in rows[30:33]])
    write_json(run.splits / "manifest.json", {})
    return run


def planned(run, only="table3", models=("qwen2.5-7b",), **more):
    cells = plan.chosen(only, list(models))
    options = {"profile": "2xA100", "limit": None, "samples": 1, **more}
    return plan.planned(run, [(cell.model, cell.stage) for cell in cells], **options)


def steps(planned):
    return {(step.name, step.asked): step for step in planned.steps.values()}


def test_every_step_that_a_table_stands_on_is_counted_once(run):
    result = planned(run)
    names = [(step.name, step.asked) for step in result.steps.values()]
    teacher = "gpt-4o-2024-08-06"
    assert sorted(names) == sorted([
        ("rationales", teacher), ("rationales", teacher), ("thoughts", teacher), ("corrections", teacher),
        ("solutions", "qwen2.5-7b/thought-sft"), *(("evaluation", f"qwen2.5-7b/{stage}")
                                                   for stage in ("base", "cot-sft", "dpo"))])
    assert sorted(stage for _, stage in result.trainings) == ["cot-sft", "dpo", "solution-sft", "thought-sft"]
    assert [step.requests for step in result.steps.values() if step.name == "rationales"] == [40, 40]


def test_kto_needs_no_corrections_and_trains_on_every_solution(run):
    results = {stage: plan.planned(run, [("qwen2.5-7b", stage)], "2xA100", None, 1) for stage in ("dpo", "kto", "orpo")}
    assert ("corrections", "gpt-4o-2024-08-06") in steps(results["dpo"])
    assert "corrections" not in {step.name for step in results["kto"].steps.values()}
    dpo, kto, orpo = (results[stage].trainings["qwen2.5-7b", stage] for stage in ("dpo", "kto", "orpo"))
    assert (kto.rows, dpo.rows, orpo.rows) == (40, 15, 15)
    assert orpo.tokens == dpo.tokens and orpo.gpu_hours < dpo.gpu_hours  # no forward pass of a reference


def test_identical_requests_and_shared_prefixes_are_saved(run):
    step = steps(planned(run))["evaluation", "qwen2.5-7b/base"]
    assert (step.requests, step.saved) == (41, 1)
    assert 0.5 < step.prefix < 1
    assert step.tokens_out_most == 40 * 1024 and step.tokens_out == 40 * 350
    assert step.gpu_hours > 0 and step.usd is None


@pytest.mark.parametrize(("texts", "share"), [([], 0), (["abcd"], 0), (["abcd", "abxy", "abxz"], 5 / 12),
                                              (["aa", "b", "ab"], 1 / 5)])
def test_the_share_of_shared_prefixes(texts, share):
    assert shared_prefix(texts) == pytest.approx(share)


def test_an_api_model_costs_money_and_half_by_batches(run):
    result = planned(run, models=["gpt-4o"])
    (step,) = result.steps.values()
    assert (step.name, step.asked, step.gpu_hours) == ("evaluation", "gpt-4o-2024-08-06", None)
    assert step.usd == pytest.approx(step.tokens_in * PRICE_IN + step.tokens_out * PRICE_OUT)
    assert step.usd_most == pytest.approx(step.tokens_in * PRICE_IN + step.tokens_out_most * PRICE_OUT)
    total = plan.totals(result)
    assert total["usd_by_batch"] == pytest.approx(step.usd / 2) and total["disk_bytes"] == 0


def test_checkpoints_take_disk_beside_the_weights_where_all_weights_are_tuned(run):
    """Stages are trained one after another, and the checkpoints of one are removed before the next."""
    size = run.model("qwen2.5-7b").parameters
    for finetuning, weights, checkpoints in (("lora", 2, 0), ("full", 4, 28)):
        run.experiment = run.experiment.model_copy(update={"finetuning": finetuning})
        result = planned(run)
        total, lines = plan.totals(result), "\n".join(plan.report(result, plan.chosen("table3", ["qwen2.5-7b"])))
        assert total["disk_bytes"] == pytest.approx(2 * size + 4 * weights * size)
        assert total["checkpoint_bytes"] == pytest.approx(checkpoints * size)
        assert ("213 GB of checkpoints while a stage trains" in lines) == (finetuning == "full")


def test_what_cannot_be_known_yet_is_an_estimate_with_a_bound(run):
    step = steps(planned(run))["corrections", "gpt-4o-2024-08-06"]
    assert (step.requests, step.most) == (15, 40)  # 2,574 of the paper's 7,000
    assert step.tokens_out_most == 40 * 1536 and "Table 1's share" in step.basis


def answer_some(run, count, tokens):
    stage1.rationale_requests(run)
    folder = run.dataset("shared", "thought-sft")
    requests = generate.read_requests(folder / "rationales.requests.jsonl")[:count]
    body = {"choices": [{"message": {"content": "text"}}], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}
    Journal(folder / "rationales.journal.jsonl", endpoints(OPENAI)).add(
        *((request, {"response": {"status_code": 200, "body": body}, "error": None}) for request in requests),
        address=OPENAI)


def test_what_is_answered_is_not_paid_again_and_says_how_long_answers_are(run):
    before = next(iter(planned(run, models=["qwen2.5-1.5b"]).steps.values()))
    answer_some(run, 30, tokens=200)
    result = planned(run)
    step = result.steps[run.dataset("shared", "thought-sft") / "rationales.responses.jsonl"]
    assert (step.requests, step.answered) == (40, 30) and step.tokens_out == 10 * 200
    assert "as the mean of 30 received" in step.basis
    assert before.answered == 0


def test_what_another_run_was_answered_is_not_paid_again(run):
    answer_some(run, 40, tokens=200)
    other = declare("second", resolve("paper", ["seed=43", "examples=label-only"]))
    other.splits = run.splits
    step = planned(other).steps[other.dataset("shared", "thought-sft") / "rationales.responses.jsonl"]
    assert (step.answered, step.usd) == (40, 0)


def test_a_trained_stage_is_not_trained_again(run):
    write_json(run.stage_dir("qwen2.5-7b", "thought-sft") / "manifest.json", {})
    assert ("qwen2.5-7b", "thought-sft") not in planned(run).trainings


def test_self_correction_asks_the_policy(run):
    result = steps(planned(run, "figure6", ["llama3.1-8b"]))
    assert ("corrections", "llama3.1-8b/thought-sft") in result and ("corrections", "gpt-4o-2024-08-06") in result


def test_limit_and_samples_count(run):
    assert steps(planned(run, models=["gpt-4o"], limit=1))["evaluation", "gpt-4o-2024-08-06"].requests < 20
    voted = steps(planned(run, models=["gpt-4o"], samples=3))["evaluation", "gpt-4o-2024-08-06"]
    assert (voted.requests, voted.saved) == (123, 3)


def test_classifiers_and_baselines_send_nothing(run):
    result = planned(run, models=["bert", "majority"])
    assert not result.steps and not result.trainings and len(result.notes) == 2


def test_a_retired_model_and_a_machine_without_a_figure_are_noted(run):
    notes = " ".join(planned(run, models=["chatgpt", "qwen2.5-3b"], profile="cpu").notes)
    assert "gpt-3.5-turbo-0125: the API is listed to have stopped serving it" in notes and "cpu: no peak" in notes


@pytest.mark.parametrize(("only", "models", "message"), [("table1", [], "asks no model"), ("table3", ["nope"], "nope"),
                                                      ("table9", [], "unknown table")])
def test_what_is_not_in_the_grid_is_named(run, only, models, message):
    with pytest.raises(UserError, match=message):
        plan.chosen(only, models)


def test_no_splits_and_unknown_hardware_are_errors_before_anything_is_counted(run):
    with pytest.raises(UserError, match="unknown HARDWARE 'abacus'"):
        planned(run, profile="abacus")
    with pytest.raises(UserError, match="make data"):
        planned(declare("empty", resolve("paper", ["examples=label-only"])))


def test_the_command_prints_a_table_or_json_and_writes_nothing(run, monkeypatch, capsys):
    before = sorted(run.dir.rglob("*"))
    monkeypatch.setattr("sys.argv", ["plan", "--run", "paper", "--only", "table3", "--models", "qwen2.5-7b"])
    plan.main()
    text = capsys.readouterr().out
    assert "~15" in text and "API: " in text and "throughput stated" in text
    monkeypatch.setattr("sys.argv", ["plan", "--run", "paper", "--only", "table3", "--models", "qwen2.5-7b", "--json"])
    plan.main()
    result = json.loads(capsys.readouterr().out)
    assert result["totals"]["usd"] == pytest.approx(sum(step["usd"] or 0 for step in result["steps"]))
    assert sorted(run.dir.rglob("*")) == before


def test_examples_that_the_teacher_is_still_to_solve_are_in_the_plan(run):
    """Planned with solutions of a stated length; the teacher's step is there until a file has them."""
    made = declare("turns", resolve("demo", []))
    for split in ("stage1", "stage2", "test", "test_seen", "examples"):
        write_jsonl(made.splits / f"{split}.jsonl", (row for _, row in read_jsonl(run.splits / f"{split}.jsonl")))
    write_json(made.splits / "manifest.json", {})

    def asked():
        return steps(plan.planned(made, [("qwen2.5-7b", "base")], "2xA100", None, 1))

    before = asked()
    assert before["examples", "scripted-teacher"].requests == 12
    write_solutions(made)
    after = asked()
    assert ("examples", "scripted-teacher") not in after
    tokens = [each["evaluation", "qwen2.5-7b/base"].tokens_in for each in (before, after)]
    assert tokens[0] > tokens[1] > 0
