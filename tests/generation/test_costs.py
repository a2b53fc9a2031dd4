import json
import re

import pytest

from logreasoner.cli import UserError
from logreasoner.config import declare, hardware, models, resolve
from logreasoner.files import write_jsonl
from logreasoner.generation import costs, generate
from logreasoner.paper import published

GPT = "gpt-4o-2024-08-06"


def line(model=GPT, tokens_in=1_000_000, tokens_out=100_000, **more):
    body = {"model": model, "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out},
            "choices": [{"message": {"role": "assistant", "content": "text"}}]}
    return {"custom_id": "i", "request_sha256": "0", "model": model, "error": None,
            "response": {"status_code": 200, "body": body}, **more}


def test_an_answer_costs_its_usage_by_the_models_price():
    assert costs.spent_on(line()) == costs.Spent(1, 1_000_000, 100_000, pytest.approx(2.5 + 1.0))
    assert costs.spent_on(line(batch="batch_1")).paid == pytest.approx(1.75)


def test_an_answer_paid_in_another_run_is_worth_as_much_but_not_paid_here():
    copied = costs.spent_on(line(copied_from="elsewhere"))
    assert (copied.paid, copied.worth) == (0.0, pytest.approx(3.5))


def test_a_model_without_a_price_costs_nobody_knows_what():
    assert costs.spent_on(line("qwen2.5-7b/dpo")).paid is None
    assert costs.spent_on(line("scripted-teacher")).paid == 0.0


@pytest.mark.parametrize("response", [{}, {"response": None}, {"response": {"status_code": 500, "body": {}}},
                                      {"response": {"status_code": 200, "body": "no JSON"}},
                                      {"response": {"status_code": 200, "body": {"usage": None}}}])
def test_what_is_no_answer_costs_nothing(response):
    assert costs.spent_on(response) == costs.Spent()


AT_MOST = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000}


@pytest.mark.parametrize("usage", [None, {}, "9", {"prompt_tokens": -5, "completion_tokens": "many"},
                                   {"prompt_tokens": True, "completion_tokens": 10**400}])
def test_a_reply_without_usage_costs_the_most_that_it_can_and_this_is_said(usage):
    made = line(usage_at_most=AT_MOST)
    made["response"]["body"]["usage"] = usage
    assert costs.spent_on(made) == costs.Spent(1, 0, 0, pytest.approx(3.5), unknown=1)
    made["response"]["body"]["usage"] = {"prompt_tokens": 10, **(usage if isinstance(usage, dict) else {})}
    assert costs.spent_on(made).unknown == 1 and costs.spent_on(made).paid >= 1.0
    del made["usage_at_most"]  # as older versions wrote it: the answer's bytes, and still unknown
    assert costs.spent_on(made).unknown == 1 and 0 < costs.spent_on(made).paid < 0.001


def test_a_reply_that_never_ended_may_have_been_paid():
    late = {"response": {"status_code": 408, "body": {"error": "no whole reply"}}, "usage_at_most": AT_MOST}
    assert costs.spent_on({**late, "model": GPT}) == costs.Spent(0, 0, 0, pytest.approx(3.5), unknown=1)
    assert costs.spent_on({**late, "model": "own"}).paid is None


@pytest.mark.parametrize("text", ["plain words", "日志 % 故障", "\x00\n\t\"\\", "🙂🙂🙂", "x" * 10_000])
def test_the_worst_case_is_more_than_a_token_a_byte(text):
    body = generate.request("i", GPT, "rationale", text, vllm=False)["body"]
    assert costs.worst_case(body) >= (len(text.encode()) * 2.5 + body["max_tokens"] * 10) / 1e6


def test_without_a_limit_on_the_answer_there_is_no_worst_case():
    with pytest.raises(UserError, match="no max_tokens"):
        costs.worst_case({"model": GPT, "messages": []})


