import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

import pytest

from data_builders import doctor
from data_builders.doctor import (
    Gpu,
    environment,
    examine,
    gpus,
    pins,
    require,
    require_compilers,
    require_deepspeed,
    unmet,
)
from logreasoner.cli import UserError
from logreasoner.config import declare, hardware, resolve
from logreasoner.files import ROOT, write_json

A100, A10 = "NVIDIA A100-SXM4-80GB, 81920", "NVIDIA A10, 23028"


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put an nvidia-smi on PATH that prints these lines; none: it fails, as without a driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def install(*lines):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"exit {int(not lines)}\n")
        program.chmod(0o755)

    install()
    return install


class Hub(BaseHTTPRequestHandler):
    """Gives each file with a status of its own; the public hub asks for a login with 401."""

    statuses: ClassVar[dict[str, int]] = {}

    def do_GET(self):
        name = self.path.partition("/resolve/main/config.json")[0].lstrip("/")
        self.send_response(200 if self.headers["Authorization"] == "Bearer hf_good" else self.statuses.get(name, 200))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback, whose statuses a test may set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(Hub, "statuses", {})
    yield Hub.statuses
    server.shutdown()
    server.server_close()


@pytest.fixture
def disk(monkeypatch):
    """Say how many GiB are free."""
    def free(gib):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=gib * doctor.GIB))

    free(1000)
    return free


