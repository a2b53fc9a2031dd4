"""Instances -> the splits of a run: stage1, stage2, examples, test, test_seen and handbook (section 4.1).

No two splits of a task share a log (level masked, white space removed), and no log stands on both the training and the
test side of any tasks: semantic matching shows the level that failure prediction hides. Where the public files are test
files only, training rows are carved out of them, those first that cost the fewest test rows. Every test row whose log
went to the training side is in test_seen, so that scores can be given for the disjoint part and for all of it.

Sampling is proportional to source and label within each group (a vendor, or a system without one), by the run's seed.
"""

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, check_splits, load_run
from logreasoner.files import manifest, read_json, read_jsonl, sha256, write_jsonl
from logreasoner.instances import Instance, read_instances
from logreasoner.paper import published

TRAINING = ("stage1", "stage2", "examples")
OUT_OF_DISTRIBUTION = "ood"

Rows = list[Instance]
Splits = dict[str, Rows]
Case = dict[str, Any]  # {id, source, vendor, symptom, analysis: steps}
Table = list[list[str]]

EXAMPLES = """
python -m logreasoner.config --run paper && python -m data_builders.splits --run paper"""


def group(item: Instance) -> str:
    """What samples are counted by: the vendor, or the source of a log without one."""
    return item.vendor or item.source


def symptom_key(case: Case) -> str:
    """A handbook case's symptom as Instance.masked would have it."""
    return Instance("", "", "", case["symptom"], "").masked


def shares(sizes: dict[Any, int], count: int) -> dict[Any, int]:
    """Split count over strata in proportion to their sizes; the largest remainders get what rounding leaves."""
    total = sum(sizes.values())
    count = min(count, total)
    exact = {name: count * size / total for name, size in sizes.items()} if total else {}
    found = {name: int(part) for name, part in exact.items()}
    for name in sorted(exact, key=lambda name: (found[name] - exact[name], str(name)))[:count - sum(found.values())]:
        found[name] += 1
    return found


def sample(rows: Rows, count: int, cost: Counter[str], keys: dict[str, str], seed: str) -> Rows:
    """Draw count rows, proportionally from each source and label, first those whose log costs the fewest test rows."""
    strata: defaultdict[tuple[str, str], Rows] = defaultdict(list)
    for item in sorted(rows, key=lambda item: item.id):
        strata[item.source, item.label].append(item)
    found: Rows = []
    quota = shares({name: len(part) for name, part in strata.items()}, count)
    for name, part in sorted(strata.items()):
        random.Random(f"{seed} {name}").shuffle(part)
        part.sort(key=lambda item: cost[keys[item.id]])
        found += part[:quota[name]]
    return found


