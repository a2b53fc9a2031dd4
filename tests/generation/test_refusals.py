"""What is an answer of an endpoint that refuses, writes in other legal forms, drips, moves or stands behind a proxy."""

import threading

import pytest

from logreasoner.cli import UserError
from logreasoner.config import Run, declare, decoding, resolve
from logreasoner.files import read_jsonl, write_jsonl
from logreasoner.generation import generate, openai_batch, serve
from logreasoner.generation.response_cache import Journal, cut, draft, endpoints, error_of, refusal, says_why
from tests.faulty_server import FORMS, FaultyServer, answer_to

TOO_LONG = 400, {"error": {"message": "This model's maximum context length is 512 tokens", "code": 400}}
FILTERED = 400, {"error": {"message": "flagged as violating our policy", "code": "invalid_prompt"}}
UNKNOWN = 400, {"error": {"message": "cannot read this prompt"}}


@pytest.fixture
def server(monkeypatch):
    """Start servers; a client that asks one request at a time, in the order of the file, and does not pause."""
    for key, value in {"pause": 0, "max_retries": 0, "concurrency": 1, "rounds": 1}.items():
        monkeypatch.setitem(decoding()["live"], key, value)
    started = []

    def start(**options):
        started.append(FaultyServer(**options))
        return started[-1]

    yield start
    for made in started:
        made.stop()


def prompt(number):
    return f"prompt {number}"


def written(folder, count):
    path = folder / "x.requests.jsonl"
    write_jsonl(path, (generate.request(f"id-{at}", "m", "solution", prompt(at), vllm=True) for at in range(count)))
    return path


def ask(path, *urls, engine="openai"):
    out, run = path.with_name("x.responses.jsonl"), Run("paper", resolve("paper", []))
    generate.answer(path, out, generate.remote_engine(run, engine, " ".join(urls), "none", None))
    return [record for _, record in read_jsonl(out)]


def asked(server):
    return sum(map(len, server.asked.values()))


def kept(path, *urls):
    journal = Journal(path.with_name("x.journal.jsonl"), endpoints(*urls))
    return sum(journal.answer(request) is not None for request in generate.read_requests(path))


REFUSALS = [
    (400, [{"error": {"code": 400, "message": "API key not valid", "details": [{"reason": "API_KEY_INVALID"}]}}]),
    (400, {"error": {"message": "Unsupported parameter: 'max_tokens'", "type": "invalid_request_error", "code": None}}),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
    (400, b"no such deployment"), (400, b"<html><title>Bad gateway to \x1b[2J somewhere</title></html>"),
    (403, {"message": "the project is closed"}), (413, {"error": "larger than this server takes"}), TOO_LONG, FILTERED,
    (200, b"<html>the status page</html>"), (200, {"status": "ok"})]
SAID = ["API_KEY_INVALID", "Unsupported parameter: 'max_tokens'", "Extra inputs are not permitted.*|.*seed",
        "no such deployment", r"Bad gateway to \\x1b\[2J somewhere", "the project is closed", "larger than this",
        "maximum context length is 512", "flagged as", "the status page", '"status":"ok"']


@pytest.mark.parametrize(("reply", "said"), list(zip(REFUSALS, SAID, strict=True)))
def test_an_endpoint_that_refuses_everything_is_left_early_and_gave_no_answer(workdir, server, reply, said):
    refusing, path = server(refusal=lambda text: reply), written(workdir, 60)
    with pytest.raises(UserError, match=said):
        ask(path, refusing.url)
    assert asked(refusing) <= decoding()["live"]["first"]
    assert kept(path, refusing.url) == 0 and not path.with_name("x.responses.jsonl").exists()
    refusing.refusal = lambda text: None
    assert len(ask(path, refusing.url)) == 60 and set(refusing.answered.values()) == {1}


@pytest.mark.parametrize("reply", [TOO_LONG, UNKNOWN])
def test_a_few_requests_that_are_all_refused_have_no_answer_either(workdir, server, reply):
    refusing, path = server(refusal=lambda text: reply), written(workdir, 3)
    for times in (1, 2):
        with pytest.raises(UserError, match=f"refused 3 of 3 requests.*{reply[1]['error']['message']}"):
            ask(path, refusing.url)
        assert asked(refusing) == 3 * times, "asked once each time, and again after a correction"


