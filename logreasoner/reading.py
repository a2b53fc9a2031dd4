"""Read a user's log, the same way for training and asking: opened by its first bytes, decoded, in bounded memory.

gzip, bzip2, xz, Zstandard and zip are unpacked; what is no text is refused by name. Lines come as UTF-8 without their
ends, byte order marks and ANSI sequences. An encoding that is not UTF-8 is noted, and so is what cannot be decoded.
"""

import argparse
import bz2
import codecs
import functools
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from logreasoner.cli import UserError
from logreasoner.instances import LEVEL_MASK

BLOCK = 1 << 16  # bytes; the lines of one stay in the processor's cache, and are too few to wake the garbage collector
LONGEST = 12 << 20  # bytes of one line, and of one session; what is longer is not a log, and would fill the memory
ANSI = rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Z])"  # colours, titles, character sets
ANSI_TEXT, ANSI_BYTES = re.compile(ANSI.decode()), re.compile(ANSI)
REPLACEMENT = "\ufffd"
MOST_LOST = 0.01  # of all characters: more is another encoding than the one that was taken
FEW = 8  # bytes over 127, each alone: the accents of a Western log, too few for chardet
BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Control characters that no log has. It may have NUL, bell, backspace, ESC, and separators (FIX has SOH).
CONTROLS = bytes([*range(2, 7), *range(14, 27), 127])
NOT_CONTROLS = bytes(set(range(256)) - set(CONTROLS))
MOST_CONTROLS = 0.02
REFUSED = (  # first bytes, what begins so, what to do
    (b"PAR1", "a Parquet file", "it is read as a table only: leave --format out"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run: git lfs pull"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document", "save it as .xlsx or .csv"),
    (b"ElfFile\0", "a Windows event log (.evtx)", "export it from the Event Viewer as CSV"),
    (b"LPKSHHRH", "a systemd journal", "run: journalctl --file FILE -o json"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"\x7fELF", "a program", "give a log"),
    (b"%PDF-", "a PDF document", "give its text"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the log file itself"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it and give the log file itself"),
    (b"\x04\x22\x4d\x18", "an LZ4 archive", "unpack it and give the log file itself"),
    (b"\x1f\x9d", "a compress (.Z) archive", "unpack it and give the log file itself"),
    (b"Obj\x01", "an Avro file", "convert it to JSON or Parquet"),
)
HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)", re.IGNORECASE)


def _zstd(stream: BinaryIO) -> BinaryIO:
    import pyarrow  # type: ignore[import-untyped]

    return cast(BinaryIO, pyarrow.input_stream(stream, compression="zstd"))


ZIP = b"PK\x03\x04"
UNPACKED: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", lambda stream: gzip.GzipFile(fileobj=stream)), (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile), (b"\x28\xb5\x2f\xfd", _zstd))
PACKED = (ZIP, *(begin for begin, _ in UNPACKED))  # first bytes
ENDINGS = re.compile(r"\.(gz|bz2|xz|zst|zip)$", re.IGNORECASE)
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError)


