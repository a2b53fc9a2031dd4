"""Folders, patterns and rotated files are the logs that a person would say they are; a log that grows is followed."""

import argparse
import gzip
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from data_builders import table_reader
from logreasoner import log_files
from logreasoner.cli import UserError
from logreasoner.log_files import Followed
from logreasoner.reading import Log, Reading


def folder_of(place, *names, content=b"x\n"):
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return place


def found(place, *given):
    notes: list[str] = []
    logs = log_files.find([place / name for name in given], notes)
    return [[str(path.relative_to(place)) for path in parts] for parts in logs], notes


@pytest.mark.parametrize("parts", [
    ["app.log.10.gz", "app.log.2.gz", "app.log.1", "app.log"], ["syslog.2.gz", "syslog.1", "syslog"],
    ["a.log-20260130.gz", "a.log-20260131", "a.log"], ["a.log.2026-01-30", "a.log.2026-01-31-02", "a.log"],
    ["a.2026-01-30.log", "a.2026-01-31.log", "a.log"], ["m-20260130.gz", "m-20260131.gz"],
    ["a-2026-01-31.2.log", "a-2026-01-31.10.log"], ["a.log.2", "a.log.1"]])
def test_rotated_parts_are_one_log_the_oldest_first(tmp_path, parts):
    folder_of(tmp_path, *parts)
    expected = [parts]
    assert found(tmp_path, "")[0] == found(tmp_path, *parts)[0] == found(tmp_path, "*")[0] == expected
    assert f"is one log of the files {', '.join(parts)}, in this order" in found(tmp_path, "")[1][0]


@pytest.mark.parametrize("names", [
    ["10.0.0.1", "10.0.0.2"], ["node-1", "node-2"], ["node-1.log", "node-2.log"], ["v1.2.3", "v1.2.4"],
    ["a/app.log", "b/app.log.1"], ["a.log", "b.log.1"], ["app-1234.log", "app.log"]])
def test_other_numbers_are_no_rotation(tmp_path, names):
    folder_of(tmp_path, *names)
    assert found(tmp_path, "")[0] == [[name] for name in names]


def test_what_is_no_log_is_left_out_of_a_folder_and_said(tmp_path):
    folder_of(tmp_path, "a.log", "sub/b.log", ".hidden/c.log", ".d", "a.log~")
    (tmp_path / "ls").write_bytes(b"\x7fELF\2\1")
    (tmp_path / "empty.log").touch()
    logs, notes = found(tmp_path, "")
    assert logs == [["a.log"], ["sub/b.log"]]
    assert notes == [f"{tmp_path}/empty.log: is empty: left out", f"{tmp_path}/ls: is a program; give a log: left out"]
    assert found(tmp_path, "*.log", "a.log", "**/*.log")[0] == [["a.log"], ["sub/b.log"]]
    (tmp_path / "nothing").mkdir()
    folder_of(tmp_path, "x.log.1", "x.log.1.gz", "[x].log")
    for name, message in (
            ("no*.log", "no such file"), ("none.log", "no such file"), ("a.log b.log", "of several give the folder"),
            ("ls*", "is a program"), ("nothing", "holds no file"),
            ("x*", r"x\.log\.1 and .*x\.log\.1\.gz are the same part of x\.log")):
        with pytest.raises(UserError, match=message):
            found(tmp_path, name)
    assert found(tmp_path, "[x].log")[0] == [["[x].log"]]


def test_parts_are_read_as_one_and_lines_know_their_file(tmp_path):
    folder_of(tmp_path, "a.log.2.gz", content=b"b\nc")
    folder_of(tmp_path, "a.log.1", content="Ger\xe4t\n".encode("cp1252") * 9)
    folder_of(tmp_path, "a.log", content=b"")
    (parts,) = log_files.find([tmp_path], [])
    log = Log(tmp_path / "a.log", earlier=tuple(tmp_path / name for name in ("a.log.2.gz", "a.log.1")))
    assert parts[-1] == tmp_path / "a.log.1"  # the empty one was left out
    assert list(log.lines()) == [b"b", b"c", *["Ger\xe4t".encode()] * 9]
    places = [("a.log.2.gz", 1), ("a.log.2.gz", 2), ("a.log.1", 1), ("a.log.1", 9)]
    assert [log.place(number) for number in (1, 2, 3, 11)] == [(tmp_path / name, number) for name, number in places]
    assert any("a.log.1: is not UTF-8" in note for note in log.notes)
    assert Log(tmp_path / "a.log.1").place(3) == (tmp_path / "a.log.1", 3)
    with pytest.raises(UserError, match="is a table"):
        list(table_reader.rows(Log(tmp_path / "a.csv", earlier=log.earlier), Reading(), Counter()))


