import argparse
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logreasoner import cli, files
from logreasoner.cli import UserError


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"kept": True})
    with pytest.raises(ZeroDivisionError), files.writing(path) as stream:
        stream.write("half")
        raise ZeroDivisionError
    assert files.read_json(path) == {"kept": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()) | st.sampled_from(["bad \ud800 byte", 2**64, "\n\x00\u2028"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(st.dictionaries(st.text(), anything))
def test_a_line_round_trips_whatever_the_value(record):
    line = files.dump(record)
    assert json.loads(line.encode()) == record and "\n" not in line


def test_a_deep_answer_round_trips():
    deep: list = []
    for _ in range(500):
        deep = [deep]
    assert json.loads(files.dump(deep)) == deep


def test_an_unpaired_surrogate_can_be_written(tmp_path):
    files.write_jsonl(tmp_path / "x.jsonl", [{"log": "bad \ud800 byte"}])
    assert [row for _, row in files.read_jsonl(tmp_path / "x.jsonl")] == [{"log": "bad \ud800 byte"}]


@pytest.mark.parametrize(("line", "said"), [("{", "x.jsonl:2: not valid JSON"),
                                            ("[1]", "x.jsonl:2: expected a JSON object"),
                                            ("[" * 100_000, "x.jsonl:2: not valid JSON")])
def test_a_malformed_line_is_named(tmp_path, line, said):
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n" + line + "\n")
    with pytest.raises(UserError, match=said):
        list(files.read_jsonl(path))


def test_digest_does_not_depend_on_key_order():
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})


@pytest.mark.parametrize(("raised", "said"), [
    (UserError("x.jsonl:3: wrong"), "error: x.jsonl:3: wrong"),
    (OSError(28, "No space left on device", "build/x"), "error: build/x: No space left on device"),
])
def test_a_users_mistake_is_one_line(raised, said):
    def main(_):
        raise raised

    with pytest.raises(SystemExit) as stopped:
        cli.run(argparse.ArgumentParser(), main, [])
    assert str(stopped.value.code).startswith(said)
