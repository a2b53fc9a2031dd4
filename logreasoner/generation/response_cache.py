"""Requests and responses in the OpenAI Batch format, and the journal that keeps every answer ever received."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logreasoner.cli import UserError
from logreasoner.config import decoding
from logreasoner.files import digest, dump, naming, read_jsonl

Record = dict[str, Any]


def request(custom_id: str, model_name: str, purpose: str, prompt: str, vllm: bool, **body: Any) -> Record:
    """One line of a request file; sampling settings come from experiments/decoding.yaml under `purpose`."""
    settings = {key: value for key, value in decoding()[purpose].items()
                if vllm or key not in decoding()["vllm_only"]}
    messages = [{"role": "user", "content": prompt}]
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": model_name, "messages": messages, **settings, **body}}


def read_requests(path: Path) -> list[Record]:
    """A request file. Raises UserError on a line without custom_id or body, and on an id that comes twice."""
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
    """A response's status_code and body, {} where there are none."""
    found = response.get("response")
    return found if isinstance(found, dict) else {}


def content(response: Record) -> str | None:
    """The text of a good answer, else None (error status, no choice).

    A model that answered without a text (a refusal, every token spent on thinking) did answer: that is "".
    """
    if response.get("error") or payload(response).get("status_code") != 200:
        return None
    try:
        text = payload(response)["body"]["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return "" if text is None else text if isinstance(text, str) else None


def error_of(response: Record) -> str:
    """What a response without a text says went wrong, on one line."""
    body = payload(response).get("body")
    said = response.get("error") or (body.get("error") if isinstance(body, dict) else None) or "no text in the answer"
    return f"status {payload(response).get('status_code', 'none')}: {' '.join(str(said).split())[:200]}"


def final(response: Record) -> bool:
    """Whether asking again is pointless: an answer, or a refusal of this very request (bad request, too long)."""
    return content(response) is not None or payload(response).get("status_code") in (400, 413, 422)


def refusal(response: Record) -> bool:
    """Whether a final response is a refusal: of the request, or the answer was withheld by a content filter."""
    if content(response) is None:
        return True
    return bool(payload(response)["body"]["choices"][0].get("finish_reason") == "content_filter")


def body_digest(asked: Record) -> str:
    """What decides whether two requests are the same question: everything but the id."""
    return digest(asked["body"])


def append_lines(path: Path, records: Iterable[Record], sync: bool = True) -> None:
    """Append JSON lines; a line that a kill cut short stays by itself.

    No kill can take them when this returns; with sync they are on the disk, so that no loss of power can either.
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
    """The objects of a file that append_lines wrote; a line that a kill cut short is passed over."""
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
    """Who answers. The same question asked of somebody else is another question.

    Weights of ours are known by `weights` (logreasoner/weights.py). Endpoints are known by their addresses:
    `endpoints` maps each to the name that is written down, which is the address itself except where it changes from
    start to start. Several endpoints share the questions: whoever gives their addresses says that they serve the same
    model. Endpoints that serve weights of ours have both.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)

    def stamp(self, response: Record, address: str) -> Record:
        """What a journal line says of who gave it: an endpoint's address with the model that its reply names."""
        if not self.endpoints:
            return {**self.weights}
        body = payload(response).get("body")
        named = body.get("model") if isinstance(body, dict) else None
        return {"address": self.endpoints.get(address, address), "model": named, **self.weights}

    def gave(self, line: Record) -> bool:
        """Whether a journal line is an answer of this answerer."""
        by = line.get("answered_by")
        return (isinstance(by, dict) and all(by.get(key) == value for key, value in self.weights.items())
                and (by.get("address") in self.endpoints.values() if self.endpoints else "address" not in by))


def endpoints(*urls: str) -> Answerer:
    """The answerer of endpoints that go by their addresses."""
    return Answerer(endpoints={url: url for url in urls})


class Journal:
    """Every answer received for a request file, by hash of the request's body; appended, never deleted.

    Requests with the same body are the same question, whatever their ids: one answer serves them all. Only what
    `answerer` gave counts; the file keeps the answers of others too. A line is a response with `request_sha256`, the
    `model` asked, who it was `answered_by`, and where it applies the `batch` it came by (half price) or the journal it
    was `copied_from` (paid there).
    """

    def __init__(self, path: Path, answerer: Answerer):
        self.path, self.answerer = path, answerer
        self.answers: dict[str, Record] = {}
        self.others = 0  # final answers that somebody else gave
        for record in whole_lines(path) if path.exists() else ():
            self._keep(record)

    def _keep(self, record: Record) -> None:
        key = record.get("request_sha256")
        if not self.answerer.gave(record):
            self.others += final(record)
        elif isinstance(key, str) and not final(self.answers.get(key, {})):
            self.answers[key] = record

    def append(self, records: list[Record], sync: bool = True) -> None:
        """Append journal lines; without sync they are safe from a kill, and from a loss of power after `sync`."""
        append_lines(self.path, records, sync)
        for record in records:
            self._keep(record)

    def sync(self) -> None:
        """Wait until the disk has every line."""
        if self.path.exists():
            append_lines(self.path, [])

    def add(self, *pairs: tuple[Record, Record], address: str = "", sync: bool = True) -> None:
        """Append (request, response) pairs that an address, or vLLM of ours, gave."""
        self.append([{**response, "custom_id": asked["custom_id"], "request_sha256": body_digest(asked),
                      "model": asked["body"].get("model"), "answered_by": self.answerer.stamp(response, address)}
                     for asked, response in pairs], sync)

    def answer(self, asked: Record) -> Record | None:
        """The journal's line with a final answer to this very question, if there is one."""
        found = self.answers.get(body_digest(asked))
        return found if found and final(found) else None

    def last(self, asked: Record) -> Record:
        """What was received last for a request without a final answer; {} if nothing was."""
        return self.answers.get(body_digest(asked), {})

    def take(self, requests: list[Record], paths: Iterable[Path]) -> int:
        """Copy this answerer's answers to these requests from other journals; returns how many requests they serve."""
        before = len(requests)
        for path in paths:
            requests = [asked for asked in requests if self.answer(asked) is None]
            other = Journal(path, self.answerer) if requests else None
            found = {body_digest(asked): line for asked in requests
                     if other and (line := other.answer(asked)) and content(line) is not None}
            if found:
                self.append([{**line, "copied_from": str(path)} for line in found.values()])
        return before - sum(self.answer(asked) is None for asked in requests)


@dataclass(frozen=True)
class Engine:
    """How requests are answered, and by whom: `ask` puts the answers into the journal."""

    ask: Callable[[list[Record], Journal], None]
    answerer: Answerer
