"""Measure requests before vLLM starts: how many tokens they have, and how many the model takes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from logreasoner.cli import UserError
from logreasoner.config import decoding
from logreasoner.generation.response_cache import Journal, Record
from logreasoner.generation.vllm import chat_arguments, chat_template, vllm_environment
from logreasoner.schemas import Model

STEP = 1_024  # tokens to which a length is rounded up: vLLM compiles anew for each length that it was not started with
SHOWN = 5  # ids of requests that do not fit


@dataclass(frozen=True)
class Lengths:
    """Tokens: the most that a model takes, prompt and answer together, and those of each prompt."""

    limit: int
    prompts: Sequence[int] = ()


def measure(weights: str, model: Model, stage: str, options: Sequence[str] = (), requests: Sequence[Record] = ()
            ) -> Lengths:
    """Measure a model and requests to it; `options` are those of weights.vllm_options.

    Raises UserError where vLLM does not know the model.
    """
    command = [".venv-serve/bin/python", "-m", "logreasoner.generation.count_tokens", "--model", weights,
               "--chat-template", str(chat_template(model.template)),
               "--arguments", json.dumps(chat_arguments(model, stage)), *options]
    done = subprocess.run(command, input=json.dumps([request["body"]["messages"] for request in requests]),
                          capture_output=True, text=True, check=False, env=vllm_environment())
    if done.returncode:
        raise UserError(f"{weights}: vLLM does not say how long its prompts may be: {_last_line(done.stderr)}")
    measured = json.loads(done.stdout.splitlines()[-1])
    return Lengths(measured["limit"], measured["prompts"])


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def fit(lengths: Lengths, requests: Sequence[Record], journal: Journal, stop: bool) -> tuple[list[Record], int]:
    """Return the requests that fit into the model, and the smallest max_model_len that holds them.

    What cannot fit is refused by its id: with `stop` by a UserError, else by an answer in the journal with status 413,
    as a server would refuse it, which counts as an answer without a label.
    """
    needs = [tokens + request["body"]["max_tokens"] for request, tokens in zip(requests, lengths.prompts, strict=True)]
    long = [(request, need) for request, need in zip(requests, needs, strict=True) if need > lengths.limit]
    if long:
        ids = "; ".join(f"{request['custom_id']} needs {need:,} tokens, {request['body']['max_tokens']:,} of them for "
                        "the answer" for request, need in long[:SHOWN])
        more = f"; and {len(long) - SHOWN} more" if len(long) > SHOWN else ""
        message = (f"{len(long)} of {len(requests)} requests do not fit into the model's {lengths.limit:,} tokens: "
                   f"{ids}{more}. Take a model with more, a smaller window or fewer examples, or lower max_tokens in "
                   "experiments/decoding.yaml, in a new run")
        if stop:
            raise UserError(message)
        print(f"{message}. They are refused and count as answers without a label", file=sys.stderr)
        journal.add(*((request, _refusal(need, lengths.limit)) for request, need in long))
    longest = max((need for need in needs if need <= lengths.limit), default=0)
    return ([request for request, need in zip(requests, needs, strict=True) if need <= lengths.limit],
            min(lengths.limit, -(-longest // STEP) * STEP))


def _refusal(need: int, limit: int) -> Record:
    message = f"not asked: prompt and answer need {need} tokens, the model takes {limit}"
    return {"id": None, "response": {"status_code": 413, "body": {"error": message}}, "error": None, "final": True}


def for_server(lengths: Lengths) -> int:
    """Return the max_model_len of a server whose requests are not known: serving.max_model_len, or the model's own."""
    return min(int(decoding()["serving"]["max_model_len"]), lengths.limit)
