"""Serve a model of a run by vLLM, with the chat template and sampling that it was scored with; and build requests
that make any such server keep to the think-then-answer form.
"""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from logreasoner import cli, weights
from logreasoner.cli import UserError
from logreasoner.config import Run, hardware, load_run
from logreasoner.generation import lengths
from logreasoner.generation.generate import served_name
from logreasoner.generation.response_cache import Answerer, Journal, Record
from logreasoner.generation.vllm import parallel_options, server, vllm_command
from logreasoner.prompts import escape_control_tokens
from logreasoner.schemas import Hardware, reject_key_in_url

SECONDS = 30.0  # until an endpoint lists its models
CAPACITY = 20_000  # answers that MemoryJournal holds: some 60 MB


def command(run: Run, name: str, stage: str, profile: Hardware | None = None) -> list[str]:
    """Return the command that serves a model at a stage on a hardware profile. Raises UserError without weights."""
    declared = run.check(name, stage)
    if declared.kind != "open":
        raise UserError(f"{name} is of kind {declared.kind} (experiments/models.yaml); only open weights can be served")
    path, options = run.weights(name, stage), weights.vllm_options(weights.identity(run, name, stage))
    return vllm_command(path, served_name(name, stage), declared, stage,
                        lengths.for_server(lengths.measure(path, declared, stage, options)),
                        *options, *parallel_options(declared, profile))


@contextmanager
def start(run: Run, name: str, stage: str, profile: Hardware | None = None) -> Iterator[tuple[str, str, bool]]:
    """Start a server for a while and yield what `find_endpoint` returns; it ends with this program."""
    start_server, log = command(run, name, stage, profile), run.log(f"serve-{name}-{stage}")
    cli.stop_on_sigterm()
    print(f"starting vLLM with {served_name(name, stage)} (log: {log})", file=sys.stderr, flush=True)
    with server(start_server, log) as url:
        yield url, served_name(name, stage), True


def find_endpoint(base_url: str, name: str | None) -> tuple[str, str, bool]:
    """Return (base URL, the model's name there, whether it is vLLM) of an endpoint; only vLLM enforces the answer form.

    Raises UserError if it cannot be reached, does not list its models, or has several and none is named.
    """
    import httpx
    from openai import OpenAIError

    from logreasoner.generation.http_client import open_client

    url, key = reject_key_in_url(base_url.rstrip("/")), os.environ.get("OPENAI_API_KEY") or "none"

    async def get_models() -> httpx.Response:
        async with open_client(url, key, SECONDS, max_retries=0) as client:
            return await client.get("/models", cast_to=httpx.Response)

    try:
        models = {str(row["id"]): row.get("owned_by") for row in asyncio.run(get_models()).json()["data"]}
    except (OpenAIError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{url}/models does not list the models ({cli.hide_keys(str(error), key)[:200]!a}); a base URL "
                        "ends in /v1, and a key is read from OPENAI_API_KEY") from None
    name = name or (next(iter(models)) if len(models) == 1 else "")
    if name not in models:
        raise UserError(f"{url} serves {', '.join(list(models)[:10])!a}; choose with --name")
    return url, name, models[name] == "vllm"


def answer_pattern(labels: Sequence[str], thinking: bool) -> str:
    """Return the answer form as a regular expression: the steps are free text, the answer is one of the labels.

    No tag of the form can begin inside the steps; other markup can, since logs contain it.
    """
    choices = "|".join(map(re.escape, labels))
    return (r"([^<]|<[^/])*</think>\s*" if thinking else "") + (
        rf"<solutions>\n1\. [^\s<]([^<]|<[^<as/])*</solutions>\n<answer> ({choices}) </answer>")


def close_answer(text: str) -> str:
    """Complete an answer that was cut off, up to the label."""
    thought, tag, rest = text.rpartition("</think>")
    complete = re.match(r"(?s:.*[>\s])?[^<]*", rest.partition("</solutions>")[0])  # no unfinished tag
    body = complete.group().rstrip() if complete else ""
    return f"{thought}{tag}{body}\n</solutions>\n<answer>"


def closing_request(request: Record, text: str, labels: Sequence[str]) -> Record:
    """Build the request that makes a model end its answer that was cut off with one of the labels and nothing else.

    The answer goes back as text, so control tokens in it, which a log may have provoked, are escaped.
    """
    body, (thought, tag, rest) = request["body"], close_answer(text).rpartition("</think>")
    begun = f"{escape_control_tokens(thought)}{tag}{escape_control_tokens(rest)}"
    return {**request, "body": {
        **body, "messages": [*body["messages"], {"role": "assistant", "content": begun}],
        "add_generation_prompt": False, "continue_final_message": True,
        "structured_outputs": {"choice": [f" {label} </answer>" for label in labels]}}}


class MemoryJournal(Journal):
    """A journal in memory, which drops the oldest answers."""

    def __init__(self, answerer: Answerer) -> None:
        super().__init__(Path(os.devnull), answerer)

    def sync(self) -> None:
        """Do nothing: no answer is on the disk."""

    def append(self, records: list[Record], sync: bool = True) -> None:
        """Keep journal lines, and drop the oldest above CAPACITY."""
        for record in records:
            self._keep(record)
        for key in list(islice(self.answers, max(0, len(self.answers) - CAPACITY))):
            del self.answers[key]


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    start_server = command(run, given.model, given.stage, hardware().get(given.hardware))
    cli.stop_on_sigterm()
    if given.host not in ("127.0.0.1", "::1", "localhost"):
        print(f"{given.host}: whoever can reach this machine can use the model; set VLLM_API_KEY to require a key",
              file=sys.stderr)
    with server(start_server, None, host=given.host, port=given.port) as url, suppress(KeyboardInterrupt):
        print(f"{served_name(given.model, given.stage)} is ready; use it with: make analyze LOG=app.log "
              f"TASK={run.experiment.tasks[0]} BASE_URL={url}   (Ctrl-C stops it)", flush=True)
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # the server is the only child
        raise UserError("vLLM ended by itself; its output is above")


def main() -> None:
    """Serve a model until Ctrl-C or SIGTERM."""
    arguments = cli.parser("logreasoner.generation.serve", "Serve a model of a run by vLLM until Ctrl-C.", """
python -m logreasoner.generation.serve --run paper --model qwen2.5-7b --stage dpo
python -m logreasoner.generation.serve --run paper --model qwen2.5-7b --stage base --port 8001 --host 0.0.0.0""",
                           required=["run", "model", "stage"])
    arguments.add_argument("--hardware", help="a name of hardware.yaml: over how many devices large weights are split")
    arguments.add_argument("--port", type=int, default=8000, help="default: 8000")
    arguments.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
