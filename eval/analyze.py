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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from data_builders import table_reader
from logreasoner import cli, examples, reading, weights
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
STATUS = f"""

exit status: 0: no session has the positive class (or a label of --fail-on), {POSITIVE}: one has, {UNPARSED}: none has,
but some answer cannot be parsed, 1: an error, 2: wrong options, 130: Ctrl-C"""
COLOURS = {"positive": "31", "negative": "32", "unparsed": "33", "quiet": "2"}


@dataclass(frozen=True)
class Session:
    """Consecutive rows or events first..last (line numbers from 1): the texts as they are, and what is asked."""

    first: int
    last: int
    log: tuple[str, ...]
    asked: str
    description: str
    id: str = ""


@dataclass(frozen=True)
class Verdict:
    """The answer about the lines first..last. `label` is None where it cannot be parsed; `note` says why."""

    first: int
    last: int
    label: str | None
    steps: tuple[str, ...]
    note: str
    log: tuple[str, ...]
    session: str = ""

    def as_json(self) -> str:
        """Return one JSON line; the session's id is left out where it has none."""
        return json.dumps({name: value for name, value in asdict(self).items() if value or name != "session"})


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
        title = f"lines {sessions[0].first:,}-{sessions[-1].last:,}"
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
        return Verdict(session.first, session.last, label, steps or (),
                       note or ("" if label else "not in the answer format"), session.log, session.id)


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
            where: Where | None = None) -> Iterator[Session]:
    """Yield sessions of `window` consecutive rows or events; the last one may be shorter.

    `description` replaces the one that each row may have; `counts` has the sessions without a row for `where` as
    "unasked". Raises UserError for rows without the column that is asked.
    """
    needed = {read.text: "name the one with the text by --text"}
    if where and where.column:
        needed.setdefault(where.column, "name one of these in --where")
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
        yield Session(part[0][0], part[-1][0], log_lines, hide("\n".join(log_lines), read),
                      hide(own, read) if description is None else description, name)


def reading_of(given: argparse.Namespace, rules: Task) -> Reading:
    """Return how the log is read: as the task says, and what is given instead.

    Lines that are no table are the texts of a task that was made from one.
    """
    declared = rules.reading or Reading(format="lines")
    if declared.format == "table" and not given.format and not table_reader.is_table(Path(given.log)):
        declared = replace(declared, format="lines", text="text", header=None)
        print(f"note: {given.log}: its name is no table's, so each line is a text; give --format csv (tsv, ...) if it "
              "is a table like the one that the task was made from", file=sys.stderr)
    read = reading.chosen(given, declared)
    return replace(read, text=given.text) if given.text else read


def _place(first: int, last: int, name: str) -> str:
    where = f"line {first:,}" if first == last else f"lines {first:,}-{last:,}"
    return f"{where} ({escape_terminal(name)})" if name else where


def as_text(verdict: Verdict, positives: Sequence[str], colours: bool, lines: bool = False) -> str:
    """Write a verdict: where, the label, with `lines` those of the log, the steps; a single one is beside its label."""
    def paint(text: str, colour: str) -> str:
        return f"\x1b[{COLOURS[colour]}m{escape_terminal(text)}\x1b[0m" if colours else escape_terminal(text)

    single = verdict.first == verdict.last
    kind = "unparsed" if verdict.label is None else "positive" if verdict.label in positives else "negative"
    log = f"  {escape_terminal(verdict.log[0])}" if single else ""
    head = f"{_place(verdict.first, verdict.last, verdict.session)}: {paint(verdict.label or 'unparsed', kind)}{log}"
    shown = [f"  | {escape_terminal(line)}" for line in verdict.log] if lines and not single else []
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
        record = {"first": session.first, "last": session.last, "session": session.id, "text": text,
                  "description": description}
        return json.dumps({name: value for name, value in record.items() if value != "" or name == "text"})
    shown = [f"  | {escape_terminal(line)}" for line in text.split("\n")]
    shown += [f"  description: {escape_terminal(line)}" for line in description.split("\n") if line]
    return "\n".join([f"{_place(session.first, session.last, session.id)}:", *shown])


