"""A user's file of logs -> rows of text: CSV, TSV, JSON, JSONL, Parquet, or raw log lines; plain, .gz or .zip.

Whatever the file holds, what comes out is text without NUL characters, or an error that names the line.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_builders import sessions
from logreasoner.cli import UserError

LARGEST = 1 << 28  # bytes of a file, unpacked: labelled examples are read into memory
LONGEST = 1 << 20  # characters of one value; a CSV field that is longer has lost its closing quote
MOST_COLUMNS, MOST_ROWS = 500, 1_000_000
PARQUET_ROWS = 16  # decoded at once
Row = dict[str, str]


@dataclass
class Incoming:
    """The rows of a file by column, the number of the line each ends on, and what had to be mended."""

    columns: list[str]
    rows: list[Row]
    lines: list[int]
    notes: list[str] = field(default_factory=list)

    def values(self, column: str) -> list[str]:
        """A column's values that are not empty."""
        return [value for row in self.rows if (value := row[column].strip())]


def read(path: Path, layout: str | None = None, window: int = 1, limit: int | None = None) -> Incoming:
    """The rows of a file. `layout` is for raw lines: a name of sessions.LAYOUTS, or a regular expression with groups.

    Raises UserError with file and line for what cannot be read as what the name says it is.
    """
    suffix = Path(re.sub(r"\.(gz|zip)$", "", path.name, flags=re.IGNORECASE)).suffix.lower()
    if layout is not None:
        found = _raw(path, layout, window, limit)
    elif suffix in (".parquet", ".pq"):
        found = _rows(path, enumerate(_parquet(path), 1))
    elif suffix in (".log", ".txt"):
        raise UserError(f"{path}: raw lines need --format: {', '.join(sessions.LAYOUTS)}, or a regular expression with "
                        "named groups; a table with another name's ending can be renamed to .csv")
    else:
        text, notes = decoded(path)
        if suffix in (".json", ".jsonl", ".ndjson"):
            found = _rows(path, _json(path, text))
        else:
            found = _csv(path, text, suffix == ".tsv")
        found.notes += notes
    if limit is not None:
        found.rows, found.lines = found.rows[:limit], found.lines[:limit]
    if not found.rows:
        raise UserError(f"{path}: holds no rows")
    return found


def decoded(path: Path) -> tuple[str, list[str]]:
    """A file's text and how it was made: UTF-8 (a byte order mark is dropped), UTF-16 by its mark, else Latin-1."""
    data = bytearray()
    with closing(sessions.blocks(path)) as blocks:
        for block in blocks:
            data += block
            if len(data) > LARGEST:
                raise UserError(f"{path}: is larger than {LARGEST >> 20} MiB; some thousand rows are enough, cut it")
    notes: list[str] = []
    try:
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("latin-1")
        notes.append(f"byte {error.start:,} is not {error.encoding.upper()}: the file is read as Latin-1; if letters "
                     "come out wrong, save it as UTF-8")
    if nuls := text.count("\0"):
        notes.append(f"{nuls:,} NUL characters removed")
    return text.replace("\0", ""), notes


def _csv(path: Path, text: str, tabs: bool) -> Incoming:
    delimiter = "\t" if tabs else max(",;\t|", key=text.partition("\n")[0].count)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found = Incoming([], [], [])
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if not found.columns:
                found.columns = [value.strip() or f"column {at}" for at, value in enumerate(values, 1)]
                _check_columns(path, found.columns)
                continue
            if len(values) != len(found.columns):
                raise UserError(f"{path}:{reader.line_num}: {len(values)} fields where the first line names "
                                f"{len(found.columns)} columns; put a text that holds {delimiter!r} in double quotes")
            found.rows.append(dict(zip(found.columns, values, strict=True)))
            found.lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: the quotes of the table are broken ({error}); a quote within a "
                        "quoted text is written twice") from None
    return found


