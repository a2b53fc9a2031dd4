"""Render LLaMA-Factory configurations from experiments/ and templates/: one YAML a model and stage (section 4.2.2), and
beside those of a run what starts it (templates/launch/)."""

import argparse
import math
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import jinja2
import yaml

from logreasoner import cli, steps
from logreasoner.cli import UserError
from logreasoner.config import Run, hardware, load_run, models, resolve, speeds, stages
from logreasoner.files import ROOT, TEMPLATES, writing
from logreasoner.machine import cpu_has_bf16
from logreasoner.schemas import Hardware, Speed, Stage
from logreasoner.templating import environment

RECIPES = Path("recipes")
COMMITTED_STAGES = ("thought-sft", "solution-sft", "dpo")


@dataclass(frozen=True)
class Split:
    """A global batch as per_device x accumulation x devices x nodes."""

    per_device: int
    accumulation: int


def split_batch(stage: Stage, profile: Hardware, nodes: int = 1, speed: Speed | None = None) -> Split:
    """Find the largest micro-batch that the profiles allow and that divides evenly. Raises UserError if none does."""
    devices = profile.devices * nodes
    if stage.global_batch % devices:
        where = f"{nodes} x {profile.title}" if nodes > 1 else profile.title
        raise UserError(f"a global batch of {stage.global_batch} cannot be split over {devices} devices ({where}); "
                        "change global_batch in experiments/ or take another HARDWARE or NODES")
    share = stage.global_batch // devices
    largest = profile.max_per_device.get(stage.method) or profile.max_per_device["dpo"]
    if speed:
        largest = min(largest, speed.max_per_device.get(stage.method, largest))
    per_device = max(size for size in range(1, min(share, largest) + 1) if share % size == 0)
    return Split(per_device, share // per_device)


def memory_gib(parameters: float, finetuning: str, reference: bool, sharing: int = 1) -> float:
    """Estimate GiB a device for weights, gradients and optimizer, without activations (a rule of thumb).

    Full fine-tuning: 16 bytes a parameter, spread over `sharing` devices by ZeRO-3; a reference adds a frozen copy of
    2 bytes. LoRA keeps 2 bytes a parameter, QLoRA 0.7; both a fifth more for adapters and buffers.
    """
    if finetuning == "full":
        size = (16 + (2 if reference else 0)) / sharing
    else:
        size = {"lora": 2.0, "qlora": 0.7}[finetuning] * 1.2
    return parameters * size / 2**30


def disk_bytes(parameters: float, finetuning: str) -> tuple[float, float]:
    """Estimate bytes on disk of a stage: the weights that stay, and the checkpoints that are removed at its end.

    Full fine-tuning saves float32, at most: 4 bytes a parameter, a checkpoint 8 more for the optimizer's moments (12
    and 2 by ZeRO-3), and there are two while the newer one is written. The adapters of LoRA are small beside the merged
    weights.
    """
    return (4 * parameters, 28 * parameters) if finetuning == "full" else (2 * parameters, 0.0)


def _scalar(value: Any) -> str:
    """Write a YAML scalar; floats as every YAML reader takes for a float (3.0e-05, not 3e-05)."""
    if isinstance(value, float) and math.isfinite(value) and "e" in repr(value):
        mantissa, exponent = repr(value).split("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    return str(yaml.safe_dump(value).removesuffix("\n...\n").strip())


def _environment() -> jinja2.Environment:
    return environment(TEMPLATES, {"scalar": _scalar}, keep_trailing_newline=True)


def output_dir(run: Run, name: str, stage: str) -> Path:
    """Return where training writes: model/ for full fine-tuning, adapter/ for LoRA, which is merged into model/."""
    return run.stage_dir(name, stage) / ("model" if run.experiment.finetuning == "full" else "adapter")


TRACKERS = ("none", "tensorboard", "wandb", "mlflow", "swanlab", "trackio")  # LLaMA-Factory hands them to transformers
LAUNCHES = ("torchrun", "slurm", "ray")  # templates/launch/<launch>.sh.j2


def _profile(name: str) -> Hardware:
    if name not in hardware():
        raise UserError(f"unknown hardware {name!r}; experiments/hardware.yaml has {', '.join(hardware())}")
    return hardware()[name]


def require_packages(run: Run, environment: Path, profile: Hardware | None = None) -> None:
    """Raise UserError if a Python environment lacks what the run's SPEED or FINETUNING needs.

    Read from metadata files. Without a hardware profile FINETUNING is not looked at.
    """
    speed, finetuning = run.experiment.speed, run.experiment.finetuning
    site = [str(path) for path in environment.glob("lib/python3*/site-packages")]

    def missing(names: list[str]) -> list[str]:
        return [name for name in names if not list(distributions(name=name, path=site))]

    if names := missing(speeds()[speed].packages if speed else []):
        raise UserError(f"SPEED={speed} needs {' and '.join(names)}: do {environment}/bin/pip install "
                        f"{' '.join(names)}, or take another SPEED in a new run (RUN=)")
    if profile and finetuning in profile.deepspeed and missing(["deepspeed"]):
        raise UserError(f"FINETUNING={finetuning} on {profile.title} needs deepspeed: do {environment}/bin/pip install "
                        "-r requirements/deepspeed.txt, or take FINETUNING=lora in a new run (RUN=)")


def script_path(recipe: Path, launch: str) -> Path:
    """Return the path of the script that starts a recipe, beside it."""
    return recipe.with_suffix(f".{launch}.sh")


def render(run: Run, name: str, stage_name: str, profile_name: str, file: Path, report_to: str = "none",
           nodes: int = 1, launch: str = "torchrun") -> str:
    """Render the training configuration as YAML; `file` is where it will be, `report_to` one of TRACKERS.

    Raises UserError for an uneven split, and for a speed profile that needs GPUs where the hardware has none.
    """
    stage, profile, finetuning = run.stage(stage_name), _profile(profile_name), run.experiment.finetuning
    speed = speeds()[run.experiment.speed] if run.experiment.speed else None
    if speed and speed.packages and profile.cpu:
        raise UserError(f"SPEED={run.experiment.speed} needs {' and '.join(speed.packages)}, which run on GPUs only, "
                        f"and HARDWARE={profile_name} has none; take another SPEED in a new run (RUN=)")
    deepspeed = profile.deepspeed.get(finetuning)
    memory = memory_gib(run.model(name).parameters, finetuning, stage.has_reference,
                        profile.devices * nodes if deepspeed else 1)
    faster = speed.arguments.get(stage.method, {}) if speed else {}
    unit = "pairs" if stage.method == "dpo" else "packs" if {"packing", "neat_packing"} & set(faster) else "samples"
    return _environment().get_template("recipe.yaml.j2").render(
        model=run.model(name), stage=stage, stage_name=stage_name, hardware=profile, finetuning=finetuning,
        memory=math.ceil(memory), unit=unit,
        split=split_batch(stage, profile, nodes, speed), nodes=nodes, speed=speed, speed_name=run.experiment.speed,
        launch=f"llamafactory-cli train {file}" if _local(nodes, launch) else f"bash {script_path(file, launch)}",
        weights=run.weights(name, stage.starts_from),
        made_by="make recipes" if file.parts[0] == "recipes" else f"make {stage_name} MODEL={name} RUN={run.name}",
        deepspeed=f"templates/deepspeed/{deepspeed}.json" if deepspeed else None,
        dataset_dir=run.dataset(name, stage_name), output_dir=output_dir(run, name, stage_name), report_to=report_to,
        seed=run.training_seed, arguments=_arguments(stage, profile, faster))


def _arguments(stage: Stage, profile: Hardware, faster: dict[str, Any]) -> dict[str, Any]:
    """Merge LLaMA-Factory's arguments; `bf16: auto` of a hardware profile depends on this machine's processor."""
    merged = {**stage.arguments, **profile.arguments, **faster}
    return {**merged, "bf16": cpu_has_bf16()} if merged.get("bf16") == "auto" else merged


def _local(nodes: int, launch: str) -> bool:
    """Tell whether make starts LLaMA-Factory itself."""
    return nodes == 1 and launch == "torchrun"


def render_start(run: Run, stage_name: str, profile_name: str, recipe: Path, nodes: int, launch: str
                 ) -> dict[Path, str]:
    """Render what starts a recipe, path -> text: on one machine the environment of llamafactory-cli, else a script.

    Raises UserError where the path of this folder holds white space, at which torchrun cuts it.
    """
    profile, folder = _profile(profile_name), str(Path.cwd())
    if profile.devices * nodes > 1 and len(folder.split()) != 1:
        raise UserError(f"{folder}: torchrun, which starts more than one process, cuts paths at white space; move this "
                        "folder to a path without any")
    local = _local(nodes, launch)
    path = recipe.with_suffix(".env") if local else script_path(recipe, launch)
    template = "launch/local.env.j2" if local else f"launch/{launch}.sh.j2"
    return {path: _environment().get_template(template).render(
        run=run.name, stage=stage_name, recipe=recipe, file=path, nodes=nodes, devices=profile.devices, cpu=profile.cpu,
        environment=profile.environment)}


def render_steps() -> str:
    """Render recipes/stages.mk: what is made from what in each stage, for make."""
    def make(path: str) -> str:
        for prefix, variable in (("datasets/shared/", "$(S)/"), ("datasets/{model}/", "$(O)/"),
                                 ("models/{model}/", "$(M)/"), ("review/", "$(R)/")):
            if path.startswith(prefix):
                return variable + path.removeprefix(prefix).replace("{model}", "$(MODEL)")
        return {steps.SPLITS: "$(SPLITS)", steps.BASE: "$(BASE)"}[path]

    jinja = environment(TEMPLATES, {"make": make}, keep_trailing_newline=True)
    return jinja.get_template("stages.mk.j2").render(stages=stages(), steps=steps.steps(stages()))


def render_export(run: Run, name: str, stage_name: str, file: Path) -> str:
    """Render the configuration that merges a stage's adapter, as YAML."""
    return _environment().get_template("export.yaml.j2").render(
        model=run.model(name), stage_name=stage_name, file=file,
        weights=run.weights(name, run.stage(stage_name).starts_from), adapter=output_dir(run, name, stage_name),
        model_dir=run.stage_dir(name, stage_name) / "model")


def committed() -> dict[Path, str]:
    """Render the committed recipes, path -> text: the paper's experiment as declared, on the paper's hardware."""
    run = Run("paper", resolve("paper", []))
    names = [name for name, row in models().items() if row.committed]
    paths = [(name, stage, RECIPES / name / f"{stage}.yaml") for name in names for stage in COMMITTED_STAGES]
    recipes = {path: render(run, name, stage, "2xA100", path) for name, stage, path in paths}
    return {RECIPES / "stages.mk": render_steps(), **recipes}


def _write(path: Path, text: str) -> None:
    with writing(path) as stream:
        stream.write(text)


def _main(given: argparse.Namespace) -> None:
    if given.steps:
        _write(RECIPES / "stages.mk", render_steps())
        return
    if given.committed:
        for path, text in committed().items():
            _write(ROOT / path, text)
            print(path)
        return
    if not (given.run and given.model and given.stage):
        raise UserError("give --committed, or --run, --model and --stage")
    run = load_run(given.run)
    path = run.recipe(given.model, given.stage)
    start = render_start(run, given.stage, given.hardware, path, given.nodes, given.launch)
    _write(path, render(run, given.model, given.stage, given.hardware, path, given.report_to, given.nodes,
                        given.launch))
    for beside, text in start.items():
        _write(beside, text)
    if run.experiment.finetuning != "full":
        export = path.with_name(f"{given.stage}.export.yaml")
        _write(export, render_export(run, given.model, given.stage, export))
    print(path)


def main() -> None:
    """Render recipes."""
    arguments = cli.parser("data_builders.recipes", "Render LLaMA-Factory configurations.", """
python -m data_builders.recipes --committed
python -m data_builders.recipes --run paper --model qwen2.5-7b --stage dpo --hardware 1xH200
python -m data_builders.recipes --run paper --model qwen2.5-7b --stage thought-sft --nodes 2 --launch slurm""",
                           optional=["model"])
    arguments.add_argument("--committed", action="store_true", help="render recipes/<model>/<stage>.yaml")
    arguments.add_argument("--steps", action="store_true", help="render recipes/stages.mk alone")
    arguments.add_argument("--run", help="a declared run: render build/runs/<run>/recipes/<model>/<stage>.yaml")
    arguments.add_argument("--stage", choices=list(stages()))
    arguments.add_argument("--hardware", default="2xA100", help="a name of experiments/hardware.yaml")
    arguments.add_argument("--report-to", default="none", choices=TRACKERS, help="where losses go")
    arguments.add_argument("--nodes", type=int, choices=range(1, 1001), default=1, metavar="N",
                           help="how many machines of that hardware train together")
    arguments.add_argument("--launch", default="torchrun", choices=LAUNCHES, help="what starts the processes")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
