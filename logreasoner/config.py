"""Load what is declared under experiments/; declare and load runs, and give the paths of their files.

A run is a declared experiment. `declare` (python -m logreasoner.config) resolves the declaration with its
overrides once into build/runs/<run>/run.json: everything that reaches a prompt, a recipe or a score. `load_run`, with
which every later command begins, compares that with the current declarations and names every difference.
"""

import argparse
import ast
import functools
import json
import re
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from logreasoner import cli, steps
from logreasoner.cli import UserError
from logreasoner.files import BUILD, EXPERIMENTS, PROMPTS, ROOT, TEMPLATES, digest, read_json, sha256, write_json
from logreasoner.schemas import NAME, Experiment, Hardware, Model, Requests, Speed, Stage, T, Task, checked

CHAT = TEMPLATES / "chat"  # <template>.jinja: what models are served with
CONTROL_TOKENS = EXPERIMENTS / "control_tokens.yaml"  # what prompts escape in a log
MOST_NODES = 200_000  # of a YAML file with its aliases expanded, so that no small file fills the memory
FORMAT = 3  # of run.json; earlier ones do not hold everything that a run was made with
# Files recorded by checksum, since they have no rows to resolve; SCRIPTED_FILES in a scripted run.
DECLARED_FILES = ("templates/launch/*", "templates/deepspeed/*",
                  "templates/recipe.yaml.j2", "templates/export.yaml.j2", "experiments/control_tokens.yaml",
                  "experiments/classifier.yaml", "experiments/sources.yaml")
SCRIPTED_FILES = ("demo/*.yaml",)
# Code that decides what a model is told, which answers count and how they are scored; comments are ignored.
DECLARED_CODE = ("logreasoner/answer_format.py", "logreasoner/prompts.py", "logreasoner/instances.py",
                 "logreasoner/examples.py", "logreasoner/templating.py", "data_builders/ask.py",
                 "data_builders/corrections.py", "data_builders/thoughts.py", "eval/predictions.py", "eval/score.py")
UNDECLARED = ("live", "local_timeout", "gpu_memory_utilization")  # of decoding.yaml: speed, which changes no answer
EXTENSIBLE = ("models", "stages", "hardware", "speed")  # a new row changes no earlier result
OVERRIDES = ("finetuning", "teacher", "teacher_base_url", "tasks", "seed", "training_seed", "speed", "selection",
             "handbook", "examples", "prompts")
ABSENT: Any = object()
_prompt_folders: tuple[Path, ...] = (PROMPTS,)  # see prompt_folders


