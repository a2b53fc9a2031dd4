"""Turn the public files, as downloaded, into instances: build/data/public/{train,test,handbook}.jsonl.

experiments/sources.yaml says what each file becomes; each layout has one reader here. Training rows come from
LogPrompt's templates and KnowLog's train files. Potential failure prediction has test files only, but its labels are
exactly "risk level <= 4", so the logs of KnowLog's train files that no failure file has give labelled rows too.
"""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_builders.fetch import RAW, File, Source, catalogue
from data_builders.sessions import report, sessions
from logreasoner import cli, config
from logreasoner.cli import UserError
from logreasoner.files import BUILD, manifest, read_json, sha256, write_jsonl
from logreasoner.instances import Instance, instance, mask_level
from logreasoner.reading import Log

OUT = BUILD / "data" / "public"
WINDOW, LIMIT, SEED = 20, 1_000_000, 0  # section 4.3.1: windows of 20 lines, 1,000,000 lines of each complete log
LARGEST_SHEET = 1 << 26  # bytes, unpacked; the public sheets have some hundred kilobytes
LSM, PFP = "log_semantic_matching", "potential_failure_prediction"
LEVEL = re.compile(r"\A\s*+(?:[\w.-][\w .-]*+|(?<= ))/\s*(\d)\s*/\s*[A-Za-z]")
FAILURE = 4  # levels 0 (emergency) to 4 (warning) are failures in every row of the public files

# The paper's filters of handbook cases (section 3.2.1); it gives no number for "overly brief".
MIN_STEPS, MIN_WORDS = 3, 5
END = re.compile(r"[\s\u00b7]*End[\s.]*", re.IGNORECASE)
CUT = 499  # Huawei procedures stop at this length; an unfinished last step is dropped

EXAMPLES = """
python -m data_builders.normalise
python -m data_builders.normalise --raw ../mirror --out build/data/public"""

Row = dict[str, Any]
Reader = Callable[[Path, File], Iterator[Row]]


def _read_list(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON list, each with its place (rows count from 1)."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a JSON list, found {type(rows).__name__}; fetch the file again")
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row


def pairs(path: Path, file: File) -> Iterator[Row]:
    """Read KnowLog's rows [[log, description], 0 or 1]. Raises UserError naming the row."""
    for where, row in _read_list(path):
        match row:
            case [[str(log), str(description)], int(label)] if label in (0, 1):
                yield {"log": log, "description": description, "label": str(bool(label))}
            case _:
                raise UserError(f"{where}: expected [[log, description], 0 or 1]; correct or remove the row")


def instructions(path: Path, file: File) -> Iterator[Row]:
    """Read LogInstruct's rows {"instruction", "input", "output"}. Raises UserError naming the row."""
    for where, row in _read_list(path):
        match row:
            case {"input": str(log), "output": str(label)}:
                yield {"log": mask_level(log) if file.task == PFP else log, "label": label, "raw": log}
            case _:
                raise UserError(f"{where}: expected texts under input and output; correct or remove the row")


def templates(path: Path, file: File) -> Iterator[Row]:
    """Read LogPrompt's sheets with the columns log and label (1: abnormal). Raises UserError naming the row."""
    import pandas

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_SHEET:
                raise ValueError(f"more than {LARGEST_SHEET >> 20} MiB, unpacked")
        sheet = pandas.read_excel(path, dtype=str, keep_default_na=False, engine="openpyxl")
    except Exception as error:  # openpyxl raises what its zip and XML layers raise
        raise UserError(f"{path}: not a readable sheet ({error}); delete it and fetch it again") from None
    if not {"log", "label"} <= set(sheet.columns):
        raise UserError(f"{path}: the columns log and label are needed; found {', '.join(map(str, sheet.columns))}")
    for number, (log, label) in enumerate(zip(sheet["log"], sheet["label"], strict=True), 1):
        if not log.strip() or label not in ("0", "1"):
            raise UserError(f"{path}: row {number}: needs a log and a label 0 or 1, found {label!r}; correct the row")
        yield {"log": log, "label": "abnormal" if label == "1" else "normal"}


READERS: dict[str, Reader] = {"pairs": pairs, "instructions": instructions, "templates": templates}


class Ids:
    """Makes stable ids of task, source and content; a row that a file repeats gets -2, -3, ... in file order."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def of(self, task: str, source: str, *content: str) -> str:
        """Return the id of the next row with this content."""
        initials = "".join(word[0] for word in task.split("_"))
        key = f"{initials}-{source}-{hashlib.sha256('|'.join(content).encode()).hexdigest()[:12]}"
        self.seen[key] += 1
        return key if self.seen[key] == 1 else f"{key}-{self.seen[key]}"


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


def files_to_read(raw: Path) -> list[tuple[Source, File, Path]]:
    """List the catalogue's files with a task: the complete logs that are there, and stand-ins for those that are not.

    Raises UserError for a file that is missing.
    """
    files = [(source, file, raw / source.place(file)) for source in catalogue().values() for file in source.files]
    complete = {file.source for source, file, path in files if source.group == "ad" and path.exists()}
    files = [(source, file, path) for source, file, path in files if file.task
             and file.stands_in_for not in complete and (source.group != "ad" or file.source in complete)]
    for _, _, path in files:
        if not path.exists():
            raise UserError(f"{path}: no such file; bring it with: python -m data_builders.fetch")
    return files


def failures(rows: Iterable[Instance], known: set[str], ids: Ids) -> Iterator[Instance]:
    """Make failure prediction rows of semantic matching's logs that no failure file has (`known`, masked)."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        level = LEVEL.match(row.text)
        if level is None or row.masked in known or (row.source, row.text) in seen:
            continue
        seen.add((row.source, row.text))
        yield replace(row, id=ids.of(PFP, row.source, row.text), task=PFP, log=mask_level(row.text), description="",
                      label=str(int(level[1]) <= FAILURE))


