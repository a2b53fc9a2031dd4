"""Find when rows of a log were written, and cut the log into windows of time."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from logreasoner.cli import UserError
from logreasoner.reading import LONGEST, Reading

Row = tuple[int, dict[str, str]]  # with the number of its line
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DAY = SECONDS["d"]
NAMES = re.compile(r"(@|_+)?(time|timestamp|date|datetime|when|ts|realtime_timestamp|date and time)")
EPOCH = re.compile(r"[\[(]?(\d{9,10})(?:\d{3}|\d{6}|\d{9})?(\.\d+)?\b")  # also in milli-, micro- and nanoseconds
WRITTEN = re.compile(
    r"(?P<iso>\d{4}[-/.]\d\d[-/.]\d\d[ T]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)? ?(?:Z|[+-]\d\d:?\d\d)?)|"
    r"(?P<bgl>\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d)|(?P<access>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?: [+-]\d{4})?)|"
    r"(?P<named>\d{1,2}[- ][A-Z][a-z]{2}[- ]\d{4} \d\d:\d\d:\d\d)|"
    r"(?P<compact>\b\d{8}[ T]\d\d:\d\d:\d\d)|"
    r"(?P<dotted>\b\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d)|(?P<logcat>^\d\d-\d\d \d\d:\d\d:\d\d)|"
    r"(?P<syslog>[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d(?: \d{4})?)|(?P<hdfs>\b\d{6} \d{6}\b)|"
    r"(?P<us>\d\d?/\d\d?/\d{4},? \d\d?:\d\d:\d\d(?: [AP]M)?)|(?P<clock>\b\d\d:\d\d:\d\d)")
FORMS = {"bgl": "%Y-%m-%d-%H.%M.%S", "hdfs": "%y%m%d %H%M%S", "dotted": "%d.%m.%Y %H:%M:%S"}


def moment(text: str) -> float | None:
    """Return the first time in a text, in seconds since 1970; None without one. What is not written is of 2000, UTC."""
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
            found = parser.parse(part, default=datetime(2000, 1, 1))
    except (ValueError, OverflowError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def windows(source: Iterator[Row], reading: Reading) -> Iterator[list[Row]]:
    """Yield the rows of each window of time; one without a time, or a little late, belongs to the window before.

    A time is in a column that is called so, else at the beginning of the text. Raises UserError where no row has one,
    and for a window that would fill the memory.
    """
    length, start = int(reading.every[:-1]) * SECONDS[reading.every[-1]], None
    part: list[Row] = []
    size = 0
    for number, row in source:
        named = next((value for name, value in row.items() if value and NAMES.fullmatch(name.lower())), "")
        now = moment(named or row.get(reading.text, "")[:100])
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
