"""An OpenAI-compatible server on loopback, live and by batches, that fails in the ways endpoints fail.

What goes wrong depends on the seed, what is asked and how often it was asked before, never on the moment or the order.
Every good answer is derived from its prompt, so that a mix-up shows. As a program it prints its address and serves
until it is ended: python -m tests.faulty_server --rate 0.3
"""

import argparse
import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from demo.batches import Batches

PASSING = ("429", "500", "503", "timeout", "dropped", "cut")  # of the connection: any path
NO_ANSWER = ("half", "error", "wrong id")  # arrives whole, is no answer
LINES = ("500", "error", "stranger", "doubled", "missing")  # of one line of a batch's output
HANGS = 30.0  # seconds without a word, unless the client leaves before
DRIP = 0.05  # seconds between two bytes
ERROR = {"error": {"message": "the provider has no capacity", "code": 502}}  # some gateways send it with status 200
REFUSED = {"error": {"message": "the prompt was stopped by the content filter", "code": "content_filter"}}
FORMS = ("plain", "no content", "parts", "refusal", "no choices", "thoughts apart", "latin-1", "no usage")


def answer_to(prompt):
    return f"<answer> {sha256(prompt.encode()).hexdigest()[:16]} </answer> {prompt[:40]}"


def completion(prompt, name="", **choice):
    message = {"role": "assistant", "content": answer_to(prompt)}
    return {"id": f"chatcmpl-{name}", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message, **choice}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}


