"""Prepare and finish `llamafactory-cli train`: never train a finished folder again, resume a stopped one, check the
result (losses, gradients, weights), and write the lineage."""

import argparse
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from data_builders.recipes import output_dir, require_packages
from data_builders.training_checks import check_first_loss, check_losses, check_weights
from logreasoner import cli, weights
from logreasoner.cli import UserError
from logreasoner.config import Run, differences, load_run
from logreasoner.files import commit, read_json, sha256, write_json
from logreasoner.text_table import sparkline

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
    for partial in [path for path in output.glob("checkpoint-*") if not state_of(path)]:
        shutil.rmtree(partial)  # stopped while it was written: LLaMA-Factory would resume from it and fail
    if begun.exists() and finished(output):
        return
    (output / "trainer_state.json").unlink(missing_ok=True)  # cut or of fewer steps: make trains where there is none
    if begun.exists() and any(output.glob("checkpoint-*")):
        return
    shutil.rmtree(output, ignore_errors=True)  # LLaMA-Factory refuses a folder with files but no checkpoint
    write_json(begun, {"inputs": inputs, "commit": commit(),
                       "versions": {name: version(name) for name in PACKAGES}})


def state_of(folder: Path) -> dict[str, Any]:
    """Read the state of a training or a checkpoint, {} where there is no whole one: LLaMA-Factory writes it last."""
    path = folder / "trainer_state.json"
    try:
        state = read_json(path) if path.exists() else {}
    except UserError:  # stopped while it was written
        return {}
    return state if isinstance(state, dict) and {"global_step", "max_steps", "log_history"} <= set(state) else {}


def finished(output: Path) -> bool:
    """Tell whether a training came to its last step."""
    state = state_of(output)
    return bool(state) and int(state["global_step"]) >= int(state["max_steps"])


def finish(run: Run, model: str, stage: str) -> None:
    """Check the result, write manifest.json (what `prepare` recorded, hashes of the weights, losses), drop checkpoints.

    A manifest that is there and matches the weights stays as it is.
    """
    folder, output, declared = run.stage_dir(model, stage), output_dir(run, model, stage), run.stage(stage)
    if not finished(output):
        raise UserError(f"{output}: training did not finish; run the same command again to resume")
    state, begun = state_of(output), read_json(folder / "begun.json")
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    if declared.method != "sft":
        check_first_loss(steps, declared, output)
    check_losses(steps, output, fp16=bool(yaml.safe_load(run.recipe(model, stage).read_text()).get("fp16")))
    hashes = {path.name: sha256(path) for path in sorted((folder / "model").glob("*.safetensors"))}
    if not hashes:
        raise UserError(f"{folder / 'model'}: no weights; the adapter was not merged")
    manifest = folder / "manifest.json"
    if manifest.exists():
        if changed := differences({key: read_json(manifest)[key] for key in ("inputs", "weights")},
                                  {"inputs": begun["inputs"], "weights": hashes}):
            raise UserError(f"{manifest} is of another training than the files beside it ({'; '.join(changed[:3])}); "
                            f"remove {folder} to train it again")
        manifest.touch()
        print(f"{folder}: trained before, from the same inputs")
        return
    check_weights(folder / "model", weights.local(run, model, declared.starts_from))
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)  # with the optimizer's state several times as large as the weights
    first, last = steps[0]["loss"], steps[-1]["loss"]
    write_json(manifest, {
        "run": run.name, "model": model, "stage": stage, "mark": run.mark,
        "finetuning": run.experiment.finetuning, "speed": run.experiment.speed, **begun, "weights": hashes,
        "steps": state["global_step"], "epochs": state["epoch"], "first_loss": first, "last_loss": last,
    })
    note, curve = "" if last < first else " (not lower)", sparkline([step["loss"] for step in steps])
    print(f"{folder}: {state['global_step']} steps, loss {first:.4f} -> {last:.4f}{note}\n"
          f"  {curve}  as a picture: make report RUN={run.name}")


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
