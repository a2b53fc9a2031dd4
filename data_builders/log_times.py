"""Find when rows of a log were written, and cut the log into windows of time."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from math import inf
from typing import IO

from data_builders.layouts import RAW
from data_builders.table_kinds import KINDS
from data_builders.task_labels import words
from logreasoner.cli import UserError
from logreasoner.files import dump
from logreasoner.reading import LONGEST, Reading

Row = tuple[int, dict[str, str]]  # with the number of its line
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DAY, YEAR = SECONDS["d"], 366 * SECONDS["d"]
IN_MEMORY = 1 << 20  # bytes of rows that wait for a date that shows the order of day and month
# What columns with a time are called, those that mean nothing else first; others end in time, timestamp or date.
NAMES = re.compile(r"(@|_+)?(time|timestamp|date|datetime|when|ts|realtime_timestamp|date and time)")
LIKELY = re.compile(r"@t|(opened|created|logged|occurred)([_ ]?(at|on))?|time[_ ]?(created|generated)|zeit(stempel)?|"
                    r"uhrzeit|datum|(observed)?timeunixnano")
DURATIONS = re.compile(r"(up|down|run|life|cpu|wait|idle|busy|elapsed|response|processing|execution)[_ ]?time")
DATES = ("month", "day", "date", "datum")  # columns with the date of a clock end in one of these words
CLOCK = re.compile(r"\d\d?:\d\d|\d{6}$")  # the latter in HDFS
EPOCH = re.compile(r"[\[(]?(\d{9,10})(?:\d{3}|\d{6}|\d{9})?(\.\d+)?\b")  # also in milli-, micro- and nanoseconds
WRITTEN = re.compile(
    r"(?P<iso>\d{4}[-/.]\d\d[-/.]\d\d[ T]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)? ?(?:Z|[+-]\d\d:?\d\d)?)|"
    r"(?P<bgl>\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d)|(?P<access>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?: [+-]\d{4})?)|"
    r"(?P<named>\d{1,2}[- ][A-Z][a-z]{2}[- ]\d{4} \d\d:\d\d:\d\d)|"
    r"(?P<compact>\b\d{8}[ T]\d\d:\d\d:\d\d)|(?P<audit>\baudit\(\d{9,10}\.\d+:\d+\))|"
    r"(?P<american>[A-Z][a-z]{2} {1,2}\d{1,2},? \d{4},?(?: @)? \d\d?:\d\d:\d\d(?: [AP]M)?)|"
    r"(?P<dotted>\b\d\d\.\d\d\.\d{4} \d\d:\d\d(?::\d\d)?)|(?P<logcat>^\d\d-\d\d \d\d:\d\d:\d\d)|"
    r"(?P<syslog>[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d(?: \d{4})?)|(?P<hdfs>\b\d{6} \d{6}\b)|"
    r"(?P<slashes>\d\d?/\d\d?/\d{4},? \d\d?:\d\d(?::\d\d)?(?: [AP]M)?)|(?P<clock>\b\d\d:\d\d:\d\d)")
SLASHES = re.compile(r"(\d\d?)/(\d\d?)/\d{4}")
FORMS = {"bgl": "%Y-%m-%d-%H.%M.%S", "hdfs": "%y%m%d %H%M%S", "dotted": "%d.%m.%Y %H:%M:%S"}


@lru_cache(maxsize=8)  # a row is asked first whether it has a time
def moment(text: str, day_first: bool = False) -> float | None:
    """Return the first time in a text, in seconds since 1970; None without one. What is not written is of 2000, UTC.

    01/03/2026 is of January, with day_first of March.
    """
    if stamp := EPOCH.match(text):
        return float(stamp[1] + (stamp[2] or ""))
    written = WRITTEN.search(text)
    if written is None:
        return None
    form, part = str(written.lastgroup), written[0]
    if form == "audit":
        return float(part[6:part.index(":")])
    if form == "clock" and re.search(r"\d", text[:written.start()]):
        return None  # behind a date that is not understood: without it all days would be one
    part = f"2000-{part}" if form == "logcat" else f"{part}:00" if form == "dotted" and len(part) == 16 else part
    try:
        if form in FORMS:
            found = datetime.strptime(part, FORMS[form])
        else:
            from dateutil import parser  # type: ignore[import-untyped]

            old, new = {"iso": (",", "."), "access": (":", " "), "american": (" @", "")}.get(form, ("", ""))
            part = part.replace(old, new, 1)
            found = parser.parse(part, default=datetime(2000, 1, 1), dayfirst=day_first and form == "slashes")
    except (ValueError, OverflowError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def period(text: str) -> float:
    """Return after how many seconds the first time in a text comes again: it may be written without day or year."""
    written = None if EPOCH.match(text) else WRITTEN.search(text)
    if written is None or written.lastgroup not in ("clock", "logcat", "syslog"):
        return inf
    return DAY if written["clock"] else inf if re.search(r" \d{4}$", written[0]) else YEAR


def day_first(text: str) -> bool | None:
    """Tell whether the first time in a text has the day before the month; None where it does not show it."""
    date = _date_with_slashes(text)
    first, second = map(int, date.groups()) if date else (0, 0)
    return None if first == second or max(first, second) <= 12 else first > second


def _date_with_slashes(text: str) -> re.Match[str] | None:
    written = WRITTEN.search(text)
    return SLASHES.match(written[0]) if written and written["slashes"] else None


def windows(source: Iterator[Row], reading: Reading, counts: Counter[str]) -> Iterator[list[Row]]:
    """Yield the rows of each window of time; one without a time, or a little late, belongs to the window before.

    A row that is earlier by more than a window begins a new one; `counts` receives how many rows are earlier than the
    window before them. Dates such as 01/03/2026 have the order that one of the log shows. Where none does, `counts`
    receives how many are read with the month first: within a day, it makes no difference. Raises UserError where no
    row has a time (`time_text`), and for a window that would fill the memory.
    """
    length = int(reading.every[:-1]) * SECONDS[reading.every[-1]]
    with tempfile.SpooledTemporaryFile(IN_MEMORY, "w+", encoding="utf-8") as spool:
        order = _order(source, reading, spool) if length > DAY else None
        read = ((number, row) for number, row in map(json.loads, spool))
        yield from _windows(chain(read, source), reading, counts, length, order)


def _windows(source: Iterator[Row], reading: Reading, counts: Counter[str], length: int, order: bool | None
             ) -> Iterator[list[Row]]:
    part, size, start = list[Row](), 0, None
    for number, row in source:
        text, turned = time_text(row, reading.text), False
        if order is None:
            order = day_first(text)
            turned = bool(order)  # what came before was read with the month first
            counts["month first"] = 0 if order is not None else counts["month first"] + bool(_date_with_slashes(text))
        now = moment(text, bool(order))
        back = 0.0 if now is None or start is None else start - now
        again = back > 0 and (turned or back >= period(text) / 2)  # a clock has passed midnight, or a date a new year
        counts["earlier"] += back > 0 and not again
        if now is not None and (start is None or again or not -length < back <= length):
            if part and start is not None:
                yield part
                part, size = [], 0
            start = now // length * length
        part.append((number, row))
        size += sum(map(len, row.values()))
        if size > LONGEST:
            raise UserError(f"the session that begins with line {part[0][0]:,} is longer than {LONGEST >> 20} MiB; "
                            "choose a smaller --every")
    if part and start is None:
        raise UserError(f"--every {reading.every}: no row has a time that is understood, in a column called time or at "
                        f"the beginning of its text; {_advice(part[0][1], reading)}, or take --window")
    if part:
        yield part


def _advice(row: dict[str, str], reading: Reading) -> str:
    if reading.format in ("table", *KINDS.values()):
        return f"there are the columns {', '.join(map(repr, row))}: rename the one with the time to 'time'"
    return "name the time (?P<time>...) in --format" if reading.format in RAW else \
        f"--format names {', '.join(row)}: name the time (?P<time>...)"


def time_text(row: dict[str, str], text: str) -> str:
    """Return the part of a row that has its time, "" for none: of columns that are called so, the first with a date.

    A clock gets the date that stands in other columns. Else it is the beginning of the column `text`.
    """
    columns = time_columns(tuple(row))
    # Of a session, the values of its first row.
    values = {name: row[name].strip().partition("\n")[0] for name in {*columns, *chain(*columns.values())}}
    whole = [values[name] for name in columns if not CLOCK.match(values[name])]
    clocks = [" ".join(values[part] for part in (*dates, name) if values[part])
              for name, dates in columns.items() if name not in dates and CLOCK.match(values[name])]
    return next((value for value in (*whole, *clocks, row.get(text, "")[:100]) if moment(value, False) is not None), "")


def order(rows: Sequence[dict[str, str]], text: str) -> list[int] | None:
    """Return the places of rows in the order of their times (`time_text`).

    None unless each row has one with a date, whose order of day and month is known, and is of one year if none is
    written.
    """
    texts = [time_text(row, text) for row in rows]
    first = next((order for order in map(day_first, texts) if order is not None), None)
    times = [time for part in texts if (time := moment(part, bool(first))) is not None]
    again, slashes = min(map(period, texts), default=inf), any(map(_date_with_slashes, texts))
    unclear = again == DAY or (slashes and first is None)
    if len(times) < len(rows) or unclear or (times and max(times) - min(times) >= again / 2):
        return None
    return sorted(range(len(rows)), key=times.__getitem__)


@lru_cache(maxsize=256)
def time_columns(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the names of columns with times, the surest first, each with those that may have its date."""
    parts = {name: words(name) or [""] for name in names}
    sure = [name for name in names if NAMES.fullmatch(name.lower())]
    others = [name for name in names if name not in sure and (
        LIKELY.fullmatch(name.lower()) or parts[name][-1].endswith(("time", "timestamp")) or parts[name][-1] == "date"
    ) and not DURATIONS.search(name.lower())]
    return {name: tuple(date for date in names if parts[date][-1] in DATES and parts[date][:-1] == parts[name][:-1])
            for name in (*sure, *others)}


def _order(source: Iterator[Row], reading: Reading, spool: IO[str]) -> bool | None:
    """Read until a date shows the order of day and month, and return it; the rows up to there are in the spool."""
    order = None
    for number, row in source:
        spool.write(f"{dump([number, row])}\n")
        text = time_text(row, reading.text)
        order = day_first(text)
        if order is not None or (WRITTEN.search(text) and not _date_with_slashes(text)):
            break
    spool.seek(0)
    return order
