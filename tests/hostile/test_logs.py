"""Logs of any bytes through every program that reads them: an error that a user can correct, or a complete output."""

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from data_builders import new_task, normalise, sessions, splits, stage1, stage2, table_reader
from data_builders.fetch import File
from data_builders.layouts import LAYOUTS
from data_builders.log_templates import templates
from eval import analyze
from logreasoner import config, prompts, reading
from logreasoner.cli import UserError
from logreasoner.config import task
from logreasoner.files import ROOT
from logreasoner.generation import generate
from logreasoner.instances import Instance, instance, mask_level, read_instances
from logreasoner.reading import Log, Reading
from tests.hostile.conftest import some

HEADERS = [b"- 1117838570 2005.06.03 R02 2005-06-03-15.42.50.363779 R02 RAS KERNEL INFO ",
           b"KERNDTLB 1117838573 2005.06.03 R02 2005-06-03-15.42.53.276129 R02 RAS KERNEL FATAL ",
           b"- 1104566400 2005.01.01 sn1 Jan 1 00:00:00 sn1/sn1 crond[2]: ", b"", b"-", b"- 1"]
ODD = [b"\0", b"\xff", b"\xed\xa0\xbd", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\x1b]0;x\x07", b"\xe2\x80\xa8", b"\x85",
       b"\x0c", b"\x1a", b'"', b",", b"'", b"=cmd|' /C calc'!A0", b"{{ 7*7 }}", b"</answer>", b"<|im_end|>", b"ustar"]
LINE = st.tuples(st.sampled_from(HEADERS), st.lists(st.sampled_from(ODD) | st.binary(max_size=12), max_size=5)).map(
    lambda parts: parts[0] + b"".join(parts[1]))
LOG = st.tuples(st.lists(LINE, max_size=30), st.sampled_from([b"\n", b"\r\n", b"\0", b"\n\n"])).map(
    lambda parts: parts[1].join(parts[0]))


def packed(data, form):
    """Bytes as a plain, .gz or .zip file's."""
    if form == "gz":
        return gzip.compress(data, mtime=0)
    if form == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.log", data)
        return stream.getvalue()
    return data


