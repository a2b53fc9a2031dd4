"""kill -9 at random moments, two at once, a full disk, a folder that cannot be written: the real commands.

A command that was killed is run again, and the files are those of a run that nobody killed, byte for byte.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import yaml

from demo import teacher
from logreasoner.config import decoding
from logreasoner.files import ROOT, digest, read_jsonl, write_json, write_jsonl
from logreasoner.generation.response_cache import whole_lines
from tests.conftest import running

CODE = ("logreasoner", "data_builders", "eval", "demo", "experiments", "prompts", "templates", "recipes")
FILES = {f"log {number}.gz": random.Random(number).randbytes(150_000) for number in range(3)}
RUN = "build/runs/k"
SPLITS = [["demo.logs", "--out", "build/data/bundled"], ["logreasoner.config", "--run", "k", "--experiment", "demo"],
         ["data_builders.splits", "--run", "k"]]
RECIPE = ["data_builders.recipes", "--run", "k", "--model", "tiny", "--stage", "direct-sft", "--hardware", "cpu"]
SAMPLES = ["data_builders.samples", "--run", "k", "--stage", "direct-sft"]
# The gate with words for tokens: LLaMA-Factory's tokenizer takes seconds to load (tests/e2e/test_kill_training.py).
GATE = ["-c", "from data_builders import llamafactory_dataset\n"
        "llamafactory_dataset.encoder = lambda weights, template: "
        "lambda *texts: tuple(text.split() for text in texts)\n"
        "llamafactory_dataset.main()", "--run", "k", "--model", "tiny", "--stage", "direct-sft"]
RATIONALES = ["data_builders.stage1", "--run", "k", "rationale-requests"]
ASKED = f"{RUN}/datasets/shared/thought-sft/rationales"
ASK = ["logreasoner.generation.generate", "--run", "k", "--role", "teacher", "--requests", f"{ASKED}.requests.jsonl",
       "--responses", f"{ASKED}.responses.jsonl"]


class Slow(BaseHTTPRequestHandler):
    """Serves FILES in small pieces, from where the client asks; the second half of a file only when told to go on."""

    go_on = threading.Event()
    go_on.set()

    def do_GET(self):
        content = FILES[self.path.lstrip("/").replace("%20", " ")]
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        try:
            for at in range(start, len(content), 5_000):
                self.wfile.write(content[at:at + 5_000])
                time.sleep(0.004)
                if at > len(content) / 2:
                    self.go_on.wait()
        except OSError:
            self.close_connection = True  # killed

    def log_message(self, *arguments):
        pass


class Counting:
    """A deterministic teacher that counts what it was asked, by digest of the body, and what it has answered."""

    def __init__(self, seconds):
        self.seconds, self.asked, self.answered = seconds, Counter(), Counter()
        self.lock = threading.Lock()

    def __call__(self, body):
        with self.lock:
            self.asked[digest(body)] += 1
        time.sleep(self.seconds)
        with self.lock:
            self.answered[digest(body)] += 1
        return 200, teacher.completion(body, f"<answer> {digest(body)} </answer>")


@pytest.fixture(scope="module")
def serving():
    """Serve a handler on loopback; returns its address."""
    servers = []

    def start(handler):
        servers.append(teacher.Server(("127.0.0.1", 0), handler))
        servers[-1].handle_error = lambda *arguments: None  # the clients are killed
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def project(tmp_path_factory, serving):
    """The project's files with a catalogue of its own; a run with splits, requests, samples; a log and embeddings."""
    folder = tmp_path_factory.mktemp("project")
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", folder)
    address = serving(Slow)
    told = {"title": "t", "licence": "l", "citation": "c", "feeds": "f", "group": "default"}
    (folder / "experiments" / "sources.yaml").write_text(yaml.safe_dump({"slow": {**told, "files": [
        {"path": name, "url": f"{address}/{name.replace(' ', '%20')}", "bytes": len(content),
         "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()]}}))
    for command in (*SPLITS, RATIONALES, RECIPE, SAMPLES):
        done = call(folder, command)
        assert done.returncode == 0, done.stderr
    (folder / "BGL.log").write_text("".join(
        f"{'-' if line % 7 else 'KERNDTLB'} 1117838570 2005.06.03 R02 2005-06-03-15.42.50.363779 R02 RAS KERNEL INFO "
        f"error {line} was corrected\n" for line in range(200_000)))
    np.save(folder / "E.npy", np.random.default_rng(5).normal(size=(3_000, 96)).astype(np.float32))
    return folder


def start(folder, command, before=(), **options):
    """Start a module of the project (or "-c" with source) in a process group of its own, which ends with the block."""
    module = command if command[0] == "-c" else ["-m", *command]
    variables = {key: value for key, value in os.environ.items() if key not in ("DATA_MIRROR", "PYTHONPATH")}
    return running([*before, sys.executable, *module], cwd=folder, env={
        **variables, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder), "OPENAI_API_KEY": "none",
        **options.pop("env", {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def call(folder, command, before=(), **options):
    """Run a module of the project to its end."""
    with start(folder, command, before, **options) as process:
        out, said = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, said)


def ended(process):
    """(stdout, stderr) of a process that must end well."""
    out, said = process.communicate()
    assert process.returncode == 0, out + said
    return out, said


def copied(project, folder):
    """A copy of the project, with what was made in it."""
    return Path(shutil.copytree(project, folder, symlinks=True))


def contents(folder):
    """What lies under build, by path; of a journal its whole lines, whose order is that of the answers."""
    found = {}
    for path in sorted((folder / "build").rglob("*")):
        if path.is_file() and path.name != "fetch.lock" and path.parent.name != "locks":
            journal = path.name.endswith(".journal.jsonl")
            found[str(path.relative_to(folder))] = (
                sorted(json.dumps(line) for line in whole_lines(path)) if journal else path.read_bytes())
    return found


def differing(found, wanted):
    """The paths whose contents are not the same, or are in one only."""
    return sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))


@dataclass
class Case:
    """A command to be killed, and what is there before it."""

    command: list[str]
    absent: list[str] = field(default_factory=list)  # what the project has already


CASES = {
    "download": Case(["data_builders.fetch"]),
    "sessions": Case(["data_builders.sessions", "--format", "bgl", "--out", "build/s.jsonl", "BGL.log"]),
    "splits": Case(SPLITS[-1], [f"{RUN}/splits"]),
    "requests of stage 1": Case(RATIONALES, [f"{RUN}/datasets/shared/thought-sft"]),
    "requests of the evaluation": Case(["eval.predict", "--run", "k", "--model", "tiny", "--stage", "base", "--samples",
                                        "9", "--out", f"{RUN}/predictions/tiny/base/test.requests.jsonl"]),
    "selection": Case(["data_builders.dpp", "--embeddings", "E.npy", "--count", "90", "--out", "build/ids.json"]),
    "samples": Case(SAMPLES, [f"{RUN}/datasets/shared/direct-sft"]),
    "dataset": Case(GATE),
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_command_leaves_no_half_file_and_is_made_good_by_running_it_again(name, project, tmp_path, long):
    case, killed = CASES[name], 0
    clean = copied(project, tmp_path / "clean")
    for made in case.absent:
        shutil.rmtree(clean / made)
    fresh = copied(clean, tmp_path / "fresh")
    began = time.monotonic()
    done = call(clean, case.command)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    wanted, before, rng = contents(clean), contents(fresh), random.Random(name)
    assert wanted != before
    kills = 20 if long else 3
    for number in range(kills):
        folder = copied(fresh, tmp_path / "killed")
        with start(folder, case.command) as process:
            time.sleep(seconds * 1.1 * (number + rng.random()) / kills)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
        for path, content in contents(folder).items():
            passing = path.endswith((".part", ".tmp"))
            assert passing or content in (wanted.get(path), before.get(path)), (number, path)
        done = call(folder, case.command)
        assert done.returncode == 0, (number, done.stderr)
        assert not differing(contents(folder), wanted), number
        shutil.rmtree(folder)
    assert killed, "every command had ended before it was killed"


def test_an_answer_that_arrived_is_never_asked_again(project, serving, tmp_path, long):
    """Killed over and over: what stands in the journal is not asked again, what was under way at a kill may be."""
    counted = Counting(0.05)
    folder, rng = copied(project, tmp_path / "asking"), random.Random(8)
    answers, concurrency = f"{ASKED}.responses.jsonl", decoding()["live"]["concurrency"]
    asked = [row["custom_id"] for _, row in read_jsonl(folder / f"{ASKED}.requests.jsonl")]
    url = serving(teacher.handler(counted)) + "/v1"
    environment = {"SCRIPTED_TEACHER_URL": url}
    done = call(copied(folder, tmp_path / "clean"), ASK, env=environment)
    assert done.returncode == 0 and set(counted.asked.values()) == {1}, done.stderr
    counted.asked.clear(), counted.answered.clear()
    kills = 0
    for _ in range(20 if long else 4):
        if (folder / answers).exists():  # then from the beginning: nothing would be left to ask
            for path in (folder / ASKED).parent.glob("rationales.[rj]*"):
                if path.name != "rationales.requests.jsonl":
                    path.unlink()
            counted.asked.clear(), counted.answered.clear()
        before, sofar = dict(counted.asked), counted.answered.total()
        kept = {line["request_sha256"] for line in journal(folder)}
        with start(folder, ASK, env=environment) as process:
            moment = sofar + rng.randint(1, len(asked) // 2)
            while process.poll() is None and counted.answered.total() < moment:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            if process.poll() is None:  # else it was faster, and its number is free
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        kills += process.returncode == -signal.SIGKILL
        time.sleep(0.1)  # the server ends what it has begun
        assert not [key for key in kept if counted.asked[key] != before[key]], "asked again, and paid for twice"
        unkept = set(counted.asked) - {line["request_sha256"] for line in journal(folder)}
        assert len(unkept) <= concurrency, "more was lost than was under way"
    assert kills
    done = call(folder, ASK, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / answers).read_bytes() == (tmp_path / "clean" / answers).read_bytes()
    lines = journal(folder)
    assert len(lines) == len({line["request_sha256"] for line in lines}) == len(asked)


def journal(folder):
    path = folder / f"{ASKED}.journal.jsonl"
    return list(whole_lines(path)) if path.exists() else []


def test_what_a_killed_writer_left_is_removed_by_the_next_and_that_of_a_living_one_is_not(tmp_path):
    write = "import sys; from logreasoner.files import writing\nwith writing('x.jsonl') as stream:\n" \
            " stream.write('half'); stream.flush(); print('ready', flush=True); sys.stdin.read()\n"
    writer = partial(start, tmp_path, ["-c", write], env={"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE)
    with writer() as killed, writer() as living:
        for process in (killed, living):
            assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 2
        killed.kill()
        killed.communicate()
        write_jsonl(tmp_path / "x.jsonl", [{"whole": True}])
        assert len(list(tmp_path.iterdir())) == 2, "the file, and what the living writer writes"
        living.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"] and (tmp_path / "x.jsonl").read_text() == "half"


def test_a_file_that_is_written_anew_does_not_keep_the_manifest_of_the_old_one(tmp_path):
    write_json(tmp_path / "x.json.manifest.json", {"sha256": "of the old one"})
    write_json(tmp_path / "x.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_two_downloads_at_once_wait_for_each_other(project, tmp_path, monkeypatch):
    folder = copied(project, tmp_path / "two")
    monkeypatch.setattr(Slow, "go_on", threading.Event())
    with start(folder, ["data_builders.fetch"]) as first:
        while not list(folder.rglob("*.part")):
            time.sleep(0.01)
        with start(folder, ["data_builders.fetch"]) as second:
            assert "fetch.lock is held by another download" in second.stderr.readline()
            Slow.go_on.set()
            (out, _), (out_of_second, _) = ended(first), ended(second)
    assert "3 brought now" in out and "0 brought now" in out_of_second
    assert {path.name: path.read_bytes() for path in (folder / "build/data/raw/ad").iterdir()} == FILES


# ---- make ------------------------------------------------------------------------------------------------------

MADE = [f"{RUN}/predictions/tiny/base/test.requests.jsonl", f"{RUN}/datasets/shared/thought-sft/analyses.jsonl",
        f"{RUN}/datasets/shared/direct-sft/samples.jsonl"]


@pytest.fixture
def checkout(project, tmp_path):
    """A copy of the project in which make finds the core environment, and nothing is made yet."""
    if not (ROOT / ".venv" / ".ready").exists():
        pytest.skip("no .venv; `make setup` makes it")

    def copy(name):
        folder = copied(project, tmp_path / name)
        shutil.rmtree(folder / "build")
        shutil.copytree(ROOT / "requirements", folder / "requirements")
        (folder / ".venv").symlink_to(ROOT / ".venv")
        return folder

    return copy


def make(folder, url, *goals):
    """Start make with a teacher at url; what it started ends with the block."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return running(["make", *(goals or MADE), "EXPERIMENT=demo", "RUN=k", "MODEL=tiny", "STAGE=base"],
                   cwd=folder, env={**variables, "SCRIPTED_TEACHER_URL": url, "PYTHONDONTWRITEBYTECODE": "1"},
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_make(folder, url, *goals):
    """Run make to its end, which must be a good one; returns (stdout, stderr)."""
    with make(folder, url, *goals) as process:
        return ended(process)


def processes(group):
    """The processes of a group and their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def programs(group):
    """The processes of a group that are programs of the project and make files."""
    return [pid for pid, line in processes(group).items()
            if " -m " in line and ("data_builders" in line or "chat" in line or "eval" in line)]


class Asked(Counting):
    """Counts, and answers so that some rationales are right."""

    def __call__(self, body):
        super().__call__(body)
        return 200, teacher.completion(body, f"<solutions>\nStep 1: {digest(body)}\n</solutions>\n"
                                             "<answer> normal </answer>")


@pytest.mark.parametrize("whom", ["the whole group", "one program"])
def test_make_goes_on_after_a_kill_to_the_same_files(whom, checkout, serving, tmp_path, long):
    url = serving(teacher.handler(Asked(0.02))) + "/v1"
    clean, began = checkout("clean"), time.monotonic()
    run_make(clean, url)
    seconds, wanted = time.monotonic() - began, contents(clean)
    rng, killed, kills = random.Random(whom), 0, 8 if long else 2
    for number in range(kills):
        folder = checkout("killed")
        with make(folder, url) as process:
            time.sleep(seconds * (number + rng.random()) / kills)
            if whom == "the whole group":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                while not (found := programs(process.pid)) and process.poll() is None:
                    time.sleep(0.01)  # between two programs
                for pid in found:
                    os.kill(pid, signal.SIGKILL)
            process.communicate()
        killed += process.returncode != 0
        run_make(folder, url)
        assert not differing(contents(folder), wanted), number
        shutil.rmtree(folder)
    assert killed, "make had ended before it was killed"


def test_a_second_make_waits_and_nothing_is_asked_twice(checkout, serving):
    asked = Asked(0.02)
    url = serving(teacher.handler(asked)) + "/v1"
    folder, clean = checkout("two"), checkout("clean")
    run_make(clean, url, "rationales")
    once = dict(asked.asked)
    asked.asked.clear()
    with make(folder, url, "rationales") as first, make(folder, url, "rationales") as second:
        errors = [ended(process)[1] for process in (first, second)]
    assert sum("another make works on run k; waiting for it" in each for each in errors) == 1, errors
    assert asked.asked == once
    assert not differing(contents(folder), contents(clean))


def test_a_make_waits_for_what_a_killed_one_left_running(checkout, serving):
    """kill -9 of make alone leaves its program at work: another must not start beside it."""
    asked = Asked(0.3)
    url = serving(teacher.handler(asked)) + "/v1"
    folder = checkout("orphan")
    with make(folder, url, "rationales") as first:
        while not asked.answered:
            time.sleep(0.01)
        for pid, line in processes(first.pid).items():
            if line.startswith(("make ", "flock ")):
                os.kill(pid, signal.SIGKILL)
        with make(folder, url, "rationales") as second:
            assert "another make works on run k; waiting for it" in ended(second)[1]
    assert set(asked.asked.values()) == {1}, "the program that was left had asked already"


def test_what_builds_nothing_is_not_kept_waiting(checkout):
    folder = checkout("free")
    lock = folder / "build" / "locks" / "k"
    lock.parent.mkdir(parents=True)
    holds = ["flock", str(lock), "bash", "-c", "echo held; sleep 60"]
    with running(holds, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        for goal in ("help", "matrix"):
            run_make(folder, "", goal)
# ---- a disk that is full, a folder that cannot be written ------------------------------------------------------

@dataclass
class Refused:
    """A command, the folder it writes into, and the file it should name."""

    command: list[str]
    folder: str
    file: str


GATED = f"{RUN}/datasets/tiny/direct-sft"
REFUSED = {
    "sessions": Refused(["data_builders.sessions", "--format", "bgl", "--limit", "2000", "--out", "build/s/s.jsonl",
                         "BGL.log"], "build/s", "s.jsonl"),
    "splits": Refused(SPLITS[-1], f"{RUN}/splits", "stage1.jsonl"),
    "fetch": Refused(["data_builders.fetch"], "build/data/raw", "log 0.gz"),
    "chat": Refused([*ASK[:-1], "build/a/x.responses.jsonl"], "build/a", "x.journal.jsonl"),
    "select": Refused(["data_builders.dpp", "--embeddings", "E.npy", "--count", "9", "--out", "build/i/ids.json"],
                      "build/i", "ids.json"),
    "gate": Refused(GATE, GATED, "d_labels.json"),
}


@pytest.fixture(scope="module")
def may_mount(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mount")
    mounted = mount(folder, "size=64k")
    return mounted and not subprocess.run(["umount", folder]).returncode


def mount(folder, options):
    """Whether a file system of its own could be put there."""
    return not subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True).returncode


def full_disk(folder):
    """A small file system of its own with nothing left on it."""
    assert mount(folder, "size=64k")
    with open(folder / "filler", "wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        while True:
            stream.write(bytes(4096))
    return {}


def limit_of_size(folder):
    """The kernel refuses to let a file grow, as it does on a full disk."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))}


def read_only_disk(folder):
    assert mount(folder, "ro")
    return {}


def no_right(folder):
    """The owner may not write; root loses the right to do it all the same."""
    folder.chmod(0o500)
    if os.geteuid():
        return {}
    if not shutil.which("setpriv"):
        pytest.skip("root may write anywhere, and there is no setpriv to give that up")
    rights = "-dac_override,-dac_read_search"
    return {"before": ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]}


MOUNTED = (full_disk, read_only_disk)
FAULTS: dict[Callable, str] = {full_disk: "No space left on device", limit_of_size: "File too large",
                               read_only_disk: "Read-only file system", no_right: "Permission denied"}


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def fault(request, may_mount, long):
    """A fault that this user can cause; in the short form one of each two that come to the same."""
    if request.param in MOUNTED and not may_mount:
        pytest.skip("this user may not mount a file system: the kernel's limits stand for it")
    if request.param not in MOUNTED and may_mount and not long:
        pytest.skip("file systems of their own stand for it; make test-long has both")
    return request.param


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_one_line_that_names_the_file(name, fault, project, serving, tmp_path):
    case = REFUSED[name]
    folder = copied(project, tmp_path / "refused")
    shutil.rmtree(folder / case.folder, ignore_errors=True)
    (folder / case.folder).mkdir(parents=True)
    url = serving(teacher.handler(Counting(0))) + "/v1" if name == "chat" else ""
    options = fault(folder / case.folder)
    try:
        done = call(folder, case.command, env={"SCRIPTED_TEACHER_URL": url}, **options)
        left = {path.name for path in (folder / case.folder).rglob("*") if path.is_file()}
    finally:
        if fault in MOUNTED:
            subprocess.run(["umount", folder / case.folder], check=True)
        (folder / case.folder).chmod(0o700)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: ") and FAULTS[fault] in said and "again" in said, said
    assert case.folder in said, said
    if fault in (full_disk, limit_of_size):
        assert case.file in said, said
    assert left <= {"filler", "fetch.lock", "log 0.gz.part", "x.journal.lock", "x.journal.jsonl"}, left
    assert not any(path.stat().st_size for path in (folder / case.folder).rglob("x.journal.jsonl"))
    again = call(folder, case.command, env={"SCRIPTED_TEACHER_URL": url})
    assert again.returncode == 0, again.stderr
