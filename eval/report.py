"""Write a run's results as one HTML file that needs no network: tables, figures, losses, costs, lineage, predictions.

Log text and answers are hostile: they are in the file as gzip in base64 only, the page shows them by textContent, and
its content security policy allows one script and one style sheet, by their hashes.
"""

import argparse
import base64
import gzip
import hashlib
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from eval.compare import Side
from eval.figures import overview_svg
from eval.predictions import Answer, Splits, answers, fixed, read_test_splits
from eval.tables import Results, load_results, sheets_of
from logreasoner import cli
from logreasoner.answer_format import after_thinking, element, parse_steps
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run, models, stages
from logreasoner.files import TEMPLATES, commit, dump, manifest, read_json, read_jsonl, sha256, writing
from logreasoner.generation import costs
from logreasoner.generation.response_cache import content, error_of
from logreasoner.paper import published
from logreasoner.prompts import as_text
from logreasoner.templating import environment

WIDTH, HEIGHT = 220, 90  # of a loss curve, in the SVG's units
SHOWN_ELSEWHERE = ("output", "sha256", "run", "mark", "model", "stage")  # keys of a manifest
COUNTS = ("counts", "rows", "versions")  # keys of a manifest that are shown although they hold several values
FOLDERS = ("data", "splits", "datasets", "recipes", "models", "predictions", "results")  # in the order of the lineage


class Entry(NamedTuple):
    """A model at a stage: `model/stage`, its responses, its labels by instance id, and whether it is prompted."""

    key: str
    responses: Path
    labels: dict[str, Answer]
    prompted: bool


def packed(value: Any) -> str:
    """Return a JSON value as gzip in base64, the same bytes for the same value; nothing in it can end an element."""
    return _base64(gzip.compress(dump(value).encode(), mtime=0))


def order(key: tuple[str, ...]) -> tuple[Any, ...]:
    """Return a sort key of (model, stage): the order of models.yaml and stages.yaml, unknown ones at the end."""
    known = [*models()], ["base", *stages()]
    return *(names.index(name) if name in names else len(names) for name, names in zip(key, known, strict=True)), key


def entries(run: Run, splits: Splits, results: Results, wanted: Collection[str], limit: int | None, samples: int
            ) -> Iterator[Entry]:
    """Yield every scored model and stage whose answers are here, or the `wanted` ones ("model" or "model/stage").

    Raises UserError for a wanted one without results, and for answers other than those that were scored.
    """
    unknown = set(wanted) - {name for model, stage in results for name in (model, f"{model}/{stage}")}
    if unknown:
        raise UserError(f"--models: no results of {min(unknown)!r} in run {run.name}; there are "
                        f"{', '.join('/'.join(key) for key in sorted(results, key=order))}")
    chosen = [key for key in sorted(results, key=order) if not wanted or {key[0], "/".join(key)} & set(wanted)]
    for model, stage in tqdm(chosen, unit="model", desc="predictions", delay=2, disable=None):
        path = Side(run, model, stage, samples).responses(limit)
        result = run.result(model, stage, limit, samples)
        if not path.exists():
            continue
        if sha256(path) not in read_json(f"{result}.manifest.json")["inputs"].values():
            raise UserError(f"{path}: not the answers that {result} scores; score them again: "
                            f"make eval RUN={run.name} MODEL={model} STAGE={stage}")
        tasks = {task for task, _, _ in results[model, stage]}
        labels = answers(run, model, path, splits, tasks, limit, samples)
        yield Entry(f"{model}/{stage}", path, labels, not fixed(run, model))


def texts(entry: Entry) -> dict[str, list[str]]:
    """Map instance id to what the model wrote, a text for each vote; for a refused request, why there is none."""
    votes: dict[str, dict[int, str]] = {key: {} for key in entry.labels}
    for _, response in read_jsonl(entry.responses):
        key, _, vote = response["custom_id"].partition("#")
        text = content(response)
        if key in votes and (text is not None or int(vote or 0) not in votes[key]):
            votes[key][int(vote or 0)] = f"(no answer: {error_of(response)})" if text is None else text
    return {key: [text for _, text in sorted(written.items())] for key, written in votes.items()}


