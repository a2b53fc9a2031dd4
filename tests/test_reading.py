"""A user's file is read the same way for training and asking, whatever its packing, encoding and kind.

The inputs are the smallest of each kind that was read wrong in silence.
"""

import argparse
import bz2
import codecs
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import openpyxl
import pyarrow
import pytest
from pyarrow import parquet

from data_builders import layouts, log_times, new_task, sessions, table_reader
from eval import analyze
from logreasoner import cli, config, log_files, reading
from logreasoner.cli import UserError
from logreasoner.files import ROOT
from logreasoner.instances import read_instances
from logreasoner.reading import Log, Reading

TEXT = "磁盘故障\nall well\n"


def read(path, form="table", window=1, limit=None, **settings):
    return table_reader.read(Log(path), Reading(format=form, **settings), window, limit)


def lines(path, **settings):
    log = Log(path, **settings)
    return [line.decode("utf-8", "replace") for line in log.lines()], log.notes


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def packed_zip(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


# ---- files
@pytest.mark.parametrize("pack", [
    bytes, gzip.compress, bz2.compress, lzma.compress, lambda data: packed_zip(log=data),
    lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
    lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]), lambda data: packed_zip(log=gzip.compress(data))])
@pytest.mark.parametrize("name", ["app.log", "app.log.gz"])
def test_first_bytes_say_how_a_file_is_packed(tmp_path, pack, name):
    assert lines(written(tmp_path, name, pack(TEXT.encode()))) == (TEXT.splitlines(), [])


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"PAR1\x15\x04", "is a Parquet file"), (b"\x7fELF\2\1\1\0", "is a program"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer.*git lfs pull"),
    (b"ElfFile\0\0", "Event Viewer"), (b"LPKSHHRH\0", "journalctl"), (b"\xd0\xcf\x11\xe0\xa1", "save it as .xlsx"),
    (b"SQLite format 3\0", "export the table"), (b"%PDF-1.7\n", "PDF"), (b"7z\xbc\xaf\x27\x1c\0", "7z"),
    (b"Rar!\x1a\x07\0", "RAR"), (b"\x04\x22\x4d\x18d", "LZ4"), (bytes(range(256)) * 9, "is no text"),
    (b"\xef\xbb\xbf <!DOCTYPE html><title>Sign in</title>", "web page"), (b"<html>", "web page"),
    (packed_zip(a="x", b="y"), "holds 2 files .*--member"), (bz2.compress(b"x" * 99)[:-9], "cannot be read"),
    (lzma.compress(b"x" * 99)[:-9], "cannot be read"),
    (pyarrow.compress(b"x" * 99, codec="zstd", asbytes=True)[:12], "cannot be read")])
def test_what_is_no_text_is_refused_by_name(tmp_path, content, message):
    path = written(tmp_path, "app.log", content)
    with pytest.raises(UserError, match=f"^{path}: .*{message}"):
        lines(path)
    with pytest.raises(UserError, match="is a folder; give a log file"):
        lines(tmp_path)


def test_a_member_of_an_archive_is_named_everywhere(tmp_path):
    path = written(tmp_path, "x.zip", packed_zip(a="1\n", b="2\n"))
    assert lines(path, member="b")[0] == ["2"]
    for add in (new_task.main, analyze.main, sessions.main):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr("sys.argv", ["x", "--help"])
            add()


# ---- encodings
@pytest.mark.parametrize(("encoding", "text"), [
    ("gbk", "磁盘故障"), ("gb18030", "2024-01-01 10:00:00 端口3断开\n用户7登录成功\n"), ("big5", "磁碟故障，請更換\n"),
    ("cp932", "ディスク障害が発生しました\n"), ("euc_jp", "ディスク障害が発生しました\n"), ("cp949", "디스크 오류\n"),
    ("cp1251", "Ошибка диска\n"), ("koi8_r", "Ошибка диска\n"), ("cp1252", "caf\xe9 \u20ac5\n"),
    ("cp1252", "na\xefve\n"), ("cp1252", "Ger\xe4t nicht verf\xfcgbar, 45\xb0\n")])
def test_an_encoding_is_guessed_and_said_once(tmp_path, encoding, text):
    found, notes = lines(written(tmp_path, "app.log", text.encode(encoding)))
    assert found == text.splitlines() and len(notes) == 1 and "a guess; if letters come out wrong" in notes[0]
    assert lines(tmp_path / "app.log", encoding=encoding) == (text.splitlines(), [])
    # The first bytes that are not ASCII may come late.
    written(tmp_path, "app.log", b"all well\n" * 20_000 + text.encode(encoding))
    assert lines(tmp_path / "app.log")[0][20_000:] == text.splitlines()


@pytest.mark.parametrize(("mark", "encoding"), [
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF32_LE, "utf-32-le"), (b"", "utf-16-le"), (b"", "utf-16-be")])
@pytest.mark.parametrize("text", [TEXT, "a\r\nb\n", "日志正常\n" * 20_000])
def test_byte_order_marks_and_utf16_are_seen(tmp_path, mark, encoding, text, monkeypatch):
    found, notes = lines(written(tmp_path, "app.log", mark + text.encode(encoding)))
    assert found == text.splitlines() and len(notes) == (not mark)
    monkeypatch.setattr(reading, "BLOCK", 7 if len(text) < 100 else 1 << 16)
    if mark:
        assert lines(tmp_path / "app.log")[0] == text.splitlines()


def test_a_mark_hides_no_label_and_one_within_goes(tmp_path):
    line = b"- 1117838570 2005.06.03 R02 2005-06-03-15.42.50.675872 R02 RAS KERNEL INFO fine\n"
    path = written(tmp_path, "bgl.log", codecs.BOM_UTF8 + line + codecs.BOM_UTF8 + line)
    assert {row["label"] for row in read(path, "bgl").rows} == {"normal"}
    assert {row["label"] for row in sessions.sessions(Log(path), "bgl", 1, "s", Counter())} == {"normal"}


def test_what_cannot_be_decoded_is_counted_and_above_a_share_refused(tmp_path):
    few, many = "é".encode() * 500 + b"\xff\n", "é".encode() * 20 + b"\xff\n"
    assert lines(written(tmp_path, "a.log", few[:-2] + b"\xff\n"), encoding="utf-8")[1] == [
        f"{tmp_path / 'a.log'}: 1 characters are not UTF-8 and are shown as \ufffd"]
    with pytest.raises(UserError, match="1 of 22 characters cannot be read as UTF-8; give its encoding"):
        lines(written(tmp_path, "b.log", many))
    # The first half is UTF-8, the rest is not.
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        lines(written(tmp_path, "c.log", (TEXT * 20_000).encode() + (TEXT * 20_000).encode("gbk")))
    with pytest.raises(argparse.ArgumentTypeError, match="is no encoding"):
        reading.encoding("rot13")


