"""A task of one's own from a file of labelled logs, without code: columns, labels, checks, declarations, instances.

It asks nothing that it can see: what it chose is printed with the flag that says otherwise. It writes, under
experiments, tasks/<name>.yaml, runs/<name>.yaml (the paper's run on this task) and runs/demo-<name>.yaml (the same for
the demo's tiny model and teacher); and build/data/own/<name>/{train,test,handbook}.jsonl.
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_builders import table_reader, task_checks
from data_builders.sessions import positive, source_name
from data_builders.table_reader import Incoming
from data_builders.task_checks import Findings, Rows
from logreasoner import cli
from logreasoner.answer_format import answer_element, parse_label
from logreasoner.cli import UserError
from logreasoner.config import Data
from logreasoner.files import EXPERIMENTS, manifest, write_jsonl, writing
from logreasoner.instances import LEVEL_MASK, Instance
from logreasoner.prompts import controls

HEADER = "# Written by data_builders.new_task; edit it as you like."
MOST_LABELS, MOST_SOURCES, LEAST_OF_A_SOURCE = 20, 8, 20
# What columns are called, the surest first.
LABELS = ("label", "class", "verdict", "target", "truth", "category", "cause", "outcome", "status", "state", "anomal",
          "fail", "result")
TEXTS = re.compile(r"(raw.?)?(log|message|msg|text|content|line|event)s?([_ ]?(line|text|message))?")
DESCRIPTIONS = re.compile(r"description|explanation")
SOURCES = re.compile(r"source|vendor|system|cluster|dataset|product")
BAD = re.compile(r"abnormal|anomal|fail|fault|error|bad|^true$|^yes$|^1$|positive|critical|incident|broken", re.I)
EXAMPLES_SHOWN = 3
STAGE1, STAGE2 = 150, 1000  # the paper's instances a source (section 4.1)
DEMO_STAGE1, DEMO_STAGE2, DEMO_TEST = 48, 200, 60  # in all
DEMO_USE = 0.6  # of the training logs: the rest teaches the tiny base the answer form

EXAMPLES = """
python -m data_builders.new_task --name disk-failures --from docs/tutorial/disk-failures.csv
python -m data_builders.new_task --name disk-failures --from incidents.jsonl --text body --label verdict --positive bad
python -m data_builders.new_task --name outages --from app.log --format lines --label-rule 'ERROR|FATAL=abnormal'
python -m data_builders.new_task --name nodes --from x.log --format '(?P<label>\\S+) (?P<host>\\S+) (?P<text>.*)'"""


@dataclass
class Chosen:
    """What each column is for, "" for none, and why."""

    text: str
    label: str
    description: str
    source: str
    why: dict[str, str]


def choose(file: Incoming, given: argparse.Namespace) -> Chosen:
    """The columns by the flags, else by what they are called and hold. Raises UserError where two are as likely."""
    why = dict.fromkeys(("text", "label", "description", "source"), "as you say")
    for name in (given.text, given.label, given.description, given.source, given.rule_column):
        if name not in (None, "none", *file.columns):
            raise UserError(f"{given.file}: has no column {name!r}; it has {', '.join(map(repr, file.columns))}")
    full = {name: values for name in file.columns if (values := file.values(name))}
    words = {name: sum(value.count(" ") + 1 for value in values) / len(values) for name, values in full.items()}
    few = {name: len(set(values)) for name, values in full.items()}
    named = [name for name in (given.label, given.description, given.source) if name]
    free = [name for name in full if name not in named]
    text = given.text
    if not text:
        called = [name for name in free if TEXTS.fullmatch(name.lower()) and words[name] >= 2]
        text = max(called or free, key=lambda name: sum(map(len, full[name])), default=None)
        why["text"] = f"the longest free text{' that is called so' if called else ''}"
        if text is None:
            raise UserError(f"{given.file}: no column is left for the log's text; name it with --text")
    rest = [name for name in full if name not in (text, given.description, given.source)]
    label = "" if given.label_rule else given.label
    if label is None:
        label, why["label"] = _label(given.file, rest, few, len(file.rows))
    rest = [name for name in rest if name != label]
    description, source = given.description, given.source
    if description is None:
        description = next((name for name in rest if DESCRIPTIONS.fullmatch(name.lower()) and words[name] >= 2), "")
        why["description"] = "is called so" if description else "no column is called so"
    if source is None:
        source = next((name for name in rest if SOURCES.search(name.lower()) and _is_source(full[name])), "")
        why["source"] = f"{few.get(source, 1)} values" if source else "one source: the file"
    description, source = ("" if name == "none" else name for name in (description, source))
    return Chosen(text, label, description, source, why)


def _label(path: Path, columns: list[str], few: dict[str, int], rows: int) -> tuple[str, str]:
    fit = [name for name in columns if 2 <= few[name] <= min(MOST_LABELS, max(2, rows // 4))]
    called = [name for hint in LABELS for name in fit if hint in name.lower()]
    if not called and len(fit) != 1:
        held = ", ".join(f"{name!r} ({few[name]} values)" for name in columns) or "no other column"
        raise UserError(f"{path}: which column is the label? A label has 2 to {MOST_LABELS} values; there is {held}. "
                        "Name one with --label, or decide by a pattern with --label-rule 'ERROR|FATAL=abnormal'")
    chosen = (called or fit)[0]
    return chosen, f"{few[chosen]} values" + (", and is called so" if called else ", the only column with few")


def _is_source(values: list[str]) -> bool:
    counts = Counter(map(source_slug, values))
    return 2 <= len(counts) <= MOST_SOURCES and min(counts.values()) >= LEAST_OF_A_SOURCE


def source_slug(value: str) -> str:
    """What a source is called in files and commands: lower case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") or "other"