def test_every_model_that_is_asked_for_money_has_a_price():
    priced = costs.prices().models
    asked = [declared.path for declared in models().values() if declared.kind == "api"]
    assert set(asked) <= set(priced)
    assert resolve("paper", []).teacher.model in priced and resolve("demo", []).teacher.model in priced


def test_every_gpu_has_a_throughput_and_every_purpose_a_length():
    said = costs.prices()
    assert set(said.throughput.peak) == {name for name, profile in hardware().items() if not profile.cpu}
    assert set(said.throughput.utilisation) == {"training", "prefill", "decode"}
    assert {"rationale", "thought", "correction", "solution", "evaluation", "thinking"} <= set(said.typical_output)


def test_the_papers_costs_are_of_the_size_of_its_data_under_its_total():
    """Section 6.1: 1,000 thoughts and Table 1's pairs, at what it says each costs, stay under its total."""
    said = costs.prices().paper
    pairs = sum(row["dpo"] or 0 for row in published().data_tables["table1"]["rows"])
    assert 1000 * said.per_thought + pairs * said.per_pair < said.total_under


@pytest.fixture
def run(workdir):
    """A run with 4 rationales and 2 thoughts, of which 2 are kept, and 3 corrections, of which 1 is."""
    run = declare("paper", resolve("paper", []))
    shared, pairs = run.dataset("shared", "thought-sft"), run.dataset("qwen2.5-7b", "dpo")
    write_jsonl(shared / "rationales.journal.jsonl", [line(tokens_in=1000, tokens_out=500)] * 4)
    write_jsonl(shared / "thoughts.journal.jsonl", [line(tokens_in=1000, tokens_out=500, batch="b")] * 2)
    write_jsonl(shared / "samples.jsonl", [{}, {}])
    write_jsonl(pairs / "corrections.journal.jsonl", [line(tokens_in=1000, tokens_out=500, copied_from="x")] * 3)
    write_jsonl(pairs / "samples.jsonl", [{}])
    own = run.dataset("qwen2.5-7b", "dpo-self")
    write_jsonl(own / "corrections.journal.jsonl", [line("qwen2.5-7b/thought-sft")])
    write_jsonl(own / "samples.jsonl", [{}])
    return run


def test_a_thought_and_a_pair_stand_beside_the_papers(run):
    text = "\n".join(costs.report(run))
    assert re.search(r"a thought: 0\.0187 USD, 2 samples \(the paper's: 0\.015 USD\)", text)  # (4 + 2 / 2) * 0.0075 / 2
    assert re.search(r"a preference pair: 0\.0225 USD, 1 samples \(the paper's: 0\.018 USD\)", text)
    assert "everything with a price: 0.0375 USD (the paper's data preparation: under 100)" in text
    assert "0.0000 (+ 0.0225 paid in another run)" in text
    assert "1 answers, 1,000,000 tokens in, 100,000 out, no price" in text


def test_before_the_samples_are_made_nothing_is_known(run):
    (run.dataset("shared", "thought-sft") / "samples.jsonl").unlink()
    assert "a thought: not known yet (the paper's: 0.015 USD)" in list(costs.report(run))


def test_the_report_says_what_is_an_upper_bound(run):
    path = run.dataset("shared", "thought-sft") / "rationales.journal.jsonl"
    made = line(usage_at_most=AT_MOST)
    del made["response"]["body"]["usage"]
    write_jsonl(path, [made] * 2)
    text = "\n".join(costs.report(run))
    assert "2 answers, 0 tokens in, 0 out, 7.0000 at most (2 of unknown cost: no usage in the reply)" in text
    assert "everything with a price: 7.0075 USD at most (2 of unknown" in text


def test_the_command_prints_the_report(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["costs", "--run", "paper"])
    costs.main()
    assert capsys.readouterr().out.splitlines() == list(costs.report(run))


def test_a_cut_journal_line_is_passed_over(run):
    path = run.dataset("shared", "thought-sft") / "rationales.journal.jsonl"
    path.write_text(path.read_text() + json.dumps(line())[:40])
    assert costs.spent_in(path).answers == 4
