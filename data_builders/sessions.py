"""Cut raw system logs into labelled sessions: fixed windows of consecutive lines (section 4.3.1).

    python -m data_builders.sessions --format bgl --window 20 --limit 1000000 --out bgl.jsonl BGL.zip

The model sees the message, after the time, host and component where --header is on: as in figure 1 for Spirit's layout,
where it is on unless --no-header says otherwise. A BGL line has Time Node Component for a header, and never its type;
its training templates have none, and it is off there. A session is abnormal if the label column of any of its lines is
not "-". Lines without a complete header (and blank ones) cannot be told from noise: they are skipped and counted, never
shown. Plain `lines` carry no labels, so their label is "", which scoring refuses.
"""

import argparse
import gzip
import hashlib
import lzma
import random
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO, cast

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.files import hashing, manifest, write_jsonl

BLOCK = 1 << 16  # bytes; the lines of one stay in the processor's cache, and are too few to wake the garbage collector
LONGEST = 12 << 20  # bytes of one line, and of one session; what is longer is not a log, and would fill the memory
Parsed = tuple[bytes, bytes, bytes]  # label ("-" unless the line is an alert), level, content

EXAMPLES = """
python -m data_builders.sessions --format bgl --window 20 --out sessions.jsonl BGL.log
python -m data_builders.sessions --format bgl --limit 1000000 --seed 42 --out bgl.jsonl BGL.zip
python -m data_builders.sessions --format spirit --limit 1000000 --source spirit --out spirit.jsonl spirit2.gz
python -m data_builders.sessions --format lines --out mine.jsonl /var/log/syslog"""


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


LAYOUTS: dict[str, Callable[[bytes], Parsed | None]] = {
    "bgl": _bgl, "spirit": _syslog, "thunderbird": _syslog, "lines": _plain,
}
WITH_HEADER = {"bgl": _bgl_with_header, "spirit": _syslog_with_header, "thunderbird": _syslog_with_header}
HEADER_SHOWN = ("spirit", "thunderbird")  # unless it is said otherwise


def line_parser(layout: str, header: bool | None = None) -> Callable[[bytes], Parsed | None]:
    """Return what parses a line of a layout, with its header in the content or without; None: as the layout has it.

    Raises UserError for a header of plain lines.
    """
    if header and layout not in WITH_HEADER:
        raise UserError(f"--header: the {layout} layout has no header; its lines are shown whole")
    return WITH_HEADER[layout] if header or (header is None and layout in HEADER_SHOWN) else LAYOUTS[layout]


def _choose_member(archive: zipfile.ZipFile, path: Path, member: str | None) -> str:
    """Return the archive's only log, else its only file, unless one is named."""
    files = [info.filename for info in archive.infolist()
             if not info.is_dir() and not info.filename.startswith("__MACOSX/")]
    logs = [name for name in files if name.endswith(".log")]
    if member is not None:
        if member in files:
            return member
        raise UserError(f"{path}: has no file {member!r}; it has {', '.join(files[:10])}")
    for names in (logs, files):
        if len(names) == 1:
            return names[0]
    raise UserError(f"{path}: should hold exactly one log file, holds {len(files)} files ({', '.join(files[:10])}); "
                    "name one with --member")


def _open(path: Path, member: str | None) -> BinaryIO:
    with open(path, "rb") as stream:
        magic = stream.read(4)
    if path.suffix == ".zip" or magic == b"PK\x03\x04":
        archive = zipfile.ZipFile(path)
        return cast(BinaryIO, archive.open(_choose_member(archive, path, member)))
    if path.suffix == ".gz" or magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.open(path))
    return open(path, "rb")


def _tar_header(block: bytes) -> bool:
    """Return whether these bytes have the checksum of a tar header: a log may contain "ustar" as well."""
    import tarfile

    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError:
        return False
    return True


def blocks(path: Path, member: str | None = None) -> Generator[bytes, None, None]:
    """Yield a log's bytes, unpacked, a block at a time. Raises UserError for a file or archive that cannot be read."""
    try:
        with _open(path, member) as stream:
            block = stream.read(BLOCK)
            if block[257:262] == b"ustar" and _tar_header(block[:512]):
                raise UserError(f"{path}: is a tar archive; unpack it and give the log file itself")
            while block:
                yield block
                block = stream.read(BLOCK)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.filename:
            raise  # an error of the file; one without a name comes from wrong numbers in the archive
        raise UserError(f"{path}: the archive cannot be read ({error or 'it ends too early'}); download it again, "
                        "or unpack it and give the log file itself") from None


def batches(path: Path, member: str | None = None) -> Generator[list[bytes], None, None]:
    """Yield a log's lines without their ends (LF or CRLF), those of one block at a time."""
    rest = b""
    with closing(blocks(path, member)) as source:
        for block in source:
            returns = b"\r" in block or rest.endswith(b"\r")
            batch = block.split(b"\n")
            batch[0] = rest + batch[0]
            rest = batch.pop()
            if len(rest) > LONGEST:
                raise UserError(f"{path}: a line is longer than {LONGEST >> 20} MiB; this is not a line-based log")
            yield [line.removesuffix(b"\r") for line in batch] if returns else batch
    if rest:
        yield [rest.removesuffix(b"\r")]


