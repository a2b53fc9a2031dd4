"""Instances -> the splits of a run: stage1, stage2, examples, test, test_seen and handbook (section 4.1).

Few-shot examples are the instances that experiments/examples/<task>.yaml names, else drawn, one of each label
(logreasoner/examples.py). A test row whose log is an example's of its task is left out of both test sets.

No two splits of a task share a log (Instance.masked), and no log stands on both the training and the
test side of any tasks: semantic matching shows the level that failure prediction hides. Where the public files are test
files only, training rows are carved out of them, those that cost the fewest test rows first. Every test row whose log
went to the training side is in test_seen, so that scores can be given for the disjoint part and for all of it.

Rows are drawn in proportion to source and label within each group (a vendor, or a source without one), by the run's
seed.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from data_builders.thoughts import LEAST_STEPS
from logreasoner import cli, examples
from logreasoner.answer_format import without_number
from logreasoner.cli import UserError
from logreasoner.config import Run, check_splits, example_file, load_run
from logreasoner.files import digest, manifest, read_json, read_jsonl, sha256, write_jsonl
from logreasoner.instances import Instance, read_instances
from logreasoner.paper import published
from logreasoner.schemas import Pool, Task
from logreasoner.text_table import aligned

TRAINING = ("stage1", "stage2", "examples")
OUT_OF_DISTRIBUTION = "ood"
MIN_WORDS, MIN_CHARACTERS = 5, 20  # a symptom below both is overly brief; many languages write no spaces

Rows = list[Instance]
Splits = dict[str, Rows]
Case = dict[str, Any]  # {id, source, vendor, symptom, analysis: steps}
Table = list[list[str]]

EXAMPLES = """
python -m logreasoner.config --run paper && python -m data_builders.splits --run paper"""


def group(item: Instance) -> str:
    """Return what a run declares its samples by: the vendor, or the source of a log without one."""
    return item.vendor or item.source


def symptom_keys(case: Case) -> set[str]:
    """Return a handbook case's symptom in both forms of Instance.masked: a vendor's log, and any other."""
    return {Instance("", "", "", case["symptom"], "", vendor=vendor).masked for vendor in ("", "any")}


def shares(sizes: dict[Any, int], count: int) -> dict[Any, int]:
    """Divide count among strata in proportion to their sizes; the largest remainders get what rounding leaves."""
    total = sum(sizes.values())
    count = min(count, total)
    exact = {name: count * size / total for name, size in sizes.items()} if total else {}
    result = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (result[name] - exact[name], str(name)))
    for name in by_remainder[:count - sum(result.values())]:
        result[name] += 1
    return result


def quotas(sizes: dict[Any, int], count: int, pool: Pool | None) -> dict[Any, int]:
    """Divide count among strata as `shares`; of a pool at least `least` to each that has so many.

    With `at_most` none gets more than so many times what the smallest gets, which may be fewer than count in all.
    """
    result = shares(sizes, count)
    floor = {name: min(pool.least if pool else 0, size) for name, size in sizes.items()}
    if any(result[name] < floor[name] for name in sizes):
        room = max(0, count - sum(floor.values()))
        more = shares({name: size - floor[name] for name, size in sizes.items()}, room)
        result = {name: floor[name] + more[name] for name in sizes} if room else shares(floor, count)
    if pool and pool.at_most and result:
        most = int(pool.at_most * max(1, min(result.values())))
        result = {name: min(number, most) for name, number in result.items()}
    return result


def draw(rows: Rows, count: int, seed: str, cost: Callable[[Instance], int] = lambda item: 0,
         pool: Pool | None = None) -> Rows:
    """Draw count rows in proportion to source and label, as a pool says, within each those of the lowest cost first."""
    strata: defaultdict[tuple[str, str], Rows] = defaultdict(list)
    for item in sorted(rows, key=lambda item: item.id):
        strata[item.source, item.label].append(item)
    drawn: Rows = []
    quota = quotas({name: len(stratum) for name, stratum in strata.items()}, count, pool)
    for name, stratum in sorted(strata.items()):
        random.Random(f"{seed} {name}").shuffle(stratum)
        drawn += sorted(stratum, key=cost)[:quota[name]]
    return drawn


class Builder:
    """Draws the training splits; `cost` says in how many test rows each log (masked text) still stands."""

    def __init__(self, run: Run, train: Rows, test: Rows):
        self.run, self.seed, self.tasks = run, run.experiment.seed, run.tasks()
        self.pools: dict[str, Pool] = {"stage1": run.experiment.stage1, "stage2": run.experiment.stage2}
        self.samples = {name: pool.samples for name, pool in self.pools.items()}
        self.labels = {name: task.labels for name, task in self.tasks.items()}
        self.examples = {name: examples.count(run.experiment.shots, task) for name, task in self.tasks.items()}
        self.parts: defaultdict[str, set[str]] = defaultdict(set)  # logs of declared examples, also within a window
        self.train = [item for item in train if item.task in self.labels]
        self.test = [item for item in test if item.task in self.labels]
        self.keys = {item.id: item.masked for item in (*self.train, *self.test)}
        self.cost = Counter(self.keys[item.id] for item in self.test)
        self.splits: dict[str, Splits] = {name: {task: [] for task in self.labels} for name in TRAINING}

    def keys_of(self, rows: Iterable[Instance]) -> set[str]:
        """Return the masked texts of rows."""
        return {self.keys[item.id] for item in rows}

    def wanted(self, task: str) -> Counter[str]:
        """Count the rows that are declared of each group, over both stages, with room for the examples."""
        declared = sum((Counter(samples.get(task, {})) for samples in self.samples.values()), Counter[str]())
        return Counter({name: count + self.examples[task] for name, count in declared.items()})

    def candidates(self, task: str, name: str, carve: bool) -> Rows:
        """List the rows of a group to draw from, one of each log and description; those with two labels are left out.

        Without carving these are training rows whose log stands in no test row.
        """
        equal: defaultdict[tuple[str, str], Rows] = defaultdict(list)
        for item in (*self.train, *self.test) if carve else self.train:
            key = self.keys[item.id]
            if (item.task == task and group(item) == name and item.split != OUT_OF_DISTRIBUTION
                    and (carve or not self.cost[key])):
                equal[key, "".join(item.description.split())].append(item)
        return [items[0] for items in equal.values() if len({item.label for item in items}) == 1]

    def missing(self, task: str) -> int:
        """Count the logs that a task lacks if it may only use those that stand in no test row."""
        return sum(max(0, count - len(self.keys_of(self.candidates(task, name, carve=False))))
                   for name, count in self.wanted(task).items())

    def fill(self, task: str) -> None:
        """Draw a task's examples unless they are declared, then stage 1 and stage 2 of each group.

        Carve where a group has too few logs.
        """
        path, rows = example_file(self.run.experiment, task), {}
        if path and self.examples[task]:
            self.place(task, path)
        for name, count in sorted(self.wanted(task).items()):
            rows[name] = self.candidates(task, name, carve=False)
            if len(self.keys_of(rows[name])) < count:
                rows[name] = self.candidates(task, name, carve=True)
        names, labels = list(rows), self.labels[task]
        for number in range(self.examples[task] if names and not path else 0):
            label, name = labels[number % len(labels)], names[number % len(names)]
            possible = [item for item in rows[name] if item.label == label] or \
                       [item for others in rows.values() for item in others if item.label == label]
            self.add("examples", task, possible, 1, f"{name} {number}")
        for split, samples in self.samples.items():
            for name, count in sorted(samples.get(task, {}).items()):
                self.add(split, task, rows[name], count, name)

    def place(self, task: str, path: Path) -> None:
        """Make the instances that a file names the examples of a task.

        Raises UserError for one that is not there or has another label.
        """
        rows = [item for item in (*self.train, *self.test) if item.task == task and item.split != OUT_OF_DISTRIBUTION]
        by_id = {item.id: item for item in rows}
        for solution in examples.load(path, self.tasks[task]):
            if missing := [name for name in solution.ids if name not in by_id]:
                raise UserError(f"{path}: {missing[0]}: the data of this run have no such instance of {task}; name "
                                "another one, or remove the file and examples are drawn")
            parts = [by_id[name] for name in solution.ids]
            item = examples.window(parts, self.tasks[task])
            if item.label != solution.answer:
                raise UserError(f"{path}: {item.id}: its answer is {solution.answer}, its label {item.label}")
            self.splits["examples"][task].append(item)
            self.keys[item.id] = item.masked
            self.parts[task] |= self.keys_of(parts)
        for key in self.parts[task]:
            self.cost[key] = 0

    def add(self, split: str, task: str, rows: Rows, count: int, seed: str) -> None:
        """Draw up to count rows for a split, none of a log that another split of the task has."""
        others = self.parts[task] | self.keys_of(
            item for name in TRAINING if name != split for item in self.splits[name][task])
        present = {item.id for item in self.splits[split][task]}
        free = [item for item in rows if self.keys[item.id] not in others and item.id not in present]
        drawn = draw(free, count, f"{self.seed} {split} {task} {seed}", lambda item: self.cost[self.keys[item.id]],
                     self.pools.get(split))
        self.splits[split][task] += drawn
        for key in self.keys_of(drawn):
            self.cost[key] = 0  # it is on the training side now: using it again costs nothing

    def handbook(self, cases: list[Case], count: int) -> list[Case]:
        """Choose count handbook cases, those whose symptom stands in the fewest test rows first."""
        cases = sorted(cases, key=lambda case: str(case["id"]))
        random.Random(f"{self.seed} handbook").shuffle(cases)
        chosen = sorted(cases, key=lambda case: sum(self.cost[key] for key in symptom_keys(case)))[:count]
        for key in set().union(*map(symptom_keys, chosen)):
            self.cost[key] = 0
        return chosen


def limit_test_rows(test: Rows, seen: Rows, limit: int | None, seed: int) -> tuple[Rows, Rows]:
    """Draw at most `limit` test rows of each task and source, by label, and the same share of test_seen."""
    if limit is None:
        return test, seen
    sizes = Counter((item.task, item.source) for item in test)
    drawn: list[Rows] = []
    for number, rows in enumerate((test, seen)):
        ids: set[str] = set()
        for key in sorted({(item.task, item.source) for item in rows}):
            part = [item for item in rows if (item.task, item.source) == key]
            count = round(len(part) * min(1.0, limit / sizes[key])) if sizes[key] else 0
            ids |= {item.id for item in draw(part, count, f"{seed} {number} {key}")}
        drawn.append([item for item in rows if item.id in ids])
    return drawn[0], drawn[1]


def build(run: Run, train: Rows, test: Rows, cases: list[Case]) -> tuple[Builder, Splits, list[Case]]:
    """Draw the splits of a run and its handbook cases. Raises UserError for a split that would be empty."""
    tasks = run.tasks()
    builder = Builder(run, train, test)
    handbook = builder.handbook(cases, run.experiment.stage1.handbook)
    # The task with the fewest free logs carves first; what it carves then costs the other tasks nothing.
    for task in sorted(tasks, key=lambda name: (-builder.missing(name), name)):
        builder.fill(task)
    splits: Splits = {name: [item for task in tasks for item in rows[task]] for name, rows in builder.splits.items()}
    training = builder.keys_of(item for rows in splits.values() for item in rows)
    training = training.union(*builder.parts.values(), *map(symptom_keys, handbook))
    shown = {task: builder.parts[task] | builder.keys_of(builder.splits["examples"][task]) for task in tasks}
    test = [item for item in builder.test if builder.keys[item.id] not in shown[item.task]]
    disjoint = [item for item in test if builder.keys[item.id] not in training]
    seen = [item for item in test if builder.keys[item.id] in training]
    splits["test"], splits["test_seen"] = limit_test_rows(disjoint, seen, run.experiment.test_rows, builder.seed)
    for task in tasks:
        for split, samples in builder.samples.items():
            if any(samples.get(task, {}).values()) and not any(item.task == task for item in splits[split]):
                groups = sorted({group(item) for item in builder.train if item.task == task})
                raise UserError(f"{split}: no instance for {task} in {', '.join(samples[task])}; the data have "
                                f"{', '.join(groups) or 'none at all'}")
        if not any(item.task == task and item.split != OUT_OF_DISTRIBUTION for item in splits["test"]):
            raise UserError(f"test: no instance for {task} that is not in training; add some or sample fewer")
    return builder, splits, handbook


def proof(splits: Splits, handbook: list[Case], tasks: Sequence[str]) -> tuple[Table, Table, int]:
    """Count rows and distinct logs of every split by task, and all overlaps with their sum, anew from the rows."""
    logs = {(name, task): {item.masked for item in rows if item.task == task}
            for name, rows in splits.items() for task in tasks}
    pairs = list(combinations([*TRAINING, "test"], 2))
    counts = [["task", *(f"{name}: rows/logs" for name in splits)]]
    shared = [["shared logs", *(f"{one} & {other}" for one, other in pairs)]]
    total = 0
    for task in tasks:
        counts.append([task, *(f"{sum(item.task == task for item in rows):,} / {len(logs[name, task]):,}"
                               for name, rows in splits.items())])
        overlaps = [len(logs[one, task] & logs[other, task]) for one, other in pairs]
        shared.append([task, *map(str, overlaps)])
        total += sum(overlaps)
    training = set().union(*map(symptom_keys, handbook), *(logs[name, task] for name in TRAINING for task in tasks))
    across = len(training & set().union(*(logs["test", task] for task in tasks)))
    shared.append(["all tasks and the handbook", f"training & test: {across}", *[""] * (len(pairs) - 1)])
    return counts, shared, total + across


def balance(splits: Splits, tasks: Mapping[str, Task]) -> Table:
    """Count the rows of every split by task and label."""
    counted = {name: Counter((item.task, item.label) for item in rows) for name, rows in splits.items()}
    return [["task", "label", *splits], *(
        [name, label, *(f"{counts[name, label]:,}" for counts in counted.values())]
        for name, task in tasks.items() for label in task.labels)]


def table1(splits: Splits, handbook: list[Case], run: Run, paper: dict[str, Any]) -> Table:
    """Return Table 1 as built beside the paper's, each difference with its reason."""
    table = [["stage", "task", "paper (SFT + DPO)", "built", "reason of the difference"]]
    for row in paper["rows"]:
        stage, task = row["stage"], row["task"]
        samples = (run.experiment.stage1 if stage == "stage1" else run.experiment.stage2).samples.get(task, {})
        built = Counter(group(item) for item in splits[stage] if item.task == task)
        if task == "handbook":
            samples, built = {task: run.experiment.stage1.handbook}, Counter({task: len(handbook)})
        reasons = [f"{name}: {built[name]} of {count}, no more {'cases' if task == 'handbook' else 'logs'}"
                   for name, count in samples.items() if built[name] < count]
        declared, printed = sum(samples.values()), row["sft"] + (row["dpo"] or 0)
        if declared != printed:
            reasons.append("this run declares fewer" if declared < printed else "this run declares more")
        if note := paper["reasons"].get(f"{stage} {task}"):
            reasons.append(note)
        table.append([stage, task, f"{printed:,}", f"{built.total():,}", "; ".join(reasons) or "equal"])
    return table


