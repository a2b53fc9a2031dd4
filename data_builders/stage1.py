"""Run one step of stage 1, high-level thoughts (sections 3.2 and 4.1): a pure function from files to files.

rationale-requests -> (teacher) -> rationales -> (embed, select) -> thought-requests -> (teacher) -> thoughts
The CoT-SFT baseline (section 4.4.4) asks the first question for stage 2's instances too: --stage cot-sft.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_builders import responses
from data_builders.thoughts import LEAST_STEPS, MOST_STEPS, objection_to, parse_thought
from logreasoner import cli, prompts
from logreasoner.answer_format import render_steps
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.files import read_json, read_jsonl, write_jsonl
from logreasoner.generation import generate
from logreasoner.instances import read_instances

Row = dict[str, Any]
SPLITS = {"thought-sft": "stage1.jsonl", "cot-sft": "stage2.jsonl"}  # whose instances the teacher is asked about


def folder(run: Run, stage: str = "thought-sft") -> Path:
    """Return the folder of the teacher's answers, which do not depend on the model that is tuned."""
    return run.dataset("shared", stage)


def rationale_requests(run: Run, stage: str = "thought-sft") -> None:
    """Ask the teacher for a rationale of each instance of the stage's split (section 3.2.1 (1))."""
    teacher, tasks = run.experiment.teacher, run.tasks()
    write_jsonl(folder(run, stage) / "rationales.requests.jsonl", (
        generate.request(item.id, teacher.model, "rationale", prompts.render(
            "rationale", task=tasks[item.task], problem=prompts.problem(item, tasks[item.task])),
            vllm=teacher.may_be_vllm())
        for item in read_instances(run.splits / SPLITS[stage])))


def rationales(run: Run, stage: str = "thought-sft") -> None:
    """Select the rationales with the true label; in stage 1 add the handbook's cases: raw analyses (x, s)."""
    path, tasks = folder(run, stage), run.tasks()
    inputs = [run.splits / SPLITS[stage]]
    items = list(read_instances(inputs[0]))
    answers = responses.attempts(path / "rationales.responses.jsonl", [item.id for item in items])
    rows: list[Row] = []
    for item in items:
        attempt = answers[item.id][-1]
        trajectory, outcome = responses.judge(attempt, item, tasks[item.task])
        rows.append({"id": item.id, "task": item.task, "outcome": outcome,
                     "problem": prompts.problem(item, tasks[item.task]),
                     "analysis": render_steps(trajectory.steps) if trajectory and trajectory.steps else attempt.text})
    if stage == "thought-sft":
        inputs.append(run.splits / "handbook.jsonl")
        rows += [{"id": case["id"], "task": "handbook", "outcome": "right",
                  "problem": prompts.render("handbook_problem", symptom=case["symptom"]),
                  "analysis": render_steps(case["analysis"])} for _, case in read_jsonl(inputs[-1])]
    write_jsonl(path / "rationales.jsonl", rows)
    counts = responses.count(rows)
    right = write_jsonl(path / "analyses.jsonl", (row for row in rows if row["outcome"] == "right"), inputs,
                        counts=counts, teacher=run.experiment.teacher.model, mark=run.mark)
    responses.show(f"rationales: {right} of {len(rows)} are right", counts)


def selected(run: Run) -> list[Row]:
    """Read the raw analyses that the DPP chose, in its order: D (section 3.2.1 (2))."""
    return _analyses(run, "selected.json")


def reserve(run: Run) -> list[Row]:
    """Read the analyses that come next in the order of the selection, for thoughts that are not accepted."""
    return _analyses(run, "reserve.json") if (folder(run) / "reserve.json").exists() else []


def _analyses(run: Run, file: str) -> list[Row]:
    analyses = [row for _, row in read_jsonl(folder(run) / "analyses.jsonl")]
    return [analyses[number] for number in read_json(folder(run) / file)]


