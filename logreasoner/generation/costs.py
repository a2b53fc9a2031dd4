"""Count what answers cost (section 6.1): prices, the budget of a run, and the costs of its thoughts and pairs."""

import argparse
import asyncio
import datetime
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, load_run, load_yaml
from logreasoner.files import EXPERIMENTS
from logreasoner.generation.response_cache import Record, content, is_count, most_usage, payload, whole_lines
from logreasoner.schemas import Declared, checked

PRICES = EXPERIMENTS / "prices.yaml"


class Price(Declared):
    """USD per million tokens; `retires` is the day on which the vendor stops serving the model."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    retires: datetime.date | None = None

    def of(self, usage: Mapping[str, int | None]) -> float:
        """Return what prompt_tokens and completion_tokens cost, in USD."""
        tokens_in, tokens_out = (usage.get(key) or 0 for key in ("prompt_tokens", "completion_tokens"))
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class Paper(Declared):
    """Section 6.1, in USD."""

    per_thought: float
    per_pair: float
    total_under: float


class Throughput(Declared):
    """Peak operations a second of one device by hardware profile, and the share that each kind of work reaches."""

    basis: str
    peak: dict[str, float]
    utilisation: dict[str, float]


class Prices(Declared):
    """experiments/prices.yaml."""

    as_of: datetime.date
    source: str
    batch_discount: float = Field(gt=0, le=1)
    models: dict[str, Price]
    paper: Paper
    characters_per_token: float = Field(gt=0)
    typical_output: dict[str, int]
    throughput: Throughput


@functools.cache
def prices() -> Prices:
    """Load experiments/prices.yaml."""
    return checked(Prices, load_yaml(PRICES), str(PRICES))


def price(model: str) -> Price:
    """Return a model's price. Raises UserError that says where to add it."""
    if model not in prices().models:
        raise UserError(f"no price is known for {model!r}, so no budget can be kept: add it to "
                        "experiments/prices.yaml, in USD per million tokens (0 where it costs nothing)")
    return prices().models[model]


def estimated_tokens(text: str) -> float:
    """Estimate the tokens of a text by its length; prices.yaml says how the ratio was measured."""
    return len(text) / prices().characters_per_token


def worst_case(body: Record) -> float:
    """Return the most that a request can cost live, in USD: a token for each byte of the prompt, and max_tokens.

    Raises UserError for a model without a price and a request without max_tokens.
    """
    most = most_usage(body)
    if most["completion_tokens"] is None:
        raise UserError(f"a request to {body.get('model')} has no max_tokens, so its cost has no bound: "
                        "set it in experiments/decoding.yaml, or leave the budget out")
    return price(str(body.get("model"))).of(most)


@dataclass(frozen=True)
class Spent:
    """Answers of a journal: how many, tokens in and out, USD (None: no price), USD paid in another run's journal.

    `unknown` replies do not count their tokens: USD is what they cost at most, and the tokens are without them.
    """

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    paid: float | None = 0.0
    copied: float = 0.0
    unknown: int = 0

    @property
    def worth(self) -> float | None:
        """Return what the answers cost, in whichever run they were paid."""
        return None if self.paid is None else self.paid + self.copied

    def __add__(self, other: "Spent") -> "Spent":
        paid = None if self.paid is None or other.paid is None else self.paid + other.paid
        return Spent(self.answers + other.answers, self.prompt_tokens + other.prompt_tokens,
                     self.completion_tokens + other.completion_tokens, paid, self.copied + other.copied,
                     self.unknown + other.unknown)


def spent_on(line: Record) -> Spent:
    """Compute what one line of a journal cost: usage by its model's price, less the discount of a batch.

    What a reply may have cost that does not count its tokens: as much as its request allows (`usage_at_most`). Lines
    of older versions do not say that, and what their prompts cost is missing.
    """
    body = payload(line).get("body")
    usage, most = (value if isinstance(value, dict) else {} for value in (
        body.get("usage") if isinstance(body, dict) else None, line.get("usage_at_most")))
    answered = int(content(line) is not None)
    counts = {key: usage[key] for key in ("prompt_tokens", "completion_tokens") if is_count(usage.get(key))}
    unknown = int((answered or bool(most)) and len(counts) < 2)
    if not (answered or counts or unknown):
        return Spent()
    tokens = counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0)
    rate = prices().models.get(str(line.get("model") or (body.get("model") if isinstance(body, dict) else None)))
    if rate is None:
        return Spent(answered, *tokens, None, unknown=unknown)
    if unknown:
        counts = {"completion_tokens": len((content(line) or "").encode(errors="surrogatepass")), **{
            key: value for key, value in most.items() if is_count(value)}, **counts}
    usd = rate.of(counts) * (prices().batch_discount if line.get("batch") else 1.0)
    copied = bool(line.get("copied_from"))
    return Spent(answered, *tokens, 0.0 if copied else usd, usd if copied else 0.0, unknown)


def spent_in(path: Path) -> Spent:
    """Sum what the answers of a journal cost."""
    return sum((spent_on(line) for line in whole_lines(path)), Spent())


def journals(run: Run) -> list[Path]:
    """List the journals of a run."""
    return sorted(run.dir.glob("**/*.journal.jsonl"))


