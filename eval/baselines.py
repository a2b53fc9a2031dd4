"""Answer a run's test sets without a language model: the scores that a model must beat to mean anything.

    majority         the most frequent label of the task's stage-2 instances
    always-positive  the positive class, where the task has one
    tfidf-lr         word TF-IDF and logistic regression, fitted on the stage-2 instances
    char-cosine      one threshold on the cosine between log and description, where instances have a description

One fit a task, all its sources together, on what a language model sees: the log, with the level masked where the task
hides it, and the description. A task that a baseline cannot answer is left out. Nothing here is random.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eval.predictions import read_test_set, read_test_splits
from logreasoner import cli
from logreasoner.answer_format import answer_element
from logreasoner.cli import UserError
from logreasoner.config import Run, identity, load_run
from logreasoner.files import write_jsonl
from logreasoner.instances import Instance, mask_level
from logreasoner.schemas import Task

Rows = Sequence[Instance]
Text = tuple[str, str]  # log, description
Answers = tuple[list[str], dict[str, Any]]  # a label for each test instance, and facts about the fit


def visible_text(item: Instance, rules: Task) -> Text:
    """Return what a model sees of an instance, without the question."""
    return (mask_level(item.text) if rules.mask_level else item.text), item.description


def by_line(rules: Task, train: Rows, test: Rows, label: Callable[[list[Text]], Sequence[str]]) -> list[str]:
    """Label test instances by `label`, which labels distinct texts as a method fitted on `train` does.

    Where training has single lines and the task a positive class, a session is positive if any of its lines is: a
    method fitted on templates (section 4.3.1) labels lines, and the question of anomaly detection is meant so.
    """
    single_lines = rules.positive is not None and all(isinstance(item.log, str) for item in train)
    texts = [[(line, item.description) for line in item.log] if single_lines and isinstance(item.log, tuple)
             else [visible_text(item, rules)] for item in test]
    distinct = list(dict.fromkeys(text for parts in texts for text in parts))
    label_of = dict(zip(distinct, label(distinct), strict=True))
    labels = [[label_of[text] for text in parts] for parts in texts]
    return [rules.positive if rules.positive in parts else parts[0] for parts in labels]


def majority(rules: Task, train: Rows, test: Rows) -> Answers:
    """Answer with the most frequent label of the training instances; in a tie with the task's first."""
    counts = {label: sum(item.label == label for item in train) for label in rules.labels}
    label = max(counts, key=lambda name: counts[name])
    return [label] * len(test), {"label": label}


def always_positive(rules: Task, train: Rows, test: Rows) -> Answers | None:
    """Answer with the positive class."""
    return ([rules.positive] * len(test), {"label": rules.positive}) if rules.positive else None


def tfidf_lr(rules: Task, train: Rows, test: Rows) -> Answers:
    """Fit word TF-IDF and logistic regression with scikit-learn's defaults (max_iter is larger, so that it converges).

    A fit that labels none of its own training instances positive is repeated with balanced classes: one in fifty of the
    templates of anomaly detection is abnormal. This rule was made after test scores were seen (F1 of 0 without it).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = ["\n".join(visible_text(item, rules)) for item in train]
    for weights in (None, "balanced"):
        fitted = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000, class_weight=weights))
        try:
            fitted.fit(texts, [item.label for item in train])
        except ValueError as error:  # one label only, or no word
            raise UserError(f"{rules.name}: {len(texts)} stage-2 instances cannot be fitted: {error}") from None
        if rules.positive is None or rules.positive in fitted.predict(texts):
            break
    labels = by_line(rules, train, test, lambda pairs: list(map(str, fitted.predict(list(map("\n".join, pairs))))))
    return labels, {"words": len(fitted[0].vocabulary_), "class_weight": weights}


def described(rules: Task, train: Rows) -> bool:
    """Tell whether a task is to separate right descriptions from wrong ones."""
    return len(rules.labels) == 2 and any(item.description for item in train)


def char_cosine(rules: Task, train: Rows, test: Rows) -> Answers | None:
    """Fit a threshold on the cosine of log and description as TF-IDF of three to five characters within words.

    All is fitted on the training instances: the vocabulary, the label above the threshold (the one with the higher mean
    cosine), and the threshold (the lowest of those with the highest accuracy).
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not described(rules, train):
        return None
    pairs = [visible_text(item, rules) for item in train]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit([text for pair in pairs for text in pair])

    def cosines(texts: list[Text]) -> Any:
        logs, descriptions = (vectorizer.transform(side) for side in zip(*texts, strict=True))
        return np.asarray(logs.multiply(descriptions).sum(axis=1)).ravel()  # rows have length 1, or 0 without text

    values, truth = cosines(pairs), np.array([item.label for item in train])
    upper, lower = sorted(rules.labels, key=lambda label: -values[truth == label].sum() / max(1, sum(truth == label)))
    cuts = np.unique(values)
    thresholds = np.append((cuts[1:] + cuts[:-1]) / 2, 1.0)
    right = ((values >= thresholds[:, None]) == (truth == upper)).mean(axis=1)
    threshold = float(thresholds[right.argmax()])
    labels = [upper if value >= threshold else lower
              for value in cosines([visible_text(item, rules) for item in test])]
    return labels, {"threshold": threshold, "label_above": upper, "training_accuracy": float(right.max())}


