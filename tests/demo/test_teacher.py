import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import openai
import pytest

from data_builders.corrections import parse_correction
from demo import logs, teacher
from logreasoner import prompts
from logreasoner.answer_format import Trajectory, parse_trajectory
from logreasoner.config import Run, resolve
from logreasoner.examples import Example
from logreasoner.files import ROOT, write_jsonl
from logreasoner.instances import Instance
from tests.conftest import running


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    run = Run("demo", resolve("demo", []))
    run.splits = tmp_path_factory.mktemp("splits")
    items = list(logs.instances("train"))[::6]
    for at, split in enumerate(teacher.SPLITS):
        write_jsonl(run.splits / f"{split}.jsonl", (item.as_json() for item in items[at::5]))
    with pytest.MonkeyPatch.context() as patch, teacher.serving("demo") as url:
        patch.setattr(teacher, "load_run", lambda name: run)
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)

        def ask(prompt):
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            reply = client.chat.completions.create(model="scripted-teacher", temperature=0.8, messages=messages)
            assert reply.usage.total_tokens > 0
            return reply.choices[0].message.content

        yield SimpleNamespace(run=run, items=items, tasks=run.tasks(), ask=ask, client=client)


def problem(world, item):
    return prompts.problem(item, world.tasks[item.task])


def rationale(world, item):
    return prompts.render("rationale", task=world.tasks[item.task], problem=problem(world, item))


def test_rationales_are_mostly_right_sometimes_wrong_sometimes_out_of_form(world):
    outcomes = []
    for item in world.items:
        answer = parse_trajectory(world.ask(rationale(world, item)), world.tasks[item.task].labels)
        outcomes.append("unparsed" if answer is None else "right" if answer.answer == item.label else "wrong")
    assert outcomes.count("right") > 0.7 * len(outcomes)
    assert outcomes.count("wrong") > 0
    assert outcomes.count("unparsed") > 0


def test_evaluation_prompts_are_answered_with_and_without_examples(world):
    shots = [Example(item, ("A step.",)) for item in world.items[:3]]
    for examples, turns in (((), True), (shots, True), (shots, False)):
        right = parsed = 0
        for item in world.items[3::2]:
            task = world.tasks[item.task]
            answer = parse_trajectory(world.ask(prompts.conversation(item, task, examples, turns)), task.labels)
            parsed, right = parsed + (answer is not None), right + (answer is not None and answer.answer == item.label)
        asked = len(world.items[3::2])
        assert 0.7 * asked < right < parsed < asked


def test_a_batch_is_done_when_it_is_looked_at_for_the_second_time(world):
    asked = {str(at): rationale(world, item) for at, item in enumerate(world.items[:4])}
    asked["stranger"] = "Who are you?"
    lines = [{"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "scripted-teacher", "messages": [{"role": "user", "content": prompt}]}}
        for key, prompt in asked.items()]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = world.client.files.create(file=("x.jsonl", data), purpose="batch")
    assert world.client.files.content(file.id).content == data
    made = world.client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions",
                                       completion_window="24h", metadata={"key": "mine"})
    assert [each.id for each in world.client.batches.list() if each.metadata == {"key": "mine"}] == [made.id]
    looks = [world.client.batches.retrieve(made.id).status for _ in range(3)]
    assert looks == ["in_progress", "completed", "completed"]
    done = world.client.batches.retrieve(made.id)
    assert (done.request_counts.completed, done.request_counts.failed) == (4, 1)
    answered, refused = ([json.loads(line) for line in world.client.files.content(name).content.splitlines()]
                         for name in (done.output_file_id, done.error_file_id))
    assert [each["response"]["body"]["choices"][0]["message"]["content"] for each in answered] == [
        world.ask(prompt) for prompt in list(asked.values())[:4]]
    assert [(each["custom_id"], each["response"]["status_code"]) for each in refused] == [("stranger", 404)]


@pytest.mark.parametrize("ask", [lambda client: client.batches.retrieve("batch_99"),
                                 lambda client: client.files.content("file-99"),
                                 lambda client: client.batches.create(input_file_id="file-99", completion_window="24h",
                                                                      endpoint="/v1/chat/completions")])
def test_what_was_never_uploaded_or_submitted_is_refused(world, ask):
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        ask(world.client)


def test_same_prompt_same_answer(world):
    prompt = rationale(world, world.items[0])
    assert world.ask(prompt) == world.ask(prompt)