def test_what_nearly_all_is_too_long_for_says_nothing_of_the_requests(workdir, server, monkeypatch):
    """A server that was started with a small context: all but some short prompts are refused."""
    monkeypatch.setitem(decoding()["live"], "first", 60)
    small, path = server(refusal=lambda text: None if text in map(prompt, range(5)) else TOO_LONG), written(workdir, 59)
    with pytest.raises(UserError, match="refused 54 of 59 requests"):
        ask(path, small.url)
    assert kept(path, small.url) == 5
    small.refusal = lambda text: None
    assert len(ask(path, small.url)) == 59 and set(small.answered.values()) == {1}


@pytest.mark.parametrize(("reply", "last"), [(TOO_LONG, True), (FILTERED, True), (UNKNOWN, False)])
def test_a_refusal_is_kept_if_it_says_why_or_a_later_request_was_answered(workdir, server, reply, last):
    """An unknown reason, and nothing was answered afterwards: it may be the key as well."""
    picky = server(refusal=lambda text: reply if text in (prompt(3), prompt(9)) else None)
    path = written(workdir, 9)
    assert [refusal(record) for record in ask(path, picky.url)] == [at == 3 for at in range(9)]
    ask(path, picky.url)
    assert asked(picky) == 9
    path = written(workdir, 10)
    if last:
        assert refusal(ask(path, picky.url)[9])
    else:
        with pytest.raises(UserError, match="refused 1 of 1 requests.*cannot read this prompt"):
            ask(path, picky.url)
    assert (kept(path, picky.url), asked(picky)) == (9 + last, 10)


def test_a_key_that_expires_on_the_way_makes_no_answers_of_refusals(workdir, server):
    def expired(text):
        return UNKNOWN if sum(serving.answered.values()) >= 30 else None

    serving, path = server(), written(workdir, 50)
    serving.refusal = expired
    with pytest.raises(UserError, match="refused 20 of 50 requests"):
        ask(path, serving.url)
    assert kept(path, serving.url) == 30
    serving.refusal = lambda text: None
    assert not any(map(refusal, ask(path, serving.url))) and set(serving.answered.values()) == {1}


def test_refusals_in_an_older_journal_are_asked_again(workdir, server):
    serving, path = server(), written(workdir, 2)
    journal = Journal(path.with_name("x.journal.jsonl"), endpoints(serving.url))
    for request in generate.read_requests(path):
        status, body = REFUSALS[0]
        journal.add((request, {"response": {"status_code": status, "body": body}}), address=serving.url)
    assert not any(map(refusal, ask(path, serving.url))) and asked(serving) == 2


def test_what_one_endpoint_refuses_the_other_answers(workdir, server, capsys):
    refusing, good = server(refusal=lambda text: REFUSALS[1]), server(delay=0.01)
    records = ask(written(workdir, 60), refusing.url, good.url)
    assert [generate.content(record) for record in records] == [answer_to(prompt(at)) for at in range(60)]
    assert "'max_tokens'" in capsys.readouterr().err and set(good.answered.values()) == {1}


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405])
def test_what_is_the_same_for_every_request_ends_it_at_once(workdir, server, status):
    refusing = server(refusal=lambda text: (status, {"error": {"message": "no"}}))
    with pytest.raises(UserError, match=f"refused: status {status}: no"):
        ask(written(workdir, 5), refusing.url)
    assert asked(refusing) == 1


def test_a_spent_quota_ends_it_at_once_and_a_moderated_prompt_does_not(workdir, server):
    spent = server(refusal=lambda text: (429, {"error": {"message": "no more", "code": "insufficient_quota"}}))
    with pytest.raises(UserError, match=r"refused: status 429: no more \(insufficient_quota\)"):
        ask(written(workdir, 5), spent.url)
    moderated = server(refusal=lambda text: (403, {"error": {"message": "your input was flagged"}})
                       if text == prompt(0) else None)
    assert [refusal(record) for record in ask(written(workdir, 5), moderated.url)] == [True] + [False] * 4


