"""Select a run's test instances; join, read and vote on the responses to them."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from logreasoner.answer_format import parse_label, parse_label_leniently
from logreasoner.cli import UserError
from logreasoner.config import Run, task
from logreasoner.files import read_json, read_jsonl
from logreasoner.generation.response_cache import content, cut, draft, error_of, final
from logreasoner.instances import Instance, by_id, read_instances

SEED = 42  # of the stratified subset
NUMBER = re.compile(r"[0-9]{1,6}")  # of a custom_id <instance id>#<number>
UNKNOWN = "of no instance of this test set", "score the responses with the instances they answer"
TWICE = "answered twice", "keep one response an id"
FURTHER = "not one of the votes that are scored", "give --samples as eval.predict had it"
Slot = tuple[str, int]  # instance id, number of the vote
Splits = tuple[list[Instance], list[Instance]]  # disjoint from training, seen by it


class Answer(NamedTuple):
    """The label that an instance was given, read strictly and leniently; None where it cannot be parsed.

    `cut`: it has no strict label, since it ended at max_tokens.
    """

    strict: str | None
    lenient: str | None
    cut: bool = False


NONE = "", Answer(None, None)  # of a request that was refused


def read_test_set(path: Path, name: str | None = None) -> list[Instance]:
    """Read instances. Raises UserError for an unknown label, and for a task other than `name` if given."""
    items = list(read_instances(path))
    for row, item in enumerate(items, 1):
        where = f"{path}: instance {row} ({item.id[:80]!r})"
        if name is not None and item.task != name:
            raise UserError(f"{where} is of task {item.task!r}, not {name!r}; score each task by itself")
        if item.label not in task(item.task).labels:
            raise UserError(f"{where} has the label {item.label!r}, which {item.task} does not know; "
                            f"its labels are {', '.join(task(item.task).labels)}")
    return items


def read_test_splits(run: Run) -> Splits:
    """Read a run's test instances: those disjoint from training, and those whose log text training has seen."""
    clean, seen = (read_test_set(run.splits / name) for name in ("test.jsonl", "test_seen.jsonl"))
    both = {item.id for item in clean} & {item.id for item in seen}
    if both:
        raise UserError(f"{run.splits}: id {min(both)!r} is in test.jsonl and in test_seen.jsonl; make them again")
    if not clean and not seen:
        raise UserError(f"{run.splits}: test.jsonl and test_seen.jsonl are empty, so there is nothing to evaluate")
    return clean, seen


def stratified(splits: Splits, limit: int | None) -> Splits:
    """Draw at most `limit` instances of each (task, source), in proportion to labels and to what training has seen.

    Systematic sampling: the instances stand on a circle, by label and split and then by a hash of their ids, and are
    drawn at places that divide it more and more evenly (0, 1/2, 1/4, 3/4, 1/8 ..., bits reversed), from a start that a
    hash of the source decides. So each instance is as likely to be drawn as any other, however small the subset or
    its stratum (largest remainders always leave out the small ones), and a smaller subset is part of every larger one.
    """
    if limit is None:
        return splits
    sources: dict[tuple[str, str], list[tuple[str, int, str, str]]] = defaultdict(list)
    for at, split in enumerate(splits):
        for item in split:
            sources[item.task, item.source].append((item.label, at, _hash(item.id), item.id))
    drawn = set()
    for (name, source), rows in sources.items():
        circle, start = [key for *_, key in sorted(rows)], int(_hash(f"{name}:{source}"), 16)
        bits = len(circle).bit_length()
        places = sorted(range(len(circle)), key=lambda place, bits=bits: f"{place:0{bits}b}"[::-1])  # type: ignore[misc]
        drawn |= {circle[(start + place) % len(circle)] for place in places[:limit]}
    clean, seen = ([item for item in split if item.id in drawn] for split in splits)
    return clean, seen


def _hash(text: str) -> str:
    return hashlib.sha256(f"{SEED}:{text}".encode()).hexdigest()


def test_sets(splits: Splits) -> Iterator[tuple[tuple[str, str, str], list[Instance], int]]:
    """Yield ((task, source, test set), instances, how many of them training has seen) of each test set.

    `disjoint`: logs that no training split holds; `all`: those and the rest of the test file (section 4.3 claims the
    first, the published counts fit the second).
    """
    for task_name, source in sorted({(item.task, item.source) for split in splits for item in split}):
        apart, known = ([item for item in split if (item.task, item.source) == (task_name, source)] for split in splits)
        if apart:
            yield (task_name, source, "disjoint"), apart, 0
        yield (task_name, source, "all"), [*apart, *known], len(known)


