"""Answer a request file: X.requests.jsonl -> engine -> X.responses.jsonl, in the OpenAI Batch format.

Beside them X.journal.jsonl holds every answer ever received (logreasoner/generation/response_cache.py); an engine is
given only requests whose body has no good answer there by the same weights or endpoint, each body once. Answers of
the same teacher in another run are copied; two runs that would ask it for the same kind of answer take turns. The
manifest of the responses says who gave them.

Engines: `openai` (live, any OpenAI-compatible endpoint, or several at once), `openai-batch` (half the price, within
24 hours), `vllm` (vLLM's server, started on loopback for these requests and stopped afterwards).
"""

import argparse
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from logreasoner import cli, weights
from logreasoner.cli import UserError
from logreasoner.config import Run, decoding, hardware, load_run
from logreasoner.files import BUILD, digest, dump, locked, read_json, write_jsonl
from logreasoner.generation import lengths, openai_batch, openai_live, vllm
from logreasoner.generation.costs import Budget
from logreasoner.generation.response_cache import (
    QUOTED,
    Answerer,
    Engine,
    Journal,
    Record,
    body_digest,
    content,
    error_of,
    final,
    read_requests,
    refusal,
    request,
)
from logreasoner.schemas import Hardware, reject_key_in_url

__all__ = ["answer", "content", "final", "read_requests", "request", "served_name", "error_of"]
Again = Callable[[dict[str, Record]], list[Record]]  # answers by custom_id -> further requests
ENGINES = ("openai", "openai-batch", "vllm")


def answer(requests_path: Path, responses_path: Path, engine: Engine, journal_path: Path | None = None,
           again: Again | None = None) -> None:
    """Ask the engine for what its answerer has not finally answered, then write the responses in the requests' order.

    `again` returns the further requests that follow from the answers so far, and is called until there are none;
    X.again.jsonl holds them. Raises UserError if some requests have no final answer, if all are refused, and if an
    endpoint's answers name several models; all answers stay in the journal.
    """
    requests = read_requests(requests_path)
    stem = responses_path.name.removesuffix(".responses.jsonl")
    path = journal_path or journal_of(responses_path)
    with (locked(path.with_suffix(".lock"), "another command that asks the same requests; wait for it"),
          _turn(engine, path), contextlib.closing(engine)):
        journal = Journal(path, engine.answerer)
        asked = list(requests)
        _ask(stem, asked, engine, journal)
        _require_answers(asked, journal, responses_path)
        while again and (more := again({request["custom_id"]: journal.answer(request) or {} for request in asked})):
            _ask(f"{stem} again", more, engine, journal)
            _require_answers(more, journal, responses_path)
            asked += more
        inputs = [requests_path]
        if again:
            inputs.append(responses_path.with_name(f"{stem}.again.jsonl"))
            write_jsonl(inputs[-1], asked[len(requests):])
        _write_responses(asked, journal, inputs, responses_path)


def _turn(engine: Engine, journal: Path) -> contextlib.AbstractContextManager[None]:
    """Wait for commands of other runs that ask who is paid for answers of this name, so that theirs can be copied."""
    if engine.shared is None:
        return contextlib.nullcontext()
    return locked(BUILD / "locks" / f"{digest([engine.shared, journal.name])[:32]}.lock",
                  "another run that asks the same teacher; waiting for it, its answers are copied", wait=True)


def _ask(title: str, requests: list[Record], engine: Engine, journal: Journal) -> None:
    """Ask for what is neither answered nor to be copied. Raises UserError where a batch of another run answers it."""
    left = [request for request in requests if journal.answer(request) is None]
    before = len(requests) - len(left)
    elsewhere = list(engine.others(journal.path)) if left else []
    copied = journal.take(left, elsewhere)
    to_ask = {body_digest(request): request for request in left if journal.answer(request) is None}
    for other in elsewhere:
        openai_batch.refuse_unfinished(list(to_ask.values()), other)
    same = len(left) - copied - len(to_ask)
    print(f"{title}: {before} answered before, {len(to_ask)} to ask"
          + (f", {same} identical to these" if same else "") + (f", {copied} copied" if copied else "")
          + (f" ({journal.others} answers of other weights or endpoints are kept and not used)"
             if journal.others else ""), flush=True)
    if to_ask or openai_batch.open_notes(journal.path):
        engine.ask(list(to_ask.values()), journal)


