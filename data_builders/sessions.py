"""Cut raw system logs into labelled sessions: fixed windows of consecutive lines (section 4.3.1).

    python -m data_builders.sessions --format bgl --window 20 --limit 1000000 --out bgl.jsonl BGL.zip

A session is abnormal if the label column of any of its lines is not "-". Lines without a complete header (and blank
ones) cannot be told from noise: they are skipped and counted, never shown. Formats without a label column carry no
labels, so their label is "", which scoring refuses. With --task a log is read as that task's YAML says.
"""

import argparse
import hashlib
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import chain, compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_builders import table_reader
from data_builders.layouts import LABELLED, check, line_parser
from data_builders.task_labels import verdict_of
from logreasoner import cli, log_files, reading
from logreasoner.cli import UserError
from logreasoner.files import hashing, manifest, sha256, write_jsonl
from logreasoner.reading import LONGEST, Log, Reading, hide

if TYPE_CHECKING:
    from logreasoner.schemas import Task

WINDOW = 20  # section 4.3.1
LABEL = "label "  # counts of sessions by their label begin so

EXAMPLES = """
python -m data_builders.sessions --format bgl --window 20 --out sessions.jsonl BGL.log
python -m data_builders.sessions --format bgl --limit 1000000 --seed 42 --out bgl.jsonl BGL.zip
python -m data_builders.sessions --format spirit --limit 1000000 --source spirit --out spirit.jsonl spirit2.gz
python -m data_builders.sessions --format rfc3164 --out mine.jsonl /var/log/syslog*
python -m data_builders.sessions --format lines --session 'blk_-?\\d+' --labels anomaly_label.csv --out h.jsonl HDFS.log
python -m data_builders.sessions --task my-task --out mine.jsonl app.log"""


def _between(source: Iterable[list[bytes]], start: int, stop: int | None) -> Iterator[list[bytes]]:
    """Yield the lines from start (counted from 0) to before stop."""
    for batch in source:
        yield batch[max(start, 0):stop]
        start -= len(batch)
        if stop is not None and (stop := stop - len(batch)) <= 0:
            return


def windows(rows: Iterable[list[bytes]], layout: str, window: int, source: str, counts: Counter[str],
            first: int = 1, level: bool = False, header: bool | None = None) -> Iterator[dict[str, Any]]:
    """Yield the sessions of consecutive lines as JSON-ready instances; `counts` receives lines, sessions and labels.

    The lines come in lists of any length; first is the number of the first one. With level, BGL's level is put before
    each message; header as in `line_parser`. Raises UserError for a session that would fill the memory.
    """
    parse = line_parser(layout, header)
    numbers: list[int] = []
    labels: list[bytes] = []
    contents: list[bytes] = []
    for batch in rows:
        # Columns instead of a loop over lines: with millions of them, the loop itself takes most of the time.
        parsed = list(map(parse, batch))
        if complete := list(filter(None, parsed)):
            alerts, levels, messages = zip(*complete, strict=True)
            numbers += compress(range(first, first + len(batch)), parsed)
            labels += alerts
            contents += map(b" ".join, zip(levels, messages, strict=True)) if level else messages
        first += len(batch)
        counts["lines"] += len(batch)
        counts["malformed"] += len(batch) - len(complete)
        whole = len(contents) - len(contents) % window
        counts["sessions"] += whole // window
        for start in range(0, whole, window):
            joined = b"\n".join(contents[start:start + window])
            normal = labels[start:start + window].count(b"-") == window
            label = "" if layout == "lines" else "normal" if normal else "abnormal"
            counts[LABEL + label] += 1
            yield _session(source, numbers[start], joined, label)
        del numbers[:whole], labels[:whole], contents[:whole]
        if sum(map(len, contents)) > LONGEST:
            raise UserError(f"the session that begins with line {numbers[0]:,} is longer than {LONGEST >> 20} MiB; "
                            "choose a smaller --window")
    counts["dropped"] = len(contents)


def _session(source: str, first: int, text: bytes, label: str, task: str = "anomaly_detection",
             name: str = "") -> dict[str, Any]:
    checksum = hashlib.sha256(name.encode() + text).hexdigest()[:12]
    return {"id": f"{source}-{first}-{checksum}", "task": task, "source": source,
            "log": text.decode("utf-8", "replace").split("\n"), "label": label, "split": "test"}


