"""Prepare and finish `llamafactory-cli train`: never train a finished folder again, resume a stopped one, check the
result, and write the lineage."""

import argparse
import math
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_builders.recipes import output_dir, require_packages
from logreasoner import cli, weights
from logreasoner.cli import UserError
from logreasoner.config import Run, differences, load_run
from logreasoner.files import commit, read_json, sha256, write_json

LN2 = math.log(2)
# DPO starts with policy = reference, so the first loss is ln 2 whatever the data; half precision moves it a little.
LN2_TOLERANCE = 0.02
PACKAGES = ("llamafactory", "torch", "transformers", "trl", "peft")


def _inputs(run: Run, model: str, stage: str) -> dict[str, Any]:
    """Return what identifies a training: two with the same inputs are the same."""
    start = run.stage(stage).starts_from
    return {
        "recipe": sha256(run.recipe(model, stage)),
        "dataset": sha256(run.dataset(model, stage) / f"{run.stage(stage).dataset}.json"),
        "starts_from": run.weights(model, start),
        "parent": weights.identity(run, model, start),
    }


def prepare(run: Run, model: str, stage: str) -> None:
    """Refuse a folder that was started with other inputs; clear one that was stopped before its first checkpoint.

    The inputs, commit and versions of the later manifest are recorded here, when training starts.
    """
    require_packages(run, Path(sys.prefix))
    folder, output = run.stage_dir(model, stage), output_dir(run, model, stage)
    begun, inputs = folder / "begun.json", _inputs(run, model, stage)
    if begun.exists() and (changed := differences(read_json(begun)["inputs"], inputs)):
        raise UserError(f"{folder} was trained from other inputs ({'; '.join(changed)}); it is not overwritten: "
                        f"use another RUN=, or remove {folder}")
    for partial in [path for path in output.glob("checkpoint-*") if not finished(path)]:
        shutil.rmtree(partial)  # stopped while it was written: LLaMA-Factory would resume from it and fail
    if begun.exists() and (finished(output) or any(output.glob("checkpoint-*"))):
        return
    shutil.rmtree(output, ignore_errors=True)  # LLaMA-Factory refuses a folder with files but no checkpoint
    write_json(begun, {"inputs": inputs, "commit": commit(),
                       "versions": {name: version(name) for name in PACKAGES}})


def finished(output: Path) -> bool:
    """Tell whether a training or a checkpoint is complete: LLaMA-Factory writes trainer_state.json last."""
    return (output / "trainer_state.json").exists()


def _losses(output: Path) -> list[dict[str, Any]]:
    history = read_json(output / "trainer_state.json")["log_history"]
    return [entry for entry in history if "loss" in entry]


def check_first_loss(losses: list[dict[str, Any]], where: Path) -> None:
    """Raise UserError unless DPO's first loss is ln 2, as it is exactly when the reference equals the policy."""
    first = losses[0]["loss"] if losses else math.nan
    if not abs(first - LN2) <= LN2_TOLERANCE:
        raise UserError(f"{where}: DPO's first loss is {first:.4f}, not ln 2 = {LN2:.4f}: the reference is not the "
                        "model that training started from")


def finish(run: Run, model: str, stage: str) -> None:
    """Check the result and write manifest.json: what `prepare` recorded, hashes of the weights, losses.

    A manifest that is there and matches the weights stays as it is.
    """
    folder, output = run.stage_dir(model, stage), output_dir(run, model, stage)
    if not finished(output):
        raise UserError(f"{output}: training did not finish; run the same command again to resume")
    losses = _losses(output)
    if run.stage(stage).method == "dpo":
        check_first_loss(losses, output)
    hashes = {path.name: sha256(path) for path in sorted((folder / "model").glob("*.safetensors"))}
    if not hashes:
        raise UserError(f"{folder / 'model'}: no weights; the adapter was not merged")
    state, begun = read_json(output / "trainer_state.json"), read_json(folder / "begun.json")
    manifest = folder / "manifest.json"
    if manifest.exists():
        if changed := differences({key: read_json(manifest)[key] for key in ("inputs", "weights")},
                                  {"inputs": begun["inputs"], "weights": hashes}):
            raise UserError(f"{manifest} is of another training than the files beside it ({'; '.join(changed[:3])}); "
                            f"remove {folder} to train it again")
        manifest.touch()
        print(f"{folder}: trained before, from the same inputs")
        return
    write_json(manifest, {
        "run": run.name, "model": model, "stage": stage, "mark": run.mark,
        "finetuning": run.experiment.finetuning, "speed": run.experiment.speed, **begun, "weights": hashes,
        "steps": state["global_step"], "epochs": state["epoch"],
        "first_loss": losses[0]["loss"] if losses else None, "last_loss": losses[-1]["loss"] if losses else None,
    })
    print(f"{folder}: {state['global_step']} steps, loss {losses[0]['loss']:.4f} -> {losses[-1]['loss']:.4f}")


def _main(given: argparse.Namespace) -> None:
    (prepare if given.step == "prepare" else finish)(load_run(given.run), given.model, given.stage)


def main() -> None:
    """Check a training before or after it."""
    arguments = cli.parser("data_builders.train", "Check a training before or after it.", """
python -m data_builders.train prepare --run paper --model qwen2.5-7b --stage dpo""", required=["run", "model", "stage"])
    arguments.add_argument("step", choices=["prepare", "finish"])
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
