"""Score responses, with 95% intervals (sections 4.2.3 and 4.3; docs/evaluation.md).

Two forms: one task's instances (--task, --instances), or every test set of a run (--run, --model, --stage).
An answer that cannot be parsed is scored as wrong and counted; a missing answer is an error. Scores are of strict
answers; lenient ones are reported beside them. Several answers to an instance vote.
"""

import argparse
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.predictions import (
    Answer,
    answered_tasks,
    answers,
    predictions,
    read_test_set,
    read_test_splits,
    test_sets,
)
from eval.provenance import check_answers, split_hashes
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, identity, load_run, task
from logreasoner.files import write_json
from logreasoner.generation.response_cache import LONGER
from logreasoner.instances import Instance, by_id
from logreasoner.schemas import Task

if TYPE_CHECKING:
    import numpy as np

Z = 1.959963984540054  # the normal distribution's 97.5% point
RESAMPLES = 2_000
ROUNDING = 1e-9  # of weighted counts
SEED = 42
NOTE = {"level": 0.95, "proportions": "Wilson", "f1": "percentile bootstrap", "resamples": RESAMPLES, "seed": SEED}
Scores = dict[str, dict[str, float]]  # metric -> value, low, high, all fractions


def confusion(items: Iterable[Instance], predicted: Mapping[str, str | None], labels: list[str]) -> list[list[int]]:
    """Count answers: a row for each true label, a column for each predicted one and a last one for no label."""
    cells = Counter((item.label, predicted[item.id]) for item in items)
    return [[cells[truth, answer] for answer in (*labels, None)] for truth in labels]


def measures(counts: "np.ndarray[Any, Any]", positive: int | None) -> "dict[str, np.ndarray[Any, Any]]":
    """Compute metric -> values of confusion matrices of shape (..., labels, labels + 1); `positive` is a row number.

    A ratio without a denominator is 0, and weighted F1 weights by true labels, both as in scikit-learn.
    """
    import numpy as np

    def ratio(numerator: Any, denominator: Any) -> "np.ndarray[Any, Any]":
        share: np.ndarray[Any, Any] = np.divide(
            numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)
        return share

    parsed = counts[..., :-1]
    hits = np.diagonal(parsed, axis1=-2, axis2=-1)
    support, claimed = counts.sum(-1), parsed.sum(-2)
    f1 = ratio(2 * hits, support + claimed)
    total = support.sum(-1)
    result = {"accuracy": ratio(hits.sum(-1), total), "weighted_f1": ratio((f1 * support).sum(-1), total)}
    if positive is not None:
        result["precision"] = ratio(hits[..., positive], claimed[..., positive])
        result["recall"] = ratio(hits[..., positive], support[..., positive])
        result["f1"] = f1[..., positive]
    return result


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Compute Wilson's 95% interval of a proportion; (0, 1) without trials. Numbers may be effective ones."""
    if n == 0:
        return 0.0, 1.0
    share, square = hits / n, Z * Z / n
    middle = share + square / 2
    spread = Z * math.sqrt(share * (1 - share) / n + square / (4 * n))
    low, high = (middle - spread) / (1 + square), (middle + spread) / (1 + square)
    return (0.0 if hits == 0 else low), (1.0 if hits == n else high)  # exact there, but for rounding


