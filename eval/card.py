"""Write the model card beside exported weights: every statement is from the run's files; what none says is unknown."""

import argparse
import json
import re
from math import prod
from pathlib import Path
from typing import Any

from eval.score import cell
from eval.tables import TEST_SETS, Results, load_results
from logreasoner import cli, prompts
from logreasoner.answer_format import Trajectory
from logreasoner.cli import UserError
from logreasoner.config import Run, decoding, load_run, load_yaml, models, task
from logreasoner.files import EXPERIMENTS, TEMPLATES, commit, read_json, sha256, writing
from logreasoner.instances import Instance
from logreasoner.templating import environment
from logreasoner.weights import known, path_like

NOT_SHOWN = re.compile(r"(logging|save|report|do)_|.*(_dir|_path|dataset)$")  # of a recipe
TOY = 10_000_000  # weights; below, no language was learnt


def trained(run: Run, name: str, stage: str) -> list[dict[str, Any]]:
    """List the trainings that lead to a stage, first to last: manifest, dataset, recipe and samples.

    Raises UserError where a file is not the one that the stage was trained with.
    """
    before = run.stage(stage).starts_from
    parents = [] if before in ("base", "init") else trained(run, name, before)
    where = run.stage_dir(name, stage) / "manifest.json"
    made = read_json(where)
    if parents and made["inputs"]["parent"] != known(run, name, before):
        raise UserError(f"{where}: was trained from other weights of {before} than are there now; train it again")
    data = run.dataset(name, stage) / f"{run.stage(stage).dataset}.json"
    for path, key in ((data, "dataset"), (run.recipe(name, stage), "recipe")):
        if not path.exists() or sha256(path) != made["inputs"][key]:
            raise UserError(f"{path}: is not there, or not what {stage} was trained with; train it again")
    facts = read_json(f"{data}.manifest.json")
    samples = [read_json(path) for file in facts["inputs"] if (path := Path(f"{file}.manifest.json")).exists()]
    recipe = {key: value for key, value in load_yaml(run.recipe(name, stage)).items() if not NOT_SHOWN.match(key)}
    return [*parents, {"stage": run.stage(stage), "name": stage, "made": made, "data": facts, "recipe": recipe,
                       "review": next((part["review"] for part in samples if "review" in part), None)}]


def weights(folder: Path) -> int:
    """Count the weights in the safetensors files of a folder, by their headers."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        total += sum(prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
    return total


def sources(run: Run) -> list[dict[str, Any]]:
    """List the public sources (experiments/sources.yaml) whose files the run's data was made of."""
    path = run.experiment.data.folder / "manifest.json"
    read = list(read_json(path)["inputs"]) if run.experiment.data.kind == "public" and path.exists() else []
    return [row for row in load_yaml(EXPERIMENTS / "sources.yaml").values()
            if any(used.endswith(f"/{file['path']}") and row.get("repo", "") in used
                   for file in row["files"] for used in read)]


def scores(results: Results, name: str, stage: str) -> list[tuple[str, str, str, list[str], list[str]]]:
    """List (task, source, test set, [this model's scores, its base's], the baselines'), a row a test set."""
    def text(key: tuple[str, str], where: tuple[str, str, str]) -> str:
        row = results.get(key, {}).get(where)
        return cell(row.metrics, task(where[0]).metrics, row.n, row.unparsed, row.cut) if row else ""

    baselines = {key: models()[key[0]].title for key in results if key[1] == "baseline"}
    own, rows = results.get((name, stage), {}), []
    for task_name, source in sorted({(task_name, source) for task_name, source, _ in own}):
        by_test_set = {}
        for test_set in TEST_SETS:
            if (where := (task_name, source, test_set)) in own:
                beside = [f"{title}: {score}" for key, title in baselines.items() if (score := text(key, where))]
                by_test_set[test_set] = [text((name, at), where) for at in (stage, "base")], beside
        if len(by_test_set) == 2 and by_test_set["all"] == by_test_set["disjoint"]:
            by_test_set = {" = ".join(by_test_set): by_test_set["all"]}
        rows += [(task_name, source, test_set, *texts) for test_set, texts in by_test_set.items()]
    return rows


def render(run: Run, name: str, stage: str) -> str:
    """Render the card as Markdown. Raises UserError for a base model, and where files of the lineage disagree."""
    declared = run.check(name, stage)
    if declared.kind != "open" or stage == "base":
        raise UserError(f"{name} at {stage} was not trained here, so it gets no model card")
    chain, base, rules = trained(run, name, stage), run.weights(name, "base"), run.tasks()
    drawn, shown = run.splits / "manifest.json", next(iter(rules.values()))
    example = Instance("example", shown.name, "card", "(the log, or a session line by line)", "")
    template = environment(TEMPLATES, {}, keep_trailing_newline=True).get_template("model_card.md.j2")
    return template.render(
        run=run, name=name, stage=stage, model=declared, chain=chain, base=None if path_like(base) else base,
        count=weights(run.stage_dir(name, stage) / "model"), toy=TOY, sources=sources(run),
        scripted="scripted" in (run.mark, *(step["made"]["mark"] for step in chain)),
        splits=read_json(drawn) if drawn.exists() else None, scores=scores(load_results(run), name, stage),
        tasks=rules, prompt=prompts.solution(example, shown), decoding=decoding()["evaluation"], commit=commit(),
        answer=Trajectory(("(a step)", "(the next)"), shown.labels[0]).render())


def _main(given: argparse.Namespace) -> None:
    text, path = render(load_run(given.run), given.model, given.stage), given.out / "README.md"
    with writing(path) as stream:
        stream.write(text)
    print(path)


def main() -> None:
    """Write a model card."""
    arguments = cli.parser("eval.card", "Write the model card of a trained stage: README.md in a folder.", """
python -m eval.card --run paper --model qwen2.5-7b --stage dpo --out build/runs/paper/models/qwen2.5-7b/dpo/model""")
    for option in ("--run", "--model", "--stage"):
        arguments.add_argument(option, required=True)
    arguments.add_argument("--out", required=True, type=Path, help="the folder with the weights")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