def rules(given: list[str]) -> list[tuple[re.Pattern[str], str]]:
    """--label-rule REGEX=LABEL, in order. Raises UserError for one that is not of that form."""
    found = []
    for rule in given:
        pattern, equals, label = rule.rpartition("=")
        try:
            found.append((re.compile(pattern), label.strip()))
        except re.error as error:
            raise UserError(f"--label-rule {rule!r}: not a regular expression ({error})") from None
        if not (equals and pattern and label.strip()):
            raise UserError(f"--label-rule {rule!r}: should read REGEX=LABEL, such as 'ERROR|FATAL=abnormal'")
    return found


def labeller(given: argparse.Namespace, chosen: Chosen) -> Callable[[dict[str, str]], str]:
    """Row -> label: by the rules where there are some, else the label column, white space collapsed."""
    decided = rules(given.label_rule)
    if not decided:
        return lambda row: " ".join(row[chosen.label].split())
    column = given.rule_column or chosen.text
    return lambda row: next((label for pattern, label in decided if pattern.search(row[column])), given.other_label)


def instances(file: Incoming, chosen: Chosen, given: argparse.Namespace) -> Rows:
    """One instance a row; labels that differ in case only are one, spelt as most rows do."""
    label, name = labeller(given, chosen), given.name
    written = [label(row) for row in file.rows]
    spelt = {text.casefold(): text for text, _ in reversed(Counter(written).most_common())}
    found = []
    for row, number, said in zip(file.rows, file.lines, written, strict=True):
        log, description = row[chosen.text], row[chosen.description] if chosen.description else ""
        if given.mask:
            log, description = (re.sub(given.mask, LEVEL_MASK, text) for text in (log, description))
        source = source_slug(row[chosen.source]) if chosen.source else source_name(given.file)
        found.append(Instance(f"{name}-{number}-{hashlib.sha256(log.encode()).hexdigest()[:8]}", name, source, log,
                              spelt[said.casefold()], description=description))
    return found


def classes(items: Rows, chosen: Chosen, where: Path) -> list[str]:
    """The labels, the most frequent first. Raises UserError for too many, or one that no answer could be read as."""
    labels = [label for label, _ in Counter(item.label for item in items if item.label).most_common()]
    if len(labels) > MOST_LABELS:
        raise UserError(f"{where}: {chosen.label!r} has {len(labels):,} values (such as {labels[0]!r}); that is an id "
                        f"rather than a label. At most {MOST_LABELS} are possible: name another column with --label")
    for label in labels:
        readable = label.isprintable() and parse_label(answer_element(label), labels) == label
        if not readable or len(label) > 60 or controls(label):
            raise UserError(f"{where}: {label[:60]!r} cannot be a label: a label is a short text without tags, and "
                            "differs from the others in more than case, quotes and a full stop")
    return labels


def guess_positive(labels: list[str]) -> tuple[str | None, str]:
    """The positive class of two labels and why: the one that looks bad, else the rarer; none of more than two."""
    if len(labels) != 2:
        return None, f"{len(labels)} classes: accuracy and weighted F1"
    bad = [label for label in labels if BAD.search(label)]
    return (bad[0], "looks like what is searched for") if len(bad) == 1 else (labels[-1], "the rarer of two")


