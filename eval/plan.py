"""`make plan`: show what a table or figure needs in requests, USD and GPU hours before anything is spent."""

import argparse
import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

from eval.estimates import Plan
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, hardware, load_run
from logreasoner.generation.costs import prices
from logreasoner.paper import Cell, grid
from logreasoner.text_table import aligned

HEADER = ("step", "model", "requests", "answered", "identical", "tokens in", "in prefixes", "tokens out", "at most",
          "USD", "by batch", "at most", "GPU h")
Table = list[tuple[str, ...]]


def chosen(only: str | None, models: list[str]) -> list[Cell]:
    """Select the cells of a table or figure, of some models. Raises UserError if there are none with a model."""
    cells = [cell for cell in grid(only, models or None)
             if cell.model and (not models or cell.model in models or cell.table.startswith("figure"))]
    if not cells:
        known = ", ".join(dict.fromkeys(cell.model for cell in grid(only) if cell.model)) or "none: it asks no model"
        raise UserError(f"{only or 'the grid'} has no cell of {', '.join(models) or 'a model'}; its models are {known}")
    return cells


def planned(run: Run, pairs: Iterable[tuple[str, str]], profile: str, limit: int | None, samples: int) -> Plan:
    """Plan some (model, stage) pairs. Raises UserError before `make data` and for an unknown profile."""
    if profile not in hardware():
        raise UserError(f"unknown HARDWARE {profile!r}; experiments/hardware.yaml has {', '.join(hardware())}")
    if not (run.splits / "manifest.json").exists():
        raise UserError(f"{run.splits}: no splits yet, and prompts are made of them; run: make data")
    plan = Plan(run, profile, limit, samples)
    for model, stage in dict.fromkeys(pairs):
        run.check(model, stage)
        plan.add(model, stage)
    return plan


def totals(plan: Plan) -> dict[str, float]:
    """Add up USD (live, by the Batch API, at most live), GPU hours and bytes of disk: weights, and checkpoints.

    Stages are trained one after another, so the largest checkpoints count.
    """
    steps, trainings = plan.steps.values(), plan.trainings.values()
    usd = sum(step.usd or 0 for step in steps)
    base = {training.model: 2 * plan.run.model(training.model).parameters for training in trainings}
    return {"usd": usd, "usd_by_batch": usd * prices().batch_discount,
            "usd_at_most": sum(step.usd_most or 0 for step in steps),
            "gpu_hours_generation": sum(step.gpu_hours or 0 for step in steps),
            "gpu_hours_training": sum(training.gpu_hours or 0 for training in trainings),
            "disk_bytes": sum(base.values()) + sum(training.disk for training in trainings),
            "checkpoint_bytes": max((training.checkpoints for training in trainings), default=0.0)}


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _steps(plan: Plan) -> Table:
    rows: Table = [HEADER]
    for step in plan.steps.values():
        about = "~" if step.most != step.requests else ""
        batch = None if step.usd is None else step.usd * prices().batch_discount
        rows.append((step.name, step.asked, f"{about}{step.requests:,}", f"{step.answered:,}", f"{step.saved:,}",
                     f"{step.tokens_in:,.0f}", f"{step.prefix:.0%}", f"{step.tokens_out:,.0f}",
                     f"{step.tokens_out_most:,.0f}", _two(step.usd), _two(batch), _two(step.usd_most),
                     _two(step.gpu_hours)))
    return rows


def report(plan: Plan, cells: list[Cell]) -> Iterator[str]:
    """Yield the plan as lines of text."""
    run, total = plan.run, totals(plan)
    checkpoints = total["checkpoint_bytes"] / 1e9
    pairs = len({(cell.model, cell.stage) for cell in cells})
    yield f"{len(cells)} cells, {pairs} models at a stage; run {run.name}, {plan.profile}; prices of {prices().as_of}"
    yield aligned(_steps(plan), left=2, indent="  ")
    for basis in dict.fromkeys(step.basis for step in plan.steps.values()):
        names = ", ".join(dict.fromkeys(step.name for step in plan.steps.values() if step.basis == basis))
        yield f"  {names}: {basis}"
    if plan.trainings:
        yield "trainings (rows, answer lengths and speed are estimates):"
        yield aligned([("stage", "model", "rows", "tokens", "GPU h"), *(
            (row.stage, row.model, f"{row.rows:,}", f"{row.tokens:,.0f}", _two(row.gpu_hours))
            for row in plan.trainings.values())], left=2, indent="  ")
    yield (f"API: {total['usd']:.2f} USD live, {total['usd_by_batch']:.2f} by batches; at most "
           f"{total['usd_at_most']:.2f} live")
    yield (f"GPU hours: {total['gpu_hours_generation']:.1f} generation, {total['gpu_hours_training']:.1f} training "
           f"(throughput {prices().throughput.basis}); disk: {total['disk_bytes'] / 1e9:.0f} GB of weights"
           f"{f', {checkpoints:.0f} GB of checkpoints while a stage trains' if checkpoints else ''}")
    yield from (f"note: {note}" for note in plan.notes)


def as_json(plan: Plan, cells: list[Cell]) -> dict[str, Any]:
    """Return the plan as JSON values."""
    return {"run": plan.run.name, "hardware": plan.profile, "cells": len(cells), "prices": str(prices().as_of),
            "steps": [dataclasses.asdict(step) for step in plan.steps.values()],
            "trainings": [dataclasses.asdict(training) for training in plan.trainings.values()],
            "totals": totals(plan), "notes": list(plan.notes)}


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    if given.stage and not given.models:
        raise UserError("--stage needs --models")
    cells = [] if given.stage else chosen(given.only, given.models)
    pairs = [(model, given.stage) for model in given.models] if given.stage else [
        (cell.model, cell.stage) for cell in cells]
    plan = planned(run, pairs, given.hardware, given.limit, given.samples)
    print(json.dumps(as_json(plan, cells), indent=2) if given.json else "\n".join(report(plan, cells)))


def main() -> None:
    """Show what a part of the grid needs."""
    arguments = cli.parser("eval.plan", "Show what tables and figures need in requests, USD, GPU hours.", """
python -m eval.plan --run paper --only table3 --models qwen2.5-7b
python -m eval.plan --run paper --only figure5 --hardware 1xH200 --json
python -m eval.plan --run paper --only table4 --models gpt-4o --limit 200""",
                           required=["run"], optional=["limit", "samples"])
    arguments.add_argument("--only", help="table3 ... table5, figure4 ... figure8 (default: all)")
    arguments.add_argument("--models", nargs="*", default=[], help="names of models.yaml (default: the paper's)")
    arguments.add_argument("--stage", help="a stage of stages.yaml for --models, also one that no table has")
    arguments.add_argument("--hardware", default="2xA100", help="a profile of hardware.yaml")
    arguments.add_argument("--json", action="store_true")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
