"""The `openai-batch` engine: half the price, answers within 24 hours. Submit, leave, come back, collect.

X.batch.jsonl beside the journal says what was submitted. A submission is noted before it is made and again once it has
an id; one that a kill left without an id is looked for at the API by its key (in the batch's metadata), so nothing is
submitted twice. The next call of the same command collects what has ended and submits what is missing.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from logreasoner.cli import NotYet, UserError, escape_terminal, hide_keys
from logreasoner.config import Run, decoding
from logreasoner.files import digest, dump
from logreasoner.generation.costs import Budget, prices, worst_case
from logreasoner.generation.response_cache import Journal, Record, append_lines, body_digest, content, whole_lines

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # the API's limits for one batch
ENDED = ("completed", "failed", "expired", "cancelled")  # anything else is not collected yet
SEARCHED = 1_000  # newest batches that are searched for a submission without an id


def notes_path(journal: Path) -> Path:
    """The file that says what was submitted for a journal."""
    return journal.with_name(journal.name.removesuffix(".journal.jsonl") + ".batch.jsonl")


def open_notes(journal: Path) -> dict[str, Record]:
    """Submissions that are not collected, by key: requests (custom_id -> hash), model, worst (USD or None), batch."""
    notes = _notes(notes_path(journal))
    return {key: note for key, note in notes.items() if "ended" not in note}


def _notes(path: Path) -> dict[str, Record]:
    notes: dict[str, Record] = {}
    for line in (line for line in whole_lines(path) if "key" in line) if path.exists() else ():
        notes[line["key"]] = {**notes.get(line["key"], {}), **line}
    return notes


def note(path: Path, key: str, **facts: object) -> None:
    """Add facts to a submission; they are on disk before this returns."""
    append_lines(path, [{"key": key, **facts}])


def refuse_unfinished(requests: list[Record], journal: Path) -> None:
    """Raise UserError where another engine would pay again for what a batch is answering."""
    under_way = {key for submitted in open_notes(journal).values() for key in submitted["requests"].values()}
    twice = sum(body_digest(asked) in under_way for asked in requests)
    if twice:
        raise UserError(f"{notes_path(journal)}: {twice} of these requests are in a batch that is not collected yet; "
                        "collect it with --engine openai-batch first, or delete that file to ask and pay again")


def run_budget(run: Run, limit: float) -> Budget:
    """The budget of a run, with what its batches under way may cost set aside."""
    journals = (path.with_name(path.name.replace(".batch.jsonl", ".journal.jsonl"))
                for path in run.dir.glob("**/*.batch.jsonl"))
    return Budget(run, limit, sum(submitted.get("worst") or 0.0
                                  for path in journals for submitted in open_notes(path).values()))


def ask_batch(requests: list[Record], journal: Journal, base_url: str, key: str,
              budget: Callable[[], Budget] | None = None) -> None:
    """Collect the batches that have ended, submit what no batch has. Raises NotYet while any is under way.

    What an ended batch left unanswered is submitted by the next call, so that one sees why before paying again.
    Without requests it only collects.
    """
    import openai

    live = decoding()["live"]
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=live["max_retries"], timeout=live["timeout"])
    path = notes_path(journal.path)
    with _said_plainly(client, path):
        _find_lost(client, path, journal.path)
        running: list[Batch] = []
        seen: set[str] = set()
        for name, submitted in open_notes(journal.path).items():
            batch = client.batches.retrieve(submitted["batch"])
            if batch.id != submitted["batch"]:
                raise ValueError(f"{batch.id} instead of {submitted['batch']}")
            seen.update(submitted["requests"].values())
            if batch.status not in ENDED:
                running.append(batch)
            else:
                _collect(client, batch, submitted, journal, base_url)
                note(path, name, ended=batch.status)
        new = [asked for asked in requests if body_digest(asked) not in seen and journal.answer(asked) is None]
        running += _submit(client, new, path, budget and budget()) if new else []
    if running and requests:
        done = sum(batch.request_counts.completed for batch in running if batch.request_counts)
        total = sum(len(submitted["requests"]) for submitted in open_notes(journal.path).values())
        raise NotYet(f"{len(running)} under way at {client.base_url} ({', '.join(batch.id for batch in running)}), "
                     f"{done:,} of {total:,} requests done. Run the same command again to collect the answers; "
                     "that can take up to 24 hours")


@contextlib.contextmanager
def _said_plainly(client: "openai.OpenAI", path: Path) -> Iterator[None]:
    import openai

    try:
        yield
    except openai.NotFoundError as error:
        said = hide_keys(error.message, client.api_key)
        raise UserError(f"{client.base_url} does not know a batch or file of {path} ({said}): ask with the key that "
                        "submitted it; if it is gone, delete that file to submit what is missing again"
                        ) from None
    except openai.APIStatusError as error:
        raise UserError(f"{client.base_url} refused: {hide_keys(error.message, client.api_key)}") from None
    except (openai.APIConnectionError, ValueError, RecursionError, AttributeError) as error:  # the last: no object
        raise UserError(f"{client.base_url} cannot be reached or sent half a file ({error}); run again, nothing is "
                        "submitted twice") from None


def _find_lost(client: "openai.OpenAI", path: Path, journal: Path) -> None:
    """Find the batches whose id a kill kept from being noted."""
    lost = [key for key, submitted in open_notes(journal).items() if "batch" not in submitted]
    known = {(batch.metadata or {}).get("logreasoner"): batch.id
             for batch in islice(client.batches.list(limit=100), SEARCHED)} if lost else {}
    for key in lost:
        if key in known:
            note(path, key, batch=known[key])
        else:
            note(path, key, ended="never submitted")


def _collect(client: "openai.OpenAI", batch: "Batch", submitted: Record, journal: Journal, address: str) -> None:
    """Put a batch's output and errors into the journal, whole; nothing is noted before all of it is here."""
    received: list[Record] = []
    for file in (batch.output_file_id, batch.error_file_id):
        if file:
            received += [json.loads(line) for line in client.files.content(file).content.split(b"\n") if line]
    received = _unmistakable(received)
    asked = submitted["requests"]
    lines = [{**line, "request_sha256": asked[line["custom_id"]], "model": submitted["model"], "batch": batch.id,
              "answered_by": journal.answerer.stamp(line, address)}
             for line in received if line["custom_id"] in asked]
    known = {key for key in asked.values() if key in journal.answers and journal.answers[key].get("batch") == batch.id}
    journal.append([line for line in lines if line["request_sha256"] not in known])  # after a kill: not twice
    good = sum(content(line) is not None for line in lines)
    why = "; ".join(error.message or "" for error in (batch.errors.data or [])) if batch.errors else ""
    print(f"{batch.id}: {batch.status}, {good:,} of {len(asked):,} answered{': ' if why else ''}{escape_terminal(why)}",
          flush=True)


