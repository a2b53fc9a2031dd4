"""The live engine: one or several OpenAI-compatible endpoints, many requests at once, in rounds until all are answered.

The client itself retries transient failures (408, 409, 429 with its Retry-After, 5xx, timeouts, lost connections) with
growing pauses. A request that still has no valid answer goes into the next round, to whichever endpoint is free. An
endpoint that cannot be reached any more, refuses the key or answers nothing is given up; its requests go to the others.

A refusal (400, 403, 413, 422) is kept as an answer only if it is about its very request: it says so (too long, stopped
by a content filter), or the endpoint answered a request that was sent to it later. Where nearly all is refused, nothing
is kept. A completion of any form is an answer and never asked for again.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from logreasoner.cli import SHORTEST, UserError, escape_terminal, hide_keys
from logreasoner.config import decoding
from logreasoner.files import dump
from logreasoner.generation.costs import Budget
from logreasoner.generation.response_cache import (
    QUOTED,
    REFUSED,
    Journal,
    Record,
    content,
    error_of,
    has_usage,
    most_usage,
    payload,
    says_why,
)

if TYPE_CHECKING:
    import openai

OPENAI = "https://api.openai.com/v1"
SECONDS_BETWEEN_LINES = 30.0  # of progress, where nobody looks at a terminal
LONGEST_WAIT = 120  # seconds; an endpoint that asks for more (Retry-After) is given up
# Each request has a unique name, which servers like vLLM repeat in the answer, so that an exchanged answer is noticed.
REQUEST_NAME = f"logreasoner-{uuid.uuid4().hex[:12]}"
NUMBERS = count()


@dataclass(frozen=True)
class Refusal:
    """A refused request, which may be no answer. `at`: how many requests had been sent when it came."""

    request: Record
    reply: Record
    at: int
    says_why: bool


@dataclass
class Endpoint:
    """An address to ask, and its state."""

    url: str
    client: "openai.AsyncOpenAI"
    replies: int = 0  # of any kind
    sent: int = 0  # requests, which are numbered in this order from 0
    answered: int = -1  # the last one with an answer
    useless: int = 0  # replies to the first requests that are no answers and will be none when asked again
    refusals: list[Refusal] = field(default_factory=list)  # that are not kept as answers yet
    consecutive_failures: int = 0  # requests in a row without an answer
    given_up: str = ""  # the reason why it is asked no more


def addresses(text: str | None) -> list[str]:
    """Parse base URLs that spaces or commas separate; None is OpenAI's.

    Raises UserError for an invalid address, and for None where OPENAI_BASE_URL names another address.
    """
    if text is None:
        elsewhere = os.environ.get("OPENAI_BASE_URL", "").rstrip("/")
        if elsewhere not in ("", OPENAI):
            raise UserError("OPENAI_BASE_URL is set, which would send the requests to another address than OpenAI's: "
                            "unset it, or give the address as BASE_URL= (TEACHER_BASE_URL= for the teacher), so that "
                            "the run and every result name it")
        return [OPENAI]
    urls = list(dict.fromkeys(part.rstrip("/") for part in re.split(r"[\s,]+", text) if part.strip("/")))
    wrong = [url for url in urls if not re.match(r"https?://[^/]", url)]
    if wrong or not urls:
        raise UserError(f"{(wrong or [text])[0]!r} is no address; a base URL is like http://127.0.0.1:8000/v1, "
                        "several are separated by spaces")
    return urls


def ask_live(requests: list[Record], journal: Journal, base_url: str | None, key: str,
             budget: Budget | None = None, title: str | None = None, concurrency: int | None = None,
             timeout: float | None = None) -> None:
    """Ask the endpoints of base_url (see `addresses`), each `concurrency` requests at once, for at most
    `timeout` seconds each (defaults: live.concurrency, live.timeout).

    A progress bar with a title is one of many and is cleared when it is done. Requests may have no final answer after
    the last round. Raises UserError where no endpoint is left, refusals are no answers or the budget does not cover the
    next request, after waiting for the requests under way, so that every paid answer is kept.
    """
    asyncio.run(_ask_live(requests, journal, addresses(base_url), key, budget, title, concurrency, timeout))


async def _ask_live(requests: list[Record], journal: Journal, urls: list[str], key: str,
                    budget: Budget | None, title: str | None, concurrency: int | None, timeout: float | None
                    ) -> None:
    from tqdm import tqdm

    from logreasoner.generation.http_client import open_client

    live = decoding()["live"]
    async with contextlib.AsyncExitStack() as stack:
        # On a terminal a bar; elsewhere a line now and then for a log, but none for one bar of many.
        seconds = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
        bar = stack.enter_context(tqdm(total=len(requests), unit="answer", desc=title, leave=title is None,
                                       mininterval=seconds, maxinterval=seconds, disable=None if title else False))
        endpoints = [Endpoint(url, await stack.enter_async_context(
            open_client(url, key, timeout or live["timeout"], live["max_retries"]))) for url in urls]
        left, failed_rounds = _spread(requests, live["first"]), 0
        while left and failed_rounds < live["rounds"]:
            await asyncio.sleep(failed_rounds * live["pause"])
            before, left = len(left), await _round(left, endpoints, journal, budget, bar, concurrency)
            failed_rounds = failed_rounds + 1 if len(left) == before else 0
            if left and budget and budget.refused:
                raise budget.stop(len(left))
            if left and all(endpoint.given_up for endpoint in endpoints):
                raise UserError("; ".join(endpoint.given_up for endpoint in endpoints)
                                + f"; {len(left)} requests have no answer, the others are kept: run again")
    _keep_refusals(endpoints, journal, len(requests))


def _spread(requests: list[Record], first: int) -> list[Record]:
    """Put requests from all over the list first, so that their fate tells that of all."""
    step = max(1, len(requests) // first)
    heads = range(0, step * first, step)
    return ([requests[at] for at in heads if at < len(requests)]
            + [request for at, request in enumerate(requests) if at not in heads])


async def _round(left: list[Record], endpoints: list[Endpoint], journal: Journal, budget: Budget | None,
                 bar: Any, concurrency: int | None) -> list[Record]:
    """Ask each request once; return those without a final answer."""
    waiting, again, unsynced = deque(left), list[Record](), asyncio.Event()

    async def sync() -> None:
        # A sync takes some milliseconds, in which the requests go on.
        while await unsynced.wait():
            unsynced.clear()
            await asyncio.to_thread(journal.sync)

    async def worker(endpoint: Endpoint) -> None:
        while waiting and not endpoint.given_up:
            request = waiting.popleft()
            if budget and not await budget.hold(request["body"]):
                again.append(request)
                return
            number, response = endpoint.sent, Record()
            try:
                response, reason = await _ask_one(endpoint, request)
            finally:
                if budget:
                    await budget.settle(request["body"], response)
            if _take(endpoint, journal, request, response, number, bool(reason)):
                bar.update()
            else:
                again.append(request)
            unsynced.set()
            reason = reason or _useless(endpoint, journal, number, response) or _too_many_failures(endpoint, response)
            if reason and not endpoint.given_up:
                endpoint.given_up = reason
                if not all(other.given_up for other in endpoints):
                    bar.write(hide_keys(f"{reason}; it is asked no more, the others go on"), file=sys.stderr)

    at_once = min(concurrency or decoding()["live"]["concurrency"], len(left))
    syncing = asyncio.create_task(sync())
    try:
        await asyncio.gather(*(worker(endpoint) for endpoint in endpoints for _ in range(at_once)))
    finally:
        syncing.cancel()
        journal.sync()
    for endpoint in (endpoint for endpoint in endpoints if endpoint.given_up):
        again += [refusal.request for refusal in endpoint.refusals]  # another one may take them
        bar.update(-len(endpoint.refusals))
        endpoint.refusals.clear()
    return again + list(waiting)


def _take(endpoint: Endpoint, journal: Journal, request: Record, response: Record, number: int, permanent: bool
          ) -> bool:
    """Keep a reply to the endpoint's request of this number; return whether the request is asked no more for now."""
    refused = payload(response).get("status_code") in REFUSED and not permanent
    if refused:
        endpoint.refusals.append(Refusal(request, response, endpoint.sent, says_why(response)))
    elif response:
        journal.add((request, response), address=endpoint.url, sync=False)
    if answered := content(response) is not None:
        endpoint.answered = max(endpoint.answered, number)
    return answered or refused


