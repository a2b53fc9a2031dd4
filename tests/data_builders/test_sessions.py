import gzip
import hashlib
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders import layouts, sessions
from logreasoner import reading
from logreasoner.cli import UserError
from logreasoner.instances import read_instances
from logreasoner.reading import Log

HEADER = {"bgl": "{label} 1117838570 2005.06.03 R02-M1 2005-06-03-15.42.50.675872 R02-M1 RAS KERNEL INFO {content}",
          "spirit": "{label} 1104566461 2005.01.01 sn173 Jan 1 00:01:01 sn173/sn173 kernel: {content}"}
CONTENT = st.text(alphabet=st.characters(blacklist_characters="\n\r", blacklist_categories=("Cs",)), max_size=30)


def bgl(*labels: str, end: str = "\r\n") -> bytes:
    return "".join(HEADER["bgl"].format(label=label, content=f"message {n}") + end
                   for n, label in enumerate(labels, 1)).encode()


def run(path: Path, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    out = path.parent / "out.jsonl"
    out.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-m", "data_builders.sessions", "--out", str(out), *options, str(path)],
                          capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return done.returncode, done.stdout + done.stderr, rows


def parsed(path: Path, layout: str = "bgl", window: int = 2,
           **settings: Any) -> tuple[list[dict[str, Any]], Counter[str]]:
    log, counts = Log(path, settings.pop("member", None)), Counter[str]()
    return list(sessions.sessions(log, layout, window, "s", counts, **settings)), counts


def test_the_command(tmp_path: Path) -> None:
    log = tmp_path / "My_2k.log"
    log.write_bytes(bgl("-", "-", "KERNDTLB", "-", "-"))
    code, output, rows = run(log, "--format", "bgl", "--window", "2")
    assert code == 0
    assert "5 lines -> 2 sessions" in output
    assert "1 of a short last window dropped" in output
    assert [row["label"] for row in rows] == ["normal", "abnormal"]
    assert rows[1]["log"] == ["message 3", "message 4"]
    assert rows[1]["id"].startswith("my-2k-3-")
    assert len(list(read_instances(tmp_path / "out.jsonl"))) == 2
    assert (tmp_path / "out.jsonl.manifest.json").exists()


def test_parts_of_a_log_are_cut_on_and_several_logs_apart(tmp_path: Path) -> None:
    lines = bgl("-", "-", "K", "-").splitlines(keepends=True)
    for name, content in (("ax.log.1.gz", gzip.compress(lines[0])), ("ax.log", lines[1] + lines[2]), (
            "bx.log", lines[3] * 2)):
        (tmp_path / name).write_bytes(content)
    code, output, rows = run(tmp_path / "?x*", "--format", "bgl", "--window", "2")
    assert code == 0 and [row["log"] for row in rows] == [["message 1", "message 2"], ["message 4"] * 2]
    assert [row["source"] for row in rows] == ["ax", "bx"]
    assert "ax.log: is one log of the files ax.log.1.gz, ax.log, in this order" in output
    assert "ax.log: 3 lines -> 1 sessions" in output and "bx.log: 2 lines -> 1 sessions" in output
    inputs = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["inputs"]
    assert [Path(name).name for name in inputs] == ["ax.log.1.gz", "ax.log", "bx.log"]
    code, output, _ = run(tmp_path / "?x*", "--format", "bgl", "--source", "s")
    assert code == 1 and "these are 2, each with its own name" in output
    assert sessions.source_names([Path("p/a/x.log"), Path("p/b/x.log"), Path("p/y.log")]) == ["a-x", "b-x", "y"]


@pytest.mark.parametrize("layout", ["bgl", "spirit"])
@given(rows=st.lists(st.tuples(st.sampled_from(["-", "ALERT"]), CONTENT), max_size=12), window=st.integers(1, 4))
def test_any_content_comes_through_whole(layout: str, rows: list[tuple[str, str]], window: int) -> None:
    lines = [HEADER[layout].format(label=label, content=content).encode() for label, content in rows]
    counts: Counter[str] = Counter()
    result = list(sessions.windows([lines], layout, window, "s", counts, header=False))
    assert len(result) == len(rows) // window
    assert counts["dropped"] == len(rows) % window
    assert counts["malformed"] == 0
    for number, session in enumerate(result):
        part = rows[number * window:(number + 1) * window]
        assert session["log"] == [content for _, content in part]
        assert session["label"] == ("abnormal" if any(label != "-" for label, _ in part) else "normal")
        assert session["id"].startswith(f"s-{number * window + 1}-")


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=9))
def test_no_bytes_are_too_strange(lines: list[bytes]) -> None:
    for layout in layouts.LAYOUTS:
        counts: Counter[str] = Counter()
        for session in sessions.windows([lines], layout, 2, "s", counts):
            json.dumps(session).encode()
        assert counts["lines"] == len(lines) == 2 * counts["sessions"] + counts["dropped"] + counts["malformed"]