class Run:
    """A declared run: its experiment and the paths of all its files."""

    def __init__(self, name: str, experiment: Experiment):
        self.name = name
        self.experiment = experiment
        self.dir = run_dir(name)
        self.splits = self.dir / "splits"

    @property
    def mark(self) -> str:
        """Return the mark in every result that keeps a scripted teacher's out of a real one's tables."""
        return "scripted" if self.experiment.teacher.scripted else "model"

    def dataset(self, model: str, stage: str) -> Path:
        """Return the folder of a stage's dataset; stage 1, the same for all models, lies under `shared`."""
        return self.dir / "datasets" / model / stage

    def recipe(self, model: str, stage: str) -> Path:
        """Return the path of the rendered LLaMA-Factory configuration."""
        return self.dir / "recipes" / model / f"{stage}.yaml"

    def stage_dir(self, model: str, stage: str) -> Path:
        """Return the folder of a trained stage: adapter/ (LoRA) or none, model/ (complete weights), manifest.json."""
        return self.dir / "models" / model / stage

    def predictions(self, model: str, stage: str, limit: int | None = None, samples: int = 1) -> Path:
        """Return the responses of an evaluation; its requests and its journal lie beside them."""
        return self.dir / "predictions" / model / stage / f"test{variant(limit, samples)}.responses.jsonl"

    def results(self, limit: int | None = None, samples: int = 1) -> Path:
        """Return the folder of scores and tables; a subset and votes have folders of their own."""
        return self.dir / f"results{variant(limit, samples)}"

    def result(self, model: str, stage: str, limit: int | None = None, samples: int = 1) -> Path:
        """Return the file of a model's scores at a stage."""
        return self.results(limit, samples) / model / stage / "result.json"

    def log(self, name: str) -> Path:
        """Return the log file of a program that a step starts."""
        return self.dir / "logs" / f"{name}.log"

    @property
    def select(self) -> int:
        """Return how many analyses stage 1 selects: in proportion to its samples where the run leaves tasks out."""
        stage1 = self.experiment.stage1
        declared = {task: sum(groups.values()) for task, groups in stage1.samples.items()} | {"": stage1.handbook}
        kept = sum(count for task, count in declared.items() if task in ("", *self.experiment.tasks))
        return max(1, round(stage1.select * kept / (sum(declared.values()) or 1))) if kept else stage1.select

    @property
    def training_seed(self) -> int:
        """Return the seed of the run's trainings: `training_seed` if declared (0 counts), else `seed`."""
        declared = self.experiment.training_seed
        return self.experiment.seed if declared is None else declared

    def source(self, printed: str) -> str:
        """Return the source that replaces one of the paper's in this run."""
        return self.experiment.sources.get(printed, printed)

    def model(self, name: str) -> Model:
        """Return a model as this run declares it. Raises UserError with the known names."""
        declared = model(name)
        changes = self.experiment.models.get(name, {})
        if "requests" in changes:
            raise UserError(f"experiments/runs/{self.experiment.name}: {name}: requests: belongs to the API, so it "
                            "stands in experiments/models.yaml")
        return checked(Model, {**declared.model_dump(), **changes}, f"experiments/runs/{self.experiment.name}: {name}")

    def check(self, name: str, stage: str) -> Model:
        """Return the model if it can be at the stage: open weights at `base` or any stage, other kinds at one only."""
        declared = self.model(name)
        only = {"api": "base", "encoder": "classifier", "baseline": "baseline"}.get(declared.kind)
        if only and stage != only:
            raise UserError(f"{name} is of kind {declared.kind} (experiments/models.yaml): its one stage is {only!r}, "
                            f"not {stage!r}")
        if not only and stage != "base":
            self.stage(stage)
        return declared

    def placed(self, path: str) -> str:
        """Replace {run} in a declared path by the run's folder."""
        return path.replace("{run}", str(self.dir))

    def weights(self, name: str, stage: str) -> str:
        """Return what to load for a stage: for `base` the declared path, else the stage's complete model.

        Weights that were made from a package of the package index stand for the path.
        """
        if stage == "base":
            declared, made = self.model(name), packaged_weights(name)
            packaged = declared.package and (made / "manifest.json").exists()
            return str(made) if packaged else self.placed(declared.path)
        return str(self.stage_dir(name, stage) / "model")

    def stage(self, name: str) -> Stage:
        """Return a stage as this run declares it. Raises UserError with the known names."""
        declared = stages().get(name)
        if declared is None:
            raise UserError(f"unknown stage {name!r}; known: {', '.join(stages())}")
        changes = _merged(self.experiment.stages.get(declared.like, {}), self.experiment.stages.get(name, {}))
        where = f"experiments/runs/{self.experiment.name}: {name}"
        return checked(Stage, _merged(declared.model_dump(), changes), where)

    def corrected_by(self, stage: str) -> str:
        """Return who corrects the wrong solutions of a stage: "teacher", or "self" for the policy that made them."""
        declared = self.stage(stage).samples.corrected_by
        return self.experiment.corrections_by if declared == "run" else declared

    def solver(self, stage: str) -> str:
        """Return the stage whose weights wrote the solutions that a stage holds, trains on or corrects."""
        return self.stage(self.stage(stage).samples.solutions).samples.policy

    def asks_teacher(self, step: steps.Step) -> bool:
        """Tell whether a step's answers come from the teacher."""
        return step.asks == "teacher" or (step.asks == "corrector" and self.corrected_by(step.stage) == "teacher")

    def stages(self) -> dict[str, Stage]:
        """Return all stages as this run declares them."""
        return {name: self.stage(name) for name in stages()}

    def steps_to(self, name: str) -> list[steps.Step]:
        """Return the steps that lead to a stage's weights, each after those it needs; none for `base`."""
        if name != "base":
            self.stage(name)  # raises for an unknown one
        return steps.leading_to(steps.weights(name), self.stages())

    def file(self, path: str, model: str) -> Path:
        """Return the path of a step's file for a model."""
        return self.dir / path.format(model=model)

    def samples(self, model: str, stage: str) -> Path:
        """Return the file of a stage's training samples."""
        return self.file(f"{steps.folder(stage, self.stage(stage))}/samples.jsonl", model)

    def lineage(self, name: str) -> list[str]:
        """Return the stages to train for a stage, in order, itself included: parents and those whose policies solve."""
        return [step.stage for step in self.steps_to(name) if step.trains]

    def tasks(self) -> dict[str, Task]:
        """Return the run's tasks by name, each with the question that the run asks."""
        return {name: self.task(name) for name in self.experiment.tasks}

    def task(self, name: str) -> Task:
        """Return a task with the question in the run's wording, if it has one."""
        declared = task(name)
        wording = declared.wordings.get(self.experiment.wording or "", declared.question)
        return declared.model_copy(update={"question": wording})