@dataclass(frozen=True)
class Reading:
    """How files become the texts of a task, in its YAML (schemas.Task), for training and asking.

    `format`: "table" for a file's own kind (CSV, JSON, ...), a layout of data_builders/layouts.py, or a regular
    expression with named groups. `text` and `description` name columns or groups. `header`: a table's first row has
    names; a layout's header is shown. `event_start`: how the first line of an event begins, or auto, or none.
    `session`: a regular expression for the id that the rows of one session share, wherever they are in the file.
    `every`: sessions of so much time, such as 5m, instead of so many rows.
    `masks`: regular expressions of what is hidden, in this order. `encoding`: of files that are not UTF-8.
    `member`: the file of an archive, or the sheet; not of those that hold just one.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    format: str = "table"
    text: str = "text"
    description: str = ""
    header: bool | None = None
    event_start: str = "auto"
    session: str = ""
    every: str = ""
    masks: tuple[str, ...] = ()
    encoding: str | None = None
    member: str | None = None

    def as_yaml(self) -> dict[str, Any]:
        """Return its format, and the values that are not the defaults."""
        values = {**asdict(self), "masks": list(self.masks)}
        changed = {part.name: values[part.name] for part in fields(self) if getattr(self, part.name) != part.default}
        return {"format": self.format, **changed}


@dataclass
class Log:
    """A file with a log, "-" for standard input. `notes` receives what a user should know about how it was read.

    `member` names a file of an archive, `encoding` how it is decoded whatever its bytes look like, and `likely` how
    unless it is UTF-8: what is not given is seen, and so is whether a table's first row has names (`named`).
    `usual` is the member that is taken without `member` where the file holds several.
    `earlier` are the rotated parts that come before the file, the oldest first; `begins` receives the first line of
    each part. `followed` reads what is appended to the file, instead of what is there.
    """

    path: Path
    member: str | None = None
    encoding: str | None = None
    likely: str | None = None
    named: bool | None = None
    usual: str | None = None
    notes: list[str] = field(default_factory=list)
    earlier: tuple[Path, ...] = ()
    followed: Callable[[], Iterator[bytes]] | None = None
    piped: io.BufferedReader | None = None
    begins: list[tuple[int, Path]] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the name that messages begin with."""
        return "standard input" if str(self.path) == "-" else str(self.path)

    def note(self, text: str) -> None:
        """Add a note unless it is there: a log may be read twice."""
        if text not in self.notes:
            self.notes.append(text)

    def place(self, number: int) -> tuple[Path, int]:
        """Return the file that a line of the whole log is in, and the line's number there."""
        first, path = next((begin for begin in reversed(self.begins) if begin[0] <= number), (1, self.path))
        return path, number - first + 1

    def files(self) -> tuple[Path, ...]:
        """Return the files, the oldest first."""
        return (*self.earlier, self.path)

    def parts(self) -> Iterator["Log"]:
        """Yield each file as a log of its own, with the same list of notes; not those that rotation left empty."""
        if not self.earlier:
            yield self
            return
        for path in self.files():
            if path.stat().st_size:
                yield replace(self, path=path, earlier=())

    def first_line(self) -> bytes:
        """Return the first line of a pipe, which stays to be read; it waits for it."""
        return self._raw().peek(BLOCK).partition(b"\n")[0]

    def _raw(self) -> io.BufferedReader:
        if str(self.path) == "-":
            self.piped = self.piped or open(0, "rb", closefd=False)  # noqa: SIM115, one reader: it may be peeked at
            return self.piped
        if self.path.is_dir():
            raise UserError(f"{self}: is a folder; give a log file")
        return open(self.path, "rb")

    @contextmanager
    def opened(self) -> Iterator[io.BufferedReader]:
        """Open the file, unpacked, also a packed member of an archive.

        Raises UserError where a member has to be named, and for what cannot be read there and in the block.
        """
        try:
            with ExitStack() as stack:
                stream = stack.enter_context(self._raw())
                for _ in range(3):
                    magic = stream.peek(8)
                    if magic.startswith(ZIP):
                        archive = stack.enter_context(zipfile.ZipFile(stream))
                        unpacked = archive.open(self._choose_member(archive))
                    elif unpack := next((unpack for begin, unpack in UNPACKED if magic.startswith(begin)), None):
                        unpacked = unpack(stream)
                    else:
                        break
                    stream = stack.enter_context(io.BufferedReader(cast(Any, unpacked)))
                yield stream
        except FileNotFoundError:
            raise UserError(f"{self}: no such file") from None
        except BROKEN as error:
            if isinstance(error, OSError) and error.filename:
                raise  # an error of the file; one without a name comes from wrong numbers in the archive
            raise UserError(f"{self}: the archive cannot be read ({error or 'it ends too early'}); download it again, "
                            "or unpack it and give the log file itself") from None

    def _choose_member(self, archive: zipfile.ZipFile) -> str:
        """Return the archive's only log, else its only file, unless one is named."""
        files = [info.filename for info in archive.infolist()
                 if not info.is_dir() and not info.filename.startswith("__MACOSX/")]
        if self.member is not None:
            if self.member in files:
                return self.member
            raise UserError(f"{self}: has no file {self.member!r}; it has {', '.join(files[:10])}")
        logs = [name for name in files if name.endswith(".log")]
        for names in ([name for name in files if name == self.usual], logs, files):
            if len(names) == 1:
                return names[0]
        raise UserError(f"{self}: should hold exactly one log file, holds {len(files)} files ({', '.join(files[:10])});"
                        " name one with --member")

    def blocks(self) -> Generator[bytes, None, None]:
        """Yield the log as UTF-8, a block at a time; what cannot be decoded is left as it is where it is UTF-8.

        Raises UserError for a file or archive that cannot be read, is empty or no text, or has another encoding.
        """
        if not self.earlier:
            yield from self._file_blocks()
            return
        number, self.begins = 1, []
        for part in self.parts():
            self.begins.append((number, part.path))
            last = b""
            for block in part._file_blocks():
                number += block.count(b"\n")
                last = block[-1:] or last
                yield block
            if last != b"\n":
                number += 1
                yield b"\n"
            self.likely = part.likely

    def _file_blocks(self) -> Iterator[bytes]:
        if self.followed:
            yield from self._decoded(self.followed())
            return
        with self.opened() as stream:
            regular = str(self.path) != "-" and self.path.is_file()
            read = stream.read if regular else stream.read1  # a pipe: what is there now
            yield from self._decoded(iter(lambda: read(BLOCK), b""))

    def _decoded(self, source: Iterator[bytes]) -> Iterator[bytes]:
        first = next(source, b"")
        self._refuse(first)
        mark, encoding = next(((mark, name) for mark, name in BOMS if first.startswith(mark)), (b"", self.encoding))
        encoding = encoding or _utf16(first)
        if encoding and not mark and not self.encoding:
            self.note(f"{self}: is read as {encoding.upper()}")
        lost = characters = 0
        decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
        for block in chain([first[len(mark):]], source):
            if decoder is None and not block.isascii():
                encoding = self._guess(block)
                decoder = codecs.getincrementaldecoder(encoding)("replace")
            utf8 = encoding in (None, "utf-8")
            if decoder is None or (utf8 and block.isascii() and not decoder.getstate()[0]):
                characters += len(block)
                yield block
                continue
            text = decoder.decode(block)
            lost, characters = lost + text.count(REPLACEMENT), characters + len(text)
            self._check(lost, characters, encoding, lost >= 100)
            yield block if utf8 else text.encode()
        if decoder and (rest := decoder.decode(b"", final=True)):  # a character that was cut off
            lost += 1
            yield b"" if encoding == "utf-8" else rest.encode()
        self._check(lost, characters, encoding, True)
        if lost:
            self.note(f"{self}: {lost:,} characters are not {cast(str, encoding).upper()} and are shown as "
                      f"{REPLACEMENT}")

    def _check(self, lost: int, characters: int, encoding: str | None, sure: bool) -> None:
        if sure and lost > MOST_LOST * characters and self.encoding is None:
            raise UserError(f"{self}: {lost:,} of {characters:,} characters cannot be read as "
                            f"{cast(str, encoding).upper()}; give its encoding, such as --encoding gb18030, cp1252 or "
                            f"utf-16-le (--encoding utf-8 shows each as {REPLACEMENT})")

    def _refuse(self, first: bytes) -> None:
        """Raise UserError for what is no text."""
        if not first:
            raise UserError(f"{self}: is empty")
        for magic, what, advice in REFUSED:
            if first.startswith(magic):
                raise UserError(f"{self}: is {what}; {advice}")
        if first[257:262] == b"ustar" and _tar_header(first[:512]):
            raise UserError(f"{self}: is a tar archive; unpack it and give the log file itself")
        if HTML.match(first):
            raise UserError(f"{self}: is a web page (HTML), perhaps of a login; download or export the data themselves")
        controls = len(first.translate(None, NOT_CONTROLS))
        if controls > 3 and controls > MOST_CONTROLS * len(first) and not (self.encoding or _utf16(first)):
            raise UserError(f"{self}: is no text; give a text file, or packed by gzip, bzip2, xz, zstd or zip")

    def _guess(self, block: bytes) -> str:
        """Guess the encoding of a block with bytes over 127: UTF-8 if nearly all of those are, else by chardet.

        Characters of three bytes and more are seldom UTF-8 by chance. chardet sees the words with such bytes only: the
        ASCII of a log says nothing about a language. A guess is noted.
        """
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(block)  # cut at the end is no fault
        lost, decoded = text.count(REPLACEMENT), len(text) - len(text.encode("ascii", "ignore"))
        if lost <= 0.1 * decoded or 2 * lost <= len(re.findall("[\u0800-\U0010ffff]", text)):
            return "utf-8"
        if self.likely is not None:
            self.note(f"{self}: is not UTF-8 and is read as {self.likely.upper()}, like the file before it; if letters "
                      "come out wrong, give --encoding")
            return self.likely
        import chardet

        words = b" ".join(word for word in block.split() if not word.isascii())
        runs = re.findall(rb"[\x80-\xff]+", words)
        western = len(runs) < FEW and max(map(len, runs)) == 1
        guess = None if western else chardet.detect(words, encoding_era=chardet.EncodingEra.MODERN_WEB)["encoding"]
        encoding = codecs.lookup(guess or "cp1252").name
        self.note(f"{self}: is not UTF-8 and is read as {encoding.upper()}, a guess; if letters come out wrong, give "
                  "--encoding")
        self.likely = encoding
        return encoding

    def batches(self) -> Generator[list[bytes], None, None]:
        """Yield the lines without their ends (LF or CRLF) and ANSI sequences, those of one block at a time."""
        rest = b""
        with closing(self.blocks()) as source:
            for block in source:
                plain = not (_odd(block) or _odd(rest))
                batch = block.split(b"\n")
                batch[0] = rest + batch[0]
                rest = batch.pop()
                if len(rest) > LONGEST:
                    raise UserError(f"{self}: a line is longer than {LONGEST >> 20} MiB; this is not a line-based log")
                yield batch if plain else list(map(_plain, batch))
        if rest:
            yield [_plain(rest)]

    def lines(self) -> Generator[bytes, None, None]:
        """Yield the lines one by one; memory does not grow with the log."""
        with closing(self.batches()) as source:
            for batch in source:
                yield from batch

    def text(self, largest: int) -> str:
        """Return the whole text. Raises UserError for one of more than `largest` bytes."""
        parts, size = [], 0
        for line in self.lines():
            parts.append(line)
            size += len(line) + 1
            if size > largest:
                raise UserError(f"{self}: is larger than {largest >> 20} MiB; some thousand rows are enough, cut it")
        return b"\n".join(parts).decode("utf-8", "replace")

    def count_lines(self) -> int:
        """Count the lines, the last one with or without an end."""
        total, last = 0, b"\n"
        for block in self.blocks():
            total += block.count(b"\n")
            last = block[-1:] or last
        return total + (last != b"\n")


