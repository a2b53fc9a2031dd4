"""Count the tokens of conversations, and say how many a model takes.

Runs in the serving environment: vLLM and the model's own tokenizer are asked, so that both count as the server will.
Nothing of this project is imported but its command line, since that environment has none of its dependencies.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from logreasoner import cli


def _main(given: argparse.Namespace) -> None:
    from transformers import AutoTokenizer
    from vllm.config import ModelConfig

    tokenizer = AutoTokenizer.from_pretrained(given.model, revision=given.revision, trust_remote_code=False)
    options: dict[str, Any] = {"chat_template": given.chat_template.read_text(encoding="utf-8"), "tokenize": False,
                               "add_generation_prompt": True, **json.loads(given.arguments)}
    prompts = [len(tokenizer.encode(tokenizer.apply_chat_template(messages, **options), add_special_tokens=False))
               for messages in json.loads(sys.stdin.read())]
    limit = ModelConfig(model=given.model, revision=given.revision).max_model_len
    print(json.dumps({"limit": limit, "prompts": prompts}))


def main() -> None:
    """Print the tokens that a model takes, and those of the conversations on standard input, as JSON."""
    arguments = cli.parser("logreasoner.generation.count_tokens", "Count the tokens of conversations.", """
echo '[[{"role": "user", "content": "A log."}]]' | .venv-serve/bin/python -m logreasoner.generation.count_tokens \\
    --model Qwen/Qwen2.5-7B-Instruct --chat-template templates/chat/qwen.jinja""")
    arguments.add_argument("--model", required=True, help="a folder, or a name on the hub")
    arguments.add_argument("--revision", help="a commit on the hub")
    arguments.add_argument("--chat-template", type=Path, required=True)
    arguments.add_argument("--arguments", default="{}", help="variables of the chat template, as JSON")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
