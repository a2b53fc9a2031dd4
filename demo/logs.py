"""Expand demo/logs.yaml, by a seed, into the demo's instances of the four tasks.

Whether a log is for training, for the test or for teaching the tiny base the answer format is decided by its pair
of verb and topic, so the three are disjoint by masked text and no model was trained on a combination of a test log.
"""

import argparse
import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logreasoner import cli
from logreasoner.config import load_yaml
from logreasoner.files import BUILD, ROOT, digest, manifest, write_jsonl
from logreasoner.instances import Instance

WORDS = ROOT / "demo" / "logs.yaml"
FOLDER = BUILD / "data" / "bundled"
SPLITS = ("train", "test", "form")


@functools.cache
def words() -> dict[str, Any]:
    """demo/logs.yaml."""
    return dict(load_yaml(WORDS))


@dataclass(frozen=True)
class Line:
    """One log line and what is true of it."""

    text: str
    topic: str
    fault: bool


def dealt(value: list[str]) -> float:
    """Hash a value to a number in [0, 1)."""
    return int(digest([words()["seed"], *value])[:12], 16) / 16**12


@functools.cache
def split_of(verb: str, topic: str) -> str:
    """Return the one split in which a verb and a topic may occur together."""
    share = words()["split"]
    number = dealt([verb, topic])
    return "test" if number < share["test"] else "form" if number < share["test"] + share["form"] else "train"


@functools.cache
def pairs(family: str, split: str, fault: bool, cause: str | None = None) -> list[tuple[str, str]]:
    """List each (verb, topic) of a family (network, system) in a split, with or without fault; of a cause if given."""
    topics = words()[family]["topics"]
    verbs = words()["verbs"]["fault" if fault else "notice"]
    return [(verb, topic) for verb in verbs for topic in topics
            if split_of(verb, topic) == split and (cause is None or topics[topic]["cause"] == cause)]


def line(rng: random.Random, family: str, source: str, verb: str, topic: str) -> Line:
    """Draw a log line of a source: its component, place and numbers."""
    form = words()[family]
    vendor = form["sources"][source].get("vendor", source)
    fault = verb in words()["verbs"]["fault"]
    numbers = {"a": rng.randint(1, 9), "b": rng.randint(10, 99)}
    values: dict[str, Any] = {
        "verb": verb, "topic": topic, "component": rng.choice(form["components"][vendor]),
        "place": rng.choice(form["places"]).format(**numbers), "mnemonic": topic.upper()}
    if family == "network":
        values["module"] = rng.choice(form["modules"][vendor])
        values["level"] = rng.choice(form["levels"]["fault" if fault else "notice"])
    else:
        values["node"] = rng.choice(form["nodes"][vendor]).format(**numbers)
    return Line(form["log"].format(**values), topic, fault)


def anomaly_detection(rng: random.Random, source: str, split: str) -> dict[str, Any]:
    """Draw a window of lines for the test, one line for training, either for form; abnormal if any line is a fault."""
    window = words()["window"]
    wide = split == "test" or (split == "form" and rng.random() < 0.5)
    count = rng.randint(window["least"], window["most"]) if wide else 1
    abnormal = rng.random() < window["abnormal"]
    faults = [abnormal] + [False] * (count - 1)
    rng.shuffle(faults)
    lines = [line(rng, "system", source, *rng.choice(pairs("system", split, fault))).text for fault in faults]
    return {"log": tuple(lines) if wide else lines[0], "label": "abnormal" if abnormal else "normal"}


def potential_failure_prediction(rng: random.Random, source: str, split: str) -> dict[str, Any]:
    """Draw a network log; a risk level of 4 or less is a failure (prompts hide it)."""
    fault = rng.random() < 0.5
    drawn = line(rng, "network", source, *rng.choice(pairs("network", split, fault)))
    return {"log": drawn.text, "label": str(fault)}


def root_cause_analysis(rng: random.Random, source: str, split: str) -> dict[str, Any]:
    """Draw a network log and the cause of its topic; the causes are equally frequent."""
    cause = rng.choice(sorted({row["cause"] for row in words()["network"]["topics"].values()}))
    both = pairs("network", split, True, cause) + pairs("network", split, False, cause)
    return {"log": line(rng, "network", source, *rng.choice(both)).text, "label": cause}