def journal_of(responses: Path) -> Path:
    """Return the default journal of a response file."""
    return responses.with_name(responses.name.removesuffix(".responses.jsonl") + ".journal.jsonl")


def _require_answers(requests: list[Record], journal: Journal, path: Path) -> None:
    missing = [request for request in requests if journal.answer(request) is None]
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(requests)} requests have no answer, the first "
                        f"{missing[0]['custom_id']} ({error_of(journal.last(missing[0]))}); the others are kept, "
                        "run again to ask these")


def _write_responses(requests: list[Record], journal: Journal, inputs: list[Path], path: Path) -> None:
    lines = [journal.answer(request) or {} for request in requests]
    answered_by = _answered_by(lines, path)
    refused = sum(map(refusal, lines))
    if lines and refused == len(lines):
        raise UserError(f"{path}: all {refused} requests were refused, the last: {error_of(lines[-1], QUOTED)}")
    write_jsonl(path, ({"id": line.get("id"), "custom_id": request["custom_id"], "response": line.get("response"),
                        "error": line.get("error")} for request, line in zip(requests, lines, strict=True)),
                inputs, answered_by=answered_by, answers=len(lines), refused=refused)
    print(f"{path}: {len(lines)} answers" + (f", {refused} refused" if refused else ""), flush=True)


def _answered_by(lines: list[Record], path: Path) -> list[Record]:
    """Count the answers by who gave them. Raises UserError where one address named several models."""
    counts = Counter(dump(line["answered_by"]) for line in lines if content(line) is not None)
    answerers = [{**json.loads(text), "answers": count} for text, count in counts.most_common()]
    models: dict[str, set[str]] = {}
    for answerer in answerers:
        if answerer.get("model") is not None:  # not every reply names one
            models.setdefault(str(answerer.get("address")), set()).add(str(answerer["model"]))
    for address, names in models.items():
        if len(names) > 1:
            raise UserError(f"{path}: {address} answered as {' and as '.join(sorted(names))}: its model changed, "
                            "and a result must not mix both. All answers are kept; ask for one model by its full name "
                            "(NAME=), or in another run (RUN=)")
    return answerers


def other_runs(run: Run, journal: Path) -> list[Path]:
    """List the same teacher's journals of this name in other runs and folders: paid answers are never asked twice.

    Also those that do not exist yet, since a batch under way will bring them.
    """
    journals, folders = [], (BUILD / "runs").glob("*/datasets/*/*")
    for path in sorted(folder / journal.name for folder in folders):
        if not (path.exists() or openai_batch.notes_path(path).exists()):
            continue
        declared = BUILD / "runs" / path.parts[-5] / "run.json"
        if path.resolve() != journal.resolve() and declared.exists():
            teacher = read_json(declared).get("experiment", {}).get("teacher")
            if teacher == run.experiment.teacher.model_dump():  # never a scripted teacher's for a real one's
                journals.append(path)
    return journals


def remote_engine(run: Run, engine: str, base_url: str | None, key: str, budget: float | None,
                  served: dict[str, str] | None = None) -> Engine:
    """Build the engine of a model behind an API, live or by batches, within the run's budget (USD, None for no limit).

    `served` identifies trained weights that the endpoint serves.
    """
    urls = openai_live.addresses(base_url)

    def run_budget() -> Budget:
        return openai_batch.run_budget(run, budget or 0.0)

    def ask_batch(requests: list[Record], journal: Journal) -> None:
        openai_batch.ask_batch(requests, journal, urls[0], key, run_budget if budget is not None else None)

    def ask_live(requests: list[Record], journal: Journal) -> None:
        openai_batch.refuse_unfinished(requests, journal.path)
        if requests:
            openai_live.ask_live(requests, journal, " ".join(urls), key, run_budget() if budget is not None else None)

    if len(urls) > 1 and engine == "openai-batch":
        raise UserError(f"openai-batch asks one endpoint, not {base_url}: a batch is known only where it was submitted")
    return Engine(ask_batch if engine == "openai-batch" else ask_live,
                  Answerer(served or {}, {url: _recorded_address(run, url) for url in urls}))


