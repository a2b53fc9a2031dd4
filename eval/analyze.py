"""Judge a log: a verdict with its steps for each session (or line), by a served model.

Prompts and decoding are the evaluation's (section 4.2.3). vLLM enforces the answer format, so that every answer is
one of the labels; another server's answer that cannot be parsed is marked. Only --journal stores answers.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from data_builders.sessions import LAYOUTS, LONGEST, line_parser, lines
from logreasoner import cli, examples, weights
from logreasoner.answer_format import after_thinking, element, parse_label, parse_steps
from logreasoner.cli import UserError, escape_terminal, names, positive
from logreasoner.config import Run, decoding, hardware, load_run, task
from logreasoner.examples import Example
from logreasoner.generation import serve
from logreasoner.generation.openai_live import ask_live
from logreasoner.generation.response_cache import (
    Answerer,
    Journal,
    Record,
    body_digest,
    content,
    cut,
    endpoints,
    error_of,
    request,
)
from logreasoner.instances import Instance
from logreasoner.prompts import conversation
from logreasoner.schemas import Task

POSITIVE, UNPARSED = 3, 4  # exit statuses
STATUS = f"""

exit status: 0: no session has the positive class (or a label of --fail-on), {POSITIVE}: one has, {UNPARSED}: none has,
but some answer cannot be parsed, 1: an error, 2: wrong options, 130: Ctrl-C"""
Session = list[tuple[int, str]]  # line number from 1, message
COLOURS = {"positive": "31", "negative": "32", "unparsed": "33", "quiet": "2"}


@dataclass(frozen=True)
class Verdict:
    """The answer about the lines first..last. `label` is None where it cannot be parsed; `note` says why."""

    first: int
    last: int
    label: str | None
    steps: tuple[str, ...]
    note: str
    log: tuple[str, ...]


@dataclass(frozen=True)
class Client:
    """What a server is asked, and how."""

    url: str
    model: str
    vllm: bool
    thinking: bool
    rules: Task
    examples: tuple[Example, ...]
    shots: int
    turns: bool
    description: str
    journal: Journal

    def request(self, log: Sequence[str]) -> Record:
        """Make the request of a session; vLLM is also given the answer format."""
        item = Instance("session", self.rules.name, "analyze", tuple(log), "", description=self.description)
        options = dict(decoding()["thinking"]) if self.thinking else {}
        if self.vllm:
            options["structured_outputs"] = {"regex": serve.answer_pattern(self.rules.labels, self.thinking)}
        prompt = conversation(item, self.rules, examples.shown(self.examples, item.text, self.shots), self.turns)
        return request("session", self.model, "evaluation", prompt, self.vllm, **options)

    def ask(self, requests: list[Record], title: str) -> list[tuple[str | None, str]]:
        """Return (text or None, why it has no label if that is known) for each; identical requests are sent once."""
        new = {body_digest(request): request for request in requests if self.journal.answer(request) is None}
        if new:
            key = os.environ.get("OPENAI_API_KEY") or "none"
            ask_live(list(new.values()), self.journal, self.url, key, title=title)
        responses = [self.journal.answer(request) or self.journal.last(request) for request in requests]
        return [(text, error_of(response) if text is None else self._cut(response, text))
                for response, text in zip(responses, map(content, responses), strict=True)]

    def _cut(self, response: Record, text: str) -> str:
        without_label = cut(response) and parse_label(text, self.rules.labels) is None
        return "cut off at max_tokens" if without_label else ""

    def verdicts(self, sessions: list[Session]) -> list[Verdict]:
        """Judge some sessions, in their order. Where an answer was cut off, vLLM is asked for its end, a label."""
        title = f"lines {sessions[0][0][0]:,}-{sessions[-1][-1][0]:,}"
        requests = [self.request([text for _, text in session]) for session in sessions]
        answers = self.ask(requests, title)
        unfinished = {at: text for at, (text, _) in enumerate(answers) if text is not None and self.vllm
                      and parse_label(text, self.rules.labels) is None and ("</think>" in text or not self.thinking)}
        closing = [serve.closing_request(requests[at], text, self.rules.labels)
                   for at, text in unfinished.items()]
        ends = self.ask(closing, title)
        for (at, text), (end, _) in zip(unfinished.items(), ends, strict=True):
            answers[at] = (serve.close_answer(text) + (end or ""),
                           "cut off at max_tokens, then asked for the label alone")
        return [self.verdict(session, *answer) for session, answer in zip(sessions, answers, strict=True)]

    def verdict(self, session: Session, text: str | None, note: str) -> Verdict:
        """Read an answer strictly, as the evaluation does."""
        label = parse_label(text or "", self.rules.labels)
        body = element(after_thinking(text or ""), "solutions")
        steps = parse_steps(body) if body else None
        return Verdict(session[0][0], session[-1][0], label, steps or (),
                       note or ("" if label else "not in the answer format"), tuple(line for _, line in session))


def windows(rows: Iterable[bytes], layout: str, header: bool | None, window: int,
            counts: Counter[str]) -> Iterator[Session]:
    """Yield sessions of `window` consecutive messages with line numbers from 1; the last one may be shorter."""
    session: Session = []
    parse = line_parser(layout, header)
    for counts["lines"], line in enumerate(rows, 1):
        parsed = parse(line)
        if parsed is None:
            counts["skipped"] += 1
            continue
        session.append((counts["lines"], parsed[2].decode("utf-8", "replace")))
        if len(session) == window:
            yield session
            session = []
    if session:
        yield session


def rows(log: str) -> Iterator[bytes]:
    """Read the lines of a log: a file (also .gz and .zip), a pipe, or "-" for standard input."""
    if log != "-" and Path(log).is_file():
        yield from lines(Path(log))
        return
    with nullcontext(sys.stdin.buffer) if log == "-" else open(log, "rb") as stream:
        while line := stream.readline(LONGEST):
            yield line.rstrip(b"\r\n")


def as_text(verdict: Verdict, positives: Sequence[str], colours: bool) -> str:
    """Write a verdict: the lines, the label, the steps; a single line of the log is shown beside its label."""
    def paint(text: str, colour: str) -> str:
        return f"\x1b[{COLOURS[colour]}m{escape_terminal(text)}\x1b[0m" if colours else escape_terminal(text)

    single = verdict.first == verdict.last
    where = f"line {verdict.first:,}" if single else f"lines {verdict.first:,}-{verdict.last:,}"
    kind = "unparsed" if verdict.label is None else "positive" if verdict.label in positives else "negative"
    log = f"  {escape_terminal(verdict.log[0])}" if single else ""
    head = f"{where}: {paint(verdict.label or 'unparsed', kind)}{log}"
    steps = [paint(f"  {number}. {' '.join(step.split())}", "quiet") for number, step in enumerate(verdict.steps, 1)]
    return "\n".join([head, *steps, *([paint(f"  ({verdict.note})", "unparsed")] if verdict.note else [])])


def _examples(run: Run | None, name: str, most: int | None) -> tuple[tuple[Example, ...], int]:
    """Return the examples of the run's evaluation, and how many a prompt shows; none without a run that has them.

    Raises UserError where they have no worked solutions yet.
    """
    if most == 0 or run is None or name not in run.experiment.tasks or not (run.splits / "examples.jsonl").exists():
        return (), 0
    return examples.read(run, {name})[name], min(run.experiment.shots, run.experiment.shots if most is None else most)


def _endpoint(given: argparse.Namespace, run: Run | None) -> AbstractContextManager[tuple[str, str, bool]]:
    if given.base_url:
        return nullcontext(serve.find_endpoint(given.base_url, given.name))
    if run and given.model and given.stage:
        return serve.start(run, given.model, given.stage, hardware().get(given.hardware))
    raise UserError("give --base-url, or --run, --model and --stage")


def _answerer(given: argparse.Namespace, run: Run | None, url: str) -> Answerer:
    if run and given.model and given.stage and not given.base_url:
        return Answerer(weights.identity(run, given.model, given.stage))
    return endpoints(url)


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run) if given.run else None
    rules = run.task(given.task) if run else task(given.task)
    positives = given.fail_on or [rules.positive] * (rules.positive is not None)
    if unknown := set(positives) - set(rules.labels):
        raise UserError(f"--fail-on {min(unknown)}: {rules.name} has the labels {', '.join(rules.labels)}")
    if given.description is None and rules.described:
        raise UserError(f"{rules.name} judges logs by a description: give it with --description")
    if given.log != "-" and not Path(given.log).exists():
        raise UserError(f"{given.log}: no such file")
    counts: Counter[str] = Counter()
    labels: Counter[str | None] = Counter()
    sessions = windows(rows(given.log), given.format, given.header, given.window or rules.window, counts)
    solved, shots = _examples(run, given.task, given.examples)
    thinking = bool(run and given.model and run.model(given.model).thinking)
    turns = run is None or run.experiment.examples == "turns"
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    with _endpoint(given, run) as (url, name, vllm):
        answerer = _answerer(given, run, url)
        client = Client(url, name, vllm, thinking, rules, solved, shots, turns, given.description or "",
                      Journal(given.journal, answerer) if given.journal else serve.MemoryJournal(answerer))
        for batch in iter(lambda: list(islice(sessions, given.batch)), []):
            for verdict in client.verdicts(batch):
                labels[verdict.label] += 1
                print(json.dumps(asdict(verdict)) if given.json else as_text(verdict, positives, colours))
            sys.stdout.flush()
    if counts["skipped"] == counts["lines"] > 0:
        raise UserError(f"{given.log}: none of {counts['lines']:,} lines has the layout {given.format}; "
                        "choose another --format")
    totals = ", ".join(f"{labels[label]:,} {label or 'unparsed'}" for label in (*rules.labels, None))
    enforced = "" if vllm else "; no vLLM, so the answer format was not enforced"
    print(f"{given.log}: {counts['lines']:,} lines ({counts['skipped']:,} skipped): {totals}; {escape_terminal(name)}, "
          f"{shots} examples{enforced}", file=sys.stderr)
    sys.exit(POSITIVE if any(labels[label] for label in positives) else UNPARSED if labels[None] else 0)


def main() -> None:
    """Judge a log."""
    arguments = cli.parser("eval.analyze", "Judge a log: a verdict with its steps for each session." + STATUS, """
