"""Estimate what stands between a run and its results: prompts, tokens, USD, GPU hours, disk.

Prompts that can be written by now are counted exactly. What is not known yet is estimated, and the basis is stated: how
many solutions will be wrong (Table 1's share; at most all of them), how long answers are (experiments/prices.yaml until
the run has some), how fast a GPU is. Answers that a response cache holds are not counted again.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from data_builders import ask, examples, stage1, stage2
from data_builders.recipes import disk_bytes
from eval import predict
from logreasoner import prompts, weights
from logreasoner.config import Run
from logreasoner.generation import generate
from logreasoner.generation.costs import estimated_tokens, prices, spent_in
from logreasoner.generation.openai_live import addresses
from logreasoner.generation.response_cache import Answerer, Journal, Record, body_digest, endpoints
from logreasoner.instances import read_instances
from logreasoner.paper import published

Count = Callable[[str], float]


@dataclass(frozen=True)
class Step:
    """Requests to one model. Tokens are those still to be paid; `most` requests where `requests` is an estimate."""

    name: str
    asked: str  # the model, as its server calls it
    requests: int
    most: int
    answered: int
    saved: int  # identical requests, sent once
    tokens_in: float
    prefix: float  # share of tokens_in that an earlier prompt begins with
    tokens_out: float
    tokens_out_most: float
    basis: str
    usd: float | None = None
    usd_most: float | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class Training:
    """A stage still to be trained; tokens over all epochs."""

    model: str
    stage: str
    rows: int
    tokens: float
    gpu_hours: float | None
    disk: float  # bytes of weights
    checkpoints: float  # bytes, until the stage is finished


def tokenizer(path: str) -> tuple[Count, str]:
    """Return how prompts of a model are counted, and in words: by its tokenizer.json where possible, else by length."""
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
    folders = [Path(path), *(cache / f"models--{path.replace('/', '--')}" / "snapshots").glob("*")]
    file = next((candidate for folder in folders if (candidate := folder / "tokenizer.json").exists()), None)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        file = None
    if file is None:
        return estimated_tokens, "estimated by length"
    loaded = Tokenizer.from_file(str(file))
    return (lambda text: len(loaded.encode(text).ids)), "counted by the model's tokenizer"


def shared_prefix(texts: list[str]) -> float:
    """Compute the share of characters that a prefix cache saves: what each text has in common with one before it."""
    common, before = 0, ""
    for text in sorted(texts):
        low, high = 0, min(len(before), len(text))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if before[:middle] == text[:middle] else (low, middle - 1)
        common, before = common + low, text
    return common / max(sum(map(len, texts)), 1)


def _assumed_steps() -> tuple[str, ...]:
    """Return the steps of an example that the teacher is still to solve, by their usual length."""
    return ("word " * prices().typical_output["solution"],)


class Plan:
    """The steps and trainings of some (model, stage) pairs of a run."""

    def __init__(self, run: Run, profile: str, limit: int | None = None, samples: int = 1):
        self.run, self.profile, self.limit, self.samples = run, profile, limit, samples
        self.steps: dict[Path, Step] = {}
        self.trainings: dict[tuple[str, str], Training] = {}
        self.notes: dict[str, None] = {}
        self.rendered: dict[tuple[str, bool], list[Record]] = {}
        tasks, split = run.tasks(), list(read_instances(run.splits / "stage2.jsonl"))
        self.split = len(split)  # rows of stage 2
        self.problem = fmean(estimated_tokens(prompts.problem(item, tasks[item.task])) for item in split)
        self.prompt = fmean(estimated_tokens(prompts.solution(item, tasks[item.task])) for item in split)
        rows = [row for row in published().data_tables["table1"]["rows"] if row["stage"] == "stage2"]
        self.wrong = sum(row["dpo"] for row in rows) / sum(row["dpo"] + row["sft"] for row in rows)

    def add(self, model: str, stage: str) -> None:
        """Add a pair and all that it stands on."""
        run = self.run
        if run.model(model).kind in ("baseline", "encoder"):
            self.notes[f"{model}: no language model; minutes, not estimated"] = None
            return
        for step in run.steps_to(stage):
            output = run.file(step.output, model)
            if run.asks_teacher(step):
                self._add_requests(output)
            elif step.asks:
                self._add_requests(output, model, run.solver(step.stage))
            elif step.trains and not output.exists():
                self.trainings.setdefault((model, step.stage), self._training(model, step.stage))
        if examples.open_examples(run):
            self._add_requests(run.dataset("shared", "examples") / "examples.responses.jsonl")
        self._add_requests(run.predictions(model, stage), model, stage)

    def _requests(self, path: Path, model: str, stage: str) -> list[Record] | None:
        """Return the requests of a step where they can be written by now; None where they depend on answers."""
        if path.name.startswith("test."):
            return self._evaluation(model, stage)
        if path.parent.name == "examples":
            return examples.requests(self.run)
        file = path.with_name(path.name.replace(".responses.", ".requests."))
        if file.exists():
            return generate.read_requests(file)
        if path.name.startswith(("thoughts.", "corrections.")):
            return None
        with tempfile.TemporaryDirectory() as folder:
            scratch = Run(self.run.name, self.run.experiment)
            scratch.dir, scratch.splits = Path(folder), self.run.splits
            if path.name.startswith("rationales."):
                stage1.rationale_requests(scratch, path.parent.name)
            else:
                stage2.solution_requests(scratch, model, path.parent.name, _assumed_steps())
            return generate.read_requests(Path(folder) / file.relative_to(self.run.dir))

    def _evaluation(self, model: str, stage: str) -> list[Record]:
        """Render the requests of an evaluation; prompts are rendered once for all models that are asked alike."""
        kind, served = predict.endpoint(self.run, model, stage)
        alike = kind, self.run.model(model).thinking
        if alike not in self.rendered:
            self.rendered[alike] = predict.requests(self.run, model, stage, limit=self.limit, samples=self.samples,
                                                    assumed=_assumed_steps())
        return [{**request, "body": {**request["body"], "model": served}} for request in self.rendered[alike]]

    def _add_requests(self, responses: Path, model: str = "", stage: str = "") -> None:
        """Count the requests of a response file; without a model the teacher answers them."""
        if responses in self.steps:
            return
        run, journal = self.run, generate.journal_of(responses)
        name = "evaluation" if responses.name.startswith("test.") else responses.name.partition(".")[0]
        if name in ask.OBJECTIONS and run.experiment.attempts > 1:
            self.notes[f"{', '.join(ask.OBJECTIONS)} that are not accepted are asked for up to "
                       f"{run.experiment.attempts} times; the figures are of the first"] = None
        local = bool(model) and run.model(model).kind == "open"
        asked = run.experiment.teacher.model if not model else \
            generate.served_name(model, stage) if local else run.model(model).path
        count, how = tokenizer(run.weights(model, stage)) if local else (estimated_tokens, "estimated by length")
        requests = self._requests(responses, model, stage)
        out, from_answers = self._typical(journal, name, model)
        if requests is None:
            step = self._estimated(name, asked, out)
        else:
            paths = [path for path in [journal, *([] if model else generate.other_runs(run, journal))] if path.exists()]
            caches = [Journal(path, self._answerer(model, stage)) for path in paths]
            left = [request for request in requests if not any(cache.answer(request) for cache in caches)]
            bodies = [request["body"] for request in {body_digest(request): request for request in left}.values()]
            texts = [prompts.as_text(body["messages"]) for body in bodies]
            step = Step(name, asked, len(requests), len(requests), len(requests) - len(left), len(left) - len(texts),
                        sum(map(count, texts)), shared_prefix(texts), out * len(texts),
                        sum(body["max_tokens"] for body in bodies), f"prompts {how}; answers {from_answers}")
        self.steps[responses] = replace(step, **(self._hours(step, model) if local else self._usd(step)))

    def _answerer(self, model: str, stage: str) -> Answerer:
        """Return whose answers count as received, as far as that is known before any request is sent."""
        teacher = self.run.experiment.teacher
        if model and self.run.model(model).kind == "open":
            return Answerer(weights.known(self.run, model, stage))
        if not model and teacher.scripted and teacher.base_url:
            return endpoints(teacher.base_url)
        return endpoints(*addresses(None if model else teacher.url()))

    def _typical(self, journal: Path, name: str, model: str) -> tuple[float, str]:
        """Return the tokens of an answer, the mean of those received, else as stated; and which of the two."""
        spent = spent_in(journal) if journal.exists() else None
        if spent and (counted := spent.answers - spent.unknown) > 0:
            return spent.completion_tokens / counted, f"as the mean of {counted:,} received"
        thinks = bool(model) and self.run.model(model).thinking
        return prices().typical_output["thinking" if thinks else name.removesuffix("s")], "of a stated length"

    def _estimated(self, name: str, asked: str, out: float) -> Step:
        """Estimate a step whose prompts depend on answers still to come."""
        typical = prices().typical_output
        if name == "thoughts":
            most, basis = self.run.select, "as many as are selected"
            requests, before = most, typical["rationale"]
            frame = prompts.render("thought", problem="", analysis="", least=3, most=8)
        else:
            most, before = self.split, typical["solution"]
            requests, basis = round(most * self.wrong), f"Table 1's share of wrong solutions, {self.wrong:.0%}"
            frame = prompts.render("correction", problem="", steps=[], answer="", label="", keep=True)
        tokens = requests * (estimated_tokens(frame) + self.problem + before)
        limit = generate.request("", "", name.removesuffix("s"), "", vllm=False)["body"]["max_tokens"]
        return Step(name, asked, requests, most, 0, 0, tokens, requests * estimated_tokens(frame) / tokens,
                    out * requests, limit * most, f"{basis}; prompts and answers of a stated length")

    def _usd(self, step: Step) -> dict[str, Any]:
        price = prices().models.get(step.asked)
        if price is None:
            self.notes[f"{step.asked}: no price in experiments/prices.yaml"] = None
            return {}
        if price.retires and price.retires <= prices().as_of:
            self.notes[f"{step.asked}: the API is listed to have stopped serving it on {price.retires}"] = None
        scale = step.most / max(step.requests, 1)
        return {"usd": (step.tokens_in * price.input + step.tokens_out * price.output) / 1e6,
                "usd_most": (scale * step.tokens_in * price.input + step.tokens_out_most * price.output) / 1e6}

    def _hours(self, step: Step, model: str) -> dict[str, Any]:
        share = prices().throughput.utilisation
        work = step.tokens_in * (1 - step.prefix) / share["prefill"] + step.tokens_out / share["decode"]
        return {"gpu_hours": self._gpu_hours(work * 2 * self.run.model(model).parameters)}

    def _gpu_hours(self, operations: float) -> float | None:
        peak = prices().throughput.peak.get(self.profile)
        if peak is None:
            self.notes[f"{self.profile}: no peak in experiments/prices.yaml, so no hours"] = None
        return operations / peak / 3600 if peak else None

    def _training(self, model: str, stage: str) -> Training:
        declared, size = self.run.stage(stage), self.run.model(model).parameters
        kind, share, typical = declared.samples.kind, declared.samples.share, prices().typical_output
        select, split = self.run.select, self.split
        rows, answer = {
            "thoughts": (select * share, typical["thought"]), "labels": (split * share, 10),
            "rationales": ((split + select) * share, typical["rationale"]),
            "solutions": (split * share * (1 - self.wrong), typical["solution"]),
            "feedback": (split * share, typical["solution"]),
            "pairs": (split * share * self.wrong, typical["solution"] + typical["correction"])}[kind]
        pairs = declared.method == "dpo"
        tokens = rows * (self.prompt * (1 + pairs) + answer) * declared.arguments["num_train_epochs"]
        # Forward and backward; the reference's forward; KTO's second sequence through both, without a backward pass.
        operations = 6 + 2 * declared.has_reference + 4 * (declared.method == "kto")
        work = tokens * operations * size / prices().throughput.utilisation["training"]
        return Training(model, stage, round(rows), tokens, self._gpu_hours(work),
                        *disk_bytes(size, self.run.experiment.finetuning))