def variant(limit: int | None, samples: int) -> str:
    """Return the part of file names that marks a subset and votes: ".limit200.samples5"."""
    return (f".limit{limit}" if limit else "") + (f".samples{samples}" if samples > 1 else "")


def run_dir(name: str) -> Path:
    """Return build/runs/<name>. Raises UserError for a name that is not one plain folder."""
    if not re.fullmatch(NAME, name):
        raise UserError(f"run name {name!r}: letters, digits, '.', '_' and '-' only")
    return BUILD / "runs" / name


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML file of names and values safely. Raises UserError with file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node and _nodes(node, {}) >= MOST_NODES:
            raise UserError(f"{path}: more than {MOST_NODES:,} values with its aliases (*name) expanded")
        result = loader.construct_document(node) if node else None
    except UserError:
        raise
    except Exception as error:  # a bad date, !!int of a word and deep nesting raise various errors
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(result, dict) or not all(isinstance(name, str) for name in result):
        raise UserError(f"{path}: should hold names and values (name: value)")
    return result


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node with its aliases expanded; one that contains itself counts MOST_NODES."""
    if isinstance(node, yaml.CollectionNode) and id(node) not in known:
        known[id(node)] = MOST_NODES
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_nodes(part, known) for part in children)
    return known.get(id(node), 1)


def _rows(kind: type[T], file: str) -> dict[str, T]:
    path = EXPERIMENTS / file
    return {name: checked(kind, row, f"{path}: {name}") for name, row in _named(path).items()}


def _named(path: Path) -> dict[str, Any]:
    rows = load_yaml(path)
    for name in rows:
        if not re.fullmatch(NAME, name):
            raise UserError(f"{path}: {name!r}: letters, digits, '.', '_' and '-' only; it becomes a folder's name")
    return rows


@functools.cache
def models() -> dict[str, Model]:
    """Load experiments/models.yaml."""
    return _rows(Model, "models.yaml")


def packaged_weights(name: str) -> Path:
    """Return where data_builders/package_weights.py writes a model."""
    return BUILD / "models" / name


@functools.cache
def stages() -> dict[str, Stage]:
    """Load experiments/stages.yaml; a row that is `like` another is merged into that one."""
    path = EXPERIMENTS / "stages.yaml"
    rows = _named(path)
    # A row that is no map stays as it is, and `checked` rejects it.
    like = {name: rows.get(str(row["like"])) if isinstance(row, dict) and "like" in row else None
            for name, row in rows.items()}
    return {name: checked(Stage, _merged(base, row) if isinstance(base := like[name], dict) else row, f"{path}: {name}")
            for name, row in rows.items()}


@functools.cache
def hardware() -> dict[str, Hardware]:
    """Load experiments/hardware.yaml."""
    return _rows(Hardware, "hardware.yaml")


@functools.cache
def speeds() -> dict[str, Speed]:
    """Load experiments/speed.yaml."""
    return _rows(Speed, "speed.yaml")


@functools.cache
def decoding() -> dict[str, Any]:
    """Load experiments/decoding.yaml, the one place for sampling settings."""
    return dict(load_yaml(EXPERIMENTS / "decoding.yaml"))


def thinking_room(thinking: bool) -> dict[str, Any]:
    """Return the settings on top of a purpose's for a model that thinks first: it may write more tokens."""
    return dict(decoding()["thinking"]) if thinking else {}


