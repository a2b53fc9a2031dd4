"""The report in a real browser (Debian's chromium): filters, two models side by side, links, hostile logs, a phone."""

import re
import shutil
from pathlib import Path

import pytest

from eval.report import make_report
from tests.eval.test_report import HOSTILE, LOGS, MODEL, add_the_rest, instances, make_run, words

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300),
              pytest.mark.skipif(not CHROMIUM, reason="no chromium (apt-get install chromium)")]
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
BASE, DPO = f"{MODEL}/base", f"{MODEL}/dpo"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as program:
        found = program.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Address of a report with 20 predictions of base, dpo and a baseline."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = make_run()
        add_the_rest(run)
        make_report(run, folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture
def visit(browser):
    """Open an address; whatever the page asks of the network, says on the console or throws fails the test."""
    contexts, heard = [], []

    def opened(address, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        page.on("request", lambda request: None if request.url.startswith(("data:", address.split("#")[0]))
                else heard.append(request.url))
        page.goto(address)
        expect(page.locator("#shows button").first).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert heard == []


def count(page, show):
    return int(page.locator(f"[data-show={show}] b").inner_text().replace(",", ""))


def shown(page):
    return page.locator("#list a").count()


def test_it_opens_quietly_with_its_figures_and_its_mark(report, visit):
    page = visit(report)
    expect(page.get_by_text("Scripted teacher: not a result.")).to_be_visible()
    width = "images => images.map(image => image.complete && image.naturalWidth)"
    widths = page.locator("figure img").evaluate_all(width)
    assert widths[0] > 500 and widths[1:] == [9]  # the overview, and a figure
    assert page.locator("#losses polyline").bounding_box()["width"] > 100
    assert page.locator("#status").inner_text() == "All: 1 to 20 of 20."


def test_its_policy_is_in_force(report, browser):
    page = browser.new_page()
    page.goto(report)
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>'")
    with pytest.raises(playwright.Error, match="Failed to fetch"):
        page.evaluate("fetch('data:text/plain,x')")
    page.close()


def test_filters_narrow_the_list(report, visit):
    page = visit(report)
    assert [count(page, show) for show in ("all", "right", "wrong", "unparsed", "lenient")] == [20, 14, 2, 4, 2]
    page.click("[data-show=wrong]")
    expect(page.locator("#list a")).to_have_count(2)
    page.select_option("#task", "log_semantic_matching")
    expect(page.locator("#list a")).to_have_count(1)
    expect(page.locator("#list a")).to_contain_text("False → True · boreas")
    page.click("[data-show=all]")
    page.select_option("#truth", "True")
    expect(page.locator("#list a")).to_have_count(5)
    page.select_option("#answer", "unparsed")
    expect(page.locator("#list a")).to_have_count(1)  # the one that only a lenient reader understands
    page.select_option("#task", "")
    expect(page.locator("#list a")).to_have_count(20)
    page.select_option("#source", "atlas")
    expect(page.locator("#list a")).to_have_count(10)
    page.select_option("#source", "")
    page.select_option("#seen", "1")
    expect(page.locator("#list a")).to_have_count(3)
    page.select_option("#seen", "")
    page.fill("#text", "FAN 2")
    expect(page.locator("#list a")).to_have_count(3)  # a session, a matching log, a description
    page.fill("#text", "no such words")
    expect(page.locator("#status")).to_have_text("Nothing fits these filters.")


def test_two_models_side_by_side(report, visit):
    page = visit(report)
    page.select_option("#a", BASE)
    page.select_option("#b", DPO)
    expect(page.locator("[data-show=fixed]")).to_be_visible()
    assert [count(page, show) for show in ("fixed", "broke", "both", "neither")] == [6, 2, 12, 0]
    page.click("[data-show=broke]")
    expect(page.locator("#list a")).to_have_count(2)
    page.locator("#list a").last.click()
    expect(page.locator(".side")).to_have_count(2)
    assert page.locator(".side").first.inner_text().startswith(f"A: {BASE}\n\n✓ right: True")
    assert page.locator(".side").last.inner_text().startswith(f"B: {DPO}\n\n✗ wrong: False")
    assert page.locator(".side li").all_inner_texts() == [f"Read it: {HOSTILE[1]}", "The base model decides.",
                                                          f"Read it: {HOSTILE[1]}", "The dpo model decides."]
    assert page.locator(".differs").all_inner_texts() == ["The base model decides.", "The dpo model decides."]
    page.get_by_text("The whole prompt").click()
    assert "### Example 3" in page.locator("#detail details pre").first.inner_text()


def test_a_link_shows_the_same_after_a_reload(report, visit):
    page = visit(report)
    page.select_option("#a", DPO)
    page.select_option("#b", BASE)
    page.fill("#text", "parity")
    expect(page.locator("#list a")).to_have_count(3)
    page.locator("#list a").nth(1).click()
    log = page.locator("#detail pre").first
    expect(log).to_be_visible()
    address, said = page.url, page.locator("#detail").inner_text()
    again = visit(address)
    expect(again.locator("#detail pre").first).to_be_visible()
    assert (again.locator("#detail").inner_text(), shown(again), again.url) == (said, 3, address)
    assert again.locator("#text").input_value() == "parity"
    strange = visit(f"{report}#{BASE}/ad%2F0%3F%25")  # an id with the characters that addresses are made of
    expect(strange.locator("#detail")).to_contain_text("id ad/0?%")
    expect(visit(f"{report}#{BASE}/nothing").locator("#detail")).to_contain_text("no prediction of")


def test_the_keyboard_is_enough(report, visit):
    page = visit(report)
    page.keyboard.press("/")
    page.keyboard.type("link")
    expect(page.locator("#list a")).to_have_count(3)
    for _ in range(30):  # past the chips, to the first prediction
        page.keyboard.press("Tab")
        if page.evaluate("Boolean(document.activeElement.closest('#list'))"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_contain_text("id ad/6?%")
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    page.keyboard.press("j")
    expect(page.locator("#detail")).to_contain_text("id lsm 3")
    page.keyboard.press("k")
    expect(page.locator("#detail")).to_contain_text("id ad/6?%")
    page.go_back()
    expect(page.locator("#detail")).to_contain_text("id lsm 3")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_contain_text("Choose a prediction")


def test_hostile_logs_and_answers_stay_text(report, visit):
    page = visit(f"{report}#{BASE}/?b={DPO}")
    before = page.locator("script, img, style, iframe, a[href^=javascript]").count()
    for at, item in enumerate(instances()[10:]):
        page.locator("#list a").nth(10 + at).click()
        expect(page.locator("#detail")).to_contain_text(f"id {item['id']}")
        if at < len(HOSTILE):
            assert page.locator("#detail pre").first.evaluate("each => each.textContent") == LOGS[at]
        if at == 3:
            assert page.locator(".side pre").first.inner_text() == HOSTILE[0]
    assert page.locator("script, img, style, iframe, a[href^=javascript]").count() == before
    assert page.evaluate("window.hacked === undefined")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_one_pane_that_fits(report, visit, scheme):
    page = visit(report, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert len(set(page.evaluate(wide))) == 1
    expect(page.locator("#detail")).to_be_hidden()
    page.locator("#list a").nth(2).tap()
    expect(page.locator("#detail")).to_be_visible()
    expect(page.locator("#list")).to_be_hidden()
    assert len(set(page.evaluate(wide))) == 1
    page.get_by_text("all predictions").tap()
    expect(page.locator("#list a").nth(2)).to_be_in_viewport()
    back, text = (sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{key}"))[:3])) / 3
                  for key in ("backgroundColor", "color"))
    assert (back > 200 and text < 60) if scheme == "light" else (back < 60 and text > 200)


def test_ten_thousand_predictions(tmp_path, monkeypatch, visit):
    monkeypatch.chdir(tmp_path)
    items = [{**item, "id": f"{item['id']} {at}", "log": f"event {at} of slot {at % 7}"}
             for at in range(500) for item in instances()]
    run = make_run(items)
    out = Path("report.html").resolve()
    assert make_report(run, out).startswith("30,000 predictions of 3 models and stages")
    assert " 5,000 " in words(out.read_text("utf-8"))
    page = visit(out.as_uri())
    assert (count(page, "all"), shown(page)) == (10_000, 50)
    page.select_option("#b", DPO)
    page.click("[data-show=fixed]")
    expect(page.locator("#status")).to_contain_text("B fixed: 1 to 50 of 3,000.")
    page.fill("#text", "event 499 ")
    expect(page.locator("#list a")).to_have_count(6)
    page.fill("#text", "")
    expect(page.locator("#list a")).to_have_count(50)
    page.click("text=on ›")
    expect(page.locator("#status")).to_contain_text("51 to 100 of 3,000.")
    page.locator("#list a").last.click()
    expect(page.locator(".side")).to_have_count(2)
    page.keyboard.press("j")  # over the end of the page
    expect(page.locator("#status")).to_contain_text("101 to 150 of 3,000.")
