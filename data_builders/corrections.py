"""Which teacher's answers are a correction of a flawed trajectory (section 3.3.2, equations 6 and 7, figure 11)."""

from pydantic import BaseModel, ConfigDict, ValidationError

from data_builders.thoughts import json_object
from logreasoner.answer_format import Trajectory, parse_trajectory, same_text


class Correction(BaseModel):
    """What prompts/correction.j2 asks for; first_error counts from 1, n + 1 says that only the conclusion is wrong."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    first_error: int
    reason: str
    steps: list[str]
    answer: str


def parse_correction(text: str, flawed: Trajectory, label: str) -> tuple[Trajectory | None, str]:
    """(the corrected trajectory, "") or (None, why the answer is not accepted).

    Accepted is what parses, ends in the true label, really keeps the steps before the first flawed one (compared
    after white-space normalisation), goes on differently from there, and can be read back as the same trajectory.
    """
    try:
        given = Correction.model_validate(json_object(text))
    except ValidationError:
        return None, "schema"
    except ValueError:
        return None, "not JSON"
    steps = tuple(step.strip() for step in given.steps)
    kept = given.first_error - 1
    if not 0 <= kept <= len(flawed.steps):
        return None, "first_error out of range"
    if given.answer.strip().casefold() != label.casefold():
        return None, "wrong answer"
    if not all(steps) or len(steps) <= kept or not given.reason.strip():
        return None, "nothing new"
    if not all(same_text(new, old) for new, old in zip(steps[:kept], flawed.steps[:kept], strict=True)):
        return None, "prefix not kept"
    if kept < len(flawed.steps) and same_text(steps[kept], flawed.steps[kept]):
        return None, "flawed step repeated"
    chosen = Trajectory(flawed.steps[:kept] + steps[kept:], label)
    if parse_trajectory(chosen.render(), [label]) != chosen:
        return None, "not in form"  # a step holds a tag of the form, or a line that reads as the next step's number
    return chosen, ""