def api_requests(path: str) -> Requests | None:
    """Return how requests differ to an API's model, the teacher's too, if a row of models.yaml says so."""
    return next((row.requests for row in models().values() if row.kind == "api" and row.path == path), None)


def model(name: str) -> Model:
    """Return one model. Raises UserError with the known names."""
    if name not in models():
        raise UserError(f"unknown model {name!r}; experiments/models.yaml has {', '.join(models())}")
    return models()[name]


@functools.cache
def task(name: str) -> Task:
    """Load one task. Raises UserError with the known names."""
    known = sorted(path.stem for path in (EXPERIMENTS / "tasks").glob("*.yaml"))
    if name not in known:
        raise UserError(f"unknown task {name!r}; experiments/tasks has {', '.join(known)}")
    path = EXPERIMENTS / "tasks" / f"{name}.yaml"
    result = checked(Task, {**load_yaml(path), "name": name}, str(path))
    if result.positive is not None and result.positive not in result.labels:
        raise UserError(f"{path}: positive: {result.positive!r} is not one of the labels")
    return result


def example_file(experiment: Experiment, task_name: str) -> Path | None:
    """Return the file of examples that a person wrote for a task; the bundled logs have none."""
    path = EXPERIMENTS / "examples" / f"{task_name}.yaml"
    return path if experiment.data.kind != "bundled" and path.exists() else None


def experiment(name: str, *extended_by: str) -> dict[str, Any]:
    """Load the raw declaration, merged into the one that it extends.

    Maps merge by key; everything else is replaced, and so are `samples`, whose groups belong to the data.
    """
    path = EXPERIMENTS / "runs" / f"{name}.yaml"
    if name in extended_by:
        raise UserError(f"{path}: extends itself, by way of {', '.join(extended_by)}")
    if not re.fullmatch(NAME, name) or not path.exists():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise UserError(f"unknown experiment {name!r}; experiments/runs has {', '.join(known)}")
    declared = dict(load_yaml(path))
    extends = declared.pop("extends", None)
    base = experiment(str(extends), *extended_by, name) if extends else {}
    return _merged(base, {**declared, "name": name}, whole="samples")


