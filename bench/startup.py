"""Measure the start-up of every command, scoring and the public data."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

from bench.measuring import Ran, Row, alternately, limit, ran
from logreasoner.files import ROOT, writing

ANSWERS = 100_000
PACKAGES = ("logreasoner", "data_builders", "eval", "demo", "bench")
WORDS = re.findall(r"\w+", "interface link down neighbor timeout flapping power fan module session route memory "
                             "threshold exceeded alarm cleared because the state changed from up to")
# argv: a module; exit status 9 if its --help imported torch
IMPORTS_TORCH = """
import runpy, sys
module, sys.argv[1:] = sys.argv[1], ["--help"]
try:
    runpy.run_module(module, run_name="__main__")
except SystemExit:
    sys.exit(9 if "torch" in sys.modules else 0)
"""


def commands() -> list[str]:
    """List every module with a command line."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).glob("*.py"))]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in files
            if "__main__" in path.read_text(encoding="utf-8")]


def _help(module: str) -> Ran:
    return ran([sys.executable, "-m", module, "--help"])


def write_answers(folder: Path) -> tuple[Path, Path]:
    """Write ANSWERS failure-prediction instances and responses like a tuned model's in form and length."""
    instances, responses, draw = folder / "instances.jsonl", folder / "responses.jsonl", random.Random(42)
    with writing(instances) as rows, writing(responses) as answers:
        for number in range(ANSWERS):
            label = draw.choice(("True", "False"))
            log, *steps = (" ".join(draw.choices(WORDS, k=size)) for size in (15, 20, 20, 20))
            rows.write(json.dumps({"id": f"made-{number}", "task": "potential_failure_prediction", "source": "made",
                                    "split": "test", "log": log, "label": label}) + "\n")
            lines = "\n".join(f"{at}. {step}" for at, step in enumerate(steps, 1))
            text = f"<solutions>\n{lines}\n</solutions>\n<answer> {draw.choice(('True', 'False'))} </answer>"
            body = {"id": f"c{number}", "object": "chat.completion", "created": 0, "model": "made", "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 800, "completion_tokens": 90, "total_tokens": 890}}
            answers.write(json.dumps({"id": f"r{number}", "custom_id": f"made-{number}", "error": None,
                                       "response": {"status_code": 200, "body": body}}) + "\n")
    return instances, responses


def _scored(folder: Path) -> tuple[Ran, Ran]:
    instances, responses = write_answers(folder)
    bare_loop = "import json, sys\nfor name in sys.argv[1:]:\n for line in open(name): json.loads(line)"
    ours, bare = alternately(
        3, lambda: ran([sys.executable, "-m", "eval.score", "--task", "potential_failure_prediction", "--instances",
                        str(instances), "--responses", str(responses), "--out", str(folder / "result.json")]),
        lambda: ran([sys.executable, "-c", bare_loop, str(instances), str(responses)]))
    return ours, bare


def measure(folder: Path) -> list[Row]:
    """Make rows for --help, make -n, imports of torch, scoring and `make data`."""
    helps = {module: min((_help(module) for _ in range(3)), key=lambda run: run.seconds) for module in commands()}
    slowest = max(helps, key=lambda module: helps[module].seconds)
    torch = [module for module in helps if subprocess.run(
        [sys.executable, "-c", IMPORTS_TORCH, module], cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode]
    dry, = alternately(3, lambda: ran(["make", "-n", "dpo", "MODEL=qwen2.5-7b"]))
    ours, bare = _scored(folder)
    rows = [
        limit(helps[slowest].seconds, 0.5, f"slowest `--help` of {len(helps)} commands ({slowest})", "s"),
        Row("commands that import torch for `--help`", str(len(torch)), ", ".join(torch) or "-", "-", "0", not torch),
        limit(dry.seconds, 0.5, "`make -n dpo MODEL=qwen2.5-7b`", "s"),
        limit(ours.seconds, 3, f"{ANSWERS:,} responses scored (reading both files by json.loads alone: "
              f"{bare.seconds:.2f} s)", "s"),
    ]
    return [*rows, _data()]


def _data() -> Row:
    """Time `make data` of a new run, with the checks of the downloads, where DATA_MIRROR names the public files."""
    what = "`make data` from a mirror"
    if not os.environ.get("DATA_MIRROR"):
        return Row(what, "not run: DATA_MIRROR is not set", "limit: 20 s", "-", "at most 1", None)
    done = ran(["make", "data", "RUN=bench-data"])
    return limit(done.seconds, 20, what, "s")