def _keep_refusals(endpoints: list[Endpoint], journal: Journal, asked: int) -> None:
    """Keep as answers the refusals that are about their very requests (see above). Raises UserError for any other."""
    refusals = [(endpoint, refusal) for endpoint in endpoints for refusal in endpoint.refusals]
    about = [(endpoint, refusal) for endpoint, refusal in refusals
             if refusal.says_why or refusal.at <= endpoint.answered]
    if journal.keep_refusals([journal.line(refusal.request, refusal.reply, endpoint.url)
                              for endpoint, refusal in about]):
        refusals = [(endpoint, refusal) for endpoint, refusal in refusals
                    if not refusal.says_why and refusal.at > endpoint.answered]
    if refusals:
        endpoint, refusal = refusals[-1]
        raise UserError(f"{endpoint.url} refused {len(refusals)} of {asked} requests, which is no answer to them: "
                        f"{error_of(refusal.reply, QUOTED)}; correct what it says and run again, answers are kept")


def _useless(endpoint: Endpoint, journal: Journal, number: int, response: Record) -> str:
    """Return why to give up an endpoint: the first requests all had replies, and none is an answer or a passing fault.

    Refusals that say why do not count where the journal has answers enough.
    """
    first = decoding()["live"]["first"]
    if number < first and content(response) is None and not (
            says_why(response) and journal.believes(len(endpoint.refusals))):
        endpoint.useless += payload(response).get("status_code") in (200, *REFUSED)
    if endpoint.useless < first:
        return ""
    return (f"{endpoint.url} answered none of the first {first} requests, the last: {error_of(response, QUOTED)}"
            f"{_hint(endpoint)}")


