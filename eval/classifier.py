"""Fine-tune encoders as classifiers: the BERT, Biglog and KnowLog rows of Tables 3-5 (section 4.4.1).

One classifier a task, on the labelled instances of both stages ("the same task-specific datasets as in Table 1"), by
transformers' Trainer; settings in experiments/classifier.yaml. Its input is the log, with the level masked where the
task hides it, and the description as the second text of a pair; sessions are labelled by line (eval.baselines.by_line).
Each task's model and answers are stored, so a stopped command resumes with the next task. Needs .venv-train.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval.baselines import Rows, Text, by_line, by_task, visible_text, write_answers
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import Run, differences, load_run, load_yaml
from logreasoner.files import EXPERIMENTS, digest, read_json, sha256, write_json
from logreasoner.schemas import Declared, Task, checked
from logreasoner.weights import model_missing

STAGE = "classifier"
SPLITS = ("stage1", "stage2")
SETTINGS = EXPERIMENTS / "classifier.yaml"
CONTENTS = "a model's folder has config.json, the tokenizer's files and the weights as model.safetensors"


class Settings(Declared):
    """experiments/classifier.yaml; `arguments` are TrainingArguments' own names."""

    max_length: int
    arguments: dict[str, Any]


def settings(run: Run) -> Settings:
    """Load the settings of a run: the file's, with what the run declares under stages.classifier."""
    declared, changes = load_yaml(SETTINGS), run.experiment.stages.get(STAGE, {})
    arguments = {**declared["arguments"], **changes.get("arguments", {})}
    return checked(Settings, {**declared, **changes, "arguments": arguments}, f"{SETTINGS}, or run {run.name}")


def inputs(run: Run, path: str, rules: Task) -> dict[str, Any]:
    """Return what a task's classifier and answers depend on; a folder by checksums, a hub's model by its name."""
    files = sorted(file for pattern in ("*.safetensors", "*.json", "*.txt") for file in Path(path).glob(pattern))
    splits = [run.splits / f"{name}.jsonl" for name in (*SPLITS, "test", "test_seen")]
    return {"model": path, "files": digest({file.name: sha256(file) for file in files}), "seed": run.training_seed,
            "splits": {file.name: sha256(file) for file in splits}, "settings": settings(run).model_dump(),
            "labels": rules.labels, "positive": rules.positive, "mask_level": rules.mask_level}


