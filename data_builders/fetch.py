"""Download the public data of experiments/sources.yaml, verified, into build/data/raw.

DATA_MIRROR (a folder or a base URL laid out <owner>/<repo>/<commit>/<path>, large logs under ad/) is tried first, then
the origin. A stopped download resumes; for a file that is complete only its checksum is computed.
"""

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
from tqdm import tqdm

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import load_yaml
from logreasoner.files import BUILD, EXPERIMENTS, locked, writing
from logreasoner.schemas import Declared, checked

RAW = BUILD / "data" / "raw"
ORIGIN = "https://raw.githubusercontent.com"
TRIES = 3
FINAL = (401, 403, 404, 410)  # HTTP statuses that no further try changes

EXAMPLES = """
python -m data_builders.fetch
DATA_MIRROR=/srv/mirror python -m data_builders.fetch
python -m data_builders.fetch --group ad
python -m data_builders.fetch --group ad --file BGL.zip=/data/BGL.zip"""


class File(Declared):
    """One file of a source; `task`, `source` and `split` say what its rows become (none: downloaded, not read)."""

    path: str
    url: str = ""
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    layout: str = ""
    task: str = ""
    source: str = ""
    split: Literal["", "train", "test", "ood"] = ""
    stands_in_for: str = ""
    header: bool | None = None  # of a raw log: show time, host and component; by default as its layout has it


class Source(Declared):
    """A row of sources.yaml."""

    title: str
    group: Literal["default", "ad"]
    repo: str = ""
    commit: str = ""
    layout: str = ""
    licence: str
    citation: str
    feeds: str
    files: list[File]

    def place(self, file: File) -> Path:
        """Return a file's path under build/data/raw and in a mirror."""
        return Path(self.repo, self.commit, file.path) if self.repo else Path("ad", file.path)

    def url(self, file: File) -> str:
        """Return the origin of a file."""
        return file.url or f"{ORIGIN}/{quote(self.place(file).as_posix())}"


@cache
def catalogue() -> dict[str, Source]:
    """Load experiments/sources.yaml."""
    path = EXPERIMENTS / "sources.yaml"
    return {name: checked(Source, row, f"{path}: {name}") for name, row in load_yaml(path).items()}


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _noted(target: Path) -> Path:
    """Return where the SHA-256 of a file without a published checksum is written by its first download."""
    return target.with_name(target.name + ".sha256")


