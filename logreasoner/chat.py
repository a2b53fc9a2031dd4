"""Answers a request file: X.requests.jsonl -> engine -> X.responses.jsonl, in the OpenAI Batch format.

Beside them X.journal.jsonl holds every answer ever received (logreasoner/journal.py); an engine is given only requests
whose very body has no good answer there, each body once. What another run's teacher answered already is copied.

Engines: `openai` (live, any OpenAI-compatible endpoint, or several at once), `openai-batch` (half the price, within
24 hours), `vllm` (run-batch, offline), `vllm-server` (a server started on loopback for these requests and stopped
afterwards).
"""

import argparse
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from logreasoner import batch, cli, engines, live
from logreasoner.cli import UserError
from logreasoner.config import Run, keyless, load_run
from logreasoner.costs import Budget
from logreasoner.files import BUILD, read_json, write_jsonl
from logreasoner.journal import (
    Engine,
    Journal,
    Record,
    body_digest,
    content,
    final,
    read_requests,
    refusal,
    request,
    trouble,
)

__all__ = ["answer", "content", "final", "read_requests", "request", "served_name", "trouble"]
ENGINES = ("openai", "openai-batch", "vllm", "vllm-server")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two commands do not ask the same questions at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path} is held: another command is asking the same requests; wait for it") from None
        yield


def answer(requests_path: Path, responses_path: Path, engine: Engine, journal_path: Path | None = None,
           elsewhere: Iterable[Path] = ()) -> None:
    """Answer what has no final answer yet, then write the response file, in the order of the requests.

    `elsewhere` are journals whose answers may be copied. Raises UserError if some requests have no final answer; what
    was answered stays in the journal.
    """
    requests = read_requests(requests_path)
    stem = responses_path.name.removesuffix(".responses.jsonl")
    path = journal_path or journal_of(responses_path)
    with locked(path.with_suffix(".lock")):
        journal = Journal(path)
        left = [asked for asked in requests if journal.answer(asked) is None]
        before = len(requests) - len(left)
        copied = journal.take(left, elsewhere)
        questions = {body_digest(asked): asked for asked in left if journal.answer(asked) is None}
        same = len(left) - copied - len(questions)
        print(f"{stem}: {before} answered before, {len(questions)} to ask"
              + (f", {same} identical to these" if same else "") + (f", {copied} copied" if copied else ""), flush=True)
        if questions or batch.open_notes(path):
            engine(list(questions.values()), journal)
        _write_responses(requests, journal, responses_path)


def journal_of(responses: Path) -> Path:
    """The journal of a response file that has one to itself."""
    return responses.with_name(responses.name.removesuffix(".responses.jsonl") + ".journal.jsonl")


def _write_responses(requests: list[Record], journal: Journal, path: Path) -> None:
    missing = [asked for asked in requests if journal.answer(asked) is None]
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(requests)} requests have no answer, the first "
                        f"{missing[0]['custom_id']} ({trouble(journal.last(missing[0]))}); the others are kept, "
                        "run again to ask these")
    refused = 0
    records = []
    for asked in requests:
        line = journal.answer(asked) or {}
        refused += refusal(line)
        records.append({"id": line.get("id"), "custom_id": asked["custom_id"], "response": line.get("response"),
                        "error": line.get("error")})
    write_jsonl(path, records)
    print(f"{path}: {len(records)} answers" + (f", {refused} refused" if refused else ""), flush=True)


def other_runs(run: Run, journal: Path) -> list[Path]:
    """Journals of this name of the same teacher's in other runs and folders: paid answers are never asked twice."""
    found = []
    for path in sorted((BUILD / "runs").glob(f"*/datasets/*/*/{journal.name}")):
        declared = BUILD / "runs" / path.parts[-5] / "run.json"
        if path.resolve() != journal.resolve() and declared.exists():
            teacher = read_json(declared).get("experiment", {}).get("teacher")
            if teacher == run.experiment.teacher.model_dump():  # never a scripted teacher's for a real one's
                found.append(path)
    return found


def remote_engine(run: Run, engine: str, base_url: str | None, key: str, budget: float | None) -> Engine:
    """A model behind an API, live or by batches, within the run's budget (USD, None for no limit)."""
    def limited() -> Budget:
        return batch.run_budget(run, budget or 0.0)

    def by_batch(requests: list[Record], journal: Journal) -> None:
        batch.ask_batch(requests, journal, base_url, key, limited if budget is not None else None)

    def at_once(requests: list[Record], journal: Journal) -> None:
        batch.refuse_unfinished(requests, journal.path)
        if requests:
            live.ask_live(requests, journal, base_url, key, limited() if budget is not None else None)

    if len(live.addresses(base_url)) > 1 and engine == "openai-batch":
        raise UserError(f"openai-batch asks one endpoint, not {base_url}: what was submitted at one is not at another")
    return by_batch if engine == "openai-batch" else at_once