class Classifier:
    """A tokenizer and an encoder with a new head for a task's labels. Raises UserError if they cannot be loaded."""

    def __init__(self, path: str, rules: Task, pairs: bool, run: Run):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging, set_seed

        self.rules, self.pairs, self.settings, self.seed = rules, pairs, settings(run), run.training_seed
        set_seed(self.seed)  # the head's weights are random
        logging.set_verbosity_error()  # or it warns that the head is new
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            self.model = AutoModelForSequenceClassification.from_pretrained(
                path, use_safetensors=True, trust_remote_code=False, id2label=dict(enumerate(rules.labels)),
                label2id={label: at for at, label in enumerate(rules.labels)})
        except Exception as error:  # a broken folder may raise anything, often over many lines
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UserError(f"{path}: cannot be loaded as an encoder ({reason}); {CONTENTS}") from None
        self.limit = min(self.settings.max_length, self.tokenizer.model_max_length,
                         self.model.config.max_position_embeddings)
        self.trainer: Any = None

    def collate(self, batch: Sequence[tuple[Text, int | None]]) -> Any:
        """Make tensors of (text, label number) rows; a pair that is too long loses the end of its longer text."""
        import torch

        logs, descriptions = ([text[at] for text, _ in batch] for at in (0, 1))
        tensors = self.tokenizer(logs, descriptions if self.pairs else None, truncation=True, max_length=self.limit,
                               padding=True, return_tensors="pt")
        if batch[0][1] is not None:
            tensors["labels"] = torch.tensor([number for _, number in batch])
        return tensors

    def train(self, rows: Rows, folder: Path) -> dict[str, Any]:
        """Fine-tune on labelled instances and save to folder; returns facts about the training."""
        import torch
        from transformers import Trainer, TrainingArguments

        gpu = torch.cuda.is_available()
        try:
            arguments = TrainingArguments(output_dir=str(folder), seed=self.seed, save_strategy="no", report_to="none",
                                          logging_strategy="epoch", disable_tqdm=not sys.stderr.isatty(),
                                          dataloader_pin_memory=gpu,  # else torch warns
                                          **self.settings.arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{SETTINGS}: arguments: {error}") from None
        samples = [(visible_text(item, self.rules), self.rules.labels.index(item.label)) for item in rows]
        self.trainer = Trainer(model=self.model, args=arguments, train_dataset=samples, data_collator=self.collate)
        loss = self.trainer.train().training_loss
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        parts = zip(*(text for text, _ in samples), strict=True) if self.pairs else [[text[0] for text, _ in samples]]
        lengths = map(len, self.tokenizer(*map(list, parts), verbose=False)["input_ids"])
        return {"trained_on": len(rows), "cut": sum(length > self.limit for length in lengths),
                "max_length": self.limit, "mean_loss": loss, "device": torch.cuda.get_device_name() if gpu else "cpu"}

    def label(self, texts: Sequence[Text]) -> list[str]:
        """Predict the most likely label of each text, after training."""
        logits = self.trainer.predict([(text, None) for text in texts]).predictions
        return [self.rules.labels[at] for at in logits.argmax(axis=-1)]


def load_result(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Load a task's result, if it is there. Raises UserError if it was made from other inputs."""
    path = folder / "answers.json"
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    if changed := differences(result["made_from"], wanted):
        raise UserError(f"{path} was made from other inputs ({'; '.join(changed[:3])}). Declare a run of another "
                        f"name, or remove {folder} if it is not needed")
    return result


def fine_tune(path: str, rules: Task, train: Rows, test: Rows, run: Run, folder: Path) -> dict[str, Any]:
    """Train one task's classifier and label its test instances; writes folder/answers.json and folder/model."""
    classifier = Classifier(path, rules, any(item.description for item in train), run)
    shutil.rmtree(folder, ignore_errors=True)  # left by a stopped training
    facts = classifier.train(train, folder / "model")
    labels = by_line(rules, train, test, classifier.label)
    answers = {item.id: label for item, label in zip(test, labels, strict=True)}
    result = {"made_from": inputs(run, path, rules), "facts": facts, "answers": answers}
    write_json(folder / "answers.json", result)
    return result


def _weights(run: Run, name: str) -> str:
    """Return the folder or hub name of an encoder. Raises UserError if it is no encoder or is not there."""
    model = run.model(name)
    if model.kind != "encoder":
        raise UserError(f"{name!r} is not an encoder but of kind {model.kind} (experiments/models.yaml)")
    if find_spec("transformers") is None:
        raise UserError("transformers is not installed; run this with .venv-train/bin/python (make setup-train)")
    path = run.placed(model.path)
    if missing := model_missing(path):
        raise UserError(f"{missing}. {CONTENTS}; experiments/models.yaml names the folder of {name}")
    return path


def _main(given: argparse.Namespace) -> None:
    run = load_run(given.run)
    path = _weights(run, given.model)
    answers: dict[str, str] = {}
    fits = {}
    for rules, train, test in by_task(run, SPLITS):
        folder = run.stage_dir(given.model, STAGE) / rules.name
        result = load_result(folder, inputs(run, path, rules))
        state = "done before" if result else f"{len(train):,} to train on, {len(test):,} to answer"
        print(f"{rules.name}: {state}", flush=True)
        result = result or fine_tune(path, rules, train, test, run, folder)
        answers |= result["answers"]
        fits[rules.name] = {**result["facts"], "answers": len(test)}
    write_answers(run, given.model, STAGE, given.out, answers, SPLITS, tasks=list(fits), fits=fits,
                  answered_by=[{"encoder": path, "answers": len(answers)}],
                  settings=settings(run).model_dump(), seed=run.training_seed,
                  versions={name: version(name) for name in ("transformers", "torch")})


def main() -> None:
    """Fine-tune an encoder and write its answers."""
    arguments = cli.parser("eval.classifier", "Fine-tune an encoder on each task and answer a run's test sets.", """
.venv-train/bin/python -m eval.classifier --run paper --model bert \\
    --out build/runs/paper/predictions/bert/classifier/test.responses.jsonl""", required=["run"])
    arguments.add_argument("--model", required=True, help="a name of models.yaml of kind encoder: bert, ...")
    arguments.add_argument("--out", required=True, type=Path, help="responses, JSONL")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