def read_answer(text: str, labels: list[str], ended: bool = True) -> Answer:
    """Read one answer strictly and leniently; one that has not `ended` was cut at max_tokens."""
    strict = parse_label(text, labels)
    return Answer(strict, parse_label_leniently(text, labels) if strict is None else strict,
                  strict is None and not ended)


def vote(votes: Sequence[Answer]) -> Answer:
    """Take the most frequent parsed label, in a tie the first (self-consistency); strict and lenient separately.

    Votes without any label are cut if one of them was.
    """
    if len(votes) == 1:
        return votes[0]

    def most(labels: Iterable[str | None]) -> str | None:
        counts = Counter(label for label in labels if label is not None)
        return max(counts, key=counts.__getitem__, default=None)

    strict, lenient, were_cut = zip(*votes, strict=True)
    label = most(strict)
    return Answer(label, most(lenient), label is None and any(were_cut))


def predictions(path: Path, items: Mapping[str, Instance], samples: int = 1, others: Collection[str] = (),
                thinking: bool = False) -> dict[str, Answer]:
    """Return instance id -> answer, voted over `samples`, for the ids of `items`. Answers to `others` are skipped.

    Raises UserError for ids that are unknown, answered twice or missing. An error response is a missing one, unless
    it refuses this very request (too long, say): that cannot be parsed. `thinking`: an answer that was cut off before
    </think> is only a draft.
    """
    parsed: dict[Slot, tuple[str, Answer]] = {}  # with the custom_id
    failed: dict[Slot, dict[str, Any]] = {}
    wrong: dict[tuple[str, str], list[str]] = {UNKNOWN: [], TWICE: [], FURTHER: []}
    for number, response in read_jsonl(path):
        custom_id = response.get("custom_id")
        if not isinstance(custom_id, str):
            raise UserError(f"{path}:{number}: a response needs a custom_id")
        key, mark, vote_number = custom_id.partition("#")
        if key in others:
            continue
        numbered = bool(mark and NUMBER.fullmatch(vote_number))
        text, slot = content(response), (key, int(vote_number) if samples > 1 and numbered else 0)
        if key not in items or (mark and not numbered):
            wrong[UNKNOWN].append(custom_id)
        elif samples > 1 and not (numbered and slot[1] < samples):
            wrong[FURTHER].append(custom_id)
        elif text is None:
            failed[slot] = response
        elif slot in parsed:
            wrong[TWICE if parsed[slot][0] == custom_id else FURTHER].append(custom_id)
        else:
            text = "" if thinking and draft(response) else text
            parsed[slot] = custom_id, read_answer(text, task(items[key].task).labels, not cut(response))
    for (problem, advice), ids in wrong.items():
        _refuse(path, ids, problem, advice)
    missing = [(key, at) for key in items for at in range(samples)
               if (key, at) not in parsed and not final(failed.get((key, at), {}))]
    reason = f" ({error_of(failed[missing[0]])})" if missing and missing[0] in failed else ""
    _refuse(path, [key if samples == 1 else f"{key}#{at}" for key, at in missing], f"without an answer{reason}",
            "run the engine again; it sends only what is missing")
    return {key: vote([parsed.get((key, at), NONE)[1] for at in range(samples)]) for key in items}


def _refuse(path: Path, ids: list[str], problem: str, advice: str) -> None:
    if ids:
        ids_text = f"{len(ids):,} id{'s' * (len(ids) > 1)}, the first {ids[0][:80]!r}"
        raise UserError(f"{path}: {ids_text}: {problem}; {advice}")


def fixed(run: Run, name: str) -> bool:
    """Tell whether a model is no language model: it is not prompted, and its answers never change."""
    return run.model(name).kind in ("encoder", "baseline")


def answered_tasks(run: Run, name: str, responses: Path) -> list[str]:
    """Return the tasks that a baseline or classifier fits, from the manifest of its answers; [] means all."""
    path = responses.with_name(responses.name + ".manifest.json")
    return list(read_json(path).get("tasks", [])) if fixed(run, name) and path.exists() else []


def answers(run: Run, name: str, responses: Path, splits: Splits, tasks: Collection[str], limit: int | None,
            samples: int) -> dict[str, Answer]:
    """Read a model's answers to a run's test instances, or to those of some tasks and of a stratified subset.

    Raises UserError for a task without instances and as `predictions` does.
    """
    missing = set(tasks) - {item.task for split in splits for item in split}
    if missing:
        raise UserError(f"--tasks: run {run.name} has no test instance of {min(missing)!r}; its tasks are "
                        f"{', '.join(run.tasks())}")
    wanted = by_id(item for split in stratified(splits, limit) for item in split if not tasks or item.task in tasks)
    others = {item.id for split in splits for item in split} - set(wanted)
    samples = 1 if fixed(run, name) else samples  # k equal answers vote as one does
    return predictions(responses, wanted, samples, others, run.model(name).thinking)
