"""Layouts of raw lines: how one line, or one event of several, becomes label, level and content.

The model sees the message, after the time, host and component where a header is shown: as in figure 1 for Spirit's
layout, where it is unless it is said otherwise. A BGL line has Time Node Component for a header, and never its type;
its training templates have none, and it is off there.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from logreasoner.cli import UserError
from logreasoner.events import events
from logreasoner.reading import Log

Parsed = tuple[bytes, bytes, bytes]  # label ("-" unless the line is an alert), level, content
Parser = Callable[[bytes], Parsed | None]


def _bgl(line: bytes) -> Parsed | None:
    """Parse Label Timestamp Date Node Time NodeRepeat Type Component Level Content."""
    try:
        label, stamp, _, _, _, _, _, _, level, content = line.split(b" ", 9)
    except ValueError:
        if line.count(b" ") != 8:
            return None
        label, stamp, *_, level, content = *line.split(b" "), b""  # an empty message
    return (label, level, content) if stamp.isdigit() else None


def _syslog(line: bytes) -> Parsed | None:
    """Parse Label Timestamp Date User Month Day Time Location Component[PID]: Content (Spirit and Thunderbird)."""
    fields = line.split(None, 8)
    if len(fields) < 8 or not fields[1].isdigit():
        return None
    rest = fields[8] if len(fields) == 9 else b""
    component, colon, content = (rest + b" ").partition(b": ")
    # Some lines name no component; then a colon further on belongs to the message.
    return fields[0], b"", content[:-1] if colon and b" " not in component else rest


def _plain(line: bytes) -> Parsed | None:
    return (b"-", b"", line) if line.strip() else None


def _bgl_with_header(line: bytes) -> Parsed | None:
    """Parse a BGL line; its content is Time Node Component Content."""
    if (parsed := _bgl(line)) is None:
        return None
    label, level, content = parsed
    _, _, _, node, time, _, _, component, *_ = line.split(b" ", 8)
    return label, level, b" ".join((time, node, component, content))


def _syslog_with_header(line: bytes) -> Parsed | None:
    """Parse a line of Spirit's layout; its content is Month Day Time Location Component[PID]: Content (figure 1)."""
    return None if (parsed := _syslog(line)) is None else (parsed[0], b"", line.split(None, 4)[4])


LAYOUTS: dict[str, Parser] = {"bgl": _bgl, "spirit": _syslog, "thunderbird": _syslog, "lines": _plain}
WITH_HEADER = {"bgl": _bgl_with_header, "spirit": _syslog_with_header, "thunderbird": _syslog_with_header}
LABELLED = tuple(WITH_HEADER)  # by their first column; one line is one event
HEADER_SHOWN = ("spirit", "thunderbird")  # unless it is said otherwise
# What whole lines look like: the parsers are lenient, and one takes the other's lines.
FORMS = {"bgl": re.compile(rb"\S+ \d+ [\d.]{10} \S+ \d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d\.\d+ \S+ \S+ \S+ \S+"),
         "spirit": re.compile(rb"\S+ +\d+ +[\d.]{10} +\S+ +[A-Z][a-z]{2} +\d+ +\d\d:\d\d:\d\d ")}
