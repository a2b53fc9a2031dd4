"""Write what a stage trains on: samples.jsonl from the valid answers of stages 1 and 2, tasks mixed (section 4.1).

There is one function for each kind of samples that experiments/stages.yaml declares. SFT samples have a prompt and a
response, preference pairs a prompt with chosen and rejected, feedback (KTO) a prompt, a response and whether it is
right. Figure 5's subsets are nested: 20% lies in 40%.
"""

import random
from pathlib import Path
from typing import Any

from data_builders import responses, review, stage1, stage2
from data_builders.thoughts import check_thought
from logreasoner import cli, prompts
from logreasoner.answer_format import answer_element
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.files import read_jsonl, write_jsonl
from logreasoner.instances import Instance, by_id, read_instances

Row = dict[str, Any]
Facts = dict[str, Any]  # for the manifest: the inputs, and how the answers were reviewed


def subset(rows: list[Row], share: float, seed: int) -> list[Row]:
    """Draw a share of each task's rows by the seed; a smaller share lies within every larger one."""
    drawn = []
    for task in dict.fromkeys(row["task"] for row in rows):
        rows_of_task = [row for row in rows if row["task"] == task]
        random.Random(f"{seed} {task}").shuffle(rows_of_task)
        drawn += rows_of_task[: round(share * len(rows_of_task))]
    return drawn


def thoughts(run: Run, stage: str) -> tuple[list[Row], Facts]:
    """Make D_thought (equation 1): prompt x, response (C_high, T_high)."""
    path, reviewed = stage1.folder(run) / "thoughts.jsonl", review.thoughts(run)
    rows, decisions = reviewed.accepted()
    return [{"id": row["id"], "task": row["task"],
             "prompt": prompts.render("thought_sft", problem=row["problem"]),
             "response": check_thought(row["thought"], row["problem"])[0].render()}  # type: ignore[union-attr]
            for row in subset(rows, run.stage(stage).samples.share, run.experiment.seed)
            ], {"inputs": [path, *reviewed.files()], "review": decisions}


def rationales(run: Run, stage: str) -> tuple[list[Row], Facts]:
    """Make the CoT-SFT baseline (section 4.4.4): right rationales of stage 2's instances, and stage 1's analyses D.

    The paper merges "the original analytical processes collected in the first stage": here those that the DPP selected,
    so that both methods see the same cases. A handbook case has an analysis and no answer.
    """
    path, items = stage1.folder(run, stage) / "analyses.jsonl", labelled(run)
    rows = [row for _, row in read_jsonl(path)] + stage1.selected(run)
    samples = []
    for row in rows:
        item = items.get(row["id"])
        prompt = prompts.solution(item, run.tasks()[item.task]) if item else row["problem"]
        answer = f"\n{answer_element(item.label)}" if item else ""
        samples.append({"id": row["id"], "task": row["task"], "prompt": prompt, "response": row["analysis"] + answer})
    return samples, {"inputs": [path, stage1.folder(run) / "analyses.jsonl", stage1.folder(run) / "selected.json"]}


def labels(run: Run, stage: str) -> tuple[list[Row], Facts]:
    """Make direct fine-tuning's samples (section 5.1): the same labelled instances, answered by the label alone."""
    return [{"id": item.id, "task": item.task, "prompt": prompts.solution(item, run.tasks()[item.task]),
             "response": answer_element(item.label)} for item in labelled(run).values()
            ], {"inputs": [run.splits / "stage1.jsonl", run.splits / "stage2.jsonl"]}


def labelled(run: Run) -> dict[str, Instance]:
    """Read the labelled instances of both stages, by id."""
    return by_id(item for split in ("stage1", "stage2") for item in read_instances(run.splits / f"{split}.jsonl"))


def _instances(run: Run, share: float) -> dict[str, Instance]:
    """Read a share of the stage-2 instances, by id."""
    items = list(read_instances(run.splits / "stage2.jsonl"))
    rows = [{"id": item.id, "task": item.task} for item in items]
    ids = {row["id"] for row in subset(rows, share, run.experiment.seed)}
    return by_id(item for item in items if item.id in ids)


def _answered(run: Run, stage: str, model: str) -> tuple[list[tuple[str, Row]], Path]:
    """Read the policy's right and wrong solutions, outcome and sample, as it wrote them, with the prompts."""
    declared = run.stage(stage).samples
    path, items = run.dataset(model, declared.solutions) / "solutions.jsonl", _instances(run, declared.share)
    return [(row["outcome"], {"id": row["id"], "task": row["task"],
                              "prompt": prompts.solution(items[row["id"]], run.tasks()[row["task"]]),
                              "response": stage2.written(run, row)})
            for _, row in read_jsonl(path) if row["outcome"] in ("right", "wrong") and row["id"] in items], path


