"""The live engine: one or several OpenAI-compatible endpoints, many requests at once, in rounds until all are answered.

The client itself retries transient failures (408, 409, 429 with its Retry-After, 5xx, timeouts, lost connections) with
growing pauses. A request that still has no valid answer goes into the next round, to whichever endpoint is free. An
endpoint that cannot be reached any more, refuses the key or answers nothing is given up; its requests go to the others.
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
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from logreasoner.cli import SHORTEST, UserError, hide_keys
from logreasoner.config import decoding
from logreasoner.files import dump
from logreasoner.generation.costs import Budget
from logreasoner.generation.response_cache import Journal, Record, error_of, final

if TYPE_CHECKING:
    import openai

OPENAI = "https://api.openai.com/v1"
SECONDS_BETWEEN_LINES = 30.0  # of progress, where nobody looks at a terminal
LONGEST_WAIT = 120  # seconds; an endpoint that asks for more (Retry-After) is given up
# Each request has a unique name, which servers like vLLM repeat in the answer, so that an exchanged answer is noticed.
REQUEST_NAME = f"logreasoner-{uuid.uuid4().hex[:12]}"
NUMBERS = count()


@dataclass
class Endpoint:
    """An address to ask, and its state."""

    url: str
    client: "openai.AsyncOpenAI"
    replies: int = 0  # of any kind
    consecutive_failures: int = 0  # requests in a row without an answer
    given_up: str = ""  # the reason why it is asked no more


def addresses(text: str | None) -> list[str]:
    """Parse base URLs that spaces or commas separate; None is OpenAI's.

    Raises UserError for an invalid address, and for None where OPENAI_BASE_URL would redirect the requests.
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
    the last round. Raises UserError where no endpoint is left or the budget does not cover the next request, after
    waiting for the requests under way, so that every paid answer is kept.
    """
    asyncio.run(_ask_live(requests, journal, addresses(base_url), key, budget, title, concurrency, timeout))


async def _ask_live(requests: list[Record], journal: Journal, urls: list[str], key: str,
                    budget: Budget | None, title: str | None, concurrency: int | None, timeout: float | None
                    ) -> None:
    import openai
    from tqdm import tqdm

    live = decoding()["live"]
    async with contextlib.AsyncExitStack() as stack:
        # On a terminal a bar; elsewhere a line now and then for a log, but none for one bar of many.
        seconds = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
        bar = stack.enter_context(tqdm(total=len(requests), unit="answer", desc=title, leave=title is None,
                                       mininterval=seconds, maxinterval=seconds, disable=None if title else False))
        endpoints = [Endpoint(url, await stack.enter_async_context(openai.AsyncOpenAI(
            base_url=url, api_key=key, max_retries=live["max_retries"], timeout=timeout or live["timeout"])))
            for url in urls]
        left, failed_rounds = requests, 0
        while left and failed_rounds < live["rounds"]:
            await asyncio.sleep(failed_rounds * live["pause"])
            before, left = len(left), await _round(left, endpoints, journal, budget, bar, concurrency)
            failed_rounds = failed_rounds + 1 if len(left) == before else 0
            if left and budget and budget.refused:
                raise budget.stop(len(left))
            if left and all(endpoint.given_up for endpoint in endpoints):
                raise UserError("; ".join(endpoint.given_up for endpoint in endpoints)
                                + f"; {len(left)} requests have no answer, the others are kept: run again")


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
            response: Record = {}
            try:
                response, reason = await _ask_one(endpoint, request)
            finally:
                if budget:
                    await budget.settle(request["body"], response)
            if response:
                journal.add((request, response), address=endpoint.url, sync=False)
                unsynced.set()
            if final(response):
                bar.update()
            else:
                again.append(request)
            reason = reason or _too_many_failures(endpoint, response)
            if reason and not endpoint.given_up:
                endpoint.given_up = reason
                if not all(other.given_up for other in endpoints):
                    bar.write(f"{reason}; it is asked no more, the others go on", file=sys.stderr)

    at_once = min(concurrency or decoding()["live"]["concurrency"], len(left))
    syncing = asyncio.create_task(sync())
    try:
        await asyncio.gather(*(worker(endpoint) for endpoint in endpoints for _ in range(at_once)))
    finally:
        syncing.cancel()
        journal.sync()
    return again + list(waiting)


def _too_many_failures(endpoint: Endpoint, response: Record) -> str:
    """Count consecutive failures; return why to give up the endpoint after this response, "" if it may be asked."""
    endpoint.consecutive_failures = 0 if final(response) else endpoint.consecutive_failures + 1
    if endpoint.consecutive_failures < decoding()["live"]["give_up"]:
        return ""
    return (f"{endpoint.url} gave no answer to {endpoint.consecutive_failures} requests in a row, "
            f"the last: {error_of(response)}")


async def _ask_one(endpoint: Endpoint, request: Record) -> tuple[Record, str]:
    """Return (the response, {} if none came; why to give up the endpoint, "" if it may be asked)."""
    import httpx
    import openai

    before, name = endpoint.replies, f"{REQUEST_NAME}-{next(NUMBERS)}"
    try:
        # The client's untyped call: it sends the body and returns the answer as they are. Measured, it takes a third
        # less processor time than the typed call, which does not know vLLM's extra fields either.
        answer = await endpoint.client.post("/chat/completions", cast_to=httpx.Response, body=request["body"],
                                            options={"headers": {"X-Request-Id": name}})
        endpoint.replies += 1
        received = _without_key(endpoint.client.api_key, answer.json())
        names = re.findall(rf"{REQUEST_NAME}-\d+", f"{received.get('id')} {answer.headers.get('x-request-id')}")
        if set(names) - {name}:
            raise ValueError("it belongs to another request")
    except openai.APIStatusError as error:
        endpoint.replies += 1
        message = _message(endpoint, error)
        return (_failed(error.status_code, message),
                _permanent(endpoint, error.response.headers, error.status_code, message))
    except openai.APIConnectionError as error:
        # If it replied to others meanwhile, only this connection failed.
        unreachable = f"{endpoint.url} cannot be reached ({_message(endpoint, error)})"
        return {}, "" if endpoint.replies > before else unreachable
    except (openai.APIError, ValueError, AttributeError, RecursionError) as error:  # a truncated or malformed answer
        return _failed(502, f"not an answer: {_message(endpoint, error)}"), ""
    return {"id": received.get("id"), "response": {"status_code": 200, "body": received}, "error": None}, ""


def _failed(status: int, message: str) -> Record:
    return {"response": {"status_code": status, "body": {"error": message}}, "error": None}


def _permanent(endpoint: Endpoint, headers: Any, status: int, message: str) -> str:
    """Return why an endpoint would not answer any other request now either, "" if it may."""
    if status in (401, 403, 404):  # the same for every request: the key or the model is wrong
        return f"{endpoint.url} refused: {message}"
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
    """Return an error's message on one line, without the key, which a server may repeat."""
    return hide_keys(" ".join(str(getattr(error, "message", error)).split())[:500], endpoint.client.api_key)


def _without_key(key: str, answer: Record) -> Record:
    """Return an answer without the key that was sent, since answers are stored."""
    text = dump(answer)
    if len(key) < SHORTEST or key not in text:
        return answer
    return dict(json.loads(text.replace(key, "[key]")))