python -m eval.analyze --log app.log --task anomaly_detection --run paper --model qwen2.5-7b --stage dpo
journalctl -b | python -m eval.analyze --log - --task anomaly_detection --base-url http://127.0.0.1:8000/v1
python -m eval.analyze --log alarms.txt --task root_cause_analysis --base-url http://127.0.0.1:8000/v1 --json \\
    --fail-on equipmentAlarm,environmentalAlarm | jq -c '[.first, .label]'""", optional=["stage"])
    arguments.add_argument("--log", required=True, help="a file (also .gz, .zip); - for standard input")
    arguments.add_argument("--task", required=True, help="a file of experiments/tasks")
    arguments.add_argument("--run", help="its examples are in the prompts, and its model is served")
    arguments.add_argument("--model", help="a name of models.yaml; without --base-url vLLM is started for it")
    arguments.add_argument("--hardware", help="a name of hardware.yaml, for that vLLM")
    arguments.add_argument("--base-url", help="an OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY")
    arguments.add_argument("--name", help="what the endpoint calls the model, where it serves several")
    arguments.add_argument("--format", choices=LAYOUTS, default="lines", help="how a line is laid out (default: lines)")
    arguments.add_argument("--header", action=argparse.BooleanOptionalAction,
                           help="show time, host and component before each message (default: on for Spirit's layout)")
    arguments.add_argument("--window", type=positive, help="lines of a session (default: the task's window)")
    arguments.add_argument("--description", help="for a task that judges logs by one")
    arguments.add_argument("--examples", type=int, choices=range(10), metavar="N", help="at most so many of the run's")
    arguments.add_argument("--fail-on", type=names, metavar="LABELS", help="exit with 3 for these (default: positive)")
    arguments.add_argument("--json", action="store_true", help="one JSON object a session")
    arguments.add_argument("--batch", type=positive, default=256, help="sessions judged at once; 1 follows a live log")
    arguments.add_argument("--journal", type=Path, help="store every answer in this file and never ask for it again")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
