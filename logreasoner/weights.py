"""Which weights answer: a stage that was trained here, a user's folder, or a commit of a model on the hub.

An answer belongs to the weights that gave it, so what is found here is written beside each one
(logreasoner/generation/response_cache.py) and into each result.
"""

import os
import re
from pathlib import Path

from logreasoner.cli import UserError
from logreasoner.config import Run
from logreasoner.files import digest, read_json, sha256

FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")  # of a model's folder: weights, tokenizer, settings
COMMIT = re.compile(r"[0-9a-f]{40}")


def identity(run: Run, model: str, stage: str) -> dict[str, str]:
    """What tells the weights of a model at a stage from any others.

    A stage that was trained here: `weights`, a digest of its files' hashes. A folder: the same and its path. A model of
    the hub: its name and `revision`. Raises UserError where the weights are not there, or no commit can be found out.
    """
    path = run.weights(model, stage)
    if trained := known(run, model, stage):
        return trained
    if Path(path).is_dir():
        return {"folder": path, "weights": folder_digest(Path(path))}
    if stage != "base":
        raise UserError(f"{path}: no weights; make them: make train MODEL={model} STAGE={stage} RUN={run.name}")
    return {"hub": path, "revision": revision(path, run.model(model).revision)}


def folder_digest(path: Path) -> str:
    """A digest of the hashes of a model folder's files."""
    files = sorted({file for pattern in FILES for file in path.glob(pattern)} - {path / "manifest.json"})
    return digest({file.name: sha256(file) for file in files})


def vllm_options(found: dict[str, str]) -> list[str]:
    """What vLLM must be told so that it serves the very weights that `identity` found."""
    return ["--revision", found["revision"]] if "revision" in found else []


def known(run: Run, model: str, stage: str) -> dict[str, str]:
    """The identity of weights that were trained here, {} for others: what costs no look-up."""
    made = Path(run.weights(model, stage)).parent / "manifest.json"  # of the stage that made them
    hashes = read_json(made).get("weights") if made.exists() else None
    return {"weights": digest(hashes)} if hashes else {}


def revision(name: str, declared: str = "") -> str:
    """The commit of a hub's model: the one declared, else the one that this machine has of `main`, else the hub's.

    Raises UserError if there is none.
    """
    return declared or cached_revision(name) or _asked_revision(name)


def cached_revision(name: str) -> str:
    """The commit of `main` that the hub's cache on this machine holds, "" if it holds none."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    ref = cache / f"models--{name.replace('/', '--')}" / "refs" / "main"
    found = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    return found if COMMIT.fullmatch(found) else ""


def _asked_revision(name: str) -> str:
    import httpx

    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    why = "HF_HUB_OFFLINE is set, and the model is not in this machine's cache"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "TRUE", "YES", "ON"):
        token = os.environ.get("HF_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = httpx.get(f"{hub}/api/models/{name}/revision/main", headers=headers, timeout=30,
                               follow_redirects=True)
            found = str(answer.raise_for_status().json()["sha"])
            if COMMIT.fullmatch(found):
                return found
            why = "the hub named no commit"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            why = f"{hub} did not say ({type(error).__name__})"
    raise UserError(f"{name}: which commit of it answers cannot be found out: {why}. Reach the hub once, give the "
                    "model's folder as `path` in experiments/models.yaml, or its commit there as `revision`")
