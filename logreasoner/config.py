"""What is declared under experiments/, typed and checked; and where a run's artefacts lie.

A run is a declared experiment. `declare` (python -m logreasoner.config) resolves the declaration with its
overrides once into build/runs/<run>/run.json: everything that reaches a prompt, a recipe or a score. `load_run`, with
which every later command begins, compares that with what is declared now and names every difference.
"""

import argparse
import ast
import functools
import json
import os
import re
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from logreasoner import cli, steps
from logreasoner.cli import UserError
from logreasoner.files import BUILD, EXPERIMENTS, ROOT, digest, read_json, sha256, write_json

CONTROL_TOKENS = EXPERIMENTS / "control_tokens.yaml"  # what prompts break in a log
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # of what becomes a folder: runs, models, stages, tasks
MOST_NODES = 200_000  # of a YAML file with its aliases written out: no file of some bytes fills the memory
FORMAT = 2  # of run.json; before it had one, a run did not hold all that it was made of
# What has no rows to resolve is held by checksum: prompts, templates and settings; in a scripted run the demo's own.
DECLARED_FILES = ("prompts/*.j2", "templates/chat/*", "templates/launch/*", "templates/deepspeed/*",
                  "templates/recipe.yaml.j2", "templates/export.yaml.j2", "experiments/control_tokens.yaml",
                  "experiments/classifier.yaml", "experiments/sources.yaml")
SCRIPTED_FILES = ("demo/*.yaml",)
# Code that decides what a model is told, which of its answers count, and how they are scored; comments do not matter.
DECLARED_CODE = ("logreasoner/answer_format.py", "logreasoner/prompts.py", "logreasoner/instances.py",
                 "logreasoner/templating.py", "data_builders/corrections.py", "data_builders/thoughts.py",
                 "eval/predictions.py", "eval/score.py")
UNDECLARED = ("live", "gpu_memory_utilization")  # of decoding.yaml: how fast answers come, not which
GROWING = ("models", "stages", "hardware", "speed")  # a new row changes nothing that was made
OVERRIDES = ("finetuning", "teacher", "teacher_base_url", "tasks", "seed", "training_seed", "speed")
ABSENT: Any = object()
T = TypeVar("T", bound=BaseModel)
Counts = dict[str, dict[str, int]]  # task -> group (a vendor, or a source without one) -> rows


