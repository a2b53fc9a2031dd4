"""Compare the live engine with `vllm bench serve` on a real vLLM server, and measure prefix-cache hits.

The model is the demo's tiny one, untrained: the speed does not depend on what it answers.
"""

import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measuring import Ran, Row, alternately, ran
from bench.sessions import made
from eval.predict import requests as evaluation
from logreasoner.cli import UserError
from logreasoner.config import Run, decoding, load_run, task
from logreasoner.examples import Example
from logreasoner.files import read_json, read_jsonl, write_json, write_jsonl
from logreasoner.generation import generate, vllm
from logreasoner.generation.openai_live import ask_live
from logreasoner.generation.response_cache import Engine, Record, endpoints, payload, request
from logreasoner.instances import read_instances
from logreasoner.machine import has_gpu
from logreasoner.prompts import solution

RUN, MODEL, NAME, TASK = "bench", "tiny", "tiny/base", "anomaly_detection"
WINDOWS, WINDOW, EXAMPLES = 200, 20, 3  # as the paper evaluates: sessions of 20 lines, three examples
TOKENS = 48, 144  # of an answer, least and most, drawn from a seed and the same on both sides: a few short steps and a
# label. With one length for all, answers come in waves, as no model's do. On two cores the client may then wait for
# seconds while the engine's processes, which poll, keep both; so what it waited stands in the table.
TURNS = 3
# The CPU build's `vllm` command dies on a look-up of its own metadata; this is the same program. It reads prompts by
# pandas, which is in the core environment (argv 1) alone, and needs nothing else from there: so that comes last.
PEER = """
import argparse, sys
sys.path.append(sys.argv.pop(1))
from vllm.benchmarks import serve
arguments = argparse.ArgumentParser()
serve.add_cli_args(arguments)
serve.main(arguments.parse_args())
"""


def windows(folder: Path) -> list[Record]:
    """Make three-shot requests about BGL-format sessions, by a seed, with answers of a given number of tokens."""
    count = (WINDOWS + EXAMPLES) * WINDOW
    log, sessions = made(folder / f"{count}.log", count), folder / "sessions.jsonl"
    ran([sys.executable, "-m", "data_builders.sessions", "--format", "bgl", "--window", str(WINDOW),
         "--out", str(sessions), str(log)])
    items, draw = list(read_instances(sessions)), random.Random(42)
    # One user's message, since the peer sends no others: the variant `inline`.
    shots = [Example(item, ("Read each line.", "Look for a fault.")) for item in items[:EXAMPLES]]
    return [request(item.id, NAME, "evaluation", solution(item, task(TASK), shots), vllm=True,
                    max_tokens=draw.randint(*TOKENS), ignore_eos=True) for item in items[EXAMPLES:]]


def prepared() -> Run:
    """Make the demo's run, its untrained tiny model and its few-shot examples."""
    ran([sys.executable, "-m", "demo.teacher", "--run", RUN, "--", "make", "examples",
         f"build/runs/{RUN}/models/{MODEL}/init/model/config.json", "EXPERIMENT=demo", f"RUN={RUN}", f"MODEL={MODEL}",
         "HARDWARE=cpu"])
    return load_run(RUN)


def weights(run: Run, folder: Path) -> Path:
    """Copy the model with an ordinary tokenizer: the demo's has one token for each long fixed line."""
    shutil.copytree(run.dir / "models" / MODEL / "init" / "model", folder, dirs_exist_ok=True)
    (folder / "added_tokens.json").unlink(missing_ok=True)
    whole, settings = (folder / name for name in ("tokenizer.json", "tokenizer_config.json"))
    cut, told = read_json(whole), read_json(settings)
    special = [token for token in cut["added_tokens"] if token["special"]]
    told["added_tokens_decoder"] = {str(token["id"]): told["added_tokens_decoder"][str(token["id"])]
                                    for token in special}
    write_json(whole, {**cut, "added_tokens": special})
    write_json(settings, told)
    return folder.resolve()


def counted(url: str, *names: str) -> list[float]:
    """Read vLLM's counters, each summed over its labels."""
    import httpx

    text = httpx.get(f"{url.removesuffix('/v1')}/metrics", timeout=60).raise_for_status().text
    return [sum(map(float, re.findall(rf"^vllm:{name}_total(?:{{.*}})? (\S+)$", text, re.MULTILINE)))
            for name in names]


def through(url: str, asked: list[Record]) -> tuple[float, list[Record]]:
    """Send requests as every step does, with files and a journal; returns (seconds, responses)."""
    with tempfile.TemporaryDirectory() as name:
        requests, responses = Path(name) / "x.requests.jsonl", Path(name) / "x.responses.jsonl"
        write_jsonl(requests, asked)
        start = time.perf_counter()
        ours = Engine(lambda new, journal: ask_live(new, journal, url, "none", title="ours"), endpoints(url))
        generate.answer(requests, responses, ours)
        return time.perf_counter() - start, [record for _, record in read_jsonl(responses)]


def hits(url: str, what: str, asked: list[Record]) -> Row:
    """Measure the share of prompt tokens in the prefix cache; the server has not seen these prompts before."""
    names = ("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens")
    before = counted(url, *names)
    through(url, asked)
    queried, hit, tokens = (after - first for after, first in zip(counted(url, *names), before, strict=True))
    return Row(f"prefix-cache hits, {what}: {len(asked)} prompts of {tokens / len(asked):,.0f} tokens", f"{hit:,.0f}",
               f"prompt tokens: {queried:,.0f}", f"{hit / queried:.2f}", "at least 0.7", hit >= 0.7 * queried)