def scores(matrix: Sequence[Sequence[float]], rules: Task) -> Scores:
    """Compute every metric of a confusion matrix with its 95% interval; counts may be weighted (eval.tables.pooled).

    Accuracy, precision and recall: Wilson. F1: percentiles of multinomial resamples of the matrix, which is
    resampling instances. At 0 and 1 all resamples agree, which would suggest certainty: there the interval is Wilson's
    of the proportion that F1 is a function of, accuracy for weighted F1, J = TP / (TP + FP + FN) for F1 = 2J / (1 + J).
    """
    import numpy as np

    counts = np.array(matrix, dtype=np.float64)
    positive = None if rules.positive is None else rules.labels.index(rules.positive)
    n, right = float(counts.sum()), float(np.trace(counts))
    points = {name: float(value) for name, value in measures(counts, positive).items()}
    for name in set(rules.metrics) - set(points):
        raise UserError(f"experiments/tasks/{rules.name}.yaml: metrics: {name!r} is not one of {', '.join(points)} "
                        "(precision, recall and f1 need a positive class)")
    draws = np.random.default_rng(SEED).multinomial(max(1, round(n)), counts.ravel() / n, size=RESAMPLES)
    resampled = measures(draws.reshape(-1, *counts.shape), positive)
    limits = {"accuracy": wilson(right, n), "weighted_f1": wilson(right, n)}
    if positive is not None:
        hits, claimed, support = (float(part) for part in (
            counts[positive, positive], counts[:, positive].sum(), counts[positive].sum()))
        limits["precision"], limits["recall"] = wilson(hits, claimed), wilson(hits, support)
        low, high = wilson(hits, claimed + support - hits)
        limits["f1"] = 2 * low / (1 + low), 2 * high / (1 + high)
    for name in {"weighted_f1", "f1"} & set(points):
        if ROUNDING < points[name] < 1 - ROUNDING:
            low, high = np.percentile(resampled[name], [2.5, 97.5])
            limits[name] = min(float(low), points[name]), max(float(high), points[name])
    return {name: {"value": value, "low": limits[name][0], "high": limits[name][1]} for name, value in points.items()}


def summary(matrix: list[list[int]], rules: Task, were_cut: int = 0) -> dict[str, Any]:
    """Summarise one test set: n, label counts, the confusion matrix and its scores.

    Answers without a label are `cut` where they ended at max_tokens, else `unparsed`.
    """
    return {
        "n": sum(map(sum, matrix)),
        "unparsed": sum(row[-1] for row in matrix) - were_cut,
        "cut": were_cut,
        "label_counts": {label: sum(row) for label, row in zip(rules.labels, matrix, strict=True)},
        "confusion": {"rows": rules.labels, "columns": [*rules.labels, "no label"], "counts": matrix},
        "metrics": scores(matrix, rules),
    }


def summaries(items: Iterable[Instance], answers: Mapping[str, Answer], rules: Task) -> dict[str, Any]:
    """Summarise strict answers, and under `lenient` what differs if they are read leniently."""
    items = list(items)
    strict, lenient = (confusion(items, {item.id: getattr(answers[item.id], reading) for item in items}, rules.labels)
                       for reading in ("strict", "lenient"))
    were_cut = [answer for item in items if (answer := answers[item.id]).cut]
    result = summary(strict, rules, len(were_cut))
    other = result if lenient == strict else summary(lenient, rules, sum(row.lenient is None for row in were_cut))
    return {**result, "lenient": {**{key: other[key] for key in ("unparsed", "cut", "metrics")}, "counts": lenient}}


def score_file(instances: Path, responses: Path, rules: Task, samples: int = 1) -> dict[str, Any]:
    """Score one task's instances, all of them one test set."""
    items = read_test_set(instances, rules.name)
    if not items:
        raise UserError(f"{instances}: no instances, so there is nothing to score")
    answered = predictions(responses, by_id(items), samples)
    return {"task": rules.name, "samples": samples, **summaries(items, answered, rules), "intervals": NOTE}


def score_run(run: Run, name: str, stage: str, responses: Path, *, tasks: Collection[str] = (),
              limit: int | None = None, samples: int = 1) -> dict[str, Any]:
    """Score a model at a stage on each test set of a run (eval.predictions.test_sets), or of some of its tasks.

    Answers to other instances are ignored. A baseline is scored on the tasks that it fits.
    """
    splits, by = read_test_splits(run), check_answers(run, name, stage, responses)
    sizes = {key: len(items) for key, items, _ in test_sets(splits)}
    tasks = tasks or answered_tasks(run, name, responses)
    answered = answers(run, name, responses, splits, tasks, limit, samples)
    clean, seen = ([item for item in split if item.id in answered] for split in splits)
    results = [{"task": task_name, "source": source, "test_set": test_set, "seen": known,
                "whole": sizes[task_name, source, test_set],
                **summaries(items, answered, task(task_name))}
               for (task_name, source, test_set), items, known in test_sets((clean, seen))]
    return {"run": run.name, "identity": identity(run, name, stage), "model": name, "stage": stage,
            "teacher": run.mark, "splits": split_hashes(run), "answered_by": by,
            "tasks": sorted({row["task"] for row in results}), "limit": limit, "samples": samples,
            "results": results, "intervals": NOTE}