def prompts(shown: list[Entry]) -> dict[str, str]:
    """Map instance id to its prompt, as a request file has it; every model of a run gets the same."""
    result: dict[str, str] = {}
    for entry in shown:
        path = entry.responses.with_name(entry.responses.name.replace(".responses.", ".requests."))
        if path.exists() and not result.keys() >= entry.labels.keys():
            result |= {request["custom_id"].partition("#")[0]: as_text(request["body"]["messages"])
                       for _, request in read_jsonl(path)}
    return result


def blocks(run: Run, splits: Splits, shown: list[Entry]) -> dict[str, str]:
    """Pack the data of the page: `about`, `instances`, and `entry-N`, for each instance null or an answer.

    An answer is [strict label, lenient label, cut at max_tokens, [[text, steps] of each vote]].
    """
    answered = {key for entry in shown for key in entry.labels}
    items = [(item, seen) for seen, split in enumerate(splits) for item in split if item.id in answered]
    prompt = prompts(shown)
    starts = {name: os.path.commonprefix([prompt[item.id] for item, _ in items
                                          if item.task == name and item.id in prompt]) for name in run.tasks()}
    result = {"about": packed({
        "tasks": {name: {"title": rules.title, "labels": rules.labels, "prompt": starts[name]}
                  for name, rules in run.tasks().items()},
        "entries": [{"key": entry.key, "prompted": entry.prompted} for entry in shown]})}
    result["instances"] = packed([{**item.as_json(), "log": item.text, "seen": seen, "prompt": prompt[item.id][len(
        starts[item.task]):] if item.id in prompt else None} for item, seen in items])
    for at, entry in enumerate(tqdm(shown, unit="model", desc="packing", delay=2, disable=None)):
        written = texts(entry)
        result[f"entry-{at}"] = packed([entry.labels.get(item.id) and [*entry.labels[item.id], [
            [text, parse_steps(element(after_thinking(text), "solutions") or "")] for text in written[item.id]]]
            for item, _ in items])
    return result


