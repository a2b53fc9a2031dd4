"""Answers of models and servers, of any form, through every reader: an outcome that is counted, or an error."""

import contextlib
import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_builders import corrections, responses, thoughts
from eval import analyze, score
from logreasoner import config
from logreasoner.answer_format import Trajectory, parse_trajectory
from logreasoner.cli import NotYet, UserError
from logreasoner.files import read_jsonl, write_jsonl
from logreasoner.generation import costs, generate, serve
from logreasoner.generation.openai_batch import ask_batch, note, notes_path, open_notes
from logreasoner.generation.openai_live import ask_live
from logreasoner.generation.response_cache import Answerer, Journal, body_digest, content, endpoints, error_of, final
from tests.hostile.conftest import some

PFP = "potential_failure_prediction"
FLAWED = Trajectory(("A fan stopped.", "No matter."), "False")
TEXT = st.text(max_size=20) | st.sampled_from([
    "<answer> True </answer>", "</answer>", "<solutions>", "1. a\n2. b", "True", "<think>", "</think>", "<|im_end|>",
    "```json", "```", "\ud83d", "\0", "A fan stopped.", "No matter.", "\x1b[2J"])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=10)
KEYS = ["problem_overview", "key_challenges", "reasoning_steps", "first_error", "reason", "steps", "answer"]
OBJECT = st.dictionaries(st.sampled_from(KEYS), JSON | st.lists(TEXT, max_size=8) | st.integers(0, 4), max_size=7)
CORRECTION = st.fixed_dictionaries({"first_error": st.integers(-1, 4), "reason": TEXT, "answer": TEXT,
                                    "steps": st.lists(TEXT, max_size=4)})
WRITTEN = st.one_of(TEXT, st.lists(TEXT, max_size=6).map("".join),
                    (JSON | OBJECT | CORRECTION).map(json.dumps),
                    (OBJECT | CORRECTION).map(lambda value: f"```json\n{json.dumps(value)}\n```"))


@given(text=WRITTEN, problem=TEXT)
@example(text="[" * 100_000, problem="")
@example(text='{"first_error": ' + "9" * 5_000 + "}", problem="")
@some(200)
def test_a_teachers_answer_is_taken_or_rejected_with_a_reason(text, problem):
    thought, why = thoughts.parse_thought(text, problem)
    assert (thought is None) == bool(why)
    for keep in (True, False):
        chosen, why = corrections.parse_correction(text, FLAWED, "True", ["True", "False"], keep, FLAWED.render())
        assert (chosen is None) == bool(why)
        if chosen:
            assert parse_trajectory(chosen.text, ["True", "False"]) == Trajectory(chosen.steps, "True")
            assert chosen.steps != FLAWED.steps


@pytest.mark.parametrize("piece", ["```", "``` ", "```json", " ", "\n", "a-", "a1-", "ab:", ":a", "1.", "x=", "0x",
                                   "a/1", "GigabitEthernet1/", "{", '{"a":', "[", '"', "<", "<a", "</", "1. a\n", "\\"])
