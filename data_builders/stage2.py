"""Run one step of stage 2, stepwise solutions (sections 3.3 and 4.1): a pure function from files to files.

solution-requests -> (pi_thought) -> solutions: right ones and wrong ones
correction-requests -> (teacher, or pi_thought itself) -> corrections
"""

import argparse
from collections.abc import Callable
from typing import Any

from data_builders import responses
from data_builders.corrections import parse_correction
from logreasoner import cli, prompts
from logreasoner.answer_format import Trajectory
from logreasoner.config import Run, load_run
from logreasoner.files import read_jsonl, write_jsonl
from logreasoner.generation import generate
from logreasoner.instances import by_id, read_instances
from logreasoner.paper import published
from logreasoner.text_table import aligned

Row = dict[str, Any]


def solution_requests(run: Run, model: str, stage: str) -> None:
    """Ask the stage's policy to solve each stage-2 instance, zero-shot, think then answer (figure 13)."""
    tasks, name = run.tasks(), generate.served_name(model, run.solver(stage))
    write_jsonl(run.dataset(model, stage) / "solutions.requests.jsonl", (
        generate.request(item.id, name, "solution", prompts.solution(item, tasks[item.task]), vllm=True)
        for item in read_instances(run.splits / "stage2.jsonl")))


def solutions(run: Run, model: str, stage: str) -> None:
    """Divide the policy's solutions into right ones (equation 3), wrong ones (D_err, equation 5) and the rest."""
    path, tasks = run.dataset(model, stage), run.tasks()
    items = list(read_instances(run.splits / "stage2.jsonl"))
    texts = responses.texts(path / "solutions.responses.jsonl", [item.id for item in items])
    rows: list[Row] = []
    for item in items:
        trajectory, outcome = responses.judge(texts[item.id], item, tasks[item.task])
        rows.append({"id": item.id, "task": item.task, "outcome": outcome, "label": item.label, "text": texts[item.id],
                     "steps": list(trajectory.steps) if trajectory else None,
                     "answer": trajectory.answer if trajectory else None})
    counts = responses.count(rows)
    write_jsonl(path / "solutions.jsonl", rows, [run.splits / "stage2.jsonl"], counts=counts, mark=run.mark)
    responses.show(f"solutions of {len(rows)} instances by {model}'s {run.solver(stage)}:", counts)
    _show_beside_table1(run, counts, "right", "sft")


def _show_beside_table1(run: Run, counts: dict[str, dict[str, int]], outcome: str, column: str) -> None:
    """Print how many rows of each task can be used, beside Table 1's; nothing for a run with a scripted teacher."""
    if counts and not run.experiment.teacher.scripted:
        paper = {row["task"]: row[column] for row in published().data_tables["table1"]["rows"]
                 if row["stage"] == "stage2"}
        rows = [[task, f"{outcomes.get(outcome, 0):,} rows for {column.upper()}; Table 1 has "
                       f"{paper.get(task, '-')} for its models"] for task, outcomes in counts.items()]
        print(aligned(rows, indent="  "))


def trajectory(row: Row) -> Trajectory:
    """Return the trajectory of a row of solutions.jsonl that has one."""
    return Trajectory(tuple(row["steps"]), row["answer"])


def wrong(run: Run, model: str, stage: str) -> list[Row]:
    """Read the wrong solutions (D_err) that a stage holds."""
    return [row for _, row in read_jsonl(run.dataset(model, stage) / "solutions.jsonl") if row["outcome"] == "wrong"]


def correction_requests(run: Run, model: str, stage: str) -> None:
    """Ask for a correction of every wrong solution, given the true label (equation 6, figure 14)."""
    tasks, items = run.tasks(), by_id(read_instances(run.splits / "stage2.jsonl"))
    holder = run.stage(stage).samples.solutions
    by_policy = run.corrected_by(stage) == "self"
    name = generate.served_name(model, run.solver(stage)) if by_policy else run.experiment.teacher.model
    write_jsonl(run.dataset(model, stage) / "corrections.requests.jsonl", (
        generate.request(row["id"], name, "correction", prompts.render(
            "correction", problem=prompts.problem(items[row["id"]], tasks[row["task"]]), steps=row["steps"],
            answer=row["answer"], label=row["label"]), vllm=by_policy, response_format={"type": "json_object"})
        for row in wrong(run, model, holder)))


def corrections(run: Run, model: str, stage: str) -> None:
    """Validate the corrections (equation 8): each row has its outcome and, if accepted, the chosen trajectory."""
    path, flawed = run.dataset(model, stage), wrong(run, model, run.stage(stage).samples.solutions)
    texts = responses.texts(path / "corrections.responses.jsonl", [row["id"] for row in flawed])
    rows: list[Row] = []
    for row in flawed:
        text = texts[row["id"]]
        chosen, why = parse_correction(text, trajectory(row), row["label"]) if text is not None else (None, "refused")
        rows.append({"id": row["id"], "task": row["task"], "outcome": why or "accepted", "text": text,
                     "chosen": chosen.render() if chosen else None})
    counts = responses.count(rows)
    write_jsonl(path / "corrections.jsonl", rows, [path / "corrections.responses.jsonl"], counts=counts, mark=run.mark)
    accepted = sum(row["outcome"] == "accepted" for row in rows)
    responses.show(f"corrections: {accepted} accepted of {len(rows)}", counts)
    _show_beside_table1(run, counts, "accepted", "dpo")


STEPS: dict[str, Callable[[Run, str, str], None]] = {
    "solution-requests": solution_requests, "solutions": solutions,
    "correction-requests": correction_requests, "corrections": corrections,
}


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.stage2", "Solutions and corrections: one step, from files to files.", """
python -m data_builders.stage2 --run paper --model qwen2.5-7b --stage solution-sft solution-requests
python -m data_builders.stage2 --run paper --model qwen2.5-7b --stage dpo corrections""",
                           required=["run", "model", "stage"])
    parser.add_argument("step", choices=list(STEPS))

    def run_step(options: argparse.Namespace) -> None:
        STEPS[options.step](load_run(options.run), options.model, options.stage)

    cli.run(parser, run_step)


if __name__ == "__main__":
    main()
