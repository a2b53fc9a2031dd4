"""The review file: its format, who may append, what an edit must be; and the page's server without a browser."""

import fcntl
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from data_builders import review, review_page, samples
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, resolve
from logreasoner.files import ROOT, read_json, read_jsonl, write_json, write_jsonl
from logreasoner.instances import Instance
from tests.conftest import running

MODEL, PFP = "qwen2.5-7b", "potential_failure_prediction"
THOUGHT = {"problem_overview": "Judge an event.", "key_challenges": ["Few words."],
           "reasoning_steps": ["Name the event.", "Ask what follows.", "Decide."]}
FLAWED = {"steps": ["A fan stopped.", "No matter."], "answer": "False",
          "text": "<solutions>\n1. A fan stopped.\n2. No matter.\n</solutions>\n<answer> False </answer>"}
CORRECTION = {"first_error": 2, "reason": "Heat.", "steps": ["A fan stopped.", "No matter.", "Heat follows."],
              "answer": "True"}
CHOSEN = "<solutions>\n1. A fan stopped.\n2. No matter.\n3. {}\n</solutions>\n<answer> True </answer>"


@pytest.fixture
def run(workdir) -> Run:
    """Three thoughts and three corrections, the last of each not valid."""
    run = declare("t", resolve("paper", [f"tasks={PFP}"]))
    items = [Instance(f"p-{number}", PFP, "made", f"FAN/[MASK]/X: Fan {word} stopped.", "True")
             for number, word in enumerate(["left", "right", "rear"])]
    write_jsonl(run.splits / "stage2.jsonl", (item.as_json() for item in items))
    shared, own = run.dataset("shared", "thought-sft"), run.dataset(MODEL, "dpo")
    write_jsonl(shared / "analyses.jsonl", ({"id": item.id, "analysis": "1. It stopped."} for item in items))
    write_json(shared / "selected.json", [0, 1, 2])
    write_jsonl(shared / "thoughts.jsonl", (
        {"id": item.id, "task": PFP, "outcome": "valid" if item.id != "p-2" else "not JSON", "problem": item.text,
         "thought": THOUGHT if item.id != "p-2" else "no"} for item in items))
    write_jsonl(run.dataset(MODEL, "solution-sft") / "solutions.jsonl", (
        {"id": item.id, "task": PFP, "outcome": "wrong", "label": "True", **FLAWED} for item in items))
    write_jsonl(own / "corrections.jsonl", (
        {"id": item.id, "task": PFP, "outcome": "accepted" if item.id != "p-2" else "not JSON",
         "text": json.dumps(CORRECTION) if item.id != "p-2" else "no",
         "chosen": CHOSEN.format("Heat follows.") if item.id != "p-2" else None} for item in items))
    return run


def lines(thoughts):
    return [line for _, line in read_jsonl(thoughts.path)]


def pairs(run):
    samples.build(run, "dpo", MODEL)
    path = run.samples(MODEL, "dpo")
    rows = {row["id"]: row["chosen"] for _, row in read_jsonl(path)}
    return rows, read_json(path.with_name("samples.jsonl.manifest.json"))


def test_without_a_review_every_accepted_correction_goes_in(run):
    rows, manifest = pairs(run)
    assert set(rows) == {"p-0", "p-1"} and manifest["review"] == "not reviewed"


def test_pairs_honour_what_was_decided(run):
    corrections = review.corrections(run, MODEL, "dpo")
    corrections.decide({"id": "p-1", "decision": "accepted"}, "Ada")
    corrections.decide({"id": "p-1", "decision": "rejected"}, "Bo")
    edit = {**CORRECTION, "steps": ["A fan stopped.", "No matter.", "Hot!"]}
    corrections.decide({"id": "p-2", "decision": "edited", "correction": edit}, "Ada")
    rows, manifest = pairs(run)
    assert rows == {"p-2": CHOSEN.format("Hot!")}  # p-0 is undecided
    assert manifest["review"] == {"accepted": 0, "edited": 1, "rejected": 1, "undecided": 1}
    assert str(corrections.path) in manifest["inputs"]


