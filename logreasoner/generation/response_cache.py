"""Requests and responses in the OpenAI Batch format, and the journal that keeps every answer ever received."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logreasoner.cli import UserError
from logreasoner.config import api_requests, decoding
from logreasoner.files import digest, dump, naming, read_jsonl
from logreasoner.prompts import Message, user

Record = dict[str, Any]
LONGER = "raise max_tokens in experiments/decoding.yaml, in a new run"  # where answers were cut


def request(custom_id: str, model_name: str, purpose: str, prompt: str | list[Message], vllm: bool,
            **body: Any) -> Record:
    """Build one line of a request file from a user's message or several messages.

    Sampling settings come from experiments/decoding.yaml under `purpose`. Those that an API does not take are left out
    or renamed as models.yaml says (`requests`).
    """
    settings = {key: value for key, value in decoding()[purpose].items()
                if vllm or key not in decoding()["vllm_only"]} | body
    declared = None if vllm else api_requests(model_name)
    if declared:
        settings = {key: value for key, value in settings.items() if key not in declared.without} | declared.extra
        if declared.max_completion_tokens:
            settings.pop("max_tokens", None)
            settings["max_completion_tokens"] = declared.max_completion_tokens
    messages = [user(prompt)] if isinstance(prompt, str) else prompt
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": model_name, "messages": messages, **settings}}


def most_tokens(body: Record) -> int | None:
    """Return the most tokens that an answer to a request may have, thoughts included."""
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return most if isinstance(most, int) else None


def read_requests(path: Path) -> list[Record]:
    """Read a request file. Raises UserError on a line without custom_id or body, and on a duplicate id."""
    requests, seen = [], set()
    for number, record in read_jsonl(path):
        if not isinstance(record.get("custom_id"), str) or not isinstance(record.get("body"), dict):
            raise UserError(f"{path}:{number}: a request needs custom_id and body")
        if record["custom_id"] in seen:
            raise UserError(f"{path}:{number}: custom_id {record['custom_id']!r} comes twice")
        seen.add(record["custom_id"])
        requests.append(record)
    return requests


def payload(response: Record) -> Record:
    """Return a response's status_code and body, {} where there are none."""
    value = response.get("response")
    return value if isinstance(value, dict) else {}


def content(response: Record) -> str | None:
    """Return the text of a good answer, else None (error status, no choice).

    An answer without a text (a refusal, every token spent on thinking) is an answer: "".
    """
    if response.get("error") or payload(response).get("status_code") != 200:
        return None
    try:
        text = payload(response)["body"]["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return "" if text is None else text if isinstance(text, str) else None


def error_of(response: Record) -> str:
    """Return the error of a response without a text, on one line."""
    body = payload(response).get("body")
    message = response.get("error") or (body.get("error") if isinstance(body, dict) else "") or "no text in the answer"
    return f"status {payload(response).get('status_code', 'none')}: {' '.join(str(message).split())[:200]}"


def final(response: Record) -> bool:
    """Tell whether asking again is pointless: an answer, or a refusal of this request (bad request, too long)."""
    return content(response) is not None or payload(response).get("status_code") in (400, 413, 422)


def refusal(response: Record) -> bool:
    """Tell whether a final response is a refusal of the request, or its answer was withheld by a content filter."""
    if content(response) is None:
        return True
    return bool(payload(response)["body"]["choices"][0].get("finish_reason") == "content_filter")


def cut(response: Record) -> bool:
    """Tell whether an answer ended because it had max_tokens."""
    return content(response) is not None and payload(response)["body"]["choices"][0].get("finish_reason") == "length"


def draft(response: Record) -> bool:
    """Tell whether an answer of a model that thinks first was cut before </think>: it is no answer."""
    return cut(response) and "</think>" not in (content(response) or "")


def body_digest(request: Record) -> str:
    """Return the hash that equal requests share: of everything but the id."""
    return digest(request["body"])


def append_lines(path: Path, records: Iterable[Record], sync: bool = True) -> None:
    """Append JSON lines, after a line break where a kill cut the last line short.

    When this returns, a kill loses nothing; with sync the lines are on the disk, and a loss of power does not either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), open(path, "a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        for record in records:
            stream.write(dump(record).encode() + b"\n")
        stream.flush()
        if sync:
            os.fsync(stream.fileno())


def whole_lines(path: Path) -> Iterator[Record]:
    """Yield the objects of a file that append_lines wrote; skip lines that a kill cut short."""
    with open(path, "rb") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record


@dataclass(frozen=True)
class Answerer:
    """Who answers: answers are reused only for the same answerer.

    Local weights are identified by `weights` (logreasoner/weights.py). Endpoints are identified by their addresses:
    `endpoints` maps each to the name to record, which is the address itself unless it changes from start to start.
    Several endpoints share the requests: whoever gives their addresses declares that they serve the same model.
    Endpoints that serve local weights have both.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)

    def stamp(self, response: Record, address: str) -> Record:
        """Return what a journal line records: the weights, or the address with the model that the reply names."""
        if not self.endpoints:
            return {**self.weights}
        body = payload(response).get("body")
        named = body.get("model") if isinstance(body, dict) else None
        return {"address": self.endpoints.get(address, address), "model": named, **self.weights}

    def gave(self, line: Record) -> bool:
        """Tell whether a journal line is an answer of this answerer."""
        by = line.get("answered_by")
        return (isinstance(by, dict) and all(by.get(key) == value for key, value in self.weights.items())
                and (by.get("address") in self.endpoints.values() if self.endpoints else "address" not in by))


