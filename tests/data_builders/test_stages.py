"""Stage 1 and stage 2 as pure functions from files to files, on a handful of instances."""

import json

import pytest

from data_builders import responses, review, samples, stage1, stage2
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, resolve
from logreasoner.files import read_json, read_jsonl, write_json, write_jsonl
from logreasoner.generation import generate
from logreasoner.instances import Instance

PFP = "potential_failure_prediction"
ITEMS = [Instance(f"p-{number}", PFP, "made-switches", f"FAN/[MASK]/STUCK: Fan {word} stopped.", "True")
         for number, word in enumerate(["left", "right", "front", "rear"])]
RIGHT = "<solutions>\n1. A fan stopped.\n2. Heat follows.\n</solutions>\n<answer> True </answer>"
WRONG = "<solutions>\n1. A fan stopped.\n2. No matter.\n</solutions>\n<answer> False </answer>"
THOUGHT = {"problem_overview": "Judge an event.", "key_challenges": ["Few words."],
           "reasoning_steps": ["Name the event.", "Ask what follows.", "Decide."]}


def response(custom_id, text, status=200):
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]} if status == 200 else {"error": text}
    return {"custom_id": custom_id, "response": {"status_code": status, "body": body}, "error": None}


@pytest.fixture
def run(workdir) -> Run:
    run = declare("t", resolve("paper", [f"tasks={PFP}"]))
    for split in ("stage1", "stage2"):
        write_jsonl(run.splits / f"{split}.jsonl", (item.as_json() for item in ITEMS))
    write_jsonl(run.splits / "handbook.jsonl", [{
        "id": "hb-1", "source": "made", "vendor": "made", "symptom": "The fan of a device does not turn.",
        "analysis": ["Look at the cable.", "Swap the fan.", "Call support."]}])
    return run


def rows(path):
    return [row for _, row in read_jsonl(path)]


def to_thoughts(run):
    folder = stage1.folder(run)
    stage1.rationale_requests(run)
    write_jsonl(folder / "rationales.responses.jsonl", [
        response("p-0", RIGHT), response("p-1", WRONG), response("p-2", "It may be True, or not."),
        response("p-3", "filtered", 400)])
    stage1.rationales(run)
    write_json(folder / "selected.json", [1, 0])
    stage1.thought_requests(run)
    return folder


def test_a_selection_larger_than_its_candidates_is_noticed_before_anything_is_asked(run, monkeypatch):
    monkeypatch.setattr("sys.argv", ["stage1", "--run", "t", "rationale-requests"])
    with pytest.raises(SystemExit, match=r"selects 467 analyses .* only 4 instances and 1 handbook cases"):
        stage1.main()
    assert not stage1.folder(run).exists()


def test_the_selection_is_in_proportion_to_the_tasks_that_are_left(run):
    assert Run("all", resolve("paper", [])).select == 1000
    assert run.select == round(1000 * (400 + 300) / 1500)


def test_rationales_are_asked_without_the_label_and_at_the_papers_temperature(run):
    stage1.rationale_requests(run)
    requests = generate.read_requests(stage1.folder(run) / "rationales.requests.jsonl")
    assert [row["custom_id"] for row in requests] == ["p-0", "p-1", "p-2", "p-3"]
    assert requests[0]["body"]["temperature"] == 0.8 and requests[0]["body"]["model"] == "gpt-4o-2024-08-06"


def test_right_rationales_and_the_handbook_are_used_and_the_others_counted(run):
    folder = to_thoughts(run)
    assert [row["id"] for row in rows(folder / "analyses.jsonl")] == ["p-0", "hb-1"]
    counts = read_json(folder / "analyses.jsonl.manifest.json")["counts"]
    assert counts == {"handbook": {"right": 1},
                      PFP: {"refused": 1, "right": 1, "unparsed": 1, "wrong": 1}}