def sessions(log: Log, layout: str, window: int, source: str, counts: Counter[str], *, limit: int | None = None,
             seed: int | None = None, level: bool = False, header: bool | None = None) -> Iterator[dict[str, Any]]:
    """Yield the sessions of a log's first `limit` lines, with a seed those of one random block of `limit` lines.

    Raises UserError for a layout without a level, an unreadable archive, and a log in which no line has the layout.
    """
    if level and layout != "bgl":
        raise UserError(f"--level: the {layout} layout has no level column; only bgl has")
    start = 0
    if seed is not None and limit is not None:
        start = random.Random(seed).randint(0, max(0, log.count_lines() - limit))
    with closing(log.batches()) as lines:
        first = next(lines, [])
        check(log, layout, first)
        part = _between(chain([first], lines), start, None if limit is None else start + limit)
        yield from windows(part, layout, window, source, counts, start + 1, level, header)
    if counts["malformed"] == counts["lines"] > 0:
        raise UserError(f"{log}: none of {counts['lines']:,} lines has the layout {layout}; is --format right?")


def read_sessions(log: Log, reading: Reading, window: int, source: str, counts: Counter[str], *, task: "Task",
                  limit: int | None = None, labels: table_reader.Labels | None = None) -> Iterator[dict[str, Any]]:
    """Yield the sessions of a log's first `limit` rows or events as a task reads them; `labels` has those of ids.

    Raises UserError for rows without the column that the task reads.
    """
    needed = {reading.text: "name the one with the text by --text"}
    rows = table_reader.rows_with(log, reading, counts, needed)
    for number, row in table_reader.windowed(islice(rows, limit), reading, window, counts, labels):
        if not row[reading.text].strip():
            counts["blank"] += 1
            continue
        label = _label(row["label"], task) if reading.format in LABELLED or labels is not None else ""
        counts.update(["sessions", LABEL + label])
        yield _session(source, number, hide(row[reading.text], reading).encode(), label, task.name,
                       row.get("session", ""))
    counts["malformed"] = counts["unmatched"] + counts["blank"]


def _label(label: str, task: "Task") -> str:
    """Return a label as the task spells it; of two classes, what is called normal is the one that is not searched for.

    Raises UserError for another one.
    """
    known = {name.casefold(): name for name in task.labels}
    other = [name for name in task.labels if name != task.positive]
    if label.casefold() in known or not label.strip():
        return known.get(label.casefold(), "")
    if task.positive is None or len(other) != 1:
        raise UserError(f"label {label!r}: {task.name} has the labels {', '.join(task.labels)}")
    return other[0] if verdict_of(label.strip()) == "good" else task.positive


def source_name(path: Path) -> str:
    """Name a log after its file: BGL_2k.log is bgl-2k."""
    stem = re.sub(r"(\.(gz|bz2|xz|zst|zip|log|txt))+$", "", path.name, flags=re.IGNORECASE)
    return slug(stem) or "log"


