"""An instance: one labelled question about a log (design: "What an instance is")."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from logreasoner.cli import UserError
from logreasoner.files import read_jsonl

LEVEL_MASK = "[MASK]"
# Vendor logs read MODULE/LEVEL/MNEMONIC. The first number between slashes may have any prefix and blanks around it:
# the public failure labels come from that place, also where a log that begins with prose has an interface there. One
# log gives two levels (MODULE/4/2/MNEMONIC). A log that repeats its level does so with the module's name, also behind
# a header such as "%%01"; further interface names (GigabitEthernet1/0/2) stay as they are.
FIRST_LEVEL = re.compile(r"\A([^/]*/\s*)\d+(?:\s*/\s*\d+(?=\s*/\s*[A-Za-z]))?(?=\s*/)")
NAMES = ("id", "task", "source", "label", "vendor", "device", "split")  # printed, and shown on pages
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OTHER_LEVEL = re.compile(r"(?<![\w/])(\d*[A-Za-z]\w*+\s*/\s*)\d+(?=\s*/\s*[A-Za-z])")


@dataclass(frozen=True)
class Instance:
    """One labelled log. `log` is a string, or a tuple of strings for a session."""

    id: str
    task: str
    source: str
    log: str | tuple[str, ...]
    label: str
    vendor: str = ""
    device: str = ""
    split: str = ""
    description: str = ""

    @property
    def text(self) -> str:
        """Return the log as one string, with a line for each line of a session."""
        return self.log if isinstance(self.log, str) else "\n".join(self.log)

    @property
    def masked(self) -> str:
        """Return the form in which equal logs are recognised: a vendor's with the level masked and no white space.

        Removed, not collapsed: where one public file breaks a line, another joins the two words (1,500 logs). In other
        logs slot/3/port and slot/5/port differ, and so do "1 23" and "12 3".
        """
        return "".join(mask_level(self.text).split()) if self.vendor else " ".join(self.text.split())

    def as_json(self) -> dict[str, Any]:
        """Return the JSONL form: every field, and a session under `lines`, so that each column has one type."""
        session = isinstance(self.log, tuple)
        return {**asdict(self), "log": "" if session else self.log, "lines": list(self.log) if session else []}


def mask_level(log: str) -> str:
    """Replace every risk level of a vendor log (MODULE/4/MNEMONIC) by [MASK], also where the log repeats it."""
    for level in (FIRST_LEVEL, OTHER_LEVEL):
        log = level.sub(rf"\g<1>{LEVEL_MASK}", log)
    return log


def instance(record: dict[str, Any], where: str) -> Instance:
    """Check one JSON object; a session is a list under `log` or `lines`. Raises UserError that begins with `where`.

    Accents of the label are composed (NFC), as in the task's declaration.
    """
    known = Instance.__dataclass_fields__
    record = dict(record)
    if lines := record.pop("lines", None):
        if record.get("log"):
            raise UserError(f"{where}: give a log or lines, not both")
        record["log"] = lines
    missing = [key for key in ("id", "task", "source", "log", "label") if key not in record]
    if missing:
        raise UserError(f"{where}: an instance needs {', '.join(missing)}")
    if unknown := record.keys() - known.keys():
        raise UserError(f"{where}: unknown field {min(unknown)!r}; an instance has {', '.join(known)}")
    if isinstance(record["log"], list):
        record["log"] = tuple(record["log"])
    log = record["log"]
    for key, value in record.items():
        if not isinstance(value, str) and value is not log:
            raise UserError(f"{where}: {key} must be a string, found {type(value).__name__}")
    if not isinstance(log, str) and not (isinstance(log, tuple) and log and all(isinstance(line, str) for line in log)):
        raise UserError(f"{where}: log must be a string or a list of strings that is not empty")
    if not record["id"] or "#" in record["id"]:
        raise UserError(f"{where}: id {record['id']!r} is empty or contains '#' (reserved for the numbers of votes)")
    if CONTROL.search(" ".join(record[key] for key in NAMES if key in record)):
        raise UserError(f"{where}: id {record['id'][:80]!r}: a control character in {', '.join(NAMES)}; remove it")
    record["label"] = unicodedata.normalize("NFC", record["label"])
    return Instance(**record)


def read_instances(path: Path | str) -> Iterator[Instance]:
    """Yield the instances of a JSONL file. Raises UserError on a malformed row or an id that comes twice."""
    seen: set[str] = set()
    for number, record in read_jsonl(path):
        item = instance(record, f"{path}:{number}")
        if item.id in seen:
            raise UserError(f"{path}:{number}: id {item.id!r} comes twice; ids must be unique")
        seen.add(item.id)
        yield item


def by_id(instances: Iterable[Instance]) -> dict[str, Instance]:
    """Return instances keyed by their id."""
    return {item.id: item for item in instances}