@pytest.mark.parametrize(("text", "about_it"), [
    ("Input is too long for requested model", True), ("The input token count (9) exceeds the maximum number", True),
    ("Range of input length should be [1, 30720]", True), ("Content Exists Risk", True),
    ("DataInspectionFailed: data_inspection_failed", True), ("输入或生成内容可能包含不安全或敏感内容", True),
    ("Invalid API key provided", False), ("'seed' is not supported", False), ("Your credit balance is too low", False),
    ("User location is not supported for the API use.", False)])
def test_a_refusal_says_why_in_many_words(text, about_it):
    assert says_why({"response": {"status_code": 400, "body": {"error": {"message": text}}}}) == about_it


@pytest.mark.parametrize("engine", ["openai", "openai-batch"])
@pytest.mark.parametrize("form", FORMS)
def test_a_completion_in_any_legal_form_is_an_answer_and_never_asked_for_again(workdir, server, form, engine):
    serving, path = server(form=form), written(workdir, 4)
    if form in ("refusal", "no choices"):  # an answer is not given, and this is final
        for _ in range(2):
            with pytest.raises(UserError, match="all 4 requests were refused"):
                come_back(path, serving, engine)
    else:
        records = come_back(path, serving, engine)
        expected = ["" if form == "no content" else answer_to(prompt(at)) for at in range(4)]
        assert [generate.content(record) for record in records] == expected
        come_back(path, serving, engine)
    assert kept(path, serving.url) == 4 and set(serving.answered.values()) == {1}


def come_back(path, serving, engine):
    for _ in range(4):
        try:
            return ask(path, serving.url, engine=engine)
        except generate.cli.NotYet:
            continue
    return pytest.fail("the batch never ended")


def test_an_answer_in_latin_1_keeps_its_letters(workdir, server, monkeypatch):
    monkeypatch.setattr("tests.faulty_server.answer_to", lambda text: f"température {text}")
    records = ask(written(workdir, 2), server(form="latin-1").url)
    assert [generate.content(record) for record in records] == ["température prompt 0", "température prompt 1"]


def test_thoughts_that_come_apart_are_no_part_of_the_answer_but_end_the_draft():
    def line(content, finish, **message):
        return {"response": {"status_code": 200, "body": {"choices": [
            {"finish_reason": finish, "message": {"content": content, **message}}]}}}

    assert draft(line("half a thou", "length")) and draft(line(None, "length", reasoning_content="half a thou"))
    assert cut(line("1. a", "length", reasoning="done")) and not draft(line("1. a", "length", reasoning="done"))
    assert error_of(line(None, "length")) == "status 200: no text in the answer"


def test_a_reply_that_drips_ends_at_the_deadline(workdir, server, monkeypatch):
    """Each byte comes in time, the whole of it never."""
    monkeypatch.setitem(decoding()["live"], "timeout", 1)
    dripping = server(drips=True)
    with pytest.raises(UserError, match=r"2 of 2 requests have no answer, .*status 408: no whole reply within 1 s"):
        ask(written(workdir, 2), dripping.url)
    assert asked(dripping) == 2 * (1 + decoding()["live"]["rounds"]) - 2 + (decoding()["live"]["rounds"] == 0)


@pytest.mark.parametrize("engine", ["openai", "openai-batch"])
def test_a_redirect_takes_no_prompt_to_another_host(workdir, server, engine):
    elsewhere = server()
    moved = server(moved=elsewhere.url.removesuffix("/v1"))
    with pytest.raises(UserError, match=f"redirects to {elsewhere.url}.*prompts are sent to the declared address only"):
        ask(written(workdir, 3), moved.url, engine=engine)
    assert not elsewhere.asked and not elsewhere.batches.files


