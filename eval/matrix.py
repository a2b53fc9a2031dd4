"""List the grid: every cell of the paper's tables and figures, the command that fills it, and its state.

States: `measured` (the run has a result), `published` (the paper prints a number, the run has none), and `not run` (the
paper has no such row, or does not state the number of a figure).
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator

from eval.tables import Results, load_results
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.paper import Cell, grid
from logreasoner.text_table import aligned

HEADER = ("table", "row", "dataset", "metric", "published", "run", "state")


def measured(cell: Cell, run: Run, results: Results) -> bool:
    """Tell whether the run has the result of a cell."""
    if not cell.model:
        return (run.dir / cell.file).exists()
    scored = results.get((cell.model, cell.stage), {})
    return all((task, run.source(source), "all") in scored for task, source in cell.keys)


def state(cell: Cell, done: bool) -> str:
    """Name the state of a cell: `measured`, `published` or `not run`."""
    return "measured" if done else "published" if cell.published else "not run"


def open_runs(cells: list[tuple[Cell, bool]]) -> list[tuple[str, str]]:
    """List the (model, stage) pairs still to be evaluated, in the order of the grid."""
    return list(dict.fromkeys((cell.model, cell.stage) for cell, done in cells if cell.model and not done))


def summary(cells: list[tuple[Cell, bool]]) -> Iterator[str]:
    """Yield a line for each table, row and command, and the total."""
    groups: dict[tuple[str, str, str], list[bool]] = {}
    for cell, done in cells:
        groups.setdefault((cell.table, cell.row, cell.command), []).append(done)
    yield aligned([(table, row, f"{sum(states)} of {len(states)} cells", command)
                   for (table, row, command), states in groups.items()])
    counts = Counter(state(cell, done) for cell, done in cells)
    yield f"cells run / cells declared: {counts['measured']} / {len(cells)}" + "".join(
        f"; {counts[name]} {name}" for name in ("published", "not run"))


def added_stages(run: Run, cells: list[tuple[Cell, bool]], results: Results) -> Iterator[str]:
    """Yield a line for each stage that no cell of the grid needs: one that was added to stages.yaml."""
    paper = {stage for cell, _ in cells if cell.stage in run.stages() for stage in run.lineage(cell.stage)}
    for stage in run.stages():
        if stage not in paper and run.stage(stage).starts_from != "init":
            models = ", ".join(sorted(model for model, evaluated in results if evaluated == stage))
            yield f"not in the paper: {stage}  make eval STAGE={stage} MODEL=...  " + (
                f"measured: {models}" if models else "not run")


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    results = load_results(run)
    cells = [(cell, measured(cell, run, results)) for cell in grid(given.only, given.models)]
    if given.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([HEADER, *(
            (cell.table, cell.row, cell.dataset, cell.metric, cell.published, cell.command, state(cell, done))
            for cell, done in cells)])
    elif given.format == "open":
        print("".join(f"{name} {stage}\n" for name, stage in open_runs(cells)), end="")
    else:
        print("\n".join([*summary(cells), *([] if given.only else added_stages(run, cells, results))]))
    missing = sum(not done for _, done in cells)
    if given.require and missing:
        raise UserError(f"{missing} of {len(cells)} cells have no result in {run.dir}")


def main() -> None:
    """List the grid."""
    arguments = cli.parser("eval.matrix", "List every cell of the tables and figures, its command and its state.", """
python -m eval.matrix --run paper
python -m eval.matrix --run paper --only table3 --format csv""", required=["run"])
    arguments.add_argument("--only", help="table1 ... table5, figure4 ... figure8, figure10")
    arguments.add_argument("--models", nargs="*", help="the figures' models, instead of the paper's")
    arguments.add_argument("--format", default="text", choices=["text", "csv", "open"],
                           help="open: MODEL STAGE of what is still to be evaluated")
    arguments.add_argument("--require", action="store_true", help="fail unless every cell has a result")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
