"""The review page in a real browser (Debian's chromium): keys, edits, a browser that dies, hostile logs, a phone.

SCREENSHOTS=docs/images also writes the pictures of the documentation.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from logreasoner.config import declare, resolve
from logreasoner.files import ROOT, read_jsonl, write_json, write_jsonl
from logreasoner.instances import Instance
from tests.conftest import running

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300),
              pytest.mark.skipif(not CHROMIUM, reason="no chromium (apt-get install chromium)")]
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

MODEL, PFP = "qwen2.5-7b", "potential_failure_prediction"
ASKED = "Will the event lead to a failure? Answer True or False.\n\nLog:\n"
HOSTILE = "FAN/[MASK]/X: <img src=//example.org/x onerror=\"document.title='mine'\"><script>fetch('//example.org')"
LOGS = [
    "FAN/[MASK]/SPEED: The speed of fan 2 fell below 1200 rpm while the intake air stayed at 24 degrees.",
    HOSTILE,
    "POWER/[MASK]/FEED: Power feed B of shelf 3 was restored after 14 minutes; feed A carried the load.",
    "LINK/[MASK]/ERRORS: 5120 checksum errors were counted on port 0/0/7 within one minute.",
]
ANALYSIS = """<solutions>
1. A fan turns too slowly for its load.
2. The air at the intake is not warm, so the drive is at fault and not the control.
3. Without cooling the board behind it heats up.
4. A failure is on its way.
</solutions>"""
THOUGHT = {
    "problem_overview": "Judge from one event whether it tells of a failure that is coming or of an ordinary change.",
    "key_challenges": ["A measured value means little without its usual range.",
                       "A recovery can look like a fault when only its first half is read."],
    "reasoning_steps": ["Name the part and what happened to it.", "Say what that part does for the rest of the device.",
                        "Compare what was measured with what is usual for it.",
                        "Follow what happens next if nobody acts.", "Decide whether a failure is on its way."],
}
FLAWED = ["Fan 2 turns more slowly than it should.", "The intake air is at an ordinary temperature.",
          "A slow fan at ordinary temperature is how the control saves power.", "So nothing has to be done."]
CORRECTION = {
    "first_error": 3, "reason": "Saving power keeps the speed inside its range; here it fell below the limit.",
    "steps": ["Wait: the control stops at the lower limit. The speed is below it, so that is excluded.",
              "A fan that cannot hold its lowest speed is wearing out, and cooling goes with it."], }


@pytest.fixture
def folder(workdir):
    """A run with four thoughts, the last one not valid, and two corrections, the last one not valid."""
    run = declare("r", resolve("paper", [f"tasks={PFP}"]))
    items = [Instance(f"pfp-{number}", PFP, "made", log, "True") for number, log in enumerate(LOGS)]
    write_jsonl(run.splits / "stage2.jsonl", (item.as_json() for item in items))
    problems = {item.id: ASKED + item.log for item in items}
    shared, own = run.dataset("shared", "thought-sft"), run.dataset(MODEL, "dpo")
    write_jsonl(shared / "analyses.jsonl", ({"id": key, "analysis": ANALYSIS} for key in problems))
    write_json(shared / "selected.json", list(range(len(LOGS))))
    detail = {**THOUGHT, "reasoning_steps": ["Look at port 0/0/7.", *THOUGHT["reasoning_steps"]]}
    write_jsonl(shared / "thoughts.jsonl", [
        *({"id": key, "task": PFP, "outcome": "valid", "problem": problem, "thought": THOUGHT}
          for key, problem in list(problems.items())[:3]),
        {"id": "pfp-3", "task": PFP, "outcome": "instance detail in a step", "problem": problems["pfp-3"],
         "thought": json.dumps(detail)}])
    write_jsonl(run.dataset(MODEL, "solution-sft") / "solutions.jsonl", (
        {"id": key, "task": PFP, "outcome": "wrong", "label": "True", "text": "", "steps": FLAWED, "answer": "False"}
        for key in ("pfp-0", "pfp-3")))
    write_jsonl(own / "corrections.jsonl", [
        {"id": "pfp-0", "task": PFP, "outcome": "accepted", "text": json.dumps(CORRECTION), "chosen": "..."},
        {"id": "pfp-3", "task": PFP, "outcome": "first_error out of range", "chosen": None,
         "text": json.dumps({**CORRECTION, "first_error": 9})}])
    return workdir


@pytest.fixture
def server(folder):
    """The real program; gives its address."""
    command = [sys.executable, "-m", "data_builders.review_page", "--run", "r", "--model", MODEL, "--who", "Ada"]
    with running(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                 stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield re.search(r"http://\S+", process.stdout.readline()).group()
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and not errors and " of 4 thoughts decided" in said


@pytest.fixture
def launch():
    """Start a browser; each is a process of its own that a test may kill."""
    with playwright.sync_playwright() as driver:
        yield lambda: driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])


@pytest.fixture
def page(launch, server):
    """The page in a browser; no request may leave the machine, and nothing may break the content policy."""
    found, asked, complaints = launch().new_page(viewport={"width": 1280, "height": 620}), [], []
    found.on("request", lambda request: asked.append(urlsplit(request.url)))
    found.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.goto(server)
    expect(found.locator("#id")).to_have_text("pfp-0")
    yield found
    assert {url.hostname for url in asked if url.scheme != "data"} == {"127.0.0.1"}
    assert [each for each in complaints if "422" not in each] == []


def decided(folder, name="thoughts"):
    """Id and decision of each line of the review file."""
    return [(line["id"], line["decision"]) for _, line in read_jsonl(folder / f"build/runs/r/review/{name}.jsonl")]


def press(page, key, shown):
    """Press a key and wait for the row that it leads to."""
    page.keyboard.press(key)
    expect(page.locator("#id")).to_have_text(shown)


def picture(page, name):
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=ROOT / os.environ["SCREENSHOTS"] / f"{name}.png")


def test_keys_decide_and_move(page, folder):
    expect(page.locator("#progress")).to_have_text("0 of 4 decided")
    press(page, "a", "pfp-1")
    press(page, "r", "pfp-2")
    expect(page.locator("#progress")).to_have_text("2 of 4 decided")
    press(page, "k", "pfp-1")
    expect(page.locator("#verdict")).to_contain_text("rejected by Ada")
    press(page, "ArrowLeft", "pfp-0")
    picture(page, "review-thoughts")
    press(page, "u", "pfp-2")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("build/runs/r/review/thoughts.jsonl")
    page.keyboard.press("a")
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert decided(folder) == [("pfp-0", "accepted"), ("pfp-1", "rejected")]


def test_an_invalid_thought_is_edited_into_a_valid_one(page, folder):
    for number in (1, 2, 3):
        press(page, "j", f"pfp-{number}")
    expect(page.locator(".why")).to_contain_text("instance detail in a step: 0/0/7")
    expect(page.locator("#accept")).to_be_disabled()
    page.keyboard.press("e")
    page.get_by_label("Reasoning steps, 1", exact=True).fill("Look at eth0 first.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("is not valid (instance detail in a step: eth0)")
    assert not (folder / "build/runs/r/review/thoughts.jsonl").exists()
    page.get_by_label("Reasoning steps, 1", exact=True).fill("Look at the port first.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#progress")).to_have_text("1 of 4 decided")
    (_, line), = read_jsonl(folder / "build/runs/r/review/thoughts.jsonl")
    assert line["thought"]["reasoning_steps"] == ["Look at the port first.", *THOUGHT["reasoning_steps"]]
    assert (line["id"], line["who"]) == ("pfp-3", "Ada")


def test_nothing_is_lost_when_the_browser_dies(launch, server, folder):
    browser = launch()
    page = browser.new_page()
    page.goto(server)
    expect(page.locator("#id")).to_have_text("pfp-0")
    press(page, "a", "pfp-1")
    page.keyboard.press("e")
    with pytest.raises(Exception, match="closed"):
        browser.new_browser_cdp_session().send("Browser.crash")
    again = launch().new_page()
    again.goto(server)
    expect(again.locator("#id")).to_have_text("pfp-1")
    expect(again.locator("#progress")).to_have_text("1 of 4 decided")
    assert decided(folder) == [("pfp-0", "accepted")]


def test_hostile_text_stays_text(page):
    press(page, "j", "pfp-1")
    expect(page.locator("pre").first).to_contain_text(HOSTILE)
    assert page.title() == "Review: thoughts"
    assert page.locator("img, main script, iframe").count() == 0


def test_corrections_are_compared_and_edited(page, server, folder):
    page.get_by_role("link", name="corrections").click()
    expect(page.locator("#progress")).to_have_text("0 of 2 decided")
    expect(page.locator("li.unchanged")).to_have_count(2 + 3)  # the flawed step stands on the other side
    picture(page, "review-corrections")
    expect(page.locator("li.flaw").first).to_have_text(f"first flawed step {FLAWED[2]}")
    expect(page.locator("li.corrected").first).to_have_text(f"corrected from here {CORRECTION['steps'][0]}")
    press(page, "a", "pfp-3")
    expect(page.locator(".why")).to_contain_text("first_error out of range")
    page.keyboard.press("e")
    page.get_by_label("First flawed step").fill("3")
    page.get_by_label("Corrected steps, 5").fill("So <answer> True </answer>")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("not in form")
    page.get_by_label("Corrected steps, 5").fill("Wait: errors have a cause.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_have_text("All are decided.")
    assert decided(folder, f"corrections.{MODEL}") == [("pfp-0", "accepted"), ("pfp-3", "edited")]


def test_a_phone_shows_all_of_it(page, folder):
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Accept").click()
    expect(page.locator("#progress")).to_have_text("1 of 4 decided")
    page.get_by_role("button", name="Edit").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Cancel").click()
    assert decided(folder) == [("pfp-0", "accepted")]
