import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.corrections import parse_correction
from logreasoner.answer_format import Trajectory, parse_trajectory

FLAWED = Trajectory(("Read the log: a fan stopped.", "Fans are   spare parts.", "So nothing is at stake."), "False")


def answer(first_error, steps, label="True", reason="A stopped fan overheats the device."):
    return json.dumps({"first_error": first_error, "reason": reason, "steps": steps, "answer": label})


def test_the_prefix_is_kept_and_the_rest_replaced():
    chosen, why = parse_correction(
        answer(2, ["Read the log: a fan stopped.", "Wait: a fan is no spare part here.", "The device overheats."]),
        FLAWED, "True")
    assert why == ""
    assert chosen.steps[0] == FLAWED.steps[0] and len(chosen.steps) == 3
    assert parse_trajectory(chosen.render(), ["True", "False"]) == chosen


def test_only_the_conclusion_may_be_wrong_as_in_figure_11():
    """All four steps of the solution stand; three reflecting ones are added, and the label changes."""
    flawed = Trajectory(("Read the log: a key was made.", "Read the description: when a key is made.",
                         "Compare the two.", "The description tells the occasion, not the event itself."), "False")
    added = ["But wait, look at this again: the occasion implies the event.",
             "Exclude that the description is unrelated: it names the very same action.",
             "So the description explains the log."]
    chosen, why = parse_correction(answer(5, [*flawed.steps, *added]), flawed, "True")
    assert why == ""
    assert chosen.steps == (*flawed.steps, *added) and chosen.answer == "True"


def test_white_space_in_the_prefix_does_not_matter():
    chosen, _ = parse_correction(
        answer(3, ["Read  the log:\n a fan stopped.", "Fans are spare parts.", "Wait, they cool."]), FLAWED, "True")
    assert chosen.steps[:2] == FLAWED.steps[:2], "kept steps are the student's own, to the letter"


@pytest.mark.parametrize(("text", "why"), [
    ("Step 2 is wrong.", "not JSON"), ("{}", "schema"), (answer("2", ["a", "b"]), "schema"),
    (answer(0, ["a"]), "first_error out of range"), (answer(5, ["a"]), "first_error out of range"),
    (answer(2, list(FLAWED.steps[:1]) + ["New."], label="False"), "wrong answer"),
    (answer(2, list(FLAWED.steps[:1])), "nothing new"), (answer(1, ["  "]), "nothing new"),
    (answer(1, ["New."], reason=" "), "nothing new"),
    (answer(2, ["Read something else.", "New."]), "prefix not kept"),
    (answer(2, list(FLAWED.steps)), "flawed step repeated"),
])
def test_what_is_not_accepted_says_why(text, why):
    assert parse_correction(text, FLAWED, "True") == (None, why)


@given(st.text())
def test_no_answer_breaks_the_parser(text):
    assert parse_correction(text, FLAWED, "True")[0] is None
