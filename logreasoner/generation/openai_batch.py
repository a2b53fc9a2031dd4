"""The `openai-batch` engine: half the price, answers within 24 hours. Submit, then run again to collect.

X.batch.jsonl beside the journal notes each submission, before it is made and again once it has an id. One that a kill
left without an id is searched at the API by its key (in the batch's metadata), so that nothing is submitted twice.
The next call of the same command collects the batches that have ended and submits what is missing. What exceeds the
organisation's limit of queued tokens goes on in parts, one at a time, each half as long as what was too much.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from logreasoner.cli import NotYet, UserError, escape_terminal
from logreasoner.config import Run, decoding
from logreasoner.files import digest, dump
from logreasoner.generation.costs import Budget, prices, worst_case
from logreasoner.generation.openai_live import decoded_json, received
from logreasoner.generation.response_cache import (
    QUOTED,
    REFUSED,
    Journal,
    Record,
    append_lines,
    body_digest,
    content,
    error_of,
    has_usage,
    most_usage,
    payload,
    whole_lines,
)

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # the API's limits for one batch
ENDED = ("completed", "failed", "expired", "cancelled")  # anything else is not collected yet
SEARCHED = 1_000  # newest batches among which a submission without an id is searched
QUEUE_FULL = "token_limit_exceeded"  # the error of a batch that exceeds the organisation's limit of queued tokens
TRANSFER = 6  # times live.timeout: the time for a file of some hundred megabytes


def notes_path(journal: Path) -> Path:
    """Return the file that notes the submissions for a journal."""
    return journal.with_name(journal.name.removesuffix(".journal.jsonl") + ".batch.jsonl")


def open_notes(journal: Path) -> dict[str, Record]:
    """Return uncollected submissions by key: requests (custom_id -> hash), usage_at_most (hash -> tokens), model, worst
    (USD or None), batch.
    """
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
    """Raise UserError where another engine would pay again for requests of a running batch."""
    under_way = {key for submitted in open_notes(journal).values() for key in submitted["requests"].values()}
    overlap = sum(body_digest(request) in under_way for request in requests)
    if overlap:
        raise UserError(f"{notes_path(journal)}: {overlap} of these requests are in a batch that is not collected yet; "
                        "collect it with --engine openai-batch first, or delete that file to ask and pay again")


def run_budget(run: Run, limit: float) -> Budget:
    """Return the budget of a run, less the most that its batches under way may cost."""
    journals = (path.with_name(path.name.replace(".batch.jsonl", ".journal.jsonl"))
                for path in run.dir.glob("**/*.batch.jsonl"))
    return Budget(run, limit, sum(submitted.get("worst") or 0.0
                                  for path in journals for submitted in open_notes(path).values()))


def ask_batch(requests: list[Record], journal: Journal, base_url: str, key: str,
              budget: Callable[[], Budget] | None = None) -> None:
    """Collect the batches that have ended, submit requests that are in none. Raises NotYet while any is under way.

    What an ended batch left unanswered is submitted by the next call, so that the user sees why before paying again.
    Without requests, only collect. Raises UserError where an ended batch refused nearly everything.
    """
    path = notes_path(journal.path)
    with _readable_errors(base_url, key, path):
        running = asyncio.run(_ask_batch(requests, journal, base_url, key, budget))
    if running and requests:
        done = sum(batch.request_counts.completed for batch in running if batch.request_counts)
        total = sum(len(submitted["requests"]) for submitted in open_notes(journal.path).values())
        raise NotYet(f"{len(running)} under way at {base_url} ({', '.join(batch.id for batch in running)}), "
                     f"{done:,} of {total:,} requests done. Run the same command again to collect the answers; "
                     "that can take up to 24 hours")


async def _ask_batch(requests: list[Record], journal: Journal, base_url: str, key: str,
                     budget: Callable[[], Budget] | None) -> list["Batch"]:
    """Return the batches under way after collecting and submitting."""
    from logreasoner.generation.http_client import open_client

    live, path, running, seen = decoding()["live"], notes_path(journal.path), list["Batch"](), set[str]()
    async with open_client(base_url, key, TRANSFER * live["timeout"], live["max_retries"]) as client:
        await _find_lost(client, path, journal.path)
        for name, submitted in open_notes(journal.path).items():
            batch = await client.batches.retrieve(submitted["batch"])
            if batch.id != submitted["batch"]:
                raise ValueError(f"{batch.id} instead of {submitted['batch']}")
            if batch.status not in ENDED:
                running.append(batch)
            else:
                refused = await _collect(client, batch, submitted, journal, base_url)
                note(path, name, ended=batch.status, queue_full=_queue_full(batch))
                if refused:
                    raise UserError(refused)
            if not _queue_full(batch):  # then nothing was asked, and a smaller part goes on now
                seen.update(submitted["requests"].values())
        new = [request for request in requests
               if body_digest(request) not in seen and journal.answer(request) is None]
        if new and not (running and _most_requests(path) < MOST_REQUESTS):
            running += await _submit(client, new, path, budget and budget())
    return running


@contextlib.contextmanager
def _readable_errors(base_url: str, key: str, path: Path) -> Iterator[None]:
    """Turn the client's errors into UserErrors without the key."""
    import openai

    from logreasoner.generation.http_client import DeadlineError, base_url_hint

    try:
        yield
    except openai.NotFoundError as error:
        message = error_of(received(key, error.response), QUOTED)
        if not any("batch" in submitted for submitted in _notes(path).values()):
            raise UserError(f"{base_url} takes no batches ({message}){base_url_hint(base_url)}; or ask it live "
                            "(--engine openai)") from None
        raise UserError(f"{base_url} does not know a batch or file of {path} ({message}): use the key that "
                        "submitted it; if it is gone, delete that file to submit what is missing again"
                        ) from None
    except openai.APIStatusError as error:
        location = error.response.headers.get("location")
        raise UserError(f"{base_url} refused: {error_of(received(key, error.response), QUOTED)}" + (
            f"; it redirects to {location}, and prompts are sent to the declared address only; if they may go there, "
            "give that as the base URL" if location else "")) from None
    except (openai.APIConnectionError, DeadlineError, ValueError, RecursionError, AttributeError) as error:
        # the last: no object
        raise UserError(f"{base_url} cannot be reached or sent half a file ({error}); run again, nothing is "
                        "submitted twice") from None


