import json
import os
import subprocess

import numpy as np
import pytest

from data_builders.embed import read_texts
from logreasoner.cli import UserError
from logreasoner.files import ROOT, write_json, write_jsonl

TINY_BERT = """
import sys
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast
torch.manual_seed(0)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
open("vocab.txt", "w").write("\\n".join(words))
BertTokenizerFast("vocab.txt", model_max_length=16).save_pretrained("bert")
BertModel(BertConfig(vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                     intermediate_size=32, max_position_embeddings=16)).save_pretrained("bert")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, train_python, in_train):
    folder = tmp_path_factory.mktemp("embed")
    in_train(TINY_BERT, cwd=folder)
    return folder


def embed(python, folder, model, *more):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "PYTHONPATH": str(ROOT)}
    return subprocess.run([str(python), "-m", "data_builders.embed", "--model", model, "--texts", "texts.jsonl",
                           "--out", "E.npy", *more], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.e2e
def test_rows_are_the_models_own_in_the_order_of_the_file(folder, train_python, in_train):
    texts = ["a b c", "j", "a b c", "d " * 40, "e f"]
    write_jsonl(folder / "texts.jsonl", ({"analysis": text} for text in texts))
    done = embed(train_python, folder, "./bert", "--batch", "2")
    assert done.returncode == 0, done.stderr
    assert "5 x 24" in done.stdout and "1 texts were longer than 16 tokens" in done.stdout
    rows = np.load(folder / "E.npy", allow_pickle=False)
    assert rows.dtype == np.float32
    expected = json.loads(in_train("""
import json
from transformers import AutoModel, AutoTokenizer
encode, model = AutoTokenizer.from_pretrained("bert"), AutoModel.from_pretrained("bert").eval()
texts = [json.loads(line)["analysis"] for line in open("texts.jsonl")]
print(json.dumps([model(**encode(text, return_tensors="pt", truncation=True)).last_hidden_state[0, 0].tolist()
                  for text in texts]))""", cwd=folder).splitlines()[-1])
    # A GPU computes in float16.
    made = json.loads((folder / "E.npy.manifest.json").read_text())
    np.testing.assert_allclose(rows, expected, atol=1e-5 if made["dtype"] == "float32" else 2e-2)
    assert [made[key] for key in ("rows", "dimensions", "limit", "cut")] == [5, 24, 16, 1]
    assert made["settings"]["model"] == "./bert" and list(made["inputs"]) == ["texts.jsonl"]
    assert "made before, from the same texts" in embed(train_python, folder, "./bert", "--batch", "4").stdout
    again = embed(train_python, folder, "./bert", "--max-length", "8")  # other settings
    assert "made before" not in again.stdout and "longer than 8 tokens" in again.stdout


@pytest.mark.e2e
@pytest.mark.parametrize(("model", "message"), [
    ("./nowhere", "./nowhere: no such folder"),
    ("some/model", "HF_HUB_OFFLINE forbids downloading it"),
    ("./empty", "./empty: no config.json in it"),
    ("./broken", "./broken: cannot be loaded as an embedding model"),
    ("./pickled", "./pickled: no *.safetensors in it"),
])
def test_a_model_that_is_not_there_is_one_line_and_leaves_nothing(folder, train_python, model, message):
    (folder / "empty").mkdir(exist_ok=True)
    for name, weights in (("broken", "model.safetensors"), ("pickled", "pytorch_model.bin")):
        write_json(folder / name / "config.json", {"model_type": "bert"})
        (folder / name / weights).write_bytes(b"\x80\x04N.")
    (folder / "E.npy").unlink(missing_ok=True)
    write_jsonl(folder / "texts.jsonl", [{"analysis": "a"}])
    failed = embed(train_python, folder, model)
    assert failed.returncode == 1
    assert message in failed.stderr and "Traceback" not in failed.stderr
    assert not (folder / "E.npy").exists()


@pytest.mark.parametrize(("records", "message"), [
    ([{"analysis": "a"}, {"other": "b"}], r"T.jsonl:2: no text under 'analysis'; it has other"),
    ([{"analysis": "  "}], r"T.jsonl:1: no text"),
    ([{"analysis": ["a"]}], r"T.jsonl:1: no text"),
    ([], "no texts to embed"),
])
def test_a_line_without_text_is_named(tmp_path, records, message):
    write_jsonl(tmp_path / "T.jsonl", records)
    with pytest.raises(UserError, match=message):
        read_texts(tmp_path / "T.jsonl", "analysis")
