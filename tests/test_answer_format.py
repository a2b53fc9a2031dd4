"""The one place that reads answers: strict, total on hostile text."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logreasoner.answer_format import (
    Trajectory,
    parse_label,
    parse_label_leniently,
    parse_steps,
    parse_trajectory,
    read_steps,
    read_trajectory,
    render_steps,
    same_text,
    without_number,
)

LABELS = ["True", "False"]

# Shaped like figure 11: steps with bullet lines below them, all steps kept and the conclusion alone wrong.
KEPT = (
    "Read the log:\n- A device reports that it made a host key by itself; the key's type and size are parameters.",
    "Read the description:\n- It says when a device makes such a key: as a client first logs in.",
    "Compare the two:\n- One states the event.\n- The other states the condition of the event.",
    "Decide:\n- The description never repeats the event, so it seems not to describe the log.",
)
RAW = Trajectory(KEPT, "False")
CORRECTED = Trajectory((*KEPT, "Wait, is that so?\n- A condition that leads to this very event explains it.",
                        "Exclude the alternatives:\n- It is not irrelevant.\n- It is not inaccurate.",
                        "So the description explains the log."), "True")


@pytest.mark.parametrize("trajectory", [RAW, CORRECTED])
def test_a_pair_shaped_like_figure_11_survives_writing_and_reading(trajectory: Trajectory) -> None:
    assert parse_trajectory(trajectory.render(), LABELS) == trajectory
    assert same_text(CORRECTED.steps[3], RAW.steps[3])


@pytest.mark.parametrize(("text", "label"), [
    ("<answer> True </answer>", "True"),
    ("<answer>\nfalse\n</answer>", "False"),
    ('<answer>"True".</answer>', "True"),
    ("<answer>**True.**</answer>", "True"),
    ("<answer>\u201cTrue\u201d</answer>", "True"),
    ("so <answer>True</answer> it is", "True"),
    ("<think>or <answer>False</answer>?</think><answer>True</answer>", "True"),
    ("the chat template opened it</think>\n<answer>True</answer>", "True"),
])
def test_what_counts_as_an_answer(text: str, label: str) -> None:
    assert parse_label(text, LABELS) == label


@pytest.mark.parametrize("text", [
    "", "True", "<answer></answer>", "<answer>true or false</answer>", "<answer>not True</answer>",
    "<answer>True", "True</answer>", "</answer>True<answer>", "<Answer>True</Answer>", "<answer>True..</answer>",
    "<answer>True</answer><answer>True</answer>", "<answer>True</answer><answer>",
    "<answer><answer>True</answer></answer>", "<answer>Tr\x00ue</answer>", '<answer>"*"</answer>',
    "<think>perhaps <answer>True</answer>",  # cut off while thinking: a draft is no answer
])
def test_what_does_not(text: str) -> None:
    assert parse_label(text, LABELS) is None


@given(st.text(min_size=1).filter(lambda label: label.strip() == label and "<" not in label))
@example("N.A.")
@example('"quoted"')
@example("*")
def test_any_label_of_a_users_own_task_can_be_answered(label: str) -> None:
    assert parse_label(f"<answer> {label} </answer>", [label]) == label


def test_the_exact_spelling_wins_over_a_similar_label() -> None:
    labels = ["c", "C", "C."]
    assert [parse_label(f"<answer>{label}</answer>", labels) for label in labels] == labels


STATES = ["normal", "abnormal"]  # one contains the other


@pytest.mark.parametrize(("text", "label"), [
    ("<answer>normal</answer> or rather <answer> Abnormal. </answer>", "abnormal"),
    ("<answer>abnormal</answer> Put it in <answer> ... </answer>", "abnormal"),
    ("1. a fault\n<answer> abnormal", "abnormal"),
    ("<Answer>**abnormal**</Answer>", "abnormal"),
    ("<answer>abnormal, because a fan failed</answer>", "abnormal"),
    ("<answer>abnormal\nThe abnormal line is the last.</answer>", "abnormal"),
    ("So the answer is \u201cnormal\u201d.", "normal"),
    ("The final answer is: **abnormal** (a fault)", "abnormal"),
    ("**Answer:** normal\nNothing abnormal is there.", "normal"),
    ("Answer: normal\nNo:\nAnswer: abnormal", "abnormal"),
    ("The answer is <answer>normal</answer>; that is, <answer>normal</answer>", "normal"),
    (r"$\boxed{\text{abnormal}}$", "abnormal"),
    (r"the answer is \boxed{normal}", "normal"),
    ("Nothing abnormal here.\n\n**Normal.**\n", "normal"),
    ("abnormal\nabnormal", "abnormal"),
    ("<think>Answer: abnormal</think>Answer: normal", "normal"),
    ("<answer> The answer is normal </answer>", "normal"),
    ("<answer>So, the final answer is **abnormal**.</answer>", "abnormal"),
    ("<answer>Answer: abnormal</answer>", "abnormal"),
    (r"<answer>\boxed{normal}</answer>", "normal"),
    (r"<answer>$\boxed{\text{normal}}$</answer>", "normal"),
    ("Answer\uff1aabnormal", "abnormal"),
    ("<answer>abnormal\u3002</answer>", "abnormal"),
    ("<answer>_normal_</answer>", "normal"),
    ('{"answer": "abnormal"}', "abnormal"),
    ("<answer>nor\u200bmal</answer>", "normal"),
    ("<answer>\u300cabnormal\u300d</answer>", "abnormal"), ("<answer>\u3010normal\u3011</answer>", "normal"),
    ("<answer>\xababnormal\xbb</answer>", "abnormal"), ("<answer>\uff02normal\uff02</answer>", "normal"),
    ("<answer>\uff4e\uff4f\uff52\uff4d\uff41\uff4c</answer>", "normal"), ("<answer>Label: normal</answer>", "normal"),
    ("<answer>the label is normal</answer>", "normal"), ("<answer>normal - nothing failed</answer>", "normal"),
])
def test_what_a_lenient_reader_reads(text: str, label: str) -> None:
    assert parse_label(text, STATES) is None
    assert parse_label_leniently(text, STATES) == label


@pytest.mark.parametrize("text", [
    "", "It looks normal to me.", "the log is abnormal", "Answer: abnormally slow", "Answer: abnormal-ish",
    "Answer: ab normal", "answers: normal", "<answer>normal or abnormal</answer>", "Answer: normal/abnormal",
    "Answer: not normal", "The answer is not abnormal.", "The answer is either normal", "Answer: normal only if idle",
    "Answer: normal.log", "Answer: normal, not abnormal", "normal\nabnormal", "- normal",
    "<answer>normal</answer><answer>hardly normal</answer>",  # what is last decides, clear or not
    "Answer: normal\nThe answer is normal or abnormal",
    "<think>The answer is normal", "<think>\nnormal", "Answer: n\x00ormal",
    "<answer>I doubt that the answer is normal</answer>", "<answer>The answer is not normal</answer>",
    "<answer>The answer is normal or abnormal</answer>", '{"answer": "normal", "other": "abnormal"}',
    "Answer: is_normal", "Answer: normal_2", "Label: normal", "Answer: normal - not abnormal",
])
def test_a_lenient_reader_does_not_guess(text: str) -> None:
    assert parse_label_leniently(text, STATES) is None


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_how_accents_are_composed_makes_no_other_label(form: str, written: str) -> None:
    label, text = unicodedata.normalize(form, "d\xe9faut"), unicodedata.normalize(written, "d\xe9faut")
    assert parse_label(f"<answer>{text}</answer>", ["normal", label]) == label
    assert parse_label_leniently(f"Answer: {text}", ["normal", label]) == label
    assert parse_label_leniently(f"Answer: {text}e", ["normal", label]) is None


WORDS = st.sampled_from([*STATES, "not ", " or ", "<answer>", "</answer>", "</think>", "Answer: ", "the answer is ",
                         r"\boxed{", "}", " ", "\n", ".", "*", "<think>"])


@given(st.lists(WORDS | st.text(max_size=5), max_size=25).map("".join))
def test_a_lenient_reader_never_changes_a_strict_answer(text: str) -> None:
    strict, lenient = parse_label(text, STATES), parse_label_leniently(text, STATES)
    assert lenient == strict or strict is None
    assert lenient is None or lenient in STATES and lenient in text.casefold()


@given(st.lists(WORDS | st.text(max_size=5), max_size=25).map("".join), st.sampled_from(STATES))
def test_nothing_in_the_thinking_is_read_and_the_last_statement_decides(text: str, label: str) -> None:
    assert parse_label_leniently(f"<think>{text}", STATES) is None or "</think>" in text
    said = f"{text}</think>{text.replace('</think>', '')}\n\\boxed{{}}<answer>{label}</answer>"
    assert parse_label_leniently(said, STATES) == label


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="<{}"), min_size=1),
                min_size=2, max_size=5, unique_by=str.casefold), st.data())
@example(["C", "C++", "C+"], None)
@example(["normal", "abnormal", "not normal"], None)
def test_labels_that_contain_each_other_are_never_mixed_up(labels: list[str], data: st.DataObject | None) -> None:
    for label in labels if data is None else [data.draw(st.sampled_from(labels))]:
        found = parse_label_leniently(f"The answer is: {label}\n", labels)
        assert found == label or found is None and data is not None


PIECES = st.sampled_from(["<think>", "</think>", "<solutions>", "</solutions>", "<answer>", "</answer>", "True",
                          "False", "1. ", "\n2. ", " ", "\n", "*", ".", "\x00", "x"])


@given(st.lists(PIECES | st.text(max_size=5), max_size=25).map("".join))
def test_no_text_breaks_the_parsers_and_what_they_accept_is_whole(text: str) -> None:
    label, found = parse_label(text, LABELS), parse_trajectory(text, LABELS)
    assert (read_trajectory(text, LABELS) or Trajectory((), "")).answer == (parse_label_leniently(text, LABELS) or "")
    assert label is None or (label in LABELS and text.count("<answer>") >= 1)
    assert found is None or (found.answer == label and found.steps and all(found.steps))


def test_labels_with_such_characters_are_read_as_they_are() -> None:
    labels = ["_up_", "state\uff1adown"]
    assert [parse_label_leniently(f"The answer is {label}", labels) for label in labels] == labels


LOOSE = ("Read the log.", "Decide:\n  - a fault", "Conclude.")


@pytest.mark.parametrize("body", [
    "1. Read the log.\n2. Decide:\n  - a fault\n3. Conclude.", "Step 1: Read the log.\nStep 2: Decide:\n  - a fault\n"
    "step 3. Conclude.", "### 1. Read the log.\n### 2. Decide:\n  - a fault\n### 3. Conclude.",
    "**Step 1:** Read the log.\n**Step 2**: Decide:\n  - a fault\n**3.** Conclude.",
    "Let us see how this goes:\n1) Read the log.\n2) Decide:\n  - a fault\n3) Conclude.",
    "- Read the log.\n- Decide:\n  - a fault\n- Conclude.", "Read the log.\n\nDecide:\n  - a fault\n\nConclude.",
])
def test_steps_are_read_in_the_forms_that_models_write(body: str) -> None:
    assert read_steps(body) == LOOSE
    for text in (f"<solutions>\n{body}\n</solutions>\n<answer> The answer is True </answer>",
                 f"<solution>\n{body}\n</solution>\n<answer>True</answer>", f"<solutions>\n{body}\n<answer>True",
                 f"{body}\nThe answer is **True**.", f"<think>1. x</think>{body}\n\nAnswer: True"):
        assert read_trajectory(text, LABELS) == Trajectory(LOOSE, "True"), text


def test_emphasis_that_a_number_opens_stays_whole() -> None:
    assert read_steps("**1. Read:** it\n- **x**\n**2. Decide**") == ("**Read:** it\n- **x**", "**Decide**")
    assert parse_steps("**1. Read:** it") == ("**Read:** it",)
    assert [without_number(step) for step in ("3. So", "**Step 3:** So", "- So", "So", "10.1.2.3 is up")] == [
        "So", "So", "So", "So", "10.1.2.3 is up"]


def test_an_answer_alone_is_a_trajectory_without_steps_and_no_answer_is_none() -> None:
    assert read_trajectory("<answer> False </answer>", LABELS) == Trajectory((), "False")
    assert read_trajectory("<solutions>\n1. Read.\n</solutions>", LABELS) is None
    assert read_trajectory("<think>1. Read. <answer> True </answer>", LABELS) is None


STEP = st.text(st.characters(exclude_categories=["Cs", "Nd"], exclude_characters="<"), min_size=1).filter(
    lambda step: step == step.strip())


@given(st.lists(STEP, min_size=1, max_size=12))
def test_steps_survive_writing_and_reading(steps: list[str]) -> None:
    body = render_steps(steps).removeprefix("<solutions>").removesuffix("</solutions>")
    assert parse_steps(body) == tuple(steps)


@pytest.mark.parametrize(("body", "steps"), [
    ("1. a\n2. b", ("a", "b")),
    ("1) a\n2) b", ("a", "b")),
    ("1. a\n3. b\n2. c", ("a\n3. b", "c")),
    ("1. takes\n2.5 seconds\n2. done", ("takes\n2.5 seconds", "done")),
    ("1. from\n2.1.1.1 to\n2. x", ("from\n2.1.1.1 to", "x")),
])
def test_where_steps_begin(body: str, steps: tuple[str, ...]) -> None:
    assert parse_steps(body) == steps


@pytest.mark.parametrize("body", ["", "a\n1. b", "2. b", "1.\n2. b", "1. a\n2.  "])
def test_steps_that_are_not_numbered_from_one_or_are_empty(body: str) -> None:
    assert parse_steps(body) is None


@pytest.mark.parametrize("text", [
    "<answer>True</answer><solutions>1. a</solutions>",
    "<solutions>1. a<answer>True</answer></solutions>",
    "<solutions>1. a</solutions></solutions><answer>True</answer>",
    "<solutions>1. a</solutions><solutions>1. a</solutions><answer>True</answer>",
    "<solutions>a</solutions><answer>True</answer>",
    "1. a\n<answer>True</answer>",
    "<solutions>1. a</solutions>",
])
def test_trajectories_that_are_not_whole(text: str) -> None:
    assert parse_trajectory(text, LABELS) is None


@pytest.mark.parametrize("piece", ["<answer>", "</answer>", "<think>", "<solutions>", " ", "\t1", "\n", "*", "1. ",
                                   "answer ", "answer is ", "\\boxed{", "\\boxed{\\text{", "True or ", "Tru",
                                   "a\u0300\u0327"])
def test_long_hostile_text_is_read_once(piece: str) -> None:
    """Nothing is timed: a pattern that backtracks would not come back from a megabyte."""
    assert parse_trajectory(piece * 200_000, LABELS) is None
    parse_trajectory(f"<solutions>{piece * 200_000}</solutions><answer>True</answer>", LABELS)
    assert parse_label_leniently(piece * 200_000, LABELS) is None
    assert parse_label_leniently(f"<answer>{piece * 200_000}x True</answer>", LABELS) is None
    read_steps(piece * 200_000)