def test_nul_characters_of_a_torn_file_are_no_utf16(tmp_path):
    assert lines(written(tmp_path, "a.log", b"\0" * 4_000 + b"started\nall well\0\n"))[0][1] == "all well\0"


def test_ansi_sequences_go(tmp_path):
    text = "\x1b[31mERROR\x1b[0m disk\x1b(B\n\x1b]0;title\x07ok\n"
    assert lines(written(tmp_path, "a.log", text))[0] == ["ERROR disk", "ok"]
    rows = read(written(tmp_path, "a.jsonl", json.dumps({"text": text}))).rows
    assert rows == [{"text": "ERROR disk\nok\n"}]


# ---- layouts
BGL = b"K 1117838570 2005.06.03 R02 2005-06-03-15.42.50.675872 R02 RAS KERNEL FATAL it failed\n"
SPIRIT = b"- 1104566461 2005.01.01 sn173 Jan 1 00:01:01 sn173/sn173 kernel: fine\n"


@pytest.mark.parametrize(("content", "form", "other"), [
    (BGL, "thunderbird", "bgl"), (BGL, "spirit", "bgl"), (SPIRIT, "bgl", "spirit")])
def test_another_layout_is_said_so(tmp_path, content, form, other):
    path = written(tmp_path, "x.log", content * 3)
    for start in (lambda: read(path, form), lambda: list(sessions.sessions(Log(path), form, 1, "s", Counter()))):
        with pytest.raises(UserError, match=f"have the layout {other}, not {form}: give --format {other}"):
            start()
    assert f"have the layout {other}, not lines: each text begins with the label" in read(path, "lines").notes[0]
    assert layouts.FORMS[other].match(content)


KINDS = {
    "rfc3164": ("<34>Oct 11 22:14:15 web1 sshd[812]: Failed password for x", "sshd[812]: Failed password for x"),
    "rfc3164 as rsyslog writes it": ("2024-05-01T10:00:00.1+02:00 web1 kernel: oops: 0", "kernel: oops: 0"),
    "rfc5424": ('<165>1 2003-10-11T22:14:15Z h app 1 ID47 [a@1 b="x\\]y"][c] \ufeffAn event', "An event"),
    "rfc5424 without a message": ("<13>1 2003-10-11T22:14:15Z h app - - -", ""),
    "access": ('::1 - - [10/Oct/2000:13:55:36 -0700] "GET /\\"a HTTP/1.0" 404 - "-" "curl"',
               '"GET /\\"a HTTP/1.0" 404 - "-" "curl"'),
    "cef": (r"CEF:0|Acme|guard\|x|1.0|100|worm stopped|10|src=10.0.0.1 msg=a", "worm stopped src=10.0.0.1 msg=a"),
    "cef behind rfc3164": ("Sep 19 08:26:10 h CEF:0|Acme|guard|1|100|a=b|3|src=::1 msg=a", "a=b src=::1 msg=a"),
    "cef behind rfc5424": ("<13>1 2003-10-11T22:14:15Z h app - - - CEF:0|A|b|1|7|worm|3|msg=a", "worm msg=a"),
    "cri": ("2016-10-06T00:17:09.66Z stderr F boom at line 3", "boom at line 3")}


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_others_are_read_and_recognised(tmp_path, kind):
    line, text = KINDS[kind]
    name = kind.partition(" ")[0]
    path = written(tmp_path, "x.log", f"{line}\n" * 9 + f"{line}\n  at more\nodd line\n")
    result = read(path, name)
    assert [row["text"] for row in result.rows] == [text] * 9 + [f"{text}\n  at more"]
    assert "1 events do not match" in result.notes[-1]
    assert "1 lines do not match" in read(written(tmp_path, "y.log", f"{line}\nodd\n"), name).notes[-1]
    log = Log(path)
    assert table_reader.resolved(log, Reading(format="auto", masks=("a",))) == Reading(format=name, masks=("a",))
    assert log.notes == [f"{path}: is read as --format {name}"]


@pytest.mark.parametrize("header", ["Sep 19 08:26:10 h app[3]: ", "Sep 19 08:26:10 h app: @cee:",
                                    "<13>1 2003-10-11T22:14:15Z h app - - - ", "2016-10-06T00:17:09.66Z stdout F "])
def test_json_behind_a_header_is_said(tmp_path, header):
    log = Log(written(tmp_path, "x.log", f'{header}{{"level": "info", "msg": "CEF is here"}}\n' * 3))
    layouts.recognise(log)
    assert "is JSON, which is read as it stands" in log.notes[1]
    log = Log(written(tmp_path, "x.log", f"{header}{{a}}\n" * 3))
    layouts.recognise(log)
    assert len(log.notes) == 1


def test_parts_of_a_text_are_joined_and_named_parts_stay_columns(tmp_path):
    path = written(tmp_path, "x.log", "CEF:0|Acme|guard|1.0|100|worm stopped|10|src=::1\n")
    assert read(path, "cef").rows == [{
        "header": "", "vendor": "Acme", "product": "guard", "version": "1.0", "signature": "100", "severity": "10",
        "name": "worm stopped", "extension": "src=::1", "text": "worm stopped src=::1"}]
    assert read(path, r"(?P<text1>\w+):\d(?P<code>\|)(?P<text2>\w+)").rows == [{"code": "|", "text": "CEF Acme"}]
    assert read(path, r"(?P<text1>\w+):\d\|(?P<text>\w+)").rows == [{"text1": "CEF", "text": "Acme"}]


@pytest.mark.parametrize(("name", "content", "form"), [
    ("x.log", BGL, "bgl"), ("x", SPIRIT, "spirit"), ("x.log", '{"a": "CEF:0|a|b|c|d|e|f|g"}\n' * 5, "jsonl"),
    ("x.log", "a\nb\n", "lines"), ("x.log", "2024-05-01T10:00:00Z ERROR db: lost\n", "lines"),
    ("x.csv.gz", "a,b\n", "table")])
def test_what_else_is_recognised(tmp_path, name, content, form):
    path = written(tmp_path, name, content)
    assert table_reader.resolved(Log(path), Reading(format="auto")).format == form
    with pytest.raises(UserError, match="standard input: --format auto looks at a file first"):
        table_reader.resolved(Log(Path("-")), Reading(format="auto"))
    with pytest.raises(UserError, match="none.log: no such file"):
        table_reader.resolved(Log(tmp_path / "none.log"), Reading(format="auto"))


