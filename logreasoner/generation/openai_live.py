"""The live engine: one or several OpenAI-compatible endpoints, many requests at once, in rounds until all are answered.

The client itself tries again what passes (408, 409, 429 with its Retry-After, 5xx, timeouts, lost connections), with
growing pauses. A request that is still without an answer then, or got something that is none, is asked again in the
next round, of whichever endpoint is free. An endpoint that cannot be reached any more, refuses the key or answers
nothing is left; its requests go to the others.
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
LONGEST_WAIT = 120  # seconds; a longer Retry-After the client does not wait for
# Each request has a name of its own, which servers like vLLM repeat in the answer: so a mix-up on the way shows.
OURS = f"logreasoner-{uuid.uuid4().hex[:12]}"
NUMBERS = count()


@dataclass
class Endpoint:
    """An address that is asked, and what is known of it by now."""

    url: str
    client: "openai.AsyncOpenAI"
    heard: int = 0  # replies of any kind
    in_vain: int = 0  # requests in a row that it did not answer
    gone: str = ""  # why it is asked no more


def addresses(text: str | None) -> list[str]:
    """The base URLs in a text that separates them by spaces or commas; None is OpenAI's own.

    Raises UserError for what is no address, and for None where the environment would send it elsewhere.
    """
    if text is None:
        elsewhere = os.environ.get("OPENAI_BASE_URL", "").rstrip("/")
        if elsewhere not in ("", OPENAI):
            raise UserError("OPENAI_BASE_URL is set, so that the questions would go to another address than OpenAI's; "
                            "unset it, or give the address as BASE_URL= (as TEACHER_BASE_URL= for the teacher): it "
                            "then stands in the run and beside every result")
        return [OPENAI]
    found = list(dict.fromkeys(part.rstrip("/") for part in re.split(r"[\s,]+", text) if part.strip("/")))
    wrong = [part for part in found if not re.match(r"https?://[^/]", part)]
    if wrong or not found:
        raise UserError(f"{(wrong or [text])[0]!r} is no address; a base URL is like http://127.0.0.1:8000/v1, "
                        "several are separated by spaces")
    return found


def ask_live(requests: list[Record], journal: Journal, base_url: str | None, key: str,
             budget: Budget | None = None, title: str | None = None, concurrency: int | None = None) -> None:
    """Ask the endpoints of base_url (see `addresses`), `concurrency` requests at once at each (live.concurrency).

    A progress bar with a title is one of many: it goes when it is done. What has no final answer after the last round
    is left so. Raises UserError where no endpoint is left or the budget does not cover the next request; requests
    under way are waited for first, so that everything paid is kept.
    """
    asyncio.run(_ask_live(requests, journal, addresses(base_url), key, budget, title, concurrency))


async def _ask_live(requests: list[Record], journal: Journal, urls: list[str], key: str,
                    budget: Budget | None, title: str | None, concurrency: int | None) -> None:
    import openai
    from tqdm import tqdm

    live = decoding()["live"]
    async with contextlib.AsyncExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(requests), unit="answer", desc=title, leave=title is None,
                                       disable=None))
        endpoints = [Endpoint(url, await stack.enter_async_context(openai.AsyncOpenAI(
            base_url=url, api_key=key, max_retries=live["max_retries"], timeout=live["timeout"]))) for url in urls]
        left, in_vain = requests, 0
        while left and in_vain < live["rounds"]:
            await asyncio.sleep(in_vain * live["pause"])
            before, left = len(left), await _round(left, endpoints, journal, budget, bar, concurrency)
            in_vain = in_vain + 1 if len(left) == before else 0
            if left and budget and budget.refused:
                raise budget.stop(len(left))
            if left and all(each.gone for each in endpoints):
                raise UserError("; ".join(each.gone for each in endpoints)
                                + f"; {len(left)} requests have no answer, the others are kept: run again")


async def _round(left: list[Record], endpoints: list[Endpoint], journal: Journal, budget: Budget | None,
                 bar: Any, concurrency: int | None) -> list[Record]:
    """Ask each request once more; returns those without a final answer."""
    waiting, again, unsure = deque(left), list[Record](), asyncio.Event()

    async def sync() -> None:
        # The disk takes some milliseconds to be sure of a line: that goes on beside the asking.
        while await unsure.wait():
            unsure.clear()
            await asyncio.to_thread(journal.sync)

    async def worker(endpoint: Endpoint) -> None:
        while waiting and not endpoint.gone:
            asked = waiting.popleft()
            if budget and not await budget.hold(asked["body"]):
                again.append(asked)
                return
            response: Record = {}
            try:
                response, gone = await _ask_one(endpoint, asked)
            finally:
                if budget:
                    await budget.settle(asked["body"], response)
            if response:
                journal.add((asked, response), address=endpoint.url, sync=False)
                unsure.set()
            if final(response):
                bar.update()
            else:
                again.append(asked)
            gone = gone or _in_vain(endpoint, response)
            if gone and not endpoint.gone:
                endpoint.gone = gone
                if not all(each.gone for each in endpoints):
                    bar.write(f"{gone}; it is asked no more, the others go on", file=sys.stderr)

    at_once = min(concurrency or decoding()["live"]["concurrency"], len(left))
    syncing = asyncio.create_task(sync())
    try:
        await asyncio.gather(*(worker(endpoint) for endpoint in endpoints for _ in range(at_once)))
    finally:
        syncing.cancel()
        journal.sync()
    return again + list(waiting)


def _in_vain(endpoint: Endpoint, response: Record) -> str:
    """Why an endpoint is to be asked no more after this response, "" if it may be."""
    endpoint.in_vain = 0 if final(response) else endpoint.in_vain + 1
    if endpoint.in_vain < decoding()["live"]["give_up"]:
        return ""
    return f"{endpoint.url} gave no answer to {endpoint.in_vain} requests in a row, the last: {error_of(response)}"


async def _ask_one(endpoint: Endpoint, asked: Record) -> tuple[Record, str]:
    """(the response, {} where nothing came; why this endpoint is to be asked no more, "" if it may be)."""
    import httpx
    import openai

    heard, name = endpoint.heard, f"{OURS}-{next(NUMBERS)}"
    try:
        # The client's way for what it has no types for: the body goes, and the answer comes, as it is. Measured, that
        # takes a third less of the processor than the typed way, which does not know vLLM's own fields either.
        answer = await endpoint.client.post("/chat/completions", cast_to=httpx.Response, body=asked["body"],
                                            options={"headers": {"X-Request-Id": name}})
        endpoint.heard += 1
        received = _without(endpoint.client.api_key, answer.json())
        named = re.findall(rf"{OURS}-\d+", f"{received.get('id')} {answer.headers.get('x-request-id')}")
        if set(named) - {name}:
            raise ValueError("it is another request's")
    except openai.APIStatusError as error:
        endpoint.heard += 1
        said = _said(endpoint, error)
        return _failed(error.status_code, said), _lasting(endpoint, error.response.headers, error.status_code, said)
    except openai.APIConnectionError as error:
        # With others answered meanwhile it was this request alone that had no luck.
        return {}, "" if endpoint.heard > heard else f"{endpoint.url} cannot be reached ({_said(endpoint, error)})"
    except (openai.APIError, ValueError, AttributeError, RecursionError) as error:  # half an answer, or not one at all
        return _failed(502, f"not an answer: {_said(endpoint, error)}"), ""
    return {"id": received.get("id"), "response": {"status_code": 200, "body": received}, "error": None}, ""


def _failed(status: int, said: str) -> Record:
    return {"response": {"status_code": status, "body": {"error": said}}, "error": None}


def _lasting(endpoint: Endpoint, headers: Any, status: int, said: str) -> str:
    """Why it is pointless to send an endpoint any other request now, "" if it is not."""
    if status in (401, 403, 404):  # the same for every request: the key or the model is wrong
        return f"{endpoint.url} refused: {said}"
    wait = _seconds(headers.get("retry-after", ""))
    return f"{endpoint.url} asks to wait {wait:,.0f} s ({said})" if wait > LONGEST_WAIT else ""


def _seconds(retry_after: str) -> float:
    """A Retry-After header in seconds: it is a number or a date; 0 for neither."""
    with contextlib.suppress(ValueError):
        return float(retry_after)
    with contextlib.suppress(ValueError):
        return parsedate_to_datetime(retry_after).timestamp() - time.time()
    return 0.0


def _said(endpoint: Endpoint, error: Exception) -> str:
    """What an error says, on one line, without the key, which a server may repeat."""
    return hide_keys(" ".join(str(getattr(error, "message", error)).split())[:500], endpoint.client.api_key)


def _without(key: str, answer: Record) -> Record:
    """An answer without the key that was sent: answers are kept in files."""
    text = dump(answer)
    if len(key) < SHORTEST or key not in text:
        return answer
    return dict(json.loads(text.replace(key, "[key]")))
