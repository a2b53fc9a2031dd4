"""The grid: every cell of the paper's tables and figures, the command that fills it, and whether that has been done.

States: `measured` (a result of the run is there), `published` (the paper prints a number, here it was not run), and
`not run` (a cell of ours, or of a figure whose number the text does not state).
"""

import argparse
import csv
import sys
from collections.abc import Iterator

from eval.tables import Results, load_results
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.paper import Cell, grid

HEADER = ("table", "row", "dataset", "metric", "published", "run", "state")


def measured(cell: Cell, run: Run, results: Results) -> bool:
    """Whether the run has what fills a cell."""
    if not cell.model:
        return (run.dir / cell.file).exists()
    scored = results.get((cell.model, cell.stage), {})
    return all((task, run.source(source), "all") in scored for task, source in cell.keys)


def state(cell: Cell, done: bool) -> str:
    """`measured`, `published` or `not run`."""
    return "measured" if done else "published" if cell.published else "not run"


def open_runs(cells: list[tuple[Cell, bool]]) -> list[tuple[str, str]]:
    """The (model, stage) pairs still to be evaluated, in the order of the grid."""
    return list(dict.fromkeys((cell.model, cell.stage) for cell, done in cells if cell.model and not done))


def summary(cells: list[tuple[Cell, bool]]) -> Iterator[str]:
    """A line for each table, row and command, and the total."""
    groups: dict[tuple[str, str, str], list[bool]] = {}
    for cell, done in cells:
        groups.setdefault((cell.table, cell.row, cell.command), []).append(done)
    width = max(len(row) for _, row, _ in groups)
    for (table, row, command), done_ones in groups.items():
        yield f"{table:<9} {row:<{width}} {sum(done_ones):>3} of {len(done_ones):>3} cells  {command}"
    counts = {name: sum(state(cell, done) == name for cell, done in cells)
              for name in ("measured", "published", "not run")}
    yield f"cells run / cells declared: {counts['measured']} / {len(cells)}" + "".join(
        f"; {count} {name}" for name, count in counts.items() if name != "measured")


def further(run: Run, cells: list[tuple[Cell, bool]], results: Results) -> Iterator[str]:
    """A line for each stage that no cell of the grid needs: one that was added to stages.yaml."""
    paper = {cell.stage for cell, _ in cells} | {each for cell, _ in cells if cell.stage in run.stages()
                                                 for each in run.lineage(cell.stage)}
    for stage in run.stages():
        if stage not in paper and run.stage(stage).starts_from != "init":
            done = ", ".join(sorted(model for model, known in results if known == stage))
            state = f"measured: {done}" if done else "not run"
            yield f"not in the paper: {stage}  make eval STAGE={stage} MODEL=...  {state}"


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
        print("\n".join([*summary(cells), *([] if given.only else further(run, cells, results))]))
    missing = sum(not done for _, done in cells)
    if given.require and missing:
        raise UserError(f"{missing} of {len(cells)} cells have no result in {run.dir}")


def main() -> None:
    """List the grid."""
    arguments = cli.parser("eval.matrix", "Every cell of the tables and figures, its command and its state.", """
python -m eval.matrix --run paper
python -m eval.matrix --run paper --only table3 --format csv""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--only", help="one of them: table1 ... table5, figure4 ... figure8, figure10")
    arguments.add_argument("--models", nargs="*", help="the figures' models, instead of the paper's")
    arguments.add_argument("--format", default="text", choices=["text", "csv", "open"],
                           help="open: MODEL STAGE of what is still to be evaluated")
    arguments.add_argument("--require", action="store_true", help="fail unless every cell has a result")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