def table2(test: Rows, splits: Splits, run: Run, paper: dict[str, Any]) -> Table:
    """Return Table 2 as built beside the paper's: all rows of each source, those disjoint from training, and why."""
    table = [["task", "source", "paper", "files", "test", "test_seen", "reason of the difference"]]

    def size(rows: Rows, task: str, source: str) -> int:
        return sum(1 if isinstance(item.log, str) else len(item.log)
                   for item in rows if (item.task, item.source) == (task, source))

    for task in run.tasks():
        printed = paper["rows"].get(task, {})
        split_of = {item.source: item.split for item in test if item.task == task}
        for source in dict.fromkeys([*printed, *split_of]):
            every, disjoint, seen = (size(rows, task, source) for rows in (test, splits["test"], splits["test_seen"]))
            reasons = []
            if source in split_of and source in printed and task == "anomaly_detection":
                if every != printed[source]:
                    reasons.append("lines without a header or in no full window left out")
            elif every != printed.get(source) and (note := paper["reasons"].get(f"{task} {source}")):
                reasons.append(note)
            if split_of.get(source) == OUT_OF_DISTRIBUTION:
                reasons.append("out of distribution: never trained on")
            elif source not in printed and not reasons:
                reasons.append("not in the paper")
            if seen:
                reasons.append("test_seen: logs carved out for training")
            if disjoint + seen < every:
                limit = run.experiment.test_rows
                reasons.append(f"this run tests at most {limit} rows of a source" if limit else
                               f"{every - disjoint - seen} with the log of a few-shot example left out")
            table.append([task, source, f"{printed[source]:,}" if source in printed else "-", f"{every:,}",
                          f"{disjoint:,}", f"{seen:,}", "; ".join(reasons) or "equal"])
    return table