def _json(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    whole = text.lstrip().startswith("[")
    for number, line in enumerate([text] if whole else text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error}); mend or remove the line") from None
        yield from enumerate(value, 1) if whole else [(number, value)]


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, one unpacked at a time: a dictionary of one long text can stand for gigabytes."""
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    large = UserError(f"{path}: holds more than {MOST_ROWS:,} rows or {LARGEST >> 20} MiB, unpacked; some thousand "
                      "rows are enough, cut it")
    size = count = 0
    try:
        with parquet.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            if sum(file.metadata.row_group(at).total_byte_size for at in groups) > LARGEST:
                raise large
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in zip(*batch.columns, strict=True):
                    row = {name: value.as_py() for name, value in zip(batch.schema.names, values, strict=True)}
                    size, count = size + sum(len(str(value)) for value in row.values()), count + 1
                    if size > LARGEST or count > MOST_ROWS:
                        raise large
                    yield row
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())})") from None


def _rows(path: Path, records: Iterable[tuple[int, Any]]) -> Incoming:
    columns: dict[str, None] = {}
    rows, lines = [], []
    for number, record in records:
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: expected an object with named values, found {type(record).__name__}")
        rows.append({_clean(key): _text(path, number, value) for key, value in record.items()})
        lines.append(number)
        columns.update(dict.fromkeys(rows[-1]))
        _check_columns(path, list(columns))
    return Incoming(list(columns), [{key: row.get(key, "") for key in columns} for row in rows], lines)


def _text(path: Path, number: int, value: Any) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)  # a session
    text = "" if value is None else value if isinstance(value, str) else str(value)
    if len(text) > LONGEST:
        raise UserError(f"{path}:{number}: a value is longer than {LONGEST >> 20} MiB; this is not a log line")
    return _clean(text)


def _clean(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()  # JSON can hold half a character


def _check_columns(path: Path, columns: list[str]) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice or len(columns) > MOST_COLUMNS:
        raise UserError(f"{path}: " + (f"two columns are called {twice[0]!r}; rename one" if twice else
                                       f"more than {MOST_COLUMNS} columns; keep the log, its label and its source"))


def _raw(path: Path, layout: str, window: int, limit: int | None) -> Incoming:
    found = Incoming([], [], [])
    if layout in sessions.LAYOUTS:
        counts: Counter[str] = Counter()
        found.columns = ["text"] if layout == "lines" else ["text", "label"]
        lines = limit * window if limit else None
        for item in sessions.sessions(path, layout, window, "own", counts, limit=lines):
            row = {"text": "\n".join(item["log"]).replace("\0", ""), "label": item["label"]}
            found.rows.append({key: row[key] for key in found.columns})
            found.lines.append(int(item["id"].split("-")[1]))
            _check_size(path, found)
        found.notes.append(sessions.report(path.name, window, counts))
        return found
    try:
        pattern = re.compile(layout)
    except re.error as error:
        raise UserError(f"--format {layout!r}: neither one of {', '.join(sessions.LAYOUTS)} nor a regular expression "
                        f"({error})") from None
    if not pattern.groupindex or window != 1:
        raise UserError(f"--format {layout!r}: a regular expression needs named groups such as (?P<text>.*), which "
                        "become the columns, and takes one line a row (no --window)")
    found.columns = list(pattern.groupindex)
    strangers = 0
    with closing(sessions.lines(path)) as source:
        for number, line in enumerate(source, 1):
            match = pattern.match(line.decode("utf-8", "replace").replace("\0", ""))
            if match:
                found.rows.append({key: value or "" for key, value in match.groupdict().items()})
                found.lines.append(number)
                _check_size(path, found)
            strangers += not match and bool(line.strip())
            if len(found.rows) == limit:
                break
    if strangers:
        found.notes.append(f"{strangers:,} lines do not match --format and are left out")
    return found


def _check_size(path: Path, found: Incoming) -> None:
    if len(found.rows) > MOST_ROWS:
        raise UserError(f"{path}: more than {MOST_ROWS:,} rows; some thousand are enough, give --limit")
