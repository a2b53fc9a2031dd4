"""Requests and responses in the OpenAI Batch format, and the journal that keeps every answer ever received."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logreasoner.cli import UserError, escape_terminal
from logreasoner.config import api_requests, decoding
from logreasoner.files import digest, dump, naming, read_jsonl
from logreasoner.prompts import Message, user

Record = dict[str, Any]
LONGER = "raise max_tokens in experiments/decoding.yaml, in a new run"  # where answers were cut
REFUSED = (400, 403, 413, 422)  # statuses that can be about one request: its length, or what is in it
BELIEVED = 9  # refusals for each answer; where more is refused, the endpoint is at fault and not the requests
QUOTED = 4_000  # characters of an error that are shown and kept
SHORT = {"message", "code", "type", "param", "status"}  # keys of an error that its message and code tell
# What endpoints say of one request. Their settings (a parameter, a key, a model) are refused in other words.
TOO_LONG = re.compile(r"context.?(length|window|size)|string_above_max_length|"
                      r"(prompt|input|request|message|content|string)\b.{0,60}\b(too (long|large|many tokens)|exceed)|"
                      r"input length|token limit", re.IGNORECASE)
FILTERED = re.compile(r"content.?(filter|policy|management|exists.?risk)|responsible.?ai|moderation|flagged|safety|"
                      r"inappropriate|invalid_prompt|data_inspection|prohibited|sensitive|敏感|不安全|违规",
                      re.IGNORECASE)


def request(custom_id: str, model_name: str, purpose: str, prompt: str | list[Message], vllm: bool,
            **body: Any) -> Record:
    """Build one line of a request file from a user's message or several messages.

    Sampling settings come from experiments/decoding.yaml under `purpose`; those that only vLLM knows are for an
    endpoint that is or may be `vllm`. Those that an API does not take are left out or renamed as models.yaml says
    (`requests`).
    """
    settings = {key: value for key, value in decoding()[purpose].items()
                if vllm or key not in decoding()["vllm_only"]} | body
    if declared := api_requests(model_name):
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


def most_usage(body: Record) -> dict[str, int | None]:
    """Return the most that a request can use: a token for each byte of the prompt, and max_tokens (None: no bound)."""
    return {"prompt_tokens": len(json.dumps(body.get("messages"))),  # JSON is longer than the text
            "completion_tokens": most_tokens(body)}


def has_usage(response: Record) -> bool:
    """Tell whether a response counts its tokens, in and out."""
    body = payload(response).get("body")
    usage = body.get("usage") if isinstance(body, dict) else None
    return isinstance(usage, dict) and all(map(is_count, map(usage.get, ("prompt_tokens", "completion_tokens"))))


def is_count(value: Any) -> bool:
    """Tell whether a value that a server sent is a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12


def payload(response: Record) -> Record:
    """Return a response's status_code and body, {} where there are none."""
    value = response.get("response")
    return value if isinstance(value, dict) else {}


def content(response: Record) -> str | None:
    """Return the text of an answer, else None (an error, or a body that is no completion).

    An answer without a text (a refusal, every token spent on thinking, no choice) is an answer: "". Parts are joined,
    without those that are thoughts; a text that was sent as another value is read as JSON.
    """
    if response.get("error") or payload(response).get("status_code") != 200:
        return None
    body = payload(response).get("body")
    if not isinstance(body, dict) or body.get("error"):
        return None
    if not isinstance(body.get("choices"), list) and body.get("object") != "chat.completion":
        return None
    value = _message(response).get("content")
    if isinstance(value, list):
        return "".join(map(_part, value))
    return _as_text(value)


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else ""


