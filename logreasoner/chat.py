"""Requests and responses in the OpenAI Batch format, and the engines that turn one into the other.

X.requests.jsonl -> engine -> X.responses.jsonl. Beside them X.journal.jsonl holds every answer ever received, one
line each, appended and never deleted: an engine asks only for requests whose very body has no good answer there.

Engines: `openai` (live, any OpenAI-compatible endpoint), `vllm` (run-batch, offline), `vllm-server` (a server
started on loopback for these requests and stopped afterwards).
"""

import argparse
import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, decoding, load_run, model
from logreasoner.files import TEMPLATES, digest, dump, read_jsonl, write_jsonl

Record = dict[str, Any]
CHUNK = 20_000  # requests an offline run-batch process gets at once: what a kill can lose


def request(custom_id: str, model_name: str, purpose: str, prompt: str, vllm: bool, **body: Any) -> Record:
    """One line of a request file; sampling settings come from experiments/decoding.yaml under `purpose`."""
    settings = {key: value for key, value in decoding()[purpose].items()
                if vllm or key not in decoding()["vllm_only"]}
    messages = [{"role": "user", "content": prompt}]
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": model_name, "messages": messages, **settings, **body}}


def _inner(response: Record) -> Record:
    inner = response.get("response")
    return inner if isinstance(inner, dict) else {}