def test_proxy_variables_are_not_for_loopback(workdir, server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    serving = server()
    assert len(ask(written(workdir, 2), serving.url)) == 2
    assert len(come_back(written(workdir, 3), serving, "openai-batch")) == 3
    assert serve.find_endpoint(serving.url, None) == (serving.url, "m", True)


def test_a_wrong_base_url_is_said_so(workdir, server):
    serving, path = server(), written(workdir, 2)
    bare = serving.url.removesuffix("/v1")
    with pytest.raises(UserError, match=f"refused: status 404.* usually ends in /v1: {serving.url}"):
        ask(path, bare)
    with pytest.raises(UserError, match=f"takes no batches .* usually ends in /v1: {serving.url}"):
        ask(path, bare, engine="openai-batch")
    for wrong in (f"{serving.url}/chat/completions", f"{serving.url}/models/"):
        for name_it in (lambda url: resolve("paper", [f"teacher_base_url={url}"]),
                        lambda url: serve.find_endpoint(url, None)):
            with pytest.raises(UserError, match=f"is the address of one call; .* ends before it: {serving.url}$"):
                name_it(wrong)


def teacher_requests(name, url, count):
    """The requests of a run to its teacher."""
    run = declare(name, resolve("paper", [f"teacher_base_url={url}"]))
    return run, written(run.dataset("shared", "thought-sft"), count)


def test_two_runs_at_once_pay_their_teacher_once(workdir, server, monkeypatch):
    """One is started a moment after the other; the second takes the answers of the first."""
    monkeypatch.setitem(decoding()["live"], "concurrency", 4)
    teacher, failed = server(delay=0.02), []

    def run_one(run, path):
        try:
            generate.answer(path, path.with_name("x.responses.jsonl"), generate.teacher_engine(run))
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=run_one, args=teacher_requests(name, teacher.url, count))
               for name, count in (("one", 40), ("two", 50))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(teacher.answered) == 50 and set(teacher.answered.values()) == {1}


def test_what_a_batch_of_another_run_is_answering_is_not_asked_here(workdir, server):
    teacher = server()
    run, path = teacher_requests("one", teacher.url, 5)
    with pytest.raises(generate.cli.NotYet):
        generate.answer(path, path.with_name("x.responses.jsonl"), generate.teacher_engine(run, "openai-batch"))
    for engine in generate.ENGINES[:2]:
        run, path = teacher_requests("two", teacher.url, 6)
        with pytest.raises(UserError, match="one/.*5 of these requests are in a batch that is not collected yet"):
            generate.answer(path, path.with_name("x.responses.jsonl"), generate.teacher_engine(run, engine))
    assert not teacher.answered and len(teacher.batches.batches) == 1


def test_a_batch_that_refuses_everything_gave_no_answer(workdir, server):
    refusing, path = server(refusal=lambda text: REFUSALS[2]), written(workdir, 5)
    with pytest.raises(UserError, match="batch_1: 5 of 5 requests were refused.*Extra inputs are not permitted"):
        come_back(path, refusing, "openai-batch")
    assert kept(path, refusing.url) == 0
    refusing.refusal = lambda text: UNKNOWN if text == prompt(4) else None
    assert [refusal(record) for record in come_back(path, refusing, "openai-batch")] == [False] * 4 + [True]


def test_a_batch_beyond_the_queues_limit_goes_on_in_parts(workdir, server, monkeypatch):
    """The API takes it, and fails it before anything is asked."""
    serving, path = server(), written(workdir, 7)
    batches, retrieve = serving.batches, serving.batches._retrieve

    def limited(batch):
        if len(batches.files[batch["input_file_id"]].splitlines()) <= 2:
            return retrieve(batch)
        return {**batch, "status": "failed", "errors": {"object": "list", "data": [
            {"code": openai_batch.QUEUE_FULL, "message": "Enqueued token limit reached. Limit: 90,000 tokens."}]}}

    monkeypatch.setattr(batches, "_retrieve", limited)
    for _ in range(20):
        try:
            records = ask(path, serving.url, engine="openai-batch")
            break
        except generate.cli.NotYet:
            running = [batch for batch in batches.batches.values() if batch["status"] in ("validating", "in_progress")]
            assert sum(len(batches.files[batch["input_file_id"]].splitlines()) <= 2 for batch in running) <= 1
    assert [generate.content(record) for record in records] == [answer_to(prompt(at)) for at in range(7)]
    sizes = [len(batches.files[batch["input_file_id"]].splitlines()) for batch in batches.batches.values()]
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1] and set(serving.answered.values()) == {1}
