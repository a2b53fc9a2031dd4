"""Read a user's file of logs as rows of text: a table (CSV, TSV, JSON, JSONL, Parquet, .xlsx) or raw lines.

new_task, sessions and analyze all read by `rows`, so that a model is asked about the texts that it was trained on.
Every value is text without NUL characters and ANSI sequences. A row that cannot be read is left out and noted; where
many cannot, the first is an error that names its line. The standard library reads tables and JSON: pandas pads rows
that are too short, guesses types, and does not keep the numbers of the lines.
"""

import csv
import json
import os
import re
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, dropwhile, groupby, islice
from operator import itemgetter
from pathlib import Path
from statistics import median_high
from typing import Any

from data_builders import log_times
from data_builders.layouts import HEADERS, LABELLED, LAYOUTS, PATTERNS, RAW, check, line_parser, recognise
from logreasoner.cli import UserError
from logreasoner.files import dump
from logreasoner.reading import ANSI_TEXT, ENDINGS, Log, Reading, events, pattern
from logreasoner.reading import LONGEST as LONGEST_SESSION

LARGEST = 1 << 28  # bytes of a file, unpacked: labelled examples are read into memory
LARGEST_SHEET = 1 << 26  # bytes of an .xlsx file, unpacked
LONGEST = 1 << 20  # characters of one value; a CSV field that is longer has lost its closing quote
MOST_COLUMNS, MOST_ROWS = 500, 1_000_000
MOST_BAD, SOME_BAD = 0.1, 10  # share of rows that cannot be read; the share of fewer rows is looked at in the end only
PARQUET_ROWS = 16  # decoded at once
DELIMITERS = ",;\t|"
HEAD = 50  # rows that show whether the first one has names
KINDS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet",
         "pq": "parquet", "xlsx": "xlsx", "xlsm": "xlsx", "export": "journal"}  # endings of names; also formats
STREAMED = ("jsonl", "journal")  # kinds of several parts, each of whole records
SPARSE = ("json", *STREAMED)  # kinds whose records may lack a field
LABELS = re.compile("label|class|anomal")
DATUM = re.compile(r"[-+]?\d[\d.,:/+TZ -]*")  # numbers, dates, times and addresses
BLANKS = re.compile(r"[\s\x1e]*")  # between JSON values; RFC 7464 begins each by a record separator
FORMATS = (f"raw lines: {', '.join(RAW)}, auto, or a regular expression with named groups; a table whose name does not "
           f"say what it is: {', '.join(dict.fromkeys(KINDS.values()))}")
JOINED = "lines joined to the event before them; --event-start says how an event begins, none that each line is one"
NOTES = {"joined": JOINED, "nuls": "NUL characters removed",
         "without id": "rows without an id for --session left out",
         "month first": "dates are read with the month first, as none shows which of two numbers is the month"}
Row = dict[str, str]
Numbered = Iterator[tuple[int, Row]]  # rows, each with a number of its line (of tables: the one that it ends on)
Part = list[tuple[int, Row]]  # the rows of a session
Attempts = Iterator[tuple[int, Row | str]]  # the same, with the reason in place of a row that cannot be read


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
    missing: int = 0

    def of(self, name: str) -> str:
        """Return the label of a session, "" for one that has none."""
        label = self.by_id.get(name, "")
        if label.strip():
            self.used.add(name)
        else:
            self.missing += 1
        return label

    def notes(self) -> list[str]:
        """Say how the file was read, and which sessions and labels have no counterpart."""
        unused = sum(bool(label.strip()) for label in self.by_id.values()) - len(self.used)
        return self.log.notes + [f"{count:,} {what}" for count, what in (
            (self.missing, f"sessions have no label in {self.log}"),
            (unused, f"ids of {self.log} are in no session that was read")) if count]