def test_a_pipe_of_json_lines_is_seen_and_loses_nothing(tmp_path):
    script = ("from collections import Counter\nfrom pathlib import Path\nfrom data_builders import table_kinds\n"
              "from logreasoner.reading import Log\nlog = Log(Path('-'))\n"
              "print(table_kinds.has_json_lines(log), log.notes, len(list(log.lines())))")
    for content, seen in (('{"a": 1}\n' * 9, True), ("a {b}\n" * 9, False), ("", False)):
        done = subprocess.run([sys.executable, "-c", script], input=content.encode(), capture_output=True, cwd=ROOT)
        assert done.stdout.decode().startswith(str(seen)) or b"standard input: is empty" in done.stderr
        assert not content or done.stdout.decode().endswith(" 9\n")


def test_the_export_of_the_systemd_journal_is_read(tmp_path):
    binary = "a\n\nb=ü\n".encode() * 30
    entry = b"__CURSOR=s=1\nPRIORITY=3\nMESSAGE\n" + len(binary).to_bytes(8, "little") + binary + b"\n_UID=0\n\n"
    path = written(tmp_path, "j.log", entry + b"__CURSOR=s=2\nMESSAGE=a=b\n")
    result = table_reader.read(Log(path), table_reader.resolved(Log(path), Reading(format="auto")))
    assert [row["MESSAGE"] for row in result.rows] == [binary.decode(), "a=b"] and result.lines == [1, 2]
    assert result.rows[0]["_UID"] == "0"
    for content in (entry[:60], entry.replace((len(binary)).to_bytes(8, "little"), (7).to_bytes(8, "little"))):
        with pytest.raises(UserError, match="1: .*does not end where its length says"):
            read(written(tmp_path, "k.export", content))


SYSLOG, CRI = "Oct 11 22:14:15 web1 ", "2016-10-06T00:17:09Z "


@pytest.mark.parametrize(("layout", "lines", "texts"), [
    ("rfc3164", [f"{SYSLOG}app[7]: boom", f"{SYSLOG}app[7]: \tat a.B(C.java:1)", f"{SYSLOG}cron[8]:  at it",
                 f"{SYSLOG}cron[8]: java.io.IOException: x", "\tat d.E(f)", f"{SYSLOG}app[7]: fine"],
     ["app[7]: boom\n\tat a.B(C.java:1)", "cron[8]:  at it\njava.io.IOException: x\n\tat d.E(f)", "app[7]: fine"]),
    ("rfc5424", ["<13>1 2003-10-11T22:14:15Z h app 1 - - boom",
                 '<13>1 2003-10-11T22:14:16Z h app 1 - [a b="\\]"]  more',
                 "<13>1 2003-10-11T22:14:16Z h app 2 - -  other"], ["boom\n more", " other"]),
    ("cri", [f"{CRI}stderr P bo", f"{CRI}stderr P om at ", f"{CRI}stderr F 3", f"{CRI}stderr F \tat a.B(C.java:1)",
             f"{CRI}stdout F   own", f"{CRI}stdout P cut", f"{CRI}stderr F x"],
     ["boom at 3\n\tat a.B(C.java:1)", "  own", "cut", "x"])])
def test_lines_of_an_event_that_have_headers_each_are_joined(tmp_path, layout, lines, texts):
    path = written(tmp_path, "x.log", "\n".join(lines) + "\n")
    result = read(path, layout)
    assert [row["text"] for row in result.rows] == texts and result.lines[-1] == len(lines)
    # A regular expression is about the line, or the text after its header.
    assert len(read(path, layout, event_start=r"boom|bo$|.* app 2|cron|\s+own|fine|x|\s+at it|cut").rows) == len(texts)
    assert len(read(path, layout, event_start="none").rows) > len(texts)


@pytest.mark.parametrize(("log", "count"), [
    ("ERROR t a\n INFO t b\nDEBUG t c\n", 3), ("INFO a\nat node2 INFO b\n", 2), ("E a\nError: b\n", 2),
    ("E x failed\njava.io.IOException: disk full\n\tat A.f(B.java:1)\n", 1),
    ("E x\nTraceback (most recent call last):\n  File y\nValueError: z\nE next\n", 2),
    ("E x\nTraceback (most recent call last):\n  File y\nsocket.timeout: timed out\ndb: up\n", 2),
    ("E x\nTraceback (most recent call last):\n  File y\nKeyError\n\nDuring handling of the above exception, another "
     "exception occurred:\n\nTraceback (most recent call last):\n  File y\nweb.Http404: no page\n\nE next\n", 3),
    ("I a\npanic: nil map\n\ngoroutine 1 [running]:\nmain.f(0x1)\n\t/a.go:3\nmain.main()\n\t/a.go:9\n"
     "exit status 2\nI b\n", 3),
    ("thread 'main' panicked at a.rs:1:\nx\nnote: run with `RUST_BACKTRACE=1`\n", 2),
    ("PHP Fatal error: y\nStack trace:\n#0 {main}\n  thrown in a.php\nok\n", 2), ('I {\n  "a": 1\n}\nI b\n', 2),
    ("I a\n\nI b\n", 3), ("E x\nTraceback (most recent call last):\n  File y\n\n\nI b\n", 4)])
def test_levels_begin_events_and_exceptions_continue_them(tmp_path, log, count):
    path, counts = written(tmp_path, "x.log", log), Counter()
    rows = list(table_reader.rows(Log(path), Reading(format="lines"), counts))
    assert len(rows) + counts["blank"] == count and counts["lines"] == log.count("\n")
    table = table_reader.read(Log(path), Reading(format="lines"))
    assert any("lines joined to the event before" in note for note in table.notes) == (count < log.count("\n"))


@pytest.mark.parametrize(("end", "texts"), [
    ("\n", ["boom\n\tat a.B(C.java:1)", "long line", "  x"]),
    ("", ["boom\n\tat a.B(C.java:1)", "long ", "line", "  x"])])
