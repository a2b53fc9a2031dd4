"""What a language model is told: one Jinja file a prompt, undefined names are errors, data cannot become markup."""

import functools
import re
from typing import Any

import jinja2

from logreasoner.config import Task
from logreasoner.files import PROMPTS
from logreasoner.records import Instance, mask_level
from logreasoner.templating import environment

# Chat templates of every family mark roles by <|...|> (also with full-width bars) or [INST]; the tags are ours.
ROLE_MARK = re.compile(r"<(?=[|｜])|(?<=[|｜])>|\[(?=/?INST\])|<(?=/?s>)")
TAG = re.compile(r"<(?=\s*/?\s*(?:answer|solutions|think)\b)", re.IGNORECASE)


def harmless(value: Any) -> Any:
    """Break chat-template tokens in a value by a blank, so that no log and no answer can change roles."""
    if not isinstance(value, str):
        return value
    return ROLE_MARK.sub(lambda match: match.group(0) + " " if match.group(0) != ">" else " >", value)


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
