"""Make the demo's models from a seed: a tiny Qwen2 with its own tokenizer, and a tiny embedding model.

Runs in the train environment. Both are random. The first learns in base-sft; the second maps words to random
directions, which is enough for a selection by diversity.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from demo import base_sft
from logreasoner import cli, prompts, weights
from logreasoner.cli import UserError
from logreasoner.config import load_run
from logreasoner.generation.vllm import chat_template

TURN_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BERT_MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def fixed_lines(turns: list[str]) -> list[str]:
    """Return the long lines that many prompts share, the most frequent first."""
    declared = base_sft.settings()["tokenizer"]["line_is_token"]
    counted = Counter(line for turn in turns for line in dict.fromkeys(turn.splitlines()))
    return [line for line, count in counted.most_common()
            if len(line) >= declared["characters"] and count >= declared["share"] * len(turns)]


def tokenizer(prompted: list[list[prompts.Message]], answers: list[str]) -> Any:
    """Train a byte-level BPE tokenizer with Qwen's turn tokens and chat template on prompts and answers.

    Each fixed line of the prompts is one token: prompts are a quarter as long, and what is left is the log. Text is
    split as Qwen2 splits it: transformers 5, which vLLM uses, takes Qwen2's tokenizer for every Qwen2 model and would
    split it so in any case, and training must see the same tokens.
    """
    import jinja2
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    template = chat_template("qwen").read_text(encoding="utf-8")
    turn = jinja2.Template(template)
    turns = [turn.render(messages=messages, add_generation_prompt=True) for messages in prompted]
    turns = [re.sub("|".join(map(re.escape, TURN_MARKS)), "\n", text) for text in turns]
    declared = base_sft.settings()["tokenizer"]
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(declared["split"]), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(turns + answers, trainers.BpeTrainer(
        vocab_size=declared["vocabulary"], special_tokens=TURN_MARKS,
        show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made.add_tokens(fixed_lines(turns))
    return Qwen2TokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=TURN_MARKS[1:],
        model_max_length=base_sft.settings()["qwen2"]["max_position_embeddings"], clean_up_tokenization_spaces=False,
        chat_template=template)


def qwen2(name: str, out: Path) -> None:
    """Write the tiny base model of a run, untrained."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    run = load_run(name)
    tasks = run.tasks()
    samples = list(base_sft.samples(name))
    prompted = [base_sft.messages(sample) for sample in samples]
    prompted += [[prompts.user(prompts.render("thought_sft", problem=prompts.problem(item, tasks[item.task])))]
                 for item in base_sft.instances(run)]
    made = tokenizer(prompted, [sample["response"] for sample in samples])
    set_seed(base_sft.settings()["seed"])
    model = Qwen2ForCausalLM(Qwen2Config(
        **base_sft.settings()["qwen2"], vocab_size=-(-len(made) // 64) * 64, bos_token_id=None, dtype=torch.float32,
        eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id))
    _save(model, made, out)


def word_pieces(texts: Iterable[str]) -> dict[str, int]:
    """Make a WordPiece vocabulary of letters and frequent words. The library's trainer is not deterministic."""
    words = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    letters = sorted({letter for word in words for letter in word})
    ranked = sorted(words, key=lambda word: (-words[word], word))
    pieces = dict.fromkeys([*BERT_MARKS, *letters, *(f"##{letter}" for letter in letters), *ranked])
    size = base_sft.settings()["tokenizer"]["vocabulary"]
    return {piece: number for number, piece in enumerate(list(pieces)[:size])}


def bert(out: Path) -> None:
    """Write the tiny embedding model."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast, set_seed

    made = BertWordPieceTokenizer(vocab=word_pieces(f"{item.text} {item.description}" for item in base_sft.instances()))
    wrapped = BertTokenizerFast(tokenizer_object=made._tokenizer,
                                model_max_length=base_sft.settings()["bert"]["max_position_embeddings"])
    set_seed(base_sft.settings()["seed"])
    model = BertModel(BertConfig(**base_sft.settings()["bert"], vocab_size=len(wrapped)))
    _save(model, wrapped, out)


def _save(model: Any, made: Any, out: Path) -> None:
    weights.save(model, made, out, base_sft.INPUTS, tokens=len(made), settings=base_sft.settings())


def _main(given: argparse.Namespace) -> None:
    if given.embedder:
        bert(given.out)
    elif given.run:
        qwen2(given.run, given.out)
    else:
        raise UserError("give --run, or --embedder")


def main() -> None:
    """Make one of the demo's models."""
    arguments = cli.parser("demo.tiny_model", "Make the demo's tiny base model or its embedding model.", """
python -m demo.tiny_model --run demo --out build/runs/demo/models/tiny/init/model
python -m demo.tiny_model --embedder --out build/runs/demo/models/embedder""")
    arguments.add_argument("--run", help="the run whose prompts the tokenizer is trained on")
    arguments.add_argument("--embedder", action="store_true", help="make the embedding model")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the model")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