class Budget:
    """USD that a whole run may cost (all of its journals); requests under way count with their worst case.

    A reply that does not count its tokens, or does not arrive within `live.timeout`, keeps its worst case. An answer
    that is lost with its connection is on the vendor's bill and in no journal.
    """

    def __init__(self, run: Run, limit: float, under_way: float = 0.0):
        self.run, self.limit, self.under_way = run, limit, under_way
        self.spent, self.unknown = 0.0, 0
        for path in journals(run):
            for line in whole_lines(path):
                self._add(spent_on(line))
        self.held: list[float] = []
        self.refused = False
        self.changed = asyncio.Condition()

    def fits(self, worst: float) -> bool:
        """Tell whether the budget covers that much more."""
        return self.spent + self.under_way + sum(self.held) + worst <= self.limit

    async def hold(self, body: Record) -> bool:
        """Reserve a request's worst case, waiting while answers under way may free it; return whether it fits."""
        worst = worst_case(body)
        async with self.changed:
            await self.changed.wait_for(lambda: self.fits(worst) or not self.held)
            if self.fits(worst):
                self.held.append(worst)
                return True
            self.refused = True
            return False

    async def settle(self, body: Record, response: Record) -> None:
        """Replace a reserved worst case by the real cost; 0 for {} (no response)."""
        async with self.changed:
            self.held.remove(worst_case(body))
            self._add(spent_on({**response, "model": body["model"]}))
            self.changed.notify_all()

    def _add(self, spent: Spent) -> None:
        self.spent += spent.paid or 0.0
        self.unknown += spent.unknown

    def stop(self, left: int, needed: float | None = None) -> UserError:
        """Build the error that says what was spent, how many requests are left and how to go on."""
        more = f"they can cost up to {needed:.4f}" if needed is not None else "the next could exceed it"
        return UserError(f"the budget of {self.limit:.4f} USD stops here: run {self.run.name!r} has spent "
                         f"{self.spent:.4f}{_at_most(self.unknown)}, {left} requests are left and {more}. "
                         "Every answer is kept; "
                         "go on with a larger BUDGET= (--budget), or without one")


def _unit_cost(name: str, paths: list[Path], samples: list[Path], paper: float) -> str:
    """Build a line of the report: what the journals cost for each resulting sample, in whichever run it was paid."""
    counts = [sum(1 for _ in whole_lines(path)) for path in samples if path.exists()]
    spent = sum((spent_in(path) for path in paths), Spent())
    if not sum(counts) or len(counts) < len(samples) or spent.worth is None:
        return f"{name}: not known yet (the paper's: {paper:.3f} USD)"
    return (f"{name}: {spent.worth / sum(counts):.4f} USD{_at_most(spent.unknown)}, {sum(counts):,} samples "
            f"(the paper's: {paper:.3f} USD)")


def _at_most(unknown: int) -> str:
    """Say where USD is an upper bound."""
    return f" at most ({unknown:,} of unknown cost: no usage in the reply)" if unknown else ""


def report(run: Run) -> Iterator[str]:
    """Report what a run's answers cost, by journal, and each thought and pair beside the paper's (section 6.1)."""
    paper = prices().paper
    yield f"run {run.name}: USD by the prices of {prices().as_of} (experiments/prices.yaml)"
    total = Spent()
    for path in journals(run):
        spent = spent_in(path)
        usd = "no price" if spent.paid is None else f"{spent.paid:.4f}{_at_most(spent.unknown)}"
        copied = f" (+ {spent.copied:.4f} paid in another run)" if spent.copied else ""
        total += spent if spent.paid is not None else Spent()
        yield (f"  {path.relative_to(run.dir)}: {spent.answers:,} answers, {spent.prompt_tokens:,} tokens in, "
               f"{spent.completion_tokens:,} out, {usd}{copied}")
    stage1 = run.dataset("shared", "thought-sft")
    teacher = [path for name in ("rationales", "thoughts") if (path := stage1 / f"{name}.journal.jsonl").exists()]
    yield _unit_cost("a thought", teacher, [stage1 / "samples.jsonl"], paper.per_thought)
    pairs = [path for path in sorted(run.dir.glob("datasets/*/*/corrections.journal.jsonl"))
             if path.with_name("samples.jsonl").exists() and spent_in(path).paid is not None]  # not pi_thought's
    yield _unit_cost("a preference pair", pairs, [path.with_name("samples.jsonl") for path in pairs], paper.per_pair)
    yield (f"everything with a price: {total.paid or 0:.4f} USD{_at_most(total.unknown)} "
           f"(the paper's data preparation: under {paper.total_under:.0f})")
    if run.mark == "scripted":
        yield "no USD here was paid: the teacher is scripted, also where it stands in for an API; its tokens are words"


def main() -> None:
    """Print what a run's answers cost."""
    arguments = cli.parser("logreasoner.generation.costs",
                           "What a run's answers cost, from the usage in its journals.", """
python -m logreasoner.generation.costs --run paper""", required=["run"])

    def show(given: argparse.Namespace) -> None:
        print("\n".join(report(load_run(given.run))))

    cli.run(arguments, show)


if __name__ == "__main__":
    main()
