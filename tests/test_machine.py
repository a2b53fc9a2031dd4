from pathlib import Path

import pytest

from data_builders.recipes import _arguments
from logreasoner.config import hardware, stages
from logreasoner.generation.vllm import cpu_dtype
from logreasoner.machine import cpu_has_bf16


@pytest.mark.parametrize(("line", "expected"), [
    ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
    ("flags\t\t: fpu avx2 avx512f", False),
    ("Features\t: fp asimd bf16 i8mm", True),
    ("model name\t: a processor that says bf16", False),
    ("", False),
])
def test_a_processor_that_multiplies_bfloat16(line: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    assert cpu_has_bf16(tmp_path / "cpuinfo") is expected
    assert not cpu_has_bf16(tmp_path / "none")


def test_precision_on_a_cpu_is_what_the_processor_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stage, saved = stages()["thought-sft"], tmp_path / "config.json"
    for fast in (True, False):
        for module in ("data_builders.recipes", "logreasoner.generation.vllm"):
            monkeypatch.setattr(f"{module}.cpu_has_bf16", lambda answer=fast: answer)
        assert _arguments(stage, hardware()["cpu"], {})["bf16"] is fast
        assert _arguments(stage, hardware()["1xA100"], {})["bf16"] is True
        assert cpu_dtype("a-name/of-the-hub") == ("bfloat16" if fast else "float32")
        saved.write_text('{"dtype": "float32"}')
        assert cpu_dtype(str(tmp_path)) == "float32"
        saved.write_text('{"torch_dtype": "bfloat16"}')
        assert cpu_dtype(str(tmp_path)) == ("bfloat16" if fast else "float32")
