"""Download the public data of experiments/sources.yaml, verified, into build/data/raw.

DATA_MIRROR (a folder or a base URL laid out <owner>/<repo>/<commit>/<path>, large logs under ad/) is tried first, then
the origin. A stopped download goes on where it was; a file that is there and right costs one checksum.
"""

import argparse
import hashlib
import os
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from logreasoner import alone, cli
from logreasoner.cli import UserError
from logreasoner.config import Declared, checked, load_yaml
from logreasoner.files import BUILD, EXPERIMENTS, writing

if TYPE_CHECKING:
    import httpx
    from tqdm import tqdm

RAW = BUILD / "data" / "raw"
ORIGIN = "https://raw.githubusercontent.com"
TRIES = 3

EXAMPLES = """
python -m data_builders.fetch
DATA_MIRROR=/srv/mirror python -m data_builders.fetch
python -m data_builders.fetch --group ad
python -m data_builders.fetch --group ad --file BGL.zip=/data/BGL.zip"""


class File(Declared):
    """One file of a source; `task`, `source` and `split` say what its rows become (none: kept, not read)."""

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
        """Where a file lies under build/data/raw and in a mirror."""
        return Path(self.repo, self.commit, file.path) if self.repo else Path("ad", file.path)

    def url(self, file: File) -> str:
        """Where a file comes from."""
        return file.url or f"{ORIGIN}/{quote(self.place(file).as_posix())}"


@cache
def catalogue() -> dict[str, Source]:
    """experiments/sources.yaml."""
    path = EXPERIMENTS / "sources.yaml"
    return {name: checked(Source, row, f"{path}: {name}") for name, row in load_yaml(path).items()}


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def wrong(path: Path, file: File, noted: Path) -> str:
    """What is wrong with a downloaded file: its size, its checksum, or "" if nothing is.

    noted is where the SHA-256 of a file without a published one was put down by its first download.
    """
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"wrong size: {size:,} bytes instead of {file.bytes:,}"
    expected = file.sha256 or file.md5 or (noted.read_text(encoding="utf-8").split()[0] if noted.exists() else "")
    kind = "md5" if file.md5 and not file.sha256 else "sha256"
    if expected and (found := _digest(path, kind)) != expected:
        return f"wrong checksum: {kind} {found} instead of {expected}"
    return ""


