"""Read a user's file of logs as rows of text: a table (CSV, TSV, JSON, JSONL, Parquet, .xlsx) or raw lines.

new_task, sessions and analyze all read by `rows`, so that a model is asked about the texts that it was trained on.
Every value is text without NUL characters and ANSI sequences.
"""

import json
import os
import re
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path

from data_builders import log_times, table_kinds
from data_builders.layouts import HEADERS, LABELLED, LAYOUTS, PATTERNS, RAW, check, line_parser, recognise
from data_builders.table_kinds import KINDS, LARGEST, SPARSE, Numbered, Row, clean, is_table, kind_of
from logreasoner.cli import UserError
from logreasoner.events import events
from logreasoner.files import dump
from logreasoner.reading import LONGEST as LONGEST_SESSION
from logreasoner.reading import Log, Reading, pattern

MOST_COLUMNS, MOST_ROWS = 500, 1_000_000
CONTAINER = re.compile(rb"(?P<who>\w*) (?P<part>[FP]) ")
LABELS = re.compile("label|class|anomal")
FORMATS = (f"raw lines: {', '.join(RAW)}, auto, or a regular expression with named groups; a table whose name does not "
           f"say what it is: {', '.join(dict.fromkeys(KINDS.values()))}")
NOTES = {
    "earlier": "rows are earlier than the window of --every before them: is the log sorted by time, the oldest row "
               "first? Sort it (several logs as one)",
    "joined": "lines joined to the event before them; --event-start says how one begins, none that each line is one",
    "nuls": "NUL characters removed",
    "without id": "rows without an id for --session left out",
    "month first": "dates are read with the month first, as none shows which of two numbers is the month"}
Part = list[tuple[int, Row]]  # the rows of a session


@dataclass
class Table:
    """The rows of a log by column, the number of each one's line, and notes on what was changed or left out.

    Where there are several logs, `path` is their folder, and `file_column` has the name of each row's log.
    """

    path: Path
    columns: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    file_column: str = ""

    def values(self, column: str) -> list[str]:
        """Return a column's values that are not empty."""
        return [value for row in self.rows if (value := row[column].strip())]


@dataclass
class Labels:
    """The labels of sessions by their ids, as a file has them (`log`), and which of them were asked for."""

    log: Log
    by_id: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)  # ids of sessions that have none

    def of(self, name: str) -> str:
        """Return the label of a session, "" for one that has none."""
        label = self.by_id.get(name, "")
        if label.strip():
            self.used.add(name)
        else:
            self.missing.append(name)
        return label

    def check(self) -> None:
        """Raise UserError where sessions were read, and none of them is in the file."""
        if self.missing and not self.used and self.by_id.keys().isdisjoint(self.missing):
            raise UserError(f"{self.log}: no session has one of its ids: it has {next(iter(self.by_id), '')!r}, and "
                            f"--session finds {self.missing[0]!r}; write both in the same way")

    def notes(self) -> list[str]:
        """Say how the file was read, and which sessions and labels have no counterpart."""
        unused = sum(bool(label.strip()) for label in self.by_id.values()) - len(self.used)
        return self.log.notes + [f"{count:,} {what}" for count, what in (
            (len(self.missing), f"sessions have no label in {self.log}"),
            (unused, f"ids of {self.log} are in no session that was read")) if count]


def resolved(log: Log, reading: Reading) -> Reading:
    """Return a reading with the format that a file is seen to have in place of "auto", or of a table's kind.

    A table whose name tells its kind stays "table".
    """
    if reading.format == "auto":
        return replace(reading, format="table" if is_table(log.path) else recognise(log))
    if reading.format == "table" and not is_table(log.path):
        return replace(reading, format=kind_of(log))
    return reading


def read(log: Log, reading: Reading | None = None, window: int = 1, limit: int | None = None,
         labels: Labels | None = None) -> Table:
    """Read the first `limit` sessions of a file, each as a row (`windowed`), by default one of each of its rows.

    Raises UserError with file and line for what does not have the format that it should.
    """
    reading, counts = reading or Reading(), Counter[str]()
    table = _fill(log, islice(windowed(rows(log, reading, counts), reading, window, counts, labels), limit))
    unmatched = f"{'events' if counts['joined'] else 'lines'} do not match --format and are left out"
    table.notes = [*log.notes, *notes(counts, unmatched=unmatched, dropped="of a short last window left out")]
    return table


