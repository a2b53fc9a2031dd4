"""kill -9 at random moments, two at once, a full disk, a folder that cannot be written: the real commands.

A command that was killed is run again, and the files are those of a run that nobody killed, byte for byte. The package
writes files in few ways (WRITERS: no other place opens one to write), and each way has its test here.
"""

import ast
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

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
RATIONALES = ["data_builders.stage1", "--run", "k", "rationale-requests"]
RATIONALE_FILES = f"{RUN}/datasets/shared/thought-sft/rationales"
ASK = ["logreasoner.generation.generate", "--run", "k", "--role", "teacher",
       "--requests", f"{RATIONALE_FILES}.requests.jsonl", "--responses", f"{RATIONALE_FILES}.responses.jsonl"]
FOLDERS = ("logreasoner", "data_builders", "eval", "demo")
# The modules that open a file to write or rename one, and what it is.
WRITERS = {
    "logreasoner/files.py": "whole files, renamed into place, and a lock",
    "logreasoner/generation/response_cache.py": "answers and reviews, appended line by line",
    "data_builders/fetch.py": "downloads, in parts",
    "logreasoner/weights.py": "a folder, renamed into place",
    "data_builders/package_weights.py": "a file of a folder that is removed",
    "eval/classifier.py": "a model that is trained again unless the answers beside it are there",
    "data_builders/review.py": "a lock",
    "logreasoner/generation/vllm.py": "a log",
    "logreasoner/children.py": "a log",
}


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


