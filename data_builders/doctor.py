"""What this machine can do; and, as make's preflight, whether it can do what is asked before anything is spent."""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from data_builders.recipes import memory_gib, require_packages
from logreasoner import cli, steps
from logreasoner.cli import UserError
from logreasoner.config import Hardware, Run, hardware, load_run
from logreasoner.files import ROOT

GIB = 2**30
# What sellers call 24 or 80 GB, nvidia-smi may report as 22.5 or 79.6 GiB.
NOMINAL = 0.9
KEYS = ["OPENAI_API_KEY", "HF_TOKEN"]
ENVIRONMENTS = {".venv": "setup", ".venv-train": "setup-train", ".venv-serve": "setup-serve"}  # made by make


@dataclass(frozen=True)
class Gpu:
    """One visible NVIDIA device; memory in GiB, None where the driver does not say."""

    name: str
    memory: float | None


def gpus() -> list[Gpu]:
    """The NVIDIA devices that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves visible."""
    try:
        found = subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
                               capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    listed = []
    for line in found.stdout.splitlines():
        name, comma, memory = (part.strip() for part in line.rpartition(","))
        if comma:
            listed.append(Gpu(name, round(int(memory) / 1024, 1) if memory.isdigit() else None))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or re.search(r"[A-Za-z]", visible):  # named by UUID: which ones they are is left to CUDA
        return listed
    numbers = [int(part) for part in visible.split(",") if part.strip().isdigit()]
    return [listed[number] for number in numbers if number < len(listed)]