def is_table(path: Path) -> bool:
    """Tell from its name whether a file is a table."""
    return Path(ENDINGS.sub("", path.name)).suffix.lower().lstrip(".") in KINDS


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
    for number, row in rows(log, Reading(), Counter()):
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
    if log.earlier and kind not in STREAMED or (log.followed and kind != "jsonl"):
        raise UserError(f"{log}: is a table ({kind}); give it alone, a table is neither rotated nor followed")
    readers: dict[str, Callable[[], Attempts]] = {
        "csv": lambda: _table(log, _csv(log, "", counts), reading.header),
        "tsv": lambda: _table(log, _csv(log, "\t", counts), reading.header),
        "xlsx": lambda: _table(log, _xlsx(log), reading.header),
        "json": lambda: _as_rows(_json(log, counts)),
        "jsonl": lambda: _as_rows(_json_lines(log, counts)),
        "parquet": lambda: _as_rows(enumerate(_parquet(log.path), 1)),
        "journal": lambda: _as_rows(_journal(log)),
    }
    return _readable(log, readers[kind](), counts)


def rows_with(log: Log, reading: Reading, counts: Counter[str], columns: Mapping[str, str]) -> Numbered:
    """Yield the rows of a file, each with the columns that are needed; `columns` has what to do about a missing one.

    A JSON record may lack a field that others have, and then has "" there. Raises UserError for a column that a row of
    another kind lacks, or all records.
    """
    table = reading.format in ("table", *KINDS.values())
    sparse = table and (kind_of(log) if reading.format == "table" else reading.format) in SPARSE
    missing, row = {name for name in columns if not counts[f"has {name}"]}, Row()
    for number, row in rows(log, reading, counts):
        counts.update(f"has {name}" for name in missing & row.keys())  # for the next reading of a log that is followed
        missing -= row.keys()
        if missing and not sparse:
            break
        yield number, row if columns.keys() <= row.keys() else dict.fromkeys(columns, "") | row
    if missing and row:
        name = min(missing)
        raise UserError(f"{log}: has no {name!r} but {', '.join(map(repr, row))}; {columns[name]}")


def kind_of(log: Log) -> str:
    """Tell the kind of a table by its first bytes, else by its name."""
    if log.path.is_file():
        with open(log.path, "rb") as stream:
            if stream.read(4) == b"PAR1":
                return "parquet"
        # A damaged archive is said where it is unpacked.
        with suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(log.path) as archive:
            if "xl/workbook.xml" in archive.namelist():
                return "xlsx"
    suffix = Path(ENDINGS.sub("", log.path.name)).suffix.lower().lstrip(".")
    if suffix in ("log", "txt"):
        raise UserError(f"{log}: raw lines need --format: auto, {', '.join(RAW)}, or a regular expression with named "
                        "groups; rename a table with this ending to .csv")
    return KINDS.get(suffix, "csv")


def _readable(log: Log, attempts: Attempts, counts: Counter[str]) -> Numbered:
    """Yield the rows that can be read, and note the others. Raises UserError for the first one where these are many."""
    first = ""
    for number, row in attempts:
        counts["bad" if isinstance(row, str) else "rows"] += 1
        if isinstance(row, str):
            first = first or f"{log}:{number}: {row}"
        else:
            yield number, row
        if counts["bad"] > max(SOME_BAD, MOST_BAD * counts["rows"]):
            break
    counts["lines"] = counts["rows"] + counts["bad"]
    if counts["bad"] > MOST_BAD * counts["rows"]:
        raise UserError(first)
    if first:
        log.note(f"{first}; {counts['bad']:,} such rows are left out")


def _clean(text: str, counts: Counter[str] | None = None) -> str:
    """Return a text without NUL characters, which are counted, and ANSI sequences; lone surrogates become "?"."""
    if counts is not None:
        counts["nuls"] += text.count("\0")
    text = text.replace("\0", "")
    if "\x1b" in text:
        text = ANSI_TEXT.sub("", text)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


# ---- raw lines

def _line_rows(log: Log, reading: Reading, counts: Counter[str]) -> Numbered:
    parse = _layout_row(reading) if reading.format in LAYOUTS else \
        _pattern_row(PATTERNS.get(reading.format, reading.format))
    start, kept = None if reading.format in LABELLED else reading.event_start, 0
    number = counts["lines"] + 1  # a log that is followed is read several times
    with closing(log.batches()) as lines:
        first = next(lines, [])
        if reading.format in LAYOUTS:
            check(log, reading.format, first)
        for batch in events(chain([first], lines), start, HEADERS.get(reading.format)):
            for event, size in batch:
                if row := parse(event):
                    kept += 1
                    yield number, {name: _clean(value, counts) for name, value in row.items()}
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


