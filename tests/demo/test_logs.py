import os
import random
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from demo import logs
from logreasoner.config import experiment, task
from logreasoner.files import ROOT, read_json, read_jsonl
from logreasoner.instances import instance, mask_level, read_instances


@pytest.fixture(scope="module")
def splits():
    return {name: list(logs.instances(name)) for name in logs.SPLITS}


def test_same_files_whatever_the_hash_seed(tmp_path):
    for seed in "01":
        subprocess.run([sys.executable, "-m", "demo.logs", "--out", str(tmp_path / seed)], cwd=ROOT, check=True,
                       env={**os.environ, "PYTHONHASHSEED": seed})
    names = ("train.jsonl", "test.jsonl", "form.jsonl", "handbook.jsonl")
    assert all((tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes() for name in names)
    counts = read_json(tmp_path / "0" / "manifest.json")["counts"]
    assert counts["train"] == len(list(read_instances(tmp_path / "0" / "train.jsonl")))
    assert all(len(case["analysis"]) >= 3 for _, case in read_jsonl(tmp_path / "0" / "handbook.jsonl"))


def test_splits_share_no_log_and_no_pair_of_words(splits):
    texts = {name: {" ".join(mask_level(line).split()) for item in items for line in item.text.splitlines()}
             for name, items in splits.items()}
    pairs = {name: {logs.key_words(text) for text in rows} for name, rows in texts.items()}
    for one, other in (("train", "test"), ("train", "form"), ("test", "form")):
        assert not texts[one] & texts[other]
        assert not pairs[one] & pairs[other]


@pytest.mark.parametrize("split", logs.SPLITS)
def test_every_event_and_topic_of_the_network_occurs_in_every_split(split):
    pairs = logs.pairs("network", split, True) + logs.pairs("network", split, False)
    assert {event for event, _ in pairs} == {*logs.events(True), *logs.events(False)}
    assert {topic for _, topic in pairs} == set(logs.words()["network"]["topics"])


@pytest.mark.parametrize("family", ["network", "system"])
def test_a_log_is_read_as_what_it_was_made_of(family):
    rng, source = random.Random(1), next(iter(logs.words()[family]["sources"]))
    for fault in (True, False):
        for event, topic in logs.pairs(family, "train", fault):
            text = logs.line(rng, family, source, event, topic).text
            assert logs.key_words(text) == (logs.subject(family, event, topic), event)
            assert logs.sense(text) == ("a fault" if fault else "a normal event")


def test_rows_are_instances_with_known_labels_and_unique_ids(splits):
    for items in splits.values():
        assert len({item.id for item in items}) == len(items)
        for item in items:
            assert instance(item.as_json(), "row") == item
            assert item.label in task(item.task).labels
            assert bool(item.description) == (item.task == "log_semantic_matching")


def test_every_label_is_common_in_every_task(splits):
    for name in ("train", "test"):
        counts = defaultdict(Counter)
        for item in splits[name]:
            counts[item.task][item.label] += 1
        for name_of_task, counter in counts.items():
            fair = counter.total() / len(task(name_of_task).labels)
            assert set(counter) == set(task(name_of_task).labels)
            assert min(counter.values()) >= fair / 3


def test_levels_say_what_the_labels_say(splits):
    for item in splits["train"]:
        if item.task == "potential_failure_prediction":
            assert item.label == str(int(item.text.split("/")[1]) <= 4)


def test_training_has_single_lines_and_the_test_windows(splits):
    kinds = {name: {isinstance(item.log, str) for item in items if item.task == "anomaly_detection"}
             for name, items in splits.items()}
    assert kinds == {"train": {True}, "test": {False}, "form": {True, False}}


def test_descriptions_tell_of_what_the_labels_say(splits):
    for item in splits["train"]:
        if item.task == "log_semantic_matching":
            assert item.label == str(logs.sense(item.text) == logs.sense(item.description))


def test_groups_have_as_many_rows_as_the_demo_asks_for(splits):
    declared = experiment("demo")
    counts = Counter((item.task, item.vendor or item.source) for item in splits["train"])
    for name in declared["tasks"]:
        for group, rows in declared["stage2"]["samples"][name].items():
            assert counts[name, group] >= rows + declared["stage1"]["samples"][name][group] + 6  # examples


@pytest.mark.parametrize(("text", "words"), [
    ("a3 kernel: disk array of rack 9 started normally\na1 statd: job backlog of rack 2 reached a critical level",
     ("job backlog", "reached a critical level")),
    ("ciod: failed to read message prefix on control stream", ("control", "is mentioned with message")),
    ("12 34", ("nothing", "is mentioned with nothing")),
])
def test_key_words(text, words):
    assert logs.key_words(text) == words
