"""No line is lost, repeated or moved where lines are joined to events; tests/test_reading.py has what is joined."""

import re

from hypothesis import given
from hypothesis import strategies as st

from logreasoner.events import MOST_LINES, events

LINES = st.sampled_from([
    b"", b" ", b"INFO a", b"  File x", b"\tat a.B(C.java:1)", b"Traceback (most recent call last):", b"KeyError",
    b"a.b: c", b"During handling of the above exception, another", b"panic: x", b"goroutine 1 [running]:",
    b"main.f(0x1)", b"}", b"Stack trace:", b"#0 {main}", b"\xff\x00", b"Caused by: z", b"A F x", b"A P y",
    b"B P \tat q", b"B F "])
HEADER = re.compile(rb"(?P<who>[AB]) (?P<part>[FP]) ")


@given(st.lists(LINES, max_size=30), st.lists(st.integers(1, 5)), st.sampled_from(["auto", "none", "INFO|x", "(?s).*"]))
def test_events_are_the_lines(lines, sizes, start):
    batches, rest = [], list(lines)
    for size in sizes:
        batches.append(rest[:size])
        rest = rest[size:]
    whole = [event for batch in events([*batches, rest], start) for event in batch]
    assert b"\n".join(text for text, _ in whole) == b"\n".join(lines)
    assert [text.count(b"\n") + 1 for text, _ in whole] == [count for _, count in whole]
    parts = [event for batch in events([*batches, rest], start, HEADER) for event in batch]
    assert sum(count for _, count in parts) == len(lines)
    strip = re.compile(rb"(?m)^[AB] [FP] |\n")
    assert strip.sub(b"", b"\n".join(text for text, _ in parts)) == strip.sub(b"", b"\n".join(lines))


def test_an_event_has_an_end():
    whole = [event for batch in events([[b" x"] * (2 * MOST_LINES + 1)], "auto") for event in batch]
    assert [count for _, count in whole] == [MOST_LINES, MOST_LINES, 1]