class Declared(BaseModel):
    """A declaration; an unknown key is an error, not a surprise."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Task(Declared):
    """experiments/tasks/<name>.yaml."""

    name: str = Field(pattern=f"^{NAME}$")
    title: str
    question: str
    labels: list[str] = Field(min_length=2)
    positive: str | None = None
    metrics: list[str]
    mask_level: bool = False
    window: int = Field(1, gt=0, description="consecutive lines of a log that are judged together")
    described: bool = Field(False, description="a log is judged by the description that comes with it")
    paper: str = ""


class Model(Declared):
    """A row of models.yaml. `path` is a hub name or a folder ({run} stands for the run's), an API's name for an api."""

    title: str
    kind: Literal["open", "api", "encoder", "baseline"] = "open"
    path: str = ""
    revision: str = Field("", description="commit of a hub's model; by default the one that this machine has, or main")
    template: str = ""
    parameters: float = Field(0, ge=0, description="how many weights, for estimates of memory and time")
    thinking: bool = False
    committed: bool = False


class Samples(Declared):
    """What a stage trains on. `solutions` and `corrections` name the stages whose folders hold the answers.

    `policy` is who solves the instances in a stage that holds solutions; `share` takes a part of the instances
    (stage 1: of the thoughts), the same smaller part in every larger one.
    """

    kind: Literal["base", "thoughts", "rationales", "labels", "solutions", "pairs"]
    solutions: str = ""
    policy: str = ""
    corrections: str = ""
    corrected_by: Literal["run", "self"] = "run"
    share: float = Field(1.0, gt=0, le=1)


class Stage(Declared):
    """A row of stages.yaml; `arguments` are LLaMA-Factory's own names."""

    method: Literal["sft", "dpo"]
    starts_from: str
    dataset: str
    samples: Samples
    section: str
    needs: str
    global_batch: int = Field(gt=0)
    arguments: dict[str, Any]
    like: str = ""


class Hardware(Declared):
    """A row of hardware.yaml, of one node. Memory in GiB a device; max_per_device is the largest micro-batch that fits.

    `environment` is set for the training's processes; vLLM is asked `concurrency` requests at once.
    """

    title: str
    devices: int = Field(gt=0)
    concurrency: int = Field(256, gt=0)
    memory: float
    cpu: bool = False
    max_per_device: dict[Literal["sft", "dpo"], int]
    deepspeed: dict[Literal["lora", "qlora", "full"], str] = {}
    arguments: dict[str, Any] = {}
    environment: dict[str, str] = {}


class Speed(Declared):
    """A row of speed.yaml: by training method, LLaMA-Factory's arguments for more speed, and what they do to a batch.

    A method that is not named trains as without the profile. max_per_device bounds the micro-batch further.
    """

    title: str
    batch: str
    arguments: dict[Literal["sft", "dpo"], dict[str, Any]]
    max_per_device: dict[Literal["sft", "dpo"], int] = {}
    packages: list[str] = Field([], description="what must be installed in .venv-train; they run on GPUs only")


def reject_key_in_url(url: str) -> str:
    """A base URL, or several. Raises UserError for none, and, without quoting it, for one that may hold a key."""
    if "@" in url or "?" in url:
        raise UserError("a base URL must not hold a key ('@' or '?' in it): it is written to files; the key is read "
                        "from the environment, from OPENAI_API_KEY unless the run names another variable")
    for each in url.split():
        try:
            _ = urlsplit(each).port
        except ValueError as error:
            raise UserError(f"{each!r} is no address ({error}); a base URL is like http://127.0.0.1:8000/v1") from None
    return url


class Teacher(Declared):
    """Who writes rationales, thoughts and corrections. base_url "$NAME" is read from the environment when asked."""

    model: str
    base_url: Annotated[str, AfterValidator(reject_key_in_url)] | None = None
    key: str = "OPENAI_API_KEY"
    scripted: bool = False

    def url(self) -> str | None:
        """The base URL to use now. Raises UserError where it names an unset variable."""
        if self.base_url and self.base_url.startswith("$"):
            if self.base_url[1:] not in os.environ:
                raise UserError(f"the teacher's address is read from {self.base_url}, which is not set")
            return reject_key_in_url(os.environ[self.base_url[1:]])
        return self.base_url


class Stage1(Declared):
    """Section 4.1: how many analyses are collected and how many the DPP keeps."""

    handbook: int
    samples: Counts
    select: int


class Stage2(Declared):
    """Section 4.1: how many instances pi_thought answers."""

    samples: Counts


class Data(Declared):
    """Where instances come from: the catalogue of sources.yaml, the logs that this project brings, or a user's file."""

    kind: Literal["public", "bundled", "own"]
    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]*$", description="own: the name given to make new-task")

    @property
    def folder(self) -> Path:
        """Where train.jsonl, test.jsonl and handbook.jsonl lie."""
        return BUILD / "data" / self.kind / (self.name or "")


class Experiment(Declared):
    """experiments/runs/<name>.yaml, complete."""

    name: str
    title: str
    seed: int
    training_seed: int | None = Field(None, description="seed of the trainings alone; by default `seed`")
    tasks: list[str]
    data: Data
    finetuning: Literal["lora", "qlora", "full"]
    teacher: Teacher
    corrections_by: Literal["teacher", "self"]
    embedding: str
    speed: str | None = Field(None, description="a profile of speed.yaml; null trains as the paper says")
    over_length: Literal["drop", "stop"]
    stage1: Stage1
    stage2: Stage2
    examples: int
    test_rows: int | None = Field(None, description="at most so many rows of each test set; null is all")
    stages: dict[str, dict[str, Any]] = Field({}, description="what differs from stages.yaml")
    models: dict[str, dict[str, Any]] = Field({}, description="what differs from models.yaml")
    sources: dict[str, str] = Field({}, description="which source stands for one of the paper's tables")


