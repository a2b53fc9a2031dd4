"""The gate before training, with an encoder that gives a token a word; tests/e2e/test_tokens.py has the real ones."""

from pathlib import Path

import pytest

from data_builders.llamafactory_dataset import gate
from logreasoner.config import declare, resolve
from logreasoner.files import read_json, write_json, write_jsonl


def words(prompt: str, response: str, *_: object) -> tuple[list[int], list[int]]:
    """Encode with a token a word."""
    return [1] * len(prompt.split()), [2] * len(response.split())


@pytest.mark.parametrize(("recipe", "longest"), [
    ({}, 8), ({"packing": True}, 7), ({"neat_packing": True}, 7), ({"packing": False, "neat_packing": False}, 8)])
@pytest.mark.parametrize("stage", ["solution-sft", "dpo"])
def test_a_sample_of_cutoff_len_fits_and_none_that_is_longer(stage: str, recipe: dict[str, bool], longest: int,
                                                             workdir: Path) -> None:
    """Where it packs, LLaMA-Factory keeps back a token of cutoff_len."""
    run = declare("demo", resolve("demo", []))
    folder = run.dataset("tiny", stage)
    write_json(run.recipe("tiny", stage), {"cutoff_len": 8, "model_name_or_path": "m", "template": "qwen", **recipe})
    write_jsonl("samples.jsonl", ({"id": str(size), "task": "t", "prompt": "one two", "response": " x" * (size - 2),
                                   "chosen": " x" * (size - 2), "rejected": "y"} for size in range(5, 11)))
    gate(run, "tiny", stage, Path("samples.jsonl"), words)
    written = read_json(folder / f"{run.stage(stage).dataset}.json.manifest.json")
    assert (written["longest"], written["cutoff_len"]) == (longest, longest)
    assert written["dropped"] == [str(size) for size in range(longest + 1, 11)]
