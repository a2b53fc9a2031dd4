"""Run one step of stage 2, stepwise solutions (sections 3.3 and 4.1): a pure function from files to files.

solution-requests -> (pi_thought) -> solutions: right ones and wrong ones
correction-requests -> (teacher, or pi_thought itself) -> corrections

What is not accepted has further attempts (data_builders/ask.py).
"""

import argparse
from collections.abc import Callable
from typing import Any

from data_builders import responses
from data_builders.corrections import Corrected, parse_correction
from logreasoner import cli, prompts
from logreasoner.answer_format import Trajectory, after_thinking, parse_label_leniently
from logreasoner.config import Run, load_run, thinking_room
from logreasoner.files import read_jsonl, write_jsonl
from logreasoner.generation import generate
from logreasoner.instances import by_id, read_instances
from logreasoner.paper import published
from logreasoner.text_table import aligned

Row = dict[str, Any]


def solution_requests(run: Run, model: str, stage: str, assumed: tuple[str, ...] = ()) -> None:
    """Ask the stage's policy to solve each stage-2 instance, think then answer (figure 13).

    Zero-shot as in the paper, or with the evaluation's examples (`stage2.few_shot`) for models too small to keep to
    the form without; `assumed` as in examples.read.
    """
    tasks, name = run.tasks(), generate.served_name(model, run.solver(stage))
    items = list(read_instances(run.splits / "stage2.jsonl"))
    asked = prompts.few_shot(run, items, assumed) if run.experiment.stage2.few_shot else (
        prompts.conversation(item, tasks[item.task]) for item in items)
    write_jsonl(run.dataset(model, stage) / "solutions.requests.jsonl", (
        generate.request(item.id, name, "solution", prompt, vllm=True, **thinking_room(run.model(model).thinking))
        for item, prompt in zip(items, asked, strict=True)))


def solution_objection(run: Run, model: str, stage: str) -> responses.Objection:
    """Return what says why a text is no solution of an instance: it names no label, however leniently it is read."""
    tasks, items = run.tasks(), by_id(read_instances(run.splits / "stage2.jsonl"))

    def objection(key: str, text: str) -> str:
        return "" if parse_label_leniently(text, tasks[items[key].task].labels) else "unparsed"

    return objection


def solutions(run: Run, model: str, stage: str) -> None:
    """Divide the policy's solutions into right ones (equation 3), wrong ones (D_err, equation 5) and the rest."""
    path, tasks, objection = run.dataset(model, stage), run.tasks(), solution_objection(run, model, stage)
    items = list(read_instances(run.splits / "stage2.jsonl"))
    tried = responses.attempts(path / "solutions.responses.jsonl", [item.id for item in items],
                               run.model(model).thinking)
    rows: list[Row] = []
    for item in items:
        attempt, _ = responses.deciding(item.id, tried[item.id], objection)
        trajectory, outcome = responses.judge(attempt, item, tasks[item.task])
        rows.append({"id": item.id, "task": item.task, "outcome": outcome, "label": item.label, "text": attempt.text,
                     "attempt": attempt.number, "steps": list(trajectory.steps) if trajectory else None,
                     "answer": trajectory.answer if trajectory else None})
    counts = responses.count(rows)
    write_jsonl(path / "solutions.jsonl", rows, [run.splits / "stage2.jsonl"], counts=counts, mark=run.mark,
                attempts=responses.attempt_counts(rows))
    solver = f"{model}'s {run.solver(stage)}{responses.again(rows)}"
    responses.show(f"solutions of {len(rows)} instances by {solver}:", counts)
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


def written(run: Run, row: Row) -> str:
    """Return the text of a solution to train on: the model's own, or its canonical form where the run says so."""
    if run.experiment.trained_text == "own":
        return after_thinking(row["text"]).strip()
    return trajectory(row).render()


def wrong(run: Run, model: str, stage: str) -> list[Row]:
    """Read the wrong solutions (D_err) that a stage holds."""
    return [row for _, row in read_jsonl(run.dataset(model, stage) / "solutions.jsonl") if row["outcome"] == "wrong"]


def correction_requests(run: Run, model: str, stage: str) -> None:
    """Ask for a correction of every wrong solution, given the true label (equation 6, figure 14)."""
    tasks, items = run.tasks(), by_id(read_instances(run.splits / "stage2.jsonl"))
    holder = run.stage(stage).samples.solutions
    by_policy = run.corrected_by(stage) == "self"
    name = generate.served_name(model, run.solver(stage)) if by_policy else run.experiment.teacher.model
    keep = run.experiment.flawed_step == "keep"
    write_jsonl(run.dataset(model, stage) / "corrections.requests.jsonl", (
        generate.request(row["id"], name, "correction", prompts.render(
            "correction", problem=prompts.problem(items[row["id"]], tasks[row["task"]]), steps=row["steps"],
            answer=row["answer"], label=row["label"], keep=keep),
            vllm=by_policy or run.experiment.teacher.may_be_vllm(),
            response_format={"type": "json_object"}, **(thinking_room(run.model(model).thinking) if by_policy else {}))
        for row in wrong(run, model, holder)))


def corrected(run: Run, flawed: Row, text: str) -> tuple[Corrected | None, str]:
    """Return what an answer makes of a wrong solution, or None and why it is not accepted."""
    own = written(run, flawed) if run.experiment.trained_text == "own" else ""
    return parse_correction(text, trajectory(flawed), flawed["label"], run.tasks()[flawed["task"]].labels,
                            run.experiment.flawed_step == "keep", own)


def correction_objection(run: Run, model: str, stage: str) -> responses.Objection:
    """Return what says why a text does not correct a wrong solution."""
    flawed = {row["id"]: row for row in wrong(run, model, run.stage(stage).samples.solutions)}
    return lambda key, text: corrected(run, flawed[key], text)[1]


def corrections(run: Run, model: str, stage: str) -> None:
    """Validate the corrections (equation 8): each row has its outcome and, if accepted, the chosen solution."""
    path, flawed = run.dataset(model, stage), wrong(run, model, run.stage(stage).samples.solutions)
    objection, by_policy = correction_objection(run, model, stage), run.corrected_by(stage) == "self"
    tried = responses.attempts(path / "corrections.responses.jsonl", [row["id"] for row in flawed],
                               by_policy and run.model(model).thinking)
    rows: list[Row] = []
    for row in flawed:
        attempt, why = responses.deciding(row["id"], tried[row["id"]], objection)
        result = corrected(run, row, attempt.text)[0] if attempt.text is not None else None
        rows.append({"id": row["id"], "task": row["task"], "outcome": why or "accepted", "text": attempt.text,
                     "attempt": attempt.number, "chosen": result.text if result else None})
    counts = responses.count(rows)
    write_jsonl(path / "corrections.jsonl", rows, [path / "corrections.responses.jsonl"], counts=counts, mark=run.mark,
                attempts=responses.attempt_counts(rows))
    accepted = sum(row["outcome"] == "accepted" for row in rows)
    responses.show(f"corrections: {accepted} accepted of {len(rows)}{responses.again(rows)}", counts)
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
