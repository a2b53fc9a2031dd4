"""The live engine against a real HTTP server on loopback that fails in the ways endpoints fail."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from logreasoner import chat
from logreasoner.cli import UserError
from logreasoner.files import read_jsonl, write_jsonl


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
    write_jsonl(path, (chat.request(f"id-{number}", "m", "solution", f"prompt {number}", vllm=True)
                       for number in range(count)))
    return path


def ask(path, endpoint):
    import asyncio

    chat.answer(path, path.with_name("x.responses.jsonl"),
                lambda asked, journal: asyncio.run(chat.ask_live(asked, journal, endpoint.url, "none")))
    return [record for _, record in read_jsonl(path.with_name("x.responses.jsonl"))]


def test_every_answer_arrives_in_order_and_in_the_batch_format(workdir, endpoint):
    server = endpoint()
    records = ask(requests(workdir), server)
    assert [record["custom_id"] for record in records] == [f"id-{number}" for number in range(5)]
    assert [chat.content(record) for record in records] == [f"answer to prompt {number}" for number in range(5)]
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
    write_jsonl(path, [chat.request("id-0", "m", "solution", "another prompt", vllm=True)])
    assert chat.content(ask(path, server)[0]) == "answer to another prompt"
    assert len(path.with_name("x.journal.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("fault", [(429, {"error": {"message": "slow down"}}), (500, {}), (503, b"busy")])
def test_passing_faults_are_retried(workdir, endpoint, fault):
    server = endpoint({"prompt 1": [fault, fault, (200, completion("late"))]})
    assert chat.content(ask(requests(workdir, 2), server)[1]) == "late"


def test_a_lasting_fault_keeps_the_other_answers_and_asks_only_the_rest_next_time(workdir, endpoint, monkeypatch):
    monkeypatch.setitem(chat.decoding()["live"], "max_retries", 1)
    server = endpoint({"prompt 1": [(500, {})] * 2 + [(200, completion("at last"))]})
    path = requests(workdir, 3)
    with pytest.raises(UserError, match="1 of 3 requests have no answer, the first id-1"):
        ask(path, server)
    assert not path.with_name("x.responses.jsonl").exists()
    assert chat.content(ask(path, server)[1]) == "at last"
    assert server.asked == {"prompt 0": 1, "prompt 1": 3, "prompt 2": 1}


def test_a_refused_request_is_final_and_marked(workdir, endpoint):
    server = endpoint({"prompt 0": [(400, {"error": {"message": "content filter"}})]})
    records = ask(requests(workdir, 2), server)
    assert chat.content(records[0]) is None and "content filter" in chat.trouble(records[0])
    assert server.asked["prompt 0"] == 1


@pytest.mark.parametrize("answer", [{**completion("x"), "choices": []}, b'{"id": "half an ans', b"[]", b"null"])
def test_what_is_not_an_answer_is_asked_again_next_time(workdir, endpoint, answer):
    server = endpoint({"prompt 0": [(200, answer), (200, completion("now"))]})
    path = requests(workdir, 1)
    with pytest.raises(UserError, match="no answer"):
        ask(path, server)
    assert chat.content(ask(path, server)[0]) == "now"


def test_a_refusal_without_text_is_an_answer_and_not_asked_again(workdir, endpoint):
    server = endpoint({"prompt 0": [(200, completion(None))]})
    assert chat.content(ask(requests(workdir, 1), server)[0]) == ""
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
    write_jsonl(path, [chat.request("id-0", "m", "solution", "p", vllm=True)] * 2)
    with pytest.raises(UserError, match="x.requests.jsonl:2: custom_id 'id-0' comes twice"):
        chat.read_requests(path)


def test_two_commands_do_not_ask_the_same_at_once(workdir):
    with chat.locked(workdir / "x.lock"), pytest.raises(UserError, match="is held"), chat.locked(workdir / "x.lock"):
        pass


def test_vllms_own_fields_go_only_to_vllm():
    body = chat.request("i", "gpt", "solution", "p", vllm=False)["body"]
    assert "repetition_penalty" not in body and body["temperature"] == 0.0