def test_events_of_a_container_are_joined(tmp_path, end, texts):
    records = [("boom", "stdout"), ("\tat a.B(C.java:1)", "stdout"), ("long ", "stdout"), ("line", "stdout"),
               ("  x", "stderr")]
    path = written(tmp_path, "c-json.log", "".join(
        json.dumps({"log": text + end * (text != "long "), "stream": stream}) + "\n" for text, stream in records))
    result = read(path, "jsonl")
    assert [row["log"] for row in result.rows] == texts
    assert result.lines[:2] == [1, 3] and any("lines joined" in note for note in result.notes)
    assert len(read(path, "jsonl", event_start="none").rows) == len(texts) + 1
    assert len(read(path, "jsonl", event_start="boom").rows) == 2
    with pytest.raises(UserError, match="--event-start is for raw lines"):
        read(written(tmp_path, "x.csv", "a,b\n1,2\n"), event_start="boom")


def test_lines_of_a_stack_trace_are_one_event(tmp_path):
    trace = "E boom\nTraceback:\n  File x\n\tat a.B(C.java:3)\nat d.E(f)\nCaused by: e\n... 7 more\nE next\n"
    path = written(tmp_path, "x.log", trace)
    events = ["E boom", "Traceback:\n  File x\n\tat a.B(C.java:3)\nat d.E(f)\nCaused by: e\n... 7 more", "E next"]
    result = read(path, "lines")
    assert [row["text"] for row in result.rows] == events and result.lines == [1, 2, 8]
    result = read(path, r"(?P<level>E) (?P<text>.*)", event_start="E ")
    assert [row["text"] for row in result.rows] == ["boom\n" + events[1], "next"] and result.lines == [1, 8]
    assert len(read(path, "lines", event_start="none").rows) == 8
    assert [row["text"] for row in read(written(tmp_path, "y.log", " a\n b\nc\n\n d\n"), "lines").rows] == [
        " a\n b", "c", " d"]


@pytest.mark.parametrize(("text", "seconds"), [
    ("1117838570 x", 1117838570), ("1117838570123", 1117838570), ("[1117838570.5] x", 1117838570.5),
    ("2024-05-01T10:00:00.5+02:00 x", 1714550400.5), ("at 2024-05-01 08:00:00,250 x", 1714550400.25),
    ("2005-06-03-15.42.50.675872 x", 1117813370), ('::1 - - [10/Oct/2000:13:55:36 -0700] "', 971211336),
    ("Jan  2 00:00:01 h x", 946771201), ("Mon Jan 02 10:00:00 2006", 1136196000),
    ("081109 203518 143 INFO", 1226262918),
    ("5/1/2024 8:00:00 PM", 1714593600), ("12:00:01 x", 946728001), ("no time 12:3", None),
    ("99/99/2024 8:00:00", None), ("01-Mar-2026 02:00:00.123 x", 1772330400), ("1 Mar 2026 02:00:00", 1772330400),
    ("01.03.2026 02:00:00", 1772330400), ("20260301 02:00:00", 1772330400), ("03-01 02:00:00.5 tag", 951876000),
    ("02.03.2026 08:30 x", 1772440200), ("01/03/2026 08:30", 1767429000), ("Mar 02 2026 08:00:09 x", 1772438409),
    ("Mar 2, 2026 8:00:09 AM", 1772438409), ("Mar 2, 2026 @ 08:00:09.000", 1772438409),
    ("type=SYSCALL msg=audit(1772438400.123:45): a", 1772438400.123),
    ("Mar 1 02:00:00 h", 951876000), ("E0301 02:00:00", None), ("2026年03月01日 02:00:00", None)])
def test_times_are_found(text, seconds):
    assert log_times.moment(text) == seconds


def test_windows_of_time(tmp_path):
    moments = ["23:59:50", "23:59:58", "23:59:57", "00:00:01", "00:00:09", "00:00:10", "00:10:00"]
    path = written(tmp_path, "x.log", "".join(f"{now} a{at}\n" for at, now in enumerate(moments)) + "no time\n")
    result = read(path, "lines", every="10s", window=20)
    assert [row["text"].count("\n") + 1 for row in result.rows] == [3, 2, 1, 2] and result.lines == [1, 4, 6, 7]
    line = "- {} 2005.06.03 R02 2005-06-03-15.42.50.675872 R02 RAS KERNEL INFO fine\n"
    path = written(tmp_path, "b.log", "".join(line.format(1117838500 + 100 * at) for at in range(5)))
    assert [row["label"] for row in read(path, "bgl", every="5m").rows] == ["normal", "normal"]
    with pytest.raises(UserError, match="--every 5m: no row has a time"):
        read(written(tmp_path, "y.log", "a\nb\n"), "lines", every="5m")
    with pytest.raises(argparse.ArgumentTypeError, match="is not a time such as"):
        reading.duration("5 minutes")


LATE = "rows are earlier than the window of --every before them: is the log sorted by time"


@pytest.mark.parametrize(("minutes", "sizes", "late"), [
    ([*range(59, -1, -10), 61], [2, 2, 2, 1], 5), ([0, 1, 21, 22, 0, 1, 21, 22], [2, 2, 2, 2], 1),
    ([0, 9, 11, 9, 12, 31], [2, 3, 1], 1), ([0, 9, 11, 12, 31], [2, 2, 1], 0)])
@pytest.mark.parametrize("date", ["2026-03-02 ", "Mar 02 ", ""])
def test_rows_that_are_not_sorted_by_time_are_said(tmp_path, minutes, sizes, late, date):
    path = written(tmp_path, "x.log", "".join(f"{date}{10 + at // 60}:{at % 60:02}:00 up\n" for at in minutes))
    result = read(path, "lines", every="10m")
    assert [row["text"].count("\n") + 1 for row in result.rows] == sizes
    assert result.notes == [] if not late else result.notes[0].startswith(f"{late} {LATE}")


@pytest.mark.parametrize(("before", "after"), [("Dec 31 23:59:59", "Jan  1 00:00:01"), ("23:59:59", "00:00:01")])
def test_a_time_without_year_or_day_begins_again(tmp_path, before, after):
    result = read(written(tmp_path, "x.log", f"{before} a\n{after} b\n"), "lines", every="1m")
    assert len(result.rows) == 2 and not result.notes


@pytest.mark.parametrize(("names", "values"), [
    (name, f"2026-03-{{}}T08:00:09Z,{extra}") for name, extra in (
        ("firstTimestamp,lastTimestamp", "2026-03-02T08:00:09Z"), ("eventTime,a", ""), ("@t,a", ""),
        ("opened_at,a", ""), ("Opened,a", ""), ("created,response_time", "1234567890"), ("Zeitstempel,a", ""),
        ("start_time,end_date", ""), ("event.created_date,time", "later"))] + [
    ("response_time,logged", "1234567890,2026-03-{} 08:00:09"), ("Date,Time", "2026-03-{},08:00:09.5"),
    ("Time,Date", "08:30,{}.03.2026"), ("Date,Day,Time", "Mar,{},08:00:09"), ("Date,Time", "0803{},203518"),
    ("end_date,log_date,log_time", "2026-04-02,2026-03-{},08:00:09"), ("time,timestamp", "08:00:09,1772{}9000")])
