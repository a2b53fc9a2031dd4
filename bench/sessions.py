"""Compare data_builders.sessions with a bare loop, polars and the papers' way, on BGL-format lines made from a seed."""

import gzip
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, zip_longest
from pathlib import Path

from bench.measuring import Ran, Row, alternately, limit, ran, ratio
from logreasoner.cli import UserError
from logreasoner.files import writing
from logreasoner.reading import LONGEST

LINES, LONG = 1_000_000, 4_700_000  # LONG: as many as BGL has
PEAK = 300  # MiB
BEGIN = datetime(2005, 6, 3, 15, 42, 50, tzinfo=UTC)
# Messages: (share, label, component, level, message with places for numbers and a node). Shares and lengths are
# like those of the public BGL lines: 157 bytes a line, 51 of them the message, 7% alerts.
MESSAGES = [
    (27, "-", "KERNEL", "INFO", "generating core.{small}"),
    (18, "-", "KERNEL", "INFO", "cache line {small} at 0x{large:08x} was refilled, corrected by the controller"),
    (14, "-", "KERNEL", "INFO", "{small} alignment exceptions in both units of the processor"),
    (12, "-", "KERNEL", "INFO", "CE sym {small}, at 0x{large:08x}, mask 0x{small:02x}"),
    (10, "-", "APP", "INFO", "process {small} of {node} has written its checkpoint of {large} bytes to the disks"),
    (8, "-", "KERNEL", "FATAL", "machine state register: 0x{large:08x}"),
    (4, "-", "DISCOVERY", "WARNING", "the service card of {node} does not answer, attempt {small}: \"retrying\""),
    (4, "KERNDTLB", "KERNEL", "FATAL", "data TLB error interrupt at 0x{large:08x}"),
    (2, "APPREAD", "APP", "FATAL", "cannot read a message prefix on the control stream of {node}, socket {small}"),
    (1, "KERNSTOR", "KERNEL", "FATAL", "data storage interrupt: instruction address 0x{large:08x}"),
]


def bgl_lines(seed: int = 42) -> Iterator[str]:
    """Yield BGL-format lines with line ends, infinitely."""
    draw, moment = random.Random(seed), BEGIN
    weights = [share for share, *_ in MESSAGES]
    while True:
        small, large = draw.randrange(1000), draw.randrange(2**32)
        node = f"R{small % 64:02}-M{small % 2}-N{large % 16:X}-C:J{large % 18:02}-U{large % 2}1"
        moment += timedelta(microseconds=large % 1_000_000)
        stamp = f"{moment:%Y-%m-%d-%H.%M.%S.%f}"
        # Faults come in bursts: a message is repeated.
        _, label, component, level, message = draw.choices(MESSAGES, weights)[0]
        for _ in range(1 + small % 8):
            yield (f"{label} {int(moment.timestamp())} {moment:%Y.%m.%d} {node} {stamp} {node} RAS {component} {level} "
                   f"{message.format(small=small, large=large, node=node)}\n")


def made(path: Path, count: int) -> Path:
    """Write a log of so many lines, unless it is there already."""
    if not path.exists():
        with writing(path) as stream:
            stream.writelines(islice(bgl_lines(), count))
    return path


def _packed(log: Path) -> Path:
    path = log.with_name(log.name + ".gz")
    if not path.exists():
        with open(log, "rb") as plain, writing(path, "wb") as out, \
                gzip.GzipFile("", "wb", 6, out, mtime=0) as stream:
            shutil.copyfileobj(plain, stream)
    return path


def _giant(path: Path) -> Path:
    """Write one line of nearly the greatest length that is read, the worst for memory: NULs and a 4-byte character."""
    head = next(bgl_lines()).rsplit(" ", 1)[0].encode()
    with writing(path, "wb") as stream:
        stream.write(head + b" ")
        for _ in range(LONGEST // 1024 - 1):  # in pieces: the memory of this process would count as its children's peak
            stream.write(bytes(1024))
        stream.write("\U0001f600\n".encode())
    return path


def _ours(log: Path, out: Path, *more: str) -> Callable[[], Ran]:
    return lambda: ran([sys.executable, "-m", "data_builders.sessions", "--format", "bgl", *more, "--out", str(out),
                        str(log)])


def _peer(name: str, log: Path, out: Path) -> Callable[[], Ran]:
    return lambda: ran([sys.executable, f"bench/peers/sessions_{name}.py", str(log), str(out)])


def _sessions(path: Path) -> Iterator[tuple[list[str], str]]:
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            yield row["log"], row["label"]


def check_alike(outputs: list[Path]) -> None:
    """Raise UserError unless all files hold the same sessions with the same labels: only then times compare."""
    # Row by row: the memory of this process would count as its children's peak.
    for path in outputs[1:]:
        if any(ours != theirs for ours, theirs in zip_longest(_sessions(outputs[0]), _sessions(path))):
            raise UserError(f"{path}: its sessions are not those of {outputs[0]}, so their times do not compare")


def measure(folder: Path) -> list[Row]:
    """Make rows for LINES lines, plain and packed, and LONG lines; whole processes, start-up included."""
    log, long = made(folder / "million.log", LINES), made(folder / "long.log", LONG)
    packed = _packed(log)
    out = {name: folder / f"{name}.jsonl" for name in ("ours", "bare", "polars", "papers")}
    ours, bare, polars = alternately(7, _ours(log, out["ours"]), _peer("bare", log, out["bare"]),
                                     _peer("polars", log, out["polars"]))
    again, papers = alternately(2, _ours(log, out["ours"]), _peer("papers", log, out["papers"]))
    check_alike(list(out.values()))
    unpacked, bare_unpacked = alternately(3, _ours(packed, out["ours"]), _peer("bare", packed, out["bare"]))
    giant = _ours(_giant(folder / "giant.log"), out["ours"], "--window", "1")()
    whole, bare_whole = alternately(2, _ours(long, out["ours"]), _peer("bare", long, out["bare"]))
    for path in folder.glob("*.jsonl*"):
        path.unlink()
    millions, what = LONG / 1e6, f"{LINES:,} BGL lines to {LINES // 20:,} labelled sessions"
    faster = papers.seconds / again.seconds
    return [
        ratio(ours.seconds, bare.seconds, 1.5, what, "bare Python loop"),
        Row(what, f"{ours.seconds:.2f} s", f"polars, all cores: {polars.seconds:.2f} s",
            f"{ours.seconds / polars.seconds:.2f}", "-", None),
        Row(what, f"{again.seconds:.2f} s", f"regular expression, pandas, iloc: {papers.seconds:.2f} s",
            f"{faster:.1f} times as fast", "at least 10", faster >= 10),
        ratio(unpacked.seconds, bare_unpacked.seconds, 1.5, f"{LINES:,} lines of a .gz", "bare Python loop"),
        ratio(whole.seconds / millions, bare_whole.seconds / millions, 1.5, f"{LONG:,} lines, a million of them",
              "bare Python loop"),
        *(limit(one.peak, PEAK, f"peak memory, {name}", "MiB") for name, one in (
            (f"{LINES:,} lines", ours), (f"{LINES:,} lines of a .gz", unpacked), (f"{LONG:,} lines", whole),
            (f"one line of {LONGEST >> 20} MiB, the worst kind", giant))),
        Row(f"peak memory, {LINES:,} lines", f"{ours.peak:,.0f} MiB",
            f"bare loop: {bare.peak:,.0f} MiB, polars: {polars.peak:,.0f} MiB, papers: {papers.peak:,.0f} MiB",
            "-", "-", None),
    ]