class Builder:
    """Draws the training splits; `cost` says how many test rows each log (masked text) still stands in."""

    def __init__(self, run: Run, train: Rows, test: Rows):
        self.experiment = run.experiment
        self.train, self.test = train, test
        self.keys = {item.id: item.masked for item in (*train, *test)}
        self.cost = Counter(self.keys[item.id] for item in test)
        self.splits: dict[str, Splits] = {name: {task: [] for task in run.tasks()} for name in TRAINING}
        self.labels = {name: task.labels for name, task in run.tasks().items()}

    def wanted(self, task: str) -> Counter[str]:
        """Rows asked of each group, over both stages, with room for the examples."""
        stages = (self.experiment.stage1.samples, self.experiment.stage2.samples)
        asked = sum((Counter(stage.get(task, {})) for stage in stages), Counter[str]())
        return Counter({name: count + self.experiment.examples for name, count in asked.items()})

    def candidates(self, task: str, name: str, carve: bool) -> Rows:
        """Rows of a group to draw from, one per log and description; those with two labels are left out."""
        rows = [item for item in self.train if item.task == task and group(item) == name]
        if carve:
            rows += [item for item in self.test
                     if item.task == task and group(item) == name and item.split != OUT_OF_DISTRIBUTION]
        else:
            rows = [item for item in rows if not self.cost[self.keys[item.id]]]
        same: defaultdict[tuple[str, str], Rows] = defaultdict(list)
        for item in rows:
            same[self.keys[item.id], "".join(item.description.split())].append(item)
        return [part[0] for part in same.values() if len({item.label for item in part}) == 1]

    def logs(self, rows: Iterable[Instance]) -> set[str]:
        """The masked texts of rows."""
        return {self.keys[item.id] for item in rows}

    def short(self, task: str) -> int:
        """How many logs a task lacks if it may only use those that stand in no test row."""
        return sum(max(0, count - len(self.logs(self.candidates(task, name, carve=False))))
                   for name, count in self.wanted(task).items())

    def fill(self, task: str) -> None:
        """Draw a task's examples, then stage 1 and stage 2 of each group; carve where a group is short."""
        rows = {}
        for name, count in sorted(self.wanted(task).items()):
            rows[name] = self.candidates(task, name, carve=False)
            if len(self.logs(rows[name])) < count:
                rows[name] = self.candidates(task, name, carve=True)
        names = list(rows)
        for turn in range(self.experiment.examples if names else 0):
            label, name = self.labels[task][turn % len(self.labels[task])], names[turn % len(names)]
            found = [item for item in rows[name] if item.label == label] or \
                    [item for part in rows.values() for item in part if item.label == label]
            self.draw("examples", task, found, 1, f"{name} {turn}")
        for split, samples in (("stage1", self.experiment.stage1.samples), ("stage2", self.experiment.stage2.samples)):
            for name, count in sorted(samples.get(task, {}).items()):
                self.draw(split, task, rows[name], count, name)

    def draw(self, split: str, task: str, rows: Rows, count: int, what: str) -> None:
        """Add up to count rows to a split, none of a log that another split of the task has."""
        other = self.logs(item for name in TRAINING if name != split for item in self.splits[name][task])
        have = {item.id for item in self.splits[split][task]}
        free = [item for item in rows if self.keys[item.id] not in other and item.id not in have]
        found = sample(free, count, self.cost, self.keys, f"{self.experiment.seed} {split} {task} {what}")
        self.splits[split][task] += found
        for key in self.logs(found):
            self.cost[key] = 0  # it is on the training side now: using it again costs nothing

    def handbook(self, cases: list[Case]) -> list[Case]:
        """The run's handbook cases, first those whose symptom stands in the fewest test rows."""
        keyed = [(symptom_key(case), case) for case in sorted(cases, key=lambda c: c["id"])]
        random.Random(f"{self.experiment.seed} handbook").shuffle(keyed)
        keyed.sort(key=lambda pair: self.cost[pair[0]])
        keyed = keyed[:self.experiment.stage1.handbook]
        for key, _ in keyed:
            self.cost[key] = 0
        return [case for _, case in keyed]


def capped(test: Rows, seen: Rows, cap: int | None, seed: int) -> tuple[Rows, Rows]:
    """At most cap test rows of each task and source, by label; test_seen shrinks alike, so both stay one sample."""
    if cap is None:
        return test, seen
    kept: list[Rows] = []
    keys = {item.id: "" for item in (*test, *seen)}
    sizes = Counter((item.task, item.source) for item in test)
    for side, rows in enumerate((test, seen)):
        ids: set[str] = set()
        for place in sorted({(item.task, item.source) for item in rows}):
            part = [item for item in rows if (item.task, item.source) == place]
            count = round(len(part) * min(1.0, cap / sizes[place])) if sizes[place] else 0
            ids |= {item.id for item in sample(part, count, Counter(), keys, f"{seed} {side} {place}")}
        kept.append([item for item in rows if item.id in ids])
    return kept[0], kept[1]


def build(run: Run, train: Rows, test: Rows, cases: list[Case]) -> tuple[Builder, Splits, list[Case]]:
    """The splits of a run and its handbook cases. Raises UserError for a split that would be empty."""
    tasks = run.tasks()
    builder = Builder(run, [i for i in train if i.task in tasks], [i for i in test if i.task in tasks])
    handbook = builder.handbook(cases)
    # Who is short of free logs carves first; what is carved then costs the other tasks nothing.
    for task in sorted(tasks, key=lambda name: (-builder.short(name), name)):
        builder.fill(task)
    training = builder.logs(item for split in builder.splits.values() for rows in split.values() for item in rows)
    training |= {symptom_key(case) for case in handbook}
    pure = [item for item in builder.test if builder.keys[item.id] not in training]
    seen = [item for item in builder.test if builder.keys[item.id] in training]
    splits: Splits = {name: [item for task in tasks for item in parts[task]] for name, parts in builder.splits.items()}
    splits["test"], splits["test_seen"] = capped(pure, seen, run.experiment.test_rows, run.experiment.seed)
    for task in tasks:
        for split, samples in (("stage1", run.experiment.stage1.samples), ("stage2", run.experiment.stage2.samples)):
            if any(samples.get(task, {}).values()) and not any(item.task == task for item in splits[split]):
                raise UserError(f"{split}: no instance for {task} in {', '.join(samples[task])}; the data have "
                                f"{', '.join(sorted({group(i) for i in train if i.task == task})) or 'none at all'}")
        if not any(item.task == task and item.split != OUT_OF_DISTRIBUTION for item in splits["test"]):
            raise UserError(f"test: no instance for {task} that is not in training; add some or sample fewer")
    return builder, splits, handbook