def test_the_time_of_a_table_is_found(tmp_path, names, values):
    path = written(tmp_path, "x.csv", f"{names},text\n" + "".join(f"{values.format(day)},a {day}\n" for day in (
        "02", "04", "04")))
    assert [row["text"] for row in read(path, every="1h").rows] == ["a 02", "a 04\na 04"]


@pytest.mark.parametrize(("name", "content", "form", "advice"), [
    ("x.csv", "Date,Time,text\n2nd of March,08:00:09,a\n", "table",
     "there are the columns 'Date', 'Time', 'text': rename the one with the time to 'time'"),
    ("x.log", "a\n", r"(?P<a>a)", r"--format names a: name the time \(\?P<time>"),
    ("x.log", "a\n", "lines", r"name the time \(\?P<time>...\) in --format")])
def test_what_to_do_without_a_time(tmp_path, name, content, form, advice):
    with pytest.raises(UserError, match=f"--every 5m: no row has a time .*; {advice}"):
        read(written(tmp_path, name, content), form, every="5m")


@pytest.mark.parametrize(("last", "every", "sizes", "noted"), [
    ("09/03", "7d", [1, 1, 1, 1, 1], 5), ("13/03", "7d", [2, 2, 1], 0), ("09/13", "7d", [1, 1, 1, 1, 1], 0),
    ("13/03", "1d", [1, 1, 1, 1, 1], 0)])
@pytest.mark.parametrize("held", [1 << 20, 10])
def test_one_date_of_a_log_shows_the_order_of_day_and_month(tmp_path, monkeypatch, last, every, sizes, noted, held):
    monkeypatch.setattr(log_times, "IN_MEMORY", held)
    dates = ["01/03", "02/03", "07/03", "08/03", last]
    path = written(tmp_path, "x.log", "".join(f"[{date}/2026 10:00:00] up\n" for date in dates))
    result = read(path, "lines", every=every)
    assert [row["text"].count("\n") + 1 for row in result.rows] == sizes
    assert [note.partition(",")[0] for note in result.notes] == [
        f"{noted} dates are read with the month first"][:noted]


def test_a_session_that_would_fill_the_memory_is_an_error(tmp_path, monkeypatch):
    path = written(tmp_path, "x.log", "12:00:00 job-1 a\n" * 9)
    for module, name, settings in ((log_times, "LONGEST", {"every": "1h"}),
                                   (table_reader, "LONGEST_SESSION", {"session": r"job-\d"})):
        monkeypatch.setattr(module, name, 100)
        with pytest.raises(UserError, match="is longer than 0 MiB"):
            read(path, "lines", **settings)


HDFS = """081109 203518 143 INFO dfs.DataNode: Receiving block blk_-16 src: /10.0.0.1
081109 203519 145 INFO dfs.FSDataset: Deleting block blk_35 file /x
081109 203520 143 INFO dfs.DataNode: PacketResponder 1 for block blk_-16 terminating
081109 203521 143 INFO dfs.FSNamesystem: ask 10.0.0.1 to delete blk_-16 blk_7
081109 203522 143 INFO dfs.NameNode: safe mode is off
"""


@pytest.mark.parametrize("labels", ["BlockId,Label\nblk_-16,Normal\nblk_35,Anomaly\n",
                                    "b;abnormal\nblk_-16;0\nblk_35;1\n", "b,x\nblk_-16,-\nblk_35,KERN\n",
                                    "b,x\nblk_-16,Success\nblk_35,Fail\n"])
def test_sessions_by_id_with_a_file_of_labels(tmp_path, capsys, labels):
    log, out = written(tmp_path, "HDFS.log", HDFS), tmp_path / "out.jsonl"
    call(sessions, "--format", "lines", "--session", r"blk_-?\d+", "--out", out, "--labels",
         written(tmp_path, "anomaly_label.csv", labels), log)
    items = list(read_instances(out))
    assert [(len(item.log), item.label) for item in items] == [(3, "normal"), (1, "abnormal"), (1, "")]
    assert items[0].log[2].endswith("delete blk_-16 blk_7") and len({item.id for item in items}) == 3
    output = capsys.readouterr().out
    assert "5 lines -> 3 sessions by id, 1 without a label, 1 abnormal, 1 normal; " in output
    assert f"note: 1 sessions have no label in {tmp_path / 'anomaly_label.csv'}\n" in output and "ids of" not in output
    with pytest.raises(UserError, match="--session 'job': matches nothing in any row"):
        read(log, "lines", session="job")
    assert read(log, "lines", session="blk_").notes == ["1 rows without an id for --session left out"]
    by_group = read(log, "lines", session=r"dfs\.(\w+)")
    assert [row["session"] for row in by_group.rows] == ["DataNode", "FSDataset", "FSNamesystem", "NameNode"]


@pytest.mark.parametrize(("table", "expected"), [
    ("id,host,is_anomaly\na,n1,1\nb,n2,0\n", "1"), ("id,label,class\na,1,x\nb,0,y\n", "1"), ("a;1\nb;0\nc;0", "1"),
    ("id,host,state\na,n1,1\n", "which column has the labels.*'host', 'state'; call it label"),
    ("id,class,anomaly\na,n1,1\n", "which column has the labels.*'class', 'anomaly'"),
    ("id\na\n", "needs two columns")])
def test_the_column_of_a_file_of_labels(tmp_path, table, expected):
    log = Log(written(tmp_path, "labels.csv", table))
    if expected == "1":
        assert table_reader.labels_by_id(log).of("a") == expected
        return
    with pytest.raises(UserError, match=f"labels.csv:2: {expected}" if "id\n" not in table else expected):
        table_reader.labels_by_id(log)


def test_what_a_file_of_labels_lacks_or_has_too_much_is_said(own_place, capsys):
    log = written(own_place, "x.log", "".join(f"{text} id=j{at}\n" for at, text in enumerate(NOISE)))
    ids = [f"j{at},{kind}\n" for at, kind in enumerate(KIND)]
    path = written(own_place, "l.csv", "".join([*ids[:-2], "x\xe9,bad\n", "j99999,\n"]).encode("cp1252"))
    call(new_task, "--name", "mine", "--from", log, "--format", "lines", "--session", r"id=(\w+)", "--labels", path)
    call(sessions, "--task", "mine", "--labels", path, "--out", own_place / "o.jsonl", log)
    output = capsys.readouterr().out
    assert output.count("note: 2 sessions have no label in ") == output.count("is not UTF-8 and is read as CP1252") == 2
    assert output.count(f"note: 1 ids of {path} are in no session that was read") == 2
    assert output.count(f"note: {path}: the first row looks like data") == 2
    given = table_reader.labels_given(path, Reading(session="x", encoding="cp1252"))
    assert given.by_id["x\xe9"] == "bad" and not any("a guess" in note for note in given.notes())