def error_of(path: Path, file: File, noted: Path) -> str:
    """Return what is wrong with a downloaded file (its size or checksum), "" if nothing is."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"wrong size: {size:,} bytes instead of {file.bytes:,}"
    algorithm = "md5" if file.md5 and not file.sha256 else "sha256"
    expected = file.sha256 or file.md5 or (noted.read_text(encoding="utf-8").split()[0] if noted.exists() else "")
    if expected and (checksum := _digest(path, algorithm)) != expected:
        return f"wrong checksum: {algorithm} {checksum} instead of {expected}"
    return ""


def _copy(origin: Path, part: Path, bar: "tqdm[Any]") -> None:
    with open(origin, "rb") as source, writing(part, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    bar.update(part.stat().st_size)


def _request(client: httpx.Client, url: str, part: Path, largest: int | None, bar: "tqdm[Any]") -> None:
    """Download url to part, at most `largest` bytes, after the bytes that are there. Raises httpx.HTTPError."""
    size = part.stat().st_size if part.exists() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={size}-"} if size else {}) as response:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if response.status_code == 416:
            if size and total == str(size):
                return  # everything had arrived before the last run was stopped
            part.unlink(missing_ok=True)
        response.raise_for_status()
        resumed = response.status_code == 206
        bar.update(size if resumed else 0)
        with open(part, "ab" if resumed else "wb") as stream:
            for chunk in response.iter_raw():
                if largest is not None and stream.tell() + len(chunk) > largest:  # it may never end
                    part.unlink()
                    raise httpx.RemoteProtocolError(f"sends more than {largest:,} bytes")
                stream.write(chunk)
                bar.update(len(chunk))


def _download(client: httpx.Client, url: str, part: Path, largest: int | None, bar: "tqdm[Any]") -> str:
    """Download with retries; return "", or why it failed."""
    reason = ""
    for _ in range(TRIES):
        try:
            _request(client, url, part, largest, bar)
            return ""
        except httpx.HTTPStatusError as error:
            reason = f"{url} answered {error.response.status_code}"
            if error.response.status_code in FINAL:
                break
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"{url}: {error or type(error).__name__}"
    return reason


def _origins(source: Source, file: File) -> list[Path | str]:
    """List the places that a file may come from, in order: DATA_MIRROR where it has the file, then its origin."""
    mirror, place = os.environ.get("DATA_MIRROR", ""), source.place(file)
    if mirror.startswith(("http://", "https://")):
        return [f"{mirror.rstrip('/')}/{quote(place.as_posix())}", source.url(file)]
    if mirror and not Path(mirror).is_dir():
        raise UserError(f"DATA_MIRROR={mirror}: no such folder; correct or unset it")
    return [*([Path(mirror, place)] if mirror and Path(mirror, place).is_file() else []), source.url(file)]


def _obtain(client: httpx.Client, file: File, origins: list[Path | str], target: Path, bar: "tqdm[Any]") -> None:
    """Bring a file from the first of its origins that has it, and verify it.

    Raises UserError where none has it, and removes a file that is wrong.
    """
    part, noted, reasons = target.with_name(target.name + ".part"), _noted(target), []
    part.parent.mkdir(parents=True, exist_ok=True)
    for origin in origins:
        if isinstance(origin, Path):
            _copy(origin, part, bar)
            break
        if not (reason := _download(client, origin, part, file.bytes, bar)):
            break
        reasons.append(reason)
    else:
        raise UserError(f"{file.path}: cannot be downloaded ({'; '.join(reasons)}). Check the network and run this "
                        "again, or set DATA_MIRROR to a folder or address that has the file, or give a copy with "
                        "--file NAME=PATH")
    if error := error_of(part, file, noted):
        part.unlink()
        raise UserError(f"{file.path}: {error}, from {origin}; it was removed. Run this again; if it stays wrong that "
                        "copy is damaged or the source changed: use another DATA_MIRROR or --file NAME=PATH")
    if not (file.sha256 or file.md5 or noted.exists()):
        with writing(noted) as stream:
            stream.write(f"{_digest(part, 'sha256')}  {file.path}\n")
        print(f"{file.path}: no checksum is published for it; its SHA-256 is now noted in {noted}")
    part.replace(target)


def _missing(files: list[tuple[Source, File]], raw: Path) -> list[tuple[Source, File]]:
    """List the files that are not there. Raises UserError for one that is there and wrong."""
    missing = []
    for source, file in files:
        target = raw / source.place(file)
        if not target.exists():
            missing.append((source, file))
        elif error := error_of(target, file, _noted(target)):
            raise UserError(f"{target}: {error}; delete it and run this again")
    return missing


def _local_copies(options: list[str], files: list[tuple[Source, File]]) -> dict[str, Path]:
    """Parse --file NAME=PATH: which of the files are copied from this machine."""
    names = {Path(file.path).name for _, file in files}
    copies = {}
    for option in options:
        name, _, path = option.partition("=")
        if name not in names or not Path(path).is_file():
            raise UserError(f"--file {option}: write NAME=PATH with a file of this machine and one of the names "
                            f"{', '.join(sorted(names))}")
        copies[name] = Path(path)
    return copies


def fetch(group: str, local: list[str], raw: Path = RAW) -> None:
    """Bring every file of a group. Raises UserError naming the file that cannot be had or is wrong."""
    files = [(source, file) for source in catalogue().values() if source.group == group for file in source.files]
    copies = _local_copies(local, files)
    if missing := _missing(files, raw):
        # Two downloads would write to the same .part.
        with locked(raw / "fetch.lock", "another download; waiting for it", wait=True):
            missing = [(source, file) for source, file in missing if not (raw / source.place(file)).exists()]
            _fetch_missing(missing, raw, copies)
    print(f"{raw}: {len(files)} files of group {group}, {len(missing)} brought now, all verified")


def _fetch_missing(missing: list[tuple[Source, File]], raw: Path, copies: dict[str, Path]) -> None:
    size = sum(file.bytes or 0 for _, file in missing)
    headers = {"Accept-Encoding": "identity"}  # a compressed response could be neither resumed nor counted
    with (tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar,
          httpx.Client(headers=headers, follow_redirects=True, timeout=30) as client):
        for source, file in missing:
            name, target = Path(file.path).name, raw / source.place(file)
            bar.set_description(name)
            try:
                _obtain(client, file, [copies[name]] if name in copies else _origins(source, file), target, bar)
            except OSError as error:  # a full disk does not say which file it was about
                raise UserError(f"{target}: {error.strerror or error}; fix that and run this again, it resumes"
                                ) from None


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.fetch", "Download and verify the public data of experiments/sources.yaml.",
                        EXAMPLES)
    parser.add_argument("--group", choices=["default", "ad"], default="default",
                        help="ad: the large raw logs of anomaly detection")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH",
                        help="take a file from this machine instead of downloading it")
    cli.run(parser, lambda options: fetch(options.group, options.file))


if __name__ == "__main__":
    main()
