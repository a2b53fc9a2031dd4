"""What a mirror or an origin sends, of any form: the file that was asked for, or an error, and nothing beside it."""

import contextlib
import hashlib
import re
import socketserver
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_builders import fetch
from logreasoner.cli import UserError
from tests.hostile.conftest import some

CONTENT = bytes(range(256)) * 20
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()
ENDLESS = 1 << 24  # more than any socket buffers hold


class Handler(socketserver.BaseRequestHandler):
    """Reads a request's head and sends the next reply as it is; when there is no more, behaves."""

    def handle(self):
        head = b""
        while b"\r\n\r\n" not in head and (part := self.request.recv(1 << 16)):
            head += part
        start = int((re.search(rb"Range: bytes=(\d+)-", head) or [0, 0])[1])
        status = b"416 No" if start >= len(CONTENT) else b"206 Partial Content" if start else b"200 OK"
        honest = b"HTTP/1.1 %s\r\nContent-Range: bytes */%d\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
            status, len(CONTENT), len(CONTENT[start:]), CONTENT[start:])
        with contextlib.suppress(OSError):  # the client has left
            self.request.sendall(self.server.replies.pop(0) if self.server.replies else honest)


@pytest.fixture(scope="module")
def server():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.replies = True, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def catalogue(server, monkeypatch):
    """One file, whose size and checksum are known, at the server."""
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    described = {"title": "t", "licence": "l", "citation": "c", "feeds": "f", "group": "default"}
    file = fetch.File(path="a.json", url=f"http://127.0.0.1:{server.server_address[1]}/a.json", bytes=len(CONTENT),
                      sha256=CHECKSUM)
    monkeypatch.setattr(fetch, "catalogue", lambda: {"one": fetch.Source(**described, files=[file])})


STATUS = st.sampled_from([b"200 OK", b"206 Partial Content", b"301 Moved", b"404 No", b"416 No", b"500 No", b"99 x",
                          b"x"])
HEADER = st.sampled_from([
    b"Content-Length: 5120", b"Content-Length: 1", b"Content-Length: -1", b"Content-Length: x",
    b"Content-Encoding: gzip", b"Content-Range: bytes 7-5119/5120", b"Content-Range: bytes */5120",
    b"Content-Range: bytes */7", b"Content-Range: \xff", b"Transfer-Encoding: chunked", b"Location: http://[",
    b"Location: /again", b"Location: file:///etc/passwd", b"Location: http://127.0.0.1:9/", b"Location: \xff\x00",
    b"no header", b""])
BODY = st.sampled_from([CONTENT, CONTENT[:7], CONTENT[7:], CONTENT + b"more", b"", b"5\r\nhello\r\n0\r\n\r\n",
                        b"ffffffffffffffff\r\n"]) | st.binary(max_size=60)
REPLY = st.binary(max_size=60) | st.builds(
    lambda status, headers, body: b"HTTP/1.1 " + status + b"\r\n" + b"".join(
        header + b"\r\n" for header in headers) + b"\r\n" + body, STATUS, st.lists(HEADER, max_size=3), BODY)


@given(replies=st.lists(REPLY, max_size=4), partial=st.none() | st.sampled_from([CONTENT[:7], CONTENT, CONTENT + b"x"]))
@example(replies=[b"HTTP/1.1 416 No\r\n\r\n"] * 3, partial=None)
@some(60)
def test_a_download_is_right_or_refused_and_the_next_one_is_right(tmp_path, server, catalogue, replies, partial):
    raw = Path(tempfile.mkdtemp(dir=tmp_path)) / "raw"
    target = raw / "ad" / "a.json"
    target.parent.mkdir(parents=True)
    if partial is not None:
        target.with_name("a.json.part").write_bytes(partial)
    server.replies = list(replies)
    try:
        fetch.fetch("default", [], raw)
    except UserError as error:
        assert "a.json" in str(error) and "\x00" not in str(error)
        assert not target.exists()
        server.replies = []
        try:
            fetch.fetch("default", [], raw)
        except UserError as again:  # the bytes that had arrived were wrong, and are removed now
            assert "it was removed" in str(again)
            fetch.fetch("default", [], raw)
    assert target.read_bytes() == CONTENT
    assert {path.name for path in raw.parent.rglob("*") if path.is_file()} == {"a.json", "fetch.lock"}


def test_an_endless_response_is_cut(tmp_path, server, catalogue):
    server.replies = [b"HTTP/1.1 200 OK\r\n\r\n" + bytes(ENDLESS)] * fetch.TRIES
    with pytest.raises(UserError, match=r"a\.json.*more than 5,120 bytes"):
        fetch.fetch("default", [], tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < ENDLESS / 4
    fetch.fetch("default", [], tmp_path)
    assert (tmp_path / "ad" / "a.json").read_bytes() == CONTENT