class Run:
    """A declared run: its experiment and the paths of everything it makes."""

    def __init__(self, name: str, experiment: Experiment):
        self.name = name
        self.experiment = experiment
        self.dir = run_dir(name)
        self.splits = self.dir / "splits"

    @property
    def mark(self) -> str:
        """What a result of this run must carry so that no table mixes it with a real teacher's."""
        return "scripted" if self.experiment.teacher.scripted else "model"

    def dataset(self, model: str, stage: str) -> Path:
        """Folder of a stage's dataset; stage 1 is the same for all models, so it lies under `shared`."""
        return self.dir / "datasets" / model / stage

    def recipe(self, model: str, stage: str) -> Path:
        """The rendered LLaMA-Factory configuration."""
        return self.dir / "recipes" / model / f"{stage}.yaml"

    def stage_dir(self, model: str, stage: str) -> Path:
        """Folder of a trained stage: adapter/ (LoRA) or none, model/ (complete weights), manifest.json."""
        return self.dir / "models" / model / stage

    def predictions(self, model: str, stage: str, limit: int | None = None, samples: int = 1) -> Path:
        """The responses of an evaluation; its requests and its journal lie beside it."""
        return self.dir / "predictions" / model / stage / f"test{variant(limit, samples)}.responses.jsonl"

    def results(self, limit: int | None = None, samples: int = 1) -> Path:
        """Folder of scores and tables; those of a subset or of votes never lie beside the others."""
        return self.dir / f"results{variant(limit, samples)}"

    def result(self, model: str, stage: str, limit: int | None = None, samples: int = 1) -> Path:
        """The scores of a model at a stage."""
        return self.results(limit, samples) / model / stage / "result.json"

    def log(self, name: str) -> Path:
        """Where the output of a program that a step starts goes."""
        return self.dir / "logs" / f"{name}.log"

    @property
    def training_seed(self) -> int:
        """The seed of the run's trainings: its own where one is declared (0 is one), else the run's."""
        own = self.experiment.training_seed
        return self.experiment.seed if own is None else own

    def source(self, printed: str) -> str:
        """The source of this run that stands for one of the paper's tables."""
        return self.experiment.sources.get(printed, printed)

    def model(self, name: str) -> Model:
        """A model as this run declares it. Raises UserError with the known names."""
        declared = model(name)
        changes = self.experiment.models.get(name, {})
        return checked(Model, {**declared.model_dump(), **changes}, f"experiments/runs/{self.experiment.name}: {name}")

    def check(self, name: str, stage: str) -> Model:
        """The model, if it can be at the stage: open weights at `base` or a stage of stages.yaml, others at one."""
        found = self.model(name)
        only = {"api": "base", "encoder": "classifier", "baseline": "baseline"}.get(found.kind)
        if only and stage != only:
            raise UserError(f"{name} is of kind {found.kind} (experiments/models.yaml): its one stage is {only!r}, "
                            f"not {stage!r}")
        if not only and stage != "base":
            self.stage(stage)
        return found

    def placed(self, path: str) -> str:
        """A declared path with the run's folder in the place of {run}."""
        return path.replace("{run}", str(self.dir))

    def weights(self, name: str, stage: str) -> str:
        """What to load for a stage: for `base` the declared path, else the stage's complete model."""
        if stage == "base":
            return self.placed(self.model(name).path)
        return str(self.stage_dir(name, stage) / "model")

    def stage(self, name: str) -> Stage:
        """A stage as this run declares it."""
        declared = stages().get(name)
        if declared is None:
            raise UserError(f"unknown stage {name!r}; known: {', '.join(stages())}")
        changes = _merged(self.experiment.stages.get(declared.like, {}), self.experiment.stages.get(name, {}))
        where = f"experiments/runs/{self.experiment.name}: {name}"
        return checked(Stage, _merged(declared.model_dump(), changes), where)

    def corrected_by(self, stage: str) -> str:
        """Who corrects the wrong solutions of a stage: "teacher", or "self" for the policy that made them."""
        declared = self.stage(stage).samples.corrected_by
        return self.experiment.corrections_by if declared == "run" else declared

    def stages(self) -> dict[str, Stage]:
        """All stages as this run declares them."""
        return {name: self.stage(name) for name in stages()}

    def steps_to(self, name: str) -> list[steps.Step]:
        """The steps that lead to a stage's weights, each after those it needs; none for `base`."""
        if name != "base":
            self.stage(name)  # an unknown one is an error
        return steps.leading_to(steps.weights(name), self.stages())

    def file(self, path: str, model: str) -> Path:
        """A file of a step, for a model."""
        return self.dir / path.format(model=model)

    def samples(self, model: str, stage: str) -> Path:
        """What a stage trains on."""
        return self.file(f"{steps.folder(stage, self.stage(stage))}/samples.jsonl", model)

    def lineage(self, name: str) -> list[str]:
        """The stages that a stage needs trained, first to last, itself included: parents and whoever solves for it."""
        return [step.stage for step in self.steps_to(name) if step.trains]

    def tasks(self) -> dict[str, Task]:
        """The run's tasks by name."""
        return {name: task(name) for name in self.experiment.tasks}


