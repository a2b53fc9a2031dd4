"""An answer belongs to what gave it: answers of other weights or endpoints are kept and never taken for this one's."""

import json
import os
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eval import compare, predict, score, tables
from logreasoner import weights
from logreasoner.answer_format import answer_element
from logreasoner.cli import UserError
from logreasoner.config import declare, resolve
from logreasoner.files import ROOT, read_json, read_jsonl, write_json, write_jsonl
from logreasoner.generation import generate, openai_live
from logreasoner.generation.openai_live import ask_live
from logreasoner.generation.response_cache import Answerer, Engine, Journal, endpoints
from tests.faulty_server import FaultyServer

MODEL, RCA = "qwen2.5-7b", "root_cause_analysis"
LABELS = ["EventTrap", "equipmentAlarm"]


class Named(FaultyServer):
    """An endpoint whose replies name a model that the test may change; it dies after `lives` answers."""

    def __init__(self, model="m", lives=None):
        super().__init__()
        self.model, self.lives = model, lives

    def respond(self, prompt, name=""):
        if self.lives is not None and sum(self.answered.values()) >= self.lives:
            return 401, {"error": {"message": "no more"}}
        status, value = super().respond(prompt, name)
        return status, {**value, "model": self.model}


@pytest.fixture
def serve():
    started = []

    def start(**options):
        started.append(Named(**options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def requests(folder, count=4, model="m"):
    path = folder / "x.requests.jsonl"
    write_jsonl(path, (generate.request(f"id-{number}", model, "solution", f"prompt {number}", vllm=True)
                       for number in range(count)))
    return path


def ask(path, *servers):
    urls = [server.url for server in servers]
    out = path.with_name("x.responses.jsonl")
    generate.answer(path, out, Engine(lambda asked, journal: ask_live(asked, journal, " ".join(urls), "none"),
                                  endpoints(*urls)))
    return read_json(f"{out}.manifest.json")["answered_by"]


def test_another_address_is_asked_everything_and_stands_beside_its_answers(workdir, serve, capsys):
    """`make eval BASE_URL=A`, stopped, then BASE_URL=B: all of one result is B's."""
    first, second = serve(model="first", lives=2), serve(model="second")
    path = requests(workdir)
    with pytest.raises(UserError, match="no more"):
        ask(path, first)
    assert ask(path, second) == [{"address": second.url, "model": "second", "answers": 4}]
    assert "0 answered before, 4 to ask (2 answers of other weights or endpoints are kept and not used)" in (
        capsys.readouterr().out)
    assert sum(second.answered.values()) == 4 and len(list(read_jsonl(workdir / "x.journal.jsonl"))) > 4


def test_addresses_that_are_given_together_serve_the_same_model(workdir, serve):
    first, second = serve(lives=2), serve()
    path = requests(workdir)
    by = ask(path, first, second)
    assert {each["address"] for each in by} == {first.url, second.url}
    assert sum(each["answers"] for each in by) == 4
    path.with_name("x.responses.jsonl").unlink()
    ask(path, second, first)
    assert set((first.answered + second.answered).values()) == {1}


def test_an_endpoint_that_changes_its_model_in_between_gives_no_result(workdir, serve):
    server = serve(model="gpt-a")
    ask(requests(workdir, 2), server)
    server.model = "gpt-b"
    with pytest.raises(UserError, match="answered as gpt-a and as gpt-b: its model changed"):
        ask(requests(workdir, 4), server)
    assert len(list(read_jsonl(workdir / "x.journal.jsonl"))) == 4, "every answer is kept"


def test_another_name_is_another_question(workdir, serve):
    server = serve()
    ask(requests(workdir, model="one"), server)
    ask(requests(workdir, model="another"), server)
    assert set(server.answered.values()) == {2}


def test_the_environment_sends_no_question_elsewhere(workdir, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:secret@127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    run = declare("r", resolve("paper", []))
    for engine in (lambda: generate.policy_engine(run, "gpt-4o", "base"), lambda: generate.teacher_engine(run)):
        with pytest.raises(UserError, match="OPENAI_BASE_URL is set.* give the address as BASE_URL=") as stopped:
            engine()
        assert "secret" not in str(stopped.value)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{openai_live.OPENAI}/")
    assert generate.policy_engine(run, "gpt-4o", "base").answerer == endpoints(openai_live.OPENAI)


def test_answers_from_elsewhere_are_not_copied_as_the_teachers_own(workdir, serve):
    """The same teacher by name, whose answers came from another address."""
    elsewhere, path = serve(), requests(workdir)
    first = declare("one", resolve("paper", []))
    journal = first.dataset("shared", "thought-sft") / "x.journal.jsonl"
    generate.answer(
        path,
        workdir / "x.responses.jsonl",
        Engine(lambda asked, kept: ask_live(asked, kept, elsewhere.url, "none"), endpoints(elsewhere.url)),
        journal,
    )
    assert len(list(read_jsonl(journal))) == 4
    second = Journal(workdir / "other.journal.jsonl", endpoints(openai_live.OPENAI))
    assert second.take(generate.read_requests(path), [journal]) == 0
    same = Journal(workdir / "other.journal.jsonl", endpoints(elsewhere.url))
    assert same.take(generate.read_requests(path), [journal]) == 4


@pytest.fixture
def run(workdir):
    """A run with two test instances and a stage that was trained."""
    made = declare("r", resolve("paper", [f"tasks={RCA}", "examples=label-only"]))
    rows = [{"id": f"t{at}", "task": RCA, "source": "huawei-switches", "log": f"log {at}", "label": label}
            for at, label in enumerate(LABELS)]
    write_jsonl(made.splits / "test.jsonl", rows)
    write_jsonl(made.splits / "test_seen.jsonl", [])
    write_jsonl(made.splits / "examples.jsonl", ({**row, "id": f"e{at}", "log": f"example {at}"}
                                                for at, row in enumerate([*rows, rows[0]])))
    train(made, "first")
    return made


def train(run, weights_hash):
    write_json(run.stage_dir(MODEL, "dpo") / "manifest.json", {"weights": {"model.safetensors": weights_hash}})


def evaluate(run, answer=LABELS[0]):
    """Predict, ask and score as make does; what answers is told by the test. Returns how many were asked."""
    folder, asked_now = run.dir / "predictions" / MODEL / "dpo", []
    out, responses = folder / "test.requests.jsonl", folder / "test.responses.jsonl"

    def reply(asked, journal):
        asked_now.extend(asked)
        journal.add(*((each, {"response": {"status_code": 200, "body": {"choices": [
            {"message": {"content": answer_element(answer)}}]}}, "error": None}) for each in asked))

    command(predict, "--run", "r", "--model", MODEL, "--stage", "dpo", "--out", out)
    generate.answer(out, responses, replace(generate.policy_engine(run, MODEL, "dpo"), ask=reply))
    command(score, "--run", "r", "--model", MODEL, "--stage", "dpo", "--responses", responses, "--out", result(run))
    return len(asked_now)


def command(module, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        module.main()


def result(run):
    return run.dir / "results" / MODEL / "dpo" / "result.json"


def test_a_stage_that_was_trained_again_is_asked_again_and_its_old_score_is_refused(run):
    """All three stages had new weights, yet "800 answered before, 0 to ask"."""
    assert evaluate(run) == 2 and evaluate(run) == 0
    old = read_json(result(run))
    assert old["answered_by"] == [{**weights.known(run, MODEL, "dpo"), "answers": 2}]
    train(run, "second")
    with pytest.raises(UserError, match="is of other weights of qwen2.5-7b/dpo than are there now"):
        tables.load_results(run)
    side = compare.read_side("r", f"{MODEL}/dpo")
    with pytest.raises(UserError, match="other weights"):
        compare.pair(side, side, [], None)
    assert evaluate(run, LABELS[1]) == 2
    new = read_json(result(run))
    assert new["answered_by"] != old["answered_by"] and new["results"] != old["results"]
    assert (MODEL, "dpo") in tables.load_results(run)


def test_results_on_other_labels_are_never_in_one_table(run):
    """Test labels that were exchanged between two evaluations."""
    evaluate(run)
    rows = [row for _, row in read_jsonl(run.splits / "test.jsonl")]
    write_jsonl(run.splits / "test.jsonl", ({**row, "label": label}
                                            for row, label in zip(rows, LABELS[::-1], strict=True)))
    with pytest.raises(UserError, match="other test instances than those of run r .splits.test.jsonl"):
        tables.load_results(run)
    side = compare.read_side("r", f"{MODEL}/dpo")
    with pytest.raises(UserError, match="test.jsonl is not what it was when these answers were given"):
        compare.pair(side, side, [], None)


def test_answers_that_were_edited_are_not_scored(run):
    evaluate(run)
    path = run.dir / "predictions" / MODEL / "dpo" / "test.responses.jsonl"
    path.write_text(path.read_text().replace(LABELS[0], LABELS[1]))
    with pytest.raises(SystemExit, match="test.responses.jsonl is not what it was when these answers were given"):
        command(score, "--run", "r", "--model", MODEL, "--stage", "dpo", "--responses", path, "--out", result(run))


def test_a_result_says_who_answered_also_in_the_table(run, capsys):
    evaluate(run)
    capsys.readouterr()
    command(tables, "--run", "r")
    assert f"weights {weights.known(run, MODEL, 'dpo')['weights'][:12]}" in capsys.readouterr().out


def test_make_asks_again_where_a_name_or_an_address_changed(workdir):
    """NAME=another: nothing was asked, and the old result stayed. make goes by files, which are all there."""
    run = workdir / "build" / "runs" / "paper"
    for name in ("splits/manifest.json", f"models/{MODEL}/dpo/manifest.json",
                 *(f"predictions/{MODEL}/base/test.{kind}.jsonl{more}" for kind in ("requests", "responses")
                   for more in ("", ".manifest.json")), f"results/{MODEL}/base/result.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    for name in ("Makefile", "demo", "experiments", "recipes", "requirements", "templates"):
        (workdir / name).symlink_to(ROOT / name)
    done = subprocess.run(["make", "-n", "eval", "STAGE=base", "NAME=another", "ENGINE=openai",
                           "BASE_URL=http://127.0.0.1:1/v1"], cwd=workdir, capture_output=True, text=True, timeout=60)
    assert "eval.predict" in done.stdout and '--name "$NAME"' in done.stdout, done.stderr


class Hub(BaseHTTPRequestHandler):
    """Answers like the hub's API for one model."""

    def do_GET(self):
        good = self.path == "/api/models/org/model/revision/main"
        data = json.dumps({"sha": "c" * 40} if good else {"error": "not found"}).encode()
        self.send_response(200 if good else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(workdir, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_HUB_CACHE", str(workdir / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield
    server.shutdown()
    server.server_close()


def test_a_hubs_model_is_known_by_its_commit(hub, workdir, monkeypatch):
    """The one declared, else the one in this machine's cache, else the hub's."""
    assert weights.revision("org/model") == "c" * 40
    with pytest.raises(UserError, match="org/unknown: the commit of this model is unknown: .* gave none"):
        weights.revision("org/unknown")
    ref = workdir / "hub" / "models--org--model" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("b" * 40)
    assert weights.revision("org/model") == "b" * 40
    assert weights.revision("org/model", "v1") == "v1"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.revision("org/model") == "b" * 40
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and the model is not in this machine's cache"):
        weights.revision("org/unknown")


def test_vllm_serves_the_very_commit_that_is_written_down(hub, workdir, monkeypatch):
    run = declare("r", resolve("paper", []))
    monkeypatch.setattr(weights, "revision", lambda name, declared: "c" * 40)
    found = weights.identity(run, MODEL, "base")
    assert found == {"hub": "Qwen/Qwen2.5-7B-Instruct", "revision": "c" * 40}
    assert weights.vllm_options(found) == ["--revision", "c" * 40]
    assert generate.policy_engine(run, MODEL, "base").answerer == Answerer(found)


def test_a_folder_of_weights_is_known_by_what_is_in_it(workdir):
    folder = workdir / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"one")
    (folder / "config.json").write_text("{}")
    first = weights.folder_digest(folder)
    os.utime(folder / "config.json", (0, 0))
    assert weights.folder_digest(folder) == first
    (folder / "model.safetensors").write_bytes(b"two")
    assert weights.folder_digest(folder) != first