def teacher_engine(run: Run, engine: str | None = None, budget: float | None = None) -> Engine:
    """The engine of the run's teacher, live by default. Raises UserError without its key, before anything is asked."""
    teacher = run.experiment.teacher
    if engine not in (None, "openai", "openai-batch"):
        raise UserError(f"--engine {engine} serves weights of ours; the teacher {teacher.model} is asked with "
                        "openai or openai-batch")
    key = os.environ.get(teacher.key) or ("none" if teacher.base_url else "")
    if not key:
        raise UserError(f"{teacher.key} is not set; the teacher {teacher.model} needs it "
                        "(or TEACHER_BASE_URL= for an endpoint of your own)")
    return remote_engine(run, engine or "openai", teacher.url(), key, budget)


def policy_engine(run: Run, name: str, stage: str, engine: str | None = None, base_url: str | None = None,
                  budget: float | None = None, data_parallel: int = 1) -> Engine:
    """The engine of a model of the run at a stage: an API, endpoints, vLLM offline, or a vLLM server of our own.

    A model of kind `api` is asked at the API whatever the engine says, unless that is openai-batch. `data_parallel`
    is for vLLM of our own: so many copies of the model, each on devices of its own, share the requests.
    """
    declared = run.model(name)
    if declared.kind not in ("api", "open"):
        raise UserError(f"{name} is no language model (kind {declared.kind} in experiments/models.yaml): it answers no "
                        "requests; its results come from its own program (make eval)")
    if declared.kind == "api" or engine == "openai":
        key = os.environ.get("OPENAI_API_KEY") or ("none" if base_url else "")
        if not key:
            raise UserError(f"OPENAI_API_KEY is not set; {name} needs it (or BASE_URL= for another endpoint)")
        return remote_engine(run, engine or "openai", base_url and keyless(base_url), key, budget)
    if engine == "openai-batch":
        raise UserError(f"--engine openai-batch is for the teacher and models of kind api; {name} has weights of ours")
    program = "api_server" if engine == "vllm-server" else "run_batch"
    copies = ["--data-parallel-size", str(data_parallel)] if data_parallel > 1 else []
    command = engines.vllm_command(program, run.weights(name, stage), served_name(name, stage), declared.template,
                                   *copies)
    if program == "run_batch":
        return lambda requests, journal: engines.ask_offline(requests, journal, command)

    def through_server(requests: list[Record], journal: Journal) -> None:
        with engines.server(command, run.dir / "logs" / f"serve-{name}-{stage}.log") as url:
            live.ask_live(requests, journal, url, "none")

    return through_server


def served_name(name: str, stage: str) -> str:
    """What requests call a model of ours."""
    return f"{name}/{stage}"


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    if given.role != "teacher" and not (given.model and given.stage):
        raise UserError(f"--role {given.role} needs --model and --stage")
    stage, elsewhere = given.stage, list[Path]()
    corrected = given.role == "corrector" and run.corrected_by(stage)
    if given.role == "teacher" or corrected == "teacher":
        engine = teacher_engine(run, given.engine if given.role == "teacher" else given.teacher_engine, given.budget)
        elsewhere = other_runs(run, given.journal or journal_of(given.responses))
    else:
        if corrected:  # who corrects its own solutions is the policy that wrote them
            stage = run.stage(run.stage(stage).samples.solutions).samples.policy
        engine = policy_engine(run, given.model, stage, given.engine, given.base_url, given.budget,
                               given.data_parallel)
    answer(given.requests, given.responses, engine, given.journal, elsewhere)


def main() -> None:
    """Answer a request file."""
    arguments = cli.parser("logreasoner.chat", "Answer a request file; only what has no answer yet is asked.", """
python -m logreasoner.chat --run paper --role teacher --requests X.requests.jsonl --responses X.responses.jsonl
python -m logreasoner.chat --run paper --role teacher --engine openai-batch --budget 20 \\
    --requests X.requests.jsonl --responses X.responses.jsonl
python -m logreasoner.chat --run paper --role policy --model qwen2.5-7b --stage dpo --engine vllm \\
    --requests X.requests.jsonl --responses X.responses.jsonl""")
    arguments.add_argument("--run", required=True)
    arguments.add_argument("--role", required=True, choices=["teacher", "policy", "corrector"],
                           help="corrector: the teacher, or pi_thought where the stage or the run says so")
    arguments.add_argument("--model", help="a name of models.yaml")
    arguments.add_argument("--stage", help="base or a stage of stages.yaml; for a corrector that of the corrections")
    arguments.add_argument("--engine", choices=ENGINES,
                           help="default: openai for the teacher and models of kind api, vllm for the others")
    arguments.add_argument("--teacher-engine", choices=ENGINES[:2], help="for a corrector that is the teacher")
    arguments.add_argument("--base-url", help="an OpenAI-compatible endpoint for the policy, or several with spaces "
                           "between them: requests are spread, and if one fails the others take over")
    arguments.add_argument("--data-parallel", type=int, choices=range(1, 1025), default=1, metavar="N",
                           help="how many copies of our own model vLLM runs, each on devices of its own (default: 1)")
    arguments.add_argument("--budget", type=float, metavar="USD",
                           help="stop before the whole run has cost more; every answer is kept")
    arguments.add_argument("--journal", type=Path, help="where answers are kept (default: X.journal.jsonl)")
    arguments.add_argument("--requests", required=True, type=Path)
    arguments.add_argument("--responses", required=True, type=Path)
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