def solutions(run: Run, stage: str, model: str) -> tuple[list[Row], Facts]:
    """Make D_corr (equation 3): the policy's own right solutions."""
    rows, path = _answered(run, stage, model)
    return [sample for outcome, sample in rows if outcome == "right"], {"inputs": [path]}


def feedback(run: Run, stage: str, model: str) -> tuple[list[Row], Facts]:
    """Make KTO's samples: the policy's own solutions, each with whether it is `right`.

    Raises UserError where all are right or all are wrong.
    """
    rows, path = _answered(run, stage, model)
    if len({outcome for outcome, _ in rows}) == 1:
        raise UserError(f"{path}: every solution is {rows[0][0]}, and KTO learns from right and wrong ones")
    return [{**sample, "right": outcome == "right"} for outcome, sample in rows], {"inputs": [path]}


def pairs(run: Run, stage: str, model: str) -> tuple[list[Row], Facts]:
    """Make D_pref (equation 8): wrong solutions with their corrections; without corrections, with the label alone
    (section 5.1, "we only use ground-truth labels as correct trajectories")."""
    declared = run.stage(stage).samples
    items, facts = _instances(run, declared.share), {}
    inputs = [run.dataset(model, declared.solutions) / "solutions.jsonl"]
    flawed = [row for row in stage2.wrong(run, model, declared.solutions) if row["id"] in items]
    chosen = {row["id"]: answer_element(row["label"]) for row in flawed}
    if declared.corrections:
        reviewed = review.corrections(run, model, declared.corrections)
        inputs += [run.dataset(model, declared.corrections) / "corrections.jsonl", *reviewed.files()]
        corrections, facts["review"] = reviewed.accepted()
        chosen = {row["id"]: row["chosen"] for row in corrections}
    return [{"id": row["id"], "task": row["task"],
             "prompt": prompts.solution(items[row["id"]], run.tasks()[row["task"]]),
             "chosen": chosen[row["id"]], "rejected": stage2.written(run, row)}
            for row in flawed if row["id"] in chosen], {"inputs": inputs, **facts}


EMPTY = {
    "thoughts": "no valid thought was accepted; thoughts.jsonl has the reasons",
    "rationales": "no rationale arrived at its label; rationales.jsonl has the reasons",
    "labels": "the splits stage1 and stage2 are empty",
    "solutions": "the policy solved no instance; see solutions.jsonl",
    "feedback": "the policy answered no instance; see solutions.jsonl",
    "pairs": "no correction was accepted, or nothing was wrong; corrections.jsonl has the reasons",
}


CONTROL = "control token in the answer"


def _outcome(sample: Row) -> str:
    """Name the outcome of a sample: CONTROL, which would end the turn within the answer, or what is counted."""
    answers = [sample[key] for key in ("response", "chosen", "rejected") if key in sample]
    if any(map(prompts.has_control_tokens, answers)):
        return CONTROL
    return {True: "right", False: "wrong"}[sample["right"]] if "right" in sample else "samples"


def build(run: Run, stage: str, model: str = "") -> None:
    """Write a stage's samples.jsonl with its manifest. Raises UserError if there is not one sample.

    Samples with a control token (experiments/control_tokens.yaml) in an answer are left out and counted.
    """
    kind, name = run.stage(stage).samples.kind, run.stage(stage).dataset
    if kind == "base":
        raise UserError(f"stage {stage!r}: samples of kind {kind} are not made here")
    by_policy = {"solutions": solutions, "feedback": feedback, "pairs": pairs}
    if kind in by_policy:
        samples, facts = by_policy[kind](run, stage, model)
    else:
        samples, facts = {"thoughts": thoughts, "rationales": rationales, "labels": labels}[kind](run, stage)
    path = run.samples(model, stage)
    counts = responses.count([{**row, "outcome": _outcome(row)} for row in samples])
    samples = [row for row in samples if _outcome(row) != CONTROL]
    if not samples:
        raise UserError(f"{path}: {name.replace('d_', 'D_', 1)} is empty: {EMPTY[kind]}")
    random.Random(run.experiment.seed).shuffle(samples)
    write_jsonl(path, samples, counts=counts, mark=run.mark, stage=stage, **facts)
    decisions = f"; review: {facts['review']}" if "review" in facts else ""
    responses.show(f"{stage}: {len(samples)} samples{decisions}", counts)


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.samples", "Write what a stage of stages.yaml trains on.", """
python -m data_builders.samples --run paper --stage thought-sft
python -m data_builders.samples --run paper --model qwen2.5-7b --stage dpo""", required=["run", "stage"])
    parser.add_argument("--model", default="", help="whose solutions, for stages that need some")
    cli.run(parser, lambda options: build(load_run(options.run), options.stage, options.model))


if __name__ == "__main__":
    main()