def own_cases(path: Path) -> list[Case]:
    """Read a user's handbook cases, {symptom, steps}, after the paper's filters (section 3.2.1 (1)).

    Those with fewer than three steps or an overly brief symptom, and repeated ones, are counted and left out. Raises
    UserError with the line of one that lacks a field.
    """
    cases: dict[str, Case] = {}
    left_out = Counter[str]()
    for number, row in read_jsonl(path):
        symptom, steps = row.get("symptom"), row.get("steps")
        if not isinstance(symptom, str) or not isinstance(steps, list) or not all(
                isinstance(step, str) for step in steps):
            raise UserError(f"{path}:{number}: a handbook case is one line "
                            '{"symptom": "...", "steps": ["...", "...", "..."]}')
        case: Case = {"id": f"handbook-{digest(symptom)[:16]}", "source": path.stem, "vendor": "",
                      "symptom": symptom.strip(), "analysis": [without_number(step) for step in steps if step.strip()]}
        if len(case["analysis"]) < LEAST_STEPS:
            left_out[f"with fewer than {LEAST_STEPS} steps"] += 1
        elif len(symptom.split()) < MIN_WORDS and len(symptom.strip()) < MIN_CHARACTERS:
            left_out["with an overly brief symptom"] += 1
        elif case["id"] in cases:
            left_out["repeated"] += 1
        else:
            cases[case["id"]] = case
    for why, count in left_out.items():
        print(f"{path}: {count:,} cases {why} left out")
    return list(cases.values())