@pytest.fixture
def paper(workdir, monkeypatch, smi, hub, disk):
    """The paper's run with all it needs, and two A100; each test takes one thing away."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HF_HOME", str(workdir / "hub-home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(doctor, "ROOT", workdir)  # without environments, whatever this machine has
    smi(A100, A100)
    return declare("paper", resolve("paper", []))


def test_gpus_are_read_and_hidden_ones_left_out(smi, monkeypatch):
    assert gpus() == []
    smi(A100, "NVIDIA GB10, [N/A]", A10)
    assert gpus() == [Gpu("NVIDIA A100-SXM4-80GB", 80.0), Gpu("NVIDIA GB10", None), Gpu("NVIDIA A10", 22.5)]
    for visible, names in (("2", ["NVIDIA A10"]), ("0, 2", ["NVIDIA A100-SXM4-80GB", "NVIDIA A10"]), ("", []),
                           ("-1", []), ("0,9", ["NVIDIA A100-SXM4-80GB"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.name for gpu in gpus()] == names


def test_a_profile_says_what_it_needs_and_is_not_there():
    two = [Gpu("A100", 80.0), Gpu("A10", 22.5)]
    assert unmet(hardware()["cpu"], []) is None
    assert unmet(hardware()["1xA100"], two) is None
    assert unmet(hardware()["1x24GB"], two[1:]) is None  # sold as 24 GB
    assert unmet(hardware()["2xA100"], two) == "needs 2 GPUs of 80 GiB; here: A100 (80.0 GiB), A10 (22.5 GiB)"
    assert unmet(hardware()["1x24GB"], []) == "needs 1 GPU of 24 GiB; here: no GPU"


def test_versions_are_compared_with_pins_without_starting_the_environment(tmp_path):
    (tmp_path / "core.txt").write_text("# why\nFlag-Embedding==1.4.2  # a comment\ntorch==2.13.0\nray[default]==2.0\n"
                                       "numpy==2.0 ; python_version > '3'\nother>=1\n-c lock.txt\n")
    wanted = {"Flag-Embedding": "1.4.2", "torch": "2.13.0", "ray": "2.0", "numpy": "2.0"}
    assert pins(tmp_path / "core.txt") == wanted
    compared = (tmp_path / "env", "make it", tmp_path / "core.txt")
    assert environment(*compared) == "not there; make it makes it"
    for name, version in (("flag_embedding", "1.4.2"), ("torch", "2.13.0+cpu"), ("numpy", "1.9")):
        info = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (tmp_path / "env" / ".ready").touch()
    assert environment(*compared) == ("differs from requirements/core.txt: ray missing (pin 2.0), "
                                      "numpy 1.9 (pin 2.0); remove the folder, then make it")
    (tmp_path / "core.txt").write_text("Flag-Embedding==1.4.2\ntorch==2.13.0\n")
    assert environment(*compared) == "made; all 2 pins of requirements/core.txt are met"


def test_the_report_names_everything_and_no_key(smi, monkeypatch):
    smi(A10)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    facts = examine()
    assert facts["GPU"] == "NVIDIA A10, 22.5 GiB" and ".venv-serve" in facts
    assert (facts["OPENAI_API_KEY"], facts["HF_TOKEN"]) == ("set", "not set")
    assert facts["HARDWARE=1x24GB"] == "can run here" and facts["HARDWARE=2xA100"].startswith("needs 2 GPUs of 80 GiB")
    assert "secret" not in str(facts)


def test_the_command_writes_the_same_as_text_and_as_json():
    def doctor(*more):
        return subprocess.run([sys.executable, "-m", "data_builders.doctor", *more], cwd=ROOT, capture_output=True,
                              text=True, check=True).stdout

    facts = json.loads(doctor("--json"))
    assert {f"HARDWARE={name}" for name in hardware()} < set(facts)
    assert [line.split("  ")[0] for line in doctor().splitlines()] == list(facts)


def test_a_machine_that_has_it_all_is_not_bothered(paper, capsys):
    for stage in ("base", "thought-sft", "solution-sft", "dpo"):
        require(paper, "qwen2.5-7b", stage, "2xA100")
    assert capsys.readouterr() == ("", "")


def test_an_unknown_profile_model_or_stage(paper):
    with pytest.raises(UserError, match="unknown hardware profile '8xH100'.*here can run: 2xA100"):
        require(paper, "qwen2.5-7b", "dpo", "8xH100")
    with pytest.raises(UserError, match="unknown model 'gpt-2'"):
        require(paper, "gpt-2", "dpo", "2xA100")
    with pytest.raises(UserError, match="unknown stage 'ppo'"):
        require(paper, "qwen2.5-7b", "ppo", "2xA100")


def test_a_missing_gpu(paper, smi):
    smi(A10)
    with pytest.raises(UserError, match="HARDWARE=2xA100 needs 2 GPUs of 80 GiB; .*can run: HARDWARE=1x24GB, cpu"):
        require(paper, "qwen2.5-7b", "dpo", "2xA100")


def test_a_key_counts_only_while_the_teacher_is_still_to_be_asked(paper, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    require(paper, "qwen2.5-7b", "base", "2xA100")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set.*asked for rationales and thoughts and corrections"):
        require(paper, "qwen2.5-7b", "dpo", "2xA100")
    for name in ("rationales", "thoughts"):
        write_json(paper.dataset("shared", "thought-sft") / f"{name}.responses.jsonl", {})
    require(paper, "qwen2.5-7b", "solution-sft", "2xA100")
    with pytest.raises(UserError, match="asked for corrections"):
        require(paper, "qwen2.5-7b", "dpo", "2xA100")
    write_json(paper.dataset("qwen2.5-7b", "dpo") / "corrections.responses.jsonl", {})
    require(paper, "qwen2.5-7b", "dpo", "2xA100")


@pytest.mark.parametrize("override", ["teacher_base_url=http://localhost:1/v1", "teacher=self"])
def test_other_teachers_need_no_key_for_corrections(workdir, paper, monkeypatch, override):
    monkeypatch.delenv("OPENAI_API_KEY")
    run = declare("other", resolve("paper", [override]))
    for name in ("rationales", "thoughts"):
        write_json(run.dataset("shared", "thought-sft") / f"{name}.responses.jsonl", {})
    require(run, "qwen2.5-7b", "dpo", "2xA100")


def test_a_hub_model_offline_must_be_in_the_cache(paper, workdir, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="Qwen/Qwen2.5-7B-Instruct: not in .*hub-home/hub, and HF_HUB_OFFLINE"):
        require(paper, "qwen2.5-7b", "dpo", "2xA100")
    (workdir / "hub-home/hub/models--Qwen--Qwen2.5-7B-Instruct/snapshots/abc").mkdir(parents=True)
    with pytest.raises(UserError, match="BAAI/bge-large-en-v1.5: not in"):
        require(paper, "qwen2.5-7b", "dpo", "2xA100")
    (workdir / "hub-home/hub/models--BAAI--bge-large-en-v1.5/snapshots/abc").mkdir(parents=True)
    require(paper, "qwen2.5-7b", "dpo", "2xA100")


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-7B-Instruct", "BAAI/bge-large-en-v1.5"])
def test_a_model_that_the_hub_will_not_give_is_said_before_the_teacher_is_paid(name, paper, hub, workdir, monkeypatch):
    for status, said in ((404, "check the name"), (503, "try again later"), (401, "accept its terms at .* HF_TOKEN")):
        hub[name] = status
        with pytest.raises(UserError, match=f"{name}: to be downloaded, and http://.* with status {status}: {said}"):
            require(paper, "qwen2.5-7b", "dpo", "2xA100")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    require(paper, "qwen2.5-7b", "dpo", "2xA100")
    monkeypatch.delenv("HF_TOKEN")
    (workdir / "hub-home").mkdir()
    (workdir / "hub-home" / "token").write_text("hf_good\n")  # of `hf auth login`
    require(paper, "qwen2.5-7b", "dpo", "2xA100")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"http://127.0.0.1:1 is not reached \(ConnectError\): connect this machine"):
        require(paper, "qwen2.5-7b", "dpo", "2xA100")


def test_too_little_disk(paper, disk, workdir):
    disk(55)  # 14 GiB to download, and three times 14 for the merged stages
    with pytest.raises(UserError, match="55 GiB free, and about 57 needed: 3 trainings of 14 GiB of weights"):
        require(paper, "qwen2.5-7b", "dpo", "2xA100")
    require(paper, "qwen2.5-7b", "solution-sft", "2xA100")
    (workdir / "hub-home/hub/models--Qwen--Qwen2.5-7B-Instruct/snapshots/abc").mkdir(parents=True)
    require(paper, "qwen2.5-7b", "dpo", "2xA100")
    disk(250)
    with pytest.raises(UserError, match="3 trainings of 28 GiB of weights, 199 of checkpoints, 0 to download"):
        require(declare("full", resolve("paper", ["finetuning=full"])), "qwen2.5-7b", "dpo", "2xA100")


def test_models_the_run_makes_are_not_looked_for(workdir, smi, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    require(declare("demo", resolve("demo", [])), "tiny", "dpo", "cpu")


def test_full_fine_tuning_needs_the_memory_for_it(paper, smi):
    full = declare("full", resolve("paper", ["finetuning=full"]))
    require(full, "qwen2.5-7b", "thought-sft", "2xA100")  # ZeRO-3 shares 16 bytes a parameter
    with pytest.raises(UserError, match="full of qwen2.5-7b at thought-sft needs about 114 GiB; here are 80"):
        require(full, "qwen2.5-7b", "thought-sft", "1xA100")
    smi(A10)
    require(paper, "llama3.1-8b", "dpo", "1x24GB")  # LoRA fits


def test_preflight_is_silent_once_the_stage_is_trained(paper, smi):
    smi(A10)
    write_json(paper.stage_dir("qwen2.5-7b", "dpo") / "manifest.json", {})
    require(paper, "qwen2.5-7b", "dpo", "2xA100")
    with pytest.raises(UserError, match="HARDWARE=2xA100 needs 2 GPUs"):
        require(paper, "qwen2.5-7b", "solution-sft", "2xA100")


def installed(environment, name, source):
    """Put a package with this source into an environment whose Python is that of the tests."""
    site = environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (site / f"{name}-1.0.dist-info").mkdir(parents=True)
    (site / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (site / f"{name}.py").write_text(source)
    (environment / "bin").mkdir()
    (environment / "bin" / "python").write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
    (environment / "bin" / "python").chmod(0o755)


NO_TOOLKIT = """import os
if not os.environ.get("DS_IGNORE_CUDA_DETECTION") or {old}:
    raise RuntimeError("CUDA_HOME does not exist, unable to compile CUDA op(s)")