@st.composite
def damaged(draw, whole):
    """A file's bytes, whole, cut short or with a few bytes changed."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[:draw(st.integers(0, len(data)) | st.none())])


FILE = st.tuples(LOG, st.sampled_from(["", "gz", "zip"])).flatmap(
    lambda parts: st.tuples(damaged(st.just(packed(*parts))), st.just(parts[1])))


@given(file=FILE, layout=st.sampled_from(sorted(LAYOUTS)), window=st.integers(1, 4))
@some(80)
def test_any_bytes_become_sessions_or_an_error(place, strays, command, file, layout, window):
    (data, form), out = file, place / "build" / "sessions.jsonl"
    path = place / f"given.{form or 'log'}"
    path.write_bytes(data)
    out.unlink(missing_ok=True)
    status = command(sessions, "--format", layout, "--window", window, "--source", "s", "--out", out, path)
    path.unlink()
    assert isinstance(status, str) or status == 0
    if status:
        assert status.startswith("error: ") and not out.exists()
    else:
        assert all(len(item.log) >= window for item in read_instances(out))
    assert not strays()


@given(data=LOG, window=st.integers(1, 4))
@example(data=b"x" * 257 + b"ustar", window=1)
@some(80)
def test_every_line_of_a_log_is_in_one_session_and_none_changes_a_terminal(place, data, window):
    assume(not data.startswith((b"\x1f\x8b", b"PK\x03\x04")))  # those are archives
    path = place / "given.log"
    path.write_bytes(data)
    counts, read = Counter(), Reading(format="lines", event_start="none")
    try:
        result = list(analyze.windows(Log(path), read, window, None, counts))
    except UserError as error:
        assert str(error).startswith(str(path))
        return
    finally:
        path.unlink()
    assert sum(len(session.log) for session in result) + counts["unmatched"] + counts["blank"] == counts["lines"]
    assert all(one.last < other.first for one, other in pairwise(result))
    for session in result:
        verdict = analyze.Verdict(session, None, session.log[:1], "")
        assert all(char.isprintable() or char == "\n" for char in analyze.as_text(verdict, (), False))


TEXT = st.text(max_size=30) | st.sampled_from([part.decode("latin-1") for part in ODD])
CELL = TEXT | st.sampled_from(["good", "bad", "", "a fan stopped"])
ROWS = st.lists(st.lists(CELL, min_size=2, max_size=3), max_size=12)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["\ud83d"]),
                    lambda leaf: st.lists(leaf, max_size=4) | st.dictionaries(TEXT, leaf, max_size=4), max_leaves=12)


def as_csv(rows):
    return "\n".join(",".join(row) for row in [["text", "label"], *rows]).encode("utf-8", "surrogatepass")


def as_jsonl(values):
    return "\n".join(json.dumps(value) for value in values).encode()


TABLES = st.one_of(
    st.tuples(st.just("csv"), damaged(ROWS.map(as_csv))), st.tuples(st.just("tsv"), damaged(st.binary(max_size=200))),
    st.tuples(st.just("jsonl"), damaged(st.lists(JSON, max_size=5).map(as_jsonl))),
    st.tuples(st.just("json"), damaged(JSON.map(lambda value: json.dumps(value).encode()))),
    st.tuples(st.just("csv.gz"), damaged(ROWS.map(lambda rows: packed(as_csv(rows), "gz")))),
    st.tuples(st.just("csv.zip"), damaged(ROWS.map(lambda rows: packed(as_csv(rows), "zip")))),
    st.tuples(st.just("parquet"), st.binary(max_size=200)))


@given(table=TABLES)
@example(table=("jsonl", b"[" * 100_000))
@example(table=("json", b"[" + b"9" * 5_000 + b"]"))
@example(table=("csv", b"text,label\n" + b'"' * 3_000_001))
@some(100)
def test_any_table_is_read_as_text_or_refused(place, table):
    path = place / f"given.{table[0]}"
    path.write_bytes(table[1])
    try:
        result = table_reader.read(Log(path))
        assert result.rows and not any("\0" in value for row in result.rows for value in row.values())
        json.dumps(result.rows, ensure_ascii=False).encode()  # no lone surrogates
    except UserError as error:
        assert str(error).startswith(str(path))
    finally:
        path.unlink()


@given(rows=st.lists(st.tuples(TEXT, st.sampled_from(["good", "bad", "<b>", "<|im_end|>", "\x1b[2J"])), min_size=30,
                     max_size=60), data=st.randoms(use_true_random=False))
@some(15)
def test_new_task_writes_what_can_be_read_back_or_nothing(place, strays, command, rows, data):
    path, folder = place / "given.jsonl", place / "build" / "data" / "own" / "fuzzed"
    path.write_bytes(as_jsonl({"text": f"{text} {data.randrange(99)} {at:x}", "label": label}
                              for at, (text, label) in enumerate(rows)))
    status = command(new_task, "--name", "fuzzed", "--from", path, "--replace")
    path.unlink()
    assert status == 0 or status.startswith("error: ")
    if status == 0:
        labels = task("fuzzed").labels
        assert all(item.label in labels for item in read_instances(folder / "train.jsonl"))
        assert not any(map(prompts.has_control_tokens, labels))
    task.cache_clear()
    assert not strays()


@given(value=JSON | st.dictionaries(st.sampled_from([*Instance.__dataclass_fields__, "lines", "x"]), JSON, max_size=10))
@example(value={"id": "a", "task": "t", "source": None, "log": "x", "label": "l"})
@example(value={"id": "a\x1b[2J", "task": "t", "source": "s", "log": "x", "label": "l"})
@some(100)
def test_a_row_is_an_instance_or_refused(value):
    if not isinstance(value, dict):
        return
    try:
        item = instance(value, "here")
    except UserError as error:
        assert str(error).startswith("here: ")
        return
    assert item.id.isprintable() or "\x1b" not in item.id
    assert isinstance(item.masked, str) and item.source is not None


@given(value=JSON | st.lists(st.tuples(st.tuples(TEXT, TEXT), st.integers(0, 2)), max_size=4)
       | st.lists(st.fixed_dictionaries({"input": TEXT, "output": TEXT}), max_size=4))
@some(100)
def test_public_rows_are_read_or_refused_by_their_number(place, value):
    path = place / "given.json"
    path.write_text(json.dumps(value))
    for reader in (normalise.pairs, normalise.instructions):
        try:
            for row in reader(path, File(path="x", source="huawei-switches")):
                normalise.steps(row["label"])
        except UserError as error:
            assert str(error).startswith(str(path))
    path.unlink()


# ---- size: a pattern that backtracks would not come back from a megabyte, and nothing is timed
PIECES = ["a", "1", " ", "\t", "/", "a/", "1/", "/1/", "a-", "a-1", "ab:", "a=", "<", "<|", "|", "[", "0x", "_", ".",
          "1.", " 1. ", "FAN/3/", "GigabitEthernet1/", "R02-", "\n", "# ", '"', "{", "\\"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_of_anything_is_read_once(piece):
    text = piece * (1_000_000 // len(piece))
    item = Instance("i", "potential_failure_prediction", "s", text, "True")
    for log in (text + "!", "x" + text + "/3/X"):
        mask_level(log)
        normalise.LEVEL.match(log)
        normalise.steps(log)
        templates([log])
    assert "Log:" in prompts.solution(item, task(item.task))


def test_ten_megabytes_on_one_line_are_one_line(place, command):
    path, out = place / "given.log", place / "build" / "wide.jsonl"
    path.write_bytes(HEADERS[0] + b"x" * 10_000_000 + b"\n" + HEADERS[0] + b"y")
    assert command(sessions, "--format", "bgl", "--window", 2, "--source", "s", "--out", out, path) == 0
    assert [len(line) for line in next(read_instances(out)).log] == [10_000_000, 1]
    assert [len(line) for line in Log(path).lines()][1:] == [len(HEADERS[0]) + 1]
    table = place / "given.jsonl"
    table.write_bytes(as_jsonl([{"text": "x" * 10_000_000}]))
    with pytest.raises(UserError, match="longer than 1 MiB"):
        table_reader.read(Log(table))
    table.unlink()
    path.write_bytes(b"x" * (reading.LONGEST + reading.BLOCK + 1))
    with pytest.raises(UserError, match="a line is longer than"):
        list(Log(path).lines())


BOUNDED = """
import resource, sys
from pathlib import Path
from data_builders import table_reader
from logreasoner.cli import UserError
from logreasoner.reading import Log
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
try:
    if sys.argv[1] == "sessions":
        print(sum(1 for _ in Log(Path(sys.argv[2])).lines()))
    else:
        print(len(table_reader.read(Log(Path(sys.argv[2]))).rows))
