"""Read the rows of tables: CSV, TSV, JSON, JSON lines, Parquet, .xlsx, and the journal's export.

The standard library reads tables and JSON: pandas pads rows that are too short, guesses types, and does not keep the
numbers of the lines. A row that cannot be read is left out and noted; where many cannot, the first is an error that
names its line.
"""

import csv
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, count, dropwhile, islice, repeat
from pathlib import Path
from statistics import median_high
from typing import Any

from data_builders.layouts import RAW, recognise
from data_builders.opentelemetry import log_records
from logreasoner.cli import UserError
from logreasoner.reading import ANSI_TEXT, ENDINGS, Log
from logreasoner.reading import LONGEST as LONGEST_ENTRY

LARGEST = 1 << 28  # bytes of a file, unpacked: labelled examples are read into memory
LARGEST_SHEET = 1 << 26  # bytes of an .xlsx file, unpacked
LONGEST = 1 << 20  # characters of one value; a CSV field that is longer has lost its closing quote
MOST_BAD, SOME_BAD = 0.1, 10  # share of rows that cannot be read; the share of fewer rows is looked at in the end only
PARQUET_ROWS = 16  # decoded at once
DELIMITERS = ",;\t|"
HEAD = 50  # rows that show whether the first one has names
STREAMED = ("jsonl", "journal")  # kinds of several parts, each of whole records
KINDS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet",
         "pq": "parquet", "xlsx": "xlsx", "xlsm": "xlsx", "export": "journal"}  # endings of names; also formats
SPARSE = ("json", *STREAMED)  # kinds whose records may lack a field
DATUM = re.compile(r"[-+]?\d[\d.,:/+TZ -]*")  # numbers, dates, times and addresses
BLANKS = re.compile(r"[\s\x1e]*")  # between JSON values; RFC 7464 begins each by a record separator
Row = dict[str, str]
Numbered = Iterator[tuple[int, Row]]  # rows, each with a number of its line (of tables: the one that it ends on)
Attempts = Iterator[tuple[int, Row | str]]  # the same, with the reason in place of a row that cannot be read


def is_table(path: Path) -> bool:
    """Tell from its name whether a file is a table."""
    return Path(ENDINGS.sub("", path.name)).suffix.lower().lstrip(".") in KINDS


def kind_of(log: Log, surely: bool = False) -> str:
    """Tell the kind of a table by its first bytes, else by its name, else by its first lines.

    Raises UserError for the name of raw lines, unless it is `surely` a table.
    """
    if log.path.is_file():
        with open(log.path, "rb") as stream:
            if stream.read(4) == b"PAR1":
                return "parquet"
        # A damaged archive is said where it is unpacked.
        with suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(log.path) as archive:
            if "xl/workbook.xml" in archive.namelist():
                return "xlsx"
    suffix = Path(ENDINGS.sub("", log.path.name)).suffix.lower().lstrip(".")
    if suffix not in KINDS and has_json_lines(log):
        return "jsonl"
    if suffix in ("log", "txt") and not surely:
        raise UserError(f"{log}: raw lines need --format: auto, {', '.join(RAW)}, or a regular expression with named "
                        "groups; rename a table with this ending to .csv")
    return KINDS.get(suffix, "csv")


def has_json_lines(log: Log) -> bool:
    """Tell whether a file's first lines are JSON objects, of a pipe the first one, and note it."""
    if str(log.path) == "-":
        found = re.fullmatch(rb"\s*\{.*\}\s*", log.first_line()) is not None
    else:
        found = (log.path.is_file() and log.path.stat().st_size > 0
                 and recognise(replace(log, notes=[])) == "jsonl")
    if not found:
        return False
    log.note(f"{log}: its lines are read as JSON (--format jsonl)")
    return True


def records(log: Log, kind: str, header: bool | None, counts: Counter[str]) -> Numbered:
    """Yield the rows of a file of a kind; `header`: whether the first row has names, None: it is seen.

    Raises UserError with file and line for what cannot be read.
    """
    if log.earlier and kind not in STREAMED or (log.followed and kind != "jsonl"):
        raise UserError(f"{log}: is a table ({kind}); give it alone, a table is neither rotated nor followed")
    readers: dict[str, Callable[[], Attempts]] = {
        "csv": lambda: _table(log, _csv(log, "", counts), header),
        "tsv": lambda: _table(log, _csv(log, "\t", counts), header),
        "xlsx": lambda: _table(log, _xlsx(log), header),
        "json": lambda: _as_rows(_json(log, counts)),
        "jsonl": lambda: _as_rows(_json_lines(log, counts)),
        "parquet": lambda: _as_rows(enumerate(_parquet(log.path), 1)),
        "journal": lambda: _as_rows(_journal(log)),
    }
    return _readable(log, readers[kind](), counts)


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


def clean(text: str, counts: Counter[str] | None = None) -> str:
    """Return a text without NUL characters, which are counted, and ANSI sequences; lone surrogates become "?"."""
    if counts is not None:
        counts["nuls"] += text.count("\0")
    text = text.replace("\0", "")
    if "\x1b" in text:
        text = ANSI_TEXT.sub("", text)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _text_lines(log: Log, counts: Counter[str]) -> Iterator[str]:
    with closing(log.lines()) as lines:
        for line in lines:
            yield clean(line.decode("utf-8", "replace"), counts)


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
    """Yield the values of a list, numbered from 1, also of one within an object; else values one after the other.

    These have the numbers of their lines. Exports of OpenTelemetry are unpacked wherever they stand.
    """
    text, decoder = clean(log.text(LARGEST), counts), json.JSONDecoder(parse_constant=lambda name: None)
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
            alone = begin == start and _after_blanks(text, at) == len(text)
            listed = log_records(value)
            if listed is None and alone:
                listed = _records(value)
            numbers = count(1) if alone and listed is not None else repeat(line)
            yield from zip(numbers, [value] if listed is None else listed, strict=False)
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
            listed = value if isinstance(value, list) else log_records(value)
            yield from ((number, record) for record in ([value] if listed is None else listed))


def _journal(log: Log) -> Iterator[tuple[int, Any]]:
    """Yield the entries of the Journal Export Format: NAME=value, or NAME, a length and a value with line ends.

    See systemd.io/JOURNAL_EXPORT_FORMATS. The number is that of an entry: lengths are no text, nor have lines.
    """
    number, entry = 1, dict[str, bytes]()
    for part in log.parts():
        with part.opened() as stream:
            for line in chain(iter(partial(stream.readline, LONGEST_ENTRY), b""), [b"\n"]):
                name, equals, value = line.removesuffix(b"\n").partition(b"=")
                if name and not equals:
                    size = int.from_bytes(stream.read(8), "little")
                    value = stream.read(min(size, LONGEST_ENTRY))
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
        name = clean(f"{prefix}{key}")
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
    return "" if value is None or value != value or value == {} else clean(str(value))


def _is_bytes(value: list[Any]) -> bool:
    return bool(value) and all(type(number) is int and 0 <= number < 256 for number in value)