def endpoints(*urls: str) -> Answerer:
    """Build the answerer of endpoints that are identified by their addresses."""
    return Answerer(endpoints={url: url for url in urls})


class Journal:
    """Every answer received for a request file, by hash of the request's body; appended, never deleted.

    One answer serves all requests with the same body, whatever their ids. Only answers of `answerer` count; the file
    keeps those of others too. A line is a response with `request_sha256`, the `model` of the request, `answered_by`,
    and where they apply the `batch` that brought it (half price) or the journal it was `copied_from` (paid there).
    """

    def __init__(self, path: Path, answerer: Answerer):
        self.path, self.answerer = path, answerer
        self.answers: dict[str, Record] = {}
        self.others = 0  # final answers of other answerers
        for record in whole_lines(path) if path.exists() else ():
            self._keep(record)

    def _keep(self, record: Record) -> None:
        key = record.get("request_sha256")
        if not self.answerer.gave(record):
            self.others += final(record)
        elif isinstance(key, str) and not final(self.answers.get(key, {})):
            self.answers[key] = record

    def append(self, records: list[Record], sync: bool = True) -> None:
        """Append journal lines; without sync a kill does not lose them, but a loss of power before `sync` may."""
        append_lines(self.path, records, sync)
        for record in records:
            self._keep(record)

    def sync(self) -> None:
        """Wait until the disk has every line."""
        if self.path.exists():
            append_lines(self.path, [])

    def add(self, *pairs: tuple[Record, Record], address: str = "", sync: bool = True) -> None:
        """Append (request, response) pairs from an address, or from a local vLLM."""
        self.append([{**response, "custom_id": request["custom_id"], "request_sha256": body_digest(request),
                      "model": request["body"].get("model"), "answered_by": self.answerer.stamp(response, address)}
                     for request, response in pairs], sync)

    def answer(self, request: Record) -> Record | None:
        """Return the journal line with a final answer to this request, if there is one."""
        line = self.last(request)
        return line if final(line) else None

    def last(self, request: Record) -> Record:
        """Return the last response received for a request without a final answer; {} if there is none."""
        return self.answers.get(body_digest(request), {})

    def take(self, requests: list[Record], paths: Iterable[Path]) -> int:
        """Copy this answerer's answers to these requests from other journals; return how many requests they serve."""
        before = len(requests)
        for path in paths:
            requests = [request for request in requests if self.answer(request) is None]
            other = Journal(path, self.answerer) if requests else None
            lines = {body_digest(request): line for request in requests
                     if other and (line := other.answer(request)) and content(line) is not None}
            if lines:
                self.append([{**line, "copied_from": str(path)} for line in lines.values()])
        return before - sum(self.answer(request) is None for request in requests)


@dataclass(frozen=True)
class Engine:
    """A way to answer requests, and who answers: `ask` puts the answers into the journal."""

    ask: Callable[[list[Record], Journal], None]
    answerer: Answerer
    close: Callable[[], None] = lambda: None  # ends what `ask` has started