def notes(counts: Counter[str], **others: str) -> list[str]:
    """Return what a user should know about the rows that were read, `others` that a report does not say already."""
    return [f"{counts[name]:,} {what}" for name, what in {**NOTES, **others}.items() if counts[name]]


def _fill(log: Log, source: Numbered) -> Table:
    table, columns, size = Table(log.path), dict[str, None](), 0
    for number, row in source:
        table.rows.append(row)
        table.lines.append(number)
        columns.update(dict.fromkeys(row))
        size += sum(map(len, row.values()))
        if len(columns) > MOST_COLUMNS:
            raise UserError(f"{log}: more than {MOST_COLUMNS} columns; keep the log, its label and its source")
        if len(table.rows) > MOST_ROWS or size > LARGEST:
            what = f"more than {MOST_ROWS:,} rows" if size <= LARGEST else f"is larger than {LARGEST >> 20} MiB"
            raise UserError(f"{log}: {what}; some thousand are enough, give --limit")
    if not table.rows:
        raise UserError(f"{log}: holds no rows")
    table.columns = list(columns)
    table.rows = [{column: row.get(column, "") for column in columns} for row in table.rows]
    return table


def joined(tables: Mapping[str, Table]) -> Table:
    """Return the rows of several logs, by their names, as one table."""
    if len(tables) == 1:
        return next(iter(tables.values()))
    columns = list(dict.fromkeys(column for table in tables.values() for column in table.columns))
    file = "file" if "file" not in columns else "file of the log"
    rows = [{**dict.fromkeys(columns, ""), **row, file: name} for name, table in tables.items() for row in table.rows]
    folder = Path(os.path.commonpath([table.path for table in tables.values()]))
    return Table(folder, [*columns, file], rows, [line for table in tables.values() for line in table.lines],
                 list(dict.fromkeys(note for table in tables.values() for note in table.notes)), file)


def sorted_by_time(table: Table, text: str) -> Table:
    """Return a table with its rows, whose text is in a column, in the order of their times if all have one.

    A note says what order it has unless it is that of the file and of the times.
    """
    order = log_times.order(table.rows, text)
    if order is None:
        files = "one file after the other" if table.file_column else "as they stand in the file"
        return replace(table, notes=[*table.notes, "not all rows have a time with a date that is understood, so the "
                                     f"last ones, {files}, are taken for the latest"])
    note = ["the rows are sorted by time for --latest, which changes their order"] if order != sorted(order) else []
    return replace(table, rows=[table.rows[at] for at in order], lines=[table.lines[at] for at in order],
                   notes=[*table.notes, *note])


def windowed(source: Numbered, reading: Reading, window: int, counts: Counter[str],
             labels: Labels | None = None) -> Numbered:
    """Yield sessions as rows: the values of each column joined by line ends.

    One of a labelled layout is abnormal if one of its lines is; `labels` has the label of each id. A window that is
    too short, the last one, is counted as dropped.
    """
    for name, part in parts(source, reading, window, counts):
        if not (reading.session or reading.every) and len(part) < window:
            counts["dropped"] = len(part)
            return
        row = {column: "\n".join(row.get(column, "") for _, row in part)
               for column in dict.fromkeys(column for _, row in part for column in row)}
        if reading.format in LABELLED:
            row["label"] = "abnormal" if any(row["label"] == "abnormal" for _, row in part) else "normal"
        if reading.session:
            row["session"] = name
        if labels is not None:
            row["label"] = labels.of(name)
        yield part[0][0], row