def _account(log: Log, counts: Counter[str], where: bool) -> str:
    """Print the notes on a log that was read; return how many lines it has, and how many of them were not used."""
    if counts["joined"]:
        log.notes.append(f"{counts['joined']:,} {table_reader.JOINED}")
    for note in log.notes:
        print(f"note: {note}", file=sys.stderr)
    skipped = counts["unmatched"] + counts["blank"] + counts["bad"]
    unasked = f", {counts['unasked']:,} sessions not asked" if where else ""
    return f"{log.path}: {counts['lines']:,} lines ({skipped:,} skipped{unasked})"


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run) if given.run else None
    rules = run.task(given.task) if run else task(given.task)
    positives = _named(given.fail_on, "--fail-on", rules, [] if rules.positive is None else [rules.positive])
    only = _named(given.only, "--only", rules, rules.labels)
    read = reading_of(given, rules)
    if given.description is None and rules.described and read.format == "lines":
        raise UserError(f"{rules.name} judges logs by a description: give it with --description")
    log = reading.log_of(Path(given.log), given, read)
    if given.log != "-" and not log.path.exists():
        raise UserError(f"{given.log}: no such file")
    read = table_reader.resolved(log, read)
    counts: Counter[str] = Counter()
    labels: Counter[str | None] = Counter()
    sessions = windows(log, read, given.window or rules.window, given.description, counts,
                       where_of(given.where) if given.where else None)
    if given.dry_run:
        for session in sessions:
            counts["asked"] += 1
            print(as_asked(session, rules, given.json))
        print(f"{_account(log, counts, bool(given.where))}: {counts['asked']:,} sessions, nothing was asked",
              file=sys.stderr)
        return
    solved, shots = _examples(run, given.task, given.examples)
    thinking = bool(run and given.model and run.model(given.model).thinking)
    turns = run is None or run.experiment.examples == "turns"
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    with _endpoint(given, run) as (url, name, vllm):
        answerer = _answerer(given, run, url)
        journal = Journal(given.journal, answerer) if given.journal else serve.MemoryJournal(answerer)
        journal.credit = 1
        client = Client(url, name, vllm, thinking, rules, solved, shots, turns, journal)
        for batch in iter(lambda: list(islice(sessions, given.batch)), []):
            for verdict in client.verdicts(batch):
                labels[verdict.label] += 1
                if verdict.label in (*only, None):
                    print(verdict.as_json() if given.json else as_text(verdict, positives, colours, bool(given.only)))
            sys.stdout.flush()
    totals = ", ".join(f"{labels[label]:,} {label or 'unparsed'}" for label in (*rules.labels, None))
    enforced = "" if vllm else "; no vLLM, so the answer format was not enforced"
    print(f"{_account(log, counts, bool(given.where))}: {totals}; {escape_terminal(name)}, {shots} examples{enforced}",
          file=sys.stderr)
    sys.exit(POSITIVE if any(labels[label] for label in positives) else UNPARSED if labels[None] else 0)


def main() -> None:
    """Judge a log."""
    arguments = cli.parser("eval.analyze", "Judge a log: a verdict with its steps for each session." + STATUS, """
python -m eval.analyze --log app.log --task anomaly_detection --run paper --model qwen2.5-7b --stage dpo
journalctl -b | python -m eval.analyze --log - --task anomaly_detection --base-url http://127.0.0.1:8000/v1
python -m eval.analyze --log app.log --task my-task --dry-run
python -m eval.analyze --log alarms.txt --task root_cause_analysis --base-url http://127.0.0.1:8000/v1 --json \\
    --fail-on equipmentAlarm,environmentalAlarm | jq -c '[.first, .label]'""", optional=["stage"])
    arguments.add_argument("--log", required=True, help="a file, also packed; - for standard input")
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
    arguments.add_argument("--json", action="store_true", help="one JSON object a session")
    arguments.add_argument("--batch", type=positive, default=256, help="sessions judged at once; 1 follows a live log")
    arguments.add_argument("--journal", type=Path, help="store every answer in this file and never ask for it again")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
