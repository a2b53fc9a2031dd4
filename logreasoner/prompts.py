"""Render prompts: one Jinja file each, undefined names are errors, data cannot become markup."""

import functools
import re
from typing import Any

import jinja2

from logreasoner.config import CONTROL_TOKENS, load_yaml
from logreasoner.files import PROMPTS
from logreasoner.instances import Instance, mask_level
from logreasoner.schemas import Task
from logreasoner.templating import environment

TAG = re.compile(r"<(?=\s*/?\s*(?:answer|solutions|think)\b)", re.IGNORECASE)


@functools.cache
def _control_tokens() -> re.Pattern[str]:
    """Match the first character of every control token of experiments/control_tokens.yaml."""
    tokens: list[str] = load_yaml(CONTROL_TOKENS)["marks"]
    return re.compile("|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in tokens))


def escape_control_tokens(value: Any) -> Any:
    """Break control tokens in a value by a blank, so that no log and no answer can change roles.

    A lone surrogate, which JSON can hold, becomes "?": no tokenizer takes it.
    """
    if not isinstance(value, str):
        return value
    return _control_tokens().sub(r"\g<0> ", value).encode("utf-8", "replace").decode()


def has_control_tokens(text: str) -> bool:
    """Tell whether a text cannot be trained on as it is: it has a control token or a lone surrogate."""
    return bool(escape_control_tokens(text) != text)


def untrusted(value: str) -> str:
    """Also break the tags of the answer form: log text and model answers are hostile input."""
    return TAG.sub("< ", value)


@functools.cache
def _environment() -> jinja2.Environment:
    return environment(PROMPTS, {"untrusted": untrusted}, finalize=escape_control_tokens)


def render(name: str, **values: Any) -> str:
    """Render prompts/<name>.j2. Raises jinja2.UndefinedError for a value that is not given."""
    return _environment().get_template(f"{name}.j2").render(**values).strip()


def problem(item: Instance, task: Task) -> str:
    """Render the input x of an instance: the task's question and the log, the same at every stage."""
    log = mask_level(item.text) if task.mask_level else item.text
    return render("problem", task=task, log=log, description=item.description)


def solution(item: Instance, task: Task, examples: tuple[Instance, ...] = ()) -> str:
    """Render the think-then-answer prompt (figure 13): zero-shot to train and sample, few-shot to evaluate."""
    shots = [{"problem": problem(shot, task), "label": shot.label} for shot in examples]
    return render("solution", task=task, problem=problem(item, task), examples=shots)
