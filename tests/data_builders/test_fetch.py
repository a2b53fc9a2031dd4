import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from data_builders import fetch
from logreasoner.cli import UserError

CONTENT = bytes(range(256)) * 400
PLACE = "who/what/abc123/a folder/data.json"


class Server(BaseHTTPRequestHandler):
    ranges: list[str] = []
    files: dict[str, bytes] = {}

    def do_GET(self) -> None:  # noqa: N802
        content = self.files.get(unquote(self.path).lstrip("/"))
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.ranges.append(self.headers.get("Range", ""))
        if content is None:
            self.send_error(404)
            return
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    Server.ranges, Server.files = [], {PLACE: CONTENT, "ad/raw.gz": CONTENT}
    address = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setattr(fetch, "ORIGIN", address)
    yield address
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def small_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"title": "t", "licence": "l", "citation": "c", "feeds": "f"}
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    monkeypatch.setattr(fetch, "catalogue", lambda: {
        "small": fetch.Source(**described, group="default", repo="who/what", commit="abc123", files=[fetch.File(
            path="a folder/data.json", bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())]),
        "raw": fetch.Source(**described, group="ad", files=[fetch.File(path="raw.gz", url="http://127.0.0.1:9/raw.gz")]),
    })


def test_from_the_origin_and_twice(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch.fetch("default", [], tmp_path)
    assert (tmp_path / PLACE).read_bytes() == CONTENT
    fetch.fetch("default", [], tmp_path)
    assert Server.ranges == [""]
    assert "0 brought now" in capsys.readouterr().out


@pytest.mark.parametrize("size", [1000, len(CONTENT)])
def test_a_stopped_download_resumes(server: str, tmp_path: Path, size: int) -> None:
    part = tmp_path / (PLACE + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:size])
    fetch.fetch("default", [], tmp_path)
    assert Server.ranges == [f"bytes={size}-"]
    assert (tmp_path / PLACE).read_bytes() == CONTENT
    assert not part.exists()


def test_mirror_folder_and_address_come_first(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    (mirror / PLACE).parent.mkdir(parents=True)
    (mirror / PLACE).write_bytes(CONTENT)
    monkeypatch.setenv("DATA_MIRROR", str(mirror))
    fetch.fetch("default", [], tmp_path / "one")
    assert Server.ranges == []
    monkeypatch.setenv("DATA_MIRROR", server + "/")
    monkeypatch.setattr(fetch, "ORIGIN", "http://127.0.0.1:9")
    fetch.fetch("default", [], tmp_path / "two")
    assert (tmp_path / "two" / PLACE).read_bytes() == CONTENT
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no such folder"):
        fetch.fetch("default", [], tmp_path / "three")


@pytest.mark.parametrize("content", [b"short", CONTENT[:-1] + b"!"])
def test_a_wrong_file_is_refused_by_name(server: str, tmp_path: Path, content: bytes) -> None:
    Server.files[PLACE] = content
    with pytest.raises(UserError, match=r"data\.json: wrong (size|checksum)"):
        fetch.fetch("default", [], tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["fetch.lock"]
    Server.files[PLACE] = CONTENT
    fetch.fetch("default", [], tmp_path)
    (tmp_path / PLACE).write_bytes(content)
    with pytest.raises(UserError, match="delete it"):
        fetch.fetch("default", [], tmp_path)


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "ORIGIN", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"data\.json: cannot be downloaded .*DATA_MIRROR"):
        fetch.fetch("default", [], tmp_path)


def test_local_file_without_published_checksum(tmp_path: Path) -> None:
    copy = tmp_path / "mine.gz"
    copy.write_bytes(CONTENT)
    fetch.fetch("ad", [f"raw.gz={copy}"], tmp_path / "raw")
    target = tmp_path / "raw" / "ad" / "raw.gz"
    assert hashlib.sha256(CONTENT).hexdigest() in (tmp_path / "raw" / "ad" / "raw.gz.sha256").read_text()
    fetch.fetch("ad", [], tmp_path / "raw")
    target.write_bytes(b"other")
    with pytest.raises(UserError, match="wrong checksum"):
        fetch.fetch("ad", [], tmp_path / "raw")
    for wrong in ("raw.gz", "other.gz=x", f"raw.gz={tmp_path}/none"):
        with pytest.raises(UserError, match="--file"):
            fetch.fetch("ad", [wrong], tmp_path / "raw")


def test_the_real_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sources = fetch.catalogue()
    for source in sources.values():
        assert source.licence
        assert source.citation
        for file in source.files:
            assert source.url(file).startswith("http")
            assert file.sha256 or source.group == "ad"
            assert bool(file.task) == bool(file.split) == bool(file.source)
            assert not ("security" in file.source and file.split != "ood")
