import json
from collections import Counter
from pathlib import Path

import pytest

from data_builders import normalise
from data_builders.fetch import File
from logreasoner.cli import UserError
from logreasoner.instances import Instance, read_instances

PFP = File(path="f.json", task="potential_failure_prediction", source="huawei-switches", split="test")


def saved(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_pairs_and_instructions(tmp_path: Path) -> None:
    rows = list(normalise.pairs(saved(tmp_path / "p.json", [[["A/4/B: x", "y"], 1], [["A/4/B: x", ""], 0]]), PFP))
    assert [row["label"] for row in rows] == ["True", "False"]
    assert rows[1]["description"] == ""
    path = saved(tmp_path / "i.json", [{"instruction": "error", "input": "A/4/B: x", "output": "True"}])
    assert next(normalise.instructions(path, PFP))["log"] == "A/[MASK]/B: x"


@pytest.mark.parametrize(("reader", "bad"), [
    (normalise.pairs, [["log"], 1]),
    (normalise.pairs, [["log", "description"], 2]),
    (normalise.pairs, [["log", None], 1]),
    (normalise.instructions, {"input": "x"}),
    (normalise.instructions, "text"),
])
def test_a_malformed_row_is_named(reader: normalise.Reader, bad: object, tmp_path: Path) -> None:
    good: object = [["a", "b"], 1] if reader is normalise.pairs else {"input": "a", "output": "True"}
    path = saved(tmp_path / "x.json", [good, bad])
    with pytest.raises(UserError, match=r"x\.json: row 2: expected"):
        list(reader(path, PFP))
    with pytest.raises(UserError, match="expected a JSON list"):
        list(reader(saved(path, {"a": 1}), PFP))


def test_templates(tmp_path: Path) -> None:
    import pandas
    path = tmp_path / "t.xlsx"
    pandas.DataFrame({"log": ["NA", "123", "bad thing"], "label": [0, 0, 1]}).to_excel(path, index=False)
    rows = list(normalise.templates(path, PFP))
    assert [row["log"] for row in rows] == ["NA", "123", "bad thing"]
    assert [row["label"] for row in rows] == ["normal", "normal", "abnormal"]
    pandas.DataFrame({"log": ["a"], "label": [7]}).to_excel(path, index=False)
    with pytest.raises(UserError, match="row 1"):
        list(normalise.templates(path, PFP))
    path.write_bytes(b"no sheet")
    with pytest.raises(UserError, match="not a readable sheet"):
        list(normalise.templates(path, PFP))


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(UserError, match="f.json: row 3: unknown label 'Maybe'"):
        normalise._instance({"log": "a", "label": "Maybe"}, PFP, normalise.Ids(), "f.json: row 3")


def test_ids_are_stable_and_unique() -> None:
    ids = normalise.Ids()
    one, again, other = (ids.of("root_cause_analysis", "huawei-routers", text) for text in ("a", "a", "b"))
    assert one == normalise.Ids().of("root_cause_analysis", "huawei-routers", "a")
    assert again == f"{one}-2"
    assert len({one, again, other}) == 3
    assert one.startswith("rca-huawei-routers-")


def test_failures_follow_the_level_and_hide_it() -> None:
    def row(number: int, log: str) -> Instance:
        return Instance(str(number), "log_semantic_matching", "h3c-routers", log, "True", description="d")

    rows = [row(1, "A/4/B: x"), row(2, "A/4/B: x"), row(3, "A/5/C: y"), row(4, "A/3/KNOWN: z"), row(5, "no level")]
    result = list(normalise.failures(rows, {rows[3].masked}, normalise.Ids()))
    assert [(item.log, item.label) for item in result] == [("A/[MASK]/B: x", "True"), ("A/[MASK]/C: y", "False")]
    assert {item.description for item in result} == {""}


@pytest.mark.parametrize(("text", "steps"), [
    ("Procedure 1. Check it. ·If so, go to Step 2. 2. Mend it. 3. End.",
     ["Check it. ·If so, go to Step 2.", "Mend it."]),
    ("1.Look at V1.2.3.2.Wait   6 hours.3.Call.", ["Look at V1.2.3.", "Wait 6 hours.", "Call."]),
    ("No action is required.", []),
    ("1. Only one.", ["Only one."]),
    ("1. First. 2. Second. 3. " + "long " * 100 + "cut of", ["First.", "Second."]),
    ("", []),
])
def test_steps(text: str, steps: list[str]) -> None:
    assert normalise.steps(text) == steps


def test_handbook_filters(tmp_path: Path) -> None:
    three, two = "1. One. 2. Two. 3. Three.", "1. One. 2. Two."
    rows = [("A/4/B: the card was removed today", three), ("A/3/B: the card was\nremoved today", three),
            ("A/4/C: the fan was removed today", two), ("A/4/D: Down.", three)]
    path = saved(tmp_path / "h.json", [{"input": log, "output": text} for log, text in rows])
    file = File(path="h.json", task="handbook", source="huawei-switches", split="train")
    counts: Counter[str] = Counter()
    result = list(normalise.handbook([(file, path)], normalise.Ids(), counts))
    assert [case["symptom"] for case in result] == ["A/4/B: the card was removed today"]
    assert result[0]["analysis"] == ["One.", "Two.", "Three."]
    assert (counts["handbook rows repeated"], counts["handbook rows with an overly brief symptom"]) == (1, 1)


def test_missing_files_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data_builders.fetch"):
        normalise.normalise(tmp_path, tmp_path / "out")


def test_the_public_data(mirror: Path, tmp_path: Path) -> None:
    normalise.normalise(mirror, tmp_path)
    test, train = list(read_instances(tmp_path / "test.jsonl")), list(read_instances(tmp_path / "train.jsonl"))
    rows = Counter((item.task, item.source) for item in test)
    failure = "potential_failure_prediction"
    assert [rows[failure, f"{name}"] for name in ("huawei-switches", "huawei-routers", "h3c-switches", "h3c-routers")] \
        == [2653, 2338, 1508, 2220]
    assert rows["root_cause_analysis", "huawei-switches"] == 1673
    assert sum(item.label == "abnormal" for item in test if item.source == "bgl-2k") == 28
    assert sum(not item.description for item in test if item.source == "huawei-switches"
               and item.task == "log_semantic_matching") == 123
    assert not {item.id for item in test} & {item.id for item in train}
    assert not any("security" in item.source for item in train)
    assert sum(item.source == "bgl" for item in train) == 1766
    known = {item.masked for item in test if item.task == failure}
    assert not known & {item.masked for item in train if item.task == failure}
