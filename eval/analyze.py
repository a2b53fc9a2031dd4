"""Judge a log: a verdict with its steps for each session (or line), by a served model.

The log is read as the task's YAML says, so that a model is asked about texts like those that it was trained on;
--dry-run shows these and asks nothing. Prompts and decoding are the evaluation's (section 4.2.3). vLLM enforces the
answer format, so that every answer is one of the labels; another server's answer that cannot be parsed is marked. Only
--journal stores answers.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from data_builders import table_kinds, table_reader
from logreasoner import cli, examples, log_files, reading, weights
from logreasoner.answer_format import after_thinking, element, parse_label, parse_steps
from logreasoner.cli import UserError, escape_terminal, positive
from logreasoner.config import Run, hardware, load_run, task, thinking_room
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
from logreasoner.instances import Instance, mask_level
from logreasoner.prompts import conversation, escape_control_tokens, untrusted
from logreasoner.reading import Log, Reading, hide, pattern
from logreasoner.schemas import Task

POSITIVE, UNPARSED = 3, 4  # exit statuses
WAIT = 10.0  # seconds until a part-filled window of a log that is followed is judged
STATUS = f"""

exit status: 0: no session has the positive class (or a label of --fail-on), {POSITIVE}: one has, {UNPARSED}: none has,
but some answer cannot be parsed, 1: an error, 2: wrong options, 130: Ctrl-C"""
COLOURS = {"positive": "31", "negative": "32", "unparsed": "33", "quiet": "2"}


@dataclass(frozen=True)
class Session:
    """Consecutive rows or events first..last (line numbers from 1): the texts as they are, and what is asked.

    `files`: those of the first and of the last line, where a log has several.
    """

    first: int
    last: int
    log: tuple[str, ...]
    asked: str
    description: str
    id: str = ""
    files: tuple[Path, Path] | None = None

    def place(self) -> dict[str, Any]:
        """Return where it stands, for JSON."""
        record = {"first": self.first, "last": self.last, "session": self.id}
        if self.files:
            record |= dict(zip(("file", "last_file"), map(str, dict.fromkeys(self.files)), strict=False))
        return {name: value for name, value in record.items() if value != ""}

    def __str__(self) -> str:
        """Return where it stands, for a terminal."""
        first, last = self.files or ("", "")
        one = first == last
        where = (f"line {self.first:,}" if len(self.log) == 1 else f"lines {self.first:,}-{self.last:,}" if one else
                 f"line {self.first:,} to {last} line {self.last:,}")
        where = f"{first} {where}" if first else where
        return escape_terminal(f"{where} ({self.id})" if self.id else where)


@dataclass(frozen=True)
class Verdict:
    """The answer about a session. `label` is None where it cannot be parsed; `note` says why."""

    session: Session
    label: str | None
    steps: tuple[str, ...]
    note: str

    def as_json(self) -> str:
        """Return one JSON line."""
        return json.dumps({**self.session.place(), "label": self.label, "steps": self.steps, "note": self.note,
                           "log": self.session.log})


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
    journal: Journal

    def request(self, session: Session) -> Record:
        """Make the request of a session; vLLM is also given the answer format."""
        item = Instance("session", self.rules.name, "analyze", session.asked, "", description=session.description)
        options = thinking_room(self.thinking)
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
        title = f"{len(sessions):,} sessions from {sessions[0]}"
        requests = [self.request(session) for session in sessions]
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
        return Verdict(session, label, steps or (), note or ("" if label else "not in the answer format"))


@dataclass(frozen=True)
class Where:
    """What a row of a session has to hold, else the session is not asked about: in a column, or in any ("")."""

    column: str
    regex: re.Pattern[str]

    def holds(self, row: Mapping[str, str]) -> bool:
        """Tell whether a row matches."""
        values = [row[self.column]] if self.column else row.values()
        return any(self.regex.search(value) for value in values)


def where_of(text: str) -> Where:
    """Read COLUMN=REGEX, or a REGEX for any column."""
    column, found, regex = text.partition("=") if re.match(r"[\w.@-]+=", text) else ("", "", text)
    return Where(column, pattern("--where", regex))


def windows(log: Log, read: Reading, window: int, description: str | None, counts: Counter[str],
            where: Where | None = None, several: bool = False) -> Iterator[Session]:
    """Yield sessions of `window` consecutive rows or events; the last one may be shorter.

    `description` replaces the one that each row may have; `counts` has the sessions without a row for `where` as
    "unasked"; `several`: there are other logs, so each session names its file. Raises UserError for rows without the
    column that is asked.
    """
    needed = {read.text: "name the one with the text by --text"}
    if where and where.column:
        needed.setdefault(where.column, "name one of these in --where, or write \\= to look for the character =")
    rows = table_reader.rows_with(log, read, counts, needed)
    for name, part in table_reader.parts(rows, read, window, counts):
        log_lines = tuple(row[read.text] for _, row in part)
        if not "".join(log_lines).strip():
            counts["blank"] += len(part)
            continue
        if where and not any(where.holds(row) for _, row in part):
            counts["unasked"] += 1
            continue
        own = "\n".join(row.get(read.description, "") for _, row in part) if read.description else ""
        (first_file, first), (last_file, last) = log.place(part[0][0]), log.place(part[-1][0])
        yield Session(first, last, log_lines, hide("\n".join(log_lines), read),
                      hide(own, read) if description is None else description, name,
                      (first_file, last_file) if several or log.earlier else None)


def reading_of(log: Log, given: argparse.Namespace, rules: Task) -> Reading:
    """Return how a log is read: as the task says, and what is given instead.

    Of a task that was made from a table, JSON lines are records whatever the file is called, and other lines are texts.
    """
    declared = rules.reading or Reading(format="lines")
    if declared.format == "table" and not given.format and not table_kinds.is_table(log.path):
        if table_kinds.has_json_lines(log):
            declared = replace(declared, format="jsonl")
        else:
            declared = replace(declared, format="lines", text="text", header=None)
            log.note(f"{log}: its name is no table's, so each line is a text; give --format csv (tsv, jsonl, ...) if "
                     "it is a table like the one that the task was made from")
    read = reading.chosen(given, declared)
    return table_reader.resolved(log, replace(read, text=given.text) if given.text else read)


def as_text(verdict: Verdict, positives: Sequence[str], colours: bool, lines: bool = False) -> str:
    """Write a verdict: where, the label, with `lines` those of the log, the steps; a single one is beside its label."""
    def paint(text: str, colour: str) -> str:
        return f"\x1b[{COLOURS[colour]}m{escape_terminal(text)}\x1b[0m" if colours else escape_terminal(text)

    session = verdict.session
    single = len(session.log) == 1
    kind = "unparsed" if verdict.label is None else "positive" if verdict.label in positives else "negative"
    log = f"  {escape_terminal(session.log[0])}" if single else ""
    head = f"{session}: {paint(verdict.label or 'unparsed', kind)}{log}"
    shown = [f"  | {escape_terminal(line)}" for line in session.log] if lines and not single else []
    steps = [paint(f"  {number}. {' '.join(step.split())}", "quiet") for number, step in enumerate(verdict.steps, 1)]
    return "\n".join([head, *shown, *steps, *([paint(f"  ({verdict.note})", "unparsed")] if verdict.note else [])])


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


def _named(text: str | None, option: str, rules: Task, default: list[str]) -> list[str]:
    """Read the labels that an option names. Raises UserError for others."""
    names = cli.known_names(text, rules.labels) if text else default
    if names is None:
        raise UserError(f"{option} {text}: {rules.name} has the labels {', '.join(rules.labels)}")
    return names


def as_asked(session: Session, rules: Task, as_json: bool) -> str:
    """Write a session as a model is asked about it: where it is, its text and its description, or a JSON object."""
    text = mask_level(session.asked) if rules.mask_level else session.asked
    text, description = (escape_control_tokens(untrusted(part)) for part in (text, session.description))
    if as_json:
        return json.dumps({**session.place(), "text": text, **({"description": description} if description else {})})
    shown = [f"  | {line}" for line in escape_terminal(text, keep="\n\t").split("\n")]
    shown += [f"  description: {escape_terminal(line)}" for line in description.split("\n") if line]
    return "\n".join([f"{session}:", *shown])


class Inputs:
    """The logs, how each is read, and what was read of it; one that is followed is opened at its end.

    Raises UserError for what cannot be read in this way.
    """

    def __init__(self, given: argparse.Namespace, rules: Task) -> None:
        self.logs = log_files.logs(given.log, given, rules.reading or Reading())
        self.read = [reading_of(log, given, rules) for log in self.logs]
        self.counts = [Counter[str]() for _ in self.logs]
        self.printed: set[str] = set()
        if given.description is None and rules.described and any(read.format == "lines" for read in self.read):
            raise UserError(f"{rules.name} judges logs by a description: give it with --description")
        if given.follow:
            single = (given.window or rules.window) == 1
            self._follow(given, (1.0 if single else WAIT) if given.wait is None else given.wait)

    def _follow(self, given: argparse.Namespace, wait: float) -> None:
        if len(self.logs) > 1 or self.logs[0].earlier or self.logs[0].path != given.log[0]:
            raise UserError("--follow: follows one file, named as it is; start one program for each")
        if self.read[0].session or self.read[0].every:
            raise UserError("--follow: judges windows of lines; what --session or --every make one session is known at "
                            "the end of a log only")
        log = self.logs[0]
        self.logs = [replace(log, followed=log_files.Followed(log.path, wait).blocks)]
        log.note(f"{log}: what is appended from now on is judged, and lines are counted from here; Ctrl-C stops it")

    def sessions(self, given: argparse.Namespace, rules: Task) -> Iterator[list[Session]]:
        """Yield the sessions of all logs, at most --batch at once; of a log that is followed those that are there."""
        where, window = where_of(given.where) if given.where else None, given.window or rules.window
        while True:
            self.print_notes()
            sessions = chain.from_iterable(
                windows(log, read, window, given.description, counts, where, len(self.logs) > 1)
                for log, read, counts in zip(self.logs, self.read, self.counts, strict=True))
            while batch := list(islice(sessions, given.batch)):
                yield batch
            if not given.follow:
                return

    def print_notes(self) -> None:
        """Print the notes that are new."""
        for note in chain.from_iterable(log.notes for log in self.logs):
            if note not in self.printed:
                print(f"note: {note}", file=sys.stderr, flush=True)
                self.printed.add(note)

    def summary(self, where: bool) -> str:
        """Print the last notes; return how many lines there are, and how many of them were not used."""
        self.print_notes()
        counts = sum(self.counts, Counter[str]())
        for note in table_reader.notes(counts):
            print(f"note: {note}", file=sys.stderr)
        skipped = counts["unmatched"] + counts["blank"] + counts["bad"] + counts["without id"]
        unasked = f", {counts['unasked']:,} sessions not asked" if where else ""
        name = str(self.logs[0].path) if len(self.logs) == 1 else f"{len(self.logs)} logs"
        return f"{name}: {counts['lines']:,} lines ({skipped:,} skipped{unasked})"


def _client(given: argparse.Namespace, run: Run | None, rules: Task, endpoint: tuple[str, str, bool]) -> Client:
    url, name, vllm = endpoint
    solved, shots = _examples(run, given.task, given.examples)
    answerer = _answerer(given, run, url)
    journal = Journal(given.journal, answerer) if given.journal else serve.MemoryJournal(answerer)
    journal.credit = 1
    return Client(url, name, vllm, bool(run and given.model and run.model(given.model).thinking), rules, solved, shots,
                  run is None or run.experiment.examples == "turns", journal)


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run) if given.run else None
    rules = run.task(given.task) if run else task(given.task)
    positives = _named(given.fail_on, "--fail-on", rules, [] if rules.positive is None else [rules.positive])
    only = _named(given.only, "--only", rules, rules.labels)
    inputs = Inputs(given, rules)
    batches, labels = inputs.sessions(given, rules), Counter[str | None]()
    stopped = suppress(KeyboardInterrupt) if given.follow else nullcontext()  # Ctrl-C is the end of what is followed
    if given.follow:
        cli.stop_on_sigterm()
    if given.dry_run:
        with stopped:
            for batch in batches:
                labels[None] += len(batch)
                print("\n".join(as_asked(session, rules, given.json) for session in batch), flush=True)
        print(f"{inputs.summary(bool(given.where))}: {labels[None]:,} sessions, nothing was asked", file=sys.stderr)
        return
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    with _endpoint(given, run) as endpoint:
        client = _client(given, run, rules, endpoint)
        with stopped:
            for verdict in chain.from_iterable(map(client.verdicts, batches)):
                labels[verdict.label] += 1
                if verdict.label in (*only, None):
                    print(verdict.as_json() if given.json else as_text(verdict, positives, colours, bool(given.only)),
                          flush=True)
    totals = ", ".join(f"{labels[label]:,} {label or 'unparsed'}" for label in (*rules.labels, None))
    enforced = "" if client.vllm else "; no vLLM, so the answer format was not enforced"
    print(f"{inputs.summary(bool(given.where))}: {totals}; {escape_terminal(client.model)}, {client.shots} "
          f"examples{enforced}", file=sys.stderr)
    sys.exit(POSITIVE if any(labels[label] for label in positives) else UNPARSED if labels[None] else 0)


def seconds(text: str) -> float:
    """Read a number of seconds, for argparse."""
    if not re.fullmatch(r"\d{1,5}(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


def main() -> None:
    """Judge a log."""
    arguments = cli.parser("eval.analyze", "Judge a log: a verdict with its steps for each session." + STATUS, """
