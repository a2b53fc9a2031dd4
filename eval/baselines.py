"""Answers of methods without a language model, in the form of a model's: what its scores must beat to mean anything.

    majority         the most frequent label of the task's stage-2 instances
    always-positive  the positive class, where the task has one
    tfidf-lr         word TF-IDF and logistic regression, fitted on the stage-2 instances
    char-cosine      one threshold on the cosine between log and description, where instances have a description

One model a task, all its sources together. Each sees what a language model sees: the log, the level masked where the
task hides it, and the description. A task that a baseline cannot answer is left out. Nothing here is random.
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
from logreasoner.config import Run, Task, identity, load_run
from logreasoner.files import write_jsonl
from logreasoner.instances import Instance, mask_level

Rows = Sequence[Instance]
Text = tuple[str, str]  # log, description
Answers = tuple[list[str], dict[str, Any]]  # a label for each test instance, and what is worth knowing of the fit


def shown(item: Instance, rules: Task) -> Text:
    """What a model sees of an instance, without the question."""
    return (mask_level(item.text) if rules.mask_level else item.text), item.description


def by_line(rules: Task, train: Rows, test: Rows, label: Callable[[list[Text]], Sequence[str]]) -> list[str]:
    """Label test instances by `label`, which labels distinct texts as a method fitted on `train` does.

    Where training has single lines and the task a positive class, a session is positive if any of its lines is: what
    learnt from templates (section 4.3.1) is asked about lines, and anomaly detection's question reads so.
    """
    apart = rules.positive is not None and all(isinstance(item.log, str) for item in train)
    texts = [[(line, item.description) for line in item.log] if apart and isinstance(item.log, tuple)
             else [shown(item, rules)] for item in test]
    distinct = list(dict.fromkeys(text for parts in texts for text in parts))
    found = dict(zip(distinct, label(distinct), strict=True))
    labels = [[found[text] for text in parts] for parts in texts]
    return [next((each for each in parts if each == rules.positive), parts[0]) for parts in labels]


def majority(rules: Task, train: Rows, test: Rows) -> Answers:
    """The most frequent label of the training instances; the task's first one of several."""
    counts = {label: sum(item.label == label for item in train) for label in rules.labels}
    label = max(counts, key=lambda name: counts[name])
    return [label] * len(test), {"label": label}


def always_positive(rules: Task, train: Rows, test: Rows) -> Answers | None:
    """The positive class."""
    return ([rules.positive] * len(test), {"label": rules.positive}) if rules.positive else None


def tfidf_lr(rules: Task, train: Rows, test: Rows) -> Answers:
    """Word TF-IDF and logistic regression with scikit-learn's defaults (max_iter is larger, so that it converges).

    A fit that calls none of its own training instances positive is done again with balanced classes: of the templates
    of anomaly detection one in fifty is abnormal. This rule came after a look at test scores (F1 of 0 without it).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = ["\n".join(shown(item, rules)) for item in train]
    for weights in (None, "balanced"):
        fitted = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000, class_weight=weights))
        try:
            fitted.fit(texts, [item.label for item in train])
        except ValueError as error:  # one label only, or no word
            raise UserError(f"{rules.name}: {len(texts)} stage-2 instances that nothing fits: {error}") from None
        if rules.positive is None or rules.positive in fitted.predict(texts):
            break
    found = by_line(rules, train, test, lambda asked: list(map(str, fitted.predict(list(map("\n".join, asked))))))
    return found, {"words": len(fitted[0].vocabulary_), "class_weight": weights}


def described(rules: Task, train: Rows) -> bool:
    """Whether a task is to tell right descriptions from wrong ones."""
    return len(rules.labels) == 2 and any(item.description for item in train)


def char_cosine(rules: Task, train: Rows, test: Rows) -> Answers | None:
    """A threshold on the cosine of log and description as TF-IDF of three to five characters within words.

    The vocabulary is of the training instances, the label above the threshold the one whose cosines are higher there on
    average, and the threshold the lowest of those that are right most often there.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not described(rules, train):
        return None
    pairs = [shown(item, rules) for item in train]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit([text for pair in pairs for text in pair])

    def cosines(texts: list[Text]) -> Any:
        logs, descriptions = (vectorizer.transform(side) for side in zip(*texts, strict=True))
        return np.asarray(logs.multiply(descriptions).sum(axis=1)).ravel()  # rows have length 1, or 0 without text

    values, labels = cosines(pairs), np.array([item.label for item in train])
    upper, lower = sorted(rules.labels, key=lambda label: -values[labels == label].sum() / max(1, sum(labels == label)))
    cuts = np.unique(values)
    thresholds = np.append((cuts[1:] + cuts[:-1]) / 2, 1.0)
    right = ((values >= thresholds[:, None]) == (labels == upper)).mean(axis=1)
    threshold = float(thresholds[right.argmax()])
    found = [upper if value >= threshold else lower for value in cosines([shown(item, rules) for item in test])]
    return found, {"threshold": threshold, "label_above": upper, "training_accuracy": float(right.max())}


