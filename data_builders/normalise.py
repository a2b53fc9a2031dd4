"""The public files, as downloaded -> instances: build/data/public/{train,test,handbook}.jsonl.

Which file becomes what stands in experiments/sources.yaml; each layout has one reader here. Training rows come from
LogPrompt's templates and KnowLog's train files. Potential failure prediction has test files only, but its labels are
exactly "risk level <= 4", so the logs of KnowLog's train files that no failure file has give labelled rows too.
"""

import argparse
import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_builders.fetch import RAW, File, Source, catalogue
from data_builders.sessions import report, sessions
from logreasoner import cli, config
from logreasoner.cli import UserError
from logreasoner.files import BUILD, manifest, read_json, sha256, write_jsonl
from logreasoner.instances import Instance, instance, mask_level

OUT = BUILD / "data" / "public"
WINDOW, LIMIT, SEED = 20, 1_000_000, 0  # section 4.3.1: windows of 20 lines, 1,000,000 lines of each complete log
LARGEST_SHEET = 1 << 26  # bytes, unpacked; the public sheets have some hundred kilobytes
LSM, PFP = "log_semantic_matching", "potential_failure_prediction"
LEVEL = re.compile(r"\A\s*+(?:[\w.-][\w .-]*+|(?<= ))/\s*(\d)\s*/\s*[A-Za-z]")
FAILURE = 4  # levels 0 (emergency) to 4 (warning) are failures in every row of the public files

# The paper's filters of handbook cases (section 3.2.1); it gives no number for "overly brief".
MIN_STEPS, MIN_WORDS = 3, 5
CUT = 499  # Huawei procedures stop at this length; an unfinished last step is dropped

EXAMPLES = """
python -m data_builders.normalise
python -m data_builders.normalise --raw ../mirror --out build/data/public"""

Row = dict[str, Any]
Reader = Callable[[Path, File], Iterator[Row]]


def _listed(path: Path) -> list[Any]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a JSON list, found {type(rows).__name__}; fetch the file again")
    return rows


def pairs(path: Path, file: File) -> Iterator[Row]:
    """KnowLog's rows [[log, description], 0 or 1]. Raises UserError naming the row (from 1)."""
    for number, row in enumerate(_listed(path), 1):
        match row:
            case [[str(log), str(description)], int(label)] if label in (0, 1):
                yield {"log": log, "description": description, "label": str(bool(label))}
            case _:
                raise UserError(f"{path}: row {number}: expected [[log, description], 0 or 1]; mend or remove the row")


def instructions(path: Path, file: File) -> Iterator[Row]:
    """LogInstruct's rows {"instruction", "input", "output"}. Raises UserError naming the row (from 1)."""
    for number, row in enumerate(_listed(path), 1):
        match row:
            case {"input": str(log), "output": str(label)}:
                yield {"log": mask_level(log) if file.task == PFP else log, "label": label, "raw": log}
            case _:
                raise UserError(f"{path}: row {number}: expected texts under input and output; mend or remove the row")


def templates(path: Path, file: File) -> Iterator[Row]:
    """LogPrompt's sheets with the columns log and label (1: abnormal). Raises UserError naming the row (from 1)."""
    import pandas

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST_SHEET:
                raise ValueError(f"more than {LARGEST_SHEET >> 20} MiB, unpacked")
        sheet = pandas.read_excel(path, dtype=str, keep_default_na=False, engine="openpyxl")
    except Exception as error:  # openpyxl raises what its zip and XML layers raise
        raise UserError(f"{path}: not a readable sheet ({error}); delete it and fetch it again") from None
    if not {"log", "label"} <= set(sheet.columns):
        raise UserError(f"{path}: the columns log and label are needed; found {', '.join(map(str, sheet.columns))}")
    for number, (log, label) in enumerate(zip(sheet["log"], sheet["label"], strict=True), 1):
        if not log.strip() or label not in ("0", "1"):
            raise UserError(f"{path}: row {number}: needs a log and a label 0 or 1, found {label!r}; mend the row")
        yield {"log": log, "label": "abnormal" if label == "1" else "normal"}


