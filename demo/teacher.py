"""Serve the scripted teacher: the demo's replacement for a paid one, an OpenAI-compatible server on loopback.

It knows the labels of the run's splits, reads the correct answer from a correction prompt, and answers with the texts
of demo/teacher.yaml. It is wrong at declared rates, so that the pipeline has something to reject. It answers evaluation
prompts too: in `make smoke` it replaces the models that the paper asks through an API.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from demo import logs
from demo.batches import Batches
from logreasoner import cli, prompts
from logreasoner.answer_format import Trajectory, parse_steps, render_steps
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run, load_yaml
from logreasoner.files import ROOT, digest
from logreasoner.instances import read_instances
from logreasoner.schemas import Task

SCRIPT = ROOT / "demo" / "teacher.yaml"
KINDS = ("rationale", "thought", "correction", "solution")
SPLITS = ("examples", "stage1", "stage2", "test", "test_seen")
SECTIONS = ("Problem", "Student's steps", "Student's answer", "Correct answer")


@functools.cache
def script() -> dict[str, Any]:
    """Load demo/teacher.yaml."""
    return dict(load_yaml(SCRIPT))


def scripted(part: str, task: str) -> Any:
    """Return what the script has for a task in "steps" or "thoughts"; for a custom task what fits any."""
    return script()[part].get(task) or script()[part]["own"]


def dealt(prompt: str, purpose: str) -> float:
    """Hash a prompt and a purpose to a number in [0, 1)."""
    return int(digest([prompt, purpose])[:12], 16) / 16**12


def pick(options: list[str], prompt: str, purpose: str) -> str:
    """Choose one of the options, by the prompt."""
    return options[int(dealt(prompt, purpose) * len(options))]


def some(options: list[str], count: int, prompt: str) -> list[str]:
    """Choose so many of the options by the prompt, in their order."""
    chosen = sorted(options, key=lambda option: dealt(prompt, option))[:count]
    return [option for option in options if option in chosen]


def mistake(kind: str, prompt: str) -> str:
    """Decide what is wrong with this reply: a key of the kind's rates, or "" for nothing."""
    number = dealt(prompt, "fate")
    for name, rate in script()["rates"][kind].items():
        if number < rate:
            return str(name)
        number -= rate
    return ""


def wordings(task: str, problem: str, label: str) -> list[list[str]]:
    """Return the steps to a label, each in all its wordings, about a problem as prompts show it."""
    return filled(task, label, step_words(problem))


def step_words(problem: str) -> dict[str, str]:
    """Return the words that steps mention, from a problem as prompts show it."""
    log = problem.partition("Log:\n")[2]
    log, _, description = log.partition("\nDescription:\n")
    subject, event = logs.key_words(log)
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", log)))
    longest = sorted(words, key=len, reverse=True)[:8]
    return {"subject": subject, "event": event, "sense": logs.sense(log), "other": logs.sense(description),
            "said": " ".join(word for word in words if word in longest)}


def filled(task: str, label: str, words: dict[str, str]) -> list[list[str]]:
    """Return the steps to a label, each in all its wordings, with these words."""
    return [[text.format(label=label, **words) for text in step.get("any") or step[label]]
            for step in scripted("steps", task)]


def rationale(prompt: str, problem: str, task: Task, label: str, kind: str = "rationale") -> str:
    """Write steps and an answer; sometimes with a wrong label, sometimes not in the answer format."""
    wrong = mistake(kind, prompt)
    if wrong == "wrong":
        label = pick([other for other in task.labels if other != label], prompt, "label")
    steps = [pick(options, prompt, f"step {number}") for number, options in
             enumerate(wordings(task.name, problem, label))]
    if wrong == "unparseable":
        return f"{render_steps(steps)}\nThe answer is {label}."
    return Trajectory(tuple(steps), label).render()


