"""Join the lines of events of several: stack traces, and lines that a runtime writes in parts."""

import re
from collections.abc import Iterable, Iterator

from logreasoner.reading import pattern

MOST_LINES = 1_000  # of one event: a log that is indented throughout is not one stack trace
# Lines of stack traces; the exception itself stands at a line's beginning. A level begins an event, also set right.
CONTINUES = re.compile(rb"(?!\s*(?:TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|FATAL|CRITICAL|SEVERE)\b)(?:\s+\S|"
                       rb"at [\w.$/<>]+\(|Caused by|\.\.\. ?\d|Traceback \(most recent|"
                       rb"(?:[\w$]+\.)+[\w$]*(?:Exception|Error|Throwable)\b|\w+(?:Error|Exception)(?::|\s*$)|"
                       rb"stack backtrace:|note: run with|[}\])]+[,;]?\s*$)")
# In a trace: frames that are not indented; below indented ones an exception of any name; after a blank line what came
# of it (Python, Go, PHP).
TRACE = re.compile(rb"Traceback \(most recent call last\)|^panic: |^goroutine \d+ \[|Stack trace:")
FRAME = re.compile(rb"#\d+ |[\w./*()-]+\([^ ]*\)\s*$|created by |exit status \d|\[signal |goroutine \d+ \[|"
                   rb"Stack trace:")
RAISED = re.compile(rb"[\w.]+(?:: |:?\s*$)")
CHAINED = (b"During handling of the above exception", b"The above exception was the direct cause", b"goroutine ",
           b"Traceback (most recent call last)")
Event = tuple[bytes, int]  # its lines, joined, and how many they were


def events(batches: Iterable[list[bytes]], start: str, header: re.Pattern[bytes] | None = None
           ) -> Iterator[list[Event]]:
    r"""Join the lines of each event by "\n"; `start` is a regular expression for its first line, "auto" or "none".

    auto: what CONTINUES matches continues, as in stack traces: indented lines, frames, exceptions. `header`: what each
    line of a layout begins with; a line that continues loses it, and has the same `who`, or it begins an event. Where
    its group `part` is P, the text of the next line goes on in the same line.
    """
    if start == "none" and header is None:
        yield from ([(line, 1) for line in batch] for batch in batches)
        return
    joiner = _Joiner(start, header)
    for batch in batches:
        yield [event for line in batch for event in joiner.add(line)]
    yield joiner.finish()


class _Joiner:
    """The event that the last lines belong to, and the blank lines after it, which may be in the midst of a trace."""

    def __init__(self, start: str, header: re.Pattern[bytes] | None) -> None:
        self.auto, self.header = start == "auto", header
        self.begins = None if start in ("auto", "none") else pattern("--event-start", start)
        self.lines: list[bytes] = []  # the later ones with the end of the line before
        self.count = 0
        self.blanks: list[tuple[bytes, bytes]] = []  # lines, and their texts
        self.who, self.partial, self.traced = b"", False, False

    def add(self, line: bytes) -> list[Event]:
        """Take a line; return the events that are complete with it."""
        found = self.header.match(line) if self.header else None
        text = line[found.end():] if found else line
        if self.traced and not text.strip():
            self.blanks.append((line, text))
            return []
        same, done = not found or found["who"] == self.who, list[Event]()
        if self.lines and same and self.count < MOST_LINES and (
                self.partial or (self.lines[0] and self.continues(line, text))):
            self.lines += [b"\n" + blank for _, blank in self.blanks] + [text if self.partial else b"\n" + text]
            self.count, self.blanks = self.count + len(self.blanks) + 1, []
        else:
            done = self.finish()
            self.lines, self.count, self.blanks, self.traced = [line], 1, [], False
            self.who = found["who"] if found else b""
        self.traced = self.traced or (self.auto and bool(TRACE.search(text)))
        self.partial = bool(found and found.groupdict().get("part") == b"P")
        return done

    def continues(self, line: bytes, text: bytes) -> bool:
        """Tell whether a line belongs to the event; `text`: without its header."""
        if self.begins is not None:
            return not any(self.begins.match(part.decode("utf-8", "replace")) for part in (line, text))
        if not (self.auto and self.traced):
            return self.auto and bool(CONTINUES.match(text))
        if self.blanks:
            return text.startswith(CHAINED)
        indented = self.lines[-1].lstrip(b"\n")[:1].isspace()
        return bool(CONTINUES.match(text) or FRAME.match(text) or (indented and RAISED.match(text)))

    def finish(self) -> list[Event]:
        """Return the event, and the blank lines after it as events of their own."""
        return [(b"".join(self.lines), self.count)] * bool(self.lines) + [(blank, 1) for blank, _ in self.blanks]
