"""LLaMA-Factory configurations from experiments/ and templates/: one YAML a model and stage (section 4.2.2)."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Hardware, Run, Stage, hardware, load_run, models, resolve, stages
from logreasoner.files import ROOT, TEMPLATES, writing
from logreasoner.templating import environment

RECIPES = Path("recipes")
COMMITTED_STAGES = ("thought-sft", "solution-sft", "dpo")


@dataclass(frozen=True)
class Split:
    """How a global batch is spread: per_device x accumulation x devices equals it."""

    per_device: int
    accumulation: int


def split_batch(stage: Stage, profile: Hardware) -> Split:
    """The largest micro-batch that the profile allows and that divides evenly. Raises UserError if none does."""
    if stage.global_batch % profile.devices:
        raise UserError(f"a global batch of {stage.global_batch} cannot be split over {profile.devices} devices "
                        f"({profile.title}); change global_batch in experiments/ or take another HARDWARE")
    share = stage.global_batch // profile.devices
    largest = profile.max_per_device[stage.method]
    per_device = max(size for size in range(1, min(share, largest) + 1) if share % size == 0)
    return Split(per_device, share // per_device)


def memory_gib(parameters: float, finetuning: str, method: str, sharing: int = 1) -> float:
    """GiB a device needs for weights, gradients and optimizer, without activations (a rule of thumb).

    Full fine-tuning: 16 bytes a parameter, spread over `sharing` devices by ZeRO-3; full DPO adds a frozen copy of
    2 bytes. LoRA keeps 2 bytes a parameter, QLoRA 0.7; both a fifth more for adapters and buffers.
    """
    if finetuning == "full":
        size = (16 + (2 if method == "dpo" else 0)) / sharing
    else:
        size = {"lora": 2.0, "qlora": 0.7}[finetuning] * 1.2
    return parameters * size / 2**30


def _scalar(value: Any) -> str:
    """A YAML scalar; floats in a form that every YAML reader takes for a float (3.0e-05, not 3e-05)."""
    if isinstance(value, float) and math.isfinite(value) and "e" in repr(value):
        mantissa, exponent = repr(value).split("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    return str(yaml.safe_dump(value).removesuffix("\n...\n").strip())


def _environment() -> jinja2.Environment:
    return environment(TEMPLATES, {"scalar": _scalar}, keep_trailing_newline=True)


def output_dir(run: Run, name: str, stage: str) -> Path:
    """Where training writes: model/ for full fine-tuning, adapter/ for LoRA, which is merged into model/ afterwards."""
    return run.stage_dir(name, stage) / ("model" if run.experiment.finetuning == "full" else "adapter")


TRACKERS = ("none", "tensorboard", "wandb", "mlflow", "swanlab", "trackio")  # LLaMA-Factory hands them to transformers


def render(run: Run, name: str, stage_name: str, profile_name: str, file: Path, report_to: str = "none") -> str:
    """The training configuration as YAML text; `file` is where it will stand, `report_to` one of TRACKERS."""
    if profile_name not in hardware():
        raise UserError(f"unknown hardware {profile_name!r}; experiments/hardware.yaml has {', '.join(hardware())}")
    stage, profile, finetuning = run.stage(stage_name), hardware()[profile_name], run.experiment.finetuning
    deepspeed = profile.deepspeed.get(finetuning)
    memory = memory_gib(run.model(name).parameters, finetuning, stage.method, profile.devices if deepspeed else 1)
    return _environment().get_template("recipe.yaml.j2").render(
        model=run.model(name), stage=stage, stage_name=stage_name, hardware=profile, finetuning=finetuning,
        memory=math.ceil(memory), unit="pairs" if stage.method == "dpo" else "samples",
        split=split_batch(stage, profile), file=file, weights=run.weights(name, stage.starts_from),
        made_by="make recipes" if file.parts[0] == "recipes" else f"make {stage_name} MODEL={name} RUN={run.name}",
        deepspeed=f"templates/deepspeed/{deepspeed}.json" if deepspeed else None,
        dataset_dir=run.dataset(name, stage_name), output_dir=output_dir(run, name, stage_name), report_to=report_to,
        seed=run.training_seed, arguments={**stage.arguments, **profile.arguments})


def render_export(run: Run, name: str, stage_name: str, file: Path) -> str:
    """The configuration that merges a stage's adapter, as YAML text."""
    return _environment().get_template("export.yaml.j2").render(
        model=run.model(name), stage_name=stage_name, file=file,
        weights=run.weights(name, run.stage(stage_name).starts_from), adapter=output_dir(run, name, stage_name),
        model_dir=run.stage_dir(name, stage_name) / "model")


def committed() -> dict[Path, str]:
    """The committed recipes: the paper's experiment as declared, on the paper's hardware; path -> text."""
    run = Run("paper", resolve("paper", []))
    names = [name for name, row in models().items() if row.committed]
    paths = [(name, stage, RECIPES / name / f"{stage}.yaml") for name in names for stage in COMMITTED_STAGES]
    return {path: render(run, name, stage, "2xA100", path) for name, stage, path in paths}


def _write(path: Path, text: str) -> None:
    with writing(path) as stream:
        stream.write(text)


def _main(given: argparse.Namespace) -> None:
    if given.committed:
        for path, text in committed().items():
            _write(ROOT / path, text)
            print(path)
        return
    if not (given.run and given.model and given.stage):
        raise UserError("give --committed, or --run, --model and --stage")
    run = load_run(given.run)
    path = run.recipe(given.model, given.stage)
    _write(path, render(run, given.model, given.stage, given.hardware, path, given.report_to))
    if run.experiment.finetuning != "full":
        export = path.with_name(f"{given.stage}.export.yaml")
        _write(export, render_export(run, given.model, given.stage, export))
    print(path)


def main() -> None:
    """Render recipes."""
    arguments = cli.parser("data_builders.recipes", "Render LLaMA-Factory configurations.", """
python -m data_builders.recipes --committed
python -m data_builders.recipes --run paper --model qwen2.5-7b --stage dpo --hardware 1xH200""")
    arguments.add_argument("--committed", action="store_true", help="render recipes/<model>/<stage>.yaml")
    arguments.add_argument("--run", help="a declared run: render build/runs/<run>/recipes/<model>/<stage>.yaml")
    arguments.add_argument("--model", help="a name of experiments/models.yaml")
    arguments.add_argument("--stage", choices=list(stages()))
    arguments.add_argument("--hardware", default="2xA100", help="a name of experiments/hardware.yaml")
    arguments.add_argument("--report-to", default="none", choices=TRACKERS, help="where losses go")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