class CountingTeacher:
    """A deterministic teacher that counts requests and answers by the digest of the request's body."""

    def __init__(self, seconds):
        self.seconds, self.requests, self.answered = seconds, Counter(), Counter()
        self.lock = threading.Lock()

    def __call__(self, body):
        with self.lock:
            self.requests[digest(body)] += 1
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
def project(tmp_path_factory, serving, long):
    """The project's files with a catalogue of its own; a run with splits and requests; a log, beside it."""
    folder = tmp_path_factory.mktemp("project")
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", folder)
    address = serving(Slow)
    described = {"title": "t", "licence": "l", "citation": "c", "feeds": "f", "group": "default"}
    (folder / "experiments" / "sources.yaml").write_text(yaml.safe_dump({"slow": {**described, "files": [
        {"path": name, "url": f"{address}/{name.replace(' ', '%20')}", "bytes": len(content),
         "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()]}}))
    for command in (*SPLITS, RATIONALES):
        done = call(folder, command)
        assert done.returncode == 0, done.stderr
    log = folder.with_name("BGL.log")
    log.write_text("".join(
        f"{'-' if line % 7 else 'KERNDTLB'} 1117838570 2005.06.03 R02 2005-06-03-15.42.50.363779 R02 RAS KERNEL INFO "
        f"error {line} was corrected\n" for line in range(200_000 if long else 50_000)))
    (folder / log.name).symlink_to(log)
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
        output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def ended(process):
    """Wait for a process that must succeed; returns (stdout, stderr)."""
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    return output, errors


def copied(project, folder):
    """Copy the project, with what was made in it."""
    return Path(shutil.copytree(project, folder, symlinks=True))


def contents(folder):
    """Return the bytes of the files under build by path; of a response cache its sorted whole lines."""
    files = {}
    for path in sorted((folder / "build").rglob("*")):
        if path.is_file() and path.name != "fetch.lock" and path.parent.name != "locks":
            journal = path.name.endswith(".journal.jsonl")
            files[str(path.relative_to(folder))] = (
                sorted(json.dumps(line) for line in whole_lines(path)) if journal else path.read_bytes())
    return files


def differing(files, expected):
    """Return the paths whose contents are not the same, or that are in one only."""
    return sorted(path for path in files.keys() | expected.keys() if files.get(path) != expected.get(path))


WRITING = ("write_text", "write_bytes", "mkstemp", "fdopen", "save_pretrained", "copytree", "copyfile")


def writes(call):
    """Whether a call writes a file: one of WRITING, or open() with such a mode."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    mode = ast.unparse(call.args[1]) if name == "open" and len(call.args) > 1 else ""
    return name in WRITING or bool(re.search(r"'[rbt]*[wax+]", mode))


def test_files_are_written_in_these_ways_only():
    modules = {str(path.relative_to(ROOT)): ast.walk(ast.parse(path.read_text()))
               for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert WRITERS.keys() == {module for module, nodes in modules.items()
                              if any(writes(node) for node in nodes if isinstance(node, ast.Call))}


# A command for each way of writing, and what is taken away before it. Answers, folders and make have their own tests.
COMMANDS = {
    "a download": (["data_builders.fetch"], ""),
    "a large file": (["data_builders.sessions", "--format", "bgl", "--out", "build/s.jsonl", "BGL.log"], ""),
    "several files and their manifest": (SPLITS[-1], f"{RUN}/splits"),
}


@pytest.mark.parametrize("way", COMMANDS)
def test_a_killed_command_leaves_no_half_file_and_is_made_good_by_running_it_again(way, project, tmp_path, long):
    (command, absent), killed = COMMANDS[way], 0
    fresh = copied(project, tmp_path / "fresh")
    if absent:
        shutil.rmtree(fresh / absent)
    clean = copied(fresh, tmp_path / "clean")
    began = time.monotonic()
    done = call(clean, command)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    expected, before, rng = contents(clean), contents(fresh), random.Random(way)
    assert expected != before
    kills = 20 if long else 3
    for number in range(kills):
        folder = copied(fresh, tmp_path / "killed")
        with start(folder, command) as process:
            began = time.monotonic()
            try:
                process.wait(seconds * 1.1 * (number + rng.random()) / kills)
                seconds = time.monotonic() - began  # it is faster than the first time: the next is killed earlier
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
        for path, content in contents(folder).items():
            passing = path.endswith((".part", ".tmp"))
            assert passing or content in (expected.get(path), before.get(path)), (number, path)
        done = call(folder, command)
        assert done.returncode == 0, (number, done.stderr)
        assert not differing(contents(folder), expected), number
        shutil.rmtree(folder)
    assert killed, "every command had ended before it was killed"


# What saves a model, with a stop after each file.
SAVING = """
import sys
from pathlib import Path
from logreasoner import weights

class Parts:
    def __init__(self, *names):
        self.names = names

    def save_pretrained(self, folder, **options):
        folder.mkdir(exist_ok=True)
        for name in self.names:
            (folder / name).write_text("whole")
            print(name, flush=True)
            sys.stdin.readline()

    def parameters(self):
        return []

    def __len__(self):
        return 0

weights.save(Parts("weights", "config"), Parts("tokenizer"), Path("build/model"), [])
"""


def test_a_folder_appears_whole_or_not_at_all(project, tmp_path):
    folder = copied(project, tmp_path / "folder")
    with start(folder, ["-c", SAVING], stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "weights\n"
        process.kill()
        process.communicate()
    assert not (folder / "build" / "model").exists()
    assert call(folder, ["-c", SAVING], stdin=subprocess.DEVNULL).returncode == 0
    made = {path.name for path in (folder / "build" / "model").iterdir()}
    assert made == {"weights", "config", "tokenizer", "manifest.json"}
    assert not list((folder / "build").glob(".model*"))


def test_an_answer_that_arrived_is_never_asked_again(project, serving, tmp_path, long):
    """Killed repeatedly: what is in the response cache is not asked again; what was in flight at a kill may be."""
    teaching = CountingTeacher(0.05)
    folder, rng = copied(project, tmp_path / "asking"), random.Random(8)
    answers, concurrency = f"{RATIONALE_FILES}.responses.jsonl", decoding()["live"]["concurrency"]
    ids = [row["custom_id"] for _, row in read_jsonl(folder / f"{RATIONALE_FILES}.requests.jsonl")]
    url = serving(teacher.handler(teaching)) + "/v1"
    environment = {"SCRIPTED_TEACHER_URL": url}
    done = call(copied(folder, tmp_path / "clean"), ASK, env=environment)
    assert done.returncode == 0 and set(teaching.requests.values()) == {1}, done.stderr
    teaching.requests.clear(), teaching.answered.clear()
    kills = 0
    for _ in range(20 if long else 3):
        if (folder / answers).exists():  # then from the beginning: nothing would be left to ask
            for path in (folder / RATIONALE_FILES).parent.glob("rationales.[rj]*"):
                if path.name != "rationales.requests.jsonl":
                    path.unlink()
            teaching.requests.clear(), teaching.answered.clear()
        before, sofar = dict(teaching.requests), teaching.answered.total()
        cached = {line["request_sha256"] for line in cached_lines(folder)}
        with start(folder, ASK, env=environment) as process:
            moment = sofar + rng.randint(1, len(ids) // 2)
            while process.poll() is None and teaching.answered.total() < moment:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            if process.poll() is None:  # else it was faster, and its number is free
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        kills += process.returncode == -signal.SIGKILL
        time.sleep(0.1)  # the server ends what it has begun
        assert not [key for key in cached if teaching.requests[key] != before[key]], "asked again, and paid for twice"
        sent = {key for key, times in teaching.requests.items() if times > before.get(key, 0)}
        lost = sent - {line["request_sha256"] for line in cached_lines(folder)}
        assert len(lost) <= concurrency, "more was lost than was in flight"
    assert kills
    done = call(folder, ASK, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / answers).read_bytes() == (tmp_path / "clean" / answers).read_bytes()
    lines = cached_lines(folder)
    assert len(lines) == len({line["request_sha256"] for line in lines}) == len(ids)


def cached_lines(folder):
    path = folder / f"{RATIONALE_FILES}.journal.jsonl"
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
            assert first.poll() is None, first.communicate()
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


@pytest.fixture(scope="module")
def checkout(project, tmp_path_factory):
    """Make a copy of the project in which make finds the core environment, and nothing is made yet."""
    if not (ROOT / ".venv" / ".ready").exists():
        pytest.skip("no .venv; `make setup` makes it")

    def copy(name):
        folder = copied(project, tmp_path_factory.mktemp(name) / "checkout")
        shutil.rmtree(folder / "build")
        shutil.copytree(ROOT / "requirements", folder / "requirements")
        (folder / ".venv").symlink_to(ROOT / ".venv")
        return folder

    return copy


def make(folder, url, *goals):
    """Start make with a teacher at url; what it started ends with the block."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    # Labels alone: this teacher cannot work out examples.
    return running(["make", *(goals or MADE), "EXPERIMENT=demo", "RUN=k", "MODEL=tiny", "STAGE=base",
                    "EXAMPLES=label-only"],
                   cwd=folder, env={**variables, "SCRIPTED_TEACHER_URL": url, "PYTHONDONTWRITEBYTECODE": "1"},
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_make(folder, url, *goals):
    """Run make to its end, which must be a good one; returns (stdout, stderr)."""
    with make(folder, url, *goals) as process:
        return ended(process)


def processes(group):
    """Return the command lines of a group's processes by process id."""
    commands = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                commands[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return commands


def programs(group):
    """Return the ids of a group's processes that are programs of the project and make files."""
    return [pid for pid, line in processes(group).items()
            if " -m " in line and ("data_builders" in line or "generation" in line or "eval" in line)]


class RationaleTeacher(CountingTeacher):
    """Counts, and answers so that some rationales are right."""

    def __call__(self, body):
        super().__call__(body)
        return 200, teacher.completion(body, f"<solutions>\nStep 1: {digest(body)}\n</solutions>\n"
                                             "<answer> normal </answer>")


@pytest.fixture(scope="module")
def clean(checkout, serving):
    """A make that nobody killed: (its teacher, the teacher's URL, what it made, seconds)."""
    teaching, folder = RationaleTeacher(0.02), checkout("clean")
    url, began = serving(teacher.handler(teaching)) + "/v1", time.monotonic()
    run_make(folder, url)
    return teaching, url, contents(folder), time.monotonic() - began


@pytest.mark.parametrize("whom", ["the whole group", "one program"])
def test_make_goes_on_after_a_kill_to_the_same_files(whom, checkout, clean, long):
    _, url, expected, seconds = clean
    rng, killed, kills = random.Random(whom), 0, 8 if long else 1
    for number in range(kills):
        folder = checkout("killed")
        with make(folder, url) as process:
            time.sleep(seconds * (number + rng.random()) / kills)
            if whom == "the whole group":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                while not (pids := programs(process.pid)) and process.poll() is None:
                    time.sleep(0.01)  # between two programs
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
            process.communicate()
        killed += process.returncode != 0
        run_make(folder, url)
        assert not differing(contents(folder), expected), number
        shutil.rmtree(folder)
    assert killed, "make had ended before it was killed"


def test_a_make_waits_for_what_a_killed_one_left_running_and_asks_nothing_twice(checkout, clean, monkeypatch):
    """kill -9 of make alone leaves its program at work: another must not start beside it."""
    teaching, url, expected, _ = clean
    monkeypatch.setattr(teaching, "seconds", 0.3)
    teaching.requests.clear(), teaching.answered.clear()
    folder = checkout("orphan")
    with make(folder, url, "rationales") as first:
        while not teaching.answered:
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        for pid, line in processes(first.pid).items():
            if line.startswith(("make ", "flock ")):
                os.kill(pid, signal.SIGKILL)
        with make(folder, url, "rationales") as second:
            assert "another make works on run k; waiting for it" in ended(second)[1]
    assert set(teaching.requests.values()) == {1}, "the program that was left had asked already"
    files = contents(folder)
    assert files and not differing(files, {path: expected.get(path) for path in files})


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


REFUSED = {
    "a whole file": Refused(["data_builders.sessions", "--format", "bgl", "--limit", "2000", "--out",
                             "build/s/s.jsonl", "BGL.log"], "build/s", "s.jsonl"),
    "a download": Refused(["data_builders.fetch"], "build/data/raw", "log 0.gz"),
    "answers": Refused([*ASK[:-1], "build/a/x.responses.jsonl"], "build/a", "x.journal.jsonl"),
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


@pytest.mark.parametrize("way", REFUSED)
def test_what_cannot_be_written_is_one_line_that_names_the_file(way, fault, project, serving, tmp_path):
    case = REFUSED[way]
    folder = copied(project, tmp_path / "refused")
    shutil.rmtree(folder / case.folder, ignore_errors=True)
    (folder / case.folder).mkdir(parents=True)
    url = serving(teacher.handler(CountingTeacher(0))) + "/v1" if way == "answers" else ""
    options = fault(folder / case.folder)
    try:
        done = call(folder, case.command, env={"SCRIPTED_TEACHER_URL": url}, **options)
        left = {path.name for path in (folder / case.folder).rglob("*") if path.is_file()}
    finally:
        if fault in MOUNTED:
            subprocess.run(["umount", folder / case.folder], check=True)
        (folder / case.folder).chmod(0o700)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ") and FAULTS[fault] in message and "again" in message, message
    assert case.folder in message, message
    if fault in (full_disk, limit_of_size):
        assert case.file in message, message
    assert left <= {"filler", "fetch.lock", "log 0.gz.part", "x.journal.lock", "x.journal.jsonl"}, left
    assert not any(path.stat().st_size for path in (folder / case.folder).rglob("x.journal.jsonl"))
    again = call(folder, case.command, env={"SCRIPTED_TEACHER_URL": url})
    assert again.returncode == 0, again.stderr