def _copy(origin: Path, part: Path, bar: "tqdm[Any]") -> None:
    with open(origin, "rb") as source, writing(part, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    bar.update(part.stat().st_size)


def _download(client: "httpx.Client", url: str, part: Path, most: int | None, bar: "tqdm[Any]") -> None:
    """Bring url into part, at most so many bytes, going on behind what is there. Raises httpx.HTTPError."""
    import httpx

    there = part.stat().st_size if part.exists() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={there}-"} if there else {}) as answer:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status_code == 416 and there and total == str(there):
            return  # everything had arrived before the last run was stopped
        if answer.status_code == 416:
            part.unlink(missing_ok=True)
        answer.raise_for_status()
        going_on = answer.status_code == 206
        bar.update(there if going_on else 0)
        with open(part, "ab" if going_on else "wb") as stream:
            for chunk in answer.iter_raw():
                if most is not None and stream.tell() + len(chunk) > most:  # it may never end
                    part.unlink()
                    raise httpx.RemoteProtocolError(f"sends more than {most:,} bytes")
                stream.write(chunk)
                bar.update(len(chunk))


def _asked(client: "httpx.Client", url: str, part: Path, most: int | None, bar: "tqdm[Any]") -> str:
    """Download with retries; returns "" or why it failed."""
    import httpx

    reason = ""
    for _ in range(TRIES):
        try:
            _download(client, url, part, most, bar)
            return ""
        except httpx.HTTPStatusError as error:
            reason = f"{url} answered {error.response.status_code}"
            if error.response.status_code in (401, 403, 404, 410):
                break
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"{url}: {error or type(error).__name__}"
    return reason


def _brought(client: "httpx.Client", source: Source, file: File, part: Path, bar: "tqdm[Any]") -> str:
    """Bring one file into part from DATA_MIRROR or its origin; returns where from. Raises UserError if none has it."""
    mirror, reasons = os.environ.get("DATA_MIRROR", ""), []
    place, urls = source.place(file), [source.url(file)]
    if mirror.startswith(("http://", "https://")):
        urls.insert(0, f"{mirror.rstrip('/')}/{quote(place.as_posix())}")
    elif mirror:
        if not Path(mirror).is_dir():
            raise UserError(f"DATA_MIRROR={mirror}: no such folder; mend or unset it")
        if (Path(mirror) / place).is_file():
            _copy(Path(mirror) / place, part, bar)
            return str(Path(mirror) / place)
    for address in urls:
        reason = _asked(client, address, part, file.bytes, bar)
        if not reason:
            return address
        reasons.append(reason)
    raise UserError(f"{place}: cannot be downloaded ({'; '.join(reasons)}). Check the network and run this again, or "
                    "set DATA_MIRROR to a folder or address that has the file, or give a copy with --file NAME=PATH")


def _settle(part: Path, target: Path, file: File, origin: str) -> None:
    """Verify a complete download and put it in its place. Raises UserError and removes what is wrong."""
    noted = target.with_name(target.name + ".sha256")
    if problem := wrong(part, file, noted):
        part.unlink()
        raise UserError(f"{file.path}: {problem}, from {origin}; nothing of it was kept. Run this again; if it stays "
                        "wrong that copy is damaged or the source changed: use another DATA_MIRROR or --file NAME=PATH")
    if not (file.sha256 or file.md5 or noted.exists()):
        with writing(noted) as stream:
            stream.write(f"{_digest(part, 'sha256')}  {file.path}\n")
        print(f"{file.path}: no checksum is published for it; its SHA-256 is now noted in {noted}")
    part.replace(target)


def _bring(client: "httpx.Client", source: Source, file: File, target: Path, copy: Path | None,
           bar: "tqdm[Any]") -> None:
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        _copy(copy, part, bar)
        _settle(part, target, file, str(copy))
    else:
        _settle(part, target, file, _brought(client, source, file, part, bar))


def _missing(group: str, raw: Path) -> list[tuple[Source, File]]:
    """The files of a group that are not there. Raises UserError for one that is there and wrong."""
    found = []
    for source in catalogue().values():
        for file in source.files if source.group == group else []:
            target = raw / source.place(file)
            if not target.exists():
                found.append((source, file))
            elif problem := wrong(target, file, target.with_name(target.name + ".sha256")):
                raise UserError(f"{target}: {problem}; delete it and run this again")
    return found


def _given(pairs: list[str], group: str) -> dict[str, Path]:
    """--file NAME=PATH by the name of a file in the group."""
    known = {Path(file.path).name for source in catalogue().values() if source.group == group for file in source.files}
    found = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or name not in known:
            raise UserError(f"--file {pair}: write NAME=PATH with a file of group {group}: {', '.join(sorted(known))}")
        if not Path(path).is_file():
            raise UserError(f"--file {pair}: no such file {path}")
        found[name] = Path(path)
    return found


def fetch(group: str, files: list[str], raw: Path = RAW) -> None:
    """Bring every file of a group. Raises UserError naming the file that cannot be had or is wrong."""
    local = _given(files, group)
    if missing := _missing(group, raw):
        with alone.holding(raw / "fetch.lock"):  # two would write into the same .part
            missing = [(source, file) for source, file in missing if not (raw / source.place(file)).exists()]
            _bring_all(missing, raw, local)
    count = sum(len(source.files) for source in catalogue().values() if source.group == group)
    print(f"{raw}: {count} files of group {group}, {len(missing)} brought now, all verified")


def _bring_all(missing: list[tuple[Source, File]], raw: Path, local: dict[str, Path]) -> None:
    import httpx
    from tqdm import tqdm

    size = sum(file.bytes or 0 for _, file in missing)
    headers = {"Accept-Encoding": "identity"}  # a compressed answer could be neither resumed nor counted
    with (tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar,
          httpx.Client(headers=headers, follow_redirects=True, timeout=30) as client):
        for source, file in missing:
            target = raw / source.place(file)
            bar.set_description(Path(file.path).name)
            try:
                _bring(client, source, file, target, local.get(Path(file.path).name), bar)
            except OSError as error:  # a full disk does not say which file it was about
                raise UserError(f"{target}: {error.strerror or error}; mend that and run this again, it goes on "
                                "where it was") from None


def main() -> None:
    """The command line."""
    arguments = cli.parser("data_builders.fetch", "Download and verify the public data of experiments/sources.yaml.",
                           EXAMPLES)
    arguments.add_argument("--group", choices=["default", "ad"], default="default",
                           help="ad: the large raw logs of anomaly detection")
    arguments.add_argument("--file", action="append", default=[], metavar="NAME=PATH",
                           help="take a file from this machine instead of downloading it")

    def run(given: argparse.Namespace) -> None:
        fetch(given.group, given.file)

    cli.run(arguments, run)


if __name__ == "__main__":
    main()
