"""Stage 2, stepwise solutions (sections 3.3 and 4.1): each subcommand is a pure function from files to files.

solution-requests -> (pi_thought) -> solutions: D_corr, and the wrong ones
correction-requests -> (teacher, or pi_thought itself) -> corrections: D_pref
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_builders import answered
from data_builders.corrections import parse_correction
from logreasoner import chat, cli, prompts
from logreasoner.answers import Trajectory
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run, load_yaml
from logreasoner.files import EXPERIMENTS, manifest, read_jsonl, write_jsonl
from logreasoner.records import by_id, read_instances

Row = dict[str, Any]
POLICY = "thought-sft"  # pi_thought


def solution_requests(run: Run, model: str) -> None:
    """Ask pi_thought to solve each stage-2 instance, zero-shot, think then answer (figure 13)."""
    tasks, name = run.tasks(), chat.served_name(model, POLICY)
    write_jsonl(run.dataset(model, "solution-sft") / "solutions.requests.jsonl", (
        chat.request(item.id, name, "solution", prompts.solution(item, tasks[item.task]), vllm=True)
        for item in read_instances(run.pools / "stage2.jsonl")))


def solutions(run: Run, model: str) -> None:
    """Sort pi_thought's solutions into right ones (D_corr, equation 3), wrong ones (D_err, equation 5) and the rest."""
    path, tasks = run.dataset(model, "solution-sft"), run.tasks()
    items = list(read_instances(run.pools / "stage2.jsonl"))
    texts = answered.texts(path / "solutions.responses.jsonl", [item.id for item in items])
    rows: list[Row] = []
    for item in items:
        trajectory, outcome = answered.judge(texts[item.id], item, tasks[item.task])
        rows.append({"id": item.id, "task": item.task, "outcome": outcome, "label": item.label, "text": texts[item.id],
                     "steps": list(trajectory.steps) if trajectory else None,
                     "answer": trajectory.answer if trajectory else None})
    write_jsonl(path / "solutions.jsonl", rows)
    counts = answered.count(rows)
    answered.show(f"solutions of {len(rows)} instances by {model}'s pi_thought:", counts)
    _beside_table1(run, counts, "right", "sft")
    right = [row for row in rows if row["outcome"] == "right"]
    if not right:
        raise UserError(f"{path}: D_corr is empty: pi_thought solved no instance; see solutions.jsonl")
    prompt = by_id(items)
    _write_samples(path, run, [
        {"id": row["id"], "task": row["task"], "prompt": prompts.solution(prompt[row["id"]], tasks[row["task"]]),
         "response": _trajectory(row).render()} for row in right], [path / "solutions.jsonl"], counts)


def _beside_table1(run: Run, counts: dict[str, dict[str, int]], outcome: str, column: str) -> None:
    """Print how many rows of each task came out, beside Table 1's; nothing for a run with a scripted teacher."""
    if run.experiment.teacher.scripted:
        return
    published = {row["task"]: row[column] for row in load_yaml(EXPERIMENTS / "tables_data.yaml")["table1"]["rows"]
                 if row["stage"] == "stage2"}
    for task, outcomes in counts.items():
        print(f"  {task:<30}{outcomes.get(outcome, 0):,} rows for {column.upper()}; "
              f"Table 1 has {published.get(task, '-')} for its models")


def _trajectory(row: Row) -> Trajectory:
    return Trajectory(tuple(row["steps"]), row["answer"])


def _write_samples(path: Path, run: Run, samples: list[Row], inputs: list[Path], counts: Any) -> None:
    random.Random(run.experiment.seed).shuffle(samples)  # all tasks mixed (section 4.1)
    write_jsonl(path / "samples.jsonl", samples)
    manifest(path / "samples.jsonl", inputs, counts=counts, mark=run.mark)


def _wrong(run: Run, model: str) -> list[Row]:
    return [row for _, row in read_jsonl(run.dataset(model, "solution-sft") / "solutions.jsonl")
            if row["outcome"] == "wrong"]


def correction_requests(run: Run, model: str) -> None:
    """Ask for a correction of every wrong solution, given the true label (equation 6, figure 14)."""
    tasks, items = run.tasks(), by_id(read_instances(run.pools / "stage2.jsonl"))
    own = run.experiment.corrections_by == "self"
    name = chat.served_name(model, POLICY) if own else run.experiment.teacher.model
    write_jsonl(run.dataset(model, "dpo") / "corrections.requests.jsonl", (
        chat.request(row["id"], name, "correction", prompts.render(
            "correction", problem=prompts.problem(items[row["id"]], tasks[row["task"]]), steps=row["steps"],
            answer=row["answer"], label=row["label"]), vllm=own, response_format={"type": "json_object"})
        for row in _wrong(run, model)))


def corrections(run: Run, model: str) -> None:
    """Keep the accepted corrections: D_pref (equation 8), chosen and rejected from the same first steps."""
    path, tasks = run.dataset(model, "dpo"), run.tasks()
    wrong = _wrong(run, model)
    items = by_id(read_instances(run.pools / "stage2.jsonl"))
    texts = answered.texts(path / "corrections.responses.jsonl", [row["id"] for row in wrong])
    rows, pairs = [], []
    for row in wrong:
        text, flawed = texts[row["id"]], _trajectory(row)
        chosen, why = parse_correction(text, flawed, row["label"]) if text is not None else (None, "refused")
        rows.append({"id": row["id"], "task": row["task"], "outcome": why or "accepted", "text": text})
        if chosen is not None:
            pairs.append({"id": row["id"], "task": row["task"],
                          "prompt": prompts.solution(items[row["id"]], tasks[row["task"]]),
                          "chosen": chosen.render(), "rejected": flawed.render()})
    write_jsonl(path / "corrections.jsonl", rows)
    counts = answered.count(rows)
    answered.show(f"corrections of {len(wrong)} wrong solutions:", counts)
    _beside_table1(run, counts, "accepted", "dpo")
    if not pairs:
        raise UserError(f"{path}: D_pref is empty: no correction was accepted; see corrections.jsonl for the reasons")
    _write_samples(path, run, pairs, [path / "corrections.jsonl"], counts)


STEPS: dict[str, Callable[[Run, str], None]] = {
    "solution-requests": solution_requests, "solutions": solutions,
    "correction-requests": correction_requests, "corrections": corrections,
}


def main() -> None:
    """Run one step of stage 2."""
    arguments = cli.parser("data_builders.stage2", "Solutions and corrections: one step, from files to files.", """
python -m data_builders.stage2 --run paper --model qwen2.5-7b solution-requests
python -m data_builders.stage2 --run paper --model qwen2.5-7b corrections""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--model", required=True, help="a name of experiments/models.yaml")
    arguments.add_argument("step", choices=list(STEPS))

    def step(given: argparse.Namespace) -> None:
        STEPS[given.step](load_run(given.run), given.model)

    cli.run(arguments, step)


if __name__ == "__main__":
    main()