def test_a_megabyte_of_anything_is_read_once(piece):
    """Nothing is timed: a pattern that backtracks would not come back."""
    text = piece * (1_000_000 // len(piece))
    for whole in (text, f"```{text}x"):
        corrections.parse_correction(whole, FLAWED, "True", ["True", "False"])
        serve.close_answer(f"{whole} ")
    thoughts.details([text + "!"], "problem")


BODY = st.one_of(JSON, st.fixed_dictionaries({"choices": JSON | st.lists(
    st.fixed_dictionaries({"message": JSON | st.fixed_dictionaries({"content": JSON})}), max_size=2), "usage": JSON | (
        st.fixed_dictionaries({"prompt_tokens": JSON, "completion_tokens": JSON}))}))
LINE = st.fixed_dictionaries({"custom_id": st.sampled_from(["p-0", "p-1", "p-1#0", "#", ""]) | JSON}, optional={
    "response": JSON | st.fixed_dictionaries({"status_code": st.sampled_from([200, 400, 500]) | JSON, "body": BODY}),
    "error": JSON, "model": JSON, "batch": JSON, "request_sha256": TEXT | JSON, "answered_by": JSON | (
        st.fixed_dictionaries({}, optional={"address": st.just("http://a/v1") | JSON, "weights": st.just("w") | JSON,
                                            "model": JSON}))})


@given(line=LINE)
@some(150)
def test_a_response_of_any_form_is_good_or_says_what_is_wrong(line):
    text = content(line)
    assert text is None or isinstance(text, str)
    assert isinstance(final(line), bool) and "\n" not in error_of(line)
    spent = costs.spent_on(line)
    assert spent.prompt_tokens >= 0 and (spent.paid or 0) >= 0


@given(lines=st.lists(LINE, max_size=4))
@some(60)
def test_responses_are_scored_and_joined_or_refused(place, command, lines):
    answered, instances = place / "given.responses.jsonl", place / "given.jsonl"
    write_jsonl(instances, [{"id": f"p-{at}", "task": PFP, "source": "s", "log": "x", "label": "True"}
                            for at in range(2)])
    write_jsonl(answered, lines)
    status = command(score, "--task", PFP, "--instances", instances, "--responses", answered,
                     "--out", place / "build" / "result.json")
    assert status == 0 or status.startswith("error: ")
    try:
        found = responses.attempts(answered, ["p-0", "p-1"])
        assert set(found) == {"p-0", "p-1"}
    except UserError as error:
        assert str(error).startswith(str(answered))


@given(data=st.lists(st.binary(max_size=60) | LINE.map(lambda line: json.dumps(line).encode())
                     | st.just(b"[" * 100_000), max_size=6).map(b"\n".join))
@example(data=b'{"request_sha256": "0", "answered_by": {"address": "http://a/v1"}}\n'
              b'{"request_sha256": "1", "answered_by": {"weights": "w"}}')
@some(60)
def test_a_journal_of_any_bytes_is_passed_over(place, data):
    path = place / "given.journal.jsonl"
    path.write_bytes(data)
    for answerer in (endpoints("http://a/v1"), Answerer({"weights": "w"})):
        found = Journal(path, answerer).answers
        assert all(isinstance(key, str) and answerer.gave(line) for key, line in found.items())
    assert costs.spent_in(path).answers >= 0
    path.with_name("given.batch.jsonl").write_bytes(data)
    assert open_notes(path) == {}


# ---- servers
class Server(ThreadingHTTPServer):
    """Answers every request with the same status, type and bytes; the content of any file is given apart."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = self.content = (200, "application/json", b"")
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, kind, data = self.server.content if self.path.endswith("/content") else self.server.reply
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with Server() as made:
        yield made
        made.shutdown()


@pytest.fixture
def impatient(monkeypatch):
    """One try, no pause: what is tested here is what comes back."""
    quick = {**config.decoding()["live"], "max_retries": 0, "rounds": 1, "pause": 0}
    monkeypatch.setitem(config.decoding(), "live", quick)


def completion(**choice):
    return json.dumps({"id": "x", "object": "chat.completion", "model": "m", "created": 0, "choices": [choice],
                       "usage": {"prompt_tokens": -5, "completion_tokens": "many"}}).encode()


REPLIES = [b"", b"null", b"[]", b"{}", b"[" * 50_000, b'{"choices":' * 50_000, b'{"choices": null}', b'{"choices": []}',
           b'{"choices": [null]}', b'{"choices": {"0": 1}}', b"\xff\xfe\x00", b"<html>no</html>", b'{"id": NaN}',
           completion(message=None), completion(message={}), completion(message={"content": {"a": 1}}),
           completion(message={"content": [1]}), completion(message={"content": 5}),
           completion(message={"content": "\ud83d half"}), completion(message={"role": 1, "content": "x\0\x1b[2J"}),
           completion(message={"content": "y" * 3_000_000}), b'{"object": "list", "data": [{"id": ["m"]}]}',
           b'{"data": {"id": 1}}', b'{"data": [{"id": "\\u001b]0;x\\u0007", "owned_by": {}}]}']


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("status", [200, 418])
@pytest.mark.parametrize("at", range(len(REPLIES)))
def test_whatever_a_server_sends_is_an_answer_or_an_error(place, server, impatient, command, monkeypatch, at, status):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1234567890")
    server.reply = (status, "text/html" if REPLIES[at].startswith(b"<") else "application/json", REPLIES[at])
    path = place / "build" / f"server-{at}-{status}.journal.jsonl"
    journal = Journal(path, endpoints(server.url))
    asked = generate.request("a", "m", "evaluation", "x", vllm=False)
    try:
        ask_live([asked], journal, server.url, "sk-canary-1234567890")
    except UserError as error:
        assert "canary" not in str(error)
    if path.exists():
        assert all(isinstance(line, dict) for _, line in read_jsonl(path))
        assert costs.spent_in(path).prompt_tokens >= 0
    log = place / "given.log"
    log.write_text("a fan stopped\n")
    status = command(analyze, "--log", log, "--task", "anomaly_detection", "--base-url", server.url)
    assert status in (analyze.POSITIVE, analyze.UNPARSED) or str(status).startswith("error: ")
    assert "\x1b" not in str(status)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("status", [200, 418])
@pytest.mark.parametrize("at", range(len(REPLIES)))
def test_whatever_a_batch_server_sends_is_an_error_and_no_answer(place, server, impatient, at, status):
    server.reply = server.content = (status, "application/json", REPLIES[at])
    journal = Journal(place / "build" / f"batch-{at}-{status}.journal.jsonl", endpoints(server.url))
    asked = generate.request("a", "m", "evaluation", "x", vllm=False)
    for _ in range(2):  # it submits, and comes back to collect
        with pytest.raises((UserError, NotYet)) as stopped:
            ask_batch([asked], journal, server.url, "sk-canary-1234567890")
        assert "canary" not in str(stopped.value)
    made = [line for _, line in read_jsonl(notes_path(journal.path)) if "batch" in line]
    assert len(made) <= 1 and not journal.answers


GOOD = json.dumps({"custom_id": "p-0", "response": {
    "status_code": 200, "body": json.loads(completion(message={"content": "x"}))}}).encode()
FILES = st.lists(st.binary(max_size=60) | LINE.map(lambda line: json.dumps(line).encode())
                 | st.sampled_from([b"[" * 50_000, GOOD]), max_size=4).map(b"\n".join)
ENDED = json.dumps({"id": "batch_1", "object": "batch", "status": "completed", "output_file_id": "file-1",
                    "errors": {"data": [{"message": "\x1b[2J"}]}, "request_counts": {"completed": "all"}}).encode()


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@given(content=FILES)
@example(content=GOOD)
@some(60)
def test_a_batch_files_lines_answer_what_was_asked_or_nothing(place, server, impatient, content):
    server.reply, server.content = (200, "application/json", ENDED), (200, "application/octet-stream", content)
    folder = Path(tempfile.mkdtemp(dir=place / "build"))
    journal = Journal(folder / "x.journal.jsonl", endpoints(server.url))
    asked = [generate.request(f"p-{at}", "m", "evaluation", f"question {at}", vllm=False) for at in range(2)]
    questions = {each["custom_id"]: body_digest(each) for each in asked}
    note(notes_path(journal.path), "key", requests=questions, model="m", batch="batch_1")
    with contextlib.suppress(UserError, NotYet):
        ask_batch([], journal, server.url, "none")
    answers = Journal(journal.path, journal.answerer).answers
    assert set(answers) <= set(questions.values())
    assert content != GOOD or set(answers) == {questions["p-0"]}


URLS = ["http://[", "http://", "x", "ftp://127.0.0.1/v1", "http://127.0.0.1:99999/v1", "file:///etc", "\x1b[2J",
        "http://user:sk-canary-1@127.0.0.1/v1", "http://127.0.0.1/v1?key=sk-canary-1"]


@pytest.mark.parametrize("url", URLS)
def test_an_address_that_is_none_or_holds_a_key_is_refused_and_not_kept(place, command, url, impatient):
    log, name = place / "given.log", f"url{URLS.index(url)}"
    log.write_text("a fan stopped\n")
    config.declare("other", config.resolve("demo", []))
    requests = place / "build" / "x.requests.jsonl"
    write_jsonl(requests, [generate.request("a", "m", "evaluation", "x", vllm=False)])
    for status in (
        command(analyze, "--log", log, "--task", "anomaly_detection", "--base-url", url),
        command(
            generate,
            "--run",
            "other",
            "--role",
            "policy",
            "--model",
            "gpt-4o",
            "--stage",
            "base",
            "--base-url",
            url,
            "--requests",
            requests,
            "--responses",
            requests.with_name("x.responses.jsonl"),
        ),
    ):
        assert status.startswith("error: ") and "canary" not in status and "\x1b" not in status
    status = command(config, "--run", name, "--experiment", "demo", "teacher=m", f"teacher_base_url={url}")
    assert "canary" not in str(status)
    assert all("canary" not in path.read_text(errors="replace") for path in place.rglob("*") if path.is_file())
