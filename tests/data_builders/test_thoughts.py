import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.thoughts import details, objection_to, parse_thought

PROBLEM = "Log:\nIPV6/[MASK]/ND: IPv6 (RFC 4861) on 802.1X port, OSPFv3, state=down, SHA-256.\n" \
          "LINK/3/DOWN: Interface GigabitEthernet0/0/7 went down on R02-M1-N0, peer [peer-name], code 0x1f."
GOOD = {"problem_overview": "Judge whether a link event is a failure.", "key_challenges": ["The level is hidden."],
        "reasoning_steps": ["Find the event.", "Ask what it does to traffic.", "Decide."]}


def test_a_valid_thought_renders():
    thought, why = parse_thought(json.dumps(GOOD), PROBLEM)
    assert why == ""
    assert thought.render().endswith(
        "Reasoning steps:\n1. Find the event.\n2. Ask what it does to traffic.\n3. Decide.")


def test_a_code_fence_is_taken_off():
    assert parse_thought(f"```json\n{json.dumps(GOOD)}\n```", PROBLEM)[0] is not None


@pytest.mark.parametrize("written", [
    {**GOOD, "key_challenges": "The level is hidden."}, [GOOD], {"thought": GOOD},
    {**GOOD, "reasoning_steps": [f"{at}. {step}" for at, step in enumerate(GOOD["reasoning_steps"], 1)]},
    {**GOOD, "reasoning_steps": [{"step": at, "action": step} for at, step in enumerate(GOOD["reasoning_steps"], 1)]},
    {**GOOD, "reasoning_steps": dict(zip("123", GOOD["reasoning_steps"], strict=True))},
    {**GOOD, "reasoning_steps": "1. Find the event.\n2. Ask what it does to traffic.\n3. Decide."},
])
def test_forms_that_teachers_really_write_are_accepted(written):
    for text in (json.dumps(written), f"<think>{{}}</think>\n{json.dumps(written)}"):
        assert parse_thought(text, PROBLEM) == parse_thought(json.dumps(GOOD), PROBLEM)


def test_an_objection_names_the_details_in_whatever_form_the_steps_are():
    steps = {"1": "Find the event.", "2": "Look at 10.1.2.3, then go on.", "3": "Decide."}
    assert objection_to(json.dumps({**GOOD, "reasoning_steps": steps}), PROBLEM) == (
        "instance detail in a step: 10.1.2.3")


@pytest.mark.parametrize("detail", [
    "10.1.2.3", "fe80::1:2", "00e0-fc12-3456", "00:e0:fc:12:34:56", "GigabitEthernet0/0/7", "Eth-Trunk12", "eth0",
    "R02-M1-N0", "0x1f", "[peer-name]", "slot=3", "20231104", "LINK/3/DOWN",
])
def test_a_step_with_an_instance_detail_is_rejected(detail):
    steps = ["Find the event.", f"Look at {detail}, then go on.", "Decide."]
    assert parse_thought(json.dumps({**GOOD, "reasoning_steps": steps}), PROBLEM) == (None, "instance detail in a step")


@pytest.mark.parametrize("step", [
    "Check whether the 2 sides agree.", "Compare the log with the description.", "Rule out 802 tagging faults.",
    "Check hardware, then software.", "Check that IPv6 and 802.1X agree.", "Read the header as RFC 3164 says.",
    "See whether it is state=down.", "Treat [MASK] as unknown.", "Compare OSPFv3 with SNMPv2c, SHA-256 with MD5.",
    "Confirm the state (up or down).", "Weigh a single event against 3 or more.",
])
def test_general_advice_is_not_a_detail(step):
    assert details([step], PROBLEM) == []


@pytest.mark.parametrize(("text", "why"), [
    ("no json", "not JSON"), ("[1]", "schema: not an object"), ("[" * 100_000, "not JSON"),
    (json.dumps({**GOOD, "extra": 1}), "schema: extra"),
    (json.dumps({**GOOD, "key_challenges": []}), "schema: key_challenges"),
    (json.dumps({**GOOD, "reasoning_steps": ["One step."]}), "schema: reasoning_steps"),
    (json.dumps({**GOOD, "reasoning_steps": "Find it."}), "schema: reasoning_steps"),
])
def test_what_is_not_a_thought_says_why(text, why):
    assert parse_thought(text, PROBLEM) == (None, why)


@given(st.text())
def test_no_answer_breaks_the_parser(text):
    thought, why = parse_thought(text, PROBLEM)
    assert thought is None and why