def thought(prompt: str, task: str) -> str:
    """Write a thought template as JSON; sometimes with a detail of an instance, sometimes cut short."""
    texts = scripted("thoughts", task)
    wrong = mistake("thought", prompt)
    steps = some(texts["steps"], 4 + int(dealt(prompt, "count") * 2), prompt)
    if wrong == "detail":
        steps[1] = pick(script()["thoughts"]["details"], prompt, "detail")
    reply = json.dumps({"problem_overview": pick(texts["overview"], prompt, "overview"),
                        "key_challenges": some(texts["challenges"], 2, prompt), "reasoning_steps": steps})
    return reply[: len(reply) // 2] if wrong == "unparseable" else reply


def correction(prompt: str, problem: str, task: Task, steps: list[str], answer: str, label: str) -> str:
    """Name the student's first step that differs from the teacher's; write a reflection and the teacher's rest."""
    wrong = mistake("correction", prompt)
    if wrong == "wrong":
        label = pick([other for other in task.labels if other != label], prompt, "label")
    own = wordings(task.name, problem, label)
    right = 0
    while right < min(len(steps), len(own)) and steps[right] in own[right]:
        right += 1
    texts = script()["correction"]
    new = [pick(texts["reflect"], prompt, "reflect").format(wrong=answer), *(step[0] for step in own[right:])]
    reply = {"first_error": len(steps) + 2 if wrong == "miscounts" else right + 1,
             "reason": pick(texts["reasons"], prompt, "reason"), "steps": new,
             **({"answer": label} if wrong == "wrong" else {})}
    text = json.dumps(reply)
    return text[: len(text) // 2] if wrong == "unparseable" else text


class Teacher:
    """Answers prompts of one run, which need not be declared before the first prompt arrives."""

    def __init__(self, name: str):
        self.name = name
        self.known: dict[str, tuple[Task, str, bool]] = {}  # problem -> task, label, whether a few-shot example
        self.lock = threading.Lock()

    @functools.cached_property
    def run(self) -> Run:
        """Load the run once. Raises UserError if it is not declared, or declares another teacher."""
        run = load_run(self.name)
        declared = run.experiment.teacher
        if not declared.scripted:
            raise UserError(f"run {run.name!r} declares the teacher {declared.model!r}, not the scripted one")
        return run

    def reply(self, messages: list[prompts.Message]) -> str | None:
        """Answer a prompt, the last of its messages; None for one that is not this run's."""
        prompt, _ = messages[-1]["content"], self.run  # whose prompts are recognised
        first = messages[0]["content"]
        kind = next((name for name in KINDS if first.startswith(opening(prompts.source(name)))), None)
        if kind in ("rationale", "solution"):
            problem = prompt.partition("### Task\n")[2]
            match = self._look_up(problem)
            return rationale(prompt, problem, match[0], match[1], "example" if match[2] else kind) if match else None
        if kind == "thought":
            task = self._task(prompt)
            return thought(prompt, task.name if task else "handbook")
        return self._correction(prompt) if kind == "correction" else None

    def _correction(self, prompt: str) -> str | None:
        first = prompt.partition("\n### Your earlier reply\n")[0]
        parts = re.split("|".join(f"^### {name}\n" for name in SECTIONS), first, flags=re.MULTILINE)
        task = self._task(prompt)
        if len(parts) != len(SECTIONS) + 1 or task is None:
            return None
        problem, listed, answer, label = (part.strip() for part in parts[1:])
        return correction(prompt, problem, task, list(parse_steps(listed) or ()), answer, label)

    def _task(self, prompt: str) -> Task | None:
        return next((task for task in self.run.tasks().values() if task.question.strip() in prompt), None)

    def _look_up(self, problem: str) -> tuple[Task, str, bool] | None:
        with self.lock:
            if problem not in self.known:
                tasks = self.run.tasks()
                for split in (path for name in SPLITS if (path := self.run.splits / f"{name}.jsonl").exists()):
                    for item in read_instances(split):
                        self.known.setdefault(prompts.problem(item, tasks[item.task]), (
                            tasks[item.task], item.label, split.stem == "examples"))
            return self.known.get(problem)

    def respond(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of a chat completion."""
        try:
            text = self.reply(body["messages"])
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            return 400, {"error": {"message": f"not a chat completion request: {error!r}"}}
        except UserError as error:
            return 400, {"error": {"message": str(error)}}
        if text is None:
            return 404, {"error": {"message": f"the scripted teacher answers only the prompts of its own run "
                                              f"({self.name})"}}
        return 200, completion(body, text)


@functools.cache
def opening(path: Path) -> str:
    """Return how a prompt file begins after its comment, by which its prompts are recognised."""
    first = path.read_text(encoding="utf-8").partition("#}\n")[2].partition("\n")[0]
    return first.partition("{{")[0]


def completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    """Make a chat completion as the OpenAI API returns it; tokens are counted as words."""
    prompt_tokens = sum(len(message["content"].split()) for message in body["messages"])
    completion_tokens = len(text.split())
    return {"id": f"scripted-{digest(body)[:24]}", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                      "total_tokens": prompt_tokens + completion_tokens}}


def handler(respond: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]) -> type[BaseHTTPRequestHandler]:
    """Make the request handler of a server that answers each chat completion, live or in a batch, by `respond`."""
    stored = Batches(respond)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the second write of a reply waits 40 ms for the client
        batches = stored

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                if self.path == "/v1/chat/completions":
                    return self._send(respond(json.loads(data)))
                return self._send(stored.post(self.path, self.headers.get("Content-Type", ""), data))
            except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
                return self._send((400, {"error": {"message": f"not a request of this API: {error!r}"}}))

        def do_GET(self) -> None:
            self._send(stored.get(self.path))

        def _send(self, reply: tuple[int, dict[str, Any] | bytes] | None) -> None:
            status, value = reply or (404, {"error": {"message": f"nothing at {self.path}"}})
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing: the answers are in the response files."""

    return Handler


class Server(ThreadingHTTPServer):
    """Threads that end with the program, and room for as many waiting connections as the client opens."""

    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving(name: str) -> Iterator[str]:
    """Serve a run's scripted teacher on a free loopback port; yields the base URL."""
    server = Server(("127.0.0.1", 0), handler(Teacher(name).respond))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Run a command with the scripted teacher beside it."""
    arguments = cli.parser("demo.teacher", "Run a command with the scripted teacher beside it.", """
python -m demo.teacher --run demo -- make rationales RUN=demo""", required=["run"])
    arguments.add_argument("command", nargs="+", metavar="COMMAND", help="after --: what to run, and its arguments")
    cli.run(arguments, run_command)


def run_command(given: argparse.Namespace) -> None:
    """Run the command with SCRIPTED_TEACHER_URL set, then stop and exit with its status; SIGTERM ends both."""
    cli.stop_on_sigterm()
    with serving(given.run) as url:
        command = subprocess.Popen(given.command, env={**os.environ, "SCRIPTED_TEACHER_URL": url})
        try:
            status = command.wait()
        except KeyboardInterrupt:
            command.terminate()  # not killed: make passes the signal on and removes incomplete files
            command.wait()
            raise
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