def _merged(base: dict[str, Any], over: dict[str, Any], whole: str = "") -> dict[str, Any]:
    """Merge maps by key; everything else, and a map under the key `whole`, is replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict) and key != whole
        result[key] = _merged(result[key], value, whole) if both else value
    return result


def resolve(name: str, overrides: list[str]) -> Experiment:
    """Load an experiment and apply `key=value` overrides (OVERRIDES)."""
    declared = experiment(name)
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "teacher" and value == "self":
            declared["corrections_by"] = "self"
        elif key in ("teacher", "teacher_base_url"):
            field = "model" if key == "teacher" else "base_url"
            known = declared.get("teacher")
            declared["teacher"] = {**(known if isinstance(known, dict) else {}), field: value, "scripted": False}
        elif key == "handbook":
            data = declared.get("data")
            declared["data"] = {**(data if isinstance(data, dict) else {}), "handbook": value}
        elif key == "selection":
            declared = _merged(declared, {"stage1": {"selection": {"method": value}}})
        elif key == "tasks":
            declared["tasks"] = [part for part in re.split(r"[,\s]+", value) if part]
        elif key in OVERRIDES:
            declared[key] = value
        else:
            raise UserError(f"unknown override {key!r}; known: {', '.join(OVERRIDES)}")
    result = checked(Experiment, declared, f"experiments/runs/{name}.yaml")
    wordings = {wording for name in result.tasks for wording in task(name).wordings}  # raises for an unknown task
    if result.wording and result.wording not in wordings:
        raise UserError(f"experiments/runs/{name}.yaml: wording: no task of the run has {result.wording!r}; they have "
                        f"{', '.join(sorted(wordings)) or 'no other wording'}")
    if result.speed and result.speed not in speeds():
        raise UserError(f"unknown SPEED {result.speed!r}; experiments/speed.yaml has {', '.join(speeds())}")
    return result


def prompt_folders() -> tuple[Path, ...]:
    """Return where prompts are read: the folder that the run of this process declares, if any, then prompts/.

    A process works on one run, the one that it declared or loaded last.
    """
    return _prompt_folders


def _prompt_files(folder: str | None) -> dict[str, Path]:
    """Return each prompt's file by its path below the project: of an experiment's own folder where it has one.

    Raises UserError for a folder that is not there or empty, and for a file that replaces none.
    """
    files = {path.name: path for path in PROMPTS.glob("*.j2")}
    if folder is not None:
        own = {path.name: path for path in (ROOT / folder).glob("*") if not path.name.startswith(".")}
        if not own:
            raise UserError(f"prompts: {folder}: no such folder, or no file in it; it replaces files of prompts/")
        if unknown := sorted(set(own) - set(files)):
            raise UserError(f"prompts: {own[unknown[0]]} replaces no prompt; prompts/ has {', '.join(sorted(files))}")
        files |= own
    return {f"prompts/{name}": path for name, path in files.items()}


def _declaration(name: str, experiment: Experiment) -> dict[str, Any]:
    """Return the content of run.json."""
    run = Run(name, experiment)
    patterns = DECLARED_FILES + (SCRIPTED_FILES if experiment.teacher.scripted else ())
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    paths += [path for key in experiment.tasks if (path := example_file(experiment, key))]
    files = {str(path.relative_to(ROOT)): path for path in paths} | _prompt_files(experiment.prompts)
    return {
        "format": FORMAT,
        "run": name,
        "experiment": experiment.model_dump(),
        "models": {key: {**run.model(key).model_dump(), "chat_template": _chat_digest(run.model(key))}
                   for key in models()},
        "stages": {key: stage.model_dump() for key, stage in run.stages().items()},
        "hardware": {key: profile.model_dump() for key, profile in hardware().items()},
        "speed": {key: profile.model_dump() for key, profile in speeds().items()},
        "teacher_requests": requests.model_dump() if (requests := api_requests(experiment.teacher.model)) else None,
        "tasks": {key: value.model_dump() for key, value in run.tasks().items()},
        "decoding": {key: value for key, value in decoding().items() if key not in UNDECLARED},
        "files": {file: sha256(path) for file, path in sorted(files.items())},
        "code": {path: _code_digest(ROOT / path) for path in DECLARED_CODE},
    }


def _chat_digest(model: Model) -> str | None:
    path = CHAT / f"{model.template}.jinja"
    return sha256(path) if path.exists() else None


def _code_digest(path: Path) -> str:
    """Hash a module without its comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if (isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and ast.get_docstring(node) is not None):
            node.body = node.body[1:] or [ast.Pass()]
    return digest(ast.unparse(tree))  # the same in every version of Python, which ast.dump is not


