import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logreasoner.cli import UserError
from logreasoner.instances import Instance, instance, mask_level
from logreasoner.schemas import Task


@pytest.mark.parametrize(("log", "masked"), [
    ("AAA/5/AAA_FAILURE: failed", "AAA/[MASK]/AAA_FAILURE: failed"),
    ("¡AAA/5/AAA_FAILURE: failed", "¡AAA/[MASK]/AAA_FAILURE: failed"),
    ("H3C LB/6/ TAC_AUTH:x", "H3C LB/[MASK]/ TAC_AUTH:x"),
    ("QOS / 4 /NAME: x", "QOS / [MASK] /NAME: x"),
    ("Wired users:CM/5/OFF:a;Wireless users:CM/5/OFF:b", "Wired users:CM/[MASK]/OFF:a;Wireless users:CM/[MASK]/OFF:b"),
    ("TRAP/4/2/STATEDOWN: x", "TRAP/[MASK]/STATEDOWN: x"),
    ("DEVM/4/OUT: as %%01DEVM/4/OUT(l)[3]", "DEVM/[MASK]/OUT: as %%01DEVM/[MASK]/OUT(l)[3]"),
    ("FW-LOG/6/A: x FW-LOG/6/B", "FW-LOG/[MASK]/A: x FW-LOG/[MASK]/B"),
    ("IF/4/DOWN: GigabitEthernet1/0/2 is down", "IF/[MASK]/DOWN: GigabitEthernet1/0/2 is down"),
    ("BOARD/3/0x12: rate 10/100 on 1/0", "BOARD/[MASK]/0x12: rate 10/100 on 1/0"),
    ("no level at all", "no level at all"),
    ("", ""),
])
def test_mask_level(log: str, masked: str) -> None:
    assert mask_level(log) == masked


def test_how_accents_of_a_label_are_composed_makes_no_other_class() -> None:
    forms = [unicodedata.normalize(form, "d\xe9faut") for form in ("NFC", "NFD")]
    labels = {instance({"id": "a", "task": "t", "source": "s", "log": "x", "label": label}, "I:1").label
              for label in forms}
    for label in forms:
        rules = Task(name="t", title="t", question="?", labels=["normal", label], positive=label, metrics=["f1"])
        assert labels == {rules.labels[1]} == {rules.positive} == {forms[0]}


@given(st.text(alphabet="A/4 x-%0\n", max_size=60))
def test_masking_twice_is_masking_once(log: str) -> None:
    assert mask_level(mask_level(log)) == mask_level(log)


def test_masking_is_linear() -> None:
    for hostile in ("a-" * 50_000, " " * 50_000, "A/4/B " * 20_000, "1" * 50_000):
        mask_level(hostile)  # quadratic matching would take minutes


def test_the_same_log_with_another_level_and_other_line_breaks() -> None:
    def masked(log: str, vendor: str = "huawei") -> str:
        return Instance("1", "t", "s", log, "True", vendor=vendor).masked

    assert masked("AAA/5/FAIL:the\n  access device") == masked("AAA/3/FAIL: theaccess device")
    assert masked("AAA/5/FAIL:the access device") != masked("AAA/3/FAIL: an access device")
    # Logs of no vendor have no level, and their blanks say where a word ends.
    for one, other in (("slot/3/port", "slot/5/port"), ("17/06/09", "17/07/09"), ("1 23", "12 3"), ("A/5/B", "A/3/B")):
        assert masked(one, "") != masked(other, "")
    assert masked(" a\tb\n", "") == masked("a b", "")


@given(st.one_of(st.text(), st.lists(st.text(), min_size=1).map(tuple)), st.text())
def test_an_instance_comes_back_from_its_json(log: str | tuple[str, ...], description: str) -> None:
    item = Instance("1", "t", "s", log, "True", description=description)
    record = item.as_json()
    assert instance(json.loads(json.dumps(record)), "row") == item
    assert {key: type(value) for key, value in record.items()} == {**dict.fromkeys(record, str), "lines": list}


def test_a_session_may_stand_under_log_or_under_lines_but_not_both() -> None:
    row = {"id": "1", "task": "t", "source": "s", "label": "x"}
    assert instance({**row, "log": ["a", "b"]}, "row") == instance({**row, "log": "", "lines": ["a", "b"]}, "row")
    with pytest.raises(UserError, match="row 7: give a log or lines, not both"):
        instance({**row, "log": "a", "lines": ["a"]}, "row 7")


def test_no_level_is_left_in_the_public_failure_files(mirror: Path) -> None:
    files = sorted(mirror.rglob("error_test_*.json"))
    assert len(files) == 6
    for path in files:
        for row in json.loads(path.read_text()):
            masked = mask_level(row["input"])
            assert "[MASK]" in masked
            assert not re.match(r"^\s*[^/]*/\s*\d\s*/", masked)
            assert not re.search(r"[A-Za-z]\s*/\s*\d\s*/\s*[A-Za-z]", masked), masked
