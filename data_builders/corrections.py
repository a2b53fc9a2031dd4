"""Decide which answers correct a flawed trajectory (section 3.3.2, equations 6 and 7, figure 11)."""

from pydantic import BaseModel, ConfigDict, ValidationError

from data_builders.thoughts import json_object
from logreasoner.answer_format import Trajectory, parse_trajectory, same_text


class Correction(BaseModel):
    """The answer that prompts/correction.j2 asks for; first_error is from 1 to n + 1 (only the conclusion is wrong)."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    first_error: int
    reason: str
    steps: list[str]
    answer: str


def parse_correction(text: str, flawed: Trajectory, label: str) -> tuple[Trajectory | None, str]:
    """Return (the corrected trajectory, "") or (None, why the answer is not accepted).

    An accepted answer parses, ends in the true label, keeps the steps before the first flawed one (compared after
    white-space normalisation), continues differently from there, and can be read back as the same trajectory.
    """
    try:
        answer = Correction.model_validate(json_object(text))
    except ValidationError:
        return None, "schema"
    except ValueError:
        return None, "not JSON"
    steps = tuple(step.strip() for step in answer.steps)
    prefix = answer.first_error - 1  # steps that stay
    if not 0 <= prefix <= len(flawed.steps):
        return None, "first_error out of range"
    if answer.answer.strip().casefold() != label.casefold():
        return None, "wrong answer"
    if not all(steps) or len(steps) <= prefix or not answer.reason.strip():
        return None, "nothing new"
    if not all(same_text(new, old) for new, old in zip(steps[:prefix], flawed.steps[:prefix], strict=True)):
        return None, "prefix not kept"
    if prefix < len(flawed.steps) and same_text(steps[prefix], flawed.steps[prefix]):
        return None, "flawed step repeated"
    chosen = Trajectory(flawed.steps[:prefix] + steps[prefix:], label)
    if parse_trajectory(chosen.render(), [label]) != chosen:
        return None, "not in form"  # a step holds a tag of the form, or a line that reads as the next step's number
    return chosen, ""
