"""Define and validate high-level thoughts (sections 3.2.1 (3) and 6.2.2, equation 1)."""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from logreasoner import prompts
from logreasoner.answer_format import after_thinking, read_steps, without_number

DETAIL_IN_STEP = "instance detail in a step"
LEAST_STEPS, MOST_STEPS = 3, 8  # figure 10 (b): most thoughts have 4 or 5 steps
Text = Annotated[str, Field(min_length=3)]

# What belongs to one instance and not to a reusable thought: addresses, interface names, identifiers, long numbers.
DETAIL = re.compile(
    r"""\b\d{1,3}(?:\.\d{1,3}){3}\b                        # IPv4
    | \b(?:[0-9a-f]{2,4}[:-]){2,}[0-9a-f]{2,4}\b           # MAC
    | \b[0-9a-f]{0,4}(?:::?[0-9a-f]{1,4}){2,}\b            # IPv6
    | \b0x[0-9a-f]{2,}\b                                   # hexadecimal
    | \b[a-z][a-z-]{0,60}\d+(?:/\d+)+\b                     # GigabitEthernet1/0/2
    | \b(?:eth|ens|enp|wlan|vlanif|eth-trunk)-?\d\w*\b     # eth0, Vlanif10
    | \b(?=\w*\d)(?=\w*[a-z])\w+(?:-\w*\d\w*)+\b           # R02-M1-N0
    | \b\w{1,60}=[^\s\d]{0,60}\d\S*                        # key=3; state=down is general
    | \b\d{4,}\b                                           # identifiers, times, sizes
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Names of protocols and formats have numbers, too, and the level's mask has brackets.
GENERAL = re.compile(r"""\[MASK\] | \b(?:IPv[46] | [a-z]{2,12}v\d[a-z]? | (?:IEEE[ -]?)?802\.\d{1,2}[a-z]{0,3}
    | RFC[ -]?\d{2,5} | MD5 | (?:SHA|AES)-?\d{1,3} | [XH]\.\d{2,3} | L[23](?:VPN|TP)? | BGP-?4
    | ISO[ -]?\d{4,5} | UTF-?8)\b""",
                     re.VERBOSE | re.IGNORECASE)
DECODER = json.JSONDecoder(strict=False)  # models write line breaks into texts
MOST_OBJECTS = 20  # braces in the prose of an answer at which its JSON may begin


def _as_texts(value: Any) -> Any:
    """Return the texts of a list without the numbers that they repeat.

    A text becomes its steps, an object its values, and an object in a list its one text: {"step": 1, "action": "..."}.
    """
    items = read_steps(value) if isinstance(value, str) else value.values() if isinstance(value, dict) else value
    if not isinstance(items, Iterable):
        return value
    return [without_number(text) if isinstance(text, str) else text for text in map(_one_text, items)]


def _one_text(item: Any) -> Any:
    texts = [value for value in item.values() if isinstance(value, str)] if isinstance(item, dict) else [item]
    return texts[0] if len(texts) == 1 else item


TEXTS = BeforeValidator(_as_texts)
TOKEN = re.compile(r"[^\s\"'(),;<>]{4,}")


class Thought(BaseModel):
    """A thought template: C_high is the overview with the challenges, T_high the reasoning steps."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    problem_overview: Text
    key_challenges: Annotated[list[Text], Field(min_length=1), TEXTS]
    reasoning_steps: Annotated[list[Text], Field(min_length=LEAST_STEPS, max_length=MOST_STEPS), TEXTS]

    def render(self) -> str:
        """Return the response that thought-sft trains on."""
        return prompts.render("thought_answer", overview=self.problem_overview, challenges=self.key_challenges,
                              steps=self.reasoning_steps)


def json_object(text: str) -> object:
    """Parse the JSON of a model's answer: after thinking, a BOM or prose, in a code fence, alone in a list or object.

    Line breaks within its texts are taken as they are. Raises ValueError.
    """
    value = _first_json(after_thinking(text).lstrip("\ufeff"))
    while isinstance(value, dict | list) and len(value) == 1:
        inner = value[0] if isinstance(value, list) else next(iter(value.values()))
        if not isinstance(inner, dict):
            break
        value = inner
    return value


def _first_json(text: str) -> object:
    starts = [0, *(match.start() for match in re.finditer(r"\{", text))][: MOST_OBJECTS + 1]
    for number, start in enumerate(starts):
        try:
            return DECODER.decode(text) if number == 0 else DECODER.raw_decode(text, start)[0]
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except ValueError:
            continue
    raise ValueError("no JSON object")


def details(steps: list[str], problem: str) -> list[str]:
    """List the instance details in steps: by form (addresses, interfaces, ids), or tokens of the problem with a digit,
    an underscore or brackets in them, which no general advice contains by chance."""
    instance_tokens = {token.strip(".:") for token in TOKEN.findall(problem) if re.search(r"[\d_\[\]]", token)}
    result = []
    for step in (GENERAL.sub(" ", step) for step in steps):
        result += [match.group(0) for match in DETAIL.finditer(step)]
        result += [token for token in TOKEN.findall(step) if token.strip(".:") in instance_tokens]
    return result


def parse_thought(text: str, problem: str) -> tuple[Thought | None, str]:
    """Return (thought, "") or (None, why the answer is not one)."""
    try:
        value = json_object(text)
    except ValueError:
        return None, "not JSON"
    return check_thought(value, problem)


def check_thought(value: object, problem: str) -> tuple[Thought | None, str]:
    """Return (thought, "") or (None, why the JSON value is not one)."""
    try:
        thought = Thought.model_validate(value)
    except ValidationError as error:
        return None, f"schema: {error.errors()[0]['loc'][0] if error.errors()[0]['loc'] else 'not an object'}"
    return (None, DETAIL_IN_STEP) if details(thought.reasoning_steps, problem) else (thought, "")


def objection_to(text: str, problem: str) -> str:
    """Return why a text is no thought about a problem, with the details that it must leave out; "" if it is one."""
    try:
        value = json_object(text)
    except ValueError:
        return "not JSON"
    return objection_to_value(value, problem)


def objection_to_value(value: object, problem: str) -> str:
    """Return why a JSON value is no thought about a problem, as `objection_to` does."""
    _, why = check_thought(value, problem)
    if why != DETAIL_IN_STEP:
        return why
    return f"{why}: {', '.join(dict.fromkeys(details(Thought.model_validate(value).reasoning_steps, problem)))}"