def log_semantic_matching(rng: random.Random, source: str, split: str) -> dict[str, Any]:
    """Draw a network log with a description of what it reports (True), or of the opposite, maybe elsewhere (False)."""
    fault, same = rng.random() < 0.5, rng.random() < 0.5
    drawn = line(rng, "network", source, *rng.choice(pairs("network", split, fault)))
    topics = words()["network"]["topics"]
    topic = drawn.topic if same or rng.random() < 0.5 else rng.choice(list(topics))
    descriptions = words()["network"]["descriptions"]["fault" if fault == same else "notice"]
    description = rng.choice(descriptions).format(gloss=topics[topic]["gloss"])
    return {"log": drawn.text, "label": str(same), "description": description}


BUILDERS = {"anomaly_detection": anomaly_detection, "log_semantic_matching": log_semantic_matching,
            "potential_failure_prediction": potential_failure_prediction, "root_cause_analysis": root_cause_analysis}


def sources(task: str) -> dict[str, dict[str, str]]:
    """Return the sources of a task, with vendor and device."""
    rows: dict[str, dict[str, str]] = words()["system" if task == "anomaly_detection" else "network"]["sources"]
    if task == "root_cause_analysis":
        return {name: row for name, row in rows.items() if row["vendor"] in words()["network"]["causes_known"]}
    return rows


def instances(split: str) -> Iterator[Instance]:
    """Yield a split's instances, without one log twice in a task and source."""
    for task, build in BUILDERS.items():
        for source, more in sources(task).items():
            rng = random.Random(f"{words()['seed']} {split} {task} {source}")
            seen: set[str] = set()
            while len(seen) < words()["rows"][split][task]:
                drawn = build(rng, source, split)
                identity = digest([task, source, drawn])[:12]
                item = Instance(id=f"{source}-{identity}", task=task, source=source, split=split, **more, **drawn)
                if item.masked not in seen:
                    seen.add(item.masked)
                    yield item


def handbook() -> Iterator[dict[str, Any]]:
    """Yield handbook cases: a symptom and the steps of an analysis; their logs are training logs."""
    rng = random.Random(f"{words()['seed']} handbook")
    network, texts = words()["network"], words()["handbook"]
    for number in range(words()["rows"]["handbook"]):
        source = rng.choice(list(network["sources"]))
        vendor = network["sources"][source]["vendor"]
        verb, topic = rng.choice(pairs("network", "train", rng.random() < 0.5))
        component = rng.choice(network["components"][vendor])
        values = {"verb": verb, "topic": topic, "source": source, "component": component}
        yield {"id": f"case-{number:03}", "source": source, "vendor": vendor,
               "symptom": texts["symptom"].format(**values),
               "analysis": [step.format(**values) for step in rng.choice(texts["analysis"])]}


def key_words(text: str) -> tuple[str, str]:
    """Return the topic and the verb of a log: of its first fault, else of its first line with known words.

    For a log without known words, its two longest, the longest first.
    """
    topics = {*words()["network"]["topics"], *words()["system"]["topics"]}
    faults, notices = words()["verbs"]["fault"], words()["verbs"]["notice"]
    matches: list[tuple[bool, int, str, str]] = []
    for number, row in enumerate(text.splitlines()):
        parts = row.split()
        verb = next((part for part in parts if part in faults or part in notices), None)
        topic = next((part for part in parts if part in topics), None)
        if verb and topic:
            matches.append((verb not in faults, number, topic, verb))
    if matches:
        return min(matches)[2], min(matches)[3]
    longest = sorted({part for part in text.split() if part.isalpha()}, key=lambda part: (-len(part), part))
    first, second = [*longest, "nothing", "nothing"][:2]
    return first, second


def sense(text: str) -> str:
    """Tell what a log or a description reports: harm, work, or "something" where its words are not known."""
    parts, told_by = set(text.replace(".", " ").split()), words()["network"]["told_by"]
    if parts & {*words()["verbs"]["fault"], *told_by["harm"]}:
        return "harm"
    return "work" if parts & {*words()["verbs"]["notice"], *told_by["work"]} else "something"


def main() -> None:
    """Write the bundled data."""
    arguments = cli.parser("demo.logs", "Expand demo/logs.yaml into the instances of the demo.", """
python -m demo.logs --out build/data/bundled""")
    arguments.add_argument("--out", type=Path, default=FOLDER, help="folder for train, test, form and handbook.jsonl")
    cli.run(arguments, write)


def write(given: argparse.Namespace) -> None:
    """Write {train,test,form,handbook}.jsonl and the manifest."""
    counts = {name: write_jsonl(given.out / f"{name}.jsonl", (item.as_json() for item in instances(name)))
              for name in SPLITS}
    counts["handbook"] = write_jsonl(given.out / "handbook.jsonl", handbook())
    manifest(given.out, [WORDS], seed=words()["seed"], counts=counts)
    print(f"{given.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