def test_a_review_of_other_corrections_leaves_these_alone(run):
    write_jsonl(run.dir / "review" / f"corrections.{MODEL}.dpo-self.jsonl", [{"id": "p-0", "decision": "rejected"}])
    assert set(pairs(run)[0]) == {"p-0", "p-1"}


def test_each_decision_is_one_line_with_who_and_when(run):
    thoughts = review.thoughts(run)
    thoughts.decide({"id": "p-0", "decision": "accepted"}, "Ada")
    thoughts.decide({"id": "p-2", "decision": "edited", "thought": THOUGHT}, "Bo")
    assert [list(line) for line in lines(thoughts)] == [["id", "decision", "who", "when", "of"],
                                                     ["id", "decision", "thought", "who", "when", "of"]]
    rows, counts = thoughts.accepted()
    assert [row["id"] for row in rows] == ["p-0", "p-2"] and rows[1]["thought"] == THOUGHT
    assert counts == {"accepted": 1, "edited": 1, "rejected": 0, "undecided": 1}


@pytest.mark.parametrize(("decision", "message"), [
    (7, "no thought has such an id"),
    ({"id": ["p-0"], "decision": "accepted"}, "no thought has such an id"),
    ({"id": "p-0", "decision": ["accepted"]}, "must be accepted"),
    ({"id": "p-2", "decision": "accepted"}, "p-2 is not valid .not JSON.; edit or reject"),
    ({"id": "p-0", "decision": "edited"}, "not valid .schema: not an object; wanted: an overview"),
    ({"id": "p-0", "decision": "edited", "thought": {**THOUGHT, "reasoning_steps": ["One.", "See eth0.", "Decide."]}},
     "instance detail in a step: eth0"),
])
def test_what_is_no_decision_is_not_written(run, decision, message):
    thoughts = review.thoughts(run)
    with pytest.raises(UserError, match=message):
        thoughts.decide(decision, "Ada")
    assert not thoughts.path.exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"steps": ["A fan stopped.", "No  matter."]}, "nothing new"),
    ({"answer": "False"}, "wrong answer"),
    ({"steps": ["A fan stopped.", "So <answer> True </answer>"]}, "not in form"),
    ({"steps": ["A fan stopped.", "Heat.\n4. And more"]}, "not in form"),
    ({"first_error": 9}, "out of range"),
])
def test_an_edited_correction_passes_the_teachers_rules(run, change, message):
    with pytest.raises(UserError, match=message):
        review.corrections(run, MODEL, "dpo").decide(
            {"id": "p-0", "decision": "edited", "correction": {**CORRECTION, **change}}, "Ada")


def test_a_decision_on_an_answer_that_was_made_anew_counts_no_more(run):
    review.corrections(run, MODEL, "dpo").decide({"id": "p-0", "decision": "rejected"}, "Ada")
    path = run.dataset(MODEL, "solution-sft") / "solutions.jsonl"
    write_jsonl(path, [{**row, "steps": ["A fan stopped.", "Who cares?"]} for _, row in read_jsonl(path)])
    corrections = review.corrections(run, MODEL, "dpo")
    assert corrections.decisions() == {}
    corrections.decide({"id": "p-0", "decision": "accepted"}, "Ada")
    assert set(corrections.decisions()) == {"p-0"}


def test_a_file_written_by_hand_counts_and_its_last_line_may_be_open(run):
    thoughts = review.thoughts(run)
    thoughts.path.parent.mkdir(parents=True)
    thoughts.path.write_text('\n{"id": "p-1", "decision": "accepted"}\n{"id": "p-1", "decision": ""}')
    thoughts.decide({"id": "p-0", "decision": "accepted"}, "Ada")
    assert set(thoughts.decisions()) == {"p-0"} and len(lines(thoughts)) == 3


def test_a_line_is_appended_under_a_lock(run, monkeypatch):
    append = review.append_lines

    def locked(path, records):
        with open(path) as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        append(path, records)

    monkeypatch.setattr(review, "append_lines", locked)
    review.thoughts(run).decide({"id": "p-0", "decision": "accepted"}, "Ada")
    assert len(lines(review.thoughts(run))) == 1