def content(response: Record) -> str | None:
    """The text of a good answer, else None (error status, no choice).

    A model that answered without a text (a refusal, every token spent on thinking) did answer: that is "".
    """
    inner = _inner(response)
    if response.get("error") or inner.get("status_code") != 200:
        return None
    try:
        text = inner["body"]["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return "" if text is None else text if isinstance(text, str) else None


def trouble(response: Record) -> str:
    """What a response without a text says went wrong, on one line."""
    inner = _inner(response)
    body = inner.get("body")
    said = response.get("error") or (body.get("error") if isinstance(body, dict) else None) or "no text in the answer"
    return f"status {inner.get('status_code', 'none')}: {' '.join(str(said).split())[:200]}"


def final(response: Record) -> bool:
    """Whether asking again is pointless: an answer, or a refusal of this very request (bad request, too long)."""
    return content(response) is not None or _inner(response).get("status_code") in (400, 413, 422)


class Journal:
    """Every answer received for one request file, by custom_id and hash of the request's body."""

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[tuple[str, str], Record] = {}
        if path.exists():
            self._load()

    def _load(self) -> None:
        with open(self.path, "rb") as stream:
            for line in stream:
                try:
                    record = json.loads(line)
                    self.answers[record["custom_id"], record["request_sha256"]] = record
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a kill cut short: its request is asked again

    def add(self, *pairs: tuple[Record, Record]) -> None:
        """Append (request, response) pairs; they are on disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as stream:
            if stream.tell() and not self._ends_whole():
                stream.write(b"\n")
            for asked, response in pairs:
                key = asked["custom_id"], digest(asked["body"])
                self.answers[key] = {**response, "custom_id": key[0], "request_sha256": key[1]}
                stream.write(dump(self.answers[key]).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _ends_whole(self) -> bool:
        with open(self.path, "rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"

    def answer(self, asked: Record) -> Record | None:
        """The answer to this very request, if a final one is there."""
        found = self.answers.get((asked["custom_id"], digest(asked["body"])))
        return found if found and final(found) else None


def read_requests(path: Path) -> list[Record]:
    """A request file. Raises UserError on a line without custom_id or body, and on an id that comes twice."""
    requests, seen = [], set()
    for number, record in read_jsonl(path):
        if not isinstance(record.get("custom_id"), str) or not isinstance(record.get("body"), dict):
            raise UserError(f"{path}:{number}: a request needs custom_id and body")
        if record["custom_id"] in seen:
            raise UserError(f"{path}:{number}: custom_id {record['custom_id']!r} comes twice")
        seen.add(record["custom_id"])
        requests.append(record)
    return requests


async def ask_live(requests: list[Record], journal: Journal, base_url: str | None, key: str) -> None:
    """Ask an endpoint, `live.concurrency` requests at once; the client retries with its own back-off."""
    import openai
    from tqdm import tqdm

    live = decoding()["live"]
    client = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=live["max_retries"],
                                timeout=live["timeout"])
    waiting = iter(requests)

    async def worker(bar: Any) -> None:
        for asked in waiting:
            journal.add((asked, await _ask_one(client, asked)))
            bar.update()

    with tqdm(total=len(requests), unit="answer", disable=None) as bar:
        await asyncio.gather(*(worker(bar) for _ in range(min(live["concurrency"], len(requests)))))
    await client.close()


async def _ask_one(client: Any, asked: Record) -> Record:
    import openai

    body = dict(asked["body"])
    extra = {name: body.pop(name) for name in decoding()["vllm_only"] if name in body}
    try:
        answer = await client.chat.completions.create(**body, extra_body=extra or None)
        received = answer.model_dump(mode="json")
    except openai.APIStatusError as error:
        if error.status_code in (401, 403, 404):  # the same for every request: the key or the model is wrong
            raise UserError(f"{client.base_url} refused: {error.message}") from None
        return {"response": {"status_code": error.status_code, "body": {"error": error.message}}, "error": None}
    except openai.APIConnectionError as error:
        raise UserError(f"{client.base_url} cannot be reached ({error}); answers so far are kept, run again") from None
    except (openai.APIError, ValueError, AttributeError) as error:  # half an answer, or not one at all
        return {"response": {"status_code": 502, "body": {"error": f"not an answer: {error}"}}, "error": None}
    return {"id": received.get("id"), "response": {"status_code": 200, "body": received}, "error": None}


def vllm_command(program: str, weights: str, name: str, template: str, *more: str) -> list[str]:
    """How vLLM is started, run-batch and server alike: same name, chat template and neutral sampling defaults."""
    serving = decoding()["serving"]
    command = [".venv-serve/bin/python", "-m", f"vllm.entrypoints.openai.{program}",
               "--model", weights, "--served-model-name", name, "--chat-template", str(chat_template(template)),
               "--max-model-len", str(serving["max_model_len"]), "--generation-config", "vllm", "--seed", "0"]
    if not has_gpu():
        return [*command, "--dtype", "float32", "--enforce-eager", *more]
    return [*command, "--gpu-memory-utilization", str(serving["gpu_memory_utilization"]), *more]


def vllm_environment() -> dict[str, str]:
    """The environment vLLM starts in: no usage statistics, and on a machine without a GPU its CPU build."""
    extra = {} if has_gpu() else {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "2"}
    return {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **extra}


def chat_template(name: str) -> Path:
    """The Jinja chat template that gives the token ids LLaMA-Factory trains with. Raises UserError if there is none."""
    path = TEMPLATES / "chat" / f"{name}.jinja"
    if not path.exists():
        raise UserError(f"{path}: no chat template for the template {name!r}; write one (README.md, Another model)")
    return path


def ask_offline(requests: list[Record], journal: Journal, command: list[str]) -> None:
    """Answer requests by vLLM's run-batch, in chunks; `command` is vllm_command's, without input and output."""
    by_id = {asked["custom_id"]: asked for asked in requests}
    for chunk in chunks(requests, CHUNK):
        with tempfile.TemporaryDirectory() as folder:
            inputs, outputs, log = (Path(folder) / name for name in ("in.jsonl", "out.jsonl", "log"))
            write_jsonl(inputs, chunk)
            _run_logged([*command, "-i", str(inputs), "-o", str(outputs)], log)
            journal.add(*((by_id[response["custom_id"]], response) for _, response in read_jsonl(outputs)))


def _run_logged(command: list[str], log: Path) -> None:
    quiet = not os.isatty(2)
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, env=vllm_environment(), stdout=stream,
                                   stderr=stream if quiet else None)
        if process.wait() != 0:
            stream.flush()
            tail = log.read_text(errors="replace").splitlines()[-15:]
            raise UserError("\n".join(["vLLM stopped with an error; its last lines:", *tail]))


@contextmanager
def server(command: list[str], log: Path, seconds: float = 900) -> Iterator[str]:
    """Start vLLM's server on a free loopback port, yield its base URL once it answers, stop it afterwards."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as stream:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], env=vllm_environment(),
                                   stdout=stream, stderr=stream, start_new_session=True)
    try:
        deadline = time.monotonic() + seconds
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"vLLM's server did not come up; see {log}")
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def has_gpu() -> bool:
    """Whether an NVIDIA device answers here."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def chunks(items: list[Record], size: int) -> Iterator[list[Record]]:
    """Consecutive lists of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two commands do not ask the same questions at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path} is held: another command is asking the same requests; wait for it") from None
        yield


