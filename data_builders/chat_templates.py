"""Render the chat templates that vLLM serves by, templates/chat/<template>.jinja, from LLaMA-Factory's own templates
(runs in the train environment; serving has no LLaMA-Factory).

A rendered file begins with MADE; one that does not was written by hand, since the rendered one would give other token
ids than training, and is left alone. tests/e2e/test_tokens.py proves that training and serving see the same token ids,
and `check` does so before each training with the model's own tokenizer.
"""

import argparse
from importlib.metadata import version
from typing import Any

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import CHAT, models
from logreasoner.files import TEMPLATES, writing
from logreasoner.generation.vllm import chat_arguments, chat_template
from logreasoner.schemas import Model

MADE = "{#- Made by `make chat-templates` from LLaMA-Factory"
THOUGHTS = TEMPLATES / "chat_thoughts.jinja"


class _Tokens:
    """Stand in for a tokenizer: its special tokens are named, and become Jinja's variables of the same names."""

    bos_token_id, eos_token_id, bos_token, eos_token = 0, 1, "<bos_token>", "<eos_token>"


def render(name: str) -> str:
    """Render LLaMA-Factory's template as Jinja that takes messages of the roles system, user and assistant.

    Raises UserError for an unknown template, and for one that LLaMA-Factory itself cannot write as Jinja.
    """
    from llamafactory.data.template import TEMPLATES as KNOWN
    from llamafactory.data.template import ReasoningTemplate

    if name not in KNOWN:
        raise UserError(f"{name!r} is no template of LLaMA-Factory {version('llamafactory')}; it has "
                        f"{', '.join(sorted(KNOWN))}")
    template, tokens = KNOWN[name], _Tokens()
    if template.replace_eos:  # as LLaMA-Factory does to the tokenizer before it encodes anything
        tokens.eos_token = template.stop_words[0]
    try:
        text: str = template._get_jinja_template(tokens)
    except ValueError as error:
        raise UserError(f"{name}: LLaMA-Factory cannot write this template as Jinja ({error}); write "
                        f"{CHAT / name}.jinja by hand and say in it why") from None
    text = text.replace("\n", r"\n")  # all of its line breaks are inside strings
    for token in ("bos_token", "eos_token"):
        text = text.replace(f"'<{token}>'", f"({token} | default('', true))")
    head = f"{MADE} {version('llamafactory')}'s template {name}; do not edit. #}}"
    if isinstance(template, ReasoningTemplate):
        words = dict(zip(("open", "close"), template.thought_words, strict=True), empty=template.add_thought())
        head += f"\n{{%- set thought = {words} -%}}\n" + THOUGHTS.read_text(encoding="utf-8").rstrip("\n")
        text = text.replace("{% elif message['role'] == 'assistant' %}", "{% elif message['role'] == 'assistant' %}"
                            "{% if not loop.last or enable_thinking is false %}"
                            "{% set content = without_thoughts(content) %}{% endif %}"
                            "{{ thought_before(content, loop.last) }}")
        text += "{% if messages[-1]['role'] != 'assistant' %}{{ beginning() }}{% endif %}"
    for mark, line in (("{%", "\n{%-"), ("%}", "-%}"), ("{{ ", "\n{{- "), (" }}", " -}}")):
        text = text.replace(mark, line)
    return head + text + "\n"


def check(tokenizer: Any, template: Any, model: Model) -> None:
    """Compare the token ids of prompts as LLaMA-Factory trains on them with those of the served chat template.

    `tokenizer` and `template` are those of training. Raises UserError where they differ.
    """
    served = chat_template(model.template)
    turns = [{"role": role, "content": f"The fan of slot {number} stopped.\n\n1. Look at it again."}
             for number, role in enumerate(("user", "assistant", "user", "assistant"))]
    for messages in (turns[:2], turns):
        text = tokenizer.apply_chat_template(messages[:-1], chat_template=served.read_text(encoding="utf-8"),
                                             tokenize=False, **chat_arguments(model))
        if tokenizer.encode(text, add_special_tokens=False) != template.encode_oneturn(tokenizer, messages)[0]:
            raise UserError(f"{served}: with the tokenizer of {model.path} it gives other token ids than "
                            f"LLaMA-Factory's template {model.template} trains on; run `make chat-templates`, or "
                            "choose another template in experiments/models.yaml")


def declared() -> list[str]:
    """Return the templates that models.yaml names."""
    return sorted({row.template for row in models().values() if row.template})


def _main(_: argparse.Namespace) -> None:
    for name in declared():
        path = CHAT / f"{name}.jinja"
        if path.exists() and not path.read_text(encoding="utf-8").startswith(MADE):
            print(path, "is written by hand")
            continue
        text = render(name)
        with writing(path) as stream:
            stream.write(text)
        print(path)


def main() -> None:
    """Render the chat templates of models.yaml."""
    cli.run(cli.parser("data_builders.chat_templates", "Render the chat templates that models are served with.", """
.venv-train/bin/python -m data_builders.chat_templates"""), _main)


if __name__ == "__main__":
    main()