def _odd(part: bytes) -> bool:
    return b"\r" in part or b"\x1b" in part or codecs.BOM_UTF8 in part


def _plain(line: bytes) -> bytes:
    """Return a line without CR, ANSI sequences and the byte order mark of files that were joined."""
    return ANSI_BYTES.sub(b"", line.removesuffix(b"\r").removeprefix(codecs.BOM_UTF8))


def _tar_header(block: bytes) -> bool:
    """Return whether these bytes have the checksum of a tar header: a log may contain "ustar" as well."""
    import tarfile

    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError:
        return False
    return True


def _utf16(sample: bytes) -> str | None:
    """Recognise UTF-16 without a byte order mark by its NUL bytes: at odd or at even places only, and at line ends."""
    sample = sample[:len(sample) // 2 * 2]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if bool(even) == bool(odd):
        return None
    name = "utf-16-le" if odd else "utf-16-be"
    try:
        text = codecs.getincrementaldecoder(name)().decode(sample)
        if even + odd < len(sample) / 10:
            codecs.getincrementaldecoder("utf-8")().decode(sample)
            return None  # text with a few NUL characters
    except UnicodeDecodeError as error:
        if error.encoding != "utf-8":
            return None
    return None if b"\n" in sample and "\n" not in text else name


@functools.cache
def pattern(flag: str, regex: str, flags: int = 0) -> re.Pattern[str]:
    """Compile a regular expression of a user. Raises UserError that names its flag."""
    try:
        return re.compile(regex, flags)
    except re.error as error:
        raise UserError(f"{flag} {regex!r}: not a regular expression ({error})") from None


def hide(text: str, reading: Reading) -> str:
    """Replace what the reading's masks match by [MASK]."""
    for mask in reading.masks:
        text = pattern("--mask", mask, re.MULTILINE).sub(LEVEL_MASK, text)
    return text


def encoding(name: str) -> str:
    """Read the name of an encoding, for argparse."""
    try:
        "a".encode(name)
        return codecs.lookup(name).name
    except (LookupError, UnicodeError):
        raise argparse.ArgumentTypeError(f"{name!r} is no encoding that Python knows, such as gb18030 or cp1252"
                                         ) from None


def duration(text: str) -> str:
    """Read a time such as 30s, 5m, 1h or 1d, for argparse."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}[smhd]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 5m, 1h or 1d")
    return text


def add_options(parser: argparse.ArgumentParser, formats: str) -> None:
    """Add the options of a reading to a parser."""
    add = parser.add_argument
    add("--format", help=formats)
    add("--header", action=argparse.BooleanOptionalAction,
        help="bgl, spirit, thunderbird: show time, host and component before each message (default: on for Spirit's "
             "layout); tables: whether the first row has the names of the columns (default: seen)")
    add("--event-start", metavar="REGEX", help="raw lines: how the first line of an event of several begins; none: "
        "every line is an event; default: indented lines, frames and exceptions of stack traces continue")
    add("--session", metavar="REGEX", help="rows with the same id are one session, wherever they are: what this "
        "matches, or its first group; a row with several ids is in each")
    add("--every", type=duration, metavar="TIME", help="a session is what was logged within 30s, 5m, 1h, 1d")
    add("--mask", action="append", metavar="REGEX", help="repeatable: what is hidden in every text, as [MASK]")
    add("--encoding", type=encoding, help="such as gb18030, cp1252, utf-16-le (default: seen)")
    add("--member", help="which file of an archive, or sheet of an .xlsx, that holds several")


def chosen(given: argparse.Namespace, base: Reading) -> Reading:
    """Return a reading with what was given on the command line instead of what it says."""
    changes = {"format": given.format, "header": given.header, "event_start": given.event_start,
               "session": given.session, "every": given.every, "masks": given.mask and tuple(given.mask),
               "encoding": given.encoding, "member": given.member}
    return replace(base, **{name: value for name, value in changes.items() if value is not None})
