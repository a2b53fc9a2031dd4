"""Score answers for trainers of reinforcement learning: is the answer right, and is the form kept?

data_builders/rewards.py writes this module, with the answer parser in place of its import, as one file that needs
nothing else: trainers load it by its path, in processes that know nothing of this project.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from logreasoner.answer_format import parse_label_leniently, parse_trajectory

RIGHT, FORM = 0.9, 0.1  # a right answer in the form has 1; the form alone is worth little, or a model would stop there


def score(text: str, label: str, labels: Sequence[str]) -> float:
    """Return RIGHT for an answer that names the true label, and FORM for one with numbered steps and an answer."""
    labels = [str(name) for name in labels]
    return (RIGHT * (parse_label_leniently(text, labels) == label)
            + FORM * (parse_trajectory(text, labels) is not None))


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any]) -> float:
    """Score one answer for verl (custom_reward_function.path); `extra_info` has the task's labels."""
    return score(solution_str, ground_truth, extra_info["labels"])


def reward(completions: Sequence[Any], reward_model: Sequence[Mapping[str, Any]],
           extra_info: Sequence[Mapping[str, Any]], **columns: Any) -> list[float]:
    """Score completions (texts or messages) for TRL's GRPOTrainer (reward_funcs), with the dataset's columns."""
    texts = [given if isinstance(given, str) else given[-1]["content"] or "" for given in completions]
    return [score(text, rule["ground_truth"], facts["labels"])
            for text, rule, facts in zip(texts, reward_model, extra_info, strict=True)]
