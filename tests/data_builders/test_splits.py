import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builders import normalise, splits
from logreasoner import config
from logreasoner.cli import UserError
from logreasoner.files import ROOT, read_jsonl, write_jsonl
from logreasoner.instances import Instance, read_instances
from logreasoner.schemas import Experiment, Pool

RCA, PFP, LSM = "root_cause_analysis", "potential_failure_prediction", "log_semantic_matching"


def row(task: str, number: int, label: str, split: str, *, level: str = "4", **more: str) -> Instance:
    return Instance(f"{task}-{split}-{number}-{label}", task, "huawei-routers", f"A/{level}/M{number}: text", label,
                    "huawei", "routers", split, **more)


def files() -> tuple[list[Instance], list[Instance], list[dict[str, Any]]]:
    """Training rows, test rows and handbook cases, enough for the runs declared here."""
    labels = config.task(RCA).labels
    # RCA has test rows only; PFP and LSM share logs with them and with each other.
    test = [row(RCA, n, labels[n % 6], "test") for n in range(60)]
    test += [row(RCA, n, labels[0], "ood") for n in range(200, 210)]
    test += [row(PFP, n, str(n % 2 == 0), "test", level="[MASK]") for n in range(40, 80)]
    test += [row(LSM, n, "True", "test", description="d") for n in range(70, 90)]
    train = [row(LSM, n, label, "train", description=label) for n in range(60, 140) for label in ("True", "False")]
    train += [row(PFP, n, str(n % 2 == 0), "train", level="[MASK]") for n in range(80, 120)]
    train.append(row(PFP, 80, "False", "train", level="[MASK]"))  # the same log as a True one: neither may be drawn
    return train, test, [{"id": f"h{n}", "source": "huawei-routers", "vendor": "huawei", "symptom": f"A/2/M{n}:  text",
                          "analysis": ["a"]} for n in range(30, 36)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    train, test, handbook = files()
    folder = tmp_path / "build" / "data" / "bundled"
    write_jsonl(folder / "train.jsonl", [item.as_json() for item in train])
    write_jsonl(folder / "test.jsonl", [item.as_json() for item in test])
    write_jsonl(folder / "handbook.jsonl", handbook)
    return folder


def experiment(**changes: Any) -> Experiment:
    paper = config.resolve("paper", []).model_dump()
    paper.update(tasks=[RCA, PFP, LSM], data={"kind": "bundled"}, test_rows=None, **{"stage1": {
        "handbook": 4, "select": 5, "samples": {task: {"huawei": 6} for task in (RCA, PFP, LSM)}},
        "stage2": {"samples": {task: {"huawei": 12} for task in (RCA, PFP, LSM)}}})
    return Experiment(**{**paper, **changes})


def declare(name: str = "r", **changes: Any) -> config.Run:
    return config.declare(name, experiment(**changes))


def read_splits(run: config.Run) -> dict[str, list[Instance]]:
    names = ("stage1", "stage2", "examples", "test", "test_seen")
    return {name: list(read_instances(run.splits / f"{name}.jsonl")) for name in names}


EXTRA = st.builds(
    lambda task, number, label, split, level, vendor: Instance(
        f"x-{task}-{number}-{label}-{split}-{level}-{vendor}", task, f"{vendor}-s", f"A/{level}/M{number}: text",
        config.task(task).labels[label], vendor, "s", split, description="d" if task == LSM else ""),
    st.sampled_from([RCA, PFP, LSM]), st.integers(0, 150), st.integers(0, 1), st.sampled_from(["train", "test", "ood"]),
    st.sampled_from(["4", "[MASK]"]), st.sampled_from(["huawei", "h3c"]))


@given(st.lists(EXTRA, max_size=80, unique_by=lambda item: item.id), st.none() | st.integers(10, 40))
@settings(deadline=None)
def test_whatever_rows_repeat_each_other_sides_stay_apart_and_no_test_row_is_lost(
        extra: list[Instance], cap: int | None) -> None:
    train, test, handbook = files()
    train += [item for item in extra if item.split == "train"]
    test += [item for item in extra if item.split != "train"]
    run = config.Run("r", experiment(test_rows=cap))
    _, drawn, cases = splits.build(run, train, test, handbook)
    assert splits.proof(drawn, cases, list(run.tasks()))[2] == 0
    both = [item.id for item in drawn["test"] + drawn["test_seen"]]
    shown = {(item.task, item.masked) for item in drawn["examples"]}  # never scored
    left = {item.id for item in test if (item.task, item.masked) not in shown}
    assert len(both) == len(set(both)) and (set(both) <= left if cap else set(both) == left)
    trained = [item for name in splits.TRAINING for item in drawn[name]]
    assert len({item.id for item in trained}) == len(trained) and all(item.split != "ood" for item in trained)


def test_disjoint_by_log_within_tasks_and_across_sides(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = declare()
    splits.make_splits("r")
    drawn = read_splits(run)
    for task in (RCA, PFP, LSM):
        logs = {name: {item.masked for item in rows if item.task == task} for name, rows in drawn.items()}
        for one, other in combinations(("stage1", "stage2", "examples", "test"), 2):
            assert not logs[one] & logs[other], (task, one, other)
        assert [sum(item.task == task for item in drawn[name]) for name in splits.TRAINING] == [
            6, 12, 6 if task == RCA else 3]  # an example of each label
    handbook = [json.loads(line) for line in (run.splits / "handbook.jsonl").read_text().splitlines()]
    training = {item.masked for name in splits.TRAINING for item in drawn[name]}
    training |= {"".join(case["symptom"].replace("/2/", "/[MASK]/").split()) for case in handbook}
    assert len(handbook) == 4
    assert not training & {item.masked for item in drawn["test"]}
    assert {item.masked for item in drawn["test_seen"]} <= training
    shown = {(item.task, item.masked) for item in drawn["examples"]}  # never scored
    whole = {item.id for item in read_instances(data / "test.jsonl") if (item.task, item.masked) not in shown}
    assert {item.id for item in drawn["test"] + drawn["test_seen"]} == whole
    assert not [item for name in splits.TRAINING for item in drawn[name] if item.split == "ood"]
    assert "M80:" not in "".join(item.text for name in splits.TRAINING for item in drawn[name] if item.task == PFP)
    splits.show("r")
    assert "overlap in all: 0" in capsys.readouterr().out


def test_the_proof_counts_a_log_of_one_task_in_the_test_of_another() -> None:
    """A model that was tuned on a log knows it, whatever it was asked about it."""
    drawn = {name: [row(LSM, at, "True", name)] for at, name in enumerate([*splits.TRAINING, "test"])}
    assert splits.proof(drawn, [], [LSM, PFP])[2] == 0
    for name in splits.TRAINING:
        shared = {**drawn, name: [*drawn[name], row(PFP, len(splits.TRAINING), "True", name)]}
        assert splits.proof(shared, [], [LSM, PFP])[2] == 1, name
        within = {**drawn, name: [*drawn[name], row(LSM, len(splits.TRAINING), "False", name)]}
        assert splits.proof(within, [], [LSM, PFP])[2] == 2, "by the task's own count, and by that across tasks"
    symptom = {"symptom": f"A/2/M{len(splits.TRAINING)}:  text", "source": "huawei-routers"}
    assert splits.proof(drawn, [symptom], [LSM, PFP])[2] == 1


def test_a_log_with_two_labels_is_never_drawn() -> None:
    train, test, _ = files()
    drawn = splits.Builder(config.Run("r", experiment()), train, test).candidates(PFP, "huawei", carve=True)
    assert len(drawn) == 79 and not [item for item in drawn if "M80:" in item.text]


def test_training_rows_are_carved_only_where_needed(data: Path) -> None:
    run = declare()
    splits.make_splits("r")
    carved = Counter(item.task for name in splits.TRAINING for item in read_splits(run)[name] if item.split == "test")
    assert carved == {RCA: 24}


def test_examples_show_different_labels(data: Path) -> None:
    run = declare()
    splits.make_splits("r")
    examples = read_splits(run)["examples"]
    assert {item.label for item in examples if item.task == PFP} == {"True", "False"}
    assert {item.label for item in examples if item.task == RCA} == set(config.task(RCA).labels)


EXAMPLES = """examples:
- {id: ID, steps: [Read it., Judge it.], answer: ANSWER}
- {id: [OTHER, ID], steps: [Read them., Judge them.], answer: ANSWER}
"""


@pytest.mark.parametrize("said", ["", "x-1: the data of this run have no such instance", "its answer is .*, its label"])
def test_declared_examples_are_taken_out_of_training_and_of_both_tests(
        data: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    run = declare()
    rows = [item for item in read_instances(data / "test.jsonl") if item.task == RCA and item.split != "ood"]
    first = rows[0]
    other = next(item for item in rows if item.label == first.label and item.masked != first.masked)
    answer = next(label for label in config.task(RCA).labels if (label == first.label) == ("answer" not in said))
    names = {"ID": "x-1" if "x-1" in said else first.id, "OTHER": other.id, "ANSWER": answer}
    Path("examples.yaml").write_text(re.sub(r"\b(ID|OTHER|ANSWER)\b", lambda match: names[match[0]], EXAMPLES))
    monkeypatch.setattr(splits, "example_file", lambda _, task: Path("examples.yaml") if task == RCA else None)
    if said:
        with pytest.raises(UserError, match=f"examples.yaml: .*{said}"):
            splits.make_splits("r")
        return
    splits.make_splits("r")
    drawn = read_splits(run)
    assert [item.id for item in drawn["examples"] if item.task == RCA] == [first.id, f"{other.id}+{first.id}"]
    shown = {first.masked, other.masked}
    assert not [item for name in ("stage1", "stage2", "test", "test_seen") for item in drawn[name]
                if item.task == RCA and item.masked in shown]


def test_a_short_group_gives_what_there_is_and_an_empty_split_is_an_error(data: Path) -> None:
    declare("short", stage2={"samples": {PFP: {"huawei": 500}}}, tasks=[PFP])
    with pytest.raises(UserError, match=f"test: no instance for {PFP}"):
        splits.make_splits("short")
    run = declare("greedy", stage2={"samples": {RCA: {"huawei": 500}}}, tasks=[RCA])
    with pytest.raises(UserError, match=f"test: no instance for {RCA}"):
        splits.make_splits("greedy")
    assert not run.splits.exists()
    declare("none", stage2={"samples": {RCA: {"cisco": 5}}}, tasks=[RCA])
    with pytest.raises(UserError, match="stage2: no instance for root_cause_analysis in cisco"):
        splits.make_splits("none")


def test_test_rows_are_limited_by_source_and_test_seen_shrinks_alike(data: Path) -> None:
    run = declare("capped", test_rows=10)
    splits.make_splits("capped")
    drawn = read_splits(run)
    assert all(count <= 10 for count in Counter((i.task, i.source, i.split) for i in drawn["test"]).values())
    whole = declare("whole")
    splits.make_splits("whole")
    assert {i.id for i in drawn["test"]} <= {i.id for i in read_splits(whole)["test"]}
    assert [i.id for i in drawn["stage2"]] == [i.id for i in read_splits(whole)["stage2"]]


def test_the_same_in_every_process(data: Path) -> None:
    run = declare()
    outputs = []
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-m", "data_builders.splits", "--run", "r"], check=True, capture_output=True,
                       env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)})
        outputs.append([(run.splits / f"{name}.jsonl").read_bytes() for name in splits.TRAINING])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("changed", ["the data", "a split"])
