"""Further attempts: what is asked again, with what, how often, and what is kept, at a real server and journal."""

import json
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from data_builders import ask, samples, stage1, stage2
from demo import teacher
from logreasoner import examples
from logreasoner.config import declare, example_file, resolve
from logreasoner.files import read_json, read_jsonl, write_json, write_jsonl
from logreasoner.generation.response_cache import whole_lines
from logreasoner.instances import Instance

PFP, MODEL = "potential_failure_prediction", "qwen2.5-7b"
ITEMS = [Instance(f"p-{at}", PFP, "made", f"FAN/[MASK]/X: Fan {word} stopped.", "True")
         for at, word in enumerate(["left", "right", "rear"])]
RIGHT = "<solutions>\n1. A fan stopped.\n2. Heat follows.\n</solutions>\n<answer> True </answer>"
WRONG = RIGHT.replace("True", "False")
PLAN = json.dumps({"problem_overview": "Judge an event.", "key_challenges": ["Few words."],
                   "reasoning_steps": ["Name the event.", "Ask what follows.", "Decide."]})
FIX = json.dumps({"first_error": 2, "reason": "Heat matters.", "steps": ["But, wait: heat follows.", "So it fails."]})


@pytest.fixture
def world(workdir, monkeypatch):
    """A run whose teacher and policy are a server; `replies` has the texts for each item, one for each attempt."""
    world = SimpleNamespace(replies={}, bodies=[])

    def respond(body):
        text = body["messages"][-1]["content"]
        item = next(item for item in ITEMS if item.text in text)
        world.bodies.append(body)
        return 200, teacher.completion(body, world.replies[item.id][sum(
            item.text in each["messages"][-1]["content"] for each in world.bodies) - 1])

    server = teacher.Server(("127.0.0.1", 0), teacher.handler(respond))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    world.run = declare("t", resolve("paper", [f"tasks={PFP}", f"teacher_base_url={url}"]))
    write_jsonl(world.run.splits / "stage2.jsonl", (item.as_json() for item in ITEMS))

    def answer(folder, name, *options, **replies):
        """Answer a request file; return the bodies of the requests that came."""
        world.replies, world.bodies = {key.replace("_", "-"): texts for key, texts in replies.items()}, []
        monkeypatch.setattr(sys, "argv", ["ask", "--run", "t", "--requests", str(folder / f"{name}.requests.jsonl"),
                                          "--responses", str(folder / f"{name}.responses.jsonl"), *options])
        ask.main()
        return world.bodies

    world.answer, world.solver = answer, (
        "--role", "solver", "--model", MODEL, "--stage", "solution-sft", "--engine", "openai", "--base-url", url)
    yield world
    server.shutdown()
    server.server_close()


def solve(world, **replies):
    folder = world.run.dataset(MODEL, "solution-sft")
    stage2.solution_requests(world.run, MODEL, "solution-sft")
    bodies = world.answer(folder, "solutions", *world.solver, **replies)
    stage2.solutions(world.run, MODEL, "solution-sft")
    return folder, bodies, {row["id"]: row for _, row in read_jsonl(folder / "solutions.jsonl")}


def test_a_solution_without_an_answer_is_sampled_again_with_another_seed(world):
    folder, bodies, rows = solve(world, p_0=[RIGHT], p_1=["I cannot say.", "No idea.", WRONG], p_2=["?", "?", "?"])
    tried = sorted((body["temperature"], body["seed"]) for body in bodies)
    assert tried == [(0.0, 42)] * 3 + [(0.7, 43)] * 2 + [(0.7, 44)] * 2, "the paper's greedy try is the first"
    assert len({body["messages"][0]["content"] for body in bodies}) == 3, "the question stays the same"
    assert {key: (row["outcome"], row["attempt"]) for key, row in rows.items()} == {
        "p-0": ("right", 1), "p-1": ("wrong", 3), "p-2": ("unparsed", 3)}
    assert read_json(folder / "solutions.jsonl.manifest.json")["attempts"] == {"1": 1, "3": 2}


