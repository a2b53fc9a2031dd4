"""Compare LLaMA-Factory's ways to train faster with the faithful recipe: the tiny model, the same samples, one epoch.

Times are CPU seconds of the steps, which other work on the machine hardly changes: those of the whole command without
those of a training of one step.
"""

import os
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.measuring import Row, ran
from data_builders.llamafactory_dataset import alpaca, dataset_info
from data_builders.recipes import render, render_start
from logreasoner.config import Run, resolve, speeds, stages
from logreasoner.files import ROOT, read_json, read_jsonl, write_json, writing
from logreasoner.logged import exported

STAGE = "base-sft"  # thoughts, solutions and corrections: short and long samples mixed, as in the demo
SAMPLES = 480
RUN = Run("demo", resolve("demo", []))
INIT = RUN.stage_dir("tiny", "init") / "model"
MADE = RUN.dataset("tiny", STAGE) / "samples.jsonl"
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def prepare(folder: Path) -> None:
    """Make the demo's tiny random model and its samples in a folder, unless they are there."""
    if not (folder / ".venv-train").exists():
        (folder / ".venv-train").symlink_to(ROOT / ".venv-train")
    tiny = [str(ROOT / ".venv-train/bin/python"), "-m", "demo.tiny_model", "--run", "demo", "--out", str(INIT)]
    for made, command in (
            ("build/data/bundled/form.jsonl", [sys.executable, "-m", "demo.logs", "--out", "build/data/bundled"]),
            ("build/runs/demo/run.json", [sys.executable, "-m", "logreasoner.config", "--run", "demo"]),
            (INIT / "config.json", tiny),
            (MADE, [sys.executable, "-m", "demo.base_sft", "--run", "demo", "--out", str(MADE)])):
        if not (folder / made).exists():
            ran(command, ENVIRONMENT, folder)


class Launch(NamedTuple):
    """How a training starts: a command with what it adds to the environment, and the folder of its files."""

    command: list[str]
    environment: dict[str, str]
    folder: Path


def samples(folder: Path, count: int) -> list[dict[str, Any]]:
    """Read so many of the prepared samples, as LLaMA-Factory reads them."""
    return [alpaca(row, stages()[STAGE]) for _, row in islice(read_jsonl(folder / MADE), count)]


def recipe(folder: Path, label: str, rows: list[dict[str, Any]], run: Run = RUN, stage: str = STAGE,
           hardware: str = "cpu", nodes: int = 1, model: str = "tiny", **changes: Any) -> Launch:
    """Write dataset and recipe of one epoch under runs/<label>, and return what starts it."""
    here = Path("runs") / label
    shutil.rmtree(folder / here, ignore_errors=True)
    declared = run.stage(stage)
    write_json(folder / here / f"{declared.dataset}.json", rows)
    write_json(folder / here / "dataset_info.json", dataset_info(declared))
    path = here / f"{stage}.yaml"
    rendered = yaml.safe_load(render(run, model, stage, hardware, path, nodes=nodes))
    with writing(folder / path) as stream:
        yaml.safe_dump({**rendered, "model_name_or_path": str(INIT), "dataset_dir": str(here), "num_train_epochs": 1.0,
                        "output_dir": str(here / "out"), "save_strategy": "no", **changes}, stream)
    (start, text), = render_start(run, stage, hardware, path, nodes, "torchrun").items()
    with writing(folder / start) as stream:
        stream.write(text)
    if start.suffix == ".sh":
        return Launch(["bash", str(start)], {}, folder / here)
    programs = f"{folder.resolve() / '.venv-train' / 'bin'}:{os.environ['PATH']}"
    return Launch(["llamafactory-cli", "train", str(path)],
                  {**exported(folder / start), "PATH": programs}, folder / here)


def _trained(folder: Path, label: str, rows: list[dict[str, Any]], run: Run = RUN) -> tuple[float, int]:
    """Train; returns CPU seconds and the number of steps."""
    start = recipe(folder, label, rows, run)
    done = ran(start.command, {**ENVIRONMENT, **start.environment}, folder)
    return done.cpu, read_json(start.folder / "out" / "trainer_state.json")["global_step"]


def measure(folder: Path) -> list[Row]:
    """Make a row for each speed profile; those that need a GPU are named, not measured."""
    prepare(folder)
    rows = samples(folder, SAMPLES)
    started, _ = _trained(folder, "one-step", rows[:RUN.stage(STAGE).global_batch])
    faithful, steps = _trained(folder, "faithful", rows)
    results = []
    for name, profile in speeds().items():
        what = f"`SPEED={name}`, SFT of {SAMPLES} samples, once"
        if profile.packages:
            why = f"not measured: {' and '.join(profile.packages)} run on GPUs only"
            results.append(Row(what, why, "-", "-", "-", None))
            continue
        seconds, taken = _trained(folder, name, rows, Run("demo", resolve("demo", [f"speed={name}"])))
        results.append(Row(what, f"{seconds - started:.1f} CPU s, {taken} steps",
                         f"faithful: {faithful - started:.1f} CPU s, {steps} steps",
                         f"{(seconds - started) / (faithful - started):.2f}", "-", None))
    return results