def test_labels_of_other_ids_are_an_error_that_shows_both(own_place):
    log = written(own_place, "x.log", "".join(f"{text} id=j{at}\n" for at, text in enumerate(NOISE)))
    path = written(own_place, "l.txt", "id,label\n" + "".join(f"J{at},{kind}\n" for at, kind in enumerate(KIND)))
    options = ["--format", "lines", "--session", r"id=(\w+)", "--labels", path]
    for module, more in ((new_task, ["--name", "mine", "--from", log]), (sessions, ["--out", own_place / "o", log])):
        with pytest.raises(SystemExit, match="l.txt: no session has one of its ids: it has 'J0', .* finds 'j0'; "):
            call(module, *options, *more)
    assert not (own_place / "o").exists()
    options[3] = r"id=j(\d+)"
    path.write_text("".join(f"{at},{kind}\n" for at, kind in enumerate(KIND)))
    call(new_task, "--name", "mine", "--from", log, *options)
    assert len(list(read_instances("build/data/own/mine/train.jsonl"))) > len(NOISE) / 2


# ---- tables
def test_values_that_are_no_texts(tmp_path):
    path = written(tmp_path, "x.jsonl", '{"MESSAGE": [104, 105], "a": {"b": {"c": 1.5}}, "n": NaN, "e": {}}\n'
                   '{"MESSAGE": "x", "codes": [1, 2], "l": [{"k": "é"}]}')
    assert read(path).rows == [
        {"MESSAGE": "hi", "a.b.c": "1.5", "n": "", "e": "", "codes": "", "l": ""},
        {"MESSAGE": "x", "a.b.c": "", "n": "", "e": "", "codes": "[1, 2]", "l": '[{"k": "é"}]'}]
    frame = pyarrow.table({"text": [b"caf\xc3\xa9", b"x"], "s": [{"a": 1}, {"a": None}], "f": [float("nan"), 1.0]})
    parquet.write_table(frame, tmp_path / "x.csv")  # whatever its name
    assert [list(row.values()) for row in read(tmp_path / "x.csv").rows] == [["café", "1", ""], ["x", "", "1.0"]]


@pytest.mark.parametrize("content", [
    '{"Records": [{"a": "1"}, {"a": "2"}], "next": null}', '{"hits": {"total": 2, "hits": [{"a": 1}, {"a": 2}]}}',
    '{\n "a": 1\n}\n{\n "a": 2\n}\n', '{"a": "1"}\n{"a": "2"}', '\x1e{"a": 1}\n\x1e{"a": 2}\n', '[{"a": 1}, {"a": 2}]'])
def test_records_are_unwrapped(tmp_path, content):
    assert read(written(tmp_path, "x.json", content)).rows == [{"a": "1"}, {"a": "2"}]


