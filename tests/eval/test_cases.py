"""Cases in text, as figures 1, 9 and 11 have them."""

import json

import pytest

from data_builders import stage1, stage2
from eval import cases
from logreasoner.config import declare, resolve
from logreasoner.files import write_json, write_jsonl
from logreasoner.instances import Instance

PFP, MODEL = "potential_failure_prediction", "qwen2.5-7b"
ONE, TWO, TEST = (Instance(f"{split}-1", PFP, "made", f"FAN/[MASK]/X: Fan {split} stopped.\x1b[2J", "True")
                  for split in ("stage1", "stage2", "test"))
RIGHT = "<solutions>\n1. A fan stopped.\n2. Heat follows.\n</solutions>\n<answer> True </answer>"
WRONG = RIGHT.replace("True", "False")
PLAN = {"problem_overview": "Judge an event.", "key_challenges": ["Few words."],
        "reasoning_steps": ["Name the event.", "Ask what follows.", "Decide."]}


def response(key, text):
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return {"custom_id": key, "response": {"status_code": 200, "body": body}, "error": None}


@pytest.fixture
def run(workdir):
    run = declare("t", resolve("paper", [f"tasks={PFP}"]))
    for split, item in (("stage1", ONE), ("stage2", TWO), ("test", TEST)):
        write_jsonl(run.splits / f"{split}.jsonl", [item.as_json()])
    return run


def filled(run):
    folder, own = stage1.folder(run), run.dataset(MODEL, "solution-sft")
    write_jsonl(folder / "analyses.jsonl", [{"id": ONE.id, "task": PFP, "problem": "x", "analysis": "It stopped."}])
    write_json(folder / "selected.json", [0])
    write_jsonl(folder / "thoughts.responses.jsonl", [response(ONE.id, json.dumps(PLAN))])
    stage1.thoughts(run)
    write_jsonl(own / "solutions.responses.jsonl", [response(TWO.id, WRONG)])
    stage2.solutions(run, MODEL, "solution-sft")
    write_jsonl(run.dataset(MODEL, "dpo") / "corrections.responses.jsonl", [response(TWO.id, json.dumps(
        {"first_error": 2, "reason": "Heat.", "steps": ["But, wait: heat follows."]}))])
    stage2.corrections(run, MODEL, "dpo")
    for stage, text in (("base", f"{WRONG}\x1b]0;owned\x07"), ("dpo", RIGHT)):
        write_jsonl(run.predictions(MODEL, stage), [response(TEST.id, text)])


def printed(monkeypatch, capsys, *options):
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["cases", "--run", "t", "--model", MODEL, *options])
    cases.main()
    return capsys.readouterr().out


def test_without_an_id_there_is_a_case_of_each_figure(run, monkeypatch, capsys):
    filled(run)
    out = printed(monkeypatch, capsys)
    assert [line[4:] for line in out.splitlines() if line.startswith("=== ")] == [
        f"Problem test-1 ({PFP}, made; true label: True)", f"Answer of {MODEL}/base", f"Answer of {MODEL}/dpo",
        f"Problem stage1-1 ({PFP}, made; true label: True)", "Raw analysis", "High-level thought (valid)",
        f"Problem stage2-1 ({PFP}, made; true label: True)", f"Solution by {MODEL}'s thought-sft (wrong)",
        f"Correction for {MODEL}/dpo (accepted)"]
    assert "1. Name the event." in out and f"{WRONG}\n" in out
    assert "2. Heat follows.\n3. But, wait: heat follows.\n</solutions>\n<answer> True </answer>" in out


def test_log_text_and_answers_cannot_command_a_terminal(run, monkeypatch, capsys):
    filled(run)
    out = printed(monkeypatch, capsys, "--id", TEST.id)
    assert "\\x1b[2J" in out and "\\x1b]0;owned\\x07" in out and "\x1b" not in out and "stage2-1" not in out


def test_what_is_not_there_is_named(run, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="no thought, correction or prediction"):
        printed(monkeypatch, capsys)
    with pytest.raises(SystemExit, match="no instance has the id 'nobody'"):
        printed(monkeypatch, capsys, "--id", "nobody")
