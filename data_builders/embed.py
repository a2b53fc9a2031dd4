"""Embed texts with FlagEmbedding, one row a text, for data_builders.selection (section 3.2.1). Needs .venv-train."""

import argparse
import sys
from contextlib import nullcontext, redirect_stderr
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.files import read_jsonl, up_to_date, writing

MODEL = "BAAI/bge-large-en-v1.5"  # section 4.2.1


def read_texts(path: Path, field: str) -> list[str]:
    """Read the texts under `field`, in the order of the file. Raises UserError naming a line without one."""
    texts = []
    for number, record in read_jsonl(path):
        text = record.get(field)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}:{number}: no text under {field!r}; it has {', '.join(record) or 'nothing'}")
        texts.append(text)
    if not texts:
        raise UserError(f"{path}: no texts to embed")
    return texts


def embed(model: str, texts: list[str], batch: int, max_length: int, pooling: str
          ) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Encode texts with an encoder model of FlagEmbedding; returns N x d (not normalised) and facts about it.

    On a GPU in float16, else in float32 on the CPU. Texts longer than the model's own limit or max_length tokens
    are cut; how many is among the facts. Raises UserError when the model cannot be loaded.
    """
    try:
        import torch
        from FlagEmbedding import FlagModel
        from transformers import logging
    except ImportError as error:
        raise UserError(f"{error}; run this with .venv-train/bin/python (make setup-train)") from None
    gpu = torch.cuda.is_available()
    try:
        encoder = FlagModel(model, normalize_embeddings=False, use_fp16=gpu, devices="cuda:0" if gpu else "cpu",
                            pooling_method=pooling, trust_remote_code=False)
    except Exception as error:  # a broken folder may raise anything, often over many lines
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{model}: cannot be loaded as an embedding model: {type(error).__name__}: {reason}") from None
    limit = min(max_length, encoder.tokenizer.model_max_length, encoder.model.config.max_position_embeddings)
    lengths = [len(ids) for ids in encoder.tokenizer(texts, verbose=False)["input_ids"]]
    logging.set_verbosity_error()
    # The library shows its progress bars even without a terminal.
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
        rows = encoder.encode(texts, batch_size=batch, max_length=limit).astype(np.float32)
    return rows, {
        "rows": len(rows), "dimensions": rows.shape[1], "limit": limit,
        "cut": sum(length > limit for length in lengths),
        "device": torch.cuda.get_device_name() if gpu else "cpu", "dtype": "float16" if gpu else "float32",
        "versions": {name: version(name) for name in ("FlagEmbedding", "transformers", "torch")},
    }


def _main(given: argparse.Namespace) -> None:
    from logreasoner.config import load_run
    from logreasoner.weights import cached_revision, folder_digest, model_missing

    model = given.model or MODEL
    if given.run:
        run = load_run(given.run)
        model = run.placed(run.experiment.embedding)
    # A new revision on the hub does not repeat this: another selection would pay for other thoughts.
    settings = {"model": model, "weights": folder_digest(Path(model)) if Path(model).is_dir() else None,
                "field": given.field, "max_length": given.max_length, "pooling": given.pooling}
    if up_to_date(given.out, [given.texts], settings):
        print(f"{given.out}: made before, from the same texts")
        return
    texts = read_texts(given.texts, given.field)
    if missing := model_missing(model):
        raise UserError(missing)
    rows, facts = embed(model, texts, given.batch, given.max_length, given.pooling)
    with writing(given.out, "wb", [given.texts], settings=settings, revision=cached_revision(model), **facts) as stream:
        np.save(stream, rows)
    cut = f"; {facts['cut']} texts were longer than {facts['limit']} tokens and cut" if facts["cut"] else ""
    print(f"{given.out}: {len(rows)} x {rows.shape[1]} on {facts['device']}{cut}")


def main() -> None:
    """Embed the texts of a JSONL file."""
    arguments = cli.parser("data_builders.embed", "Embed the texts of a JSONL file; runs in .venv-train.", """
.venv-train/bin/python -m data_builders.embed --texts analyses.jsonl --field analysis --out E.npy
.venv-train/bin/python -m data_builders.embed --model ./my-encoder --pooling mean --texts T.jsonl --out E.npy""")
    source = arguments.add_mutually_exclusive_group()
    source.add_argument("--model", help=f"hub name or folder of an encoder model (default: {MODEL})")
    source.add_argument("--run", help="a declared run: its embedding model")
    arguments.add_argument("--texts", required=True, type=Path, help="JSONL")
    arguments.add_argument("--field", default="analysis", help="the key that holds the text (default: analysis)")
    arguments.add_argument("--out", required=True, type=Path, help=".npy, float32, N x d, rows in the file's order")
    arguments.add_argument("--batch", type=int, default=32, help="texts at once (default: 32)")
    arguments.add_argument("--max-length", type=int, default=512, help="tokens of a text (default: 512)")
    arguments.add_argument("--pooling", default="cls", choices=["cls", "mean"], help="bge models use cls (the default)")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
