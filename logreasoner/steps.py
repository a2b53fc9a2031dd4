"""The order of the method: which file of a run is made from which, and who answers, from experiments/stages.yaml.

`make recipes` renders the steps into recipes/stages.mk, which make reads. Whatever else needs the order (the check
before a run, the plan, the lineage, the matrix) asks here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from logreasoner.schemas import Stage

THOUGHTS = "thought-sft"  # the stage whose folder holds the thoughts; other stages take shares of them
SHARED = ("thoughts", "rationales", "labels")  # kinds of samples that do not depend on the model
SPLITS = "splits/manifest.json"
BASE = "base"  # the weights that training starts from


@dataclass(frozen=True)
class Step:
    """How a file is made, for one stage. Paths lie in the run's folder, with {model} for the model's name.

    `asks` says whose answers the file holds: "teacher", "corrector" (the teacher, or the policy where the run or the
    stage says so), the stage of the policy that is asked, or "".
    """

    stage: str
    output: str
    inputs: tuple[str, ...]
    asks: str = ""
    reviewed: str = ""  # the file of a person's decisions, an input if it exists

    @property
    def trains(self) -> bool:
        """Tell whether the step is the stage's training."""
        return self.output == weights(self.stage)


def weights(stage: str) -> str:
    """Return the file whose presence means that a stage's weights are complete; BASE for the base model's."""
    special = {BASE: BASE, "init": "models/{model}/init/model/config.json"}
    return special.get(stage, f"models/{{model}}/{stage}/manifest.json")


def folder(name: str, stage: Stage) -> str:
    """Return the folder of a stage's samples."""
    return f"datasets/{'shared' if stage.samples.kind in SHARED else '{model}'}/{name}"


def _request_steps(stage: str, path: str, asks: str, *inputs: str, parsed: str = "") -> Iterator[Step]:
    """Yield three steps: requests from the inputs, their responses, and the file that is parsed from those."""
    yield Step(stage, f"{path}.requests.jsonl", inputs)
    yield Step(stage, f"{path}.responses.jsonl", (f"{path}.requests.jsonl",), asks)
    yield Step(stage, parsed or f"{path}.jsonl", (f"{path}.responses.jsonl",))


def _answers(name: str, stage: Stage) -> Iterator[Step]:
    """Yield the steps that make the answers in a stage's own folder."""
    path, samples = folder(name, stage), stage.samples
    if name == THOUGHTS or samples.kind == "rationales":
        yield from _request_steps(name, f"{path}/rationales", "teacher", SPLITS, parsed=f"{path}/analyses.jsonl")
    if name == THOUGHTS:
        yield Step(name, f"{path}/embeddings.npy", (f"{path}/analyses.jsonl",))
        yield Step(name, f"{path}/selected.json", (f"{path}/embeddings.npy",))
        yield from _request_steps(name, f"{path}/thoughts", "teacher", f"{path}/selected.json")
    if samples.solutions == name:
        yield from _request_steps(name, f"{path}/solutions", samples.policy, SPLITS, weights(samples.policy))
    if samples.corrections == name:
        solutions = f"datasets/{{model}}/{samples.solutions}/solutions.jsonl"
        yield from _request_steps(name, f"{path}/corrections", "corrector", solutions)


def _samples(name: str, stage: Stage) -> Step:
    """Return the step that makes what a stage trains on."""
    path, samples, reviewed = folder(name, stage), stage.samples, ""
    thoughts = f"datasets/shared/{THOUGHTS}"
    inputs: tuple[str, ...] = ()
    if samples.kind == "thoughts":
        inputs, reviewed = (f"{thoughts}/thoughts.jsonl",), "review/thoughts.jsonl"
    elif samples.kind == "rationales":
        inputs = (f"{path}/analyses.jsonl", f"{thoughts}/selected.json")
    elif samples.kind == "labels":
        inputs = (SPLITS,)
    elif samples.corrections:
        inputs = (f"datasets/{{model}}/{samples.corrections}/corrections.jsonl",)
        reviewed = f"review/{review_name(samples.corrections, '{model}')}.jsonl"
    elif samples.solutions:
        inputs = (f"datasets/{{model}}/{samples.solutions}/solutions.jsonl",)
    return Step(name, f"{path}/samples.jsonl", inputs, reviewed=reviewed)


def review_name(stage: str, model: str) -> str:
    """Return the name of the file of a person's decisions on the corrections of a stage."""
    return f"corrections.{model}" + (f".{stage}" if stage != "dpo" else "")


def steps(stages: Mapping[str, Stage]) -> list[Step]:
    """Return the steps of all stages, in the order of the declaration."""
    result: list[Step] = []
    for name, stage in stages.items():
        samples = _samples(name, stage)
        training = Step(name, weights(name), (samples.output, weights(stage.starts_from)))
        result += [*_answers(name, stage), samples, training]
    return result


def leading_to(output: str, stages: Mapping[str, Stage]) -> list[Step]:
    """Return the steps that lead to a file, each after those it needs."""
    by_output = {step.output: step for step in steps(stages)}
    ordered: dict[str, Step] = {}

    def add(path: str) -> None:
        if path in by_output and path not in ordered:
            for needed in by_output[path].inputs:
                add(needed)
            ordered[path] = by_output[path]

    add(output)
    return list(ordered.values())