def _hint(endpoint: Endpoint) -> str:
    from logreasoner.generation.http_client import base_url_hint

    return base_url_hint(endpoint.url)


def _too_many_failures(endpoint: Endpoint, response: Record) -> str:
    """Count consecutive failures; return why to give up the endpoint after this response, "" if it may be asked."""
    answered = content(response) is not None or says_why(response)
    endpoint.consecutive_failures = 0 if answered else endpoint.consecutive_failures + 1
    if endpoint.consecutive_failures < decoding()["live"]["give_up"]:
        return ""
    return (f"{endpoint.url} gave no answer to {endpoint.consecutive_failures} requests in a row, "
            f"the last: {error_of(response, QUOTED)}")


async def _ask_one(endpoint: Endpoint, request: Record) -> tuple[Record, str]:
    """Return (the response, {} if none came; why to give up the endpoint, "" if it may be asked)."""
    import httpx
    import openai

    from logreasoner.generation.http_client import DeadlineError

    before, name = endpoint.replies, f"{REQUEST_NAME}-{next(NUMBERS)}"
    endpoint.sent += 1
    try:
        # The client's untyped call: it sends the body and returns the answer as they are. Measured, it takes a third
        # less processor time than the typed call, which does not know vLLM's extra fields either.
        answer = await endpoint.client.post("/chat/completions", cast_to=httpx.Response, body=request["body"],
                                            options={"headers": {"X-Request-Id": name}})
    except DeadlineError as error:  # it may have been paid
        return {**_failed(408, str(error)), "usage_at_most": most_usage(request["body"])}, ""
    except openai.APIStatusError as error:
        endpoint.replies += 1
        response = received(endpoint.client.api_key, error.response)
        return response, _permanent(endpoint, error.response.headers, response)
    except openai.APIConnectionError as error:
        # If it replied to others meanwhile, only this connection failed.
        unreachable = f"{endpoint.url} cannot be reached ({_message(endpoint, error)})"
        return {}, "" if endpoint.replies > before else unreachable
    except (openai.APIError, ValueError) as error:  # a reply that breaks HTTP
        return _failed(502, f"not an answer: {_message(endpoint, error)}"), ""
    endpoint.replies += 1
    response = received(endpoint.client.api_key, answer)
    names = re.findall(rf"{REQUEST_NAME}-\d+", f"{response['id']} {answer.headers.get('x-request-id')}")
    if set(names) - {name}:
        response = _failed(502, "not an answer: it belongs to another request")
    return response if has_usage(response) else {**response, "usage_at_most": most_usage(request["body"])}, ""


