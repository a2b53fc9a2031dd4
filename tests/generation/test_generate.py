"""The live engine against a real HTTP server on loopback that fails in the ways endpoints fail."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_builders import stage1
from logreasoner import config
from logreasoner.cli import UserError
from logreasoner.config import declare, decoding, resolve
from logreasoner.files import locked, read_json, read_jsonl, write_jsonl
from logreasoner.generation import generate
from logreasoner.generation.costs import Budget, worst_case
from logreasoner.generation.openai_live import ask_live
from logreasoner.generation.response_cache import Engine, Journal, endpoints, most_tokens
from logreasoner.schemas import Model, checked


def completion(text: str | None) -> dict:
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


class Endpoint(ThreadingHTTPServer):
    """Answers the n-th request for a prompt with the n-th entry of its plan, the last one from then on."""

    def __init__(self, plan: dict[str, list[tuple[int, object]]]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.asked, self.bodies = plan, Counter(), []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.lock:
            turn = self.server.asked[prompt]
            self.server.asked[prompt] += 1
            self.server.bodies.append(body)
        plan = self.server.plan.get(prompt, [(200, completion(f"answer to {prompt}"))])
        status, value = plan[min(turn, len(plan) - 1)]
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def endpoint():
    servers = []

    def start(plan=None):
        servers.append(Endpoint(plan or {}))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def requests(folder, count=5):
    path = folder / "x.requests.jsonl"
    write_jsonl(path, (generate.request(f"id-{number}", "m", "solution", f"prompt {number}", vllm=True)
                       for number in range(count)))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No breaks between rounds in vain."""
    monkeypatch.setitem(decoding()["live"], "pause", 0)


def ask(path, endpoint, budget=None, others=None, **more):
    """`others`: the run whose other runs' journals are copied from."""
    out = path.with_name(path.name.replace("requests", "responses"))
    generate.answer(path, out, Engine(lambda asked, journal: ask_live(asked, journal, endpoint.url, "none", budget),
                                      endpoints(endpoint.url),
                                      others=lambda path: generate.other_runs(others, path) if others else ()), **more)
    return [record for _, record in read_jsonl(out)]


def test_every_answer_arrives_in_order_and_in_the_batch_format(workdir, endpoint):
    server = endpoint()
    records = ask(requests(workdir), server)
    assert [record["custom_id"] for record in records] == [f"id-{number}" for number in range(5)]
    assert [generate.content(record) for record in records] == [f"answer to prompt {number}" for number in range(5)]
    assert {"temperature", "top_p", "max_tokens", "seed", "repetition_penalty"} <= set(server.bodies[0])


def test_nothing_is_asked_twice(workdir, endpoint):
    server = endpoint()
    path = requests(workdir)
    ask(path, server)
    path.with_name("x.responses.jsonl").unlink()
    ask(path, server)
    assert set(server.asked.values()) == {1}