def parts(source: Numbered, reading: Reading, window: int, counts: Counter[str]) -> Iterator[tuple[str, Part]]:
    """Yield the id ("" for windows) and the rows of each session, in the order in which sessions begin.

    Raises UserError where no row has an id, or a time that it needs.
    """
    if reading.every:
        yield from (("", part) for part in log_times.windows(source, reading, counts))
        return
    if not reading.session:
        while part := list(islice(source, window)):
            yield "", part
        return
    ids = pattern("--session", reading.session)

    def members() -> Iterator[tuple[str, int, str]]:
        for number, row in source:
            names = {match[bool(ids.groups)] for match in ids.finditer(" ".join(row.values()))}
            counts["without id"] += not names
            yield from ((name or "", number, dump(row)) for name in sorted(names, key=str))

    with closing(sqlite3.connect("")) as store:  # a temporary file: a log may be larger than the memory
        store.execute("CREATE TABLE rows (session TEXT, number INTEGER, row TEXT)")
        if not store.executemany("INSERT INTO rows VALUES (?, ?, ?)", members()).rowcount:
            raise UserError(f"--session {reading.session!r}: matches nothing in any row")
        ordered = store.execute("SELECT session, number, row FROM rows JOIN (SELECT session, min(number) AS first "
                                "FROM rows GROUP BY session) USING (session) ORDER BY first, session, number")
        for name, members_of in groupby(ordered, key=itemgetter(0)):
            part, size = [], 0
            for _, number, row in members_of:
                part.append((number, json.loads(row)))
                size += len(row)
                if size > LONGEST_SESSION:
                    raise UserError(f"the session {name!r} is longer than {LONGEST_SESSION >> 20} MiB; let --session "
                                    "match what fewer rows share")
            yield name, part


def labels_given(path: Path | None, reading: Reading) -> Labels | None:
    """Read the file of --labels, if there is one, in the log's encoding unless it is UTF-8.

    Raises UserError where the reading has no ids.
    """
    if path and not reading.session:
        raise UserError("--labels: has the labels of ids; say by --session what an id looks like")
    return labels_by_id(Log(path, likely=reading.encoding)) if path else None


def labels_by_id(log: Log) -> Labels:
    """Read a file of labels: the id of each session in its first column, the label in the one called so or the other.

    Raises UserError for a file in which that is none or not the only one, and for an id with two labels.
    """
    result, label = Labels(log), ""
    for number, row in rows(log, Reading(format=kind_of(log, surely=True)), Counter()):
        identifier, *others = row
        label = label or _column_of_labels(f"{log}:{number}", others)
        key, value = row[identifier].strip(), row.get(label, "")
        if result.by_id.setdefault(key, value) != value:
            raise UserError(f"{log}:{number}: {key!r} has the label {value!r} here and {result.by_id[key]!r} before; "
                            "leave one")
    return result


def _column_of_labels(place: str, columns: list[str]) -> str:
    """Return the column that is called label, else the only one that is called so, else the only one."""
    likely = next(filter(None, ([name for name in columns if name.lower() == "label"],
                                [name for name in columns if LABELS.search(name.lower())], columns)), [])
    if not likely:
        raise UserError(f"{place}: needs two columns, the ids of sessions and their labels")
    if len(likely) > 1:
        raise UserError(f"{place}: which column has the labels? As likely are {', '.join(map(repr, likely))}; call it "
                        "label, or leave the others out")
    return likely[0]


def rows(log: Log, reading: Reading, counts: Counter[str]) -> Numbered:
    """Yield the rows of a file, or of raw lines those of each event, one at a time where its kind allows it.

    `counts` receives lines, and those that are left out: blank ones and unmatched ones. Raises UserError with file and
    line for what cannot be read.
    """
    if reading.format not in ("table", *KINDS.values()):
        return _line_rows(log, reading, counts)
    kind = reading.format if reading.format != "table" else kind_of(log)
    records = table_kinds.records(log, kind, reading.header, counts)
    first = next(records, None)
    if first is None:
        return records
    source = chain([first], records)
    if {"log", "stream"} <= first[1].keys():
        return _container_events(source, reading.event_start, first[1]["log"].endswith("\n"), counts)
    if reading.event_start not in ("auto", "none"):
        raise UserError(f"{log}: --event-start is for raw lines, and each row of a table ({kind}) is an event")
    return source


