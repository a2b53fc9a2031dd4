"""Hugging Face's datasets reads what the builders write."""

import json

import pytest

from demo import logs
from logreasoner.files import write_jsonl

pytestmark = pytest.mark.e2e

READ = """
import json, sys
from datasets import load_dataset
rows = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
print("ROWS", json.dumps([rows.num_rows, sorted(rows.column_names)]))
"""


def test_sessions_and_single_logs_in_one_file(in_train, tmp_path):
    items = list(logs.instances("test"))
    assert {type(item.log) for item in items} == {str, tuple}
    write_jsonl(tmp_path / "test.jsonl", (item.as_json() for item in items))
    printed = in_train(READ, str(tmp_path / "test.jsonl"), str(tmp_path / "cache"))
    found = json.loads(next(line for line in printed.splitlines() if line.startswith("ROWS ")).removeprefix("ROWS "))
    assert found == [len(items), sorted(items[0].as_json())]
