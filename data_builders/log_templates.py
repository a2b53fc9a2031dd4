"""Find logs that are one message with other values: equal templates as Drain mines them, values masked before.

Drain (He et al. 2017, "Drain: An Online Log Parsing Approach with Fixed Depth Tree") as in drain3-improved.
Near-duplicates in training and test would make a score too high.
"""

from collections.abc import Iterable
from functools import partial

from drain3.drain import Drain
from drain3.masking import LogMasker, MaskingInstruction

SIMILAR = 0.7  # of the words of two logs of one template; one of three may not differ, one of four may
VALUES = (
    r"(?<![\w/])(?:[A-Za-z]:)?(?:[/\\][\w.+~-]+){2,}[/\\]?",  # paths
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*",  # mail addresses, user@host
    r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])",  # MAC, IPv6; times
    r"(?<!\w)(?:0x)?[0-9A-Fa-f]{8,}(?!\w)",
    r"\b(?:Mon|Tue(?:s)?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?\b(?=[\s,.]*\w*[\s,.]*\d)",  # before a date
    r"\b(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t|tember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\b(?=[\s,.-]*\d)|(?<=\d[-/ ])(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b",
    r"[A-Za-z_]*\d[A-Za-z0-9_]*(?:[.,:-]\d[A-Za-z0-9_]*)*",  # numbers, and names with a digit; ASCII, since not every
)  # script writes blanks between words
LONGEST = 1000  # characters of a line that count: some patterns take quadratic time
BETWEEN = ("=", ",", ";", "(", ")", "[", "]", "{", "}", '"', "'")  # also part words

mask = partial(LogMasker([MaskingInstruction(value, "value") for value in VALUES], "<", ">").mask)


def templates(texts: Iterable[str]) -> list[tuple[int, ...]]:
    """Return the template of each log: a number for each of its lines. Logs of one template have the same.

    The numbers depend on all the texts and their order.
    """
    miner = Drain(sim_th=SIMILAR, extra_delimiters=BETWEEN, parametrize_numeric_tokens=False)
    known: dict[str, int] = {}

    def number(line: str) -> int:
        masked = mask(line[:LONGEST])
        if masked not in known:
            known[masked] = miner.add_log_message(masked)[0].cluster_id
        return known[masked]

    return [tuple(number(line) for line in text.splitlines()) for text in texts]