def _failed(status: int, message: str) -> Record:
    return {"response": {"status_code": status, "body": {"error": message}}, "error": None}


def received(key: str, answer: Any) -> Record:
    """Return a reply as it came: JSON where it is that, in whatever encoding, else text; without the key."""
    try:
        body = _without_key(key, decoded_json(answer.content, answer.charset_encoding))
    except (ValueError, RecursionError):
        body = _without_key(key, answer.text)
    if answer.status_code != 200:  # errors are kept short, answers whole
        text = body if isinstance(body, str) else dump(body)
        body = body if len(text) <= QUOTED else text[:QUOTED]
    name = body.get("id") if isinstance(body, dict) else None
    return {"id": name, "response": {"status_code": answer.status_code, "body": body}, "error": None}


def decoded_json(data: bytes, charset: str | None = None) -> Any:
    """Parse JSON in UTF-8, -16 or -32, as the standard says, else in the charset of its header, else in Latin-1."""
    try:
        return json.loads(data)
    except UnicodeDecodeError:
        pass
    try:
        return json.loads(data.decode(charset or "latin-1"))
    except (UnicodeDecodeError, LookupError):
        return json.loads(data.decode("latin-1"))


def _permanent(endpoint: Endpoint, headers: Any, response: Record) -> str:
    """Return why an endpoint would not answer any other request now either, "" if it may."""
    status, message = payload(response)["status_code"], error_of(response, QUOTED)
    if 300 <= status < 400:
        target = str(headers.get("location", "nowhere"))
        return (f"{endpoint.url} redirects to {_shown(endpoint, target)}, and prompts are sent to the declared address "
                "only; if they may go there, give that as the base URL")
    # The same for every request: the key, the account, the model or the address is wrong.
    if (status in (401, 402, 403, 404, 405) and not says_why(response)) or "insufficient_quota" in message:
        return f"{endpoint.url} refused: {message}{_hint(endpoint) if status in (404, 405) else ''}"
    wait = _seconds(headers.get("retry-after", ""))
    return f"{endpoint.url} asks to wait {wait:,.0f} s ({message})" if wait > LONGEST_WAIT else ""


def _seconds(retry_after: str) -> float:
    """Parse a Retry-After header, a number or a date, into seconds; 0 for neither."""
    with contextlib.suppress(ValueError):
        return float(retry_after)
    with contextlib.suppress(ValueError):
        return parsedate_to_datetime(retry_after).timestamp() - time.time()
    return 0.0


def _message(endpoint: Endpoint, error: Exception) -> str:
    return _shown(endpoint, str(getattr(error, "message", error)))


def _shown(endpoint: Endpoint, text: str) -> str:
    """Return what a server sent on one line, without the key, which it may repeat, and what a terminal would obey."""
    return escape_terminal(hide_keys(" ".join(text.split())[:500], endpoint.client.api_key))


def _without_key(key: str, received: Any) -> Any:
    """Return what was received without the key that was sent, since replies are stored."""
    text = dump(received)
    if len(key) < SHORTEST or key not in text:
        return received
    return json.loads(text.replace(key, "[key]"))