except UserError as error:
    print("refused", error)
# Not ru_maxrss, which begins with what the process that started this one had.
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def measured(program, path):
    """(a program's output for a file, its peak memory in MiB), in a process of its own."""
    done = subprocess.run([sys.executable, "-c", BOUNDED, program, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    output, used = done.stdout.splitlines()
    return output, int(used)


def test_a_bomb_fills_no_memory(place, long):
    """Some kilobytes that unpack to hundreds of megabytes (gigabytes with --long): of lines, of one line."""
    members = 4_000 if long else 260  # of a mebibyte; gzip takes several in one file
    path = place / "given.csv.gz"
    path.write_bytes(gzip.compress(b"abc,d\nabc,e\n" * 87_381) * members)
    assert path.stat().st_size < 3_000 * members
    output, used = measured("sessions", path)
    assert int(output) == 174_762 * members and used < 300
    output, used = measured("table", path)
    assert output.startswith("refused") and "more than 1,000,000 rows" in output and used < 900
    path.write_bytes(gzip.compress(bytes(1 << 20)) * members)
    output, used = measured("sessions", path)
    assert output.startswith("refused") and "a line is longer than" in output and used < 300


def test_a_table_that_claims_little_and_unpacks_to_much_is_refused(place):
    import pyarrow
    from pyarrow import parquet

    path = place / "given.parquet"
    wide = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 200_000, pyarrow.int32()), ["x" * 500_000])
    parquet.write_table(pyarrow.table({"text": wide}), path)
    assert path.stat().st_size < 1_000_000
    output, used = measured("table", path)
    assert output.startswith("refused") and "unpacked" in output and used < 2_000
    sheet = place / "given.xlsx"
    with zipfile.ZipFile(sheet, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(normalise.LARGEST_SHEET + 1))
    assert sheet.stat().st_size < 100_000
    with pytest.raises(UserError, match="not a readable sheet .more than 64 MiB, unpacked"):
        list(normalise.templates(sheet, File(path="x", source="s")))
    path.unlink(), sheet.unlink()


@given(data=st.binary(max_size=300))
@some(20)
def test_a_sheet_of_any_bytes_is_refused(place, data):
    path = place / "given.xlsx"
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a readable sheet"):
        list(normalise.templates(path, File(path="x", source="s")))
    path.unlink()


def test_an_archive_puts_nothing_anywhere(place, strays, command):
    """Names in archives are never paths of ours: what is read is streamed."""
    path, out = place / "given.zip", place / "build" / "zipped.jsonl"
    for name in ("../../evil.log", "/etc/evil.log", "C:\\evil.log", "a\n.log"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, HEADERS[0] + b"x\n")
            link = zipfile.ZipInfo("link")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        assert command(sessions, "--format", "bgl", "--window", 1, "--source", "s", "--out", out, path) == 0
        assert next(read_instances(out)).log == ("x",)
        assert command(sessions, "--format", "lines", "--window", 1, "--member", "link", "--out", out, path) == 0
        assert next(read_instances(out)).log == ("/etc/passwd",)  # the link's own text, not what it points to
    path.unlink()
    assert not strays()


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\nb", "..", "", "-x", "a" * 300, "{run}", "%00"])
def test_a_name_never_becomes_a_path_of_its_own(place, strays, command, name):
    path = place / "given.csv"
    path.write_text("text,label\n")
    for module, arguments in (
            (new_task, ["--name", name, "--from", path]), (config, ["--run", name, "--experiment", "demo"]),
            (config, ["--run", "x", "--experiment", name]),
            (splits, ["--run", name]), (stage1, ["--run", name, "thoughts"]),
            (stage2, ["--run", name, "--model", name, "--stage", name, "solutions"]),
            (generate, ["--run", name, "--role", "teacher", "--requests", path, "--responses", path]),
            (analyze, ["--log", path, "--task", name, "--base-url", "http://127.0.0.1:1/v1"])):
        status = command(module, *(f"{argument}" for argument in arguments))
        assert status, (module, name)
    path.unlink()
    assert not strays()