def system_log(path: Path, file: File, *, layout: str, said: Counter[str]) -> Iterator[Row]:
    """A raw log as sessions; `said` receives the line that reports what became of its lines."""
    counts: Counter[str] = Counter()
    yield from sessions(path, layout, WINDOW, file.source, counts, limit=LIMIT, seed=SEED)
    said[report(file.source, WINDOW, counts)] += 1


def reader(layout: str, said: Counter[str]) -> Reader:
    """The reader of a layout named in sources.yaml."""
    known: dict[str, Reader] = {"pairs": pairs, "instructions": instructions, "templates": templates}
    return known[layout] if layout in known else partial(system_log, layout=layout, said=said)


class Ids:
    """Stable ids: task, source and content; a row that a file repeats gets -2, -3, ... in file order."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def of(self, task: str, source: str, *content: str) -> str:
        """The id of the next row with this content."""
        initials = "".join(word[0] for word in task.split("_"))
        found = f"{initials}-{source}-{hashlib.sha256('|'.join(content).encode()).hexdigest()[:12]}"
        self.seen[found] += 1
        return found if self.seen[found] == 1 else f"{found}-{self.seen[found]}"


def _instance(row: Row, file: File, ids: Ids, where: str) -> Instance:
    labels = config.task(file.task).labels
    if row["label"] not in labels:
        raise UserError(f"{where}: unknown label {row['label']!r}; {file.task} has {', '.join(labels)}")
    raw = row.pop("raw", row["log"])
    vendor, _, device = file.source.partition("-")
    network = vendor in ("huawei", "h3c")
    if "id" not in row:  # sessions bring theirs
        row["id"] = ids.of(file.task, file.source, raw, row.get("description", ""))
    return instance({**row, "task": file.task, "source": file.source, "split": file.split,
                     "vendor": vendor if network else "", "device": device if network else ""}, where)


def chosen(raw: Path) -> Iterator[tuple[Source, File, Path]]:
    """The catalogue's files to read: all but stand-ins for what is there. Raises UserError for one that is missing."""
    files = [(source, file, raw / source.place(file)) for source in catalogue().values() for file in source.files]
    there = {file.source for source, file, path in files if source.group == "ad" and path.exists()}
    for source, file, path in files:
        if not file.task or file.stands_in_for in there or (source.group == "ad" and file.source not in there):
            continue
        if not path.exists():
            raise UserError(f"{path}: no such file; bring it with: python -m data_builders.fetch")
        yield source, file, path


def failures(rows: Iterable[Instance], known: set[str], ids: Ids) -> Iterator[Instance]:
    """Failure prediction rows from semantic matching's training logs that no failure file has (`known`, masked)."""
    done: set[tuple[str, str]] = set()
    for row in rows:
        level = LEVEL.match(row.text)
        if level is None or row.masked in known or (row.source, row.text) in done:
            continue
        done.add((row.source, row.text))
        yield replace(row, id=ids.of(PFP, row.source, row.text), task=PFP, log=mask_level(row.text), description="",
                      label=str(int(level[1]) <= FAILURE))


def steps(text: str) -> list[str]:
    """Split a procedure at its numbers 1., 2., 3., ...; bullets stay inside a step.

    A numbered "End." counts and stays: other steps send the reader there, it is the last box of the flowchart.
    """
    text = " ".join(text.split())
    cut, pieces = len(text) >= CUT and text[-1] not in ".!?", []
    number, start = 0, 0
    while True:
        # A number opens a step where a sentence has ended; "go to step 2." does not.
        mark = re.compile(rf"(?:^|(?<=[.:;,!?)\]·])|Procedure)\s*{number + 1}\s?[.)]\s*(?=\D)").search(text, start)
        if number:
            pieces.append(text[start:mark.start() if mark else None].strip())
        if mark is None:
            break
        number, start = number + 1, mark.end()
    pieces = pieces[:-1] if cut else pieces
    return [piece for piece in pieces if piece]


