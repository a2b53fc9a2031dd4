"""The tutorials' commands run as written, in order, offline on a CPU, in a copy of the checkout, and print the quotes.

A block of commands is fenced as `sh`. One that comes after the line `<!-- not run: why -->` is left out. Indented lines
after a block quote what it prints; "..." stands for a part of a line, or for lines.
"""

import csv
import json
import os
import re
import subprocess
from collections import Counter
from itertools import chain

import pytest

from logreasoner.files import ROOT, read_json
from logreasoner.instances import read_instances

PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("tutorial*.md"))}
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```sh\n(.*?)```\n", re.DOTALL)
HEAVY = re.compile(r"OPENAI_API_KEY|2xA100")
FILES = ROOT / "docs" / "tutorial"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_either_run_or_says_why_not(page):
    blocks = BLOCK.findall(PAGES[page])
    run = [commands for left_out, commands in blocks if not left_out]
    assert len(run) >= 3 and PAGES[page].count("```sh") == len(blocks)
    assert not any(HEAVY.search(commands) for commands in run)


def follow(page, folder):
    """Run a page's blocks, and check that what is quoted was printed before; return what each block printed."""
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith("MAKE") and key != "OPENAI_API_KEY"}
    printed, untrue = [], []
    _, *parts = BLOCK.split(PAGES[page])
    for left_out, commands, below in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if not left_out:
            done = subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", commands], cwd=folder, text=True,
                                  env={**environment, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=1800)
            assert done.returncode == 0, f"{commands}\n{done.stdout[-4000:]}"
            printed.append(done.stdout)
        lines = "".join(printed).splitlines()
        for quoted in re.findall(r"^ {4}(.+)$", below, re.MULTILINE):
            form = re.compile(".*".join(map(re.escape, quoted.split("..."))))
            if not any(map(form.fullmatch, lines)):
                untrue.append(quoted)
    assert not untrue, f"{page} quotes what was not printed: {untrue}\n" + "".join(printed)[-6000:]
    return printed


def task(folder, name):
    """Return the label of each text of a task that was made."""
    data = folder / "build" / "data" / "own" / name
    items = chain.from_iterable(read_instances(data / f"{part}.jsonl") for part in ("train", "test"))
    return {item.text: item.label for item in items}


@pytest.mark.e2e
def test_the_tutorial(checkout):
    folder = checkout("tutorial")
    printed = follow("tutorial", folder)
    assert "opposite labels: 2 left out" in printed[0]
    run = folder / "build" / "runs" / "demo-disk-failures"
    assert (run / "models" / "tiny" / "dpo" / "model" / "config.json").exists()
    for stage in ("base", "dpo"):
        result = read_json(run / "results" / "tiny" / stage / "result.json")
        assert {row["task"] for row in result["results"]} == {"disk-failures"}
        assert sum(row["n"] for row in result["results"] if row["test_set"] == "all") == 47
    assert re.search(r"\b(healthy|failing)\b", printed[-1]), "no verdict of the served model"


def test_sessions_by_id(checkout):
    folder = checkout("sessions", [".venv"])
    printed = follow("tutorial-sessions", folder)
    with open(FILES / "storage-cluster-labels.csv", newline="") as stream:
        labels = {row["SegmentId"]: row["Label"] for row in csv.DictReader(stream)}
    expected = {name: [] for name in labels}
    for line in (FILES / "storage-cluster.log").read_text().splitlines():
        for name in re.findall(r"seg_-?\d+", line):
            expected.get(name, []).append(line.split(" ", 4)[4].replace(name, "[MASK]"))
    assert task(folder, "storage-segments") == {"\n".join(expected[name]): labels[name] for name in labels}
    assert Counter(labels.values()) == {"Normal": 53, "Anomaly": 50}
    assert "heartbeat" not in "".join(printed[2:])


def test_a_json_log(checkout):
    folder = checkout("json", [".venv"])
    follow("tutorial-json", folder)
    expected = {}
    for line in (FILES / "checkout-service.jsonl").read_text().splitlines():
        record = json.loads(line) if line.startswith("{") else {}
        if "http" in record:
            expected[record["msg"]] = "failed" if record["http"]["status"] >= 500 else "served"
    assert task(folder, "failed-requests") == expected and len(expected) == 242


def test_a_syslog_with_stack_traces(checkout):
    folder = checkout("syslog", [".venv"])
    follow("tutorial-syslog", folder)
    events = re.split(r"\n(?=Mar )", (FILES / "app-server.log").read_text().rstrip("\n"))
    expected = {}
    for event in events:
        program, severity, message = re.fullmatch(r"\S+ +\d+ \S+ \S+ (\S+) sev=(\d) (.*)", event, re.DOTALL).groups()
        expected[f"{program} [MASK] {message}"] = "urgent" if severity in "12" else "normal"
    assert task(folder, "night-shift") == expected and sum("\n" in text for text in expected) > 100


def test_every_page_is_followed():
    source = (ROOT / "tests" / "e2e" / "test_tutorial.py").read_text()
    assert [page for page in PAGES if f'follow("{page}", ' not in source] == []
