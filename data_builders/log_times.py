"""Find when rows of a log were written, and cut the log into windows of time."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import IO

from logreasoner.cli import UserError
from logreasoner.files import dump
from logreasoner.reading import LONGEST, Reading

Row = tuple[int, dict[str, str]]  # with the number of its line
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DAY = SECONDS["d"]
IN_MEMORY = 1 << 20  # bytes of rows that wait for a date that shows the order of day and month
NAMES = re.compile(r"(@|_+)?(time|timestamp|date|datetime|when|ts|realtime_timestamp|date and time)")
EPOCH = re.compile(r"[\[(]?(\d{9,10})(?:\d{3}|\d{6}|\d{9})?(\.\d+)?\b")  # also in milli-, micro- and nanoseconds
WRITTEN = re.compile(
    r"(?P<iso>\d{4}[-/.]\d\d[-/.]\d\d[ T]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)? ?(?:Z|[+-]\d\d:?\d\d)?)|"
    r"(?P<bgl>\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d)|(?P<access>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?: [+-]\d{4})?)|"
    r"(?P<named>\d{1,2}[- ][A-Z][a-z]{2}[- ]\d{4} \d\d:\d\d:\d\d)|"
    r"(?P<compact>\b\d{8}[ T]\d\d:\d\d:\d\d)|"
    r"(?P<dotted>\b\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d)|(?P<logcat>^\d\d-\d\d \d\d:\d\d:\d\d)|"
    r"(?P<syslog>[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d(?: \d{4})?)|(?P<hdfs>\b\d{6} \d{6}\b)|"
    r"(?P<slashes>\d\d?/\d\d?/\d{4},? \d\d?:\d\d:\d\d(?: [AP]M)?)|(?P<clock>\b\d\d:\d\d:\d\d)")
SLASHES = re.compile(r"(\d\d?)/(\d\d?)/\d{4}")
FORMS = {"bgl": "%Y-%m-%d-%H.%M.%S", "hdfs": "%y%m%d %H%M%S", "dotted": "%d.%m.%Y %H:%M:%S"}


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
    if form == "clock" and re.search(r"\d", text[:written.start()]):
        return None  # behind a date that is not understood: without it all days would be one
    part = f"2000-{part}" if form == "logcat" else part
    try:
        if form in FORMS:
            found = datetime.strptime(part, FORMS[form])
        else:
            from dateutil import parser  # type: ignore[import-untyped]

            part = part.replace(",", ".") if form == "iso" else part.replace(":", " ", 1) if form == "access" else part
            found = parser.parse(part, default=datetime(2000, 1, 1), dayfirst=day_first and form == "slashes")
    except (ValueError, OverflowError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


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

    A time is in a column that is called so, else at the beginning of the text. Dates such as 01/03/2026 have the order
    that one of the log shows. Where none does, `counts` receives how many are read with the month first: within a
    day, it makes no difference. Raises UserError where no row has a time, and for a window that would fill the memory.
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
        text = _time_text(row, reading)
        if order is None:
            order = day_first(text)
            counts["month first"] = 0 if order is not None else counts["month first"] + bool(_date_with_slashes(text))
        now = moment(text, bool(order))
        # Half a day back is a clock without a date that has passed midnight.
        if now is not None and (start is None or not start - DAY / 2 <= now < start + length):
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
                        "the beginning of its text; name the time (?P<time>...) in --format, or take --window")
    if part:
        yield part


def _time_text(row: dict[str, str], reading: Reading) -> str:
    named = next((value for name, value in row.items() if value and NAMES.fullmatch(name.lower())), "")
    return named or row.get(reading.text, "")[:100]


def _order(source: Iterator[Row], reading: Reading, spool: IO[str]) -> bool | None:
    """Read until a date shows the order of day and month, and return it; the rows up to there are in the spool."""
    order = None
    for number, row in source:
        spool.write(f"{dump([number, row])}\n")
        text = _time_text(row, reading)
        order = day_first(text)
        if order is not None or (WRITTEN.search(text) and not _date_with_slashes(text)):
            break
    spool.seek(0)
    return order