def cell(metrics: Scores, names: Iterable[str], n: int, unparsed: int, were_cut: int) -> str:
    """Write `61.2 [58.0, 64.1] / ... n=1,673 unparsed=3`: percent, 95% intervals, size of the test set, no labels."""
    percents = [[100 * metrics[name][part] for part in ("value", "low", "high")] for name in names]
    texts = " / ".join(f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in percents)
    return f"{texts} n={n:,} unparsed={unparsed:,}" + (f" cut={were_cut:,}" if were_cut else "")


def _facts(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if not pair.partition("=")[0] or "=" not in pair:
            raise UserError(f"--fact {pair}: expected key=value")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def _lines(result: dict[str, Any]) -> Iterable[str]:
    """Yield a line for each test set of a run, or for each metric of a single one.

    A source whose logs training has not seen has one line: both of its test sets are the same.
    """
    rows = [(f"{row['task']} {row['source']} {row['test_set']}: {' / '.join(task(row['task']).metrics)}",
             task(row["task"]).metrics, row) for row in result.get("results", [])
            if row["test_set"] == "disjoint" or row["seen"]]
    for title, metrics, row in rows or [(name, [name], result) for name in result["metrics"]]:
        strict, lenient = (cell(part["metrics"], metrics, row["n"], part["unparsed"], part["cut"])
                           for part in (row, row["lenient"]))
        yield f"{title:<12} {strict}" + (f" | read leniently {lenient}" if lenient != strict else "")
    if were_cut := sum(row["cut"] for row in [row for *_, row in rows] or [result]):
        yield f"{were_cut:,} answers were cut at max_tokens: {LONGER}"


def _main(given: argparse.Namespace) -> None:
    single, whole = (given.task, given.instances), (given.run, given.model, given.stage)
    facts = _facts(given.fact)
    if all(single) and not any((*whole, given.tasks, given.limit)):
        inputs = [given.instances]
        result = score_file(given.instances, given.responses, task(given.task), given.samples)
    elif all(whole) and not any(single):
        run = load_run(given.run)
        run.check(given.model, given.stage)
        inputs = [run.splits / "test.jsonl", run.splits / "test_seen.jsonl"]
        result = score_run(run, given.model, given.stage, given.responses, tasks=given.tasks, limit=given.limit,
                           samples=given.samples)
    else:
        raise UserError("give either --task and --instances, or --run, --model and --stage (and --tasks, --limit)")
    write_json(given.out, {**result, "facts": facts} if facts else result, [*inputs, given.responses], intervals=NOTE,
               facts=facts)
    for line in _lines(result):
        print(line)
    print(given.out)


def main() -> None:
    """Score a response file."""
    arguments = cli.parser("eval.score", "Score responses (OpenAI Batch output format), joined by custom_id.", """
python -m eval.score --task root_cause_analysis --instances I.jsonl --responses R.jsonl --out result.json
python -m eval.score --run paper --model qwen2.5-7b --stage dpo --responses R.jsonl \\
    --out build/runs/paper/results/qwen2.5-7b/dpo/result.json
python -m eval.score --run paper --model qwen2.5-7b --stage dpo --tasks root_cause_analysis --limit 200 --samples 5 \\
    --responses R.jsonl --out result.json""", optional=["model", "limit", "samples"])
    arguments.add_argument("--task", help="a file of experiments/tasks; with --instances")
    arguments.add_argument("--instances", type=Path, help="the test set, JSONL; with --task")
    arguments.add_argument("--run", help="score every test set of this run; with --model and --stage")
    arguments.add_argument("--stage", help="base or a stage of stages.yaml; classifier; baseline")
    arguments.add_argument("--tasks", type=cli.names, default=[], help="of the run, only these (comma-separated)")
    arguments.add_argument("--responses", required=True, type=Path, help="JSONL, custom_id <instance id>[#<number>]")
    arguments.add_argument("--out", required=True, type=Path)
    arguments.add_argument("--fact", action="append", default=[], metavar="key=value", help="written to the result")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