def require_candidates(run: Run) -> None:
    """Raise UserError where stage 1 cannot select as many analyses as the run declares, whatever the teacher says."""
    counts = {name: sum(1 for _ in read_jsonl(run.splits / f"{name}.jsonl")) for name in ("stage1", "handbook")}
    if run.select > sum(counts.values()):
        raise UserError(
            f"{run.splits}: stage 1 selects {run.select:,} analyses (stage1.select), but there are only "
            f"{counts['stage1']:,} instances and {counts['handbook']:,} handbook cases to select from. Lower "
            f"stage1.select in experiments/runs/{run.experiment.name}.yaml, or raise stage1.samples, and declare a run "
            f"of another name (RUN={run.name}-2); nothing was asked yet")


def thought_request(run: Run, row: Row) -> dict[str, Any]:
    """Make the request that abstracts an analysis into a thought (section 3.2.1 (3), figure 12)."""
    return generate.request(row["id"], run.experiment.teacher.model, "thought", prompts.render(
        "thought", problem=row["problem"], analysis=row["analysis"], least=LEAST_STEPS, most=MOST_STEPS),
        vllm=run.experiment.teacher.may_be_vllm(), response_format={"type": "json_object"})


def thought_requests(run: Run) -> None:
    """Ask the teacher for a thought of each selected analysis."""
    write_jsonl(folder(run) / "thoughts.requests.jsonl", (thought_request(run, row) for row in selected(run)))


def thought_objection(run: Run) -> responses.Objection:
    """Return what says why a text is no thought about an analysis, with the details that it must leave out."""
    problems = {row["id"]: row["problem"] for row in [*selected(run), *reserve(run)]}
    return lambda key, text: objection_to(text, problems[key])


def thoughts(run: Run) -> None:
    """Validate the teacher's thoughts; rejected ones stay in thoughts.jsonl with the reason."""
    path, chosen, others, objection = folder(run), selected(run), reserve(run), thought_objection(run)
    tried = responses.attempts(path / "thoughts.responses.jsonl", [row["id"] for row in chosen],
                               more=[row["id"] for row in others])
    rows: list[Row] = []
    for row in (row for row in [*chosen, *others] if row["id"] in tried):
        attempt, _ = responses.deciding(row["id"], tried[row["id"]], objection)
        text = attempt.text
        thought, why = parse_thought(text, row["problem"]) if text is not None else (None, "refused")
        rows.append({"id": row["id"], "task": row["task"], "outcome": why or "valid", "problem": row["problem"],
                     "attempt": attempt.number, "thought": thought.model_dump() if thought else text})
    counts = responses.count(rows)
    write_jsonl(path / "thoughts.jsonl", rows, [path / "analyses.jsonl", path / "selected.json"], counts=counts,
                teacher=run.experiment.teacher.model, mark=run.mark, attempts=responses.attempt_counts(rows))
    valid = sum(row["outcome"] == "valid" for row in rows)
    added = f", {len(rows) - len(chosen)} of them added for rejected ones" if len(rows) > len(chosen) else ""
    responses.show(f"thoughts: {valid} valid of {len(rows)}{added}{responses.again(rows)}", counts)
    if valid < len(chosen):
        print(f"  {len(chosen) - valid} fewer than stage 1 selects: no analysis is left to replace them")


STEPS: dict[str, Callable[..., None]] = {
    "rationale-requests": rationale_requests, "rationales": rationales, "thought-requests": thought_requests,
    "thoughts": thoughts}


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.stage1", "High-level thoughts: one step, from files to files.", """
python -m data_builders.stage1 --run paper rationale-requests
python -m data_builders.stage1 --run paper --stage cot-sft rationale-requests""", required=["run"])
    parser.add_argument("--stage", default="thought-sft", choices=list(SPLITS),
                        help="cot-sft: rationales for the instances of stage 2, for that baseline")
    parser.add_argument("step", choices=list(STEPS))

    def run_step(options: argparse.Namespace) -> None:
        if options.step.startswith("rationale"):
            run = load_run(options.run)
            if (options.step, options.stage) == ("rationale-requests", "thought-sft"):
                require_candidates(run)
            STEPS[options.step](run, options.stage)
        elif options.stage != "thought-sft":
            raise UserError(f"{options.step} belongs to thought-sft; only rationales are asked for {options.stage}")
        else:
            STEPS[options.step](load_run(options.run))

    cli.run(parser, run_step)


if __name__ == "__main__":
    main()
