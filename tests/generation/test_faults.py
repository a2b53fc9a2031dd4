"""Real servers on loopback that fail three times in ten: every answer arrives in the end, once, in its place."""

import json
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import pytest

from logreasoner.cli import NotYet, UserError
from logreasoner.config import Run, declare, decoding, resolve
from logreasoner.files import ROOT, read_jsonl, write_jsonl
from logreasoner.generation import generate
from logreasoner.generation.response_cache import Journal, endpoints, final, refusal
from tests.faulty_server import LINES, NO_ANSWER, PASSING, FaultyServer, answer_to


@pytest.fixture
def serve(monkeypatch):
    """Start servers; a client that does not pause."""
    monkeypatch.setitem(decoding()["live"], "pause", 0)
    started = []

    def start(**options):
        started.append(FaultyServer(**options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def impatient(monkeypatch):
    """A client that waits for seconds, not for minutes."""
    monkeypatch.setitem(decoding()["live"], "timeout", 5)


@pytest.fixture
def process():
    """Start servers in processes of their own: (process, base URL)."""
    started = []

    def start(*options):
        made = subprocess.Popen([sys.executable, "-m", "tests.faulty_server", *options], cwd=ROOT,
                                stdout=subprocess.PIPE, text=True)
        started.append(made)
        return made, made.stdout.readline().strip()

    yield start
    for made in started:
        made.kill()
        made.wait()
        made.stdout.close()


def prompt(number):
    return f"prompt {number}"


def written(folder, count):
    path = folder / "x.requests.jsonl"
    write_jsonl(path, (generate.request(f"id-{number}", "m", "solution", prompt(number), vllm=True)
                       for number in range(count)))
    return path


def ask(path, url, engine="openai"):
    """The responses, in the order of the file."""
    out, run = path.with_name("x.responses.jsonl"), Run("paper", resolve("paper", []))
    generate.answer(path, out, generate.remote_engine(run, engine, url, "none", None))
    return [record for _, record in read_jsonl(out)]


def lines(path):
    return [line for _, line in read_jsonl(path.with_name("x.journal.jsonl"))]


def in_place(records, refuses=lambda asked: False):
    """Each record holds the answer to its own prompt, or the refusal of that."""
    assert [record["custom_id"] for record in records] == [f"id-{number}" for number in range(len(records))]
    for number, record in enumerate(records):
        assert refusal(record) == refuses(prompt(number)), record
        assert refusal(record) or generate.content(record) == answer_to(prompt(number))


@pytest.mark.parametrize("seed", range(1, 6))
def test_with_three_faults_in_ten_every_answer_arrives_once_in_its_place(workdir, serve, impatient, long, capsys, seed):
    if seed > 1 and not long:
        pytest.skip("--long only")
    count = 5_000 if long else 300
    server = serve(rate=0.3, seed=seed, filtered=0.03)
    path = written(workdir, count)
    records = ask(path, server.url)
    in_place(records, server.refuses)
    assert len(records) == count and set(server.suffered) == {*PASSING, *NO_ANSWER, ""}
    finals = [line["request_sha256"] for line in lines(path) if final(line)]
    assert len(finals) == len(set(finals)) == count
    assert set(server.answered.values()) == {1}, "an answer that had arrived was asked for again"
    refused = sum(map(server.refuses, map(prompt, range(count))))
    assert f"{count} answers, {refused} refused" in capsys.readouterr().out and refused > 0
    asked = sum(map(len, server.asked.values()))
    in_place(ask(path, server.url), server.refuses)
    assert sum(map(len, server.asked.values())) == asked, "what is final is not asked again"


@pytest.mark.parametrize("fault", [*NO_ANSWER, *PASSING])
def test_each_fault_alone_is_survived(workdir, serve, impatient, long, fault):
    if fault in PASSING and not long:
        pytest.skip("--long only: the client's pauses add up")
    server = serve(rate=0.5, seed=3, faults=(fault,), wait="0.1")
    in_place(ask(written(workdir, 12), server.url))
    assert server.suffered[fault] > 0


def test_it_waits_as_long_as_the_server_asks(workdir, serve):
    server = serve(rate=0.5, seed=4, faults=("429",), wait="1")
    in_place(ask(written(workdir, 20), server.url))
    gaps = [after - before for moments in server.asked.values()
            for before, after in zip(moments, moments[1:], strict=False)]
    assert gaps and min(gaps) >= 1


@pytest.mark.parametrize("form", ["seconds", "a date"])
def test_a_wait_that_is_too_long_stops_the_command_with_its_length(workdir, serve, form):
    wait = "600" if form == "seconds" else formatdate(time.time() + 600, usegmt=True)
    server = serve(rate=1, faults=("429",), wait=wait)
    with pytest.raises(UserError, match=r"asks to wait [56]\d\d s .*run again"):
        ask(written(workdir, 100), server.url)
    assert sum(map(len, server.asked.values())) <= decoding()["live"]["concurrency"]


def test_requests_are_spread_over_the_endpoints(workdir, serve):
    first, second = serve(delay=0.01), serve(delay=0.01)
    in_place(ask(written(workdir, 200), f"{first.url} {second.url}"))
    assert min(len(first.asked), len(second.asked)) > 50 and not set(first.asked) & set(second.asked)


def test_the_command_takes_several_addresses_and_batches_only_one(workdir, serve, monkeypatch, capsys):
    declare("paper", resolve("paper", []))
    first, second, path = serve(delay=0.01), serve(delay=0.01), written(workdir, 100)
    out = path.with_name("x.responses.jsonl")
    words = ["chat", "--run", "paper", "--role", "policy", "--model", "gpt-4o", "--stage", "base", "--base-url",
             f"{first.url} {second.url}", "--requests", str(path), "--responses", str(out)]
    monkeypatch.setattr("sys.argv", [*words, "--engine", "openai-batch"])
    with pytest.raises(SystemExit, match="openai-batch asks one endpoint"):
        generate.main()
    monkeypatch.setattr("sys.argv", words)
    generate.main()
    in_place([record for _, record in read_jsonl(out)])
    assert first.asked and second.asked


@pytest.mark.parametrize("at", [0, 40])
def test_an_endpoint_that_dies_loses_nothing(workdir, process, serve, monkeypatch, capsys, at):
    """Killed as a process, before the first request or among them."""
    monkeypatch.setitem(decoding()["live"], "max_retries", 1)
    first, second = process("--delay", "0.05", "--rate", "0.1"), process("--delay", "0.05")
    path = written(workdir, 200)

    def kill():
        while at and not (path.with_name("x.journal.jsonl").exists() and len(lines(path)) >= at):
            time.sleep(0.01)
        first[0].kill()
        first[0].wait()

    killer = threading.Thread(target=kill)
    killer.start()
    if not at:
        killer.join()
    in_place(ask(path, f"{first[1]},{second[1]}"))
    killer.join()
    finals = [line["request_sha256"] for line in lines(path) if final(line)]
    assert len(finals) == len(set(finals)) == 200
    assert f"{first[1]} cannot be reached" in (said := capsys.readouterr().err) and "the others go on" in said


def test_when_all_endpoints_are_dead_the_answers_are_kept_and_only_the_rest_is_asked(workdir, process, serve,
                                                                                     monkeypatch):
    monkeypatch.setitem(decoding()["live"], "max_retries", 0)
    both = [process("--delay", "0.05"), process("--delay", "0.05")]
    path = written(workdir, 200)

    def kill():
        while not (path.with_name("x.journal.jsonl").exists() and len(lines(path)) >= 40):
            time.sleep(0.01)
        for made, _ in both:
            made.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match=f"{both[0][1]} cannot be reached .*{both[1][1]} cannot be reached .*run again"):
        ask(path, " ".join(url for _, url in both))
    killer.join()
    dead = [url for _, url in both]
    kept = sum(Journal(path.with_name("x.journal.jsonl"), endpoints(*dead)).answer(asked) is not None
               for asked in generate.read_requests(path))
    server = serve()
    in_place(ask(path, " ".join([*dead, server.url])))
    assert 40 <= kept < 200 and sum(map(len, server.asked.values())) == 200 - kept
    other = serve()
    in_place(ask(path, other.url))
    assert sum(map(len, other.asked.values())) == 200, "whoever answers alone has given none of those answers"


@pytest.mark.parametrize(("fault", "said"), [("401", "refused: "), ("503", "gave no answer to 5 requests in a row")])
def test_an_endpoint_that_refuses_or_answers_nothing_is_left(workdir, serve, monkeypatch, capsys, fault, said):
    monkeypatch.setitem(decoding()["live"], "max_retries", 0)
    monkeypatch.setitem(decoding()["live"], "give_up", 5)
    bad, good = serve(rate=1, faults=(fault,)), serve(delay=0.01)
    in_place(ask(written(workdir, 100), f"{bad.url} {good.url}"))
    assert f"{bad.url} {said}" in capsys.readouterr().err
    assert sum(map(len, bad.asked.values())) <= 5 + decoding()["live"]["concurrency"]


@pytest.mark.parametrize("text", ["", " ", "localhost:8000/v1", "http://a/v1 b/v1", "file:///etc"])
def test_what_is_no_address_is_said_so(workdir, text):
    with pytest.raises(UserError, match="is no address"):
        ask(written(workdir, 1), text)


@pytest.mark.parametrize("seed", range(1, 4))
def test_batches_with_three_faults_in_ten(workdir, serve, monkeypatch, long, seed):
    """The same command again and again, as it says; the API fails and so do lines of what it gives."""
    if seed > 1 and not long:
        pytest.skip("--long only")
    monkeypatch.setitem(decoding()["live"], "timeout", 0.5)  # of which a file may take some
    count = 1_000 if long else 100
    server = serve(rate=0.3, seed=seed, filtered=0.03, wait="0.1")
    path = written(workdir, count)
    for _ in range(100):
        try:
            records = ask(path, server.url, "openai-batch")
            break
        except (NotYet, UserError):
            continue
    in_place(records, server.refuses)
    finals = [line["request_sha256"] for line in lines(path) if final(line)]
    assert len(finals) == len(set(finals)) == count
    assert set(LINES) <= set(server.suffered) and len(set(PASSING) & set(server.suffered)) >= 3
    submitted = [json_ids(server.batches.files[each["input_file_id"]]) for each in server.batches.batches.values()]
    assert len(submitted[0]) == count and all(len(set(part)) == len(part) for part in submitted)
    assert sum(map(len, submitted)) < 2 * count, "what was answered is not submitted again"


def json_ids(data):
    return [json.loads(line)["custom_id"] for line in data.splitlines()]