def lines(path: Path, member: str | None = None) -> Generator[bytes, None, None]:
    """Yield a log's lines without their ends, one by one; memory does not grow with the log."""
    with closing(batches(path, member)) as source:
        for batch in source:
            yield from batch


def count_lines(path: Path, member: str | None = None) -> int:
    """Count the lines, the last one with or without an end."""
    total, last = 0, b"\n"
    for block in blocks(path, member):
        total += block.count(b"\n")
        last = block[-1:]
    return total + (last != b"\n")


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
            counts[label] += 1
            yield {"id": f"{source}-{numbers[start]}-{hashlib.sha256(joined).hexdigest()[:12]}",
                   "task": "anomaly_detection", "source": source,
                   "log": joined.decode("utf-8", "replace").split("\n"), "label": label, "split": "test"}
        del numbers[:whole], labels[:whole], contents[:whole]
        if sum(map(len, contents)) > LONGEST:
            raise UserError(f"the session that begins with line {numbers[0]:,} is longer than {LONGEST >> 20} MiB; "
                            "choose a smaller --window")
    counts["dropped"] = len(contents)


def sessions(path: Path, layout: str, window: int, source: str, counts: Counter[str], *, limit: int | None = None,
             seed: int | None = None, level: bool = False, header: bool | None = None,
             member: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the sessions of a log's first `limit` lines, with a seed those of one random block of `limit` lines.

    Raises UserError for a layout without a level, an unreadable archive, and a log in which no line has the layout.
    """
    if level and layout != "bgl":
        raise UserError(f"--level: the {layout} layout has no level column; only bgl has")
    start = 0
    if seed is not None and limit is not None:
        start = random.Random(seed).randint(0, max(0, count_lines(path, member) - limit))
    with closing(batches(path, member)) as log:
        part = _between(log, start, None if limit is None else start + limit)
        yield from windows(part, layout, window, source, counts, start + 1, level, header)
    if counts["malformed"] == counts["lines"] > 0:
        raise UserError(f"{path}: none of {counts['lines']:,} lines has the {layout} layout; is --format right?")


def source_name(path: Path) -> str:
    """Name a log after its file: BGL_2k.log is bgl-2k."""
    stem = re.sub(r"(\.(gz|zip|log|txt))+$", "", path.name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "log"


def report(name: str, window: int, counts: Counter[str]) -> str:
    """Return one line of text that accounts for every line of a log."""
    labelled = "labels unknown" if counts[""] else f"{counts['abnormal']:,} abnormal"
    return (f"{name}: {counts['lines']:,} lines -> {counts['sessions']:,} sessions of {window} lines, {labelled}; "
            f"{counts['malformed']:,} malformed lines skipped, {counts['dropped']:,} of a short last window dropped")


def build(options: argparse.Namespace) -> None:
    """Write the sessions of one log file, and print what they are."""
    if options.out.exists() and options.input.exists() and options.out.samefile(options.input):
        raise UserError(f"{options.out}: --out is the log itself; name another file")
    counts: Counter[str] = Counter()
    source = options.source or source_name(options.input)
    if "#" in source:
        raise UserError(f"--source {source!r}: '#' is reserved for the numbers of votes; choose another name")
    rows = sessions(options.input, options.format, options.window, source, counts, limit=options.limit,
                    seed=options.seed, level=options.level, header=options.header, member=options.member)
    if sys.stderr.isatty():
        from tqdm import tqdm

        rows = iter(tqdm(rows, unit=" sessions"))
    with hashing(options.input) as checksum:
        write_jsonl(options.out, rows)
        inputs = {options.input: checksum()}
    declared = ("format", "window", "limit", "seed", "level", "header", "member")
    settings = {key: getattr(options, key) for key in declared}
    manifest(options.out, inputs, source=source, settings=settings, counts=counts)
    print(report(str(options.input), options.window, counts))


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.sessions", "Cut a raw log into labelled sessions of consecutive lines.",
                        EXAMPLES)
    parser.add_argument("--format", required=True, choices=LAYOUTS, help="the layout of a line")
    parser.add_argument("--window", type=cli.positive, default=20, help="lines of a session (default: 20, the paper's)")
    parser.add_argument("--limit", type=cli.positive, help="read so many lines (default: all)")
    parser.add_argument("--seed", type=int, help="with --limit: one random block instead of the first lines")
    parser.add_argument("--level", action="store_true", help="show BGL's level before each message")
    parser.add_argument("--header", action=argparse.BooleanOptionalAction,
                        help="show time, host and component before each message (default: on for Spirit's layout)")
    parser.add_argument("--source", help="name of the source (default: from the file's name)")
    parser.add_argument("--member", help="which file of a zip archive that holds several")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("input", type=Path, metavar="INPUT", help="a log: plain, .gz or .zip")
    cli.run(parser, build)


if __name__ == "__main__":
    main()
