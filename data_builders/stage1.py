"""Stage 1, high-level thoughts (sections 3.2 and 4.1): each subcommand is a pure function from files to a file.

rationale-requests -> (teacher) -> rationales -> (embed, select) -> thought-requests -> (teacher) -> thoughts
The CoT-SFT baseline (section 4.4.4) asks the first question for stage 2's instances too: --stage cot-sft.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_builders import answered
from data_builders.thoughts import LEAST_STEPS, MOST_STEPS, check_thought, parse_thought
from logreasoner import chat, cli, prompts
from logreasoner.answers import render_steps
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.files import manifest, read_json, read_jsonl, write_jsonl
from logreasoner.records import read_instances

Row = dict[str, Any]


POOLS = {"thought-sft": "stage1.jsonl", "cot-sft": "stage2.jsonl"}  # whose instances the teacher thinks through


def folder(run: Run, stage: str = "thought-sft") -> Path:
    """Where the teacher's answers lie: they do not depend on the model that is tuned."""
    return run.dataset("shared", stage)


def review_file(run: Run) -> Path:
    """Decisions of a person, one JSON object a line: id, decision (accepted, edited, rejected), thought if edited."""
    return run.dir / "review" / "thoughts.jsonl"


def rationale_requests(run: Run, stage: str = "thought-sft") -> None:
    """Ask the teacher to think each instance of the stage's pool through (section 3.2.1 (1))."""
    teacher, tasks = run.experiment.teacher.model, run.tasks()
    write_jsonl(folder(run, stage) / "rationales.requests.jsonl", (
        chat.request(item.id, teacher, "rationale", prompts.render(
            "rationale", task=tasks[item.task], problem=prompts.problem(item, tasks[item.task])), vllm=False)
        for item in read_instances(run.pools / POOLS[stage])))


def rationales(run: Run, stage: str = "thought-sft") -> None:
    """Keep the rationales that arrive at the true label; in stage 1 add the handbook's cases: raw analyses (x, s)."""
    path, tasks = folder(run, stage), run.tasks()
    inputs = [run.pools / POOLS[stage]]
    items = list(read_instances(inputs[0]))
    texts = answered.texts(path / "rationales.responses.jsonl", [item.id for item in items])
    rows: list[Row] = []
    for item in items:
        trajectory, outcome = answered.judge(texts[item.id], item, tasks[item.task])
        rows.append({"id": item.id, "task": item.task, "outcome": outcome,
                     "problem": prompts.problem(item, tasks[item.task]),
                     "analysis": render_steps(trajectory.steps) if trajectory else texts[item.id]})
    if stage == "thought-sft":
        inputs.append(run.pools / "handbook.jsonl")
        rows += [{"id": case["id"], "task": "handbook", "outcome": "right",
                  "problem": prompts.render("handbook_problem", symptom=case["symptom"]),
                  "analysis": render_steps(case["analysis"])} for _, case in read_jsonl(inputs[-1])]
    write_jsonl(path / "rationales.jsonl", rows)
    kept = write_jsonl(path / "analyses.jsonl", (row for row in rows if row["outcome"] == "right"))
    counts = answered.count(rows)
    answered.show(f"rationales: {kept} kept", counts)
    manifest(path / "analyses.jsonl", inputs, counts=counts, teacher=run.experiment.teacher.model, mark=run.mark)


def selected(run: Run) -> list[Row]:
    """The raw analyses that the DPP chose, in its order: D (section 3.2.1 (2))."""
    analyses = [row for _, row in read_jsonl(folder(run) / "analyses.jsonl")]
    return [analyses[number] for number in read_json(folder(run) / "selected.json")]


def thought_requests(run: Run) -> None:
    """Ask the teacher to abstract each selected analysis into a thought (section 3.2.1 (3), figure 12)."""
    write_jsonl(folder(run) / "thoughts.requests.jsonl", (
        chat.request(row["id"], run.experiment.teacher.model, "thought", prompts.render(
            "thought", problem=row["problem"], analysis=row["analysis"], least=LEAST_STEPS, most=MOST_STEPS),
            vllm=False, response_format={"type": "json_object"})
        for row in selected(run)))


