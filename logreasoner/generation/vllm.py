"""Start vLLM's OpenAI-compatible server for local weights, and end it with the program that started it."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from logreasoner.children import child
from logreasoner.cli import UserError
from logreasoner.config import CHAT, decoding
from logreasoner.files import read_json
from logreasoner.machine import cpu_has_bf16, few_cores, has_gpu
from logreasoner.schemas import Hardware, Model

WEIGHTS = 0.8  # of the memory that vLLM takes; the rest is for activations and the cache


def vllm_command(weights: str, name: str, model: Model, stage: str, max_model_len: int, *options: str) -> list[str]:
    """Return the command that starts vLLM's server: the chat template of training, and neutral sampling defaults.

    max_model_len: tokens of the longest prompt with its answer (logreasoner/generation/lengths.py).
    """
    command = [".venv-serve/bin/python", "-m", "vllm.entrypoints.openai.api_server",
               "--model", weights, "--served-model-name", name, "--chat-template", str(chat_template(model.template)),
               "--default-chat-template-kwargs", json.dumps(chat_arguments(model, stage)),
               "--max-model-len", str(max_model_len), "--generation-config", "vllm", "--seed", "0",
               "--load-format", "safetensors"]
    if not has_gpu():
        # vLLM's CPU build stops at a request with a seed and a temperature whose prompt is computed in chunks.
        unchunked = ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max_model_len)]
        return [*command, "--dtype", cpu_dtype(weights), "--enforce-eager", *unchunked, *options]
    return [*command, "--gpu-memory-utilization", str(decoding()["gpu_memory_utilization"]), *options]


def parallel_options(model: Model, profile: Hardware | None, copies: int = 1) -> list[str]:
    """Return the options that spread `copies` of a model over a machine's devices.

    Weights (2 bytes a parameter) that one device does not hold are split over `tensor_parallel` of them. Raises
    UserError where the profile has too few devices.
    """
    options = ["--data-parallel-size", str(copies)] if copies > 1 else []
    if profile is None or profile.cpu:
        return options
    room = profile.memory * decoding()["gpu_memory_utilization"] * WEIGHTS
    split = 1 if model.parameters * 2 / 2**30 <= room else profile.tensor_parallel or 1
    need = model.parameters * 2 / 2**30 / split
    if need > room:
        raise UserError(f"{model.title}: {need:.0f} GiB of weights on each device, and {profile.title} has room for "
                        f"{room:.0f}: take another HARDWARE, or set its tensor_parallel in experiments/hardware.yaml "
                        "to the number of devices over which vLLM splits the weights")
    if split * copies > profile.devices:
        raise UserError(f"{model.title}: {copies} copies on {split} devices each are more than {profile.title} has: "
                        f"DATA_PARALLEL={max(1, profile.devices // split)} fits")
    return options + (["--tensor-parallel-size", str(split)] if split > 1 else [])


def cpu_dtype(weights: str) -> str:
    """Return the precision in which a CPU serves weights: as they are saved, float32 if it cannot compute bfloat16."""
    config = Path(weights) / "config.json"
    saved = read_json(config) if config.exists() else {}
    exact = "float32" in (saved.get("dtype"), saved.get("torch_dtype"))  # torch_dtype: transformers before 4.56
    return "float32" if exact or not cpu_has_bf16() else "bfloat16"


def vllm_environment() -> dict[str, str]:
    """Return the environment vLLM starts in: no usage statistics, and on a machine without a GPU its CPU build.

    Of few processor cores vLLM computes on all, not on all but one. What the user's own environment says stays.
    """
    defaults = {} if has_gpu() else {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "2",
                                  **({"VLLM_CPU_OMP_THREADS_BIND": few_cores()} if few_cores() else {})}
    return {**defaults, **os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def chat_template(name: str) -> Path:
    """Return the chat template that gives the token ids of training. Raises UserError if there is none."""
    path = CHAT / f"{name}.jinja"
    if not path.exists():
        raise UserError(f"{path}: no chat template for the template {name!r}; render it: make chat-templates")
    return path


def chat_arguments(model: Model, stage: str = "") -> dict[str, bool]:
    """Return the variables of the chat template that serves a model at a stage.

    Weights as they were published begin a thought where their vendor's own template does; trained ones begin as
    LLaMA-Factory's training does.
    """
    return {"enable_thinking": model.thinking, "begin_thought": model.begins_thought and stage == "base"}


@contextmanager
def server(command: list[str], log: Path | None, seconds: float = 900, host: str = "127.0.0.1",
           port: int = 0) -> Iterator[str]:
    """Start vLLM's server (port 0: a free one), yield its base URL once it answers; end it with its children.

    Without a log it inherits this program's output. Raises UserError where the port is taken or the server fails.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: a port just released is free
        try:
            free.bind((host, port))
        except OSError as error:
            raise UserError(f"{host} port {port}: {error.strerror or error}; give another PORT= or HOST=") from None
        port = free.getsockname()[1]
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{reached}:{port}"
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with (open(log, "wb") if log else nullcontext() as stream,
          child([*command, "--host", host, "--port", str(port)], stream, vllm_environment()) as process):
        deadline = time.monotonic() + seconds
        while not _answers(f"{address}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"vLLM's server did not come up; see {log or 'its output above'}")
            time.sleep(1)
        yield f"{address}/v1"


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200  # no proxy: it is this machine
    except httpx.HTTPError:
        return False