def test_two_processes_append_whole_lines(run):
    source = ("import sys; from data_builders import review; from logreasoner.config import load_run\n"
              "thoughts = review.thoughts(load_run('t'))\n"
              "edit = {'problem_overview': 'x ' * 9999, 'key_challenges': ['Few.'], 'reasoning_steps': ['One.'] * 3}\n"
              "for _ in range(40): thoughts.decide({'id': 'p-0', 'decision': 'edited', 'thought': edit}, sys.argv[1])")
    first, second = ([sys.executable, "-c", source, who] for who in "ab")
    environment = {"PYTHONPATH": str(ROOT)}
    with running(first, 60, env=environment) as one, running(second, 60, env=environment) as other:
        assert (one.wait(), other.wait()) == (0, 0)
    who = [line["who"] for line in lines(review.thoughts(run))]
    assert (who.count("a"), who.count("b")) == (40, 40)


@pytest.fixture
def page(run):
    """A server on a free port, in this process."""
    with review_page.Page(("127.0.0.1", 0), review_page.reviews(run, MODEL, "dpo"), "Ada") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(url, data=None, **headers):
    """(status, headers, body) of a request."""
    request = urllib.request.Request(url, None if data is None else json.dumps(data).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_the_page_is_served_under_a_secret_path_with_a_strict_policy(page):
    status, headers, body = ask(page.url)
    assert status == 200 and "<script src=" in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    for url in (page.url.replace(page.secret, "guess"), page.url + "../../run.json", page.url + "item/3",
                f"http://127.0.0.1:{page.server_address[1]}/", page.url.replace("thoughts", "other")):
        assert ask(url)[0] == 404


def test_a_decision_comes_from_the_page_alone(page, run):
    origin = page.url.split("/", 3)
    given, url = {"id": "p-0", "decision": "accepted"}, page.url + "decide"
    assert ask(url, given)[0] == ask(url, given, Origin="http://example.org")[0] == 403
    assert not review.thoughts(run).path.exists()
    status, _, body = ask(url, given, Origin="/".join(origin[:3]))
    assert status == 200 and json.loads(body)["decided"] == ["accepted", "", ""]
    status, _, body = ask(url, {"id": "x"}, Origin="/".join(origin[:3]))
    assert status == 422 and json.loads(body) == {"error": "no thought has such an id"}


def test_a_row_is_shown_with_its_decision_and_what_is_wrong_with_it(page, run):
    review.corrections(run, MODEL, "dpo").decide({"id": "p-0", "decision": "rejected"}, "Bo")
    url = page.url.replace("thoughts", "corrections")
    first, last = (json.loads(ask(f"{url}item/{number}")[2]) for number in (0, 2))
    assert first["decision"]["who"] == "Bo" and first["draft"] == CORRECTION and first["flawed"] == FLAWED
    assert last["why"] == "schema" and last["draft"] == {} and last["decision"]["decision"] == ""


def test_nothing_to_review_says_what_to_do(workdir):
    with pytest.raises(UserError, match="make thoughts"):
        review_page.reviews(declare("empty", resolve("paper", [])), MODEL, "dpo")


@pytest.mark.parametrize(("ignored", "ends"), [
    ([], signal.SIGINT), ([], signal.SIGTERM), ([], signal.SIGHUP),
    ([signal.SIGINT, signal.SIGHUP], signal.SIGTERM),  # as a script starts it with nohup in the background
])
def test_ctrl_c_and_sigterm_end_the_program_alike(run, ignored, ends):
    review.thoughts(run).decide({"id": "p-0", "decision": "accepted"}, "Ada")
    command = [sys.executable, "-m", "data_builders.review_page", "--run", "t", "--model", MODEL, "--who", "Ada"]

    def ignore():
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    with running(command, 60, ignore, env={"PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE) as process:
        url = re.search(r"http://\S+", process.stdout.readline()).group()
        for number in ignored:
            process.send_signal(number)
        assert ask(url)[0] == 200
        process.send_signal(ends)
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "1 of 3 thoughts decided" in output and "0 of 3 corrections decided" in output