def _container_events(source: Numbered, start: str, ends: bool, counts: Counter[str]) -> Numbered:
    """Join the lines of events of a container as Docker's json-file writes them: records with `log` and `stream`.

    `ends`: a record without an end of line is a part of a longer line.
    """
    waiting: deque[tuple[int, Row]] = deque()

    def lines() -> Iterator[list[bytes]]:
        for number, row in source:
            waiting.append((number, row))
            text, who = row.get("log", ""), re.sub(r"\W", "", row.get("stream", ""))
            part = "F" if text.endswith("\n") or not ends else "P"
            yield [f"{who} {part} ".encode() + text.rstrip("\r\n").encode()]

    for batch in events(lines(), start, CONTAINER):
        for event, size in batch:
            number, row = waiting.popleft()
            for _ in range(size - 1):
                waiting.popleft()
            counts["joined"] += size - 1
            yield number, row | {"log": CONTAINER.sub(b"", event, count=1).decode()}


def rows_with(log: Log, reading: Reading, counts: Counter[str], columns: Mapping[str, str]) -> Numbered:
    """Yield the rows of a file, each with the columns that are needed; `columns` has what to do about a missing one.

    A JSON record may lack a field that others have, and then has "" there. Raises UserError for a column that a row of
    another kind lacks, or all records.
    """
    reading = replace(reading, format=kind_of(log)) if reading.format == "table" else reading
    missing, row = {name for name in columns if not counts[f"has {name}"]}, Row()
    for number, row in rows(log, reading, counts):
        counts.update(f"has {name}" for name in missing & row.keys())  # for the next reading of a log that is followed
        missing -= row.keys()
        if missing and reading.format not in SPARSE:
            break
        yield number, row if columns.keys() <= row.keys() else dict.fromkeys(columns, "") | row
    if missing and row:
        name = min(missing)
        raise UserError(f"{log}: has no {name!r} but {', '.join(map(repr, row))}; {columns[name]}")


def _line_rows(log: Log, reading: Reading, counts: Counter[str]) -> Numbered:
    parse = _layout_row(reading) if reading.format in LAYOUTS else \
        _pattern_row(PATTERNS.get(reading.format, reading.format))
    start, kept = "none" if reading.format in LABELLED else reading.event_start, 0
    number = counts["lines"] + 1  # a log that is followed is read several times
    with closing(log.batches()) as lines:
        first = next(lines, [])
        if reading.format in LAYOUTS:
            check(log, reading.format, first)
        for batch in events(chain([first], lines), start, HEADERS.get(reading.format)):
            for event, size in batch:
                if row := parse(event):
                    kept += 1
                    yield number, {name: clean(value, counts) for name, value in row.items()}
                else:
                    counts["unmatched" if event.strip() else "blank"] += 1
                counts["joined"] += size - 1
                number += size
                counts["lines"] = number - 1
    if not kept and not log.followed:
        raise UserError(f"{log}: none of {counts['lines']:,} lines has the layout {reading.format}; is --format right?")


def _layout_row(reading: Reading) -> Callable[[bytes], Row | None]:
    parse = line_parser(reading.format, reading.header)

    def row(line: bytes) -> Row | None:
        if (parsed := parse(line)) is None:
            return None
        text = {"text": parsed[2].decode("utf-8", "replace")}
        if reading.every and reading.format in LABELLED:
            text["time"] = line.split(None, 2)[1].decode()
        return text | ({"label": "normal" if parsed[0] == b"-" else "abnormal"} if reading.format in LABELLED else {})

    return row


def _pattern_row(regex: str) -> Callable[[bytes], Row | None]:
    try:
        groups = re.compile(regex, re.DOTALL)  # an event may have several lines
    except re.error as error:
        raise UserError(f"--format {regex!r}: neither one of {', '.join((*RAW, *KINDS))} nor a regular expression "
                        f"({error})") from None
    if not groups.groupindex:
        raise UserError(f"--format {regex!r}: a regular expression needs named groups such as (?P<text>.*), which "
                        "become the columns")
    parts = [] if "text" in groups.groupindex else [name for name in groups.groupindex if re.fullmatch(r"text\d", name)]

    def row(line: bytes) -> Row | None:
        if (match := groups.match(line.decode("utf-8", "replace"))) is None:
            return None
        values = {name: value or "" for name, value in match.groupdict().items()}
        return values | ({"text": " ".join(values.pop(name) for name in parts)} if parts else {})

    return row