def machine_memory() -> float:
    """GiB of main memory, or what this container may use of it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits) / GIB


def pins(path: Path) -> dict[str, str]:
    """name -> version of the `name==version` lines of a requirements file; other lines do not count."""
    if not path.exists():
        return {}
    found = (re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*==\s*([^\s;#]+)", line) for line in path.read_text().splitlines())
    return {match[1]: match[2] for match in found if match}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()  # PEP 503: FlagEmbedding and flagembedding are one


def environment(folder: Path, requirements: list[Path]) -> dict[str, Any]:
    """An environment's versions against its pins: {made, pins, wrong: {name: [pinned, found or None]}}.

    Versions are read from the metadata by path, so a broken environment can be looked at; "+cpu" is ignored.
    """
    made = (folder / ".ready").exists()  # make touches it when everything is installed
    site = [str(path) for path in folder.glob("lib/python3*/site-packages")]
    found = {_plain(each.name): each.version for each in distributions(path=site)} if made else {}
    wanted = {name: pin for path in requirements for name, pin in pins(path).items()}
    wrong = {name: [pin, found.get(_plain(name))] for name, pin in wanted.items()
             if found.get(_plain(name), "").partition("+")[0] != pin.partition("+")[0]}
    return {"made": made, "pins": len(wanted), "wrong": wrong if made else {}}


def lacking(profile: Hardware, here: list[Gpu]) -> str | None:
    """What a hardware profile needs and these devices do not give; None if it can run."""
    if profile.cpu:
        return None
    enough = [gpu for gpu in here if gpu.memory is None or gpu.memory >= NOMINAL * profile.memory]
    if len(enough) >= profile.devices:
        return None
    have = ", ".join(f"{gpu.name} ({gpu.memory or '?'} GiB)" for gpu in here) or "no GPU"
    return f"needs {profile.devices} GPU{'s' * (profile.devices > 1)} of {profile.memory:g} GiB; here: {have}"


def path_like(name: str) -> bool:
    """Whether a model is named by a folder, not by its name on the hub."""
    return name.startswith((".", "/", "~", "build/")) or name.count("/") > 1


def model_missing(name: str) -> str | None:
    """Why a model cannot be loaded, found out without loading or downloading it; None if nothing speaks against it."""
    if Path(name).is_dir():
        if not Path(name, "config.json").exists():
            return f"{name}: no config.json in it, so no model's folder"
        return None if any(Path(name).glob("*.safetensors")) else (
            f"{name}: no *.safetensors in it; weights in other files can hold programs and are not loaded")
    if path_like(name):
        return f"{name}: no such folder; give the folder of a model or its name on the hub"
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if offline and not any(cache.glob(f"models--{name.replace('/', '--')}/snapshots/*")):
        return f"{name}: not in {cache}, and HF_HUB_OFFLINE forbids to download it; unset that, or give a folder"
    return None


def examine(root: Path = ROOT) -> dict[str, Any]:
    """Everything the report says, as JSON values."""
    here = gpus()
    kinds = {".venv": ["core"], ".venv-train": ["train", *(["train-gpu"] if here else [])],
             ".venv-serve": ["serve-gpu" if here else "serve-cpu"]}
    return {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(machine_memory(), 1),
        "disk_free_gib": round(shutil.disk_usage(root).free / GIB, 1),
        "gpus": [asdict(gpu) for gpu in here],
        "keys": {name: bool(os.environ.get(name)) for name in KEYS},
        "environments": {name: {"requirements": kind, "make": f"make {ENVIRONMENTS[name]}",
                                **environment(root / name, [root / "requirements" / f"{each}.txt" for each in kind])}
                         for name, kind in kinds.items()},
        "profiles": {name: {"title": profile.title, "lacking": lacking(profile, here)}
                     for name, profile in hardware().items()},
    }


def _state(found: dict[str, Any]) -> str:
    if not found["made"]:
        return f"not made; {found['make']} makes it"
    files = " and ".join(f"requirements/{name}.txt" for name in found["requirements"])
    if not found["wrong"]:
        return f"made; all {found['pins']} pins of {files} are met"
    wrong = ", ".join(f"{name} {have or 'missing'} (pin {pin})" for name, (pin, have) in found["wrong"].items())
    return f"differs from {files}: {wrong}; remove the folder, then {found['make']}"


def report(found: dict[str, Any]) -> str:
    """`examine` as text."""
    devices = [f"{gpu['name']}, {gpu['memory'] or '?'} GiB" for gpu in found["gpus"]]
    lines = [("Python", found["python"]), ("CPU cores", found["cores"]), ("memory", f"{found['memory_gib']} GiB"),
             ("disk free", f"{found['disk_free_gib']} GiB"), ("GPU", "; ".join(devices) or "none"),
             *((name, "set" if given else "not set") for name, given in found["keys"].items()),
             *((name, _state(each)) for name, each in found["environments"].items()),
             *((f"HARDWARE={name}", each["lacking"] or "can run here") for name, each in found["profiles"].items())]
    return "\n".join(f"{name:<16} {value}" for name, value in lines)


def require(run: Run, model: str, stage: str, profile_name: str, nodes: int = 1, elsewhere: bool = False) -> None:
    """Refuse a stage that cannot end well on this machine. Raises UserError with what is missing.

    `thoughts` and `base` train nothing, so they need no hardware profile. Where a cluster trains (`elsewhere`) this
    machine's hardware does not count.
    """
    here = gpus()
    profile = hardware().get(profile_name)
    can = ", ".join(name for name, each in hardware().items() if not lacking(each, here))
    if profile is None:
        raise UserError(f"unknown hardware profile {profile_name!r}; experiments/hardware.yaml has "
                        f"{', '.join(hardware())}; here can run: {can}")
    declared = run.check(model, "base" if stage == "thoughts" else stage)
    if stage in run.stages() and run.file(steps.weights(stage), model).exists():
        return  # it was trained before
    if declared.kind in ("api", "baseline"):
        return  # nothing to load and nothing to train
    trains = stage not in ("thoughts", "base", "classifier")
    if trains and (ROOT / ".venv-train" / ".ready").exists():
        require_packages(run, ROOT / ".venv-train")
    if trains and not elsewhere and (missing := lacking(profile, here)):
        raise UserError(f"HARDWARE={profile_name} {missing}. Here can run: HARDWARE={can}")
    asks = _open_questions(run, model, stage) if stage != "classifier" else []
    needed = [declared.path, *([run.experiment.embedding] if "thoughts" in asks else [])]
    for path in map(run.placed, needed):
        if str(run.dir) not in path and (missing := model_missing(path)):
            raise UserError(missing)
    teacher = run.experiment.teacher
    if asks and teacher.base_url is None and not os.environ.get(teacher.key):
        raise UserError(f"{teacher.key} is not set, and the teacher {teacher.model} is still to be asked for "
                        f"{' and '.join(asks)}; set it, or give TEACHER= and TEACHER_BASE_URL= for another one")
    if trains and not elsewhere:
        _require_memory(run, model, stage, profile, here, nodes)


def _open_questions(run: Run, model: str, stage: str) -> list[str]:
    """What a paid teacher is still to be asked for on the way to a stage (`thoughts`: to the thoughts)."""
    goal = run.steps_to(steps.THOUGHTS if stage == "thoughts" else stage)
    asked = [run.file(step.output, model) for step in goal if step.asks == "teacher" or (
        step.asks == "corrector" and run.corrected_by(step.stage) == "teacher")]
    return list(dict.fromkeys(path.name.partition(".")[0] for path in asked if not path.exists()))


def _require_memory(run: Run, model: str, stage: str, profile: Hardware, here: list[Gpu], nodes: int) -> None:
    parameters, finetuning = run.model(model).parameters, run.experiment.finetuning
    deepspeed = profile.deepspeed.get(finetuning, "")
    sharing = profile.devices * nodes if finetuning == "full" and deepspeed else 1
    need = memory_gib(parameters, finetuning, run.stage(stage).method, sharing)
    # The smallest of the devices that would be used; where the driver does not say, the profile does.
    each = min(sorted((gpu.memory or profile.memory for gpu in here), reverse=True)[: profile.devices], default=0.0)
    have = machine_memory() if profile.cpu else each
    if "offload" in deepspeed:  # gradients, moments and float32 weights lie in main memory
        need, have = need * profile.devices, machine_memory() + each * profile.devices
    if need > have:
        raise UserError(f"FINETUNING={finetuning} of {model} at {stage} needs about {need:.0f} GiB"
                        f"{' a device' if sharing > 1 and 'offload' not in deepspeed else ''}; here are {have:.0f}. "
                        "Take FINETUNING=lora or qlora, a smaller model, or a profile with more devices")


def _main(given: argparse.Namespace) -> None:
    if not given.require:
        found = examine()
        print(json.dumps(found, indent=2) if given.json else report(found))
    elif not (given.run and given.model and given.stage and given.hardware):
        raise UserError("--require needs --run, --model, --stage and --hardware")
    else:
        require(load_run(given.run), given.model, given.stage, given.hardware, given.nodes,
                elsewhere=given.launch != "torchrun")


def main() -> None:
    """Say what this machine can do, or refuse what it cannot."""
    arguments = cli.parser("data_builders.doctor", "What this machine can do.", """
python -m data_builders.doctor
python -m data_builders.doctor --json
python -m data_builders.doctor --require --run paper --model qwen2.5-7b --stage dpo --hardware 2xA100""")
    arguments.add_argument("--json", action="store_true", help="the same as JSON")
    arguments.add_argument("--require", action="store_true", help="silent if the stage can be made here, else an error")
    arguments.add_argument("--run", help="a declared run")
    arguments.add_argument("--model", help="a name of models.yaml")
    arguments.add_argument("--stage", help="base, thoughts, thought-sft, solution-sft or dpo")
    arguments.add_argument("--hardware", help="a profile of hardware.yaml")
    arguments.add_argument("--nodes", type=int, default=1, help="how many machines of that hardware train together")
    arguments.add_argument("--launch", default="torchrun", help="slurm and ray train elsewhere")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