def declared_task(name: str, labels: list[str], positive_class: str | None, described: bool, window: int,
                  question: str | None) -> dict[str, Any]:
    """experiments/tasks/<name>.yaml."""
    title = re.sub(r"[-_]+", " ", name).capitalize()
    what = "log with its description" if described else "log" if window == 1 else f"window of {window} log lines"
    asked = question or f"Classify the following {what} ({title.lower()}). Decide which it is: {', '.join(labels)}."
    measured = ({"positive": positive_class, "metrics": ["precision", "recall", "f1"]} if positive_class else
                {"metrics": ["accuracy", "weighted_f1"]})
    return {"title": title, "question": asked, "labels": labels, **measured, "window": window, "described": described,
            "paper": "none: a task of one's own"}


def sized(logs: Counter[str], most1: int, most2: int, use: float) -> tuple[dict[str, int], dict[str, int]]:
    """Rows of stage 1 and stage 2 from each source: a fifth (five, if there are) and the rest of what may be used."""
    rooms = {name: max(2, int(count * use) - EXAMPLES_SHOWN) for name, count in sorted(logs.items())}
    first = {name: min(most1, max(5, room // 5), room // 2) for name, room in rooms.items()}
    return first, {name: min(most2, rooms[name] - first[name]) for name in rooms}


def declared_runs(name: str, train: Rows, seed: int) -> dict[str, dict[str, Any]]:
    """experiments/runs/<name>.yaml, and demo-<name>.yaml for the tiny model."""
    logs = task_checks.logs_by_source(train)
    data = Data(kind="own", name=name).model_dump()
    found = {}
    for run, base, parts in ((name, "paper", sized(logs, STAGE1, STAGE2, 1)), (f"demo-{name}", "demo", sized(
            logs, max(1, DEMO_STAGE1 // len(logs)), max(1, DEMO_STAGE2 // len(logs)), DEMO_USE))):
        first, second = parts
        # The paper selects two thirds; half leaves room for a teacher that is wrong more often on unknown logs.
        found[run] = {"extends": base, "title": f"{name}, {'as in the paper' if base == 'paper' else 'tiny model'}",
                      "seed": seed, "tasks": [name], "data": data,
                      "stage1": {"handbook": 0, "samples": {name: first}, "select": max(1, sum(first.values()) // 2)},
                      "stage2": {"samples": {name: second}}, "examples": EXAMPLES_SHOWN}
    found[f"demo-{name}"]["test_rows"] = max(10, DEMO_TEST // len(logs))
    return found


def outputs(name: str, replace: bool) -> tuple[list[Path], Path]:
    """The declarations to write and the folder. Raises UserError for a name that cannot be one or is taken."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,50}", name) or re.match(r"demo|smoke|paper|table|figure", name):
        raise UserError(f"--name {name!r}: lower case letters, digits, '-' and '_', not beginning with demo, smoke, "
                        "paper, table or figure, please")
    paths = [EXPERIMENTS / "tasks" / f"{name}.yaml", EXPERIMENTS / "runs" / f"{name}.yaml",
             EXPERIMENTS / "runs" / f"demo-{name}.yaml"]
    folder = Data(kind="own", name=name).folder
    for path in paths:
        if path.exists() and not path.read_text(encoding="utf-8").startswith(HEADER):
            raise UserError(f"{path} is no task of your own; take another name")
    there = next((path for path in (*paths, folder) if path.exists()), None)
    if there and not replace:
        raise UserError(f"{there} is there already; take another name, or --replace it")
    return paths, folder


def show(file: Incoming, chosen: Chosen, given: argparse.Namespace, labels: list[str], items: Rows) -> str | None:
    """Print what was seen and chosen; returns the positive class."""
    positive_class, why = guess_positive(labels)
    if given.positive:
        if given.positive not in labels:
            raise UserError(f"--positive {given.positive!r}: is not one of the labels {', '.join(labels)}")
        positive_class, why = given.positive, "as you say"
    counts = Counter(item.label for item in items)
    print(f"{given.file}: {len(file.rows):,} rows, columns {', '.join(map(repr, file.columns))}")
    rows = [(flag, repr(getattr(chosen, flag)) if getattr(chosen, flag) else "-", chosen.why[flag])
            for flag in ("text", "label", "description", "source")]
    if given.label_rule:
        rows[1] = ("label-rule", " ".join(given.label_rule), f"else {given.other_label}")
    rows.append(("positive", repr(positive_class) if positive_class else "-", why))
    for flag, value, reason in rows:
        print(f"  {f'--{flag}':<14} {value:<20} {reason}")
    print("  labels         " + ", ".join(f"{label} {counts[label]:,}" for label in labels))
    for note in file.notes:
        print(f"note: {note}")
    return positive_class


def new_task(given: argparse.Namespace) -> None:
    """Look at the file, say what is wrong with it, and write the task, its runs and its instances."""
    paths, folder = outputs(given.name, given.replace)
    try:
        re.compile(given.mask or "")
    except re.error as error:
        raise UserError(f"--mask {given.mask!r}: not a regular expression ({error})") from None
    file = table_reader.read(given.file, given.format, given.window, given.limit)
    chosen = choose(file, given)
    items = instances(file, chosen, given)
    labels = classes(items, chosen, given.file)
    positive_class = show(file, chosen, given, labels, items)
    found = Findings()
    if given.label_rule and (given.rule_column or chosen.text) == chosen.text and not given.mask:
        found.warnings.append("the label is decided by words of the text itself, so a model can learn no more than the "
                              "rule; hide them with --mask, or decide by another column with --rule-column")
    kept = task_checks.usable(items, found)
    task_checks.check(kept, labels, found)
    train, test = ([], []) if found.errors else task_checks.split(kept, labels, given.test_share, given.seed, found)
    for warning in found.warnings:
        print(f"warning: {warning}")
    if found.errors:
        raise UserError(f"{given.file}: nothing was written: " + "; ".join(found.errors))
    task = declared_task(given.name, labels, positive_class, bool(chosen.description), given.window, given.question)
    runs = declared_runs(given.name, train, given.seed)
    for path, value in zip(paths, (task, *runs.values()), strict=True):
        with writing(path) as stream:
            stream.write(f"{HEADER}\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=118)}")
    parts = {"train": train, "test": test, "handbook": []}
    for part, rows in parts.items():
        write_jsonl(folder / f"{part}.jsonl", ({**item.as_json(), "split": part} for item in rows))
    manifest(folder, [given.file], settings={key: str(value) for key, value in vars(given).items()},
             columns={"text": chosen.text, "label": chosen.label, "source": chosen.source}, warnings=found.warnings,
             counts={part: dict(Counter(item.label for item in rows)) for part, rows in parts.items()})
    print(f"wrote {', '.join(str(path.relative_to(EXPERIMENTS.parent)) for path in paths)} and {folder}: "
          f"{len(train):,} training and {len(test):,} test logs\nThe question that a model is asked stands in "
          f"{paths[0].relative_to(EXPERIMENTS.parent)}: make it say what you would tell a new colleague")


def share(text: str) -> float:
    """A share between 0.05 and 0.5, for argparse."""
    if not re.fullmatch(r"0?\.\d+", text) or not 0.05 <= float(text) <= 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.05 and 0.5")
    return float(text)


def main() -> None:
    """The command line."""
    arguments = cli.parser("data_builders.new_task", "Declare a task of your own, from a file of labelled logs.",
                           EXAMPLES)
    add = arguments.add_argument
    add("--name", required=True, help="of the task and its run: lower case letters, digits, - and _")
    add("--from", required=True, type=Path, dest="file", metavar="FILE",
        help=".csv, .tsv, .json, .jsonl, .parquet; raw lines with --format; also .gz or .zip")
    for column in ("text", "label", "description", "source"):
        add(f"--{column}", metavar="COLUMN", help="which column it is, instead of what is found" + (
            "; none for none" if column in ("description", "source") else ""))
    add("--positive", metavar="LABEL", help="the class that precision, recall and F1 are about")
    add("--question", help="what a model is asked; it can be edited later")
    add("--mask", metavar="REGEX", help="what is hidden in every text, as [MASK]")
    add("--format", help="raw lines: bgl, spirit, thunderbird, lines, or a regular expression with named groups")
    add("--window", type=positive, default=1, help="raw lines: so many consecutive ones are a log (default 1)")
    add("--limit", type=positive, help="read so many rows")
    add("--label-rule", action="append", default=[], metavar="REGEX=LABEL", help="repeatable; the first to fit counts")
    add("--rule-column", metavar="COLUMN", help="where --label-rule looks (default: the text)")
    add("--other-label", default="normal", help="the label where no rule fits (default: normal)")
    add("--test-share", type=share, default=0.2, help="of each class (default 0.2)")
    add("--seed", type=int, default=42)
    add("--replace", action="store_true", help="write over a task of this name that was made here before")
    cli.run(arguments, new_task)


if __name__ == "__main__":
    main()