def test_all_attempts_are_kept_and_none_is_asked_twice(world):
    replies = {"p_0": [RIGHT], "p_1": ["?", WRONG], "p_2": ["?", "?", RIGHT]}
    folder, bodies, rows = solve(world, **replies)
    assert len(list(whole_lines(folder / "solutions.journal.jsonl"))) == len(bodies) == 6
    assert [row["custom_id"] for _, row in read_jsonl(folder / "solutions.again.jsonl")] == ["p-1#2", "p-2#2", "p-2#3"]
    assert solve(world)[1:] == ([], rows)


def test_an_attempt_that_a_stopped_command_lacked_is_all_that_is_asked(world):
    folder, _, rows = solve(world, p_0=[RIGHT], p_1=["?", WRONG], p_2=["?", "?", RIGHT])
    journal = folder / "solutions.journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    (folder / "solutions.responses.jsonl").unlink()
    assert len(solve(world, p_2=[RIGHT])[1]) == 1


def test_a_right_answer_counts_however_it_is_written_and_is_trained_on_as_it_was_written(world):
    loose = "Let me see.\n\n### Step 1: A fan stopped.\n### Step 2: Heat follows.\n\nThe answer is **True**."
    folder, _, rows = solve(world, p_0=[loose], p_1=[f"<think>hm</think>\n{RIGHT}\n"], p_2=["Answer: False"])
    assert [(row["outcome"], row["steps"]) for row in rows.values()] == [
        ("right", ["A fan stopped.", "Heat follows."])] * 2 + [("wrong", [])]
    samples.build(world.run, "solution-sft", MODEL)
    assert {row["response"] for _, row in read_jsonl(folder / "samples.jsonl")} == {loose, RIGHT}


def test_solutions_can_be_trained_on_in_the_asked_form(world):
    object.__setattr__(world.run.experiment, "trained_text", "canonical")
    folder, *_ = solve(world, p_0=["1) A fan stopped.\n2) Heat follows.\nAnswer: True"], p_1=[RIGHT], p_2=[WRONG])
    samples.build(world.run, "solution-sft", MODEL)
    assert [row["response"] for _, row in read_jsonl(folder / "samples.jsonl")] == [RIGHT] * 2


