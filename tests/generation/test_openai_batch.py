"""The batch engine against a real HTTP server on loopback (demo/batches.py), through the openai client."""

import json
import threading
from collections import Counter
from types import SimpleNamespace

import pytest

from demo.teacher import Server, completion, handler
from logreasoner.cli import NotYet, UserError
from logreasoner.config import declare, resolve
from logreasoner.files import read_jsonl, write_jsonl
from logreasoner.generation import generate, openai_batch
from logreasoner.generation.costs import spent_in, spent_on

MODEL = "gpt-4o-2024-08-06"


@pytest.fixture
def world(workdir, monkeypatch):
    """An API on loopback, and a run whose teacher it is."""
    asked, replies = Counter(), {}

    def respond(body):
        prompt = body["messages"][0]["content"]
        asked[prompt] += 1
        return replies.get(prompt, (200, completion(body, f"answer to {prompt}")))

    answering = handler(respond)
    server = Server(("127.0.0.1", 0), answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    run = declare("paper", resolve("paper", [f"teacher_base_url={url}"]))
    yield SimpleNamespace(run=run, asked=asked, replies=replies, api=answering.batches,
                          folder=run.dir / "datasets" / "shared" / "thought-sft")
    server.shutdown()
    server.server_close()


def ask(world, count=5, engine="openai-batch", budget=None):
    path = world.folder / "x.requests.jsonl"
    write_jsonl(path, (generate.request(f"id-{number}", MODEL, "rationale", f"prompt {number}", vllm=False)
                       for number in range(count)))
    responses = world.folder / "x.responses.jsonl"
    generate.answer(path, responses, generate.teacher_engine(world.run, engine, budget))
    return [record for _, record in read_jsonl(responses)]


def submitted(world):
    return [len(world.api.files[each["input_file_id"]].splitlines()) for each in world.api.batches.values()]


def collect(world, **more):
    """Come back until the batches are done."""
    for _ in range(4):
        try:
            return ask(world, **more)
        except NotYet:
            continue
    return pytest.fail("the batches never ended")


def test_submit_leave_come_back_collect(world):
    with pytest.raises(NotYet, match=r"1 under way .*batch_1\), 0 of 5 requests done"):
        ask(world)
    with pytest.raises(NotYet):
        ask(world)
    records = ask(world)
    assert [record["custom_id"] for record in records] == [f"id-{number}" for number in range(5)]
    assert [generate.content(record) for record in records] == [f"answer to prompt {number}" for number in range(5)]
    assert submitted(world) == [5] and set(world.asked.values()) == {1}


def test_its_exit_status_is_its_own(world, monkeypatch, capsys):
    path = world.folder / "x.requests.jsonl"
    write_jsonl(path, [generate.request("id-0", MODEL, "rationale", "prompt", vllm=False)])
    monkeypatch.setattr("sys.argv", ["chat", "--run", "paper", "--role", "teacher", "--engine", "openai-batch",
                                     "--requests", str(path), "--responses", str(world.folder / "x.responses.jsonl")])
    with pytest.raises(SystemExit) as ended:
        generate.main()
    assert ended.value.code == 75
    assert capsys.readouterr().err.startswith("not yet: 1 under way")


def test_every_line_is_what_the_api_documents(world):
    with pytest.raises(NotYet):
        ask(world, 1)
    (line,) = [json.loads(line) for line in world.api.files["file-1"].splitlines()]
    assert set(line) == {"custom_id", "method", "url", "body"}
    assert (line["method"], line["url"], line["body"]["model"]) == ("POST", "/v1/chat/completions", MODEL)
    (made,) = world.api.batches.values()
    assert (made["endpoint"], made["completion_window"]) == ("/v1/chat/completions", "24h")


@pytest.mark.parametrize("moment", ["before the file is sent", "after the batch is made"])
def test_a_kill_never_submits_twice(world, monkeypatch, moment):
    real = openai_batch.note

    def killed(path, key, **facts):
        if moment == "after the batch is made" and "batch" in facts:
            raise KeyboardInterrupt
        real(path, key, **facts)
        if moment == "before the file is sent":
            raise KeyboardInterrupt

    monkeypatch.setattr(openai_batch, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(world)
    monkeypatch.setattr(openai_batch, "note", real)
    assert len(collect(world)) == 5
    assert submitted(world) == [5] and set(world.asked.values()) == {1}


def test_a_kill_between_collecting_and_noting_it_counts_no_answer_twice(world, monkeypatch):
    real = openai_batch.note
    with pytest.raises(NotYet):
        ask(world)

    def killed(path, key, **facts):
        if "ended" in facts:
            raise KeyboardInterrupt
        real(path, key, **facts)

    monkeypatch.setattr(openai_batch, "note", killed)
    with pytest.raises(NotYet):
        ask(world)
    with pytest.raises(KeyboardInterrupt):
        ask(world)
    monkeypatch.setattr(openai_batch, "note", real)
    assert len(ask(world)) == 5 and not openai_batch.open_notes(world.folder / "x.journal.jsonl")
    assert spent_in(world.folder / "x.journal.jsonl").answers == 5


def test_the_limits_of_a_batch_split_it(world, monkeypatch):
    monkeypatch.setattr(openai_batch, "MOST_REQUESTS", 2)
    assert len(collect(world)) == 5
    assert submitted(world) == [2, 2, 1]
    monkeypatch.setattr(openai_batch, "MOST_REQUESTS", 50_000)
    monkeypatch.setattr(openai_batch, "MOST_BYTES", 600)
    collect(world, count=8)
    assert submitted(world)[3:] == [2, 1]
    assert all(len(data) <= 600 for data in world.api.files.values() if b'"method"' in data)


def test_what_is_new_is_submitted_while_a_batch_is_under_way(world):
    with pytest.raises(NotYet):
        ask(world, 3)
    with pytest.raises(NotYet, match="2 under way"):
        ask(world, 5)
    assert len(collect(world)) == 5
    assert submitted(world) == [3, 2] and set(world.asked.values()) == {1}


def test_a_refusal_is_final_and_a_fault_is_submitted_again(world):
    world.replies["prompt 1"] = 400, {"error": {"message": "content filter"}}
    world.replies["prompt 2"] = 500, {"error": {"message": "overloaded"}}
    with pytest.raises(UserError, match="1 of 5 requests have no answer, the first id-2 .*overloaded"):
        collect(world)
    del world.replies["prompt 2"]
    records = collect(world)
    assert generate.content(records[1]) is None and "content filter" in generate.error_of(records[1])
    assert generate.content(records[2]) == "answer to prompt 2"
    assert submitted(world) == [5, 1]


def end(world, status, answered, **facts):
    """Let the batch under way end otherwise, with so many of its requests answered."""
    made = world.api.batches["batch_1"]
    lines = [json.loads(line) for line in world.api.files[made["input_file_id"]].splitlines()]
    good = [{"id": "r", "custom_id": line["custom_id"], "error": None, "response": {
        "status_code": 200, "body": completion(line["body"], "in time")}} for line in lines[:answered]]
    late = [{"id": "r", "custom_id": line["custom_id"], "response": None,
             "error": {"code": "batch_expired", "message": "not in time"}} for line in lines[answered:]]
    for name, part in (("output_file_id", good), ("error_file_id", late if answered else [])):
        if part:
            world.api.files[name] = "".join(json.dumps(line) + "\n" for line in part).encode()
            made[name] = name
    made.update(status=status, **facts)


def test_what_an_expired_batch_left_is_submitted_by_the_next_call(world, capsys):
    with pytest.raises(NotYet):
        ask(world)
    end(world, "expired", 3)
    with pytest.raises(UserError, match="2 of 5 requests have no answer, the first id-3 .*not in time"):
        ask(world)
    assert "batch_1: expired, 3 of 5 answered" in capsys.readouterr().out
    assert submitted(world) == [5]
    records = collect(world)
    assert [generate.content(record) for record in records][2:4] == ["in time", "answer to prompt 3"]
    assert submitted(world) == [5, 2]


def test_a_failed_batch_says_why_and_is_submitted_again_by_the_next_call(world, capsys):
    with pytest.raises(NotYet):
        ask(world)
    end(world, "failed", 0, errors={"object": "list", "data": [{"code": "x", "message": "enqueued token limit"}]})
    with pytest.raises(UserError, match="5 of 5 requests have no answer"):
        ask(world)
    assert "batch_1: failed, 0 of 5 answered: enqueued token limit" in capsys.readouterr().out
    assert len(collect(world)) == 5
    assert submitted(world) == [5, 5]


def test_the_live_engine_does_not_pay_again_for_what_a_batch_is_answering(world):
    with pytest.raises(NotYet):
        ask(world)
    with pytest.raises(UserError, match="5 of these requests are in a batch .* openai-batch first"):
        ask(world, engine="openai")
    assert not world.asked
    collect(world)
    ask(world, count=6, engine="openai")
    assert set(world.asked.values()) == {1}


def test_a_batch_that_the_api_does_not_know_is_said_so(world):
    with pytest.raises(NotYet):
        ask(world)
    world.api.batches.clear()
    with pytest.raises(UserError, match="does not know a batch or file of .*x.batch.jsonl"):
        ask(world)


def test_answers_of_a_batch_cost_half(world):
    collect(world)
    ask(world, count=6, engine="openai")
    usd = [spent_on(line).paid for _, line in read_jsonl(world.folder / "x.journal.jsonl")]
    assert usd[:5] == [pytest.approx(usd[5] / 2)] * 5 and usd[5] > 0


def test_a_budget_covers_the_worst_case_of_all_that_is_submitted(world):
    worst = 5 * 0.5 * (1024 * 10 + 50 * 2.5) / 1e6
    with pytest.raises(UserError, match="5 requests are left and they can cost up to 0.02"):
        ask(world, budget=0.5 * worst)
    assert not world.api.batches and not world.api.files
    with pytest.raises(NotYet):
        ask(world, budget=1.5 * worst)
    with pytest.raises(UserError, match="5 requests are left"):  # what is under way counts
        ask(world, count=10, budget=1.5 * worst)
    assert len(collect(world, budget=1.5 * worst)) == 5
    assert len(collect(world, count=10, budget=1.5 * worst)) == 10  # by now it is known what the first really cost
