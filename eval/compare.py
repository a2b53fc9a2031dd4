"""Compare scores: paired tests on the same instances, and the spread over runs that differ in their seed.

`pair` asks whether a difference may come from the choice of test logs: McNemar's exact test for accuracy, approximate
randomisation for F1 and weighted F1, Holm's correction over all the tests printed. `spread` shows what another seed
does.
"""

import argparse
import re
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from eval.paired import RESAMPLES, compared, holm, joint_table
from eval.predictions import answered_tasks, answers, read_test_splits, test_sets
from eval.provenance import check_answers, split_hashes
from eval.score import SEED
from eval.tables import Scored, read_result
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, differences, load_run, relevant, task, variant
from logreasoner.files import manifest, write_json

SEEDS = ("name", "title", "seed", "training_seed")  # in what the runs of a spread may differ


class Side(NamedTuple):
    """One of the two that are compared: a model at a stage of a run, its answers voted over `samples`."""

    run: Run
    model: str
    stage: str
    samples: int

    def responses(self, limit: int | None) -> Path:
        """Path of its answers: to the subset, or to the whole test splits if only these are there."""
        part, whole = (self.run.predictions(self.model, self.stage, at_most, self.samples)
                       for at_most in (limit, None))
        return part if part.exists() or not whole.exists() else whole

    def as_json(self) -> dict[str, Any]:
        """Return the side as the result names it."""
        return {**self._asdict(), "run": self.run.name}


def read_side(run: str, text: str) -> Side:
    """Read MODEL/STAGE or MODEL/STAGE:SAMPLES. Raises UserError for unknown names."""
    match = re.fullmatch(r"([^/]+)/([^/:]+)(?::([1-9][0-9]{0,3}))?", text)
    if not match:
        raise UserError(f"{text!r}: expected MODEL/STAGE, or MODEL/STAGE:SAMPLES for a vote")
    result = Side(load_run(run), match[1], match[2], int(match[3] or 1))
    result.run.check(result.model, result.stage)
    return result


def pair(a: Side, b: Side, tasks: list[str], limit: int | None) -> dict[str, Any]:
    """Run paired tests, a row for each test set and metric; `all` only where training has seen some of it.

    Raises UserError unless both runs have the same test splits and the same kind of teacher.
    """
    splits, others = read_test_splits(a.run), read_test_splits(b.run)
    if any({item.id: item.label for item in split} != {item.id: item.label for item in other}
           for split, other in zip(splits, others, strict=True)):
        raise UserError(f"{a.run.splits} and {b.run.splits} hold different test instances, so nothing is paired; "
                        "compare runs that share their splits, or look at the spread of their scores")
    if a.run.mark != b.run.mark:
        raise UserError(f"runs {a.run.name} and {b.run.name}: one has a scripted teacher; results are never mixed")
    for side in (a, b):
        check_answers(side.run, side.model, side.stage, side.responses(limit))
    answered = [answered_tasks(side.run, side.model, side.responses(limit)) for side in (a, b)]
    fits = [set(fitting) for fitting in answered if fitting]
    tasks = tasks or sorted(set.intersection(*fits) if fits else [])
    left, right = (answers(side.run, side.model, side.responses(limit), splits, tasks, limit, side.samples)
                   for side in (a, b))
    clean, seen = ([item for item in split if item.id in left] for split in splits)
    rows = [{"task": name, "source": source, "test_set": test_set, **row}
            for (name, source, test_set), items, known in test_sets((clean, seen)) if known or test_set == "disjoint"
            for row in compared(joint_table(items, left, right, task(name).labels), task(name))]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return {"a": a.as_json(), "b": b.as_json(), "teacher": a.run.mark, "tasks": sorted({row["task"] for row in rows}),
            "limit": limit, "correction": f"Holm, over all {len(rows)} tests", "resamples": RESAMPLES, "seed": SEED,
            "rows": rows}


def spread(runs: list[Run], name: str, stage: str, limit: int | None, samples: int) -> dict[str, Any]:
    """Summarise each metric over runs: mean, standard deviation, least and greatest; a row for each test set.

    Raises UserError for fewer than two runs, runs that differ in more than SEEDS, and a test set that one lacks.
    """
    if len({run.name for run in runs}) < max(2, len(runs)):
        raise UserError("--runs: give two runs or more, each once")
    first, *others = (_but_seeds(run, name, stage) for run in runs)
    for run, declared in zip(runs[1:], others, strict=True):
        if changes := "; ".join(differences(first, declared)[:5]):
            raise UserError(f"runs {runs[0].name} and {run.name} differ in more than their seed: {changes}")
    tables = [_rows(run, run.result(name, stage, limit, samples)) for run in runs]
    for run, table in zip(runs, tables, strict=True):
        if unmatched := sorted(set(table) ^ set(tables[0])):
            raise UserError(f"runs {runs[0].name} and {run.name}: only one has a score of {' '.join(unmatched[0])}; "
                            "score both on the same tasks")
    rows = []
    for key in tables[0]:
        scored = [table[key] for table in tables]
        for metric in task(key[0]).metrics:
            values = [row.metrics[metric]["value"] for row in scored]
            rows.append({"task": key[0], "source": key[1], "test_set": key[2], "metric": metric,
                         "mean": statistics.mean(values), "sd": statistics.stdev(values), "min": min(values),
                         "max": max(values), "values": values, "n": [row.n for row in scored]})
    return {"runs": [run.name for run in runs], "model": name, "stage": stage, "limit": limit, "samples": samples,
            "seeds": [{key: run.experiment.model_dump()[key] for key in ("seed", "training_seed")} for run in runs],
            "rows": rows}