def test_a_prompt_of_another_run_is_refused(world):
    with pytest.raises(openai.NotFoundError, match="its own run"):
        world.ask("Who are you?")
    stranger = Instance("x", "anomaly_detection", "atlas", "never seen", "normal")
    with pytest.raises(openai.NotFoundError):
        world.ask(rationale(world, stranger))


def test_thoughts_are_mostly_general_steps(world):
    good = bad = 0
    for item in world.items:
        prompt = prompts.render("thought", problem=problem(world, item), analysis="1. Look.", least=3, most=8)
        try:
            steps = json.loads(world.ask(prompt))["reasoning_steps"]
        except ValueError:
            bad += 1
            continue
        assert 4 <= len(steps) <= 5
        carried = any(detail in steps for detail in teacher.script()["thoughts"]["details"])
        bad, good = bad + carried, good + (not carried)
    assert good > 0.8 * (good + bad)
    assert bad > 0


def correct(world, item, steps, answer):
    return world.ask(prompts.render("correction", problem=problem(world, item), steps=steps, answer=answer,
                                    label=item.label, keep=True))


def test_corrections_name_the_flawed_step_and_add_to_it(world):
    outcomes = []
    for item in (item for item in world.items if item.task == "potential_failure_prediction"):
        wrong = {"True": "False", "False": "True"}[item.label]
        steps = [step[0] for step in teacher.wordings(item.task, problem(world, item), wrong)]
        try:
            reply = json.loads(correct(world, item, steps, wrong))
        except ValueError:
            outcomes.append("unparsed")
            continue
        result, why = parse_correction(json.dumps(reply), Trajectory(tuple(steps), wrong), item.label,
                                       ["True", "False"])
        outcomes.append("accepted" if result else "rejected")
        if result:
            assert set(reply) == {"first_error", "reason", "steps"} and wrong in reply["steps"][0]
            assert result.steps[:2] == tuple(steps[:2]), "the flawed step stands"
    assert outcomes.count("accepted") > 0.7 * len(outcomes)
    assert set(outcomes) == {"accepted", "rejected", "unparsed"}


def test_where_only_the_conclusion_is_wrong_the_first_error_is_after_the_last_step(world):
    found = set()
    for item in (item for item in world.items if item.task == "root_cause_analysis"):
        steps = [step[-1] for step in teacher.wordings(item.task, problem(world, item), item.label)]
        try:
            found.add(json.loads(correct(world, item, steps, "EventTrap"))["first_error"])
        except ValueError:
            continue
    assert len(steps) + 1 in found


def test_public_logs_are_answered_with_words_of_the_log(world):
    log = "ciod: failed to read message prefix on control stream"
    item = Instance("p", "anomaly_detection", "bgl", log, "abnormal")
    steps = [step[0] for step in teacher.wordings(item.task, problem(world, item), item.label)]
    assert "control" in steps[0]


def test_a_run_with_a_real_teacher_is_refused(world, monkeypatch):
    monkeypatch.setattr(teacher, "load_run", lambda name: Run("paper", resolve("paper", [])))
    asked = rationale(world, Instance("x", "anomaly_detection", "atlas", "never seen", "normal"))
    status, body = teacher.Teacher("paper").respond({"messages": [{"role": "user", "content": asked}]})
    assert status == 400 and "gpt-4o" in body["error"]["message"]


def beside(source):
    """Start the program with Python source as its command."""
    return running([sys.executable, "-m", "demo.teacher", "--run", "demo", "--", sys.executable, "-c", source], 60,
                   cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_command_gets_the_address_and_its_status_counts():
    with beside("import os, sys; sys.exit(7 if os.environ['SCRIPTED_TEACHER_URL'].startswith('http://127.0.0.1:') "
                "else 1)") as program:
        assert program.wait() == 7


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_program_alike_and_its_command_first(ends):
    """The command does what make does: it is told, cleans up, and is waited for."""
    with beside("import signal, sys, time\n"
                "def told(*_): time.sleep(1); print('cleaned up'); sys.exit()\n"
                "signal.signal(signal.SIGTERM, told); print('ready', flush=True); time.sleep(60)") as program:
        assert program.stdout.readline() == "ready\n"
        program.send_signal(ends)
        said, errors = program.communicate()
    assert (program.returncode, said, errors) == (130, "cleaned up\n", "stopped; run the same command again to go on\n")