def written(value, form):
    """A completion in another legal form: its text is the same, or there is none (no content, refusal, no choices)."""
    message = value["choices"][0]["message"]
    if form == "no content":
        del message["content"]
    elif form == "parts":
        text = message["content"]
        message["content"] = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                              {"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]
    elif form == "refusal":
        message |= {"content": None, "refusal": "I cannot help with that."}
    elif form == "no choices":
        value["choices"] = []
    elif form == "thoughts apart":
        message["reasoning_content"] = "hm"
    elif form == "no usage":
        del value["usage"]
    return value


class FaultyBatches(Batches):
    """Batches whose output has lines that are wrong."""

    def __init__(self, server):
        super().__init__(lambda body: server.respond(body["messages"][0]["content"]))
        self.server = server

    def _finish(self, batch):
        super()._finish(batch)
        name = batch["output_file_id"]
        lines = [json.loads(line) for line in self.files[name].splitlines()] if name else []
        spoilt = []
        for line, other in zip(lines, lines[1:] + lines[:1], strict=True):
            fault = self.server.fate(f"{batch['id']} {line['custom_id']}", LINES)
            if fault == "500":
                line["response"] = {"status_code": 500, "body": {"error": {"message": "overloaded"}}}
            elif fault == "error":
                line["response"]["body"] = ERROR
            elif fault == "stranger":
                line["custom_id"] += "-nobody-asked"
            elif fault == "doubled":  # the same id twice, once with what belongs to another
                spoilt.append({**line, "response": other["response"]})
            if fault != "missing":
                spoilt.append(line)
        if name:
            self.files[name] = "".join(json.dumps(line) + "\n" for line in spoilt).encode()


class FaultyServer(ThreadingHTTPServer):
    """`rate` of what is asked goes wrong, `filtered` of the prompts are never answered, `delay` seconds go by.

    `refusal(prompt)` is the (status, value) of a refusal, None where there is none; `form` how answers are written;
    `drips` whether replies come byte by byte; `moved` the address to which every request is redirected.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, rate=0.0, seed=0, filtered=0.0, delay=0.0, faults=(*PASSING, *NO_ANSWER), wait="1",
                 refusal=lambda prompt: None, form="plain", drips=False, moved=""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rate, self.seed, self.filtered, self.delay, self.faults = rate, seed, filtered, delay, faults
        self.wait = wait  # Retry-After of a 429
        self.refusal, self.form, self.drips, self.moved = refusal, form, drips, moved
        self.lock = threading.Lock()
        self.turns = Counter()  # how often something was asked
        self.suffered = Counter()  # how often each fault happened
        self.asked, self.answered = defaultdict(list), Counter()  # prompt -> moments; how often a good answer was sent
        self.before = ("", "")  # name and prompt of a request that was answered
        self.batches = FaultyBatches(self)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fate(self, what, faults):
        """What goes wrong this time, "" for nothing."""
        with self.lock:
            draw = random.Random(f"{self.seed} {what} {self.turns[what]}")
            self.turns[what] += 1
            fault = draw.choice(faults) if draw.random() < self.rate else ""
            self.suffered[fault] += 1
        return fault

    def refuses(self, prompt):
        return random.Random(f"{self.seed} {prompt} filter").random() < self.filtered

    def respond(self, prompt, name=""):
        """The status and value for a prompt: an answer, or one of the two forms of a content filter."""
        if refused := self.refusal(prompt):
            return refused
        if not self.refuses(prompt):
            self.answered[prompt] += 1
            return 200, written(completion(prompt, name), self.form)
        if random.Random(f"{self.seed} {prompt} form").random() < 0.5:
            return 400, REFUSED
        return 200, completion(prompt, name, finish_reason="content_filter",
                               message={"role": "assistant", "content": None})

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.moved:
            return self._send(307, {}, location=self.server.moved + self.path)
        if self.path == "/v1/chat/completions":
            return self._chat(json.loads(data)["messages"][0]["content"], self.headers.get("X-Request-Id", ""))
        fault = self.server.fate(self.path, PASSING)
        # A batch that is made although its answer is lost must not be made again; an upload may.
        made = self.server.batches.post(self.path, self.headers.get("Content-Type", ""), data) if (
            fault in ("", "timeout", "dropped", "cut")) else None
        return self._spoil(fault, *(made or (404, {})))

    def do_GET(self):
        if self.path == "/v1/models":
            return self._send(200, {"object": "list", "data": [{"id": "m", "owned_by": "vllm"}]})
        fault = self.server.fate(self.path, (*PASSING, "half"))
        return self._spoil(fault, *(self.server.batches.get(self.path) or (404, {})))

    def _chat(self, prompt, name):
        server = self.server
        server.asked[prompt].append(time.monotonic())
        fault = server.fate(prompt, server.faults)
        time.sleep(server.delay)
        if fault == "wrong id":
            return self._send(200, completion(server.before[1], server.before[0] or f"{name}0"))
        if fault == "error":
            return self._send(200, ERROR)
        if fault:
            return self._spoil(fault, 200, completion(prompt, name))
        self._send(*server.respond(prompt, name))
        server.before = (name, prompt)
        return None

    def _spoil(self, fault, status, value):
        """Send a reply as the fault has it."""
        if fault == "429":
            self._send(429, {"error": {"message": "slow down"}}, retry_after=self.server.wait)
        elif fault in ("401", "500", "503"):
            self._send(int(fault), {"error": {"message": "overloaded"}})
        elif fault == "timeout":
            self.connection.settimeout(HANGS)
            with contextlib.suppress(OSError):
                self.connection.recv(1)
            self.close_connection = True
        elif fault == "dropped":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        else:
            self._send(status, value, fault)

    def _send(self, status, value, fault="", retry_after=None, location=None):
        latin = self.server.form == "latin-1"
        data = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=not latin).encode("latin-1")
        if fault == "half":
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        if self.server.drips:
            with contextlib.suppress(OSError):
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    time.sleep(DRIP)
            return
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        self.close_connection = self.close_connection or fault == "cut"

    def log_message(self, *arguments):
        pass


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rate", type=float, default=0.0)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--delay", type=float, default=0.0)
    given = arguments.parse_args()
    serving = FaultyServer(given.rate, given.seed, delay=given.delay)
    print(serving.url, flush=True)
    threading.Event().wait()
