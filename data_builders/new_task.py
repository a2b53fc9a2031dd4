"""Declare a custom task from a file of labelled logs, without code: columns, labels, checks, declarations, instances.

Nothing is asked that the file shows: each choice is printed with the flag that changes it. Written are, under
experiments, tasks/<name>.yaml, runs/<name>.yaml (the paper's run on this task) and runs/demo-<name>.yaml (the same for
the demo's tiny model and teacher); and build/data/own/<name>/{train,test,handbook}.jsonl.
"""

import argparse
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from data_builders import log_times, table_reader, task_checks, task_labels, task_split
from data_builders.layouts import LABELLED
from data_builders.sessions import slug, source_name, source_names
from data_builders.table_kinds import DATUM
from data_builders.table_reader import Table
from data_builders.task_checks import Findings, Rows
from data_builders.task_labels import MOST_LABELS
from logreasoner import cli, examples, log_files, reading
from logreasoner.answer_format import answer_element, parse_label
from logreasoner.cli import UserError
from logreasoner.files import EXPERIMENTS, manifest, write_jsonl, writing
from logreasoner.instances import Instance
from logreasoner.prompts import has_control_tokens
from logreasoner.reading import Log, Reading, hide, pattern
from logreasoner.schemas import Data
from logreasoner.text_table import aligned

HEADER = "# Written by data_builders.new_task; edit it as you like."
MOST_SOURCES, LEAST_OF_A_SOURCE = 8, 20
PATH = re.compile(r"(\w+:/)?[/\\]\S*|[A-Za-z]:\\.*")  # also URLs
# What columns are called.
TEXTS = re.compile(r"(raw.?)?(log|message|msg|text|content|line|event|body)s?([_ ]?(line|text|message))?")
DESCRIPTIONS, EXPLANATIONS = "description", re.compile(r"explanations?|reason(ing)?|rationale|root.?cause|analysis")
SOURCES = re.compile(r"source|vendor|system|cluster|dataset|product")
SHOTS = 3  # few-shot examples of a prompt, as the paper has (section 4.2.3)
STAGE1, STAGE2 = 150, 1000  # the paper's instances a source (section 4.1)
LEAST_STAGE1, LEAST_STAGE2 = 10, 50  # of each label and source, where it has so many
DEMO_STAGE1, DEMO_STAGE2, DEMO_TEST = 48, 200, 60  # in all
DEMO_USE = 0.6  # of the training logs: the rest teaches the tiny base the answer form
ROLES = ("text", "label", "description", "source")
SPELT = {"y": "yes", "n": "no", "t": "true", "f": "false"}
MISSING = ("nan", "null", "na", "n/a")  # labels that are none
DECIDED = 0.97  # of the rows: then a rule decides the label

EXAMPLES = """
python -m data_builders.new_task --name disk-failures --from docs/tutorial/disk-failures.csv
python -m data_builders.new_task --name disk-failures --from incidents.jsonl --text body --label verdict --positive bad
python -m data_builders.new_task --name outages --from app.log --format lines --label-rule 'ERROR|FATAL=abnormal'
python -m data_builders.new_task --name nodes --from x.log --format '(?P<label>\\S+) (?P<host>\\S+) (?P<text>.*)'"""