python -m eval.analyze --log app.log --task anomaly_detection --run paper --model qwen2.5-7b --stage dpo
journalctl -b | python -m eval.analyze --log - --task anomaly_detection --base-url http://127.0.0.1:8000/v1
python -m eval.analyze --log app.log --task my-task --dry-run
python -m eval.analyze --log app.log --follow --only bad --task mine --base-url http://127.0.0.1:8000/v1
python -m eval.analyze --log alarms.txt --task root_cause_analysis --base-url http://127.0.0.1:8000/v1 --json \\
    --fail-on equipmentAlarm,environmentalAlarm | jq -c '[.first, .label]'""", optional=["stage"])
    arguments.add_argument("--log", required=True, type=Path, nargs="+",
                           help=f"{log_files.HELP}; - for standard input")
    arguments.add_argument("--task", required=True, help="a file of experiments/tasks")
    arguments.add_argument("--run", help="its examples are in the prompts, and its model is served")
    arguments.add_argument("--model", help="a name of models.yaml; without --base-url vLLM is started for it")
    arguments.add_argument("--hardware", help="a name of hardware.yaml, for that vLLM")
    arguments.add_argument("--base-url", help="an OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY")
    arguments.add_argument("--name", help="what the endpoint calls the model, where it serves several")
    reading.add_options(arguments, f"{table_reader.FORMATS} (default: as the task's YAML says, else lines)")
    arguments.add_argument("--text", metavar="COLUMN", help="the one with the text (default: the task's)")
    arguments.add_argument("--window", type=positive, help="lines of a session (default: the task's window)")
    arguments.add_argument("--description", help="for a task that judges logs by one")
    arguments.add_argument("--examples", type=int, choices=range(10), metavar="N", help="at most so many of the run's")
    arguments.add_argument("--fail-on", metavar="LABELS", help="exit with 3 for these (default: positive)")
    arguments.add_argument("--only", metavar="LABELS", help="print these alone, with their lines; and unparsed answers")
    arguments.add_argument("--where", metavar="[COLUMN=]REGEX",
                           help="ask about sessions alone that have a matching row, such as level=ERROR|FATAL")
    arguments.add_argument("--dry-run", action="store_true",
                           help="print the sessions as a model would be asked about them, and ask nothing")
    arguments.add_argument("--follow", action="store_true", help="judge what is appended to the log, until Ctrl-C, "
                           "also after it was rotated")
    arguments.add_argument("--wait", type=seconds, metavar="SECONDS",
                           help=f"with --follow: after them a window that is not full is judged (default: {WAIT:g}; 1 "
                           "for single lines)")
    arguments.add_argument("--json", action="store_true", help="one JSON object a session")
    arguments.add_argument("--batch", type=positive, default=256, help="sessions judged at once; 1 for a live pipe")
    arguments.add_argument("--journal", type=Path, help="store every answer in this file and never ask for it again")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