def xlsx(path, *sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for at, rows in enumerate(sheets, 1):
        sheet = book.create_sheet(f"sheet {at}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


ROWS = [{"text": "one two", "label": "x"}, {"text": "three", "label": "y"}]


@pytest.mark.parametrize("content", [
    "sep=;\ntext;label\none two;x\nthree;y\n", '#TYPE System.Object\n"text","label"\n"one two","x"\n"three","y"\n',
    "text,label,\none two,x,\nthree,y,\n", "text,label\none two,x,\nthree,y\n", "text,label\none two,x\ntext,label\n"
    "three,y\n", "text,label\rone two,x\rthree,y\r", "\ufefftext\tlabel\n\none two\tx\nthree\ty\n"])
def test_what_programs_export_as_csv(tmp_path, content):
    assert read(written(tmp_path, "x.csv", content)).rows == ROWS


def test_a_field_more_than_names_gets_a_number(tmp_path):
    path = written(tmp_path, "x.csv", "Level,Date and Time,Source\nError,1/2/24,disk,it failed\nInfo,1/3/24,disk,ok\n")
    assert [row["column 4"] for row in read(path).rows] == ["it failed", "ok"]


@pytest.mark.parametrize(("content", "seen"), [
    ("disk failed,bad\nfan ok,good\nport down,bad\n", True), ("2024-01-01,up\n2024-01-02,down\n", True),
    ("3,a b\n4,c d\n", True), ("text,label\nx y,1\nz,2\n", False), ("0,1\nx y,bad\nz,good\n", False)])
def test_a_table_without_names_is_seen_and_said(tmp_path, content, seen):
    path = written(tmp_path, "x.csv", content)
    result = read(path)
    assert (result.columns == ["column 1", "column 2"]) == seen == bool(result.notes)
    assert len(read(path, header=True).rows) + 1 == len(read(path, header=False).rows) == content.count("\n")


@pytest.mark.parametrize("titles", ["Incident report 2024\n\n", "Incidents\n\n", "Incident report, Berlin 2024\n\n",
                                    "Incident report\nof 2024-01-02\n", "Incident report{0}{0}{0}\n{0}{0}{0}\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_titles_above_a_table_are_seen_said_and_left_out(tmp_path, titles, delimiter):
    if delimiter == "," in titles:
        titles = f'"{titles.strip()}"\n\n'
    lines_of = [["id", "message", "who", "label"], *([f"{at}", f"text {at}", "me", "ab"[at % 2]] for at in range(6))]
    table = "".join(f"{delimiter.join(row)}\n" for row in lines_of)
    path = written(tmp_path, "x.csv", titles.format(delimiter) + table)
    result = read(path)
    assert result.columns == lines_of[0] and [row["label"] for row in result.rows] == list("ababab")
    assert "what stands above the names of the columns is left out: 'Incident" in result.notes[0]
    assert read(written(tmp_path, "y.csv", table)).rows == result.rows == read(path, header=True).rows
    book = openpyxl.Workbook()
    for row in [[None, "Incident report 2024"], [], ["by", "me"], *lines_of]:
        book.active.append(row)
    book.save(tmp_path / "x.xlsx")
    result = read(tmp_path / "x.xlsx")
    assert result.columns == lines_of[0] and len(result.rows) == 6 and result.lines[0] == 5
    assert result.notes[0].endswith("'Incident report 2024', 'by me'")


@pytest.mark.parametrize(("content", "columns"), [
    ("message\na; b\nc; d\n", ["message"]), ("log message\n1 | INFO | a\n2 | INFO | b\n", ["log message"]),
    ("message,\nx,bad\ny,fine\nz,bad\n", ["message", "column 2"]), (",text\na,foo\nb,bar\n", ["column 1", "text"]),
    ("a,b\n1,\n2,\n3,x\n", ["a", "b"]), ("message\nx\n", ["message"]), ("a,b,c\n", None)])
def test_a_row_of_names_is_no_title(tmp_path, content, columns):
    if columns is None:
        with pytest.raises(UserError, match="holds no rows"):
            read(written(tmp_path, "x.csv", content))
        return
    result = read(written(tmp_path, "x.csv", content))
    assert result.columns == columns and not any("left out" in note for note in result.notes)


def test_a_bad_row_is_left_out_and_many_are_an_error(tmp_path):
    good = "".join(f"text {at},x\n" for at in range(30))
    path = written(tmp_path, "x.csv", f"text,label\na,b,c\n{good}" + '"a"b,c\n')
    result = read(path)
    assert len(result.rows) == 30 and result.notes == [
        f"{path}:2: 3 fields where the first line names 2 columns; put a text that holds the delimiter in double quotes"
        "; 2 such rows are left out"]
    rows = "".join(f'{{"a": {at}}}\n' for at in range(30))
    for name in ("x.jsonl", "x.json"):
        result = read(written(tmp_path, name, f'{rows}{{"a": \n{rows}'))
        assert len(result.rows) == 60 and f"{name}:31: not valid JSON" in result.notes[0]
    with pytest.raises(UserError, match="x.csv:4: 4 fields"):
        read(written(tmp_path, "x.csv", "text,label\na,b\nc,d\n" + "".join(f"a{at},b,c,d\n" for at in range(20))))


def test_a_workbook_is_read_like_a_table(tmp_path):
    path = xlsx(tmp_path / "x.xlsx", [["text", "label"], ["one two", "x"], [], ["three", "y"]], [])
    assert read(path).rows == ROWS
    assert read(path.rename(tmp_path / "x.csv")).rows == ROWS
    path = xlsx(tmp_path / "y.xlsx", [["a"], ["1"]], [["b"], [2.5]])
    with pytest.raises(UserError, match="has the sheets 'sheet 1', 'sheet 2'; name one with --member"):
        read(path)
    assert table_reader.read(Log(path, "sheet 2")).rows == [{"b": "2.5"}]
    with pytest.raises(UserError, match="is XML or HTML"):
        read(written(tmp_path, "x.csv", '<?xml version="1.0"?><Workbook/>'))


def test_names_with_commas_are_split_where_they_end():
    assert cli.known_names("disk, hard,ok x", ["disk, hard", "disk", "ok x"]) == ["disk, hard", "ok x"]
    assert cli.known_names("ok disk", ["disk", "ok"]) == ["ok", "disk"]
    assert [cli.known_names(text, ["disk", "ok"]) for text in ("diskok", "disk,no", "", ",")] == [None] * 4
    assert cli.known_names("x", []) is None


# ---- one reading
NOISE = [f"{one} met {other} on its way" for one in ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
         for other in ("ibex", "jay", "koi", "lark", "mole", "newt")]
KIND = ["bad" if at % 3 == 0 else "fine" for at in range(len(NOISE))]
PAIRS = list(zip(NOISE, KIND, strict=True))
TABLE = "when,message,state\n" + "".join(f"2024-01-{at % 28 + 1:02},{text} code=7{at},{kind}\n"
                                        for at, (text, kind) in enumerate(PAIRS))
LEVELS = {"bad": "ERROR", "fine": "INFO"}
RULE = ["--label-rule", "ERROR=bad", "--other-label", "fine"]
LAYOUT = r"(?P<time>\S+) (?P<level>\w+) (?P<text>.*)"
RAW = "".join(f"12:00:{at:02} {LEVELS[kind]} {text}\n  at frame {at}\n" for at, (text, kind) in enumerate(PAIRS))
LABELLED = "".join(f"{'K' if kind == 'bad' else '-'} 1117838570 2005.06.03 R02 2005-06-03-15.42.50.675872 R02 RAS "
                   f"KERNEL INFO {text}\n" for text, kind in PAIRS * 2)
JOBS = "".join(f"{text} job-{at % 59}\nalso job-{at % 59} and job-{at}\n" for at, (text, _) in enumerate(PAIRS))
CASES = {
    "a group of a regular expression": ("app.log", RAW, ["--format", LAYOUT, "--rule-column", "level", *RULE]),
    "windows of it": ("app.log", RAW * 2, ["--format", LAYOUT, "--rule-column", "level", "--window", "2", *RULE]),
    "events by their first line": ("app.log", RAW.replace("  at", "!at"), [
        "--format", LAYOUT, "--rule-column", "level", "--event-start", r"\d", *RULE]),
    "windows of BGL with a header": ("bgl.log", LABELLED, ["--format", "bgl", "--window", "2", "--header"]),
    "a column, masked": ("x.csv", TABLE, ["--mask", r"code=\d", "--mask", "koi"]),
    "windows of a table": ("x.csv", TABLE * 2, ["--window", "2", "--rule-column", "state", "--label-rule", "bad=bad"]),
    "a table whose name does not say so": ("incidents.dat", TABLE, []),
    "a table without names": ("x.csv", TABLE.partition("\n")[2], ["--label", "column 3"]),
    "windows of time": ("app.log", RAW, ["--format", LAYOUT, "--rule-column", "level", "--every", "2s", *RULE]),
    "sessions by id": ("app.log", JOBS, ["--format", "lines", "--session", r"job-\d+", "--labels"]),
    "a nested field": ("x.jsonl", "".join(json.dumps({"log": {"message": text, "url": "x" * 90}, "state": kind}) + "\n"
                                          for text, kind in PAIRS), []),
    "records without some of the fields": ("x.jsonl", '{"level": "info", "state": "fine"}\n' + "".join(
        json.dumps({"message": text, "state": kind}) + '\n{"level": "warn"}\n' for text, kind in PAIRS), []),
    "GBK": ("x.csv", TABLE.replace("met", "遇到").encode("gbk"), []),
    "a packed table": ("x.csv.gz", gzip.compress(TABLE.encode()), []),
    "ANSI": ("app.log", RAW.replace("met", "\x1b[1mmet\x1b[0m"), ["--format", LAYOUT, "--rule-column", "level", *RULE]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_asked_about_the_texts_that_it_was_trained_on(own_place, case):
    """new-task, sessions and analyze make the same texts of the same file, by what the task's YAML keeps."""
    name, content, options = CASES[case]
    path = written(own_place, name, content)
    if "--labels" in options:
        options = [*options, written(own_place, "labels.csv", "Job,Label\n" + "".join(
            f"job-{at},{kind}\n" for at, kind in enumerate(KIND)))]
    call(new_task, "--name", "mine", "--from", path, *options)
    trained = {item.text for part in ("train", "test") for item in read_instances(f"build/data/own/mine/{part}.jsonl")}
    assert {session.asked for session in asked(path)} == trained and len(trained) >= len(NOISE) / 2
    call(sessions, "--task", "mine", "--out", "build/sessions.jsonl", path)
    assert {item.text for item in read_instances("build/sessions.jsonl")} == trained
    assert not any("ERROR" in text or "\x1b" in text or "koi" in text for text in trained if "--mask" in options)


def asked(path, *options, task="mine"):
    """Return what analyze asks about a file."""
    parser = argparse.ArgumentParser()
    reading.add_options(parser, "")
    for option in ("--log", "--text"):
        parser.add_argument(option)
    given, task = parser.parse_args(["--log", str(path), *options]), config.task(task)
    (log,) = log_files.logs([path], given, task.reading)
    return list(analyze.windows(log, analyze.reading_of(log, given, task), task.window, None, Counter()))


def call(module, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["x", *map(str, arguments)])
        module.main()


def test_raw_lines_are_the_texts_of_a_task_that_was_made_from_a_table(own_place):
    call(new_task, "--name", "mine", "--from", written(own_place, "x.csv", TABLE), "--mask", "code=.*")
    path = written(own_place, "today.log", "fan code=9\nall well\n")
    assert [session.asked for session in asked(path)] == ["fan [MASK]", "all well"]
    path = written(own_place, "y.csv", "a,b\none two,2\n")
    with pytest.raises(UserError, match="has no 'message' but 'a', 'b'; name the one with the text by --text"):
        asked(path)
    assert [session.asked for session in asked(path, "--text", "a")] == ["one two"]


def test_json_lines_are_records_whatever_the_file_is_called(own_place):
    records = "".join(json.dumps({"log": f"{text}\n", "stream": kind}) + "\n" for text, kind in PAIRS)
    call(new_task, "--name", "mine", "--from", written(own_place, "c-json.log", records), "--label", "stream")
    path = written(own_place, "today.txt", '{"log": "fan met belt", "a": 1}\n{"log": "all\\nwell"}\n')
    assert [session.asked for session in asked(path)] == ["fan met belt", "all\nwell"]
    call(sessions, "--task", "mine", "--out", "build/sessions.jsonl", path)
    assert [item.text for item in read_instances("build/sessions.jsonl")] == ["fan met belt", "all\nwell"]
    call(new_task, "--name", "other", "--from", written(own_place, "x.csv", TABLE))
    path = written(own_place, "today.log", '{"message": "fan met belt"}\n')
    assert [session.asked for session in asked(path, task="other")] == ["fan met belt"]


def export(*bodies):
    """An export of OpenTelemetry with a resource for each list of texts."""
    return {"resourceLogs": [{
        "resource": {"attributes": [{"key": "host", "value": {"stringValue": f"h{at}"}}]},
        "scopeLogs": [{"scope": {"name": "s"}, "logRecords": [{
            "timeUnixNano": f"17724384000000000{at}0", "body": {"stringValue": text}, "attributes": [
                {"key": "code", "value": {"intValue": "7"}}, {"key": "list", "value": {"arrayValue": {"values": [
                    {"stringValue": "a"}, {"kvlistValue": {"values": [{"key": "k", "value": {"boolValue": True}}]}}]}}}]
        } for text in texts]}]} for at, texts in enumerate(bodies)]}


@pytest.mark.parametrize(("name", "pack", "numbers"), [
    ("x.json", lambda *parts: json.dumps(export(*parts)), [1, 2, 3]),
    ("y.json", lambda *parts: "\n".join(json.dumps(export(part)) for part in parts), [1, 1, 2]),
    ("x.log", lambda *parts: "\n".join(json.dumps(export(part)) for part in parts), [1, 1, 2])])
def test_the_records_of_opentelemetry_are_rows(tmp_path, name, pack, numbers):
    result = read(written(tmp_path, name, pack(["one two", "three"], ["four"])))
    assert [row["body"] for row in result.rows] == ["one two", "three", "four"] and result.lines == numbers
    assert result.rows[2] | {"timeUnixNano": "", "resource.host": ""} == {
        "timeUnixNano": "", "body": "four", "attributes.code": "7", "attributes.list": '["a", {"k": true}]',
        "resource.host": ""}
    assert len(read(tmp_path / name, every="1h").rows) == 1


@pytest.mark.parametrize("content", [
    '{"resourceLogs": [1, {"scopeLogs": [2, {"logRecords": [{"body": {"a": 1}, "attributes": [3]}]}]}]}',
    '{"resourceLogs": [{"resource": 4, "scopeLogs": [{"logRecords": [{"body": {"a": 1}}]}, {"logRecords": 5}]}]}'])
def test_a_damaged_export_of_opentelemetry_is_read_as_far_as_it_goes(tmp_path, content):
    assert [row["body.a"] for row in read(written(tmp_path, "x.jsonl", content)).rows] == ["1"]


def workbook(**sheets):
    book, stream = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.active)
    for name, table in sheets.items():
        sheet = book.create_sheet(name)
        for row in table.splitlines():
            sheet.append(row.split(","))
    book.save(stream)
    return stream.getvalue()


@pytest.mark.parametrize(("name", "pack"), [("x.xlsx", workbook), ("x.zip", packed_zip)])
def test_a_task_keeps_the_member_that_it_was_made_from(own_place, name, pack):
    other = "message\nother\n"
    path = written(own_place, name, pack(old=other, new=TABLE))
    call(new_task, "--name", "mine", "--from", path, "--member", "new")
    assert len(asked(path)) == len(NOISE)
    assert [session.asked for session in asked(path, "--member", "old")] == ["other"]
    assert [session.asked for session in asked(written(own_place, name, pack(today=other)))] == ["other"]
    written(own_place, name, pack(a=other, b=other))
    with pytest.raises(UserError, match="name one with --member"):
        asked(path)