def once(url: str, asked: list[Record]) -> Row:
    """Count the requests that reach the server where the file holds each question three times."""
    copies = [{**each, "custom_id": f"{each['custom_id']}#{at}"} for at in range(3) for each in asked]
    before, = counted(url, "request_success")
    through(url, copies)
    sent = counted(url, "request_success")[0] - before
    return Row(f"requests sent for {len(copies)} lines, {len(asked)} different", f"{sent:,.0f}", f"{len(asked)}",
               f"{sent / len(asked):.2f}", "1", sent == len(asked))


def tokens(asked: list[Record]) -> int:
    """Count the tokens of all answers."""
    return sum(each["body"]["max_tokens"] for each in asked)


def peer(url: str, model: Path, folder: Path, asked: list[Record]) -> Callable[[], Ran]:
    """Prepare `vllm bench serve` with these prompts; it measures from its first request to its last answer."""
    prompts, body = folder / "prompts.jsonl", asked[0]["body"]
    write_jsonl(prompts, ({"prompt": each["body"]["messages"][0]["content"],
                           "output_tokens": each["body"]["max_tokens"]} for each in asked))
    sampling = {key: body[key] for key in ("top_p", "seed", "repetition_penalty")}
    pandas = next(path for path in sys.path if path.endswith("site-packages"))

    def measured() -> Ran:
        done = ran([".venv-serve/bin/python", "-c", PEER, pandas, "--backend", "openai-chat", "--base-url",
                    url.removesuffix("/v1"), "--endpoint", "/v1/chat/completions", "--model", NAME, "--tokenizer",
                    str(model), "--dataset-name", "custom", "--dataset-path", str(prompts), "--skip-chat-template",
                    "--custom-output-len", "-1", "--num-prompts", str(len(asked)), "--disable-shuffle",
                    "--max-concurrency", str(decoding()["live"]["concurrency"]), "--ignore-eos", "--temperature",
                    str(body["temperature"]), "--extra-body", json.dumps(sampling), "--disable-tqdm", "--save-result",
                    "--result-dir", str(folder), "--result-filename", "peer.json"], vllm.vllm_environment())
        found = read_json(folder / "peer.json")
        if (found["completed"], found["total_output_tokens"]) != (len(asked), tokens(asked)):
            raise UserError(f"{folder / 'peer.json'}: not all answered, or with other numbers of tokens")
        return Ran(found["duration"], done.peak, str(found["total_input_tokens"]))

    return measured


def alike(asked: list[Record]) -> list[Record]:
    """Give all answers one length, the mean of what they were."""
    mean = tokens(asked) // len(asked)
    return [{**each, "body": {**each["body"], "max_tokens": mean}} for each in asked]


def waited() -> float:
    """Return the seconds that this thread was ready to run but had no processor (Linux)."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def speed(url: str, model: Path, folder: Path, asked: list[Record]) -> list[Row]:
    """Measure requests per second of ours and of the peer in turns, with warm prefix caches.

    Also how long ours had no processor: a server on the same few cores may leave its client none.
    """
    without, turns = list[float](), list[float]()

    def ours() -> Ran:
        before = waited()
        seconds, responses = through(url, asked)
        without.append(waited() - before)
        turns.append(seconds)
        usage = [payload(each)["body"]["usage"] for each in responses]
        if sum(each["completion_tokens"] for each in usage) != tokens(asked):
            raise UserError(f"{url}: answers have other numbers of tokens")
        return Ran(seconds, 0, str(sum(each["prompt_tokens"] for each in usage)))

    mine, theirs = alternately(TURNS, ours, peer(url, model, folder, asked))
    if mine.output != theirs.output:
        raise UserError(f"{url}: {mine.output} prompt tokens of ours, {theirs.output} of vllm bench serve")
    rates = [len(asked) / each.seconds for each in (mine, theirs)]
    lengths = sorted({each["body"]["max_tokens"] for each in asked})
    answers = f"{lengths[0]} to {lengths[-1]} tokens" if len(lengths) > 1 else f"{lengths[0]} tokens, all together"
    what = f"{len(asked)} requests, {decoding()['live']['concurrency']} at once, answers of {answers}"
    return [Row(f"{what}, into journal and response file", f"{rates[0]:.1f} requests/s",
                f"`vllm bench serve`, which streams: {rates[1]:.1f} requests/s", f"{rates[0] / rates[1]:.2f}",
                "at least 0.95", rates[0] >= 0.95 * rates[1]),
            Row(f"{what}: our client ready, but without a processor", f"{min(without):.1f} to {max(without):.1f} s",
                f"{len(turns)} turns of {min(turns):.1f} to {max(turns):.1f} s", "-", "-", None)]


def measure(folder: Path) -> list[Row]:
    """Make rows for prefix-cache hits, for identical requests and for speed, all on one server."""
    run, asked = prepared(), windows(folder)
    model = weights(run, folder / "model")
    short = [each for each in evaluation(run, MODEL, "base")
             if task(TASK).question.strip() in each["body"]["messages"][-1]["content"]]
    # Only whole blocks are shared. vLLM's have 16 tokens on a GPU; on a CPU 128, or any multiple of 32.
    blocks = [] if has_gpu() else ["--block-size", "32"]
    longest = decoding()["serving"]["max_model_len"]
    command = vllm.vllm_command(str(model), NAME, run.model(MODEL), "base", longest, *blocks)
    with vllm.server(command, folder / "server.log") as url:
        return [hits(url, f"anomaly detection, {EXAMPLES} examples, sessions of {WINDOW} BGL-format lines", asked),
                hits(url, "the demo's anomaly detection, one or two lines", short), once(url, asked[:50]),
                *speed(url, model, folder, asked), *speed(url, model, folder, alike(asked))]
