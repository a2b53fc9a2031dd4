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
from logreasoner.schemas import Stage

TOLERANCE = 0.03  # of a first loss, relative: half precision moves it a little
LOSSES_OF_TRL = ("ipo", "hinge")  # computed by TRL, beside sigmoid
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
    require_loss(run.stage(stage).loss)
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


def require_loss(loss: str) -> None:
    """Raise UserError for a loss that LLaMA-Factory would silently replace by sigmoid.

    From TRL 0.20 on, dpo_loss takes the loss as an argument, sigmoid by default, and LLaMA-Factory 0.9.5 gives none.
    """
    if loss in LOSSES_OF_TRL and tuple(map(int, version("trl").split(".")[:2])) >= (0, 20):
        raise UserError(f"pref_loss: with TRL {version('trl')} LLaMA-Factory computes sigmoid for {loss} as well; do "
                        ".venv-train/bin/pip install trl==0.19.1, or take another loss or the stage kto")


def finished(output: Path) -> bool:
    """Tell whether a training or a checkpoint is complete: LLaMA-Factory writes trainer_state.json last."""
    return (output / "trainer_state.json").exists()


def _losses(output: Path) -> list[dict[str, Any]]:
    history = read_json(output / "trainer_state.json")["log_history"]
    return [entry for entry in history if "loss" in entry]


def first_loss(stage: Stage) -> tuple[float, float]:
    """Return the least and the largest first loss of a preference training, whatever its data.

    A loss with a reference starts with policy = reference, so every log ratio is 0 (TRL 0.24, dpo_loss and kto_loss):
    sigmoid ln 2, hinge 1, IPO (1 / (2 beta))^2, its log ratios being means over tokens; KTO half the weight of each
    sample. ORPO and SimPO have no reference and are only known to be positive, and so is everything with a further term
    that the data decide.
    """
    given, beta = stage.arguments, float(stage.arguments.get("pref_beta", 0.1))
    weights = [float(given.get(f"kto_{side}_weight", 1.0)) / 2 for side in ("chosen", "rejected")]
    if not stage.has_reference or any(given.get(name) for name in ("pref_ftx", "pref_bco_weight", "ld_alpha")):
        return 0.0, math.inf
    return {"sigmoid": (math.log(2),) * 2, "hinge": (1.0, 1.0), "ipo": ((2 * beta) ** -2,) * 2,
            "kto": (min(weights), max(weights))}[stage.loss]


def check_first_loss(losses: list[dict[str, Any]], stage: Stage, where: Path) -> None:
    """Raise UserError unless the first loss of a preference training is what its definition says."""
    (least, largest), first = first_loss(stage), losses[0]["loss"] if losses else math.nan
    if not (math.isfinite(first) and least * (1 - TOLERANCE) <= first <= largest * (1 + TOLERANCE)):
        expected = f"{least:.4f}" if least == largest else f"from {least:.4f} to {largest:.4f}"
        raise UserError(f"{where}: the first loss ({stage.loss}) is {first:.4f}, not {expected}: " + (
            "the reference is not the model that training started from" if stage.has_reference else
            "the training diverged at its first step"))


def finish(run: Run, model: str, stage: str) -> None:
    """Check the result and write manifest.json: what `prepare` recorded, hashes of the weights, losses.

    A manifest that is there and matches the weights stays as it is.
    """
    folder, output = run.stage_dir(model, stage), output_dir(run, model, stage)
    if not finished(output):
        raise UserError(f"{output}: training did not finish; run the same command again to resume")
    losses = _losses(output)
    if run.stage(stage).method != "sft":
        check_first_loss(losses, run.stage(stage), output)
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
