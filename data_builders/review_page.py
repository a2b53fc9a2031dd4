"""The web page of `make review`: a person accepts, edits or rejects thoughts and corrections (data_builders.review).

Served by the standard library. Gradio's page loads a script from a CDN, its server asks its makers for the newest
version, and neither sets a content policy; this one works offline, and log text on it stays text.
"""

import argparse
import contextlib
import hmac
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data_builders import review
from data_builders.review import Review, Row
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.files import ROOT, TEMPLATES

FILES = {"": "text/html", "review.js": "text/javascript", "review.css": "text/css"}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
           "Cache-Control": "no-store"}


class Page(ThreadingHTTPServer):
    """Reviews by name under a secret path, which keeps out other users of the machine and other sites' requests."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], reviews: dict[str, Review], who: str):
        super().__init__(address, Handler)
        self.reviews, self.who, self.secret = reviews, who, secrets.token_urlsafe(16)
        self.local = f"[{address[0]}]" in LOOPBACK or address[0] in LOOPBACK
        self.url = f"http://{address[0]}:{self.server_address[1]}/{self.secret}/{next(iter(reviews))}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error; anything else is shown as usual."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Under /<secret>/<review>/: the page, `state` (all decisions), `item/<n>` (one row); `decide` takes a decision."""

    server: Page
    timeout = 60  # seconds that one request may keep its thread

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing about each request: the terminal is the reviewer's."""

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, make: Callable[..., Row], *given: Any) -> None:
        """Send what `make` returns as JSON; what a person has to mend comes as {"error": ...}."""
        try:
            status, value = 200, make(*given)
        except (UserError, OSError, ValueError, RecursionError) as error:
            status, value = 422, {"error": str(error)}
        self._send(status, "application/json", json.dumps(value).encode())

    def _asked(self) -> tuple[Review | None, str]:
        """The review that a path names, None without the secret, and the rest of the path.

        None also for a page that reached loopback by a name of its own (DNS rebinding).
        """
        called = re.sub(r":[0-9]*\Z", "", self.headers.get("Host", ""))
        if self.server.local and called not in LOOPBACK:
            return None, ""
        _, secret, name, *rest = [*self.path.partition("?")[0].split("/"), "", ""]
        known = hmac.compare_digest(secret.encode(), self.server.secret.encode())
        return self.server.reviews.get(name) if known else None, "/".join(rest).rstrip("/")

    def do_GET(self) -> None:
        """The page, its parts, the state or one row."""
        found, part = self._asked()
        number = part.removeprefix("item/")
        if found and part in FILES:
            self._send(200, FILES[part], (TEMPLATES / (part or "review.html")).read_bytes())
        elif found and part == "state":
            self._answer(self._state, found)
        elif found and re.fullmatch("[0-9]{1,9}", number) and int(number) < len(found.rows):
            self._answer(item, found, int(number))
        else:
            self._send(404, "text/plain", b"not found; the page is at the address that make review printed\n")

    def do_POST(self) -> None:
        """One decision, from the page itself."""
        found, part = self._asked()
        origin, size = self.headers.get("Origin", "").partition("//")[2], self.headers.get("Content-Length", "")
        if not found or part != "decide" or origin != self.headers.get("Host"):
            self._send(403, "text/plain", b"decisions are taken from the page alone\n")
        elif not re.fullmatch("[0-9]{1,7}", size) or int(size) > 2**20:
            self._send(413, "text/plain", b"too large\n")
        else:
            self._answer(self._state, found, self.rfile.read(int(size)))

    def _state(self, found: Review, decision: bytes = b"") -> Row:
        if decision:
            found.decide(json.loads(decision), self.server.who)
        decisions = found.decisions()
        return {"names": list(self.server.reviews), "kind": found.kind, "file": str(found.path), "who": self.server.who,
                "decided": [decisions[key]["decision"] if key in decisions else "" for key in found.rows]}


def item(found: Review, number: int) -> Row:
    """One row as the page shows it: with the decision on it, what an edit begins with, and why it is not valid."""
    row = list(found.rows.values())[number]
    line, draft = found.decisions().get(row["id"], {"decision": ""}), review.draft(row)
    why = "" if row["outcome"] in review.VALID else found.check(row, draft)[1] or row["outcome"]
    return {**row, "why": why, "draft": line[found.kind] if line["decision"] == "edited" else draft,
            "decision": {key: line.get(key, "") for key in ("decision", "who", "when")}}


def reviews(run: Run, model: str, stage: str) -> dict[str, Review]:
    """What there is to review: thoughts, and the corrections of a model. Raises UserError if there is neither."""
    found = {}
    if (run.dataset("shared", "thought-sft") / "thoughts.jsonl").exists():
        found["thoughts"] = review.thoughts(run)
    if (run.dataset(model, stage) / "corrections.jsonl").exists():
        found["corrections"] = review.corrections(run, model, stage)
    if not any(each.rows for each in found.values()):
        raise UserError(f"{run.dir}: nothing to review yet; do: make thoughts, or make corrections")
    return {name: each for name, each in found.items() if each.rows}


def serve(given: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then say how far the review is.

    Raises UserError for a line that is no decision.
    """
    cli.stop_on_sigterm()
    found = reviews(load_run(given.run), given.model, given.stage)
    for each in found.values():
        each.decisions()
    git = subprocess.run(["git", "config", "user.name"], cwd=ROOT, capture_output=True, text=True, check=False)
    who = given.who or git.stdout.strip() or os.environ.get("USER", "unknown")
    with Page((given.host, given.port), found, who) as page:
        print(f"review as {who} (Ctrl-C ends): {page.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            page.serve_forever()
    for each in found.values():
        print(f"\n{each.path}: {len(each.decisions()):,} of {len(each.rows):,} {each.kind}s decided")


def main() -> None:
    """Serve the review page."""
    arguments = cli.parser("data_builders.review_page", "Review thoughts and corrections on a web page.", """
python -m data_builders.review_page --run paper
python -m data_builders.review_page --run paper --model qwen2.5-7b --port 8600 --who 'Ada Lovelace'""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--model", default="", help="also review this model's corrections")
    arguments.add_argument("--stage", default="dpo", help="the stage that holds the corrections (default: dpo)")
    arguments.add_argument("--who", default="", help="the reviewer's name (default: git's user.name, else $USER)")
    arguments.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    arguments.add_argument("--port", type=int, default=0, help="default: any free port")
    cli.run(arguments, serve)


if __name__ == "__main__":
    main()
