"""Measure what the CPU profile does (experiments/hardware.yaml, logreasoner/machine.py) with a pretrained model.

SmolLM2-135M, from the package index: training in bfloat16 without gradient checkpointing, and vLLM in bfloat16 on all
cores, each beside how it would run without these settings.
"""

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.generation import through
from bench.measuring import Row, ran
from bench.training import ENVIRONMENT, prepare, recipe, samples
from eval.predict import requests as evaluation
from logreasoner.config import Run, load_run, packaged_weights, resolve
from logreasoner.files import ROOT, read_json
from logreasoner.generation import vllm
from logreasoner.machine import cpu_has_bf16, few_cores
from logreasoner.schemas import Model

MODEL, EXPERIMENT, STAGE = "smollm2-135m", "demo-smollm2-135m", "thought-sft"
STEPS, ANSWERS, TOKENS = 3, 8, 64
CONTEXT = 4096  # tokens of a prompt and its answer
AUTOMATIC = {"VLLM_CPU_OMP_THREADS_BIND": "auto"}  # vLLM's own default: it leaves one core to its other processes


def trained(folder: Path, label: str, weights: str, **changes: Any) -> float:
    """Train STEPS steps; returns seconds a step, without loading."""
    run = Run("cpu", resolve(EXPERIMENT, []))
    rows = samples(folder, STEPS * run.stage(STAGE).global_batch)
    start = recipe(folder, label, rows, run, STAGE, model=MODEL, model_name_or_path=weights, max_steps=STEPS, **changes)
    ran(start.command, {**ENVIRONMENT, **start.environment}, folder)
    return float(read_json(start.folder / "out" / "train_results.json")["train_runtime"]) / STEPS


def answered(run: Run, model: Model, weights: str, log: Path, dtype: str, **environment: str) -> float:
    """Serve the model; returns the seconds of ANSWERS answers of TOKENS tokens to three-shot questions."""
    asked = [{**each, "body": {**each["body"], "max_tokens": TOKENS, "ignore_eos": True}}
             for each in evaluation(run, MODEL, "base")]
    command = vllm.vllm_command(weights, asked[0]["body"]["model"], model, "base", CONTEXT, "--dtype", dtype)
    with patch.dict(os.environ, environment), vllm.server(command, log) as url:
        through(url, asked[ANSWERS:ANSWERS + 1])  # loads what loads late
        return through(url, asked[:ANSWERS])[0]


def measure(folder: Path) -> list[Row]:
    """Make rows for training and for generation."""
    prepare(folder)
    ran([sys.executable, "-m", "demo.teacher", "--run", "bench-cpu", "--", "make", "examples", "package-weights",
         f"EXPERIMENT={EXPERIMENT}", "RUN=bench-cpu", f"MODEL={MODEL}", "HARDWARE=cpu"])
    run, weights = load_run("bench-cpu"), str(ROOT / packaged_weights(MODEL))
    model, exact = run.model(MODEL), "bfloat16" if cpu_has_bf16() else "float32"
    plain = trained(folder, "plain", weights, bf16=False, disable_gradient_checkpointing=False)
    ours = trained(folder, "profile", weights)
    results = [Row(f"SFT of SmolLM2-135M, {exact}, activations kept", f"{ours:.1f} s a step",
                   f"float32, gradient checkpointing: {plain:.1f} s a step", f"{ours / plain:.2f}", "-", None)]
    cores = f"cores {few_cores()}" if few_cores() else "vLLM's own choice of cores"
    plain = answered(run, model, weights, folder / "plain.log", "float32", **AUTOMATIC)
    for dtype in dict.fromkeys(("float32", exact)):
        ours = answered(run, model, weights, folder / f"{dtype}.log", dtype)
        results.append(Row(f"{ANSWERS} answers of {TOKENS} tokens by vLLM, {dtype}, {cores}", f"{ours:.1f} s",
                           f"float32, vLLM's own choice of cores: {plain:.1f} s", f"{ours / plain:.2f}", "-", None))
    return results
