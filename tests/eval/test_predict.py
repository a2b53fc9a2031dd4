import sys
from pathlib import Path
from typing import Any

import pytest

from eval import predict
from logreasoner import examples
from logreasoner.config import Run, declare, decoding, resolve
from logreasoner.files import read_json, read_jsonl, write_jsonl
from tests.results import write_solutions

TASKS = {"anomaly_detection": "normal", "root_cause_analysis": "EventTrap"}


def rows(prefix: str, source: str, count: int) -> list[dict[str, Any]]:
    return [{"id": f"{prefix}-{name}-{at}", "task": name, "source": source, "log": f"{prefix} log {at}", "label": label}
            for at in range(count) for name, label in TASKS.items()]


@pytest.fixture
def run(workdir: Path) -> Run:
    """A declared run with splits of two tasks and two sources."""
    found = declare("toy", resolve("demo", [f"tasks={','.join(TASKS)}"]))
    write_jsonl(found.splits / "test.jsonl", [*rows("b", "beta", 2), *rows("a", "alpha", 2)])
    write_jsonl(found.splits / "test_seen.jsonl", rows("seen", "alpha", 1))
    write_jsonl(found.splits / "examples.jsonl", rows("shot", "alpha", 3))
    write_solutions(found)
    return found


def command(monkeypatch: pytest.MonkeyPatch, *more: str) -> list[dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["eval.predict", "--run", "toy", "--model", "qwen2.5-7b", "--stage", "dpo",
                                      "--out", "X.requests.jsonl", *more])
    predict.main()
    return [record for _, record in read_jsonl("X.requests.jsonl")]