def curves(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the losses that each trained stage logged in trainer_state.json.

    `places` are the points as `x,y` in an SVG of WIDTH x HEIGHT, from step 0 to the last and from the least loss up.
    """
    states = {path.parts[-4:-2]: path for path in run.dir.glob("models/*/*/*/trainer_state.json")}
    for model, stage in sorted(states, key=order):
        points = [(line["step"], line["loss"]) for line in read_json(states[model, stage])["log_history"]
                  if math.isfinite(line.get("loss", math.nan))]
        if points:
            last, losses = points[-1][0] or 1, [loss for _, loss in points]
            low, height = min(losses), (max(losses) - min(losses)) or 1.0
            yield {"title": f"{model}, {stage}", "losses": losses, "steps": last, "places": [
                f"{WIDTH * step / last:.1f},{HEIGHT * (1 - (loss - low) / height):.1f}" for step, loss in points]}


def _leaves(value: dict[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        if isinstance(part, dict) and (name or key in COUNTS):
            yield from _leaves(part, key)
        elif isinstance(part, (int, float, str)) and key not in SHOWN_ELSEWHERE:
            yield key, part


def artefact(path: Path, name: str) -> dict[str, Any]:
    """Summarise a manifest: hashes, the hashes of its inputs, and its facts, with the counts of all tasks added up."""
    made = read_json(path)
    weights, facts = made.get("weights"), dict[str, Any]()
    for key, value in _leaves(made):
        facts[key] = facts[key] + value if isinstance(facts.get(key), int) and isinstance(value, int) else value
    return {"name": name, "facts": facts, "text": path.read_text("utf-8"),
            "hashes": list(weights.values()) if isinstance(weights, dict) else [made.get("sha256")],
            "inputs": {Path(key).name: value if isinstance(value, str) else value.get("revision", value.get("weights"))
                       for key, value in made.get("inputs", {}).items() if value}}


def lineage(run: Run) -> dict[str, list[dict[str, Any]]]:
    """List every manifest of a run and of the data it was drawn from, and its recipes, in the order they were made."""
    artefacts: dict[str, list[dict[str, Any]]] = {name: [] for name in FOLDERS}
    splits = run.splits / "manifest.json"
    for data in sorted({Path(path).parent for path in read_json(splits)["inputs"]} if splits.exists() else []):
        if (data / "manifest.json").exists():
            artefacts["data"].append(artefact(data / "manifest.json", str(data)))
    for path in sorted(run.dir.glob("*/**/*manifest.json")):
        name = str(path.relative_to(run.dir))
        if not path.name.startswith("report.html") and (folder := name.partition("/")[0]) in FOLDERS:
            artefacts[folder].append(artefact(path, name.removesuffix("manifest.json").rstrip("./")))
    artefacts["recipes"] = [{"name": str(path.relative_to(run.dir)), "hashes": [sha256(path)], "facts": {},
                             "inputs": {}, "text": path.read_text("utf-8")}
                            for path in sorted(run.dir.glob("recipes/*/*.yaml"))]
    return artefacts


def figures(folder: Path) -> list[tuple[str, str]]:
    """List (title, image as a data: address) of each of the paper's figures that was drawn."""
    return [(f"Figure {figure.number}. {figure.title}", _image(path.read_bytes()))
            for figure in published().figures if (path := folder / f"figure{figure.number}.svg").exists()]


def _image(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{_base64(svg)}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def make_report(run: Run, out: Path, wanted: Collection[str] = (), limit: int | None = None, samples: int = 1) -> str:
    """Write the report of a run; returns a line that says what it holds. Raises UserError without any result."""
    folder, results = run.results(limit, samples), load_results(run, limit, samples)
    if not results:
        raise UserError(f"{folder}: no results yet; score a model first (make eval RUN={run.name} ...)")
    splits = read_test_splits(run)
    shown = list(entries(run, splits, results, wanted, limit, samples))
    inline = {kind: (TEMPLATES / f"report.{kind}").read_text("utf-8") for kind in ("js", "css")}
    text = environment(TEMPLATES, {}, autoescape=True).get_template("report.html.j2").render(
        run=run, scripted=run.mark == "scripted", limit=limit, samples=samples, commit=commit(), width=WIDTH,
        height=HEIGHT, inline=inline,
        sources={kind: f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'" for kind, text in inline.items()},
        sheets=sheets_of(run, results), overview=_image(overview_svg(run, limit, samples)), figures=figures(folder),
        curves=list(curves(run)), lineage=lineage(run), blocks=blocks(run, splits, shown),
        absent=sorted(set(map("/".join, results)) - {entry.key for entry in shown}) if not wanted else [],
        costs=list(tqdm(costs.report(run), unit="journal", desc="costs", delay=2, disable=None)))
    with writing(out) as stream:
        stream.write(text)
    manifest(out, [*(run.result(model, stage, limit, samples) for model, stage in results),
                   *(entry.responses for entry in shown)], run=run.name, teacher=run.mark)
    return (f"{sum(len(entry.labels) for entry in shown):,} predictions of {len(shown)} models and stages, "
            f"{out.stat().st_size / 1e6:.1f} MB")


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    out = given.out or run.results(given.limit, given.samples) / "report.html"
    print(f"{out}: {make_report(run, out, given.models, given.limit, given.samples)}")


def main() -> None:
    """Write the report of a run."""
    arguments = cli.parser("eval.report", "A run's tables, figures, losses, costs, lineage and predictions, in one "
                           "HTML file that needs no network.", """
python -m eval.report --run paper
python -m eval.report --run paper --models qwen2.5-7b tfidf-lr/baseline --out report.html""",
                           required=["run"], optional=["limit", "samples"])
    arguments.add_argument("--models", nargs="+", default=[], metavar="M", help="whose predictions go in: MODEL or "
                           "MODEL/STAGE (default: all that are scored)")
    arguments.add_argument("--out", type=Path, help="a file (default: build/runs/RUN/results/report.html)")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
