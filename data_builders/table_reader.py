"""Read a user's file of logs as rows of text: CSV, TSV, JSON, JSONL, Parquet or raw log lines; plain, .gz or .zip.

Every value is text without NUL characters; what cannot be read is an error that names the line. The standard library
reads tables and JSON: pandas pads rows that are too short, guesses types, and does not keep the numbers of the lines.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data_builders import sessions
from logreasoner.cli import UserError

LARGEST = 1 << 28  # bytes of a file, unpacked: labelled examples are read into memory
LONGEST = 1 << 20  # characters of one value; a CSV field that is longer has lost its closing quote
MOST_COLUMNS, MOST_ROWS = 500, 1_000_000
PARQUET_ROWS = 16  # decoded at once
Row = dict[str, str]
Numbered = Iterator[tuple[int, Row]]  # rows, each with the number of the line that it ends on


@dataclass
class Table:
    """The rows of a file by column, the number of the line each ends on, and notes on what was changed or left out."""

    columns: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def values(self, column: str) -> list[str]:
        """Return a column's values that are not empty."""
        return [value for row in self.rows if (value := row[column].strip())]


def read(path: Path, layout: str | None = None, window: int = 1, limit: int | None = None) -> Table:
    """Read the first `limit` rows of a file.

    `layout` is for raw lines: a name of sessions.LAYOUTS, or a regular expression with named groups. Raises UserError
    with file and line for what does not have the format that the file's name promises.
    """
    table, counts = Table(), Counter[str]()
    suffix = Path(re.sub(r"\.(gz|zip)$", "", path.name, flags=re.IGNORECASE)).suffix.lower()
    if layout in sessions.LAYOUTS:
        rows = _sessions(path, layout, window, limit, counts)
    elif layout is not None:
        rows = _matches(path, layout, window, counts)
    elif suffix in (".parquet", ".pq"):
        rows = _as_text(path, enumerate(_parquet(path), 1))
    elif suffix in (".json", ".jsonl", ".ndjson"):
        rows = _as_text(path, _json(path, _decode(path, table.notes)))
    elif suffix in (".log", ".txt"):
        raise UserError(f"{path}: raw lines need --format: {', '.join(sessions.LAYOUTS)}, or a regular expression with "
                        "named groups; rename a table with this ending to .csv")
    else:
        rows = _csv(path, _decode(path, table.notes), tabs=suffix == ".tsv")
    _fill(table, path, islice(rows, limit))
    if layout in sessions.LAYOUTS:
        table.notes.append(sessions.report(path.name, window, counts))
    elif counts["unmatched"]:
        table.notes.append(f"{counts['unmatched']:,} lines do not match --format and are left out")
    return table


def _fill(table: Table, path: Path, rows: Numbered) -> None:
    columns: dict[str, None] = {}
    for number, row in rows:
        table.rows.append(row)
        table.lines.append(number)
        columns.update(dict.fromkeys(row))
        if len(columns) > MOST_COLUMNS:
            raise UserError(f"{path}: more than {MOST_COLUMNS} columns; keep the log, its label and its source")
        if len(table.rows) > MOST_ROWS:
            raise UserError(f"{path}: more than {MOST_ROWS:,} rows; some thousand are enough, give --limit")
    if not table.rows:
        raise UserError(f"{path}: holds no rows")
    table.columns = list(columns)
    table.rows = [{column: row.get(column, "") for column in columns} for row in table.rows]


def _decode(path: Path, notes: list[str]) -> str:
    """Return a file's text: UTF-8 (a byte order mark is dropped), UTF-16 by its mark, else Latin-1, with a note."""
    data = bytearray()
    with closing(sessions.blocks(path)) as blocks:
        for block in blocks:
            data += block
            if len(data) > LARGEST:
                raise UserError(f"{path}: is larger than {LARGEST >> 20} MiB; some thousand rows are enough, cut it")
    try:
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("latin-1")
        notes.append(f"byte {error.start:,} is not {error.encoding.upper()}: the file is read as Latin-1; if letters "
                     "come out wrong, save it as UTF-8")
    if nuls := text.count("\0"):
        notes.append(f"{nuls:,} NUL characters removed")
    return text.replace("\0", "")


def _csv(path: Path, text: str, tabs: bool) -> Numbered:
    delimiter = "\t" if tabs else max(",;\t|", key=text.partition("\n")[0].count)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if not columns:
                columns = [value.strip() or f"column {number}" for number, value in enumerate(values, 1)]
                if repeated := [name for name, count in Counter(columns).items() if count > 1]:
                    raise UserError(f"{path}: two columns are called {repeated[0]!r}; rename one")
            elif len(values) != len(columns):
                raise UserError(f"{path}:{reader.line_num}: {len(values)} fields where the first line names "
                                f"{len(columns)} columns; put a text that holds {delimiter!r} in double quotes")
            else:
                yield reader.line_num, dict(zip(columns, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: the quotes of the table are broken ({error}); a quote within a "
                        "quoted text is written twice") from None


def _json(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield the values of one list, numbered from 1, or those of one value a line."""
    one_list = text.lstrip().startswith("[")
    for number, line in enumerate([text] if one_list else text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error}); correct or remove the line") from None
        yield from enumerate(value, 1) if one_list else [(number, value)]


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


def _as_text(path: Path, records: Iterable[tuple[int, Any]]) -> Numbered:
    for number, record in records:
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: expected an object with named values, found {type(record).__name__}")
        row = {_text(name): _text(value) for name, value in record.items()}
        if any(len(value) > LONGEST for value in row.values()):
            raise UserError(f"{path}:{number}: a value is longer than {LONGEST >> 20} MiB; this is not a log line")
        yield number, row


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)  # a session
    text = "" if value is None else str(value)
    return text.replace("\0", "").encode("utf-8", "replace").decode()  # JSON can hold lone surrogates


def _sessions(path: Path, layout: str, window: int, limit: int | None, counts: Counter[str]) -> Numbered:
    lines = limit * window if limit else None
    for session in sessions.sessions(path, layout, window, "own", counts, limit=lines):
        row = {"text": "\n".join(session["log"]).replace("\0", "")}
        if layout != "lines":
            row["label"] = session["label"]
        yield int(session["id"].split("-")[1]), row


def _matches(path: Path, layout: str, window: int, counts: Counter[str]) -> Numbered:
    try:
        pattern = re.compile(layout)
    except re.error as error:
        raise UserError(f"--format {layout!r}: neither one of {', '.join(sessions.LAYOUTS)} nor a regular expression "
                        f"({error})") from None
    if not pattern.groupindex or window != 1:
        raise UserError(f"--format {layout!r}: a regular expression needs named groups such as (?P<text>.*), which "
                        "become the columns, and takes one line a row (no --window)")
    with closing(sessions.lines(path)) as lines:
        for number, line in enumerate(lines, 1):
            if match := pattern.match(line.decode("utf-8", "replace").replace("\0", "")):
                yield number, {name: value or "" for name, value in match.groupdict().items()}
            elif line.strip():
                counts["unmatched"] += 1
