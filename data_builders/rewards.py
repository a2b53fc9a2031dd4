"""Write prompts with labels and a reward function for RL trainers, under build/runs/<run>/rewards.

train.parquet has the labelled instances of both stages, which share no log with the tests, in verl's columns; TRL takes
the same rows. reward.py is logreasoner/reward.py with the answer parser, so that it needs neither this project nor a
package. No trainer of this project uses them.
"""

import argparse
import inspect
from pathlib import Path
from typing import Any

from data_builders.samples import labelled
from logreasoner import answer_format, cli, prompts, reward
from logreasoner.config import Run, load_run
from logreasoner.files import writing


def rows(run: Run) -> list[dict[str, Any]]:
    """Make a row for each labelled instance: the prompt as chat messages, the label, the task's labels."""
    tasks = run.tasks()
    return [{"data_source": item.task, "ability": "log analysis",
             "prompt": [{"role": "user", "content": prompts.solution(item, tasks[item.task])}],
             "reward_model": {"style": "rule", "ground_truth": item.label},
             "extra_info": {"index": number, "id": item.id, "source": item.source, "labels": tasks[item.task].labels}}
            for number, item in enumerate(labelled(run).values())]


def reward_file() -> str:
    """Return the source of reward.py: logreasoner/reward.py with the answer parser in place of its import."""
    parser, text = (inspect.getsource(module) for module in (answer_format, reward))
    before, imported, after = text.partition("from logreasoner.answer_format import parse_label_leniently, "
                                             "parse_trajectory\n")
    assert imported
    return f"{before}\n# logreasoner/answer_format.py\n{parser}\n\n# logreasoner/reward.py{after}"


def build(run: Run) -> Path:
    """Write train.parquet and reward.py, and return their folder."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    folder = run.dir / "rewards"
    with writing(folder / "reward.py") as stream:
        stream.write(reward_file())
    table = pyarrow.Table.from_pylist(rows(run))
    inputs = [run.splits / "stage1.jsonl", run.splits / "stage2.jsonl"]
    with writing(folder / "train.parquet", "wb", inputs, mark=run.mark, rows=len(table)) as stream:
        parquet.write_table(table, stream)
    print(f"{folder}: {len(table):,} prompts with labels in train.parquet, and reward.py "
          "(verl: compute_score; TRL: reward); how to use them: docs/using.md")
    return folder


def _main(given: argparse.Namespace) -> None:
    build(load_run(given.run))


def main() -> None:
    """Write prompts with labels and a reward function."""
    cli.run(cli.parser("data_builders.rewards", "Write prompts with labels and a reward function for RL trainers.", """
python -m data_builders.rewards --run paper""", ["run"]), _main)


if __name__ == "__main__":
    main()
