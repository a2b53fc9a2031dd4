"""Few-shot examples: their files, and which of them a prompt shows."""

from collections import Counter
from math import gcd

import pytest
import yaml

from logreasoner import examples
from logreasoner.cli import UserError
from logreasoner.config import example_file, resolve, task
from logreasoner.examples import Example, load
from logreasoner.instances import Instance

AD, RCA = "anomaly_detection", "root_cause_analysis"


def file(folder, *rows):
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump({"examples": list(rows)}))
    return path


def row(**changes):
    return {"id": "a", "steps": ["Read it.", "Judge it."], "answer": "normal", **changes}


@pytest.mark.parametrize("name", resolve("paper", []).tasks)
def test_the_public_examples_are_in_form_and_show_every_label(name):
    rules, path = task(name), example_file(resolve("paper", []), name)
    solutions = load(path, rules)
    assert {solution.answer for solution in solutions} == set(rules.labels)
    assert len(solutions) == examples.count(3, rules)
    assert (name == AD) == any(len(solution.ids) > 1 for solution in solutions)  # a window


@pytest.mark.parametrize(("changes", "said"), [
    ({"steps": []}, "a: has no steps; write the steps that lead to normal"),
    ({"steps": ["1. a\n2. b", "c"]}, "a: cannot be shown as numbered steps"),
    ({"steps": ["a </solutions>"]}, "a: cannot be shown as numbered steps"),
    ({"answer": "fine"}, "a: cannot be shown .* one of normal, abnormal"),
    ({"label": "normal"}, "examples.0.label: Extra inputs are not permitted"), ({"id": []}, "examples.0.id"),
])
def test_a_solution_that_is_none_is_named(tmp_path, changes, said):
    with pytest.raises(UserError, match=f"x.yaml: {said}"):
        load(file(tmp_path, row(**changes)), task(AD))


def test_an_id_that_comes_twice_is_named(tmp_path):
    with pytest.raises(UserError, match="b[+]c comes twice"):
        load(file(tmp_path, row(), row(id=["b", "c"]), row(id=["b", "c"])), task(AD))


def test_a_window_is_positive_if_one_of_its_logs_is():
    logs = [Instance(str(at), AD, "s", f"log {at}", label) for at, label in enumerate(["normal", "abnormal", "normal"])]
    whole = examples.window(logs, task(AD))
    assert (whole.id, whole.log, whole.label) == ("0+1+2", ("log 0", "log 1", "log 2"), "abnormal")
    assert examples.window(logs[:1], task(AD)) is logs[0]


@pytest.mark.parametrize(("have", "shots"), [(3, 3), (6, 3), (4, 3), (3, 1), (5, 2), (12, 3)])
def test_a_prompts_examples_are_the_logs_own_and_all_are_shown_as_often(have, shots):
    made = [Example(Instance(str(at), RCA, "s", "x", "EventTrap")) for at in range(have)]
    logs = [f"log {at}" for at in range(4000)]
    sets = Counter(tuple(shot.item.id for shot in examples.shown(made, log, shots)) for log in logs)
    assert len(sets) == have // gcd(have, shots)
    assert all(len(set(ids)) == shots for ids in sets)
    shown = Counter(name for ids, times in sets.items() for name in ids * times)
    assert all(0.8 < times * have / (len(logs) * shots) < 1.2 for times in shown.values())
    assert examples.shown(made, logs[0], shots) == examples.shown(made, logs[0], shots)
    assert examples.shown(made, logs[0], 0) == examples.shown([], logs[0], shots) == []