def test_thoughts_are_asked_in_the_order_of_the_selection(run):
    requests = generate.read_requests(to_thoughts(run) / "thoughts.requests.jsonl")
    assert [row["custom_id"] for row in requests] == ["hb-1", "p-0"]


def d_thought(run, *answers):
    folder = to_thoughts(run)
    write_jsonl(folder / "thoughts.responses.jsonl", answers)
    stage1.thoughts(run)
    return folder


def test_without_a_review_everything_valid_goes_in_and_the_manifest_says_so(run):
    folder = d_thought(run, response("hb-1", json.dumps(THOUGHT)), response("p-0", "no"))
    samples.build(run, "thought-sft")
    result = rows(folder / "samples.jsonl")
    assert [row["id"] for row in result] == ["hb-1"]
    assert result[0]["response"].startswith("Problem overview: Judge an event.")
    assert read_json(folder / "samples.jsonl.manifest.json")["review"] == "not reviewed"


def test_a_review_decides_and_the_last_decision_counts(run):
    folder = d_thought(run, response("hb-1", json.dumps(THOUGHT)), response("p-0", "no"))
    edited = {**THOUGHT, "problem_overview": "Edited by hand."}
    write_jsonl(review.thoughts(run).path, [
        {"id": "hb-1", "decision": "accepted"}, {"id": "hb-1", "decision": "rejected"},
        {"id": "p-0", "decision": "edited", "thought": edited}])
    samples.build(run, "thought-sft")
    assert [row["id"] for row in rows(folder / "samples.jsonl")] == ["p-0"]
    assert "Edited by hand." in rows(folder / "samples.jsonl")[0]["response"]


@pytest.mark.parametrize(("decision", "message"), [
    ({"id": "x", "decision": "accepted"}, "no thought has id 'x'"),
    ({"id": "hb-1", "decision": "maybe"}, "must be accepted"),
    ({"id": "hb-1", "decision": "edited", "thought": {}}, "not valid"),
    ({"id": "p-0", "decision": "accepted"}, "is not valid"),
    ({"id": "hb-1", "decision": ""}, "D_thought is empty"),
])
def test_a_wrong_review_is_named(run, decision, message):
    d_thought(run, response("hb-1", json.dumps(THOUGHT)), response("p-0", "no"))
    write_jsonl(review.thoughts(run).path, [decision])
    with pytest.raises(UserError, match=message):
        samples.build(run, "thought-sft")


@pytest.mark.parametrize(("answers", "message"), [
    ([], "4 of 4 answers are missing"), ([response("p-0", RIGHT)] * 2, "comes twice"),
    ([response("q-9", RIGHT)], "'q-9' was not requested"),
])
def test_answers_that_do_not_fit_the_requests_are_named(run, answers, message):
    write_jsonl(stage1.folder(run) / "rationales.responses.jsonl", answers)
    with pytest.raises(UserError, match=message):
        stage1.rationales(run)


def solve(run, *texts, stage="solution-sft"):
    stage2.solution_requests(run, "qwen2.5-7b", stage)
    folder = run.dataset("qwen2.5-7b", stage)
    write_jsonl(folder / "solutions.responses.jsonl",
                (response(item.id, text) for item, text in zip(ITEMS, texts, strict=True)))
    stage2.solutions(run, "qwen2.5-7b", stage)
    samples.build(run, stage, "qwen2.5-7b")
    return folder


def test_right_solutions_are_d_corr_with_the_prompt_they_were_sampled_by(run):
    folder = solve(run, RIGHT, WRONG, "nothing", RIGHT)
    result = rows(folder / "samples.jsonl")
    requests = {row["custom_id"]: row["body"]["messages"][0]["content"]
             for row in generate.read_requests(folder / "solutions.requests.jsonl")}
    assert {row["id"] for row in result} == {"p-0", "p-3"}
    assert all(row["prompt"] == requests[row["id"]] and row["response"] == RIGHT for row in result)
    assert [row["outcome"] for row in rows(folder / "solutions.jsonl")] == ["right", "wrong", "unparsed", "right"]