def slug(name: str) -> str:
    """Return a name in lower case letters and digits of any script, with hyphens for the rest."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


def report(name: str, window: int | str, counts: Counter[str]) -> str:
    """Return one line of text that accounts for every line of a log; `window` may say in words what a session is."""
    of = f"of {window} lines" if isinstance(window, int) else window
    labels = {key.removeprefix(LABEL): count for key, count in sorted(counts.items()) if key.startswith(LABEL)}
    labelled = ", ".join(f"{count:,} {label or 'without a label'}" for label, count in labels.items())
    labelled = "labels unknown" if set(labels) == {""} else labelled
    lines = "events" if counts["joined"] else "lines"
    return (f"{name}: {counts['lines']:,} lines -> {counts['sessions']:,} sessions {of}, {labelled}; "
            f"{counts['malformed']:,} malformed {lines} skipped, {counts['dropped']:,} of a short last window dropped")


def _task(name: str) -> "Task":
    from logreasoner import config  # takes as long to import as a small log to cut

    return config.task(name)


def source_names(paths: Sequence[Path]) -> list[str]:
    """Name the logs of several files, those with one file name by their folders too."""
    names = list(map(source_name, paths))
    if len(set(names)) == len(names):
        return names
    root = os.path.commonpath([path.parent for path in paths])
    return [source_name(Path("-".join(path.relative_to(root).parts))) for path in paths]


def cut(log: Log, read: Reading, window: int, source: str, counts: Counter[str], options: argparse.Namespace,
        task: "Task | None", labels: table_reader.Labels | None) -> Iterator[dict[str, Any]]:
    """Yield the sessions of one log, by columns where its lines have a layout with labels or are taken whole."""
    read = table_reader.resolved(log, read)
    if (read.format in LABELLED or (read.format, read.event_start) == ("lines", "none")) and not (
            read.masks or read.session or read.every):
        return sessions(log, read.format, window, source, counts, limit=options.limit, seed=options.seed,
                        level=options.level, header=read.header)
    if options.level or options.seed is not None:
        raise UserError(f"--level and --seed are for {', '.join(LABELLED)}, or for lines with --event-start none, and "
                        "without --mask")
    return read_sessions(log, read, window, source, counts, task=task or _task("anomaly_detection"),
                         limit=options.limit, labels=labels)


def _checked(rows: Iterator[dict[str, Any]], labels: table_reader.Labels) -> Iterator[dict[str, Any]]:
    yield from rows
    labels.check()


def build(options: argparse.Namespace) -> None:
    """Write the sessions of one log or several, and print what they are."""
    if not (options.format or options.task):
        raise UserError("give --format, or --task to read the log as that task says")
    task = _task(options.task) if options.task else None
    read = reading.chosen(options, (task and task.reading) or Reading(format="lines"))
    read = replace(read, text=options.text or read.text)
    window = options.window or (task.window if task else WINDOW)
    labels = table_reader.labels_given(options.labels, read)
    logs = log_files.logs(options.input, options, read)
    files = [file for log in logs for file in log.files()]
    if options.out.exists() and any(file.exists() and options.out.samefile(file) for file in files):
        raise UserError(f"{options.out}: --out is the log itself; name another file")
    if options.source and len(logs) > 1:
        raise UserError(f"--source {options.source!r}: names one log, and these are {len(logs)}, each with its own "
                        "name; cut them one by one")
    if "#" in (options.source or ""):
        raise UserError(f"--source {options.source!r}: '#' is reserved for the numbers of votes; choose another name")
    sources = [options.source] if options.source else source_names([log.path for log in logs])
    counts = [Counter[str]() for _ in logs]
    rows: Iterator[dict[str, Any]] = chain.from_iterable(
        cut(log, read, window, source, of_log, options, task, labels)
        for log, source, of_log in zip(logs, sources, counts, strict=True))
    rows = _checked(rows, labels) if labels else rows
    if sys.stderr.isatty():
        from tqdm import tqdm

        rows = iter(tqdm(rows, unit=" sessions"))
    with ExitStack() as stack:
        checksums = {file: stack.enter_context(hashing(file)) for file in files}
        write_jsonl(options.out, rows)
        inputs = {file: checksum() for file, checksum in checksums.items()}
    total: Counter[str] = Counter()
    for of_log in counts:
        total.update(of_log)
    inputs |= {options.labels: sha256(options.labels)} if options.labels else {}
    settings = {"window": window, **{key: getattr(options, key) for key in ("limit", "seed", "level")}}
    manifest(options.out, inputs, source=" ".join(sources), settings=settings, reading=read.as_yaml(),
             counts=total)
    kind = f"of {read.every}" if read.every else "by id" if read.session else window
    for log, of_log in zip(logs, counts, strict=True):
        for note in [*log.notes, *table_reader.notes(of_log)]:
            print(f"note: {note}")
        print(report(str(log), kind, of_log))
    for note in labels.notes() if labels else ():
        print(f"note: {note}")


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.sessions", "Cut a raw log into labelled sessions of consecutive lines.",
                        EXAMPLES)
    reading.add_options(parser, table_reader.FORMATS)
    parser.add_argument("--task", help="read the log as experiments/tasks/<task>.yaml says")
    parser.add_argument("--text", metavar="COLUMN", help="the one with the text (default: the task's, else text)")
    parser.add_argument("--window", type=cli.positive, help=f"lines of a session (default: the task's, else {WINDOW})")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="with --session: a table of ids and their labels")
    parser.add_argument("--limit", type=cli.positive, help="read so many lines (default: all)")
    parser.add_argument("--seed", type=int, help="with --limit: one random block instead of the first lines")
    parser.add_argument("--level", action="store_true", help="show BGL's level before each message")
    parser.add_argument("--source", help="name of the source (default: from the file's name)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("input", type=Path, nargs="+", metavar="INPUT", help=log_files.HELP)
    cli.run(parser, build)


if __name__ == "__main__":
    main()
