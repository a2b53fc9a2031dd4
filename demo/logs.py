"""Expand demo/logs.yaml, by a seed, into the demo's instances of the four tasks.

A log says that a subject (a part of a topic, or a value of it) did something, the event. Its pair of event and topic
decides whether it is for training, for the test or for teaching the tiny base the answer format, so the three are
disjoint by masked text and no model was trained on a combination of a test log.
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
def split_of(event: str, topic: str) -> str:
    """Return the one split in which an event and a topic may occur together."""
    share = words()["split"]
    number = dealt([event, topic])
    return "test" if number < share["test"] else "form" if number < share["test"] + share["form"] else "train"


@functools.cache
def events(fault: bool) -> dict[str, str]:
    """Map each event with or without fault to what it happens to: "part" or "value" of a topic."""
    kinds: dict[str, list[str]] = words()["events"]["fault" if fault else "notice"]
    return {event: kind for kind, phrases in kinds.items() for event in phrases}


@functools.cache
def pairs(family: str, split: str, fault: bool, cause: str | None = None) -> list[tuple[str, str]]:
    """List each (event, topic) of a family (network, system) in a split, with or without fault; of a cause if given."""
    topics, unfit = words()[family]["topics"], words()["unfit"]
    return [(event, topic) for event in events(fault) for topic in topics
            if split_of(event, topic) == split and topic not in unfit.get(event, ())
            and (cause is None or topics[topic]["cause"] == cause)]


def subject(family: str, event: str, topic: str) -> str:
    """Return what an event happens to: the topic's part or its value."""
    return str(words()[family]["topics"][topic][{**events(True), **events(False)}[event]])


def line(rng: random.Random, family: str, source: str, event: str, topic: str) -> Line:
    """Draw a log line of a source: its component, place and numbers."""
    form = words()[family]
    vendor = form["sources"][source].get("vendor", source)
    fault = event in events(True)
    numbers = {"a": rng.randint(1, 9), "b": rng.randint(10, 99)}
    named = subject(family, event, topic)
    values: dict[str, Any] = {
        "event": event, "subject": named, "component": rng.choice(form["components"][vendor]),
        "place": rng.choice(form["places"]).format(**numbers)}
    if family == "network":
        values["module"] = form["topics"][topic]["module"]
        values["mnemonic"] = named.upper().replace(" ", "_")
        values["level"] = rng.choice(form["levels"]["fault" if fault else "notice"])
        return Line(form["log"][vendor].format(**values), topic, fault)
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
        event, topic = rng.choice(pairs("network", "train", rng.random() < 0.5))
        component = rng.choice(network["components"][vendor])
        values = {"event": event, "subject": subject("network", event, topic), "source": source, "component": component}
        yield {"id": f"case-{number:03}", "source": source, "vendor": vendor,
               "symptom": texts["symptom"].format(**values),
               "analysis": [step.format(**values) for step in rng.choice(texts["analysis"])]}


@functools.cache
def subjects() -> list[str]:
    """List the parts and values of every topic."""
    return [topic[kind] for family in ("network", "system") for topic in words()[family]["topics"].values()
            for kind in ("part", "value")]


def key_words(text: str) -> tuple[str, str]:
    """Return the subject and the event of a log: of its first fault, else of its first line with known words.

    For a log without known words, its two longest, the longest first.
    """
    matches: list[tuple[bool, int, str, str]] = []
    for number, row in enumerate(text.splitlines()):
        event = next((phrase for phrase in (*events(True), *events(False)) if phrase in row), None)
        named = next((phrase for phrase in subjects() if phrase in row), None)
        if event and named:
            matches.append((event not in events(True), number, named, event))
    if matches:
        return min(matches)[2], min(matches)[3]
    longest = sorted({part for part in text.split() if part.isalpha()}, key=lambda part: (-len(part), part))
    first, second = [*longest, "nothing", "nothing"][:2]
    return first, f"is mentioned with {second}"


def sense(text: str) -> str:
    """Tell what a log or a description reports: a fault, a normal event, or an event whose words are not known."""
    told_by = words()["network"]["told_by"]
    if any(phrase in text for phrase in (*events(True), *told_by["fault"])):
        return "a fault"
    return "a normal event" if any(phrase in text for phrase in (*events(False), *told_by["notice"])) else "an event"


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
