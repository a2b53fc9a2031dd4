"""Serve the web page of `make review`, on which a person accepts, edits or rejects thoughts and corrections.

It is served by the standard library: Gradio's page loads a script from a CDN, its server asks its makers for the newest
version, and neither sets a content policy. This one works offline, and log text on it stays text.
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
    """Serves reviews under a secret path, which keeps out other users of the machine and other sites' requests."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], reviews: dict[str, Review], reviewer: str):
        super().__init__(address, Handler)
        self.reviews, self.reviewer, self.secret = reviews, reviewer, secrets.token_urlsafe(16)
        self.local = address[0] in LOOPBACK or f"[{address[0]}]" in LOOPBACK
        self.url = f"http://{address[0]}:{self.server_address[1]}/{self.secret}/{next(iter(reviews))}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show an error, unless a browser has closed its connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Under /<secret>/<review>/: the page, `state` (all decisions), `item/<n>` (one row); `decide` takes a decision."""

    server: Page
    timeout = 60  # seconds that one request may keep its thread

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing about requests: the terminal is the reviewer's."""

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (HEADERS | {"Content-Type": f"{kind}; charset=utf-8"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_json(self, make: Callable[..., Row], *arguments: Any) -> None:
        """Send what `make` returns; an error that a person can correct is sent as {"error": message}."""
        try:
            status, value = 200, make(*arguments)
        except (UserError, OSError, ValueError, RecursionError) as error:
            status, value = 422, {"error": str(error)}
        self._send(status, "application/json", json.dumps(value).encode())

    def _route(self) -> tuple[Review | None, str]:
        """Return the review that the path names, None without the secret, and the rest of the path.

        None also for a request to loopback under another host's name (DNS rebinding).
        """
        host = re.sub(r":[0-9]*\Z", "", self.headers.get("Host", ""))
        _, secret, name, *rest = [*self.path.partition("?")[0].split("/"), "", ""]
        allowed = hmac.compare_digest(secret.encode(), self.server.secret.encode())
        if not allowed or (self.server.local and host not in LOOPBACK):
            return None, ""
        return self.server.reviews.get(name), "/".join(rest).rstrip("/")

    def do_GET(self) -> None:
        """Send the page, its parts, the state or one row."""
        shown, part = self._route()
        number = part.removeprefix("item/")
        if shown and part in FILES:
            self._send(200, FILES[part], (TEMPLATES / (part or "review.html")).read_bytes())
        elif shown and part == "state":
            self._send_json(self._state, shown)
        elif shown and re.fullmatch("[0-9]{1,9}", number) and int(number) < len(shown.rows):
            self._send_json(item, shown, int(number))
        else:
            self._send(404, "text/plain", b"not found; the page is at the address that make review printed\n")

    def do_POST(self) -> None:
        """Take one decision, from the page itself."""
        shown, part = self._route()
        origin, size = self.headers.get("Origin", "").partition("//")[2], self.headers.get("Content-Length", "")
        if not shown or part != "decide" or origin != self.headers.get("Host"):
            self._send(403, "text/plain", b"decisions are taken from the page alone\n")
        elif not re.fullmatch("[0-9]{1,7}", size) or int(size) > 2**20:
            self._send(413, "text/plain", b"too large\n")
        else:
            self._send_json(self._state, shown, self.rfile.read(int(size)))

    def _state(self, shown: Review, decision: bytes = b"") -> Row:
        if decision:
            shown.decide(json.loads(decision), self.server.reviewer)
        decisions = shown.decisions()
        return {"names": list(self.server.reviews), "kind": shown.kind, "file": str(shown.path),
                "who": self.server.reviewer,
                "decided": [decisions[key]["decision"] if key in decisions else "" for key in shown.rows]}


def item(shown: Review, number: int) -> Row:
    """Return one row as the page shows it: its decision, what an edit begins with, and why it is not valid."""
    row = list(shown.rows.values())[number]
    decision, draft = shown.decisions().get(row["id"], {"decision": ""}), review.draft(row)
    why = "" if row["outcome"] in review.VALID else shown.check(row, draft)[1] or row["outcome"]
    return {**row, "why": why, "draft": decision[shown.kind] if decision["decision"] == "edited" else draft,
            "decision": {key: decision.get(key, "") for key in ("decision", "who", "when")}}


def reviews(run: Run, model: str, stage: str) -> dict[str, Review]:
    """Return the reviews that have rows: thoughts, and a model's corrections. Raises UserError if there is none."""
    result = {}
    if (run.dataset("shared", "thought-sft") / "thoughts.jsonl").exists():
        result["thoughts"] = review.thoughts(run)
    if (run.dataset(model, stage) / "corrections.jsonl").exists():
        result["corrections"] = review.corrections(run, model, stage)
    result = {name: shown for name, shown in result.items() if shown.rows}
    if not result:
        raise UserError(f"{run.dir}: nothing to review yet; do: make thoughts, or make corrections")
    return result


def serve(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then print how many rows are decided.

    Raises UserError for a line of a review file that is not a decision.
    """
    cli.stop_on_sigterm()
    shown = reviews(load_run(options.run), options.model, options.stage)
    for one in shown.values():
        one.decisions()
    git = subprocess.run(["git", "config", "user.name"], cwd=ROOT, capture_output=True, text=True, check=False)
    reviewer = options.who or git.stdout.strip() or os.environ.get("USER", "unknown")
    with Page((options.host, options.port), shown, reviewer) as page:
        print(f"review as {reviewer} (Ctrl-C ends): {page.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            page.serve_forever()
    for one in shown.values():
        print(f"\n{one.path}: {len(one.decisions()):,} of {len(one.rows):,} {one.kind}s decided")


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.review_page", "Review thoughts and corrections on a web page.", """
python -m data_builders.review_page --run paper
python -m data_builders.review_page --run paper --model qwen2.5-7b --port 8600 --who 'Ada Lovelace'""",
                           required=["run"])
    parser.add_argument("--model", default="", help="also review this model's corrections")
    parser.add_argument("--stage", default="dpo", help="the stage that holds the corrections (default: dpo)")
    parser.add_argument("--who", default="", help="the reviewer's name (default: git's user.name, else $USER)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    cli.run(parser, serve)


if __name__ == "__main__":
    main()