def steps(text: str) -> list[str]:
    """Split a procedure at its numbers 1., 2., 3., ...; bullets stay inside a step.

    A numbered "End." is the last box of the flowchart and no step.
    """
    text = " ".join(text.split())
    cut, result = len(text) >= CUT and text[-1] not in ".!?", []
    number, start = 0, 0
    while True:
        # A number opens a step where a sentence has ended; "go to step 2." does not.
        mark = re.compile(rf"(?:^|(?<=[.:;,!?)\]·])|Procedure)\s*{number + 1}\s?[.)]\s*(?=\D)").search(text, start)
        if number:
            result.append(text[start:mark.start() if mark else None].strip())
        if mark is None:
            break
        number, start = number + 1, mark.end()
    return [step for step in (result[:-1] if cut else result) if step and not END.fullmatch(step)]


def handbook(files: Iterable[tuple[File, Path]], ids: Ids, counts: Counter[str]) -> Iterator[Row]:
    """Make stand-ins for the paper's handbook cases, after its filters: {id, source, vendor, symptom, analysis}."""
    seen: set[str] = set()
    for file, path in files:
        for row in instructions(path, file):
            symptom, analysis = " ".join(row["log"].split()), steps(row["label"])
            key = "".join(mask_level(symptom).split())
            counts["handbook rows read"] += 1
            if len(analysis) < MIN_STEPS:
                counts[f"handbook rows with fewer than {MIN_STEPS} steps"] += 1
            elif len(symptom.partition(":")[2].split()) < MIN_WORDS:
                counts["handbook rows with an overly brief symptom"] += 1
            elif key in seen:
                counts["handbook rows repeated"] += 1
            else:
                seen.add(key)
                yield {"id": ids.of("handbook", file.source, symptom), "source": file.source,
                       "vendor": file.source.partition("-")[0], "symptom": symptom, "analysis": analysis}


def instances(files: list[tuple[Source, File, Path]], ids: Ids, counts: Counter[str],
              reports: list[str]) -> Iterator[Instance]:
    """Yield every instance of the files; `reports` receives a line for each raw log."""
    for source, file, path in files:
        layout, lines = file.layout or source.layout, Counter[str]()
        rows = READERS[layout](path, file) if layout in READERS else sessions(
            Log(path), layout, WINDOW, file.source, lines, limit=LIMIT, seed=SEED, header=file.header)
        for number, row in enumerate(rows, 1):
            item = _instance(row, file, ids, f"{path}: row {number}")
            if item.task == LSM and item.split == "train" and not item.description.strip():
                counts["semantic matching training rows without a description left out"] += 1
            else:
                yield item
        if layout not in READERS:
            reports.append(report(file.source, WINDOW, lines))


def normalise(raw: Path, out: Path) -> None:
    """Write train.jsonl, test.jsonl and handbook.jsonl with a manifest. Raises UserError naming file and row."""
    ids, counts, reports = Ids(), Counter[str](), list[str]()
    files = files_to_read(raw)
    items = list(instances([row for row in files if row[1].task != "handbook"], ids, counts, reports))
    train = [item for item in items if item.split == "train"]
    test = [item for item in items if item.split != "train"]
    known = {item.masked for item in test if item.task == PFP}
    train += failures([item for item in train if item.task == LSM], known, ids)
    cases = list(handbook([(file, path) for _, file, path in files if file.task == "handbook"], ids, counts))
    for name, rows in (("train", [item.as_json() for item in train]), ("test", [item.as_json() for item in test]),
                       ("handbook", cases)):
        write_jsonl(out / f"{name}.jsonl", rows)
    sizes = {name: dict(sorted(Counter(f"{item.task} {item.source}" for item in side).items()))
             for name, side in (("train", train), ("test", test))}
    notes = [*reports, *(f"{count:,} {what}" for what, count in counts.items())]
    manifest(out, [path for _, _, path in files], rows={**sizes, "handbook": len(cases)}, notes=notes,
             files={name: sha256(out / f"{name}.jsonl") for name in ("train", "test", "handbook")})
    print("\n".join(notes))
    if stand_ins := sorted({file.source for _, file, _ in files if file.stands_in_for}):
        print(f"anomaly detection is tested on excerpts ({', '.join(stand_ins)}), not on the paper's complete logs; "
              "make data-ad brings those")
    print(f"{out}: {len(train):,} training rows, {len(test):,} test rows, {len(cases):,} handbook cases")


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.normalise", "Turn the downloaded public files into instances.", EXAMPLES)
    parser.add_argument("--raw", type=Path, default=RAW, help="where fetch put the files, or a mirror")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for train.jsonl, test.jsonl, handbook.jsonl")
    cli.run(parser, lambda options: normalise(options.raw, options.out))


if __name__ == "__main__":
    main()