def _unmistakable(received: list[Record]) -> list[Record]:
    """One line an id: nobody knows which of two different ones is right, so that neither is an answer."""
    found: dict[str, Record] = {}
    for line in received:
        if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
            continue
        if (same := line["custom_id"]) in found and line != found[same]:
            line = {"custom_id": same, "response": None, "error": {"message": "two different answers for one id"}}
        found[same] = line
    return list(found.values())


def _parts(requests: list[Record]) -> Iterator[tuple[list[Record], bytes]]:
    """Requests as the API takes them in one batch: within its limits, of one model."""
    part: list[Record] = []
    lines: list[bytes] = []
    size = 0
    for asked in requests:
        line = dump(asked).encode() + b"\n"
        full = len(part) == MOST_REQUESTS or size + len(line) > MOST_BYTES
        if part and (full or asked["body"]["model"] != part[-1]["body"]["model"]):
            yield part, b"".join(lines)
            part, lines, size = [], [], 0
        part.append(asked)
        lines.append(line)
        size += len(line)
    yield part, b"".join(lines)


def _worst(requests: list[Record]) -> float:
    return prices().batch_discount * sum(worst_case(asked["body"]) for asked in requests)


def _submit(client: "openai.OpenAI", requests: list[Record], path: Path, budget: Budget | None) -> list["Batch"]:
    """Submit requests in as few batches as the limits allow. Raises UserError if the budget does not cover them."""
    if budget and not budget.fits(needed := _worst(requests)):
        raise budget.stop(len(requests), needed)
    made = []
    for part, data in _parts(requests):
        asked = {each["custom_id"]: body_digest(each) for each in part}
        key = digest([sorted(asked.values()), len(_notes(path))])[:32]
        note(path, key, requests=asked, model=part[0]["body"]["model"], worst=_worst(part) if budget else None)
        file = client.files.create(file=(f"{key}.jsonl", data), purpose="batch")
        # Not retried by the client: a request that arrived although its answer did not would make a second batch.
        batch = client.with_options(max_retries=0).batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h",
            metadata={"logreasoner": key})
        if not isinstance(batch.id, str):
            raise ValueError("a batch without an id")
        note(path, key, batch=batch.id)
        made.append(batch)
        print(f"{batch.id}: submitted, {len(part):,} requests", flush=True)
    return made