async def _find_lost(client: "openai.AsyncOpenAI", path: Path, journal: Path) -> None:
    """Search the batches whose ids were not noted before a kill."""
    lost = [key for key, submitted in open_notes(journal).items() if "batch" not in submitted]
    known, searched = dict[object, str](), 0
    if lost:
        async for batch in client.batches.list(limit=100):
            known[(batch.metadata or {}).get("logreasoner")] = batch.id
            if (searched := searched + 1) == SEARCHED:
                break
    for key in lost:
        if key in known:
            note(path, key, batch=known[key])
        else:
            note(path, key, ended="never submitted")


def _queue_full(batch: "Batch") -> bool:
    return batch.status == "failed" and any(error.code == QUEUE_FULL
                                            for error in (batch.errors.data if batch.errors else None) or [])


def _most_requests(path: Path) -> int:
    """Return how many requests the next batch may have: half of the smallest that exceeded the limit of the queue."""
    too_many = [len(submitted["requests"]) for submitted in _notes(path).values() if submitted.get("queue_full")]
    return max(1, min(too_many) // 2) if too_many else MOST_REQUESTS


async def _collect(client: "openai.AsyncOpenAI", batch: "Batch", submitted: Record, journal: Journal, address: str
                   ) -> str:
    """Append a batch's output and errors to the journal, once all of both has arrived.

    Returns why its refusals are not kept as answers, "" if they are or there are none.
    """
    replies: list[Record] = []
    for file in (batch.output_file_id, batch.error_file_id):
        if file:
            data = (await client.files.content(file)).content
            replies += [decoded_json(line) for line in data.split(b"\n") if line]
    replies = _unambiguous(replies)
    digests, at_most = submitted["requests"], submitted.get("usage_at_most", {})
    lines = [{"id": line.get("id"), "custom_id": line["custom_id"], "response": line.get("response"),
              "error": line.get("error"), "request_sha256": digests[line["custom_id"]], "model": submitted["model"],
              "batch": batch.id, "answered_by": journal.answerer.stamp(line, address)}
             for line in replies if line["custom_id"] in digests]
    lines = [line if has_usage(line) or payload(line).get("status_code") != 200
             else {**line, "usage_at_most": at_most.get(line["request_sha256"])} for line in lines]
    good = sum(content(line) is not None for line in lines)
    errors = [error.message or "" for error in (batch.errors.data or [])] if batch.errors else []
    reason = escape_terminal(f": {'; '.join(errors)}" if errors else "")
    print(f"{batch.id}: {batch.status}, {good:,} of {len(digests):,} answered{reason}", flush=True)
    known = {key for key in digests.values() if journal.answers.get(key, {}).get("batch") == batch.id}
    refused, others = list[Record](), list[Record]()
    for line in (line for line in lines if line["request_sha256"] not in known):  # after a kill: not twice
        (refused if payload(line).get("status_code") in REFUSED else others).append(line)
    journal.append(others)
    if journal.keep_refusals(refused):  # all were asked with the same settings: few refusals are about their requests
        return ""
    return (f"{batch.id}: {len(refused):,} of {len(digests):,} requests were refused, which is no answer to them: "
            f"{error_of(refused[-1], QUOTED)}; correct what it says and run again, answers are kept")


def _unambiguous(replies: list[Record]) -> list[Record]:
    """Return one line for each id: an error where two lines differ, since neither is known to be right."""
    lines: dict[str, Record] = {}
    for line in replies:
        if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
            continue
        if (key := line["custom_id"]) in lines and line != lines[key]:
            line = {"custom_id": key, "response": None, "error": {"message": "two different answers for one id"}}
        lines[key] = line
    return list(lines.values())


def _parts(requests: list[Record], most: int) -> Iterator[tuple[list[Record], bytes]]:
    """Split requests into batches as the API takes them: within its limits, of one model, `most` in each."""
    part: list[Record] = []
    lines: list[bytes] = []
    size = 0
    for request in requests:
        line = dump(request).encode() + b"\n"
        full = len(part) == most or size + len(line) > MOST_BYTES
        if part and (full or request["body"]["model"] != part[-1]["body"]["model"]):
            yield part, b"".join(lines)
            part, lines, size = [], [], 0
        part.append(request)
        lines.append(line)
        size += len(line)
    yield part, b"".join(lines)


def _worst_case(requests: list[Record]) -> float:
    return prices().batch_discount * sum(worst_case(request["body"]) for request in requests)


async def _submit(client: "openai.AsyncOpenAI", requests: list[Record], path: Path, budget: Budget | None
                  ) -> list["Batch"]:
    """Submit requests in as few batches as the limits allow, one where the queue was full before.

    Raises UserError if the budget does not cover them.
    """
    if budget and not budget.fits(needed := _worst_case(requests)):
        raise budget.stop(len(requests), needed)
    batches, most = [], _most_requests(path)
    for part, data in islice(_parts(requests, most), 1 if most < MOST_REQUESTS else None):
        digests = {request["custom_id"]: body_digest(request) for request in part}
        key = digest([sorted(digests.values()), len(_notes(path))])[:32]
        note(path, key, requests=digests, model=part[0]["body"]["model"], worst=_worst_case(part) if budget else None,
             usage_at_most={body_digest(request): most_usage(request["body"]) for request in part})
        file = await client.files.create(file=(f"{key}.jsonl", data), purpose="batch")
        # No retries by the client: if the request arrived and only its answer was lost, that makes a second batch.
        batch = await client.with_options(max_retries=0).batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h",
            metadata={"logreasoner": key})
        if not isinstance(batch.id, str):
            raise ValueError("a batch without an id")
        note(path, key, batch=batch.id)
        batches.append(batch)
        print(f"{batch.id}: submitted, {len(part):,} requests", flush=True)
    return batches