def test_every_test_instance_is_asked_once_with_its_tasks_examples(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = command(monkeypatch)
    assert len(found) == len({asked["custom_id"] for asked in found}) == 10
    for asked in found:
        messages = asked["body"]["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 3 + ["user"]
        label = TASKS[asked["custom_id"].split("-")[1]]
        for at in range(3):
            assert f"Log:\nshot log {at}" in messages[2 * at]["content"]
            assert messages[2 * at + 1]["content"] == (f"<solutions>\n1. Read shot log {at}.\n2. Judge what it tells.\n"
                                                       f"</solutions>\n<answer> {label} </answer>")
        assert "log" in messages[-1]["content"] and "shot" not in messages[-1]["content"]
        assert asked["body"]["model"] == "qwen2.5-7b/dpo" and asked["body"]["temperature"] == 0
    manifest = read_json("X.requests.jsonl.manifest.json")
    assert manifest["requests"] == 10 and len(manifest["inputs"]) == 5


@pytest.mark.parametrize(("form", "shown"), [("inline", "1. Read shot log 2."), ("label-only", "Answer: normal")])
def test_the_other_forms_are_one_message(run: Run, monkeypatch: pytest.MonkeyPatch, form: str, shown: str) -> None:
    other = declare("other", run.experiment.model_copy(update={"examples": form}))
    for name in ("test", "test_seen", "examples"):
        write_jsonl(other.splits / f"{name}.jsonl", (row for _, row in read_jsonl(run.splits / f"{name}.jsonl")))
    if form == "inline":
        write_solutions(other)
    [message] = command(monkeypatch, "--run", "other")[0]["body"]["messages"]
    assert shown in message["content"] and message["content"].count("### Example") == 3


def test_solutions_stay_what_the_first_model_was_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(model: str) -> None:
        monkeypatch.setattr(sys, "argv", ["eval.predict", "--run", "toy", "--model", model, "--stage", "dpo", "--out",
                                          f"build/runs/toy/predictions/{model}/dpo/test.requests.jsonl"])
        predict.main()

    file = examples.written_file(run, "anomaly_detection")
    before = file.read_text()
    asked("qwen2.5-7b")
    file.write_text(before.replace("Judge", "Decide", 1))
    with pytest.raises(SystemExit, match=r"anomaly_detection.yaml has changed since test.requests.jsonl of "
                                         r"qwen2.5-7b/dpo was written.*RUN=toy-2"):
        asked("qwen2.5-3b")
    file.write_text(before)
    asked("qwen2.5-3b")


def test_prompts_that_share_their_beginning_are_neighbours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [asked["custom_id"] for asked in command(monkeypatch)]
    assert [key.split("-")[1] for key in ids] == ["anomaly_detection"] * 5 + ["root_cause_analysis"] * 5
    assert [key.split("-")[0] for key in ids[:5]] == ["a", "a", "seen", "b", "b"]  # sources alpha, alpha, alpha, beta


def test_another_endpoint_gets_its_own_name_and_no_fields_of_vllm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others = command(monkeypatch)[0], command(monkeypatch, "--endpoint", "other", "--name", "gpt")[0]
    assert "repetition_penalty" in ours["body"] and "repetition_penalty" not in others["body"]
    assert others["body"]["model"] == "gpt"


def test_an_api_is_asked_by_its_name_without_being_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    api = ("--model", "gpt-4o", "--stage", "base")
    body = command(monkeypatch, *api)[0]["body"]
    assert body["model"] == "gpt-4o-2024-08-06" and "repetition_penalty" not in body and body["temperature"] == 0
    assert read_json("X.requests.jsonl.manifest.json")["endpoint"] == "other"
    served = command(monkeypatch, *api, "--endpoint", "vllm", "--name", "m")[0]["body"]
    assert served["model"] == "m" and "repetition_penalty" in served


def test_samples_are_drawn_with_seeds_of_their_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = command(monkeypatch), command(monkeypatch, "--samples", "3")
    assert [asked["custom_id"] for asked in three] == [f"{asked['custom_id']}#{at}" for asked in one for at in range(3)]
    settings = decoding()["sampling"]
    for at, asked in enumerate(three):
        assert asked["body"] == {**one[at // 3]["body"], **settings, "seed": settings["seed"] + at % 3}
    assert settings["temperature"] > 0 and command(monkeypatch, "--samples", "1") == one


def test_a_limit_asks_a_part_of_the_same_requests(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = command(monkeypatch)
    parts = [command(monkeypatch, "--limit", limit) for limit in ("1", "2", "9")]
    assert [len(part) for part in parts] == [4, 8, 10]  # of two tasks and two sources; alpha has three a task, beta two
    assert all([asked for asked in whole if asked in part] == part for part in parts)
    assert all(asked in parts[1] for asked in parts[0])
    assert read_json("X.requests.jsonl.manifest.json")["limit"] == 9


def test_a_model_that_thinks_first_may_write_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = command(monkeypatch, "--stage", "base")[0]["body"]
    thinks = command(monkeypatch, "--stage", "base", "--model", "r1-distill-qwen-7b")[0]["body"]
    assert thinks == {**usual, "model": "r1-distill-qwen-7b/base", **decoding()["thinking"]}
    assert usual["max_tokens"] < thinks["max_tokens"] < decoding()["serving"]["max_model_len"]


@pytest.mark.parametrize(("more", "said"), [
    (["--stage", "sft"], "unknown stage 'sft'"), (["--model", "gpt-9"], "unknown model 'gpt-9'"),
    (["--model", "majority", "--stage", "baseline"], "majority is of kind baseline .*: it answers without prompts"),
    (["--model", "gpt-4o"], "gpt-4o is of kind api .*: its one stage is 'base', not 'dpo'"),
])
def test_unknown_names(run: Run, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        command(monkeypatch, *more)


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "x", "", "9" * 5000])
def test_numbers_that_are_none(run: Run, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    for option in ("--limit", "--samples"):
        with pytest.raises(SystemExit, match="2"):
            command(monkeypatch, option, number)


def test_a_task_without_all_its_examples(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(run.splits / "examples.jsonl", rows("shot", "alpha", 2))
    with pytest.raises(SystemExit, match=r"examples.jsonl: 2 examples of anomaly_detection, the run shows 3"):
        command(monkeypatch)
    assert not Path("X.requests.jsonl").exists()


def test_an_instance_in_both_test_splits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(run.splits / "test_seen.jsonl", rows("a", "alpha", 1))
    with pytest.raises(SystemExit, match=r"id 'a-anomaly_detection-0' is in test.jsonl and in test_seen.jsonl"):
        command(monkeypatch)