def test_the_file_of_the_labels_is_no_log(tmp_path):
    folder_of(tmp_path, "a.log", "b.log", "labels.csv")
    given = argparse.Namespace(member=None, encoding=None, session=None, labels=tmp_path / "labels.csv")
    assert [log.path.name for log in log_files.logs([tmp_path], given, Reading())] == ["a.log", "b.log"]
    (log,) = log_files.logs([tmp_path], given, Reading(session="x"))
    assert (log.path.name, [part.name for part in log.earlier]) == ("b.log", ["a.log"])
    assert any("2 logs are read as one" in note for note in log.notes)
    with pytest.raises(UserError, match="labels.csv: is the file of the labels, and there is no other"):
        log_files.logs([tmp_path / "labels.csv"], given, Reading())


# ---- a log that grows
def appended(path, *lines):
    with open(path, "ab") as stream:
        stream.write(b"".join(lines))


def test_only_what_is_appended_is_read_in_whole_lines(tmp_path):
    path = folder_of(tmp_path, "a.log", content=b"old\nbeg") / "a.log"
    log = Followed(path, 0)
    appended(path, b"un\nnext\nunfin")
    assert b"".join(log.blocks()) == b"begun\nnext\n"
    appended(path, b"ished\n")
    assert b"".join(log.blocks()) == b"unfinished\n"


def test_a_rotated_or_emptied_log_is_read_on(tmp_path, monkeypatch):
    path = folder_of(tmp_path, "a.log") / "a.log"
    log = Followed(path, 0)
    appended(path, b"1\n2")
    with open(path, "ab", buffering=0) as writer:
        path.rename(tmp_path / "a.log.1")
        path.write_bytes(b"4\n5\n")
        monkeypatch.setattr(log_files.time, "sleep", lambda seconds: writer.write(b"3\n"))
        assert b"".join(log.blocks()) == b"1\n23\n4\n5\n"
    monkeypatch.undo()
    os.truncate(path, 0)
    appended(path, b"6\n")
    assert b"".join(log.blocks()) == b"6\n"


def test_the_wait_begins_with_the_first_line(tmp_path):
    path = folder_of(tmp_path, "a.log") / "a.log"
    log, come = Followed(path, 0.5), list[bytes]()
    reader = threading.Thread(target=lambda: come.extend(log.blocks()), daemon=True)
    reader.start()
    time.sleep(0.7)
    assert reader.is_alive() and not come  # nothing is there: no end
    appended(path, b"1\n")
    reader.join(60)
    assert come == [b"1\n"]


def test_what_cannot_be_followed_is_said(tmp_path):
    folder_of(tmp_path, "a.log.gz")
    (tmp_path / "u.log").write_bytes("a\nb\n".encode("utf-16-le"))
    folder_of(tmp_path, "a-2026-01-31.log")
    for name, message in (("a.log.gz", "is packed or UTF-16"), ("u.log", "is packed or UTF-16"), ("", "only a file"),
                          ("a-2026-01-31.log", "has a date in its name")):
        with pytest.raises(UserError, match=message):
            Followed(tmp_path / name, 0)
    with pytest.raises(UserError, match="is a table"):
        path = folder_of(tmp_path, "t.csv") / "t.csv"
        list(table_reader.rows(Log(path, followed=Followed(path, 0).blocks), Reading(), Counter()))


def test_numbers_go_on_from_reading_to_reading(tmp_path):
    for name, read, line in (("a.log", Reading(format="lines"), b"a\n"), ("a.jsonl", Reading(format="jsonl"), b"{}\n")):
        path = folder_of(tmp_path, name) / name
        log, counts = Log(path, followed=Followed(path, 0).blocks), Counter[str]()
        for number in (1, 3):
            appended(path, line, line)
            assert [at for at, _ in table_reader.rows(log, read, counts)] == [number, number + 1]
        assert counts["lines"] == 4 and not Path(path, "x").exists()
