"""What a language model is told: one Jinja file a prompt, undefined names are errors, data cannot become markup."""

import functools
import re
from typing import Any

import jinja2

from logreasoner.config import CONTROL_TOKENS, Task, load_yaml
from logreasoner.files import PROMPTS
from logreasoner.instances import Instance, mask_level
from logreasoner.templating import environment

TAG = re.compile(r"<(?=\s*/?\s*(?:answer|solutions|think)\b)", re.IGNORECASE)


@functools.cache
def control_marks() -> re.Pattern[str]:
    """Matches the first character of every mark of experiments/control_tokens.yaml, the rest following."""
    marks: list[str] = load_yaml(CONTROL_TOKENS)["marks"]
    return re.compile("|".join(f"{re.escape(mark[0])}(?={re.escape(mark[1:])})" for mark in marks))


def harmless(value: Any) -> Any:
    """Break control tokens in a value by a blank, so that no log and no answer can change roles.

    Half a character (an unpaired surrogate, which JSON can hold) becomes "?": no tokenizer takes it.
    """
    if not isinstance(value, str):
        return value
    return control_marks().sub(r"\g<0> ", value).encode("utf-8", "replace").decode()


def controls(text: str) -> bool:
    """Whether a text cannot be trained on as it is: it holds a control token, or half a character."""
    return bool(harmless(text) != text)


def untrusted(value: str) -> str:
    """Also break the tags of the answer form: log text and model answers are hostile input."""
    return TAG.sub("< ", value)


@functools.cache
def _environment() -> jinja2.Environment:
    return environment(PROMPTS, {"untrusted": untrusted}, finalize=harmless)


def render(name: str, **values: Any) -> str:
    """Render prompts/<name>.j2. Raises jinja2.UndefinedError for a value that is not given."""
    return _environment().get_template(f"{name}.j2").render(**values).strip()


def problem(item: Instance, task: Task) -> str:
    """The input x of an instance: the task's question and the log, as every stage shows it."""
    log = mask_level(item.text) if task.mask_level else item.text
    return render("problem", task=task, log=log, description=item.description)


def solution(item: Instance, task: Task, examples: tuple[Instance, ...] = ()) -> str:
    """The think-then-answer prompt (figure 13): zero-shot for training and sampling, with examples for evaluation."""
    shots = [{"problem": problem(shot, task), "label": shot.label} for shot in examples]
    return render("solution", task=task, problem=problem(item, task), examples=shots)