def read_cases(path: Path) -> list[Case]:
    """Read handbook cases. Raises UserError with the line of one that lacks a field."""
    cases = []
    for number, case in read_jsonl(path):
        if not {"id", "source", "vendor", "symptom", "analysis"} <= set(case):
            raise UserError(f"{path}:{number}: a handbook case needs id, source, vendor, symptom and analysis")
        cases.append(case)
    return cases


def remarks(builder: Builder, splits: Splits, handbook: list[Case]) -> list[str]:
    """Say what carving cost, and what the equality of whole logs cannot see."""
    test_ids = {item.id for item in builder.test}
    training = [item for name in TRAINING for item in splits[name]]
    notes = []
    for task in builder.labels:
        carved = sum(item.id in test_ids for item in training if item.task == task)
        seen = sum(item.task == task and item.split != OUT_OF_DISTRIBUTION for item in splits["test_seen"])
        notes.append(f"{task}: {carved:,} training rows carved out of test files; {seen:,} test rows are in test_seen")
    if handbook:
        logs = set(builder.keys.values())
        shared = sum(bool(symptom_keys(case) & logs) for case in handbook)
        notes.append(f"handbook: {shared:,} of {len(handbook):,} symptoms are also logs of the tasks' files")
    lines = {line for item in splits["test"] if not isinstance(item.log, str) for line in item.log}
    if lines:
        equal = sum(item.log in lines for item in training if isinstance(item.log, str))
        notes.append(f"sessions: {equal:,} training templates stand word for word as one line of a test session "
                     "(the paper trains on templates of the systems it tests on)")
    return notes


