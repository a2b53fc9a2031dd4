"""Render prompts: one Jinja file each, undefined names are errors, data cannot become markup."""

import functools
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2

from logreasoner.cli import UserError
from logreasoner.config import CONTROL_TOKENS, Run, load_yaml, prompt_folders
from logreasoner.examples import Example, read, shown
from logreasoner.instances import Instance, mask_level
from logreasoner.schemas import Task
from logreasoner.templating import environment

Message = dict[str, str]  # role, content
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
def _environment(folders: tuple[Path, ...]) -> jinja2.Environment:
    return environment(folders, {"untrusted": untrusted}, finalize=escape_control_tokens)


def source(name: str) -> Path:
    """Return the file of a prompt: <name>.j2 of the run's own folder, if it has one, else of prompts/."""
    return next(path for folder in prompt_folders() if (path := folder / f"{name}.j2").exists())


def render(name: str, **values: Any) -> str:
    """Render a prompt's file. Raises UserError for one that is no Jinja, or uses a value that is not given."""
    try:
        return _environment(prompt_folders()).get_template(f"{name}.j2").render(**values).strip()
    except jinja2.TemplateError as error:
        line = f":{error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise UserError(f"{source(name)}{line}: {error.message}; the prompt is given {', '.join(values)}") from None


def problem(item: Instance, task: Task) -> str:
    """Render the input x of an instance: the task's question and the log, the same at every stage."""
    log = mask_level(item.text) if task.mask_level else item.text
    return render("problem", task=task, log=log, description=item.description)


def solution(item: Instance, task: Task, examples: Sequence[Example] = ()) -> str:
    """Render the think-then-answer prompt (figure 13): zero-shot to train and sample, or with examples inside it."""
    shots = [{"problem": problem(shot.item, task), "solution": shot.solution, "label": shot.item.label}
             for shot in examples]
    return render("solution", task=task, problem=problem(item, task), examples=shots)


def conversation(item: Instance, task: Task, examples: Sequence[Example] = (), turns: bool = True) -> list[Message]:
    """Render the evaluation's chat messages (sections 4.2.3 and 4.4): with turns, a user's and an assistant's for each
    example, the instructions in the first; else one message with the examples inside it. Without examples both are the
    prompt of training.
    """
    if not turns:
        return [user(solution(item, task, examples))]
    problems = [shot.item for shot in examples] + [item]
    asked = [user(solution(one, task) if at == 0 else render("next_task", problem=problem(one, task)))
             for at, one in enumerate(problems)]
    answers = [{"role": "assistant", "content": escape_control_tokens(shot.solution)} for shot in examples]
    return [message for pair in zip_longest(asked, answers) for message in pair if message]


def few_shot(run: Run, items: Sequence[Instance], assumed: tuple[str, ...] = ()) -> Iterator[list[Message]]:
    """Yield the chat messages of each instance with the run's examples; `assumed` as in examples.read."""
    tasks, shots, turns = run.tasks(), run.experiment.shots, run.experiment.examples == "turns"
    solved = read(run, {item.task for item in items}, assumed)
    for item in items:
        yield conversation(item, tasks[item.task], shown(solved[item.task], item.text, shots), turns)


def user(content: str) -> Message:
    """Return a user's chat message."""
    return {"role": "user", "content": content}


def as_text(messages: Sequence[Message]) -> str:
    """Return chat messages as one text: a single one as it is, several each below its role."""
    return messages[0]["content"] if len(messages) == 1 else "\n\n".join(
        f"[{message['role']}]\n{message['content']}" for message in messages)