FORMS["thunderbird"] = FORMS["spirit"]
TIME = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+"
HOST = r"(?!(?i:trace|debug|info|notice|warn(?:ing)?|err(?:or)?|fatal|crit(?:ical)?|severe)\b)\S+"  # not a level
STRUCTURED = r"-|(?:\[(?:[^\]\\]|\\.)*\])+"
# Layouts whose lines have named parts, of which a model sees `text`, or text1 and text2: CEF's severity stands between
# its message and the rest. One that may stand behind the header of another comes first.
PATTERNS = {
    "cef": r"(?P<header>.*?)CEF:\d+" + "".join(rf"\|(?P<{name}>(?:[^|\\]|\\.)*)" for name in (
        "vendor", "product", "version", "signature")) +
        r"\|(?P<text1>(?P<name>(?:[^|\\]|\\.)*))\|(?P<severity>(?:[^|\\]|\\.)*)\|(?P<text2>(?P<extension>.*))",
    "rfc3164": rf"(?:<\d{{1,3}}>)?(?P<time>{TIME}) (?P<host>{HOST}) "
               r"(?P<text>(?P<program>[^\s:\[<]+)(?:\[\d+\])?:.*)",
    "rfc5424": r"<\d{1,3}>1 (?P<time>\S+) (?P<host>\S+) (?P<program>\S+) \S+ (?P<id>\S+) "
               rf"(?P<data>{STRUCTURED}) ?\ufeff?(?P<text>.*)",
    "access": r"(?P<client>\S+) \S+ (?P<user>\S+) \[(?P<time>[^\]]+)\] "
              r'(?P<text>"(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<bytes>\d+|-).*)',
    "cri": r"(?P<time>\d{4}-\d\d-\d\dT\S+) (?P<stream>stdout|stderr) (?P<part>[FP]) (?P<text>.*)",
}
# Where each line of a program gets a header, so do those of its stack traces. A container's line of more than 16 kB
# comes in parts (P), of which the last is F.
HEADERS = {
    "rfc3164": re.compile(rf"(?:<\d{{1,3}}>)?(?:{TIME}) (?P<who>{HOST} [^\s:\[<]+(?:\[\d+\])?:) ?".encode()),
    "rfc5424": re.compile(rf"<\d{{1,3}}>1 \S+ (?P<who>\S+ \S+ \S+) \S+ (?:{STRUCTURED}) ?".encode()),
    "cri": re.compile(rb"\d{4}-\d\d-\d\dT\S+ (?P<who>stdout|stderr) (?P<part>[FP]) "),
}
JSON_BEHIND = re.compile(r"[^{]*[\s:]\{\s*\".*\}\s*", re.DOTALL)
RAW = (*LAYOUTS, *PATTERNS)  # names of layouts
LOOKED_AT, SOME, NEARLY_ALL = 1_000, 0.5, 0.9


def line_parser(layout: str, header: bool | None = None) -> Parser:
    """Return what parses a line of a layout, with its header in the content or without; None: as the layout has it.

    Raises UserError for a header of plain lines.
    """
    if header and layout not in WITH_HEADER:
        raise UserError(f"--header: the {layout} layout has no header; its lines are shown whole")
    return WITH_HEADER[layout] if header or (header is None and layout in HEADER_SHOWN) else LAYOUTS[layout]


def _share(matches: Callable[[Any], object], lines: Sequence[Any]) -> float:
    return sum(map(bool, map(matches, lines))) / max(1, len(lines))


def recognise(log: Log) -> str:
    """Return the layout that nearly all of a log's first lines have, "jsonl", or "lines", and note it.

    Raises UserError for what is read but once.
    """
    if str(log.path) == "-":
        raise UserError(f"{log}: --format auto looks at a file first; name the format")
    with closing(log.batches()) as lines:
        batch = list(events([next(lines, [])[:LOOKED_AT]], "auto"))
    sample = [event for events_of in batch for event, _ in events_of if event.strip()]
    if sample[:1] and sample[0].startswith(b"__CURSOR="):
        log.note(f"{log}: is read as --format journal, what `journalctl -o export` writes")
        return "journal"
    texts = [event.decode("utf-8", "replace") for event in sample]
    shares = {name: _share(re.compile(regex, re.DOTALL).match, texts)
              for name, regex in {"jsonl": r"\s*\{.*\}\s*$", **PATTERNS}.items()}
    shares |= {name: _share(form.match, sample) for name, form in FORMS.items()}
    best = max(shares, key=lambda name: shares[name])
    layout = best if shares[best] >= NEARLY_ALL else "lines"
    log.note(f"{log}: is read as --format {layout}")
    if layout in HEADERS and _share(JSON_BEHIND.fullmatch, texts) >= NEARLY_ALL:
        log.note(f"{log}: what follows the header of each line is JSON, which is read as it stands; to read its "
                 "fields, cut the header off and give --format jsonl")
    return layout


def check(log: Log, layout: str, lines: Sequence[bytes]) -> None:
    """Raise UserError where the first lines have another layout than was said; note it where they are taken whole."""
    sample = [line for line in islice(lines, LOOKED_AT) if line.strip()]
    shares = {name: _share(form.match, sample) for name, form in FORMS.items()}
    other = max(shares, key=lambda name: shares[name])
    if shares[other] < NEARLY_ALL or shares.get(layout, 0.0) >= SOME:
        return
    message = f"{log}: the lines have the layout {other}, not {layout}"
    if layout in FORMS:
        raise UserError(f"{message}: give --format {other}")
    log.note(f"{message}: each text begins with the label; give --format {other}")