def _but_seeds(run: Run, name: str, stage: str) -> dict[str, Any]:
    """Return what a model's scores depend on, without the seeds and the run's name."""
    declared = relevant(run, name, stage)
    experiment = {key: value for key, value in declared["experiment"].items() if key not in SEEDS}
    return {**declared, "run": None, "experiment": experiment}


def _rows(run: Run, path: Path) -> dict[tuple[str, str, str], Scored]:
    return {(row.task, row.source, row.test_set): row for row in read_result(run, path, split_hashes(run)).results}


def _pair(given: argparse.Namespace) -> None:
    a, b = read_side(given.run, given.a), read_side(given.run_b or given.run, given.b)
    result = pair(a, b, given.tasks, given.limit)
    pair_name = f"{given.a}-vs-{f'{given.run_b}-' if given.run_b else ''}{given.b}{variant(given.limit, 1)}"
    out = given.out or a.run.dir / "compare" / f"{re.sub('[/:]', '-', pair_name)}.json"
    write_json(out, result)
    manifest(out, [side.responses(given.limit) for side in (a, b)])
    for row in result["rows"]:
        a_score, b_score, difference, low, high = (100 * row[key] for key in ("a", "b", "difference", "low", "high"))
        discordant = f" ({row['only_a_right']} to {row['only_b_right']})" if "only_a_right" in row else ""
        print(f"{_title(row)}: {a_score:.1f} - {b_score:.1f} = {difference:+.1f} [{low:+.1f}, {high:+.1f}] "
              f"n={row['n']:,} {row['test']}{discordant} p={row['p']:.2g}, corrected {row['p_holm']:.2g}")
    print(f"corrected: {result['correction']}\n{out}")


def _spread(given: argparse.Namespace) -> None:
    runs = [load_run(name) for name in given.runs]
    runs[0].check(given.model, given.stage)
    result = spread(runs, given.model, given.stage, given.limit, given.samples)
    name = f"spread-{given.model}-{given.stage}{variant(given.limit, given.samples)}"
    out = given.out or runs[0].dir / "compare" / f"{name}.json"
    write_json(out, result)
    manifest(out, [run.result(given.model, given.stage, given.limit, given.samples) for run in runs])
    for row in result["rows"]:
        mean, sd, low, high = (100 * row[key] for key in ("mean", "sd", "min", "max"))
        print(f"{_title(row)}: {mean:.1f} sd {sd:.1f}, {low:.1f} to {high:.1f} over {len(runs)} runs, "
              f"n={', '.join(f'{n:,}' for n in row['n'])}")
    print(out)


def _title(row: dict[str, Any]) -> str:
    return f"{row['task']} {row['source']} {row['test_set']} {row['metric']}"


def main() -> None:
    """Compare scores."""
    arguments = cli.parser("eval.compare", "Paired tests between two models, and the spread over seeds.", """
python -m eval.compare pair --run paper --a qwen2.5-7b/dpo --b qwen2.5-7b/base
python -m eval.compare pair --run paper --a qwen2.5-7b/dpo --b tfidf-lr/baseline --tasks root_cause_analysis
python -m eval.compare pair --run paper --a qwen2.5-7b/base:5 --b qwen2.5-7b/base --limit 200
python -m eval.compare spread --runs paper paper-43 paper-44 --model qwen2.5-7b --stage dpo""")
    forms = arguments.add_subparsers(required=True, metavar="{pair,spread}")
    two = forms.add_parser("pair", help="two models on the same instances")
    cli.add_options(two, required=["run"], optional=["limit"])
    two.add_argument("--run-b", help="the run of b, if another; with the same test splits")
    two.add_argument("--a", required=True, metavar="MODEL/STAGE[:SAMPLES]")
    two.add_argument("--b", required=True, metavar="MODEL/STAGE[:SAMPLES]")
    two.add_argument("--tasks", type=cli.names, default=[], help="only these (comma-separated)")
    two.set_defaults(main=_pair)
    several = forms.add_parser("spread", help="one model and stage over runs that differ in their seed")
    several.add_argument("--runs", required=True, nargs="+")
    cli.add_options(several, required=["model", "stage"], optional=["limit", "samples"])
    several.set_defaults(main=_spread)
    for form in (two, several):
        form.add_argument("--out", type=Path, help="JSON (default: in build/runs/RUN/compare)")
    cli.run(arguments, lambda given: given.main(given))


if __name__ == "__main__":
    main()