BASELINES: dict[str, Callable[[Task, Rows, Rows], Answers | None]] = {
    "majority": majority, "always-positive": always_positive, "tfidf-lr": tfidf_lr, "char-cosine": char_cosine}


def by_task(run: Run, splits: Sequence[str]) -> Iterator[tuple[Task, Rows, Rows]]:
    """Each task with its instances in training splits and in both test splits. Raises UserError if it has none."""
    train = [item for name in splits for item in read_test_set(run.splits / f"{name}.jsonl")]
    test = [item for part in read_test_splits(run) for item in part]
    for name, rules in run.tasks().items():
        rows, asked = ([item for item in part if item.task == name] for part in (train, test))
        if not rows or not asked:
            raise UserError(f"{run.splits}: {name} has {len(rows)} instances in {', '.join(splits)} and {len(asked)} "
                            "to answer; make the splits of a run that declares samples of it")
        yield rules, rows, asked


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
    """The baselines that fit one of the run's tasks at least."""
    asked = [(rules, train) for rules, train, _ in by_task(run, ["stage2"])]
    needs = {"always-positive": any(rules.positive for rules, _ in asked),
             "char-cosine": any(described(*each) for each in asked)}
    return [name for name in BASELINES if needs.get(name, True)]


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    if given.model is None:
        print(*fitting(run))
        return
    if given.out is None:
        raise UserError("--out is missing: where do the answers go?")
    if given.model not in BASELINES or run.model(given.model).kind != "baseline":
        raise UserError(f"{given.model!r} is no baseline; the baselines are {', '.join(BASELINES)}")
    answers: dict[str, str] = {}
    fits = {}
    for rules, train, test in by_task(run, ["stage2"]):
        found = BASELINES[given.model](rules, train, test)
        if found is not None:
            answers |= zip((item.id for item in test), found[0], strict=True)
            fits[rules.name] = {"trained_on": len(train), "answers": len(test), **found[1]}
            print(f"{rules.name}: {', '.join(f'{key} {value}' for key, value in fits[rules.name].items())}", flush=True)
    if not fits:
        raise UserError(f"{given.model} applies to no task of run {run.name} ({', '.join(run.tasks())})")
    write_answers(run, given.model, "baseline", given.out, answers, ["stage2"], tasks=list(fits), fits=fits,
                  answered_by=[{"method": given.model, "answers": len(answers)}],
                  versions={"scikit-learn": version("scikit-learn")})


def main() -> None:
    """Write a baseline's answers."""
    arguments = cli.parser("eval.baselines", "Answer a run's test sets without a language model.", """
python -m eval.baselines --run paper
python -m eval.baselines --run paper --model tfidf-lr \\
    --out build/runs/paper/predictions/tfidf-lr/baseline/test.responses.jsonl""")
    arguments.add_argument("--run", required=True, help="a run whose splits are drawn (make data)")
    arguments.add_argument("--model", help=f"{', '.join(BASELINES)}; without it, those that fit the run are listed")
    arguments.add_argument("--out", type=Path, help="responses, JSONL; with --model")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
