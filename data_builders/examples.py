"""Have the teacher write the worked solutions of few-shot examples that no file has (sections 4.2.3 and 4.4).

requests -> (teacher) -> solutions: build/runs/<run>/examples/<task>.yaml, which a person may read and edit. An example
is asked again, with another seed, until an answer with steps reaches the true label (data_builders/ask.py). A file that
is there is never written anew.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

import yaml

from data_builders import responses
from logreasoner import cli, examples, prompts
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run
from logreasoner.files import manifest, write_jsonl, writing
from logreasoner.generation import generate
from logreasoner.instances import Instance, by_id, read_instances

HEADER = "# Worked solutions of few-shot examples, by {teacher}; edit the steps before the first evaluation.\n"
Row = dict[str, Any]


def open_examples(run: Run) -> list[Instance]:
    """List the examples of the run whose task has no file of solutions yet; none where labels alone are shown."""
    if run.experiment.examples == "label-only" or not run.experiment.shots:
        return []
    return [item for item in read_instances(run.splits / "examples.jsonl")
            if not examples.solution_file(run, item.task).exists()]


def requests(run: Run) -> list[Row]:
    """Make the requests for worked solutions: each example as in stage 1."""
    teacher, tasks = run.experiment.teacher, run.tasks()
    return [generate.request(item.id, teacher.model, "rationale", prompts.render(
                "rationale", task=tasks[item.task], problem=prompts.problem(item, tasks[item.task])),
                             vllm=teacher.may_be_vllm())
            for item in open_examples(run)]


def objection(run: Run) -> responses.Objection:
    """Return what says why a text is no worked solution of an example: it has no steps, or not the true label."""
    tasks, items = run.tasks(), by_id(open_examples(run))

    def object_to(key: str, text: str) -> str:
        trajectory, outcome = responses.judge(responses.Attempt(text, 1), items[key], tasks[items[key].task])
        return outcome if outcome != "right" else "" if trajectory and trajectory.steps else "no steps"

    return object_to


def write_requests(run: Run) -> None:
    """Write the requests, and say what is missing. Raises UserError where the teacher cannot be asked."""
    made, teacher = requests(run), run.experiment.teacher
    write_jsonl(run.dataset("shared", "examples") / "examples.requests.jsonl", made)
    if not made:
        return
    missing = sorted({item.task for item in open_examples(run)})
    print(f"few-shot examples of {', '.join(missing)} have no worked solutions yet: the teacher {teacher.model} writes "
          f"them once ({len(made)} requests, up to {run.experiment.attempts} attempts each)")
    if teacher.base_url is None and not os.environ.get(teacher.key):
        files = ", ".join(str(examples.written_file(run, task)) for task in missing)
        raise UserError(f"{teacher.key} is not set, so the teacher cannot be asked. Set it; or give TEACHER= and "
                        f"TEACHER_BASE_URL= for another one; or write {files} yourself (docs/prompts.md), for "
                        f"{', '.join(item.id for item in open_examples(run))}; or declare a run with "
                        "EXAMPLES=label-only, whose examples do not reason")


def write_solutions(run: Run) -> None:
    """Write the file of each task that lacks one. Raises UserError for an example without a right answer."""
    path, tasks, items = run.dataset("shared", "examples"), run.tasks(), open_examples(run)
    answers = responses.attempts(path / "examples.responses.jsonl", [item.id for item in items]) if items else {}
    rows: dict[str, list[Row]] = {}
    object_to = objection(run)
    for item in items:
        attempt, why = responses.deciding(item.id, answers[item.id], object_to)
        trajectory, _ = responses.judge(attempt, item, tasks[item.task])
        rows.setdefault(item.task, []).append(
            {"id": item.id, "steps": list(trajectory.steps) if trajectory and not why else [], "answer": item.label})
    for task, solutions in rows.items():
        with writing(examples.written_file(run, task)) as stream:
            stream.write(HEADER.format(teacher=run.experiment.teacher.model))
            yaml.safe_dump({"examples": solutions}, stream, sort_keys=False, allow_unicode=True, width=118)
    for task in rows:
        examples.load(examples.written_file(run, task), tasks[task])
        print(f"{examples.written_file(run, task)}: worked solutions of {len(rows[task])} examples; you can edit them "
              "before the first evaluation")
    (run.dir / "examples").mkdir(exist_ok=True)
    manifest(run.dir / "examples", [run.splits / "examples.jsonl"], run=run.name, form=run.experiment.examples,
             written=sorted(rows), teacher=run.experiment.teacher.model)


STEPS: dict[str, Callable[[Run], None]] = {"requests": write_requests, "solutions": write_solutions}


def main() -> None:
    """Run the command line."""
    parser = cli.parser("data_builders.examples", "Have the teacher write worked solutions: one step.", """
python -m data_builders.examples --run paper requests
python -m data_builders.examples --run paper solutions""", required=["run"])
    parser.add_argument("step", choices=list(STEPS))

    def run_step(options: argparse.Namespace) -> None:
        STEPS[options.step](load_run(options.run))

    cli.run(parser, run_step)


if __name__ == "__main__":
    main()