def test_splits_of_other_data_are_not_overwritten(data: Path, changed: str) -> None:
    run = declare()
    splits.make_splits("r")
    path = data / "train.jsonl" if changed == "the data" else run.splits / "test.jsonl"
    with open(path, "a") as stream:
        stream.write(json.dumps(row(PFP, 999, "True", "train").as_json()) + "\n")
    edited = path.read_bytes()
    with pytest.raises(UserError, match=f"{path.name} has changed since the splits of run r were drawn"):
        splits.make_splits("r")
    assert path.read_bytes() == edited


def test_handbook_cases_of_a_user_replace_the_datas_after_the_papers_filters(
        data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = {"symptom": "A port of the switch stays down after a reboot.", "steps": ["1. Check.", "Swap it.", "- Call."]}
    short, chinese = {**case, "symptom": "Port down."}, {**case, "symptom": "\u4ea4\u6362\u673a" * 7}
    write_jsonl(Path("cases.jsonl"), [case, case, {**case, "steps": ["Check it.", "Swap it."]}, short, chinese])
    run = declare(data={"kind": "bundled", "handbook": "cases.jsonl"})
    splits.make_splits("r")
    drawn = {row["symptom"]: row for _, row in read_jsonl(run.splits / "handbook.jsonl")}
    assert set(drawn) == {case["symptom"], chinese["symptom"]}
    assert drawn[str(case["symptom"])]["analysis"] == ["Check.", "Swap it.", "Call."]
    said = capsys.readouterr().out
    assert all(f"1 cases {why} left out" in said for why in (
        "with fewer than 3 steps", "with an overly brief symptom", "repeated"))
    write_jsonl(Path("cases.jsonl"), [case, {"symptom": "x"}])
    with pytest.raises(UserError, match="cases.jsonl has changed"):
        splits.make_splits("r")
    with pytest.raises(UserError, match="cases.jsonl:2: a handbook case is one line"):
        splits.own_cases(Path("cases.jsonl"))


def test_missing_data_say_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    declare()
    with pytest.raises(UserError, match="make data"):
        splits.make_splits("r")


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=6), st.integers(0, 120))
def test_shares_add_up_and_never_exceed(sizes: dict[str, int], count: int) -> None:
    result = splits.shares(sizes, count)
    assert sum(result.values()) == min(count, sum(sizes.values()))
    assert all(0 <= result.get(name, 0) <= size for name, size in sizes.items())


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 50), max_size=6), st.integers(0, 120), st.integers(0, 20))
def test_a_pool_gives_each_label_its_least(sizes: dict[str, int], count: int, least: int) -> None:
    result = splits.quotas(sizes, count, Pool(samples={}, least=least))
    assert sum(result.values()) == min(count, sum(sizes.values()))
    assert all(0 <= result[name] <= size for name, size in sizes.items())
    wanted = {name: min(least, size) for name, size in sizes.items()}
    if sum(wanted.values()) <= count:
        assert all(result[name] >= wanted[name] for name in sizes)
    if all(splits.shares(sizes, count)[name] >= wanted[name] for name in sizes):
        assert result == splits.shares(sizes, count)


