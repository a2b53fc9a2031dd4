import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.corrections import parse_correction
from logreasoner.answer_format import Trajectory, parse_trajectory

FLAWED = Trajectory(("Read the log: a fan stopped.", "Fans are   spare parts.", "So nothing is at stake."), "False")
LABELS = ["True", "False"]
NEW = ["But, wait, let's pause: a fan is no spare part here.", "Exclude that it is idle.", "So the device overheats."]


def answer(first_error, steps, reason="A stopped fan overheats the device.", **more):
    return json.dumps({"first_error": first_error, "reason": reason, "steps": steps, **more})


def corrected(text, keep=True, flawed=FLAWED, own=""):
    result, why = parse_correction(text, flawed, "True", LABELS, keep, own)
    assert why == ""
    assert parse_trajectory(result.text, LABELS) == Trajectory(result.steps, "True")
    return result


FOUR = ("Analyze the log entry:\n- A key pair was made, of some type and size.",
        "Analyze the description:\n- It tells of a key made at the first login.",
        "Compare the two:\n- One states the event.\n- The other states when it happens.",
        "Decide:\n- The occasion is described, not the event itself.")


@pytest.mark.parametrize("first_error", [4, 5])
def test_a_pair_is_shaped_like_figure_11(first_error):
    """All four steps stand, the flawed one included; a pause, an exclusion and the conclusion follow, and the label."""
    rejected = Trajectory(FOUR, "False").render()
    added = ["But, wait, let's pause and examine this more carefully. The occasion implies the event.",
             "Use the exclusion method:\n- Exclude that the description is irrelevant: it names the very action.",
             "Conclude that the description explains the log."]
    result = corrected(answer(first_error, added), flawed=Trajectory(FOUR, "False"), own=rejected)
    *stands, end = rejected.partition("\n</solutions>")
    assert result.text == (stands[0] + "".join(f"\n{number}. {step}" for number, step in enumerate(added, 5))
                           + "\n</solutions>\n<answer> True </answer>")


def test_the_flawed_step_stands_or_is_replaced():
    assert corrected(answer(2, NEW)).steps == (*FLAWED.steps[:2], *NEW)
    assert corrected(answer(2, NEW), keep=False).steps == (*FLAWED.steps[:1], *NEW)


@pytest.mark.parametrize("keep", [True, False])
def test_a_teacher_who_repeats_the_students_steps_is_understood(keep):
    repeated = ["Read  the log:\n a fan stopped.", *(["2. Fans are spare parts."] if keep else []), *NEW]
    assert corrected(answer(2, repeated), keep).steps == corrected(answer(2, NEW), keep).steps


def test_what_a_student_wrote_stands_to_the_letter():
    own = "So:\n<solutions>\n1) Read it.\n\n2) **Ignore** it.\n\n3) Done.\n</solutions>\n<answer> False </answer>"
    result = corrected(answer(2, NEW), flawed=Trajectory(("Read it.", "**Ignore** it.", "Done."), "False"), own=own)
    assert result.text.startswith("<solutions>\n1) Read it.\n\n2) **Ignore** it.\n3. But, wait")
    read = Trajectory(("Read it.", "Ignore it."), "False")
    loose = corrected(answer(2, NEW), flawed=read, own="**Step 1:** Read it.")
    assert loose.text.startswith("<solutions>\n1. Read it.\n2. Ignore it.\n3. But, wait"), "out of form: written anew"


def test_a_solution_without_steps_is_corrected_from_the_first():
    assert corrected(answer(1, NEW), flawed=Trajectory((), "False")).steps == tuple(NEW)


PLAIN = answer(2, NEW)


@pytest.mark.parametrize("text", [
    f"```json\n{PLAIN}\n```", f"```JSON\n{PLAIN}\n```", f"\ufeff{PLAIN}",
    f"Here it is, with {{k}}:\n```\n{PLAIN}\n```\nDone.",
    f"<think>perhaps {{\"first_error\": 1}}</think>\n{PLAIN}", answer("2", NEW), answer("step 2", NEW),
    answer(2, [f"{number}. {step}" for number, step in enumerate(NEW, 3)]),
    answer(2, [f"**Step {number}:** {step}" for number, step in enumerate(NEW, 3)]),
    answer(2, "\n".join(f"{number}. {step}" for number, step in enumerate(NEW, 1))),
    answer(2, NEW, answer="True"), answer(2, NEW, answer="**true**"), answer(2, NEW, confidence=1),
    answer(2, NEW, answer=True), answer(2, NEW, answer="<answer> True </answer>"), answer(2, NEW, answer="True\u3002"),
    answer(2, NEW, answer=r"\boxed{True}"), answer(2, NEW, answer="The answer is True."), answer(2, NEW, answer=""),
    answer(2.0, NEW), answer(2, NEW, ["A stopped fan", "overheats the device."]), f"[{PLAIN}]",
    f'{{"correction": {PLAIN}}}', answer(2, [{"step": at, "text": step} for at, step in enumerate(NEW, 3)]),
    answer(2, {f"step {at}": step for at, step in enumerate(NEW, 3)}),
])
def test_forms_that_teachers_really_write_are_accepted(text):
    assert corrected(text).steps == corrected(PLAIN).steps


def test_a_line_break_in_a_text_of_json_is_text():
    assert corrected(PLAIN.replace("pause:", "pause:\n")).steps[2].startswith("But, wait, let's pause:\n a fan")


@pytest.mark.parametrize(("text", "why"), [
    ("Step 2 is wrong.", "not JSON"), ("{}", "schema"), (answer("second", ["a", "b"]), "schema"),
    ("<think>" + PLAIN, "not JSON"), (answer(2, [1]), "schema"),
    (answer(0, ["a"]), "first_error out of range"), (answer(5, ["a"]), "first_error out of range"),
    (answer(2, ["New."], answer="False"), "wrong answer"), (answer(2, ["New."], answer=False), "wrong answer"),
    (answer(2, ["New."], answer="not True"), "wrong answer"), (answer(2.5, ["New."]), "schema"),
    (answer(2, [{"step": "1", "text": "New."}]), "schema"),
    (answer(2, ["New.", "So the answer is False."]), "wrong answer"),
    (answer(2, list(FLAWED.steps[:2])), "nothing new"), (answer(1, ["  "]), "nothing new"),
    (answer(1, ["New."], reason=" "), "nothing new"),
    (answer(2, ["So <answer> True </answer>"]), "not in form"), (answer(2, ["Heat.\n4. And more"]), "not in form"),
])
def test_what_is_not_accepted_says_why(text, why):
    assert parse_correction(text, FLAWED, "True", LABELS) == (None, why)


def test_a_flawed_step_that_is_to_be_replaced_may_not_be_repeated():
    assert parse_correction(answer(2, list(FLAWED.steps)), FLAWED, "True", LABELS, False) == (
        None, "flawed step repeated")


@given(st.text())
def test_no_answer_breaks_the_parser(text):
    assert parse_correction(text, FLAWED, "True", LABELS)[0] is None