def differences(one: Any, other: Any, prefix: str = "") -> list[str]:
    """List `key: one -> other` for every leaf in which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(set(one) | set(other))
        return [line for key in keys
                for line in differences(one.get(key, ABSENT), other.get(key, ABSENT), f"{prefix}{key}.")]
    same = one == other or (one in (None, ABSENT) and other in (None, ABSENT))  # a new field without a value
    return [] if same else [f"{prefix.rstrip('.')}: {_short(one)} -> {_short(other)}"]


def _short(value: Any) -> str:
    if value is ABSENT:
        return "not there"
    return shorten(repr(value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value), 100)


def declare(name: str, experiment: Experiment) -> Run:
    """Write run.json, or check that the existing one declares the same.

    New rows of models.yaml, stages.yaml, hardware.yaml and speed.yaml are added to it. Raises UserError that lists
    what differs.
    """
    global _prompt_folders
    path = run_dir(name) / "run.json"
    declared = json.loads(json.dumps(_declaration(name, experiment)))  # tuples become lists, as in the file
    _prompt_folders = (*([ROOT / experiment.prompts] if experiment.prompts else []), PROMPTS)
    if path.exists():
        known = _read_declaration(path)
        new = {part: {key: row for key, row in declared[part].items() if key not in known.get(part, {})}
               for part in EXTENSIBLE}
        grown = {**known, **{part: {**known.get(part, {}), **rows} for part, rows in new.items()}}
        if changed := differences(grown, declared):
            raise UserError(
                f"{path} was declared with different settings ({'; '.join(changed[:5])}"
                f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}). What the run has made belongs to "
                f"its first settings: restore them, or declare a run of another name with the new ones (RUN={name}-2; "
                f"answers of the same teacher to the same requests are copied, not paid again)")
        if not any(new.values()):
            return Run(name, experiment)
    write_json(path, declared)
    return Run(name, experiment)


def _read_declaration(path: Path) -> dict[str, Any]:
    """Read a run.json. Raises UserError for one of an earlier version of this project."""
    known = read_json(path)
    if not isinstance(known, dict):
        raise UserError(f"{path}: not a run's declaration")
    if known.get("format") != FORMAT:
        raise UserError(
            f"{path} was written by an earlier version of this project: it lacks settings that the run was made with, "
            "and its answers do not name the weights that gave them, so that neither can be checked or reused. Its "
            f"files stay as they are. To continue, declare a new run (RUN={path.parent.name}-2); to inspect this one, "
            "check out the commit that its manifests name")
    return known


def load_run(name: str) -> Run:
    """Load a declared run.

    Raises UserError for an undeclared one, and where anything that reaches its prompts, recipes or scores is declared
    differently now.
    """
    path = run_dir(name) / "run.json"
    if not path.exists():
        raise UserError(f"{path}: run {name!r} is not declared; run: python -m logreasoner.config --run {name}")
    return declare(name, checked(Experiment, _read_declaration(path).get("experiment"), str(path)))


def relevant(run: Run, model: str, stage: str) -> dict[str, Any]:
    """Return the part of a run's declaration that the answers and scores of a model at a stage depend on."""
    known = _read_declaration(run.dir / "run.json")
    lineage = run.lineage(stage) if stage in stages() else []
    return {key: value for key, value in known.items() if key not in EXTENSIBLE} | {
        "models": {model: known["models"].get(model)}, "stages": {name: known["stages"][name] for name in lineage}}


def identity(run: Run, model: str, stage: str) -> str:
    """Return a short hash of what `relevant` returns, for results and manifests."""
    return digest(relevant(run, model, stage))[:16]


def check_splits(run: Run) -> None:
    """Raise UserError where a run's splits, or the data that they were drawn from, have changed."""
    path = run.splits / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    splits = {str(run.splits / name): checksum for name, checksum in manifest.get("files", {}).items()}
    for file, checksum in {**manifest.get("inputs", {}), **splits}.items():
        if Path(file).exists() and sha256(file) != checksum:
            raise UserError(f"{file} has changed since the splits of run {run.name} were drawn, and what the run has "
                            f"made belongs to them: declare a run of another name (RUN={run.name}-2), or delete "
                            f"{run.dir} if you do not need it")


def main() -> None:
    """Declare a run."""
    arguments = cli.parser("logreasoner.config", "Declare a run: resolve an experiment and its overrides once.", """
python -m logreasoner.config --run paper
python -m logreasoner.config --run paper-full --experiment paper finetuning=full""")
    arguments.add_argument("--run", required=True, help="name of the folder under build/runs")
    arguments.add_argument("--experiment", help="a file of experiments/runs (default: the run's name)")
    arguments.add_argument("overrides", nargs="*", metavar="key=value",
                           help=", ".join(OVERRIDES))

    def start(given: argparse.Namespace) -> None:
        run = declare(given.run, resolve(given.experiment or given.run, given.overrides))
        check_splits(run)
        print("run", run.dir)

    cli.run(arguments, start)


if __name__ == "__main__":
    main()