def test_the_solver_can_be_shown_examples(world):
    few_shot = world.run.experiment.stage2.model_copy(update={"few_shot": True})
    run = declare("shown", world.run.experiment.model_copy(update={"stage2": few_shot, "shots": 2}))
    solutions = examples.load(example_file(run.experiment, PFP), run.task(PFP))
    write_jsonl(run.splits / "stage2.jsonl", (item.as_json() for item in ITEMS))
    write_jsonl(run.splits / "examples.jsonl", (replace(ITEMS[0], id=one.key, label=one.answer, log=one.key).as_json()
                                                for one in solutions))
    stage2.solution_requests(run, MODEL, "solution-sft")
    for item, (_, row) in zip(ITEMS, read_jsonl(run.dataset(MODEL, "solution-sft") / "solutions.requests.jsonl"),
                              strict=True):
        messages = row["body"]["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 2 + ["user"]
        assert item.text in messages[-1]["content"] and messages[1]["content"].startswith("<solutions>")


def test_thinking_that_was_cut_off_is_no_answer(world):
    stage2.solution_requests(world.run, "r1-distill-qwen-7b", "solution-sft")
    folder = world.run.dataset("r1-distill-qwen-7b", "solution-sft")
    requests = [row for _, row in read_jsonl(folder / "solutions.requests.jsonl")]
    assert {row["body"]["max_tokens"] for row in requests} == {4096}, "as many tokens as in the evaluation"
    write_jsonl(folder / "solutions.responses.jsonl", ({"custom_id": item.id, "error": None, "response": {
        "status_code": 200, "body": {"choices": [{"finish_reason": reason, "message": {"content": RIGHT}}]}}}
        for item, reason in zip(ITEMS, ["length", "stop", "stop"], strict=True)))
    stage2.solutions(world.run, "r1-distill-qwen-7b", "solution-sft")
    assert [row["outcome"] for _, row in read_jsonl(folder / "solutions.jsonl")] == ["cut", "right", "right"]


def test_a_model_that_thinks_first_has_room_for_it_when_it_corrects_itself(world):
    """Else the correction ends within the thought, as 1,536 tokens are meant for the correction alone."""
    model, run = "r1-distill-qwen-7b", world.run
    rows = [{"id": item.id, "task": PFP, "outcome": "wrong", "label": item.label, "steps": ["So."], "answer": "False"}
            for item in ITEMS]
    write_jsonl(run.dataset(model, "solution-sft") / "solutions.jsonl", rows)
    most = []
    for stage in ("dpo-self", "dpo"):
        stage2.correction_requests(run, model, stage)
        most.append({row["body"]["max_tokens"] for _, row in read_jsonl(
            run.dataset(model, stage) / "corrections.requests.jsonl")})
    assert most == [{4096}, {1536}], "as many tokens as in the evaluation; the teacher has its own"


def test_a_rejected_correction_is_asked_again_with_the_reason(world):
    solve(world, p_0=[WRONG], p_1=[WRONG], p_2=[RIGHT])
    folder = world.run.dataset(MODEL, "dpo")
    stage2.correction_requests(world.run, MODEL, "dpo")
    late = FIX.replace("2", "9")
    bodies = world.answer(folder, "corrections", "--role", "corrector", "--model", MODEL, "--stage", "dpo",
                          p_0=[FIX], p_1=["<|im_end|>no", late, FIX])
    again = [body["messages"][-1]["content"] for body in bodies if "### Your earlier reply" in str(body)]
    first = next(body["messages"][-1]["content"] for body in bodies if ITEMS[1].text in str(body))
    assert len(again) == 2 and all(text.startswith(f"{first}\n") for text in again)
    assert "not JSON" in again[0] and "<|im_end|>" not in again[0]
    assert "first_error out of range" in again[1] and "not JSON" not in again[1]
    assert len({body["seed"] for body in bodies}) == 3
    stage2.corrections(world.run, MODEL, "dpo")
    assert [(row["outcome"], row["attempt"]) for _, row in read_jsonl(folder / "corrections.jsonl")] == [
        ("accepted", 1), ("accepted", 3)]


def test_a_rejected_thought_is_asked_again_with_the_details_to_leave_out(world):
    folder = stage1.folder(world.run)
    write_jsonl(folder / "analyses.jsonl", (
        {"id": item.id, "task": PFP, "problem": item.text, "analysis": "It stopped."} for item in ITEMS))
    write_json(folder / "selected.json", [2, 0])
    stage1.thought_requests(world.run)
    detailed = PLAN.replace("Ask what", "See 10.1.2.3 for what")
    bodies = world.answer(folder, "thoughts", "--role", "teacher", p_2=[PLAN], p_0=[detailed] * 3)
    assert sum("instance detail in a step: 10.1.2.3" in str(body) for body in bodies) == 2
    stage1.thoughts(world.run)
    assert [(row["id"], row["outcome"], row["attempt"]) for _, row in read_jsonl(folder / "thoughts.jsonl")] == [
        ("p-2", "valid", 1), ("p-0", "instance detail in a step", 3)]


def test_an_analysis_without_a_thought_is_replaced_by_the_next_in_the_order_of_the_selection(world):
    folder = stage1.folder(world.run)
    write_jsonl(folder / "analyses.jsonl", (
        {"id": item.id, "task": PFP, "problem": item.text, "analysis": "It stopped."} for item in ITEMS))
    write_json(folder / "selected.json", [1])
    write_json(folder / "reserve.json", [2, 0])
    stage1.thought_requests(world.run)
    bodies = world.answer(folder, "thoughts", "--role", "teacher", p_1=["no"] * 3, p_2=["no"] * 3, p_0=[PLAN])
    assert len(bodies) == 7
    stage1.thoughts(world.run)
    assert [(row["id"], row["outcome"]) for _, row in read_jsonl(folder / "thoughts.jsonl")] == [
        ("p-1", "not JSON"), ("p-2", "not JSON"), ("p-0", "valid")]
    assert world.answer(folder, "thoughts", "--role", "teacher") == [], "all of it is in the journal"
    samples.build(world.run, "thought-sft")
    assert [row["id"] for _, row in read_jsonl(folder / "samples.jsonl")] == ["p-0"]


def test_only_what_can_be_judged_is_asked_again(world, capsys):
    with pytest.raises(SystemExit, match="only examples, thoughts, solutions, corrections"):
        world.answer(stage1.folder(world.run), "rationales", "--role", "teacher")
