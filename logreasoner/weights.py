"""Identify the weights that answer: of a stage that this run trained, a user's folder, or a commit on the hub.

An answer belongs to the weights that gave it, so their identity is recorded with each answer
(logreasoner/generation/response_cache.py) and each result.
"""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from logreasoner.cli import UserError
from logreasoner.config import Run
from logreasoner.files import digest, manifest, read_json, sha256

FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")  # of a model's folder: weights, tokenizer, settings
COMMIT = re.compile(r"[0-9a-f]{40}")


def identity(run: Run, model: str, stage: str) -> dict[str, str]:
    """Identify the weights of a model at a stage.

    A stage that this run trained: `weights`, a digest of its files' hashes. A folder: the same and its path. A model of
    the hub: its name and `revision`. Raises UserError for missing weights and an unknown commit.
    """
    path = run.weights(model, stage)
    if trained := known(run, model, stage):
        return trained
    if Path(path).is_dir():
        return {"folder": path, "weights": folder_digest(Path(path))}
    if stage != "base":
        raise UserError(f"{path}: no weights; make them: make train MODEL={model} STAGE={stage} RUN={run.name}")
    declared = run.model(model)
    try:
        return {"hub": path, "revision": revision(path, declared.revision)}
    except UserError as error:
        if not declared.package:
            raise
        raise UserError(f"{error}; or make its weights from the package index: make package-weights MODEL={model}"
                        ) from None


def save(model: Any, tokenizer: Any, out: Path, inputs: Iterable[Path], **facts: Any) -> None:
    """Write a transformers model and its tokenizer into a folder with a manifest, whole or not at all."""
    partial = out.with_name(f".{out.name}.half")  # make looks for the folder or a file in it
    for folder in (partial, out):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(partial, safe_serialization=True)
    tokenizer.save_pretrained(partial)
    size = sum(weight.numel() for weight in model.parameters())
    partial.rename(out)
    manifest(out, inputs, **facts, weights=size)
    print(f"{out}: {type(model).__name__}, {size:,} weights, {len(tokenizer):,} tokens")


def folder_digest(path: Path) -> str:
    """Return a digest of the hashes of a model folder's files."""
    files = sorted({file for pattern in FILES for file in path.glob(pattern)} - {path / "manifest.json"})
    return digest({file.name: sha256(file) for file in files})


def local(run: Run, model: str, stage: str) -> Path | None:
    """Return the folder of a model at a stage: as declared, or in this machine's hub cache; None if it is not here."""
    path = Path(run.weights(model, stage))
    if not path.is_dir():
        path = _cached(str(path)) / "snapshots" / (run.model(model).revision or cached_revision(str(path)) or "none")
    return path if path.is_dir() else None


def vllm_options(identity: dict[str, str]) -> list[str]:
    """Return the options by which vLLM serves the identified weights."""
    return ["--revision", identity["revision"]] if "revision" in identity else []


def known(run: Run, model: str, stage: str) -> dict[str, str]:
    """Return the identity of weights that this run trained, {} for others, without a look-up."""
    manifest = Path(run.weights(model, stage)).parent / "manifest.json"
    hashes = read_json(manifest).get("weights") if manifest.exists() else None
    return {"weights": digest(hashes)} if hashes else {}


def revision(name: str, declared: str = "") -> str:
    """Return the commit of a hub's model: declared, else of `main` in this machine's cache, else of `main` on the hub.

    Raises UserError if there is none.
    """
    return declared or cached_revision(name) or _hub_revision(name)


def path_like(name: str) -> bool:
    """Tell a folder from a model's name on the hub."""
    return name.startswith((".", "/", "~", "build/")) or name.count("/") > 1


def model_missing(name: str) -> str | None:
    """Return why a model cannot be loaded, without loading or downloading it; None if it seems to be there."""
    if Path(name).is_dir():
        if not Path(name, "config.json").exists():
            return f"{name}: no config.json in it, so it is not the folder of a model"
        return None if any(Path(name).glob("*.safetensors")) else (
            f"{name}: no *.safetensors in it; weights in other formats can run code and are not loaded")
    if path_like(name):
        return f"{name}: no such folder; give the folder of a model or its name on the hub"
    cached = _cached(name)
    if _offline() and not any(cached.glob("snapshots/*")):
        return (f"{name}: not in {cached.parent}, and HF_HUB_OFFLINE forbids downloading it; unset that, or give a "
                "folder")
    return None


def _cached(name: str) -> Path:
    """Return the folder of a hub's model in this machine's cache."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    return cache / f"models--{name.replace('/', '--')}"


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def cached_revision(name: str) -> str:
    """Return the commit of `main` in this machine's hub cache, "" if there is none."""
    ref = _cached(name) / "refs" / "main"
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    return commit if COMMIT.fullmatch(commit) else ""


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _ask_hub(path: str) -> Any:
    """Send the hub a GET, with HF_TOKEN or the token of `hf auth login`; returns httpx's response."""
    import httpx

    stored = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser() / "token"
    token = os.environ.get("HF_TOKEN") or (stored.read_text().strip() if stored.is_file() else "")
    return httpx.get(f"{_hub()}/{path}", headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=30,
                     follow_redirects=True)


def to_download(name: str) -> Path | None:
    """Return the folder of this machine's hub cache that a model will be downloaded into; None if it is here."""
    cached = _cached(name)
    return None if path_like(name) or Path(name).is_dir() or any(cached.glob("snapshots/*")) else cached


def hub_refusal(name: str, declared: str = "") -> str | None:
    """Ask the hub for a model's config.json; return why a download would fail, None if it would not or is not needed.

    declared: a commit, else `main`.
    """
    import httpx

    if not to_download(name):
        return None
    terms = f"accept its terms at {_hub()}/{name}, and set HF_TOKEN to a token of that account"
    try:
        status = _ask_hub(f"{name}/resolve/{declared or 'main'}/config.json").status_code
        reason = "" if status < 400 else f"answered with status {status}: " + {
            401: terms, 403: terms, 404: "check the name"}.get(status, "try again later")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"is not reached ({type(error).__name__}): connect this machine, let HF_ENDPOINT name a mirror"
    advice = "or give a folder as its `path` in experiments/models.yaml"
    return f"{name}: to be downloaded, and {_hub()} {reason}, {advice}" if reason else None


def _hub_revision(name: str) -> str:
    import httpx

    reason = "HF_HUB_OFFLINE is set, and the model is not in this machine's cache"
    if not _offline():
        try:
            commit = str(_ask_hub(f"api/models/{name}/revision/main").raise_for_status().json()["sha"])
            if COMMIT.fullmatch(commit):
                return commit
            reason = "the hub named no commit"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            reason = f"{_hub()} gave none ({type(error).__name__})"
    raise UserError(f"{name}: the commit of this model is unknown: {reason}. Connect to the hub once, or set the "
                    "model's `path` to a folder or its `revision` to a commit in experiments/models.yaml")