def test_kto_takes_right_and_wrong_solutions_and_asks_no_teacher(run):
    folder = solve(run, RIGHT, WRONG, "nothing", RIGHT)
    solved = {row["id"]: row for row in rows(folder / "samples.jsonl")}
    samples.build(run, "kto", "qwen2.5-7b")
    result = {row["id"]: row for row in rows(run.dataset("qwen2.5-7b", "kto") / "samples.jsonl")}
    assert {name: row["right"] for name, row in result.items()} == {"p-0": True, "p-1": False, "p-3": True}
    assert result["p-0"] == {**solved["p-0"], "right": True} and result["p-1"]["response"] == WRONG
    manifest = read_json(run.dataset("qwen2.5-7b", "kto") / "samples.jsonl.manifest.json")
    assert manifest["counts"] == {PFP: {"right": 2, "wrong": 1}}
    assert [step.asks for step in run.steps_to("kto") if step.stage == "kto" and step.asks] == []


def test_kto_needs_both_kinds(run):
    solve(run, RIGHT, RIGHT, "nothing", RIGHT)
    with pytest.raises(UserError, match="every solution is right, and KTO learns from right and wrong ones"):
        samples.build(run, "kto", "qwen2.5-7b")


def test_no_right_solution_stops_the_run(run):
    with pytest.raises(UserError, match="D_corr is empty"):
        solve(run, WRONG, WRONG, WRONG, "nothing")


def correct(run, steps, answer="True", stage="dpo"):
    folder = run.dataset("qwen2.5-7b", stage)
    stage2.correction_requests(run, "qwen2.5-7b", stage)
    text = json.dumps({"first_error": 2, "reason": "Heat matters.", "steps": steps, "answer": answer})
    write_jsonl(folder / "corrections.responses.jsonl", [response("p-1", text)])
    stage2.corrections(run, "qwen2.5-7b", stage)
    samples.build(run, stage, "qwen2.5-7b")
    return folder


def test_a_correction_becomes_a_preference_pair(run):
    solve(run, RIGHT, WRONG, "nothing", RIGHT)
    folder = correct(run, ["But, wait: heat follows."])
    requests = generate.read_requests(folder / "corrections.requests.jsonl")
    assert [row["custom_id"] for row in requests] == ["p-1"] and "### Correct answer\nTrue" in str(
        requests[0]["body"]["messages"][0]["content"])
    (pair,) = rows(folder / "samples.jsonl")
    assert pair["rejected"] == WRONG
    assert pair["chosen"] == RIGHT.replace("2. Heat", "2. No matter.\n3. But, wait: heat")


def test_no_accepted_correction_stops_the_run(run):
    solve(run, RIGHT, WRONG, "nothing", RIGHT)
    with pytest.raises(UserError, match="D_pref is empty"):
        correct(run, ["A fan stopped.", "Wait."], answer="False")


def test_self_correction_asks_pi_thought(workdir):
    run = declare("self", resolve("paper", [f"tasks={PFP}", "teacher=self"]))
    write_jsonl(run.splits / "stage2.jsonl", (item.as_json() for item in ITEMS))
    solve(run, RIGHT, WRONG, "nothing", RIGHT)
    stage2.correction_requests(run, "qwen2.5-7b", "dpo")
    (request,) = generate.read_requests(run.dataset("qwen2.5-7b", "dpo") / "corrections.requests.jsonl")
    assert request["body"]["model"] == "qwen2.5-7b/thought-sft"


def test_self_correction_as_a_stage_of_its_own_leaves_the_run_alone(run):
    solve(run, RIGHT, WRONG, "nothing", RIGHT)
    stage2.correction_requests(run, "qwen2.5-7b", "dpo-self")
    (request,) = generate.read_requests(run.dataset("qwen2.5-7b", "dpo-self") / "corrections.requests.jsonl")
    assert request["body"]["model"] == "qwen2.5-7b/thought-sft"
    assert run.corrected_by("dpo") == "teacher"