def handbook(files: Iterable[tuple[File, Path]], ids: Ids, counts: Counter[str]) -> Iterator[Row]:
    """Stand-ins for the paper's handbook cases: {id, source, vendor, symptom, analysis: steps}, after its filters."""
    seen: set[str] = set()
    for file, path in files:
        for row in instructions(path, file):
            symptom, analysis = " ".join(row["log"].split()), steps(row["label"])
            same = "".join(mask_level(symptom).split())
            counts["handbook rows read"] += 1
            if len(analysis) < MIN_STEPS:
                counts[f"handbook rows with fewer than {MIN_STEPS} steps"] += 1
            elif len(symptom.partition(":")[2].split()) < MIN_WORDS:
                counts["handbook rows with an overly brief symptom"] += 1
            elif same in seen:
                counts["handbook rows repeated"] += 1
            else:
                seen.add(same)
                yield {"id": ids.of("handbook", file.source, symptom), "source": file.source,
                       "vendor": file.source.partition("-")[0], "symptom": symptom, "analysis": analysis}


def instances(raw: Path, ids: Ids, counts: Counter[str]) -> Iterator[Instance]:
    """Every instance of the catalogue but the derived ones, in its order."""
    for source, file, path in chosen(raw):
        if file.task == "handbook":
            continue
        rows = reader(file.layout or source.layout, counts)(path, file)
        for number, row in enumerate(rows, 1):
            item = _instance(row, file, ids, f"{path}: row {number}")
            if item.task == LSM and item.split == "train" and not item.description.strip():
                counts["semantic matching training rows without a description left out"] += 1
            else:
                yield item


def normalise(raw: Path, out: Path) -> None:
    """Write train.jsonl, test.jsonl and handbook.jsonl with a manifest. Raises UserError naming file and row."""
    ids, counts = Ids(), Counter[str]()
    files = list(chosen(raw))
    found = list(instances(raw, ids, counts))
    train = [item for item in found if item.split == "train"]
    test = [item for item in found if item.split != "train"]
    failing = {item.masked for item in test if item.task == PFP}
    train += failures([item for item in train if item.task == LSM], failing, ids)
    cases = list(handbook([(file, path) for _, file, path in files if file.task == "handbook"], ids, counts))
    for name, rows in (("train", [i.as_json() for i in train]), ("test", [i.as_json() for i in test]),
                       ("handbook", cases)):
        write_jsonl(out / f"{name}.jsonl", rows)
    rows_by = {name: dict(sorted(Counter(f"{item.task} {item.source}" for item in side).items()))
               for name, side in (("train", train), ("test", test))}
    manifest(out, [path for _, _, path in files], rows={**rows_by, "handbook": len(cases)}, notes=dict(counts),
             files={name: sha256(out / f"{name}.jsonl") for name in ("train", "test", "handbook")})
    for text, number in counts.items():
        print(text if number == 1 and " lines -> " in text else f"{number:,} {text}")
    stand_ins = sorted({file.source for _, file, _ in files if file.stands_in_for})
    if stand_ins:
        print(f"anomaly detection is tested on samples ({', '.join(stand_ins)}), not on the paper's complete logs; "
              "make data-ad brings those")
    print(f"{out}: {len(train):,} training rows, {len(test):,} test rows, {len(cases):,} handbook cases")


def main() -> None:
    """The command line."""
    arguments = cli.parser("data_builders.normalise", "Turn the downloaded public files into instances.", EXAMPLES)
    arguments.add_argument("--raw", type=Path, default=RAW, help="where fetch put the files, or a mirror")
    arguments.add_argument("--out", type=Path, default=OUT, help="folder for train.jsonl, test.jsonl, handbook.jsonl")

    def run(given: argparse.Namespace) -> None:
        normalise(given.raw, given.out)

    cli.run(arguments, run)


if __name__ == "__main__":
    main()
