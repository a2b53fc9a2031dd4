"""The HTTP client that talks to endpoints: what is sent stays at the declared address, and every request ends."""

import asyncio
import ipaddress
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from logreasoner.cli import UserError

CONNECT = 30.0  # seconds until a connection is there


class DeadlineError(openai.OpenAIError):
    """No whole reply came in time. The openai client does not repeat such a request, which may have been paid."""


class Client(openai.DefaultAsyncHttpxClient):
    """A client for one base URL, whose requests last at most `seconds`, body included.

    It follows no redirect, since prompts would leave the declared address, and asks loopback through no proxy.
    """

    def __init__(self, url: str, seconds: float):
        self.seconds = seconds
        super().__init__(follow_redirects=False, timeout=openai.Timeout(seconds, connect=min(CONNECT, seconds)),
                         mounts={f"all://{urlsplit(url).netloc.lower()}": None} if is_loopback(url) else None)

    async def send(self, *arguments: Any, **options: Any) -> Any:
        """Send a request. Raises DeadlineError; the client's own timeouts are for single reads and never end a drip."""
        try:
            async with asyncio.timeout(self.seconds):
                return await super().send(*arguments, **options)
        except TimeoutError:
            raise DeadlineError(f"no whole reply within {self.seconds:,g} s") from None


def open_client(url: str, key: str, seconds: float, max_retries: int) -> openai.AsyncOpenAI:
    """Build the openai client of an endpoint; `max_retries` are for failures that pass, and never for a late reply.

    Raises UserError for an invalid address.
    """
    try:
        return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=max_retries,
                                  timeout=openai.Timeout(seconds, connect=min(CONNECT, seconds)),
                                  http_client=Client(url, seconds))
    except httpx2.InvalidURL as error:
        raise UserError(f"{url!r} is no address ({error}); a base URL is like http://127.0.0.1:8000/v1") from None


def is_loopback(url: str) -> bool:
    """Tell whether an address is of this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def base_url_hint(url: str) -> str:
    """Return what to try where an address has no such path: "" unless it looks like one without its /v1."""
    return "" if urlsplit(url).path.strip("/") else f"; a base URL usually ends in /v1: {url.rstrip('/')}/v1"