def thoughts(run: Run) -> None:
    """Validate the teacher's thoughts; every rejected one is kept with its reason."""
    path, chosen = folder(run), selected(run)
    texts = answered.texts(path / "thoughts.responses.jsonl", [row["id"] for row in chosen])
    rows: list[Row] = []
    for row in chosen:
        text = texts[row["id"]]
        thought, why = parse_thought(text, row["problem"]) if text is not None else (None, "refused")
        rows.append({"id": row["id"], "task": row["task"], "outcome": why or "valid", "problem": row["problem"],
                     "thought": thought.model_dump() if thought else text})
    write_jsonl(path / "thoughts.jsonl", rows)
    counts = answered.count(rows)
    answered.show(f"thoughts: {sum(row['outcome'] == 'valid' for row in rows)} valid of {len(rows)}", counts)
    manifest(path / "thoughts.jsonl", [path / "analyses.jsonl", path / "selected.json"],
             counts=counts, teacher=run.experiment.teacher.model, mark=run.mark)


def review_draft(run: Run) -> None:
    """Write a review file for a person to edit. Raises UserError if there is one: decisions are never overwritten."""
    path = review_file(run)
    if path.exists():
        raise UserError(f"{path} is there already; edit that one")
    rows = [row for _, row in read_jsonl(folder(run) / "thoughts.jsonl") if row["outcome"] == "valid"]
    write_jsonl(path, ({"id": row["id"], "decision": "", "problem": row["problem"], "thought": row["thought"]}
                       for row in rows))
    print(f"{path}: {len(rows)} thoughts; set each decision to accepted, edited (and edit the thought) or rejected")


def reviewed(run: Run, rows: list[Row]) -> tuple[list[Row], dict[str, int] | str]:
    """The thoughts that go in and what review decided: the last decision on an id counts, none leaves it out.

    Without a review file everything valid goes in and the second value is "not reviewed".
    """
    path = review_file(run)
    valid = {row["id"]: row for row in rows if row["outcome"] == "valid"}
    if not path.exists():
        return list(valid.values()), "not reviewed"
    decisions: dict[str, Row] = {}
    for number, decision in read_jsonl(path):
        where = f"{path}:{number}"
        if decision.get("id") not in {row["id"] for row in rows}:
            raise UserError(f"{where}: no thought has id {decision.get('id')!r}")
        if decision.get("decision") not in ("", "accepted", "edited", "rejected"):
            raise UserError(f"{where}: decision must be accepted, edited or rejected, not {decision.get('decision')!r}")
        decisions[decision["id"]] = {**decision, "where": where}
    kept, counts = [], {"accepted": 0, "edited": 0, "rejected": 0, "undecided": 0}
    for row in rows:
        decision = decisions.get(row["id"], {"decision": ""})
        verdict = decision["decision"] or "undecided"
        counts[verdict] += verdict != "undecided" or row["id"] in valid
        if verdict == "edited":
            thought, why = check_thought(decision.get("thought"), row["problem"])
            if thought is None:
                raise UserError(f"{decision['where']}: the edited thought of {row['id']} is not valid ({why})")
            kept.append({**row, "thought": thought.model_dump()})
        elif verdict == "accepted":
            if row["id"] not in valid:
                raise UserError(f"{decision['where']}: {row['id']} is not valid ({row['outcome']}); edit or reject it")
            kept.append(row)
    return kept, counts


STEPS: dict[str, Callable[..., None]] = {
    "rationale-requests": rationale_requests, "rationales": rationales, "thought-requests": thought_requests,
    "thoughts": thoughts, "review-draft": review_draft}


def main() -> None:
    """Run one step of stage 1."""
    arguments = cli.parser("data_builders.stage1", "High-level thoughts: one step, from files to a file.", """
python -m data_builders.stage1 --run paper rationale-requests
python -m data_builders.stage1 --run paper --stage cot-sft rationale-requests""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--stage", default="thought-sft", choices=list(POOLS),
                           help="cot-sft: rationales for the instances of stage 2, for that baseline")
    arguments.add_argument("step", choices=list(STEPS))

    def step(given: argparse.Namespace) -> None:
        run, rationale = load_run(given.run), given.step in ("rationale-requests", "rationales")
        if given.stage != "thought-sft" and not rationale:
            raise UserError(f"{given.step} belongs to thought-sft; only rationales are asked for {given.stage}")
        STEPS[given.step](run, *([given.stage] if rationale else []))

    cli.run(arguments, step)


if __name__ == "__main__":
    main()