def test_a_changed_request_is_asked_again_and_the_old_answer_is_kept(workdir, endpoint):
    server = endpoint()
    path = requests(workdir, 1)
    ask(path, server)
    write_jsonl(path, [generate.request("id-0", "m", "solution", "another prompt", vllm=True)])
    assert generate.content(ask(path, server)[0]) == "answer to another prompt"
    assert len(path.with_name("x.journal.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("fault", [(429, {"error": {"message": "slow down"}}), (500, {}), (503, b"busy")])
def test_passing_faults_are_retried(workdir, endpoint, fault):
    server = endpoint({"prompt 1": [fault, fault, (200, completion("late"))]})
    assert generate.content(ask(requests(workdir, 2), server)[1]) == "late"


def test_a_lasting_fault_keeps_the_other_answers_and_asks_only_the_rest_next_time(workdir, endpoint, monkeypatch):
    monkeypatch.setitem(decoding()["live"], "max_retries", 1)
    tries = 2 * (1 + decoding()["live"]["rounds"])  # the first round brought two answers, the others nothing
    server = endpoint({"prompt 1": [(500, {})] * tries + [(200, completion("at last"))]})
    path = requests(workdir, 3)
    with pytest.raises(UserError, match="1 of 3 requests have no answer, the first id-1"):
        ask(path, server)
    assert not path.with_name("x.responses.jsonl").exists()
    assert generate.content(ask(path, server)[1]) == "at last"
    assert server.asked == {"prompt 0": 1, "prompt 1": tries + 1, "prompt 2": 1}


def test_a_refused_request_is_final_and_marked(workdir, endpoint):
    server = endpoint({"prompt 0": [(400, {"error": {"message": "content filter"}})]})
    records = ask(requests(workdir, 2), server)
    assert generate.content(records[0]) is None and "content filter" in generate.error_of(records[0])
    assert server.asked["prompt 0"] == 1


@pytest.mark.parametrize("answer", [{"error": {"code": 502}}, b'{"id": "half an ans', b"[]", b"null"])
def test_what_is_not_an_answer_is_asked_again(workdir, endpoint, answer):
    server = endpoint({"prompt 0": [(200, answer), (200, completion("now"))]})
    assert generate.content(ask(requests(workdir, 1), server)[0]) == "now"
    lines = [line for _, line in read_jsonl(workdir / "x.journal.jsonl")]
    assert [generate.final(line) for line in lines] == [False, True]


def test_what_is_never_an_answer_is_given_up(workdir, endpoint):
    server = endpoint({"prompt 0": [(200, b"[]")]})
    with pytest.raises(UserError, match="1 of 2 requests have no answer, the first id-0 .*not an answer"):
        ask(requests(workdir, 2), server)
    assert server.asked["prompt 0"] == 1 + decoding()["live"]["rounds"]


def test_a_refusal_without_text_is_an_answer_and_not_asked_again(workdir, endpoint):
    server = endpoint({"prompt 0": [(200, completion(None))]})
    assert generate.content(ask(requests(workdir, 1), server)[0]) == ""
    assert server.asked == {"prompt 0": 1}


def test_a_wrong_key_stops_at_once_with_one_line(workdir, endpoint):
    server = endpoint({f"prompt {number}": [(401, {"error": {"message": "bad key"}})] for number in range(5)})
    with pytest.raises(UserError, match="refused"):
        ask(requests(workdir), server)


def test_a_journal_line_cut_by_a_kill_loses_only_itself(workdir, endpoint):
    server = endpoint()
    path = requests(workdir, 3)
    ask(path, server)
    journal = path.with_name("x.journal.jsonl")
    journal.write_bytes(journal.read_bytes()[:-40])
    ask(path, server)
    assert sorted(server.asked.values()) == [1, 1, 2]
    ask(path, server)
    assert sorted(server.asked.values()) == [1, 1, 2]


def test_a_doubled_request_is_named(workdir):
    path = workdir / "x.requests.jsonl"
    write_jsonl(path, [generate.request("id-0", "m", "solution", "p", vllm=True)] * 2)
    with pytest.raises(UserError, match="x.requests.jsonl:2: custom_id 'id-0' comes twice"):
        generate.read_requests(path)


def test_two_commands_do_not_ask_the_same_at_once(workdir):
    lock = workdir / "x.lock"
    with locked(lock, "a"), pytest.raises(UserError, match="x.lock is held by b"), locked(lock, "b"):
        pass


def test_vllms_own_fields_go_only_to_vllm():
    body = generate.request("i", "gpt", "solution", "p", vllm=False)["body"]
    assert "repetition_penalty" not in body and body["temperature"] == 0.0


@pytest.mark.parametrize(("experiment", "overrides", "sent"), [
    ("paper", [], None), ("paper", ["teacher_base_url=https://api.openai.com/v1"], None), ("demo", [], None),
    ("paper", ["teacher_base_url=http://10.0.0.1:8000/v1"], 1.0)])
def test_a_teacher_that_may_be_vllm_is_told_not_to_penalise_repetition(workdir, experiment, overrides, sent):
    """Qwen2.5's generation_config has 1.05, which vLLM takes where a request says nothing."""
    run = declare("r", resolve(experiment, overrides))
    body = stage1.thought_request(run, {"id": "i", "problem": "p", "analysis": "1. a"})["body"]
    assert body.get("repetition_penalty") == sent


def test_an_identical_question_is_asked_once_and_its_answer_serves_every_id(workdir, endpoint):
    server = endpoint()
    path = workdir / "x.requests.jsonl"
    write_jsonl(path, (generate.request(f"id-{number}", "m", "solution", f"prompt {number % 2}", vllm=True)
                       for number in range(6)))
    records = ask(path, server)
    assert server.asked == {"prompt 0": 1, "prompt 1": 1}
    assert [record["custom_id"] for record in records] == [f"id-{number}" for number in range(6)]
    assert [generate.content(record) for record in records] == ["answer to prompt 0", "answer to prompt 1"] * 3


def test_samples_of_one_prompt_with_seeds_of_their_own_are_all_asked(workdir, endpoint):
    server = endpoint()
    path = workdir / "x.requests.jsonl"
    write_jsonl(path, (generate.request(f"id-{seed}", "m", "solution", "prompt", vllm=True, seed=seed)
                       for seed in (1, 2)))
    ask(path, server)
    assert server.asked == {"prompt": 2}


def test_response_files_may_share_a_journal(workdir, endpoint):
    server = endpoint()
    (workdir / "a").mkdir()
    few, all_of_them = requests(workdir / "a", 2), requests(workdir, 5)
    ask(few, server, journal_path=workdir / "both.journal.jsonl")
    ask(all_of_them, server, journal_path=workdir / "both.journal.jsonl")
    assert set(server.asked.values()) == {1} and len(server.asked) == 5
    assert not all_of_them.with_name("x.journal.jsonl").exists()


def test_after_a_refused_key_no_more_is_asked(workdir, endpoint, monkeypatch):
    monkeypatch.setitem(decoding()["live"], "concurrency", 1)
    server = endpoint({"prompt 0": [(401, {"error": {"message": "bad key"}})]})
    with pytest.raises(UserError, match="refused"):
        ask(requests(workdir, 5), server)
    assert server.asked == {"prompt 0": 1}


def test_a_refused_key_does_not_lose_the_answers_under_way(workdir, endpoint):
    server = endpoint({"prompt 0": [(401, {"error": {"message": "bad key"}})]})
    path = requests(workdir, 5)
    with pytest.raises(UserError, match="refused"):
        ask(path, server)
    kept = Journal(path.with_name("x.journal.jsonl"), endpoints(server.url))
    answered = [asked for asked in generate.read_requests(path) if kept.answer(asked)]
    assert len(answered) == sum(server.asked.values()) - 1


def declared(name, *overrides):
    return declare(name, resolve("paper", list(overrides)))


def journal(run, folder="shared/thought-sft", name="x"):
    return run.dir / "datasets" / folder / f"{name}.journal.jsonl"


def test_what_another_run_paid_for_is_copied_and_not_asked(workdir, endpoint):
    first, second = declared("one"), declared("two", "seed=43")
    server = endpoint()
    ask(requests(workdir), server, journal_path=journal(first))
    ask(requests(workdir), server, journal_path=journal(second, "other-model/dpo"), others=second)
    assert set(server.asked.values()) == {1}
    copied = [line for _, line in read_jsonl(journal(second, "other-model/dpo"))]
    assert {line["copied_from"] for line in copied} == {str(journal(first))} and len(copied) == 5


@pytest.mark.parametrize("other", ["teacher=gpt-4o-mini", "teacher_base_url=http://127.0.0.1:1/v1"])
def test_another_teachers_answers_are_not_copied(workdir, other):
    first, second = declared("one", other), declared("two")
    journal(first).parent.mkdir(parents=True)
    journal(first).touch()
    assert generate.other_runs(second, journal(second)) == []


def test_a_scripted_teachers_answers_stay_among_scripted_runs(workdir):
    scripted = declare("demo", resolve("demo", []))
    real = declared("real")
    for run in (scripted, real):
        journal(run).parent.mkdir(parents=True)
        journal(run).touch()
    assert generate.other_runs(real, journal(real)) == generate.other_runs(scripted, journal(scripted)) == []


def paid(number):
    return {**completion(f"answer {number}"), "usage": {"prompt_tokens": 100, "completion_tokens": 500}}


def gpt_requests(folder, count=20):
    path = folder / "x.requests.jsonl"
    write_jsonl(path, (generate.request(f"id-{number}", "gpt-4o-2024-08-06", "rationale", f"prompt {number}",
                                        vllm=False) for number in range(count)))
    return path


def test_a_budget_is_never_exceeded_and_every_answer_is_kept(workdir, endpoint):
    run = declared("paper")
    server = endpoint({f"prompt {number}": [(200, paid(number))] for number in range(20)})
    path = gpt_requests(workdir)
    cost = (100 * 2.5 + 500 * 10) / 1e6
    worst = worst_case(generate.read_requests(path)[0]["body"])
    limit = 4 * cost + worst + 0.001  # the fifth may begin, the sixth may not
    with pytest.raises(UserError, match=r"has spent 0\.026\d, 15 requests are left"):
        ask(path, server, Budget(run, limit), journal_path=journal(run))
    assert sum(server.asked.values()) == 5 and len(list(read_jsonl(journal(run)))) == 5
    with pytest.raises(UserError, match="15 requests are left"):  # what was spent before counts
        ask(path, server, Budget(run, limit), journal_path=journal(run))
    assert sum(server.asked.values()) == 5
    ask(path, server, Budget(run, 20 * cost + worst), journal_path=journal(run))
    assert set(server.asked.values()) == {1} and len(server.asked) == 20


def test_a_budget_holds_where_replies_do_not_count_their_tokens(workdir, endpoint):
    """Everything was asked, and the costs were 0."""
    run, path = declared("paper"), gpt_requests(workdir)
    uncounted = {key: value for key, value in completion("answer").items() if key != "usage"}
    server = endpoint({f"prompt {number}": [(200, uncounted)] for number in range(20)})
    limit = 4.5 * worst_case(generate.read_requests(path)[0]["body"])
    for _ in range(2):
        with pytest.raises(UserError, match=r"has spent \S+ at most \(4 of unknown cost: .*\), 16 requests are left"):
            ask(path, server, Budget(run, limit), journal_path=journal(run))
        assert sum(server.asked.values()) == 4


def test_the_other_files_of_a_run_count_towards_its_budget(workdir, endpoint):
    run = declared("paper")
    server = endpoint({f"prompt {number}": [(200, paid(number))] for number in range(20)})
    ask(gpt_requests(workdir), server, journal_path=journal(run, name="rationales"))
    assert Budget(run, 1).spent == pytest.approx(20 * (100 * 2.5 + 500 * 10) / 1e6)


def test_a_model_without_a_price_has_no_budget(workdir, endpoint):
    with pytest.raises(UserError, match="no price is known for 'm'.*experiments/prices.yaml"):
        ask(requests(workdir), endpoint(), Budget(declared("paper"), 1.0))


def test_a_model_of_an_api_is_asked_there_whatever_the_engine(workdir, endpoint, monkeypatch):
    server, run = endpoint(), declared("paper")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set; gpt-4o needs it"):
        generate.policy_engine(run, "gpt-4o", "base", "vllm")
    path = requests(workdir)
    engine = generate.policy_engine(run, "gpt-4o", "base", "vllm", server.url)
    generate.answer(path, workdir / "x.responses.jsonl", engine)
    assert sum(server.asked.values()) == 5


@pytest.mark.parametrize("name", ["bert", "majority"])
def test_what_is_no_language_model_answers_no_requests(workdir, name):
    with pytest.raises(UserError, match=f"{name} is no language model"):
        generate.policy_engine(declared("paper"), name, "base")


def test_our_own_vllm_is_told_which_commit_and_how_many_copies_to_run(workdir, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(workdir / "hub"))
    ref = workdir / "hub" / "models--Qwen--Qwen2.5-7B-Instruct" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("0123456789" * 4)
    program = workdir / ".venv-serve" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text("""#!/bin/sh
case "$*" in
  *count_tokens*) echo '{"limit": 32768, "prompts": [2000]}' ;;
  *) echo "$@"; exit 1 ;;
esac
""")
    program.chmod(0o755)
    for copies, asked in ((1, False), (3, True)):
        engine = generate.policy_engine(declared("paper"), "qwen2.5-7b", "base", "vllm", data_parallel=copies)
        with pytest.raises(UserError, match="vLLM's server did not come up; see .*vllm-qwen2.5-7b-base.log"):
            generate.answer(requests(workdir, 1), workdir / "x.responses.jsonl", engine)
        command = (workdir / "build/runs/paper/logs/vllm-qwen2.5-7b-base.log").read_text()
        assert ("--data-parallel-size 3" in command) == asked and f"--revision {ref.read_text()}" in command
        assert "--max-model-len 3072 " in command


def test_open_weights_are_not_asked_by_batches_nor_the_teacher_by_vllm(workdir, monkeypatch):
    with pytest.raises(UserError, match="qwen2.5-7b has local weights"):
        generate.policy_engine(declared("paper"), "qwen2.5-7b", "base", "openai-batch")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with pytest.raises(UserError, match="--engine vllm serves local weights"):
        generate.teacher_engine(declared("paper"), "vllm")


def test_an_api_that_lacks_parameters_is_declared_once(workdir, monkeypatch):
    """A teacher that reasons: no temperature, max_completion_tokens for thoughts and answer; one without JSON mode."""
    apis = {"thinker": {"without": ["temperature", "top_p", "seed"], "max_completion_tokens": 20_000,
                        "extra": {"reasoning_effort": "low"}},
            "plain": {"without": ["response_format", "seed", "repetition_penalty"]}}
    rows = {name: checked(Model, {"title": name, "kind": "api", "path": f"{name}-1", "requests": requests}, name)
            for name, requests in apis.items()}
    known = config.models()
    monkeypatch.setattr(config, "models", lambda: known | rows)
    ours = {"max_tokens", "temperature", "top_p", "seed", "response_format", "model", "messages"}

    def body(name, vllm=False):
        return generate.request("i", name, "thought", "x", vllm=vllm, response_format={"type": "json_object"})["body"]

    assert set(body("gpt-4o-2024-08-06")) == ours
    assert set(body("own", vllm=True)) == ours | {"repetition_penalty"}
    assert set(body("plain-1")) == set(body("plain-1", vllm=True)) == ours - {"response_format", "seed"}
    thinker = body("thinker-1")
    assert set(thinker) == {"model", "messages", "response_format", "max_completion_tokens", "reasoning_effort"}
    assert (thinker["max_completion_tokens"], thinker["reasoning_effort"]) == (20_000, "low")
    assert most_tokens(thinker) == 20_000 and most_tokens(body("plain-1")) == config.decoding()["thought"]["max_tokens"]
    run = config.declare("t", config.resolve("paper", ["teacher=thinker-1"]))
    declared = read_json(run.dir / "run.json")
    assert declared["teacher_requests"]["max_completion_tokens"] == 20_000
    monkeypatch.setattr(config, "models", lambda: known)
    with pytest.raises(UserError, match="teacher_requests: .* -> None"):
        config.load_run("t")