@pytest.mark.parametrize(("rest", "content"), [
    ("crond(pam_unix)[2915]: session closed", "session closed"),
    ("kernel: eth0: link up", "eth0: link up"),
    ("last message repeated: 3 times", "last message repeated: 3 times"),
    ("kernel:", ""),
])
def test_the_component_is_not_content(rest: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(f"- 1131566461 2005.11.09 dn228 Nov  9 12:01:01 dn228/dn228 {rest}\n")
    assert parsed(path, "thunderbird", 1, header=False)[0][0]["log"] == [content]
    assert parsed(path, "thunderbird", 1)[0][0]["log"] == [f"Nov  9 12:01:01 dn228/dn228 {rest}"]  # as in figure 1


def test_a_header_says_when_where_and_what_and_hides_label_and_level(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(bgl("-", "KERNDTLB") + HEADER["bgl"].format(label="-", content="").rstrip().encode() + b"\n")
    code, _, rows = run(path, "--format", "bgl", "--window", "3", "--header")
    header = "2005-06-03-15.42.50.675872 R02-M1 KERNEL "
    assert code == 0 and rows[0]["log"] == [f"{header}message 1", f"{header}message 2", header]
    assert parsed(path)[0][0]["log"][0] == "message 1"
    with pytest.raises(UserError, match="the lines layout has no header"):
        parsed(path, "lines", header=True)


def test_limit_seed_and_level(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(bgl(*"-" * 50))
    assert [row["id"].split("-")[1] for row in parsed(path, limit=5)[0]] == ["1", "3"]
    rows, counts = parsed(path, limit=10, seed=1)
    first = int(rows[0]["id"].split("-")[1])
    assert counts["lines"] == 10
    assert [line for row in rows for line in row["log"]] == [f"message {n}" for n in range(first, first + 10)]
    assert rows == parsed(path, limit=10, seed=1)[0]
    assert len({parsed(path, limit=10, seed=seed)[0][0]["id"] for seed in range(5)}) > 1
    assert parsed(path, limit=99, seed=1)[1]["lines"] == 50
    assert parsed(path, level=True)[0][0]["log"] == ["INFO message 1", "INFO message 2"]
    with pytest.raises(UserError, match="no level column"):
        parsed(path, "spirit", level=True)


def test_archives_hold_the_same(tmp_path: Path) -> None:
    text = bgl("-", "X", "-", "-")[:-2]  # the last line has no end
    plain, packed, zipped = tmp_path / "a.log", tmp_path / "a.log.gz", tmp_path / "a.zip"
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("notes.txt", "about")
        archive.writestr("a.log", text)
    assert parsed(plain)[0] == parsed(packed)[0] == parsed(zipped)[0]
    assert parsed(zipped, member="a.log")[0] == parsed(plain)[0]
    assert [Log(path).count_lines() for path in (plain, packed, zipped)] == [4, 4, 4]


def test_bad_archives(tmp_path: Path) -> None:
    good = gzip.compress(bgl(*"-" * 2000))
    cases = {"cut.gz": good[:len(good) // 2], "not.gz": b"\x1f\x8bplain", "not.zip": b"PK\x03\x04 nothing",
             "empty.zip": b""}
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=name):
            parsed(path)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.log", "x")
        archive.writestr("b.log", "x")
    with pytest.raises(UserError, match="exactly one log file"):
        parsed(tmp_path / "two.zip")
    code, output, rows = run(tmp_path / "cut.gz", "--format", "bgl")
    assert (code, rows) == (1, [])
    assert output.startswith("error: ")


def test_malformed_lines_are_counted_and_never_alerts(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    noise = b"FATAL words that are no header at all, though many of them\n"
    path.write_bytes(b"cut off here\n\n" + bgl("-") + noise + bgl("-"))
    rows, counts = parsed(path)
    assert (len(rows), rows[0]["label"], counts["malformed"]) == (1, "normal", 3)
    path.write_bytes(b"nothing of\nthis kind\n")
    with pytest.raises(UserError, match="is --format right"):
        parsed(path)


def test_plain_lines_have_no_label(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\n")
    assert parsed(path, "lines")[0][0]["label"] == ""


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 64)
    monkeypatch.setattr(reading, "LONGEST", 256)
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="longer than"):
        parsed(path)


@given(st.lists(st.sampled_from([b"a", b"-", b" ", b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"\xe2\x82", b"x" * 20]),
                min_size=1),
       st.integers(1, 9))
def test_lines_do_not_depend_on_where_a_block_ends(pieces: list[bytes], block: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        path = Path(folder) / "a.log"
        path.write_bytes(b"".join(pieces))
        log, ends = Log(path, encoding="utf-8"), b"".join(pieces).split(b"\n")
        assert list(log.lines()) == [line.removesuffix(b"\r") for line in (ends if ends[-1] else ends[:-1])]
        assert log.count_lines() == len(list(log.lines()))


@given(st.lists(st.sampled_from(["-", "ALERT", ""]), max_size=30), st.integers(1, 4), st.integers(1, 7),
       st.sampled_from(["bgl", "spirit"]))
def test_sessions_do_not_depend_on_how_lines_arrive(labels: list[str], window: int, size: int, layout: str) -> None:
    lines = [HEADER[layout].format(label=label, content=f"message {n}").encode() if label else b"no header"
             for n, label in enumerate(labels, 1)]
    good = [n for n, label in enumerate(labels, 1) if label]
    counts: Counter[str] = Counter()
    result = list(sessions.windows((lines[at:at + size] for at in range(0, len(lines), size)), layout, window, "s",
                                  counts, header=False))
    assert counts["malformed"] == len(lines) - len(good)
    assert [row["log"] for row in result] == [[f"message {n}" for n in good[at:at + window]]
                                             for at in range(0, len(good) - window + 1, window)]
    assert [int(row["id"].split("-")[1]) for row in result] == good[:len(result) * window:window]


def test_what_a_session_is_made_of_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    strange = b'\0 \xff "\\ \xe2\x82\xac'
    log = bgl("-", "X", "-", "-").replace(b" message 3", b"").replace(b"message 4", strange)
    path.write_bytes(b"no header\n" + log)
    run(path, "--format", "bgl", "--window", "2", "--source", "s")
    ids = [hashlib.sha256(content).hexdigest()[:12] for content in (b"message 1\nmessage 2", b"\n" + strange)]
    assert (tmp_path / "out.jsonl").read_bytes() == (
        f'{{"id":"s-2-{ids[0]}","task":"anomaly_detection","source":"s","log":["message 1","message 2"],'
        '"label":"abnormal","split":"test"}\n'
        f'{{"id":"s-4-{ids[1]}","task":"anomaly_detection","source":"s",'
        '"log":["","\\u0000 \ufffd \\"\\\\ \u20ac"],"label":"normal","split":"test"}\n').encode()


def test_a_session_of_long_lines_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 64)
    monkeypatch.setattr(sessions, "LONGEST", 1000)
    path = tmp_path / "a.log"
    path.write_bytes(b"\n".join([bgl("-")[:-2] + b"x" * 300] * 20))
    assert len(parsed(path, window=2)[0]) == 10
    with pytest.raises(UserError, match="begins with line 1 is longer than"):
        parsed(path, window=20)


def test_memory_does_not_grow_with_the_log(tmp_path: Path, long: bool) -> None:
    code = ("from data_builders import sessions\nsessions.main()\nfrom pathlib import Path\n"
            "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])")
    peaks = []
    for count in (2_000, 2_000_000 if long else 200_000):
        path = tmp_path / f"{count}.log"
        path.write_bytes(bgl("-", "-") * (count // 2))
        done = subprocess.run([sys.executable, "-c", code, "--format", "bgl", "--out", str(tmp_path / "out.jsonl"),
                               str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 5, "MiB"


def test_wrong_options(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(bgl("-"))
    assert run(path, "--format", "bgl", "--window", "0")[0] == 2 and "give --format" in run(path)[1]
    assert "no such file" in run(tmp_path / "none.log", "--format", "bgl")[1]
    command = [sys.executable, "-m", "data_builders.sessions", "--format", "bgl", "--out", str(path), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert path.read_bytes() == bgl("-")


def test_a_zip_that_points_before_its_beginning_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.log", "a line\n")
    data = bytearray(path.read_bytes())
    data[-6] += 5  # the place of the directory, in the archive's last record
    path.write_bytes(data)
    with pytest.raises(UserError, match="x.zip: the archive cannot be read"):
        list(Log(path).lines())


def test_the_report_counts_labels_and_says_what_was_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counter({"lines": 9, "sessions": 4, "malformed": 1, "label lines": 2, "label fan": 1, "label ": 1})
    report = sessions.report("x", "by id", counts)
    assert "4 sessions by id, 1 without a label, 1 fan, 2 lines; 1 malformed lines" in report
    log = tmp_path / "x.log"
    log.write_text("E boom\n  at more\nodd\n  at b\nE c\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["x", "--format", "(?P<text>E .*)", "--window", "1", "--out", f"{log}.out", str(log)])
        sessions.main()
    output = capsys.readouterr().out
    assert "note: 2 lines joined to the event before them" in output
    assert "5 lines -> 2 sessions of 1 lines, labels unknown; 1 malformed events skipped" in output
