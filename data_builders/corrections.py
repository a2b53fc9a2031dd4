"""Decide which answers correct a flawed trajectory (section 3.3.2, equations 6 and 7, figures 11 and 14).

The teacher gives the number of the first flawed step and new steps; they are joined to the student's own steps here.
With `keep` (figure 11) the flawed step stands and the new steps reflect on it; else they replace it (equation 7).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from data_builders.thoughts import TEXTS, json_object
from logreasoner.answer_format import (
    Trajectory,
    answer_element,
    correct_steps,
    parse_label_leniently,
    parse_trajectory,
    same_text,
)


def _number(value: Any) -> Any:
    """Read "2", "step 2" and 2.0 as 2."""
    match = re.search(r"\d{1,6}", value) if isinstance(value, str) else None
    return int(match[0]) if match else int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
    """Read true as "True" and 1 as "1"; join the texts of a list."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return str(value) if isinstance(value, bool | int | float) else value


class Correction(BaseModel):
    """The answer that prompts/correction.j2 asks for; first_error is from 1 to n + 1 (only the conclusion is wrong).

    `steps` are the new ones; a teacher who repeats the student's before them, or gives an answer in one of the forms
    that are read leniently, is understood.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    first_error: Annotated[int, BeforeValidator(_number)]
    reason: Annotated[str, BeforeValidator(_text)]
    steps: Annotated[list[str], TEXTS]
    answer: Annotated[str | None, BeforeValidator(_text)] = None


@dataclass(frozen=True)
class Corrected:
    """A corrected solution: `text` is the chosen side of the pair, `steps` all its steps."""

    steps: tuple[str, ...]
    text: str


def parse_correction(text: str, flawed: Trajectory, label: str, labels: Sequence[str], keep: bool = True,
                     own: str = "") -> tuple[Corrected | None, str]:
    """Return (the corrected solution, "") or (None, why the answer is not accepted).

    An accepted answer names a step, says why it is flawed, adds something to the student's steps, states no other label
    than the true one, and can be read back as the same trajectory. `own` is the student's text: where it is in the
    asked form, its steps are kept to the letter.
    """
    try:
        answer = Correction.model_validate(json_object(text))
    except ValidationError:
        return None, "schema"
    except ValueError:
        return None, "not JSON"
    if not 1 <= answer.first_error <= len(flawed.steps) + 1:
        return None, "first_error out of range"
    kept, new = splice(answer, flawed, keep)
    if not new or not answer.reason.strip():
        return None, "nothing new"
    given = parse_label_leniently(answer_element(answer.answer or label), labels)
    if given != label or parse_label_leniently(new[-1], labels) not in (None, label):
        return None, "wrong answer"
    if not keep and kept < len(flawed.steps) and same_text(new[0], flawed.steps[kept]):
        return None, "flawed step repeated"
    steps = flawed.steps[:kept] + new
    chosen = correct_steps(own, kept, new, label) or Trajectory(steps, label).render()
    if parse_trajectory(chosen, [label]) != Trajectory(steps, label):
        return None, "not in form"  # a step holds a tag of the form, or a line that reads as the next step's number
    return Corrected(steps, chosen), ""


def draft(text: str, flawed: Trajectory, label: str, keep: bool) -> dict[str, Any]:
    """Return an answer with all steps, joined as far as it can be read, for a person to edit; {} if it cannot."""
    try:
        answer = Correction.model_validate(json_object(text))
    except ValueError:
        return {}
    kept, new = splice(answer, flawed, keep)
    return {"first_error": answer.first_error, "reason": answer.reason, "answer": label,
            "steps": [*flawed.steps[:kept], *new]}


def splice(answer: Correction, flawed: Trajectory, keep: bool) -> tuple[int, tuple[str, ...]]:
    """Return how many of the student's steps stand, and the new steps without the student's repeated before them."""
    kept = min(max(answer.first_error if keep else answer.first_error - 1, 0), len(flawed.steps))
    new = tuple(step.strip() for step in answer.steps if step.strip())
    before = flawed.steps[:max(answer.first_error - 1, 0)]
    if before and all(map(same_text, new, before)) and len(new) >= len(before):
        new = new[len(before):]
    if keep and kept and new and same_text(new[0], flawed.steps[kept - 1]):
        new = new[1:]
    return kept, new