def variant(limit: int | None, samples: int) -> str:
    """What the names of files and folders say of a subset and of votes: ".limit200.samples5"."""
    return (f".limit{limit}" if limit else "") + (f".samples{samples}" if samples > 1 else "")


def run_dir(name: str) -> Path:
    """build/runs/<name>. Raises UserError for a name that is not one plain folder."""
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
            raise UserError(f"{path}: more than {MOST_NODES:,} values with its aliases (*name) written out")
        found = loader.construct_document(node) if node else None
    except UserError:
        raise
    except Exception as error:  # a bad date, !!int of a word or a thousand brackets show themselves as anything
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path}: should hold names and values (name: value)")
    return found


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node has with its aliases written out; one that holds itself has MOST_NODES."""
    if isinstance(node, yaml.CollectionNode) and id(node) not in known:
        known[id(node)] = MOST_NODES
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_nodes(part, known) for part in inner)
    return known.get(id(node), 1)


def checked(kind: type[T], value: Any, where: str) -> T:
    """Validate a declaration. Raises UserError naming the key."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: {key}: {first['msg']}") from None


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
    """experiments/models.yaml."""
    return _rows(Model, "models.yaml")


@functools.cache
def stages() -> dict[str, Stage]:
    """experiments/stages.yaml, with what a stage is `like` merged in."""
    path = EXPERIMENTS / "stages.yaml"
    rows = _named(path)
    # A row that is no map is left to be checked.
    like = {name: rows.get(str(row["like"])) if isinstance(row, dict) and "like" in row else None
            for name, row in rows.items()}
    return {name: checked(Stage, _merged(base, row) if isinstance(base := like[name], dict) else row, f"{path}: {name}")
            for name, row in rows.items()}


@functools.cache
def hardware() -> dict[str, Hardware]:
    """experiments/hardware.yaml."""
    return _rows(Hardware, "hardware.yaml")


@functools.cache
def speeds() -> dict[str, Speed]:
    """experiments/speed.yaml."""
    return _rows(Speed, "speed.yaml")


@functools.cache
def decoding() -> dict[str, Any]:
    """experiments/decoding.yaml: the one place for sampling settings."""
    return dict(load_yaml(EXPERIMENTS / "decoding.yaml"))


def model(name: str) -> Model:
    """One model. Raises UserError with the known names."""
    if name not in models():
        raise UserError(f"unknown model {name!r}; experiments/models.yaml has {', '.join(models())}")
    return models()[name]