def answer(requests_path: Path, responses_path: Path, engine: Callable[[list[Record], Journal], None]) -> None:
    """Answer what has no final answer yet, then write the response file, in the order of the requests.

    Raises UserError if some requests have no final answer; what was answered stays in the journal.
    """
    requests = read_requests(requests_path)
    stem = responses_path.name.removesuffix(".responses.jsonl")
    path = responses_path.with_name(f"{stem}.journal.jsonl")
    with locked(path.with_suffix(".lock")):
        journal = Journal(path)
        open_requests = [asked for asked in requests if journal.answer(asked) is None]
        print(f"{stem}: {len(requests) - len(open_requests)} answered before, {len(open_requests)} to ask", flush=True)
        if open_requests:
            engine(open_requests, journal)
        _write_responses(requests, journal, responses_path)


def _write_responses(requests: list[Record], journal: Journal, path: Path) -> None:
    missing = [asked for asked in requests if journal.answer(asked) is None]
    if missing:
        last = journal.answers.get((missing[0]["custom_id"], digest(missing[0]["body"])), {})
        raise UserError(f"{path}: {len(missing)} of {len(requests)} requests have no answer, the first "
                        f"{missing[0]['custom_id']} ({trouble(last)}); the others are kept, run again to ask these")
    refused = 0
    records = []
    for asked in requests:
        record = dict(journal.answer(asked) or {})
        record.pop("request_sha256", None)
        refused += content(record) is None
        records.append(record)
    write_jsonl(path, records)
    print(f"{path}: {len(records)} answers" + (f", {refused} refused" if refused else ""), flush=True)


def teacher_engine(run: Run) -> Callable[[list[Record], Journal], None]:
    """The engine of the run's teacher. Raises UserError without its key, before anything is asked."""
    teacher = run.experiment.teacher
    key = os.environ.get(teacher.key) or ("none" if teacher.base_url else "")
    if not key:
        raise UserError(f"{teacher.key} is not set; the teacher {teacher.model} needs it "
                        "(or TEACHER_BASE_URL= for an endpoint of your own)")
    return lambda requests, journal: asyncio.run(ask_live(requests, journal, teacher.url(), key))


def policy_engine(run: Run, name: str, stage: str, engine: str, base_url: str | None
                  ) -> Callable[[list[Record], Journal], None]:
    """The engine of a model of the run at a stage: an endpoint, vLLM offline, or a vLLM server of our own."""
    if engine == "openai":
        key = os.environ.get("OPENAI_API_KEY", "none" if base_url else "")
        if not key:
            raise UserError("--engine openai needs BASE_URL= or OPENAI_API_KEY")
        return lambda requests, journal: asyncio.run(ask_live(requests, journal, base_url, key))
    program = "run_batch" if engine == "vllm" else "api_server"
    command = vllm_command(program, run.weights(name, stage), served_name(name, stage), model(name).template)
    if engine == "vllm":
        return lambda requests, journal: ask_offline(requests, journal, command)

    def through_server(requests: list[Record], journal: Journal) -> None:
        with server(command, run.dir / "logs" / f"serve-{name}-{stage}.log") as url:
            asyncio.run(ask_live(requests, journal, url, "none"))

    return through_server


def served_name(name: str, stage: str) -> str:
    """What requests call a model of ours."""
    return f"{name}/{stage}"


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    if given.role == "teacher" or (given.role == "corrector" and run.experiment.corrections_by == "teacher"):
        engine = teacher_engine(run)
    elif given.model and given.stage:
        engine = policy_engine(run, given.model, given.stage, given.engine, given.base_url)
    else:
        raise UserError(f"--role {given.role} needs --model and --stage")
    answer(given.requests, given.responses, engine)


def main() -> None:
    """Answer a request file."""
    arguments = cli.parser("logreasoner.chat", "Answer a request file; only what has no answer yet is asked.", """
python -m logreasoner.chat --run paper --role teacher --requests X.requests.jsonl --responses X.responses.jsonl
python -m logreasoner.chat --run paper --role policy --model qwen2.5-7b --stage dpo --engine vllm \\
    --requests X.requests.jsonl --responses X.responses.jsonl""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--role", required=True, choices=["teacher", "policy", "corrector"],
                           help="corrector: the teacher, or the policy where the run says corrections_by: self")
    arguments.add_argument("--model", help="a name of models.yaml")
    arguments.add_argument("--stage", help="base, thought-sft, solution-sft or dpo")
    arguments.add_argument("--engine", default="vllm", choices=["openai", "vllm", "vllm-server"])
    arguments.add_argument("--base-url", help="an OpenAI-compatible endpoint, for --engine openai")
    arguments.add_argument("--requests", required=True, type=Path)
    arguments.add_argument("--responses", required=True, type=Path)
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