def proof(splits: Splits, handbook: list[Case], tasks: Sequence[str]) -> tuple[Table, Table, int]:
    """Rows and distinct logs of every split by task, all overlaps, and their sum, counted anew from the rows."""
    logs = {(name, task): {i.masked for i in rows if i.task == task} for name, rows in splits.items() for task in tasks}
    pairs = list(combinations([*TRAINING, "test"], 2))
    counts = [["task", *(f"{name}: rows/logs" for name in splits)]]
    shared = [["shared logs", *(f"{one} & {other}" for one, other in pairs)]]
    total = 0
    for task in tasks:
        counts.append([task, *(f"{sum(i.task == task for i in rows):,} / {len(logs[name, task]):,}"
                               for name, rows in splits.items())])
        both = [len(logs[one, task] & logs[other, task]) for one, other in pairs]
        shared.append([task, *map(str, both)])
        total += sum(both)
    training = {key for (name, _), keys in logs.items() if name in TRAINING for key in keys}
    training |= {symptom_key(case) for case in handbook}
    tested = {key for (name, _), keys in logs.items() if name == "test" for key in keys}
    across = len(training & tested)
    shared.append(["all tasks and the handbook", f"training & test: {across}", *[""] * (len(pairs) - 1)])
    return counts, shared, total + across


def table1(splits: Splits, handbook: list[Case], run: Run, printed: dict[str, Any]) -> Table:
    """Table 1 as built beside the paper's, each difference with its reason."""
    table = [["stage", "task", "paper (SFT + DPO)", "built", "reason of the difference"]]
    for row in printed["rows"]:
        stage, task = row["stage"], row["task"]
        samples = (run.experiment.stage1 if stage == "stage1" else run.experiment.stage2).samples.get(task, {})
        rows = [item for item in splits[stage] if item.task == task]
        have = Counter(group(item) for item in rows)
        asked = run.experiment.stage1.handbook if task == "handbook" else sum(samples.values())
        built = len(handbook) if task == "handbook" else len(rows)
        paper = row["sft"] + (row["dpo"] or 0)
        reasons = [f"{name}: {have[name]} of {count}, no more logs"
                   for name, count in samples.items() if have[name] < count]
        if task == "handbook" and built < asked:
            reasons.append(f"{built} of {asked}, no more cases")
        if asked != paper:
            reasons.append("this run declares fewer" if asked < paper else "this run declares more")
        if note := printed["reasons"].get(f"{stage} {task}"):
            reasons.append(note)
        table.append([stage, task, f"{paper:,}", f"{built:,}", "; ".join(reasons) or "equal"])
    return table


def table2(builder: Builder, splits: Splits, run: Run, printed: dict[str, Any]) -> Table:
    """Table 2 as built beside the paper's: all rows of each source, those disjoint from training, and why."""
    table = [["task", "source", "paper", "files", "test", "test_seen", "reason of the difference"]]

    def size(rows: Rows) -> int:
        return sum(1 if isinstance(item.log, str) else len(item.log) for item in rows)

    for task in run.tasks():
        paper = printed["rows"].get(task, {})
        found = {item.source: item.split for item in builder.test if item.task == task}
        for source in [*paper, *(name for name in found if name not in paper)]:
            all_rows, test, seen = (size([i for i in rows if (i.task, i.source) == (task, source)])
                                    for rows in (builder.test, splits["test"], splits["test_seen"]))
            reasons = [printed["reasons"][key] for key in [f"{task} {source}"]
                       if key in printed["reasons"] and all_rows != paper.get(source)]
            if source in found and task == "anomaly_detection" and source in paper:
                reasons = [] if all_rows == paper[source] else ["lines without a header or in no full window left out"]
            if found.get(source) == OUT_OF_DISTRIBUTION:
                reasons.append("out of distribution: never trained on")
            elif source in found and source not in paper and not reasons:
                reasons.append("not in the paper")
            if seen:
                reasons.append("test_seen: logs carved out for training")
            if test + seen < all_rows:
                reasons.append(f"this run tests at most {run.experiment.test_rows} rows of a source")
            table.append([task, source, f"{paper[source]:,}" if source in paper else "-", f"{all_rows:,}", f"{test:,}",
                          f"{seen:,}", "; ".join(reasons) or "equal"])
    return table