def _recorded_address(run: Run, url: str) -> str:
    """Return the address to record: of a scripted teacher, whose port changes, the variable that holds it."""
    teacher = run.experiment.teacher
    declared = teacher.base_url or ""
    scripted = teacher.scripted and declared.startswith("$") and os.environ.get(declared[1:], "").rstrip("/") == url
    return declared if scripted else url


def teacher_engine(run: Run, engine: str | None = None, budget: float | None = None) -> Engine:
    """Build the engine of the run's teacher, live by default. Raises UserError without its key."""
    teacher = run.experiment.teacher
    if engine not in (None, "openai", "openai-batch"):
        raise UserError(f"--engine {engine} serves local weights; the teacher {teacher.model} is asked with "
                        "openai or openai-batch")
    key = os.environ.get(teacher.key) or ("none" if teacher.base_url else "")
    if not key:
        raise UserError(f"{teacher.key} is not set; the teacher {teacher.model} needs it "
                        "(or set TEACHER_BASE_URL= for another endpoint)")
    return replace(remote_engine(run, engine or "openai", teacher.url(), key, budget),
                   others=partial(other_runs, run), shared=teacher.model_dump())


def policy_engine(run: Run, name: str, stage: str, engine: str | None = None, base_url: str | None = None,
                  budget: float | None = None, data_parallel: int = 1, profile: Hardware | None = None) -> Engine:
    """Build the engine of a model of the run at a stage: an API, endpoints, or vLLM started for it.

    A model of kind `api` is always asked at the API, live unless the engine is openai-batch. vLLM runs `data_parallel`
    copies of the model, each on its own devices of `profile`. Requests that do not fit into the model are refused
    before it starts (logreasoner.generation.lengths.fit).
    """
    declared = run.model(name)
    if declared.kind not in ("api", "open"):
        raise UserError(f"{name} is no language model (kind {declared.kind} in experiments/models.yaml) and answers no "
                        "requests; make eval runs its own program")
    if declared.kind == "api" or engine == "openai":
        key = os.environ.get("OPENAI_API_KEY") or ("none" if base_url else "")
        if not key:
            raise UserError(f"OPENAI_API_KEY is not set; {name} needs it (or set BASE_URL= for another endpoint)")
        return remote_engine(run, engine or "openai", base_url and reject_key_in_url(base_url), key, budget,
                             weights.known(run, name, stage))
    if engine == "openai-batch":
        raise UserError(f"--engine openai-batch is for the teacher and models of kind api; {name} has local weights")
    identity = weights.identity(run, name, stage)
    path, loading = run.weights(name, stage), weights.vllm_options(identity)
    options = [*loading, *vllm.parallel_options(declared, profile, data_parallel)]
    stack, started = contextlib.ExitStack(), list[tuple[str, int]]()  # the server's address and max_model_len

    def ask_vllm(requests: list[Record], journal: Journal) -> None:
        measured = lengths.measure(path, declared, stage, loading, requests)
        fitting, longest = lengths.fit(measured, requests, journal, run.experiment.over_length == "stop")
        if not fitting:
            return
        if not started or longest > started[0][1]:
            stack.close()
            command = vllm.vllm_command(path, served_name(name, stage), declared, stage, longest, *options)
            log = run.log(f"vllm-{name}-{stage}")
            print(f"vLLM starts with {served_name(name, stage)}, log: {log}", file=sys.stderr, flush=True)
            started[:] = [(stack.enter_context(vllm.server(command, log)), longest)]
        openai_live.ask_live(fitting, journal, started[0][0], "none",
                             concurrency=profile.concurrency if profile else None,
                             timeout=decoding()["local_timeout"])

    return Engine(ask_vllm, Answerer(identity), stack.close)


