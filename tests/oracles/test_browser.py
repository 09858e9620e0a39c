"""The labelling page in a real browser: keys, undo, HTML as text, and a server that is killed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import serve_page

from rmjax import jsonl
from rmjax.oracles.journal import Entry, standing_votes

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: install the extra `test`")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright.expect.set_options(timeout=20_000)  # machines of tests are busy
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with playwright.sync_playwright() as p:
        if path is None and not Path(p.chromium.executable_path).exists():
            pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed, nor playwright's own")
        opened = p.chromium.launch(executable_path=path)
        yield opened
        opened.close()


@pytest.fixture
def serve(pairs, tmp_path):
    """Starts servers of the same votes file; all are ended. Gives (process, address)."""
    started = []
    jsonl.write(tmp_path / "pairs.jsonl", pairs)

    def start():
        command = [sys.executable, serve_page.__file__, tmp_path / "pairs.jsonl", tmp_path / "ann.jsonl"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def page(browser):
    context = browser.new_context()
    opened = context.new_page()
    opened.asked, opened.failed = [], []
    opened.on("request", lambda r: opened.asked.append(r.url))
    opened.on("console", lambda m: opened.failed.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda e: opened.failed.append(str(e)))
    yield opened
    context.close()


def visit(page, address, done=0):
    """Opens the address and waits for the pair: keys mean nothing before."""
    page.goto(address)
    playwright.expect(page.locator("#count")).to_have_text(f"{done} of 10")


def press(page, key, done):
    """Presses a key and waits for the progress that it brings."""
    page.keyboard.press(key)
    playwright.expect(page.locator("#count")).to_have_text(f"{done} of 10")


def test_labelling_by_keyboard(serve, page, pairs, tmp_path):
    _, address = serve()
    visit(page, address)
    assert "token" not in page.url
    seen = []
    for i, key in enumerate("1203"):
        seen.append((page.inner_text("#answer-1"), page.inner_text("#answer-2")))
        press(page, key, i + 1)
    votes = standing_votes(tmp_path / "ann.jsonl")
    texts = [{"first": p.first, "second": p.second}.get(v.choice) for p, v in zip(pairs, votes, strict=False)]
    assert texts == [seen[0][0], seen[1][1], None, None]
    assert [v.choice for v in votes[2:]] == ["unknown", "tie"] and all(v.seconds > 0 for v in votes)

    shown = sorted((page.text_content("#answer-1"), page.text_content("#answer-2")))  # the pair with HTML
    assert shown == sorted((pairs[4].first, pairs[4].second))
    assert page.locator("#answers b, #answers img, #answers script").count() == 0
    assert page.title() == "Which answer is better?"

    press(page, "u", 3)
    press(page, "u", 2)
    assert {page.inner_text("#answer-1"), page.inner_text("#answer-2")} == {pairs[2].first, pairs[2].second}
    page.get_by_role("button", name="Answer 2").click()
    playwright.expect(page.locator("#count")).to_have_text("3 of 10")
    page.keyboard.press("h")
    playwright.expect(page.get_by_text("you cannot tell")).to_be_visible()
    page.keyboard.press("Control+1")  # the browser's own shortcut
    for done in range(4, 11):
        press(page, "?", done)
    playwright.expect(page.get_by_role("heading", name="All pairs are labelled.")).to_be_visible()
    assert page.get_by_role("button", name="Answer 1").is_disabled()
    page.get_by_role("button", name="Finish").click()
    playwright.expect(page.get_by_role("heading", name="Saved. You can close this page.")).to_be_visible()
    assert len(standing_votes(tmp_path / "ann.jsonl")) == 10
    origin = address.split("/?")[0]
    assert all(url.startswith(origin) for url in page.asked) and not page.failed


def test_a_killed_server_loses_nothing(serve, page, pairs, tmp_path):
    process, address = serve()
    visit(page, address)
    for done in (1, 2, 3):
        press(page, "1", done)
    process.send_signal(signal.SIGKILL)
    process.wait()
    page.keyboard.press("2")
    playwright.expect(page.get_by_role("alert")).to_contain_text("Your last label is not saved yet")
    assert page.get_by_role("button", name="Answer 1").is_disabled()
    _, again = serve()
    visit(page, again, 3)
    press(page, "2", 4)
    entries = jsonl.read(tmp_path / "ann.jsonl", Entry)
    assert [e.item for e in entries] == [p.id for p in pairs[:4]]


def test_the_page_goes_on_when_the_server_answers_again_and_fits_a_phone(serve, page, pairs, tmp_path):
    process, address = serve()
    visit(page, address)
    press(page, "1", 1)
    os.kill(process.pid, signal.SIGSTOP)  # hangs, as on a full machine
    page.keyboard.press("2")
    page.keyboard.press("2")  # impatience is no second label
    page.wait_for_timeout(300)
    os.kill(process.pid, signal.SIGCONT)
    playwright.expect(page.locator("#count")).to_have_text("2 of 10")
    page.wait_for_timeout(100)
    assert len(jsonl.read(tmp_path / "ann.jsonl", Entry)) == 2

    page.set_viewport_size({"width": 360, "height": 740})  # a phone at night
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [page.locator(f"#answer-{i}").bounding_box() for i in (1, 2)]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"] - 1
    red = int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert red < 60