def make_splits(name: str) -> None:
    """Write the splits of a run, with a manifest that holds the proof and Tables 1 and 2 as built."""
    run = load_run(name)
    data = run.experiment.data
    files = [data.folder / f"{part}.jsonl" for part in ("train", "test", "handbook")]
    if data.handbook:
        files[2] = Path(data.handbook)
        if not files[2].is_file():
            raise UserError(f"{files[2]}: no such file; HANDBOOK= names a JSONL file of cases (docs/data.md)")
    for path in files:
        if not path.exists():
            commands = {"public": "python -m data_builders.normalise", "bundled": "make data",
                        "own": f"make new-task NAME={data.name} FROM=FILE ARGS=--replace"}
            raise UserError(f"{path}: no such file; make it with: {commands[data.kind]}")
    check_splits(run)
    builder, splits, handbook = build(run, list(read_instances(files[0])), list(read_instances(files[1])),
                                      (own_cases if data.handbook else read_cases)(files[2]))
    counts, shared, overlap = proof(splits, handbook, list(run.tasks()))
    if overlap:
        raise AssertionError(f"splits overlap, which is an error of this program: {shared}")
    tables = {"proof": counts, "overlaps": shared, "balance": balance(splits, run.tasks())}
    if data.kind == "public":
        paper = published().data_tables
        tables["table1"] = table1(splits, handbook, run, paper["table1"])
        tables["table2"] = table2(builder.test, splits, run, paper["table2"])
    for split, items in splits.items():
        write_jsonl(run.splits / f"{split}.jsonl", (item.as_json() for item in items))
    write_jsonl(run.splits / "handbook.jsonl", handbook)
    checksums = {path.name: sha256(path) for path in sorted(run.splits.glob("*.jsonl"))}
    sizes = {split: len(items) for split, items in splits.items()}
    manifest(run.splits, files, files=checksums, run=run.name, mark=run.mark, seed=run.experiment.seed,
             overlap=overlap, notes=remarks(builder, splits, handbook), rows={**sizes, "handbook": len(handbook)},
             tables=tables)
    print(f"{run.splits}: {', '.join(f'{split} {size:,}' for split, size in sizes.items())} rows, overlap {overlap}")


def show(name: str) -> None:
    """Print the proof and the tables of splits that were drawn before."""
    record = read_json(load_run(name).splits / "manifest.json")
    paper, tables = published().data_tables, record["tables"]
    print(f"Splits of run {name} (logs: distinct ones; of a vendor with the level masked and white space removed)\n")
    print(aligned(tables["proof"]) + "\n\n" + aligned(tables["overlaps"]))
    print("\nRows by label\n\n" + aligned(tables["balance"]))
    print(f"\noverlap in all: {record['overlap']}\n")
    print("\n".join(record["notes"]))
    for table in ("table1", "table2"):
        if table in tables:
            print(f"\n{paper[table]['title']}\n\n{aligned(tables[table])}")
            for note in paper[table].get("notes", []):
                print(f"({note})")


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.splits", "Draw a run's splits, disjoint by log, and prove it.", EXAMPLES,
                        required=["run"])
    parser.add_argument("--show", action="store_true", help="print the proof and Tables 1 and 2 of the drawn splits")
    cli.run(parser, lambda options: (show if options.show else make_splits)(options.run))


if __name__ == "__main__":
    main()