def _choice(response: Record) -> Record:
    body = payload(response).get("body")
    choices = body.get("choices") if isinstance(body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _message(response: Record) -> Record:
    message = _choice(response).get("message")
    return message if isinstance(message, dict) else {}


def error_of(response: Record, most: int = 200) -> str:
    """Return what a response without a text says, whatever its shape, on one line."""
    status, body = payload(response).get("status_code", "none"), payload(response).get("body")
    if content(response) is not None:
        return f"status {status}: no text in the answer"
    error = response.get("error") or (body.get("error") if isinstance(body, dict) else None) or body
    if isinstance(error, dict) and isinstance(error.get("message"), str) and set(error) <= SHORT:
        error = f"{error['message']} ({error['code']})" if error.get("code") else error["message"]
    text = " ".join(_as_text(error or "no text in the answer").split())
    more = f" … ({len(text) - most:,} more characters)" if len(text) > most else ""
    return f"status {status}: {'not an answer: ' if status == 200 else ''}{escape_terminal(text[:most])}{more}"


def _as_text(value: Any) -> str:
    """Return text as it is, nothing as "", and any other value that a server sent as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return dump(value)
    except RecursionError:
        return "nested too deeply to be read"


def final(response: Record) -> bool:
    """Tell whether a line of a response file needs no further request: an answer, or a refusal."""
    return content(response) is not None or payload(response).get("status_code") in REFUSED


def says_why(response: Record) -> bool:
    """Tell whether a refusal says that it is about its very request: too long, or stopped by a content filter."""
    if (status := payload(response).get("status_code")) not in REFUSED:
        return False
    text = _as_text([response.get("error"), payload(response).get("body")])[:QUOTED]
    return status == 413 or bool(TOO_LONG.search(text) or FILTERED.search(text))


def refusal(response: Record) -> bool:
    """Tell whether a final response is a refusal: by the endpoint, its content filter or the model, or no choice."""
    if content(response) is None:
        return True
    message = _message(response)
    return not message or _choice(response).get("finish_reason") == "content_filter" or (
        not content(response) and bool(message.get("refusal")))


def cut(response: Record) -> bool:
    """Tell whether an answer ended because it had max_tokens."""
    return content(response) is not None and _choice(response).get("finish_reason") == "length"


def draft(response: Record) -> bool:
    """Tell whether an answer of a model that thinks first was cut before </think>: it is no answer.

    A server that sends the thoughts apart (`reasoning_content`, `reasoning`) begins the content after them.
    """
    apart = any(_message(response).get(key) for key in ("reasoning_content", "reasoning"))
    text = content(response) or ""
    return cut(response) and "</think>" not in text and not (apart and text)


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


def _answers(line: Record) -> bool:
    """Tell whether a journal line is an answer: a text, or a refusal that is kept as one."""
    return content(line) is not None or line.get("final") is True


class Journal:
    """Every answer received for a request file, by hash of the request's body; appended, never deleted.

    One answer serves all requests with the same body, whatever their ids. Only answers of `answerer` count; the file
    keeps those of others too. A line is a response with `request_sha256`, the `model` of the request, `answered_by`,
    and where they apply the `batch` that brought it (half price), the journal it was `copied_from` (paid there), the
    `usage_at_most` where the reply does not count its tokens, and `final` where it is a refusal that is kept as an
    answer (`keep_refusals`): without that mark it is none.
    """

    credit = 0  # answers that count as given before the first: a single session may be too long for the model

    def __init__(self, path: Path, answerer: Answerer):
        self.path, self.answerer = path, answerer
        self.answers: dict[str, Record] = {}
        self.others = 0  # final answers of other answerers
        self.good = self.refused = 0  # requests that were answered, and refusals that are kept as answers
        for record in whole_lines(path) if path.exists() else ():
            self._keep(record)

    def _keep(self, record: Record) -> None:
        key = record.get("request_sha256")
        if not self.answerer.gave(record):
            self.others += _answers(record)
        elif isinstance(key, str) and not _answers(self.answers.get(key, {})):
            self.answers[key] = record
            self.good += content(record) is not None
            self.refused += content(record) is None and _answers(record)

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
        self.append([self.line(request, response, address) for request, response in pairs], sync)

    def line(self, request: Record, response: Record, address: str = "") -> Record:
        """Make the line of a response to a request from an address, or from a local vLLM."""
        return {**response, "custom_id": request["custom_id"], "request_sha256": body_digest(request),
                "model": request["body"].get("model"), "answered_by": self.answerer.stamp(response, address)}

    def keep_refusals(self, refusals: list[Record]) -> bool:
        """Append journal lines with refusals as answers, unless nearly all is refused; return whether none is left."""
        if refusals and not self.believes(len(refusals)):
            return False
        self.append([{**line, "final": True} for line in refusals])
        return True

    def believes(self, refusals: int) -> bool:
        """Tell whether so many more refusals may be about their requests: not where nearly all is refused."""
        return self.refused + refusals <= BELIEVED * (self.good + self.credit)

    def answer(self, request: Record) -> Record | None:
        """Return the journal line with a final answer to this request, if there is one."""
        line = self.last(request)
        return line if _answers(line) else None

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
    """A way to answer requests, and who answers: `ask` puts the answers into the journal.

    `others` lists other journals with answers of the same answerer, given this one's; `shared` identifies who is paid,
    so that commands that would ask the same wait for each other.
    """

    ask: Callable[[list[Record], Journal], None]
    answerer: Answerer
    close: Callable[[], None] = lambda: None  # ends what `ask` has started
    others: Callable[[Path], Iterable[Path]] = lambda journal: ()
    shared: Mapping[str, Any] | None = None
