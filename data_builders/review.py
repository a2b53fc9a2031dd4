"""Read and append a person's decisions on thoughts and corrections, and apply them to a dataset's rows.

The paper's authors checked every thought by hand. Decisions lie in build/runs/<run>/review/, in thoughts.jsonl and
corrections.<model>.jsonl (corrections.<model>.<stage>.jsonl for the corrections of another stage than dpo), one JSON
object a line. `make review` appends such lines from a web page; any editor will do as well:

    {"id": "p-1", "decision": "accepted", "who": "Ada", "when": "2026-05-04T09:30:00+00:00", "of": "1f0c5b6e9a3d7e42"}
    {"id": "p-2", "decision": "rejected"}
    {"id": "p-3", "decision": "edited", "thought": {"problem_overview": "", "key_challenges": [""], ...}}
    {"id": "p-4", "decision": "edited", "correction": {"first_error": 2, "reason": "", "steps": [""], ...}}

The last line on an id counts; the decision "" withdraws the earlier ones. An edit has the form that the teacher is
asked for and passes the same rules. `of` is a digest of what was shown: a line about an answer that has been generated
again since does not count; a line without `of` always does. Once there is a file, undecided rows are left out; without
one all valid rows are used.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from data_builders import stage1, stage2
from data_builders.corrections import draft as corrections_draft
from data_builders.thoughts import LEAST_STEPS, MOST_STEPS, check_thought, json_object, objection_to_value
from logreasoner import prompts
from logreasoner.cli import UserError
from logreasoner.config import Run
from logreasoner.files import digest, read_jsonl
from logreasoner.generation.response_cache import append_lines
from logreasoner.instances import by_id, read_instances
from logreasoner.steps import review_name

Row = dict[str, Any]
VALID = ("valid", "accepted")  # outcomes that need no edit
DECISIONS = ("accepted", "edited", "rejected")


@dataclass(frozen=True)
class Review:
    """The rows to review, by id and in the order they are shown; `kind` is the field of an edit: thought, correction.

    `check` returns the row as an edit changes it, or None and why the edit is not valid.
    """

    kind: str
    path: Path
    rows: dict[str, Row]
    check: Callable[[Row, Any], tuple[Row | None, str]]

    def files(self) -> list[Path]:
        """Return the review file, if there is one: an input of the dataset."""
        return [self.path] if self.path.exists() else []

    def decisions(self) -> dict[str, Row]:
        """Return the line that counts for each id, with `row` as it is used. Raises UserError for a wrong line."""
        lines: dict[str, Row] = {}
        for file in self.files():
            for number, line in read_jsonl(file):
                row = self.rows.get(str(line.get("id")))
                if "of" in line and (row is None or line["of"] != _digest(row)):
                    continue
                if row is None:
                    raise UserError(f"{file}:{number}: no {self.kind} has id {line.get('id')!r}")
                lines[row["id"]] = {**line, "id": row["id"], "where": f"{file}:{number}: "}
        return {key: {**line, "row": self._apply(line)} for key, line in lines.items() if line.get("decision") != ""}

    def _apply(self, line: Row) -> Row | None:
        """Return the row as a line decides it, None if it rejects it. Raises UserError if it is not a decision."""
        row, decision, where = self.rows[line["id"]], line.get("decision"), line.get("where", "")
        if decision not in DECISIONS:
            raise UserError(f"{where}decision must be accepted, edited or rejected, not {decision!r}")
        if decision == "accepted" and row["outcome"] not in VALID:
            raise UserError(f"{where}{row['id']} is not valid ({row['outcome']}); edit or reject it")
        if decision != "edited":
            return row if decision == "accepted" else None
        edited, why = self.check(row, line.get(self.kind))
        if edited is None:
            raise UserError(f"{where}the edited {self.kind} of {row['id']} is not valid ({why})")
        return edited

    def accepted(self) -> tuple[list[Row], dict[str, int] | str]:
        """Return the rows to use and the decisions counted; all valid rows and "not reviewed" without a file."""
        valid = [row for row in self.rows.values() if row["outcome"] in VALID]
        if not self.files():
            return valid, "not reviewed"
        decisions = self.decisions()
        counts = {name: sum(line["decision"] == name for line in decisions.values()) for name in DECISIONS}
        rows = [decisions[key]["row"] for key in self.rows if key in decisions and decisions[key]["row"]]
        return rows, {**counts, "undecided": sum(row["id"] not in decisions for row in valid)}

    def decide(self, decision: Any, reviewer: str) -> None:
        """Append one decision (id, decision, an edit) with who and when. Raises UserError if it is not valid."""
        row = self.rows.get(str(decision.get("id"))) if isinstance(decision, dict) else None
        if row is None:
            raise UserError(f"no {self.kind} has such an id")
        line = {"id": row["id"], **{key: decision[key] for key in ("decision", self.kind) if key in decision}}
        self._apply(line)
        line |= {"who": reviewer, "when": datetime.now(UTC).isoformat(timespec="seconds"), "of": _digest(row)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as lock:  # other tabs and other reviewers' servers wait here
            fcntl.flock(lock, fcntl.LOCK_EX)
            append_lines(self.path, [line])


def _digest(row: Row) -> str:
    """Return a digest of what a reviewer judges."""
    return digest([row.get(key) for key in ("problem", "thought", "flawed", "text")])[:16]


def draft(row: Row) -> Row:
    """Return what an edit begins with: the answer as far as it can be parsed; of a correction all its steps."""
    if "flawed" in row:
        return dict(row["draft"])
    answer = row.get("thought")
    if isinstance(answer, str):
        with contextlib.suppress(ValueError):
            answer = json_object(answer)
    return answer if isinstance(answer, dict) else {}


def thoughts(run: Run) -> Review:
    """Load the thoughts of a run, each with the problem and the raw analysis that it abstracts."""
    analyses = {row["id"]: row["analysis"] for row in [*stage1.selected(run), *stage1.reserve(run)]}
    rows = {row["id"]: {**row, "analysis": analyses.get(row["id"])}
            for _, row in read_jsonl(stage1.folder(run) / "thoughts.jsonl")}
    return Review("thought", run.dir / "review" / "thoughts.jsonl", rows, _thought)


def _thought(row: Row, edit: Any) -> tuple[Row | None, str]:
    thought, why = check_thought(edit, row["problem"])
    if thought:
        return {**row, "thought": thought.model_dump()}, ""
    if why.startswith("schema"):
        return None, f"{why}; wanted: an overview, one challenge or more, {LEAST_STEPS} to {MOST_STEPS} steps"
    return None, objection_to_value(edit, row["problem"])


def corrections(run: Run, model: str, stage: str) -> Review:
    """Load a model's corrections that `stage` holds, each with the flawed solution and the true label."""
    tasks, items = run.tasks(), by_id(read_instances(run.splits / "stage2.jsonl"))
    flawed = {row["id"]: row for row in stage2.wrong(run, model, run.stage(stage).samples.solutions)}
    keep = run.experiment.flawed_step == "keep"
    rows = {row["id"]: {**row, "label": flawed[row["id"]]["label"],
                        "draft": corrections_draft(row["text"] or "", stage2.trajectory(flawed[row["id"]]),
                                                   flawed[row["id"]]["label"], keep),
                        "problem": prompts.problem(items[row["id"]], tasks[row["task"]]),
                        "flawed": {key: flawed[row["id"]][key] for key in ("text", "steps", "answer")}}
            for _, row in read_jsonl(run.dataset(model, stage) / "corrections.jsonl") if row["id"] in flawed}
    return Review("correction", run.dir / "review" / f"{review_name(stage, model)}.jsonl", rows,
                  partial(_correction, run))


def _correction(run: Run, row: Row, edit: Any) -> tuple[Row | None, str]:
    result, why = stage2.corrected(run, {**row["flawed"], "task": row["task"], "label": row["label"]}, json.dumps(edit))
    return ({**row, "chosen": result.text}, "") if result else (None, why)
