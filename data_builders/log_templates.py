"""Find logs that are one message with other values: equal templates as Drain mines them, values masked before.

Drain (He et al. 2017, "Drain: An Online Log Parsing Approach with Fixed Depth Tree") as in drain3-improved.
Near-duplicates in training and test would make a score too high. Where a script has no blanks between words, letters
are compared instead: a name that is more than three letters of ten makes another template there.
"""

import re
from collections.abc import Iterable
from functools import partial
from itertools import groupby

from drain3.drain import Drain, LogCluster
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
# Scripts without blanks between words: runs of kana are words, other letters stand alone; their punctuation goes.
UNSPACED = re.compile("[\u3041-\u309f]+|[\u30a0-\u30ff]+|"
                      "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
PUNCTUATION = re.compile("[\u3000-\u3004\u3008-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")
ANY = "<*>"  # a word that differs between the logs of a template
BETWEEN = ("=", ",", ";", "(", ")", "[", "]", "{", "}", '"', "'")  # also part words

mask = partial(LogMasker([MaskingInstruction(value, "value") for value in VALUES], "<", ">").mask)


def templates(texts: Iterable[str]) -> list[tuple[int, ...]]:
    """Return the template of each log: a number for each of its lines. Logs of one template have the same.

    The numbers depend on all the texts and their order.
    """
    miner = Drain(sim_th=SIMILAR, extra_delimiters=BETWEEN, parametrize_numeric_tokens=False, param_str=ANY)
    known: dict[str, LogCluster] = {}

    def cluster(line: str) -> LogCluster:
        masked = mask(spaced(line[:LONGEST]))
        if masked not in known:
            known[masked] = miner.add_log_message(masked)[0]
        return known[masked]

    found = [[cluster(line) for line in text.splitlines()] for text in texts]
    numbers: dict[object, int] = {}
    return [tuple(numbers.setdefault(_key(line), len(numbers)) for line in lines) for lines in found]


def spaced(line: str) -> str:
    """Put blanks around the words of scripts that have none between them."""
    return line if line.isascii() else UNSPACED.sub(r" \g<0> ", PUNCTUATION.sub(" ", line))


def _key(cluster: LogCluster) -> object:
    """Return what tells a template from others; a name in a script without blanks may have any number of letters."""
    words = cluster.log_template_tokens
    if not any(map(UNSPACED.match, words)):
        return cluster.cluster_id
    return tuple(ANY if word == ANY else tuple(same) for word, same in groupby(words))
