"""Hold the files and batches of an OpenAI-compatible API in memory, for the scripted teacher's Batch API.

A batch is completed when it is retrieved for the second time.
"""

import json
import threading
import time
from collections.abc import Callable
from email.parser import BytesParser
from typing import Any

Record = dict[str, Any]
Reply = tuple[int, Record]


class Batches:
    """Uploaded files and submitted batches; `respond` answers the body of one request with a status and a value."""

    def __init__(self, respond: Callable[[Record], Reply]):
        self.respond = respond
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Record] = {}
        self.lock = threading.Lock()

    def post(self, path: str, kind: str, data: bytes) -> Reply | None:
        """Upload a file (multipart) or submit a batch (JSON); None for any other path."""
        with self.lock:
            if path == "/v1/files":
                form = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + data)
                part = next(part for part in form.walk() if part.get_filename())
                name = self._store(bytes(part.get_payload(decode=True)))
                return 200, {"id": name, "object": "file", "bytes": len(self.files[name]), "created_at": 0,
                             "filename": part.get_filename(), "purpose": "batch", "status": "processed"}
            return self._submit(json.loads(data)) if path == "/v1/batches" else None

    def get(self, path: str) -> tuple[int, Record | bytes] | None:
        """List batches (newest first), retrieve one or download a file; None for any other path."""
        path = path.partition("?")[0]
        with self.lock:
            if path == "/v1/batches":
                return 200, {"object": "list", "data": list(self.batches.values())[::-1], "has_more": False}
            _, _, kind, name = path.removesuffix("/content").split("/", 3)
            if kind == "batches" and name in self.batches:
                return 200, self._retrieve(self.batches[name])
            return (200, self.files[name]) if kind == "files" and name in self.files else None

    def _store(self, data: bytes) -> str:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = data
        return name

    def _submit(self, body: Record) -> Reply:
        if body["input_file_id"] not in self.files:
            return 400, {"error": {"message": f"no file {body['input_file_id']}"}}
        name = f"batch_{len(self.batches) + 1}"
        total = len(self.files[body["input_file_id"]].splitlines())
        self.batches[name] = {**body, "id": name, "object": "batch", "status": "validating", "errors": None,
                              "created_at": int(time.time()), "output_file_id": None, "error_file_id": None,
                              "request_counts": {"total": total, "completed": 0, "failed": 0}}
        return 200, self.batches[name]

    def _retrieve(self, batch: Record) -> Record:
        if batch["status"] == "in_progress":
            self._finish(batch)
        elif batch["status"] == "validating":
            batch["status"] = "in_progress"
        return batch

    def _finish(self, batch: Record) -> None:
        lines: dict[bool, list[Record]] = {True: [], False: []}
        for line in self.files[batch["input_file_id"]].splitlines():
            request = json.loads(line)
            status, value = self.respond(request["body"])
            lines[status == 200].append({"id": f"{batch['id']}-{request['custom_id']}",
                                         "custom_id": request["custom_id"],
                                         "response": {"status_code": status, "body": value}, "error": None})
        for good, field in ((True, "output_file_id"), (False, "error_file_id")):
            if lines[good]:
                batch[field] = self._store("".join(json.dumps(line) + "\n" for line in lines[good]).encode())
        batch["request_counts"] |= {"completed": len(lines[True]), "failed": len(lines[False])}
        batch["status"] = "completed"