@functools.cache
def task(name: str) -> Task:
    """One task. Raises UserError with the known names."""
    known = sorted(path.stem for path in (EXPERIMENTS / "tasks").glob("*.yaml"))
    if name not in known:
        raise UserError(f"unknown task {name!r}; experiments/tasks has {', '.join(known)}")
    path = EXPERIMENTS / "tasks" / f"{name}.yaml"
    found = checked(Task, {**load_yaml(path), "name": name}, str(path))
    if found.positive is not None and found.positive not in found.labels:
        raise UserError(f"{path}: positive: {found.positive!r} is not one of the labels")
    return found


def experiment(name: str, *extended_by: str) -> dict[str, Any]:
    """The raw declaration, with what it extends merged in.

    Maps merge by key, everything else is replaced; so are `samples`, whose groups belong to the data.
    """
    path = EXPERIMENTS / "runs" / f"{name}.yaml"
    if name in extended_by:
        raise UserError(f"{path}: extends itself, by way of {', '.join(extended_by)}")
    if not re.fullmatch(NAME, name) or not path.exists():
        known = sorted(found.stem for found in path.parent.glob("*.yaml"))
        raise UserError(f"unknown experiment {name!r}; experiments/runs has {', '.join(known)}")
    declared = dict(load_yaml(path))
    base = declared.pop("extends", None)
    found = experiment(str(base), *extended_by, name) if base else {}
    return _merged(found, {**declared, "name": name}, whole="samples")


def _merged(base: dict[str, Any], over: dict[str, Any], whole: str = "") -> dict[str, Any]:
    """Maps merged by key; everything else, and a map under the key `whole`, is replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict) and key != whole
        result[key] = _merged(result[key], value, whole) if both else value
    return result


def resolve(name: str, overrides: list[str]) -> Experiment:
    """An experiment with `key=value` overrides (OVERRIDES)."""
    declared = experiment(name)
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "teacher" and value == "self":
            declared["corrections_by"] = "self"
        elif key in ("teacher", "teacher_base_url"):
            field = "model" if key == "teacher" else "base_url"
            known = declared.get("teacher")
            declared["teacher"] = {**(known if isinstance(known, dict) else {}), field: value, "scripted": False}
        elif key == "tasks":
            declared["tasks"] = [part for part in re.split(r"[,\s]+", value) if part]
        elif key in OVERRIDES:
            declared[key] = value
        else:
            raise UserError(f"unknown override {key!r}; known: {', '.join(OVERRIDES)}")
    result = checked(Experiment, declared, f"experiments/runs/{name}.yaml")
    for listed in result.tasks:
        task(listed)
    if result.speed and result.speed not in speeds():
        raise UserError(f"unknown SPEED {result.speed!r}; experiments/speed.yaml has {', '.join(speeds())}")
    return result


def _declaration(name: str, found: Experiment) -> dict[str, Any]:
    run = Run(name, found)
    patterns = DECLARED_FILES + (SCRIPTED_FILES if found.teacher.scripted else ())
    files = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return {
        "format": FORMAT,
        "run": name,
        "experiment": found.model_dump(),
        "models": {each: run.model(each).model_dump() for each in models()},
        "stages": {each: run.stage(each).model_dump() for each in stages()},
        "hardware": {each: profile.model_dump() for each, profile in hardware().items()},
        "speed": {each: profile.model_dump() for each, profile in speeds().items()},
        "tasks": {key: value.model_dump() for key, value in run.tasks().items()},
        "decoding": {key: value for key, value in decoding().items() if key not in UNDECLARED},
        "files": {str(path.relative_to(ROOT)): sha256(path) for path in files},
        "code": {path: _code_digest(ROOT / path) for path in DECLARED_CODE},
    }


def _code_digest(path: Path) -> str:
    """Hash of a module without its comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if (isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and ast.get_docstring(node) is not None):
            node.body = node.body[1:] or [ast.Pass()]
    return digest(ast.unparse(tree))  # the same in every version of Python, which ast.dump is not