@pytest.mark.parametrize(("pool", "expected"), [
    ({}, {"bad": 1, "fine": 999}), ({"least": 10}, {"bad": 10, "fine": 990}),
    ({"least": 10, "at_most": 5}, {"bad": 10, "fine": 50}), ({"at_most": 2.5}, {"bad": 1, "fine": 2})])
def test_a_rare_label_is_not_lost(pool: dict[str, Any], expected: dict[str, int]) -> None:
    assert splits.quotas({"bad": 12, "fine": 11_988}, 1000, Pool(samples={}, **pool)) == expected


def test_tables_1_and_2_on_the_public_data(mirror: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    normalise.normalise(mirror, Path("build/data/public"))
    run = config.declare("r", config.resolve("paper", []))
    splits.make_splits("r")
    splits.show("r")
    printed = capsys.readouterr().out
    assert "overlap in all: 0" in printed
    assert "Table 2" in printed
    assert re.search(r"anomaly_detection +abnormal +\d+ +41 ", printed)  # of stage 2's 2,000 rows
    drawn = read_splits(run)
    assert (len(drawn["stage1"]), len(drawn["stage2"]), len(drawn["examples"])) == (1100, 7000, 15)
    training = {item.masked for name in splits.TRAINING for item in drawn[name]}
    assert not training & {item.masked for item in drawn["test"]}
    # What is kept of the test files: carving must stay as small as it is.
    rows = Counter(item.task for item in drawn["test"] if item.split != "ood")
    assert rows[LSM] > 6000
    assert rows[PFP] > 7500
    assert rows[RCA] > 1600
