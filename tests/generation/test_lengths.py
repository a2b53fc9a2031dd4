"""What fits into a model, and on a device, before vLLM starts."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from logreasoner.cli import UserError
from logreasoner.config import hardware, model
from logreasoner.files import ROOT, write_json
from logreasoner.generation.lengths import Lengths, fit, for_server
from logreasoner.generation.response_cache import Answerer, Journal, Record, error_of, final
from logreasoner.generation.vllm import parallel_options


def requests(*lengths: int) -> list[Record]:
    return [{"custom_id": f"i{at}", "body": {"messages": [{"role": "user", "content": str(at)}], "max_tokens": most}}
            for at, most in enumerate(lengths)]


def test_the_server_is_as_long_as_the_requests_need_and_never_longer_than_the_model(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", Answerer())
    two = requests(1_000, 500)
    assert fit(Lengths(32_768, [900, 2_000]), two, journal, stop=True) == (two, 3_072)
    assert fit(Lengths(2_500, [900, 2_000]), two, journal, stop=True) == (two, 2_500)
    assert fit(Lengths(2_500), [], journal, stop=True) == ([], 0)
    assert not journal.answers
    assert for_server(Lengths(8_192)) == 8_192 and for_server(Lengths(131_072)) == 16_384


def test_what_cannot_fit_is_refused_by_its_id_before_anything_is_asked(tmp_path: Path,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
    three, path = requests(1_000, 1_000, 1_000), tmp_path / "j"
    lengths, journal = Lengths(2_048, [1_048, 1_049, 5_000]), Journal(path, Answerer())
    with pytest.raises(UserError, match=r"2 of 3 requests do not fit into the model's 2,048 tokens: i1 needs 2,049 "
                                        r"tokens, 1,000 of them for the answer; i2 needs 6,000.*lower max_tokens"):
        fit(lengths, three, journal, stop=True)
    assert not path.exists()
    assert fit(lengths, three, journal, stop=False) == (three[:1], 2_048)
    assert "i1 needs 2,049" in capsys.readouterr().err
    again = Journal(path, Answerer())
    assert [bool(again.answer(row)) for row in three] == [False, True, True]
    assert final(again.last(three[1])) and "need 2049 tokens, the model takes 2048" in error_of(again.last(three[1]))


@pytest.mark.parametrize(("name", "profile", "copies", "options"), [
    ("qwen2.5-7b", "2xA100", 1, []), ("qwen2.5-7b", "2xA100", 2, ["--data-parallel-size", "2"]),
    ("qwen2.5-7b", "1x24GB", 1, []), ("qwen2.5-14b", "4x24GB", 1, ["--tensor-parallel-size", "4"]),
    ("qwen2.5-14b", "cpu", 1, []), ("qwen2.5-14b", None, 2, ["--data-parallel-size", "2"])])
def test_weights_are_split_where_one_device_does_not_hold_them(name: str, profile: str | None, copies: int,
                                                                 options: list[str]) -> None:
    assert parallel_options(model(name), hardware().get(profile or ""), copies) == options


@pytest.mark.parametrize(("profile", "copies", "message"), [
    ("1x24GB", 1, "28 GiB of weights on each device, and 1 x 24 GB .* has room for 17.*tensor_parallel"),
    ("4x24GB", 2, "2 copies on 4 devices each are more than 4 x 24 GB .*DATA_PARALLEL=1 fits")])
def test_a_machine_that_is_too_small_is_named(profile: str, copies: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parallel_options(model("qwen2.5-14b"), hardware()[profile], copies)


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 300, "max_position_embeddings": 512}
ROPE = {"none": (None, 512), "linear": ({"rope_type": "linear", "factor": 4.0}, 2_048),
        "yarn": ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512)}
MAKE = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
core = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
for folder in sys.argv[1:]:
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>").save_pretrained(folder)
"""


@pytest.mark.e2e
def test_vllm_and_the_tokenizer_are_asked(in_train, tmp_path: Path) -> None:
    if not (ROOT / ".venv-serve" / ".ready").exists():
        pytest.skip("no .venv-serve; `make setup-serve` makes it")
    in_train(MAKE, *(str(tmp_path / name) for name in ROPE))
    for name, (rope, limit) in ROPE.items():
        write_json(tmp_path / name / "config.json", {**LLAMA, **({"rope_scaling": rope} if rope else {})})
        done = subprocess.run(
            [".venv-serve/bin/python", "-m", "logreasoner.generation.count_tokens", "--model",
             str(tmp_path / name), "--chat-template", "templates/chat/smollm2.jinja"],
            cwd=ROOT, text=True, capture_output=True, check=True,
            input=json.dumps([[{"role": "system", "content": "S"}, {"role": "user", "content": "é"}]]),
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_TARGET_DEVICE": "cpu"})
        # <|im_start|> system \n S <|im_end|> \n, the same with two bytes, and the answer's header
        assert json.loads(done.stdout.splitlines()[-1]) == {"limit": limit, "prompts": [11 + 10 + 11]}