"""


@pytest.mark.parametrize("old", [False, True])
def test_a_deepspeed_that_cannot_be_imported_is_named_before_anything_is_spent(old, tmp_path):
    """Since accelerate imports it, it would end LoRA too. From 0.18.9 on it can be told not to look for the toolkit."""
    require_deepspeed(tmp_path)
    installed(tmp_path, "deepspeed", NO_TOOLKIT.format(old=old))
    if old:
        with pytest.raises(UserError, match=r"no training would start \(RuntimeError: CUDA_HOME does not exist.*"
                                            "pip uninstall -y deepspeed"):
            require_deepspeed(tmp_path)
    else:
        require_deepspeed(tmp_path)


def test_offload_needs_the_compilers_that_it_starts_with(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    require_compilers("zero3")
    assert examine()["compilers"] == "no no-such-compiler and no nvcc; only DeepSpeed's offload needs them"
    with pytest.raises(UserError, match="zero3-offload compiles its optimizer, .* no no-such-compiler and no nvcc: "):
        require_compilers("zero3-offload")
    for name in ("c++", "nvcc"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).touch(mode=0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "bin" / "c++"))
    require_compilers("zero3-offload")


def test_a_gpu_machine_trains_lora_without_deepspeed():
    """What is installed beside the environment is what every training imports."""
    assert "deepspeed" not in pins(ROOT / "requirements" / "train-gpu.txt")
    assert [int(part) for part in pins(ROOT / "requirements" / "deepspeed.txt")["deepspeed"].split(".")] >= [0, 18, 9]