def served_name(name: str, stage: str) -> str:
    """Return the name by which requests ask for a local model."""
    return f"{name}/{stage}"


def _main(given: argparse.Namespace, further: Callable[[Run, argparse.Namespace], Again] | None) -> None:
    run = load_run(given.run)
    if given.role != "teacher" and not (given.model and given.stage):
        raise UserError(f"--role {given.role} needs --model and --stage")
    stage, by_teacher = given.stage, given.role == "teacher"
    if given.role == "corrector":
        by_teacher = run.corrected_by(stage) == "teacher"  # else the policy corrects its own solutions
    if given.role in ("solver", "corrector"):
        stage = run.solver(stage)
    if by_teacher:
        engine = teacher_engine(run, given.engine if given.role == "teacher" else given.teacher_engine, given.budget)
    else:
        cli.stop_on_sigterm()  # so that vLLM ends with this program
        engine = policy_engine(run, given.model, stage, given.engine, given.base_url, given.budget,
                               given.data_parallel, hardware().get(given.hardware))
    again = further(run, given) if further else None
    answer(given.requests, given.responses, engine, given.journal, again)


EXAMPLES = """
python -m logreasoner.generation.generate --run paper --role teacher \\
    --requests X.requests.jsonl --responses X.responses.jsonl
python -m logreasoner.generation.generate --run paper --role teacher --engine openai-batch --budget 20 \\
    --requests X.requests.jsonl --responses X.responses.jsonl
python -m logreasoner.generation.generate --run paper --role policy --model qwen2.5-7b --stage dpo --engine vllm \\
    --requests X.requests.jsonl --responses X.responses.jsonl"""


def main(module: str = "logreasoner.generation.generate", examples: str = EXAMPLES,
         description: str = "Answer a request file; only requests without an answer are asked.",
         further: Callable[[Run, argparse.Namespace], Again] | None = None) -> None:
    """Answer a request file. `further` makes what `answer` takes as `again`, for a command that judges the answers."""
    arguments = cli.parser(
        module, description, examples,
        required=["run"], optional=["model"],
    )
    arguments.add_argument("--role", required=True, choices=["teacher", "policy", "solver", "corrector"],
                           help="policy: the model at --stage; solver: the policy whose solutions --stage holds; "
                                "corrector: the teacher, or that policy where the stage or the run says so")
    arguments.add_argument("--stage", help="base or a stage of stages.yaml; for solver, corrector: that of the answers")
    arguments.add_argument("--hardware", help="a name of hardware.yaml: its number of requests at once for vLLM")
    arguments.add_argument("--engine", choices=ENGINES,
                           help="default: openai for the teacher and models of kind api, vllm for the others")
    arguments.add_argument("--teacher-engine", choices=ENGINES[:2], help="for a corrector that is the teacher")
    arguments.add_argument("--base-url", help="an OpenAI-compatible endpoint for the policy, or several with spaces "
                           "between them: requests are spread, and if one fails the others take over")
    arguments.add_argument("--data-parallel", type=int, choices=range(1, 1025), default=1, metavar="N",
                           help="how many copies of a local model vLLM runs, each on its own devices (default: 1)")
    arguments.add_argument("--budget", type=float, metavar="USD",
                           help="stop before the whole run costs more; every answer is kept")
    arguments.add_argument("--journal", type=Path, help="where answers are kept (default: X.journal.jsonl)")
    arguments.add_argument("--requests", required=True, type=Path)
    arguments.add_argument("--responses", required=True, type=Path)
    cli.run(arguments, lambda given: _main(given, further))


if __name__ == "__main__":
    main()