# ---- tables

def _text_lines(log: Log, counts: Counter[str]) -> Iterator[str]:
    with closing(log.lines()) as lines:
        for line in lines:
            yield _clean(line.decode("utf-8", "replace"), counts)


def _cr_lines(lines: Iterator[str]) -> Iterator[str]:
    """Split at CR too where the first line has one: old programs on the Mac end lines by CR alone."""
    first = next(lines, "")
    for line in chain([first], lines):
        yield from line.split("\r") if "\r" in first else [line]


def _csv(log: Log, delimiter: str, counts: Counter[str]) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the fields of each row, or why it has none, after Excel's `sep=;` and PowerShell's `#TYPE`."""
    lines, skipped, first = _cr_lines(_text_lines(log, counts)), 0, ""
    for first in lines:
        if first.lower().startswith("sep=") and len(first) == 5:
            delimiter = first[4]
        elif not first.startswith("#TYPE "):
            break
        skipped += 1
    csv.field_size_limit(LONGEST)
    head = [first]
    while len(head) < HEAD and sum(map(len, head)) < LONGEST and (line := next(lines, None)) is not None:
        head.append(line)
    source = (f"{line}\n" for line in chain(head, lines))
    reader = csv.reader(source, delimiter=delimiter or _delimiter(head), strict=True)
    if re.match(r"\s*<(\?xml|table)\b", first, re.IGNORECASE):
        raise UserError(f"{log}: is XML or HTML, not a table; save it as .csv or .xlsx")
    while True:
        begin = reader.line_num
        try:
            values: list[str] | str = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            values = (f"the quotes of the table are broken ({error}); a quote within a quoted text is written twice")
        for _ in range(reader.line_num - begin if isinstance(values, str) else 1):
            yield skipped + reader.line_num, values


def _xlsx(log: Log) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the rows of the sheet that --member names, of the only one that is not empty, or of the usual one."""
    import openpyxl  # type: ignore[import-untyped]

    try:
        with zipfile.ZipFile(log.path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_SHEET:
                raise ValueError(f"more than {LARGEST_SHEET >> 20} MiB, unpacked")
        with open(log.path, "rb") as stream:  # openpyxl would look at its name
            book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
            sheets = {sheet.title: [[_text("", value) for value in row] for row in sheet.iter_rows(values_only=True)]
                      for sheet in book.worksheets if log.member in (None, sheet.title)}
    except Exception as error:  # openpyxl raises what its zip and XML layers raise
        raise UserError(f"{log}: not a readable sheet ({error}); save it as .csv") from None
    filled = [name for name, values in sheets.items() if log.member or any(map(any, values))]
    filled = [name for name in filled if name == log.usual] or filled
    if len(filled) > 1 or (log.member and not filled):
        raise UserError(f"{log}: has the sheets {', '.join(map(repr, book.sheetnames))}; name one with --member")
    for name in filled:
        yield from enumerate(sheets[name], 1)


def _table(log: Log, source: Iterator[tuple[int, list[str] | str]], header: bool | None) -> Attempts:
    """Yield rows by the names in the first one below a report's titles, or by numbers where it has none.

    A column without name and values goes (a trailing comma); one more field than names gets a number.
    """
    source = ((number, values) for number, values in source if isinstance(values, str) or any(map(str.strip, values)))
    head = list(islice(source, HEAD))
    full = [values for _, values in head if not isinstance(values, str)]
    if not full:
        yield from ((number, reason) for number, reason in head if isinstance(reason, str))
        return
    if header is not False and (titles := _titles(full)):
        log.note(f"{log}: what stands above the names of the columns is left out: "
                 f"{', '.join(repr(' '.join(row).strip()) for row in full[:titles])}")
        head, full = list(dropwhile(lambda row: row[1] is not full[titles], head)), full[titles:]
    first = full[0]
    named = log.named = header if header is not None else not _is_datum(first, full[1:])
    if not named and header is None:
        log.note(f"{log}: the first row looks like data, so the columns are called 'column 1', 'column 2', ...; give "
                 "--header if it has their names")
    width = max(len(first), Counter(map(len, full[1:])).most_common(1)[0][0] if full[1:] else 0)
    width = width if width <= len(first) + 1 else len(first)
    columns = [(value.strip() if named else "") or f"column {number}"
               for number, value in enumerate([*first, *[""] * (width - len(first))], 1)]
    if repeated := [name for name, count in Counter(columns).items() if count > 1]:
        raise UserError(f"{log}: two columns are called {repeated[0]!r}; rename one")
    empty = {name for at, name in enumerate(columns) if not (named and "".join(first[at:at + 1]).strip())
             and not any("".join(values[at:at + 1]).strip() for values in full)}
    for number, values in chain(head, source):
        if isinstance(values, str):
            yield number, values
            continue
        if named and values == first:  # it comes again where tables were joined
            continue
        values += [""] * (len(values) == width - 1 and columns[-1] in empty)
        if len(values) == width + 1 and not values[-1].strip():
            values.pop()
        if len(values) != width:
            yield number, (f"{len(values)} fields where the first line names {width} columns; put a text that holds "
                           "the delimiter in double quotes")
        else:
            yield number, {name: value for name, value in zip(columns, values, strict=True) if name not in empty}


def _titles(rows: list[list[str]]) -> int:
    """Count the rows above the names of the columns, such as a report's title: half as many cells, or fewer."""
    cells = [sum(bool(value.strip()) for value in row) for row in rows]
    usual = median_high(cells)
    at = next((at for at, count in enumerate(cells) if count > usual / 2), 0)
    # In a table of two columns, the name of the first one may be missing.
    titles = at + 1 < len(rows) and (usual > 2 or (usual == 2 and all(row[0].strip() for row in rows[:at])))
    return at if titles and not _is_datum(rows[at], rows[at + 1:]) else 0


def _delimiter(lines: list[str]) -> str:
    """Return what delimits the fields of a table: the most frequent in its first line, or below its titles.

    A title has blanks or a blank line after it, and not what the line after it has.
    """
    first, *others = [*filter(str.strip, lines)] or [""]
    found = max(DELIMITERS, key=first.count)
    if others and not (found in first and found in others[0]) and (" " in first.strip() or not lines[1].strip()):
        for delimiter in DELIMITERS:
            with suppress(csv.Error):
                rows = list(filter(None, csv.reader([first, *others], delimiter=delimiter)))
                if rows and _titles(rows):
                    return delimiter
    return found


def _is_datum(first: list[str], others: list[list[str]]) -> bool:
    """Tell whether a first row is data: a value comes again in its column, or is a number or date as others there.

    A row of names comes again as a whole only, where tables were joined.
    """
    for at, value in enumerate(map(str.strip, first)):
        column = [row[at].strip() for row in others if len(row) > at and row != first]
        if value and column and (value in column or (
                DATUM.fullmatch(value) and sum(bool(DATUM.fullmatch(other)) for other in column) > len(column) / 2)):
            return True
    return False


def _json(log: Log, counts: Counter[str]) -> Iterator[tuple[int, Any]]:
    """Yield the values of a list, numbered from 1, also of one within an object; else values one after the other."""
    text, decoder = _clean(log.text(LARGEST), counts), json.JSONDecoder(parse_constant=lambda name: None)
    start = at = _after_blanks(text, 0)
    line = 1 + text.count("\n", 0, at)
    while at < len(text):
        begin = at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield line, ValueError(str(error))
            at = text.find("\n", at) + 1 or len(text)
        else:
            listed = _records(value) if begin == start and _after_blanks(text, at) == len(text) else None
            yield from [(line, value)] if listed is None else enumerate(listed, 1)
        at = _after_blanks(text, at)
        line += text.count("\n", begin, at)


def _after_blanks(text: str, at: int) -> int:
    match = BLANKS.match(text, at)
    return match.end() if match else at


def _records(value: Any) -> list[Any] | None:
    """Return the list of records that a document is or, as the only one, holds: {"Records": [{...}, ...]}."""
    if isinstance(value, list):
        return value
    lists = [records for part in value.values() if isinstance(part, list | dict)
             and (records := _records(part)) and all(isinstance(record, dict) for record in records)
             ] if isinstance(value, dict) else []
    return lists[0] if len(lists) == 1 else None


def _json_lines(log: Log, counts: Counter[str]) -> Iterator[tuple[int, Any]]:
    for line in _text_lines(log, counts):
        counts["read"] += 1  # a log that is followed is read several times
        number = counts["read"]
        if not BLANKS.fullmatch(line):
            try:
                value = json.loads(line.lstrip("\x1e"), parse_constant=lambda name: None)
            except (ValueError, RecursionError) as error:
                value = ValueError(str(error))
            yield from ((number, record) for record in (value if isinstance(value, list) else [value]))


def _journal(log: Log) -> Iterator[tuple[int, Any]]:
    """Yield the entries of the Journal Export Format: NAME=value, or NAME, a length and a value with line ends.

    See systemd.io/JOURNAL_EXPORT_FORMATS. The number is that of an entry: lengths are no text, nor have lines.
    """
    number, entry = 1, dict[str, bytes]()
    for part in log.parts():
        with part.opened() as stream:
            for line in chain(iter(partial(stream.readline, LONGEST_SESSION), b""), [b"\n"]):
                name, equals, value = line.removesuffix(b"\n").partition(b"=")
                if name and not equals:
                    size = int.from_bytes(stream.read(8), "little")
                    value = stream.read(min(size, LONGEST_SESSION))
                    if len(value) < size or stream.read(1) != b"\n":
                        yield number, ValueError("the value of a field does not end where its length says")
                        return
                if name:
                    entry[name.decode("utf-8", "replace")] = value
                elif entry:
                    yield number, entry
                    number, entry = number + 1, {}


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows, one unpacked at a time: a dictionary of one long text can stand for gigabytes."""
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    too_large = UserError(f"{path}: holds more than {LARGEST >> 20} MiB, unpacked; some thousand rows are enough, "
                          "cut it")
    size = 0
    try:
        with parquet.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            if sum(file.metadata.row_group(group).total_byte_size for group in groups) > LARGEST:
                raise too_large
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in zip(*batch.columns, strict=True):
                    row = {name: value.as_py() for name, value in zip(batch.schema.names, values, strict=True)}
                    size += sum(len(str(value)) for value in row.values())
                    if size > LARGEST:
                        raise too_large
                    yield row
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())})") from None


def _as_rows(records: Iterable[tuple[int, Any]]) -> Attempts:
    for number, record in records:
        if isinstance(record, ValueError):
            yield number, f"not valid JSON ({record}); correct or remove the line"
        elif not isinstance(record, dict):
            yield number, f"expected an object with named values, found {type(record).__name__}"
        else:
            row = dict(_flat(record))
            long = any(len(value) > LONGEST for value in row.values())
            yield number, f"a value is longer than {LONGEST >> 20} MiB; this is not a log line" if long else row


def _flat(record: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and texts of a record; those of nested ones are called a.b.c."""
    for key, value in record.items():
        name = _clean(f"{prefix}{key}")
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, _text(name, value)


def _text(name: str, value: Any) -> str:
    """Return a value as text: "" for none and NaN, a line for each text of a list, JSON for other lists.

    journald writes a message that is not plain UTF-8 as a list of its bytes, under a name in capital letters.
    """
    if isinstance(value, list) and name.rpartition(".")[2].isupper() and _is_bytes(value):
        value = bytes(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list):
        texts = all(isinstance(line, str) for line in value)
        value = "\n".join(value) if texts else json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None or value != value or value == {} else _clean(str(value))


def _is_bytes(value: list[Any]) -> bool:
    return bool(value) and all(type(number) is int and 0 <= number < 256 for number in value)