def test_without_thought_sft_the_base_model_solves(run):
    folder = solve(run, RIGHT, WRONG, "nothing", RIGHT, stage="solution-sft-no-thought")
    requests = generate.read_requests(folder / "solutions.requests.jsonl")
    assert requests[0]["body"]["model"] == "qwen2.5-7b/base"
    (pair,) = rows(correct(run, ["Wait: heat follows."], stage="dpo-no-thought") / "samples.jsonl")
    assert pair["rejected"] == WRONG


def test_pairs_without_correction_have_the_label_alone(run):
    solve(run, RIGHT, WRONG, "nothing", RIGHT)
    samples.build(run, "dpo-uncorrected", "qwen2.5-7b")
    (pair,) = rows(run.dataset("qwen2.5-7b", "dpo-uncorrected") / "samples.jsonl")
    assert (pair["chosen"], pair["rejected"]) == ("<answer> True </answer>", WRONG)


def test_direct_fine_tuning_answers_with_the_label_alone(run):
    samples.build(run, "direct-sft")
    result = rows(run.dataset("shared", "direct-sft") / "samples.jsonl")
    assert {row["response"] for row in result} == {"<answer> True </answer>"} and len(result) == len(ITEMS)


def test_cot_sft_has_right_rationales_of_stage_2_and_the_selected_analyses_of_stage_1(run):
    to_thoughts(run)
    stage1.rationale_requests(run, "cot-sft")
    folder = run.dataset("shared", "cot-sft")
    write_jsonl(folder / "rationales.responses.jsonl", [
        response("p-0", WRONG), response("p-1", RIGHT), response("p-2", RIGHT), response("p-3", WRONG)])
    stage1.rationales(run, "cot-sft")
    samples.build(run, "cot-sft")
    result = {row["id"]: row["response"] for row in rows(folder / "samples.jsonl")}
    assert set(result) == {"p-0", "p-1", "p-2", "hb-1"}  # p-0 and hb-1 from stage 1
    assert result["p-1"] == RIGHT and "<answer>" not in result["hb-1"]


def test_subsets_are_nested_and_proportional_to_tasks():
    items = [{"id": f"{task}{number}", "task": task} for task, count in (("a", 50), ("b", 10))
             for number in range(count)]
    subsets = [{row["id"] for row in samples.subset(items, share, 42)} for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
    assert [len(ids) for ids in subsets] == [12, 24, 36, 48, 60]
    assert all(smaller < larger for smaller, larger in zip(subsets, subsets[1:], strict=False))
    assert sum(key.startswith("b") for key in subsets[0]) == 2


def test_what_was_cut_at_max_tokens_is_neither_wrong_nor_unparsed(run, capsys):
    """Cut after its label, it counts by the label; a thought that was cut is not "not JSON"."""
    folder = stage1.folder(run)
    cut = [response("p-0", RIGHT + " and"), response("p-1", "1. A fan"), response("p-2", "It may be.")]
    for row in cut[:2]:
        row["response"]["body"]["choices"][0]["finish_reason"] = "length"
    stage1.rationale_requests(run)
    write_jsonl(folder / "rationales.responses.jsonl", [*cut, response("p-3", WRONG)])
    stage1.rationales(run)
    assert [row["outcome"] for row in rows(folder / "rationales.jsonl")[:4]] == ["right", "cut", "unparsed", "wrong"]
    assert "cut: at max_tokens; raise max_tokens in experiments/decoding.yaml" in capsys.readouterr().out
    tried = [responses.Attempt("{", 1, cut=True), responses.Attempt("{", 2, cut=True)]
    assert responses.deciding("p-0", tried, lambda _, text: "not JSON") == (tried[1], "cut")
    assert responses.deciding("p-0", tried, lambda _, text: "") == (tried[0], "")