def choose_columns(table: Table, options: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Choose the column of each role ("" for none) by its flag, else by name and values; return columns and reasons.

    Raises UserError where several are as likely.
    """
    columns = {role: getattr(options, role) for role in ROLES}
    why = dict.fromkeys(ROLES, "as you say")
    for name in (*columns.values(), options.rule_column):
        if name not in (None, "none", *table.columns):
            raise UserError(f"{table.path}: has no column {name!r}; it has {', '.join(map(repr, table.columns))}")
    named = set(columns.values())
    free = {name: values for name in table.columns if name not in named and (values := table.values(name))}
    if not columns["text"]:
        columns["text"], why["text"] = _text_column(table.path, free, len(table.rows))
        if 2 * (count := len(free[columns["text"]])) < len(table.rows):
            table.notes.append(f"only {count:,} of {len(table.rows):,} rows have a {columns['text']!r}; if the text is "
                               "in another column, name it with --text")
    free.pop(columns["text"], None)
    if options.label_rule:
        columns["label"] = ""
    elif columns["label"] is None:
        columns["label"], why["label"] = task_labels.label_column(table.path, free, len(table.rows))
    free.pop(columns["label"], None)
    if columns["description"] is None:
        called_so = [name for name in free if name.lower() == DESCRIPTIONS and _is_prose(free[name])]
        table.notes += [f"column {name!r} is left out, as an explanation tells the label; --description {name!r} shows "
                        "it to the model" for name in free
                        if EXPLANATIONS.fullmatch(name.lower()) and _is_prose(free[name]) and not called_so]
        columns["description"] = called_so[0] if called_so else ""
        why["description"] = "is called so" if called_so else "no column is called so"
    if columns["source"] is None:
        called_so = [name for name in free
                     if (name == table.file_column or SOURCES.search(name.lower())) and _is_source(free[name])]
        columns["source"] = called_so[0] if called_so else ""
        why["source"] = f"{len(set(free[called_so[0]]))} values" if called_so else "one source: the file"
    return {role: "" if name == "none" else name for role, name in columns.items()}, why


def _text_column(path: Path, values: dict[str, list[str]], rows: int) -> tuple[str, str]:
    """Choose the column of the text, one that most rows have where it is possible; return it and why."""
    if not values:
        raise UserError(f"{path}: no column is left for the log's text; name it with --text")
    times = log_times.time_columns(tuple(values))
    texts = {name: texts for name, texts in values.items() if not (name in times or _are_paths(texts))}
    prose = [name for name, texts in texts.items() if _is_prose(texts)]
    named = [name for name in texts if TEXTS.fullmatch(name.lower().rpartition(".")[2])]
    called_so = [name for name in named if name in prose or len(
        {text for text in texts[name] if not DATUM.fullmatch(text)}) > MOST_LABELS]
    both = [name for name in prose if name in called_so]
    kinds = (both, called_so, prose, named if prose or called_so else [])
    filled = [[name for name in names if 2 * len(values[name]) >= rows] for names in kinds]
    likely = next(filter(None, (*filled, *kinds)), [*values])
    longest = max(likely, key=lambda name: sum(map(len, values[name])))
    return longest, f"the longest free text{' that is called so' if longest in called_so else ''}"


def _are_paths(values: list[str]) -> bool:
    """Tell whether most values are names of files or addresses of pages."""
    return 2 * sum(map(bool, map(PATH.fullmatch, values))) > len(values)


def _is_prose(values: list[str]) -> bool:
    """Tell whether values have two words and more; letters outside ASCII count: not all languages write blanks.

    A date has none.
    """
    words = sum(value.count(" ") + 1 + len(value) - len(value.encode("ascii", "ignore"))
                for value in values if not DATUM.fullmatch(value))
    return words >= 2 * len(values)


def _is_source(values: list[str]) -> bool:
    counts = Counter(map(source_slug, values))
    if any("\n" in value for value in values):
        return False  # those of a session's rows
    return 2 <= len(counts) <= MOST_SOURCES and min(counts.values()) >= LEAST_OF_A_SOURCE


def source_slug(value: str) -> str:
    """Name a source for files and commands: lower case letters and digits of any script, and hyphens."""
    return slug(value) or f"other-{hashlib.sha256(value.encode()).hexdigest()[:6]}"


def by_rules(texts: list[str], options: argparse.Namespace) -> list[str]:
    """Return the label of each text by --label-rule. Raises UserError for a rule of another form."""
    rules = []
    for rule in options.label_rule:
        regex, _, label = rule.rpartition("=")
        if not (regex and label.strip()):
            raise UserError(f"--label-rule {rule!r}: should read REGEX=LABEL, such as 'ERROR|FATAL=abnormal'")
        rules.append((pattern("--label-rule", regex, re.MULTILINE), label.strip()))
    return [next((label for regex, label in rules if regex.search(text)), options.other_label) for text in texts]


def read_labels(table: Table, columns: dict[str, str], options: argparse.Namespace) -> list[str]:
    """Return each row's label, by the rules if there are any, else from its column with white space collapsed.

    Labels that differ in case, number format or Unicode's form only are spelt as most rows spell them, Y is Yes, and
    several are joined in one order: `table.notes` says what was merged. NaN, NA and n/a are no label.
    """
    if options.label_rule:
        values = [row[options.rule_column or columns["text"]] for row in table.rows]
        labels = by_rules(values, options)
        without = sum(not value.strip() and label == options.other_label
                      for value, label in zip(values, labels, strict=True))
        if options.rule_column and options.other_label and without:
            table.notes.append(f"{without:,} rows have no {options.rule_column!r}, so they are {options.other_label!r};"
                               " --other-label '' leaves out what no rule matches")
    else:
        labels = [" + ".join(sorted({" ".join(part.split()) for part in row[columns["label"]].split("\n")} - {""}))
                  for row in table.rows]
    labels = ["" if label.casefold() in MISSING else label for label in labels]
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for label, _ in Counter(labels).most_common():
        spellings[_label_key(label)].append(label)
    table.notes += [f"labels that are one: {', '.join(map(repr, sorted(same)))}; it is spelt {same[0]!r}"
                    for same in spellings.values() if len(same) > 1]
    return _regrouped([spellings[_label_key(label)][0] for label in labels], table, options)


def _regrouped(labels: list[str], table: Table, options: argparse.Namespace) -> list[str]:
    """Return the labels after --merge, "" for those rarer than --drop-rare. Raises UserError for an unknown one."""
    for merge in options.merge:
        names, _, name = merge.rpartition("=")
        known = cli.known_names(names, sorted(set(labels) - {""}))
        if not (known and name.strip()):
            raise UserError(f"--merge {merge!r}: should read LABEL,LABEL=LABEL; there are "
                            f"{', '.join(sorted(set(labels) - {''}))}")
        labels = [name.strip() if label in known else label for label in labels]
    counts = Counter(labels)
    if rare := [f"{label!r} ({count:,})" for label, count in counts.items() if label and count < options.drop_rare]:
        table.notes.append(f"left out by --drop-rare {options.drop_rare}: {', '.join(sorted(rare))}")
    return [label if counts[label] >= options.drop_rare else "" for label in labels]


def _label_key(label: str) -> str:
    key = unicodedata.normalize("NFC", label).casefold()
    return str(float(key)) if re.fullmatch(r"[-+]?[0-9]{1,15}(\.[0-9]+)?", key) else SPELT.get(key, key)


def instances(table: Table, columns: dict[str, str], options: argparse.Namespace, read: Reading) -> Rows:
    """Make an instance of each row; the reading's masks hide what they match in the log and its description."""
    items = []
    for row, line, label in zip(table.rows, table.lines, read_labels(table, columns, options), strict=True):
        log = hide(row[columns["text"]], read)
        description = hide(row[columns["description"]], read) if columns["description"] else ""
        source = source_slug(row[columns["source"]]) if columns["source"] else source_name(table.path)
        checksum = hashlib.sha256(log.encode()).hexdigest()[:8]
        place = f"{row[table.file_column]}-{line}" if table.file_column else line
        items.append(Instance(f"{options.name}-{place}-{checksum}", options.name, source, log, label,
                              description=description))
    return items


def classes(items: Rows, column: str, path: Path) -> list[str]:
    """List the labels, the most frequent first. Raises UserError for too many, or one that no answer can give."""
    labels = [label for label, _ in Counter(item.label for item in items if item.label).most_common()]
    if len(labels) > MOST_LABELS:
        raise UserError(f"{path}: {column!r} has {len(labels):,} values (such as {labels[0]!r}); that is an id rather "
                        f"than a label. At most {MOST_LABELS} are possible: name another column with --label")
    for label in labels:
        readable = label.isprintable() and parse_label(answer_element(label), labels) == label
        if not readable or len(label) > 60 or has_control_tokens(label):
            raise UserError(f"{path}: {label[:60]!r} cannot be a label: a label is a short text without tags, and "
                            "differs from the others in more than case, quotes and a full stop")
    return labels


def declare_task(options: argparse.Namespace, labels: list[str], positive_class: str | None,
                 read: Reading) -> dict[str, Any]:
    """Return the content of experiments/tasks/<name>.yaml."""
    title, window = re.sub(r"[-_]+", " ", options.name).capitalize(), options.window
    what = ("log with its description" if read.description else "session of log lines" if read.session else
            f"log of {read.every}" if read.every else "log" if window == 1 else f"window of {window} log lines")
    question = f"Classify the following {what} ({title.lower()}). Decide which it is: {', '.join(labels)}."
    scoring = ({"positive": positive_class, "metrics": ["precision", "recall", "f1"]} if positive_class else
               {"metrics": ["accuracy", "weighted_f1"]})
    return {"title": title, "question": options.question or question, "labels": labels, **scoring, "window": window,
            "reading": read.as_yaml(),
            "described": bool(read.description), "paper": "none: a custom task"}


def declare_run(name: str, base: str, train: Rows, seed: int) -> dict[str, Any]:
    """Return the content of a file in experiments/runs that extends `base`: paper, or demo for the tiny model."""
    logs, demo = task_checks.logs_by_source(train), base == "demo"
    shown = max(SHOTS, min(len({item.label for item in train}), examples.MOST))
    most1, most2 = (DEMO_STAGE1 // len(logs), DEMO_STAGE2 // len(logs)) if demo else (STAGE1, STAGE2)
    stage1, stage2 = {}, {}
    for source, count in sorted(logs.items()):
        usable = max(2, int(count * (DEMO_USE if demo else 1)) - shown)
        stage1[source] = min(max(1, most1), max(5, usable // 5), usable // 2)
        stage2[source] = min(max(1, most2), usable - stage1[source])
    rare = min(Counter((item.source, item.label) for item in train).values()) - 1  # an example may be one of them
    least1 = max(1, min(LEAST_STAGE1, rare // 3))
    # The paper selects two thirds; half leaves room for a teacher that is wrong more often on unknown logs.
    select = max(1, sum(stage1.values()) // 2)
    return {"extends": base, "title": f"{name}, {'tiny model' if demo else 'as in the paper'}", "seed": seed,
            "tasks": [name], "data": Data(kind="own", name=name).model_dump(),
            "stage1": {"handbook": 0, "samples": {name: stage1}, "least": least1, "select": select},
            "stage2": {"samples": {name: stage2}, "least": max(1, min(LEAST_STAGE2, rare - least1))}, "shots": SHOTS,
            **({"test_rows": max(10, DEMO_TEST // len(logs))} if demo else {})}


def output_paths(name: str, replace: bool) -> tuple[list[Path], Path]:
    """Return the declarations to write and the data's folder. Raises UserError for a name that is taken or not one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,50}", name) or re.match(r"demo|smoke|paper|table|figure", name):
        raise UserError(f"--name {name!r}: must be lower case letters, digits, '-' and '_', and not begin with demo, "
                        "smoke, paper, table or figure")
    paths = [EXPERIMENTS / f"{file}.yaml" for file in (f"tasks/{name}", f"runs/{name}", f"runs/demo-{name}")]
    folder = Data(kind="own", name=name).folder
    for path in paths:
        if path.exists() and not path.read_text(encoding="utf-8").startswith(HEADER):
            raise UserError(f"{path} is not a custom task; choose another name")
    existing = next((path for path in (*paths, folder) if path.exists()), None)
    if existing and not replace:
        raise UserError(f"{existing} is there already; choose another name, or --replace it")
    return paths, folder


def show(table: Table, options: argparse.Namespace, choices: list[list[str]]) -> None:
    """Print what was read, and what was chosen, each choice with its flag."""
    print(f"{table.path}: {len(table.rows):,} rows, columns {', '.join(map(repr, table.columns))}")
    print(aligned(choices, indent="  "))
    for note in table.notes:
        print(f"note: {note}")


def _read(options: argparse.Namespace) -> tuple[list[Log], Reading, Table]:
    """Read the logs. Raises UserError for logs of several layouts, and for labels of ids without ids."""
    read = reading.chosen(options, Reading())
    logs = log_files.logs(options.files, options, read)
    readings = {table_reader.resolved(log, read): log for log in logs}
    if len(readings) > 1:
        kinds = ", ".join(f"{log} {found.format}" for found, log in readings.items())
        raise UserError(f"the files have several layouts ({kinds}); give those of one, or say it by --format")
    read = next(iter(readings))
    labels = table_reader.labels_given(options.labels, read)
    names = source_names([log.path for log in logs])
    table = table_reader.joined({name: table_reader.read(log, read, options.window, options.limit, labels)
                                 for name, log in zip(names, logs, strict=True)})
    if labels:
        labels.check()
        table.notes += labels.notes()
    return logs, read, table


def new_task(options: argparse.Namespace) -> None:
    """Read the logs, print what is wrong with them, and write the task, its runs and its instances."""
    paths, folder = output_paths(options.name, options.replace)
    logs, read, table = _read(options)
    columns, why = choose_columns(table, options)
    several = options.window > 1 or read.session or read.every
    if several and not (options.label_rule or options.labels or read.format in LABELLED):
        raise UserError("--window, --every and --session: whose label is a session's? Decide it by a pattern that one "
                        "of its lines has: --label-rule 'ERROR|FATAL=abnormal', if need be with --rule-column; or give "
                        "a table of ids and labels with --labels")
    table = table_reader.sorted_by_time(table, columns["text"]) if options.latest else table
    read = replace(read, text=columns["text"], description=columns["description"],
                   header=next((log.named for log in logs if log.named is not None), read.header),
                   encoding=next((seen for log in logs if (seen := log.encoding or log.likely)), None))
    items = instances(table, columns, options, read)
    labels = classes(items, columns["label"], table.path)
    positive_class, why["positive"] = task_labels.positive_class(labels, options.positive, columns["label"])
    choices = [[f"--{role}", repr(name) if name else "-", why[role]]
               for role, name in (columns | {"positive": positive_class}).items()]
    if options.label_rule:
        choices[1] = ["--label-rule", " ".join(options.label_rule), f"else {options.other_label or 'left out'}"]
    counts = Counter(item.label for item in items)
    choices.append(["labels", str(len(labels)), ", ".join(f"{label} {counts[label]:,}" for label in labels)])
    show(table, options, choices)
    findings = Findings()
    if options.label_rule:
        decided = by_rules([item.text for item in items], options)
        if sum(label == item.label for label, item in zip(decided, items, strict=True)) >= DECIDED * len(items):
            findings.warnings.append("the label is decided by words of the text itself, so a model can learn no more "
                                     "than the rule; hide them with --mask, or decide by another column with "
                                     "--rule-column")
    items = task_checks.usable(items, findings)
    task_checks.check(items, labels, findings)
    train, test = ([], []) if findings.errors else task_split.split(
        items, labels, options.test_share, options.seed, findings, options.latest)
    for kind, texts in (("note", findings.notes), ("warning", findings.warnings)):
        for text in texts:
            print(f"{kind}: {text}")
    if findings.errors:
        raise UserError(f"{table.path}: nothing was written: " + "; ".join(findings.errors))
    task = declare_task(options, labels, positive_class, read)
    runs = [declare_run(options.name, base, train, options.seed) for base in ("paper", "demo")]
    for path, content in zip(paths, [task, *runs], strict=True):
        with writing(path) as stream:
            stream.write(f"{HEADER}\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118)}")
    parts = {"train": train, "test": test, "handbook": []}
    for part, rows in parts.items():
        write_jsonl(folder / f"{part}.jsonl", ({**item.as_json(), "split": part} for item in rows))
    manifest(folder, [file for log in logs for file in log.files()],
             settings={key: str(value) for key, value in vars(options).items()}, reading=read.as_yaml(),
             columns={role: columns[role] for role in ("text", "label", "source")},
             warnings=findings.warnings,
             counts={part: dict(Counter(item.label for item in rows)) for part, rows in parts.items()})
    declarations = [str(path.relative_to(EXPERIMENTS.parent)) for path in paths]
    print(f"wrote {', '.join(declarations)} and {folder}: {len(train):,} training and {len(test):,} test logs\n"
          f"The question that a model is asked stands in {declarations[0]}: make it say what you would tell a new "
          "colleague")


def share(text: str) -> float:
    """Parse a share between 0.05 and 0.5 for argparse."""
    if not re.fullmatch(r"0?\.\d+", text) or not 0.05 <= float(text) <= 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.05 and 0.5")
    return float(text)


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.new_task", "Declare a custom task from a file of labelled logs.", EXAMPLES)
    add = parser.add_argument
    add("--name", required=True, help="of the task and its run: lower case letters, digits, - and _")
    add("--from", required=True, type=Path, nargs="+", dest="files", metavar="FILE",
        help="a table: .csv, .tsv, .json, .jsonl, .parquet, .xlsx; or raw lines with --format; also packed, or "
        f"{log_files.SEVERAL}")
    for role in ROLES:
        none = "; none for none" if role in ("description", "source") else ""
        add(f"--{role}", metavar="COLUMN", help=f"the column to use, instead of the one that is chosen{none}")
    add("--positive", metavar="LABEL", help="the class that precision, recall and F1 are about")
    add("--question", help="what a model is asked; it can be edited later")
    reading.add_options(parser, table_reader.FORMATS)
    add("--labels", type=Path, metavar="FILE", help="with --session: a table of ids and their labels")
    add("--window", type=cli.positive, default=1, help="so many consecutive rows or lines are a log (default 1)")
    add("--limit", type=cli.positive, help="read so many rows")
    add("--label-rule", action="append", default=[], metavar="REGEX=LABEL",
        help="repeatable; the first that matches counts")
    add("--rule-column", metavar="COLUMN", help="where --label-rule looks (default: the text)")
    add("--other-label", default="normal", help="the label where no rule matches (default: normal); '' for none")
    add("--merge", action="append", default=[], metavar="A,B=C", help="repeatable: make one class of several")
    add("--drop-rare", type=cli.positive, default=1, metavar="N", help="leave out classes of fewer than N rows")
    add("--test-share", type=share, default=0.2, help="of each class (default 0.2)")
    add("--latest", action="store_true", help="test on the latest rows, instead of on whole templates: by their times "
        "if all have one with a date, else the last of the file")
    add("--seed", type=int, default=42)
    add("--replace", action="store_true", help="overwrite a task of this name that was made here before")
    cli.run(parser, new_task)


if __name__ == "__main__":
    main()