def aligned(rows: Table) -> str:
    """A table in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def _cases(path: Path) -> list[Case]:
    cases = []
    for number, case in read_jsonl(path):
        if not {"id", "source", "vendor", "symptom", "analysis"} <= set(case):
            raise UserError(f"{path}:{number}: a handbook case needs id, source, vendor, symptom and analysis")
        cases.append(case)
    return cases


def remarks(builder: Builder, splits: Splits, handbook: list[Case]) -> list[str]:
    """What carving cost, and what equality of whole logs cannot see."""
    tested = {item.id for item in builder.test}
    found = []
    for task in builder.labels:
        carved = sum(item.id in tested for name in TRAINING for item in splits[name] if item.task == task)
        seen = sum(item.task == task and item.split != OUT_OF_DISTRIBUTION for item in splits["test_seen"])
        found.append(f"{task}: {carved:,} training rows carved out of test files; {seen:,} test rows are in test_seen")
    if handbook:
        logs = set(builder.keys.values())
        shared = sum(symptom_key(case) in logs for case in handbook)
        found.append(f"handbook: {shared:,} of {len(handbook):,} symptoms are also logs of the tasks' files")
    lines = {line for item in splits["test"] if not isinstance(item.log, str) for line in item.log}
    plain = [item for name in TRAINING for item in splits[name] if isinstance(item.log, str)]
    if lines:
        alike = sum(item.log in lines for item in plain)
        found.append(f"sessions: {alike:,} training templates stand word for word as one line of a test session "
                     "(the paper trains on templates of the systems it tests on)")
    return found


def make_splits(name: str) -> None:
    """Write the splits of a run, with a manifest that holds the proof and Tables 1 and 2 as built."""
    run = load_run(name)
    data = run.experiment.data
    files = [data.folder / f"{part}.jsonl" for part in ("train", "test", "handbook")]
    for path in files:
        if not path.exists():
            made = {"public": "python -m data_builders.normalise", "bundled": "make data",
                    "own": f"make new-task NAME={data.name} FROM=FILE ARGS=--replace"}
            raise UserError(f"{path}: no such file; make it with: {made[data.kind]}")
    check_splits(run)
    builder, splits, handbook = build(run, list(read_instances(files[0])), list(read_instances(files[1])),
                                     _cases(files[2]))
    counts, shared, overlap = proof(splits, handbook, list(run.tasks()))
    if overlap:
        raise AssertionError(f"splits overlap, which is an error of this program: {shared}")
    notes = remarks(builder, splits, handbook)
    printed = published().data_tables
    tables = {"proof": counts, "overlaps": shared}
    if data.kind == "public":
        tables["table1"] = table1(splits, handbook, run, printed["table1"])
        tables["table2"] = table2(builder, splits, run, printed["table2"])
    for part, items in splits.items():
        write_jsonl(run.splits / f"{part}.jsonl", (item.as_json() for item in items))
    write_jsonl(run.splits / "handbook.jsonl", handbook)
    written = {path.name: sha256(path) for path in sorted(run.splits.glob("*.jsonl"))}
    manifest(run.splits, files, files=written, run=run.name, mark=run.mark, seed=run.experiment.seed, overlap=overlap,
             notes=notes, rows={**{part: len(items) for part, items in splits.items()}, "handbook": len(handbook)},
             tables=tables)
    rows = ", ".join(f"{part} {len(items):,}" for part, items in splits.items())
    print(f"{run.splits}: {rows} rows, overlap {overlap}")


def show(name: str) -> None:
    """Print the proof and the tables of splits that were drawn before."""
    drawn = read_json(load_run(name).splits / "manifest.json")
    said, tables = published().data_tables, drawn["tables"]
    print(f"Splits of run {name} (logs: distinct ones, with the level masked and white space removed)\n")
    print(aligned(tables["proof"]) + "\n\n" + aligned(tables["overlaps"]))
    print(f"\noverlap in all: {drawn['overlap']}\n")
    print("\n".join(drawn["notes"]))
    for table in ("table1", "table2"):
        if table in tables:
            print(f"\n{said[table]['title']}\n\n{aligned(tables[table])}")
            for note in said[table].get("notes", []):
                print(f"({note})")


def main() -> None:
    """The command line."""
    arguments = cli.parser("data_builders.splits", "Draw a run's splits, disjoint by log, and prove it.", EXAMPLES)
    arguments.add_argument("--run", required=True, help="a run that was declared with python -m logreasoner.config")
    arguments.add_argument("--show", action="store_true", help="print the proof and Tables 1 and 2 of the drawn splits")

    def start(given: argparse.Namespace) -> None:
        (show if given.show else make_splits)(given.run)

    cli.run(arguments, start)


if __name__ == "__main__":
    main()