BASELINES: dict[str, Callable[[Task, Rows, Rows], Answers | None]] = {
    "majority": majority, "always-positive": always_positive, "tfidf-lr": tfidf_lr, "char-cosine": char_cosine}


def by_task(run: Run, splits: Sequence[str]) -> Iterator[tuple[Task, Rows, Rows]]:
    """Yield each task with its training and test instances. Raises UserError if it has none of either."""
    train = [item for name in splits for item in read_test_set(run.splits / f"{name}.jsonl")]
    test = [item for part in read_test_splits(run) for item in part]
    for name, rules in run.tasks().items():
        fitted, tested = ([item for item in part if item.task == name] for part in (train, test))
        if not fitted or not tested:
            raise UserError(f"{run.splits}: {name} has {len(fitted)} instances in {', '.join(splits)} and "
                            f"{len(tested)} in the test splits; make the splits of a run that declares rows of it")
        yield rules, fitted, tested


def write_answers(run: Run, model: str, stage: str, out: Path, answers: Mapping[str, str], splits: Sequence[str],
                  **facts: Any) -> None:
    """Write answers (instance id -> label) as responses in the OpenAI Batch format, and a manifest."""
    def body(label: str) -> dict[str, Any]:
        return {"choices": [{"message": {"role": "assistant", "content": answer_element(label)}}]}

    write_jsonl(out, ({"custom_id": key, "response": {"status_code": 200, "body": body(label)}, "error": None}
                      for key, label in answers.items()),
                [run.splits / f"{name}.jsonl" for name in (*splits, "test", "test_seen")], run=run.name, model=model,
                identity=identity(run, model, stage), **facts)
    print(f"{out}: {len(answers):,} answers, tasks {','.join(facts['tasks'])}")


def fitting(run: Run) -> list[str]:
    """List the baselines that fit at least one of the run's tasks."""
    tasks = [(rules, train) for rules, train, _ in by_task(run, ["stage2"])]
    needs = {"always-positive": any(rules.positive for rules, _ in tasks),
             "char-cosine": any(described(rules, train) for rules, train in tasks)}
    return [name for name in BASELINES if needs.get(name, True)]


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    if given.model is None:
        print(*fitting(run))
        return
    if given.out is None:
        raise UserError("--model needs --out, the file for the answers")
    if given.model not in BASELINES or run.model(given.model).kind != "baseline":
        raise UserError(f"{given.model!r} is not a baseline; the baselines are {', '.join(BASELINES)}")
    answers: dict[str, str] = {}
    fits = {}
    for rules, train, test in by_task(run, ["stage2"]):
        result = BASELINES[given.model](rules, train, test)
        if result is not None:
            labels, facts = result
            answers |= zip((item.id for item in test), labels, strict=True)
            fits[rules.name] = {"trained_on": len(train), "answers": len(test), **facts}
            print(f"{rules.name}: {', '.join(f'{key} {value}' for key, value in fits[rules.name].items())}", flush=True)
    if not fits:
        raise UserError(f"{given.model} fits no task of run {run.name} ({', '.join(run.tasks())})")
    write_answers(run, given.model, "baseline", given.out, answers, ["stage2"], tasks=list(fits), fits=fits,
                  answered_by=[{"method": given.model, "answers": len(answers)}],
                  versions={"scikit-learn": version("scikit-learn")})


def main() -> None:
    """Write a baseline's answers."""
    arguments = cli.parser("eval.baselines", "Answer a run's test sets without a language model.", """
python -m eval.baselines --run paper
python -m eval.baselines --run paper --model tfidf-lr \\
    --out build/runs/paper/predictions/tfidf-lr/baseline/test.responses.jsonl""", required=["run"])
    arguments.add_argument("--model", help=f"{', '.join(BASELINES)}; without it, those that fit the run are listed")
    arguments.add_argument("--out", type=Path, help="responses, JSONL; with --model")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