def differences(one: Any, other: Any, prefix: str = "") -> list[str]:
    """`key: one -> other` for every leaf in which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(set(one) | set(other))
        return [line for key in keys
                for line in differences(one.get(key, ABSENT), other.get(key, ABSENT), f"{prefix}{key}.")]
    same = one == other or (one in (None, ABSENT) and other in (None, ABSENT))  # a field that is new, and not used
    return [] if same else [f"{prefix.rstrip('.')}: {_short(one)} -> {_short(other)}"]


def _short(value: Any) -> str:
    if value is ABSENT:
        return "not there"
    return shorten(repr(value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value), 100)


def declare(name: str, found: Experiment) -> Run:
    """Write run.json, or check that the one there declares the same.

    Rows that are new in models.yaml, stages.yaml, hardware.yaml and speed.yaml are added to it. Raises UserError
    listing what differs.
    """
    path = run_dir(name) / "run.json"
    # As JSON has it: a pair is a list there.
    wanted = json.loads(json.dumps(_declaration(name, found)))
    if path.exists():
        known = _read_declaration(path)
        new = {part: {key: row for key, row in wanted[part].items() if key not in known.get(part, {})}
               for part in GROWING}
        grown = {**known, **{part: {**known.get(part, {}), **rows} for part, rows in new.items()}}
        if changed := differences(grown, wanted):
            raise UserError(
                f"{path} was declared with different settings ({'; '.join(changed[:5])}"
                f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}). What the run has made belongs to "
                f"what it was declared with: set back what changed, or give the changed one a name of its own "
                f"(RUN={name}-2; answers of the same teacher to the same questions are copied, not paid again)")
        if not any(new.values()):
            return Run(name, found)
    write_json(path, wanted)
    return Run(name, found)


def _read_declaration(path: Path) -> dict[str, Any]:
    """A run.json. Raises UserError for one of an earlier version of this project."""
    known = read_json(path)
    if not isinstance(known, dict):
        raise UserError(f"{path}: not a run's declaration")
    if known.get("format") != FORMAT:
        raise UserError(
            f"{path} was written by an earlier version of this project: it does not hold all settings that the run was "
            "made with, and its answers do not say what gave them, so neither can be checked or used further. Its "
            f"files stay as they are. To go on, declare a new run (RUN={path.parent.name}-2); to look at this one, "
            "check out the commit that its manifests name")
    return known


def load_run(name: str) -> Run:
    """A run that was declared before.

    Raises UserError where it was not, and where anything that reaches its prompts, recipes or scores is declared
    differently now.
    """
    path = run_dir(name) / "run.json"
    if not path.exists():
        raise UserError(f"{path}: run {name!r} is not declared; do: python -m logreasoner.config --run {name}")
    return declare(name, checked(Experiment, _read_declaration(path).get("experiment"), str(path)))


def relevant(run: Run, model: str, stage: str) -> dict[str, Any]:
    """The part of a run's declaration that the answers and scores of a model at a stage depend on."""
    known = _read_declaration(run.dir / "run.json")
    lineage = run.lineage(stage) if stage in stages() else []
    return {key: value for key, value in known.items() if key not in GROWING} | {
        "models": {model: known["models"].get(model)}, "stages": {each: known["stages"][each] for each in lineage}}


def identity(run: Run, model: str, stage: str) -> str:
    """Short hash of what `relevant` gives, for results and manifests."""
    return digest(relevant(run, model, stage))[:16]


def check_splits(run: Run) -> None:
    """Raise UserError where a run's splits, or the data that they were drawn from, are not what they were."""
    drawn = run.splits / "manifest.json"
    made = read_json(drawn) if drawn.exists() else {}
    for file, checksum in {**made.get("inputs", {}), **{str(run.splits / name): value for name, value in
                                                        made.get("files", {}).items()}}.items():
        if Path(file).exists() and sha256(file) != checksum:
            raise UserError(f"{file} has changed since the splits of run {run.name} were drawn, and what the run has "
                            f"made belongs to them: declare a run of another name (RUN={run.name}-2), or remove "
                            f"{run.dir} if it may go")


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
