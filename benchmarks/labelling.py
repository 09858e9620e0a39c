"""The labelling page under a scripted browser, its server killed (SIGKILL) again and again while keys are pressed.

    python benchmarks/labelling.py [--labels 200] [--kills 3] [--screenshot FILE.png]

The browser answers sums: it presses the key of the right answer, wherever that stands. A kill comes at a random moment
after a share of the labels; the same command is then started again and the browser opens the address that it prints.
The last line is a JSON object: `lost`, labels that the page had counted and the file did not hold; `unconfirmed`,
labels that were on disk although the page had not heard so (a kill between the two); `wrong`, records of
preferences.jsonl whose chosen answer is not the right one; `twice`, pairs with more than one line in the votes file.
"""

from __future__ import annotations

import atexit
import collections
import dataclasses
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import tyro
from playwright.sync_api import Page, expect, sync_playwright

from rmjax import jsonl
from rmjax.oracles.journal import Entry
from rmjax.records import Message, Pair, Preference

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT = 300_000  # milliseconds
EXAMPLE = Pair(
    prompt=(
        Message("system", "You answer in plain words, for somebody who does not program."),
        Message("user", "My page shows the letters <br> in the middle of a sentence. What does that mean?"),
    ),
    first="That is a piece of HTML, the language in which web pages are written. `<br>` tells the browser to start a "
    "new line.\n\nYou see the letters themselves because your page treats the text as plain text:\n\n"
    "    Dear Ann,<br>thank you.\n\nEither take the <br> out and press Enter instead, or save the text in a field "
    "that accepts HTML. Nothing is broken, and nobody has changed your page.",
    second="<br> is a void element that represents a line break in the flow content of the document object model; as "
    "the string was escaped by the template engine, the entity was serialised into a text node. <b>Disable "
    "auto-escaping</b> to fix it.",
    id="html",
)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is done."""

    labels: int = 200
    kills: int = 3
    seed: int = 0  # of the sums and of the moments of the kills
    screenshot: str = ""  # a picture of the page with an invented pair, written here


def sums(n: int, seed: int) -> list[Pair]:
    """Questions with a right and a wrong answer, either first."""
    rng, pairs = random.Random(seed), []
    for i in range(n):
        a, b = rng.randrange(100), rng.randrange(100)
        answers = [f"It is {a + b}.", f"It is {a + b + rng.choice((-10, -1, 1, 10))}."]
        rng.shuffle(answers)
        pairs.append(
            Pair(prompt=(Message("user", f"What is {a} + {b}?"),), first=answers[0], second=answers[1], id=str(i))
        )
    return pairs


def right(prompt: str) -> str:
    """The right answer to a question."""
    a, b = map(int, re.findall(r"\d+", prompt))
    return f"It is {a + b}."


def serve(folder: Path, pairs: Path, by: str = "robot") -> tuple[subprocess.Popen, str]:
    """Starts the job as a user would: its process and the address that it prints."""
    command = [
        sys.executable,
        "-m",
        "rmjax.launch",
        "label",
        "--data.path",
        pairs,
        "--workdir",
        folder,
        "--by",
        by,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    for line in process.stdout:
        if line.startswith("http://"):
            return process, line.strip()
    raise SystemExit("the server printed no address")


def press(page: Page) -> int:
    """Gives one label and waits until it is counted; the count. Raises TimeoutError where the server is gone."""
    count = page.inner_text("#count")
    wanted = right(page.inner_text("#prompt"))
    page.keyboard.press("1" if page.inner_text("#answer-1") == wanted else "2")
    deadline = time.monotonic() + WAIT / 1000
    while time.monotonic() < deadline:
        if (after := page.inner_text("#count")) != count:
            return int(after.split()[0])
        if page.locator("#notice").is_visible():
            raise TimeoutError("not saved: the server does not answer")
        time.sleep(0.005)
    raise SystemExit("the page neither counted a label nor said why not")


def label(page: Page, config: Benchmark, folder: Path) -> dict[str, object]:
    """Labels all pairs through all kills."""
    pairs, work, rng = folder / "pairs.jsonl", folder / "run", random.Random(config.seed + 1)
    jsonl.write(pairs, sums(config.labels, config.seed))
    kills = collections.deque(config.labels * (i + 1) // (config.kills + 1) for i in range(config.kills))
    file, lost, unconfirmed, counted, labelling = work / "votes" / "robot.jsonl", 0, 0, 0, 0.0
    process, address = serve(work, pairs)
    page.goto(address)
    expect(page.locator("#count")).to_have_text(f"0 of {config.labels}", timeout=WAIT)
    while counted < config.labels:
        if kills and counted >= kills[0]:
            kills.popleft()
            threading.Timer(rng.uniform(0, 0.2), process.send_signal, (signal.SIGKILL,)).start()
        start = time.perf_counter()
        try:
            counted = press(page)
            labelling += time.perf_counter() - start
        except TimeoutError:
            process.wait()
            on_disk = len(jsonl.Appender(file, Entry).existing)
            lost, unconfirmed = lost + max(0, counted - on_disk), unconfirmed + max(0, on_disk - counted)
            process, address = serve(work, pairs)
            page.goto(address)
            expect(page.locator("#count")).to_have_text(f"{on_disk} of {config.labels}", timeout=WAIT)
            counted = on_disk
    page.get_by_role("button", name="Finish").click()
    process.communicate()
    records = jsonl.read(work / "preferences.jsonl", Preference)
    lines = collections.Counter(e.item for e in jsonl.read(file, Entry))
    return {
        "labels": len(records),
        "kills": config.kills - len(kills),
        "lost": lost,
        "unconfirmed": unconfirmed,
        "wrong": sum(p.chosen != right(p.prompt[0].content) for p in records),
        "twice": sum(n > 1 for n in lines.values()),
        "milliseconds_per_label": round(1000 * labelling / config.labels, 1),
    }


def picture(page: Page, folder: Path, path: str) -> None:
    """The page with an invented pair, after a few labels."""
    pairs = folder / "example.jsonl"
    before = sums(37, 0)
    jsonl.write(pairs, [*before, EXAMPLE, *(dataclasses.replace(p, id=f"later {p.id}") for p in sums(82, 1))])
    process, address = serve(folder / "example", pairs, by="ann")
    page.goto(address)
    expect(page.locator("#count")).to_have_text("0 of 120", timeout=WAIT)
    for _ in before:
        press(page)
    page.screenshot(path=path)
    process.kill()


def main(config: Benchmark) -> None:
    """Labels, and draws where asked; prints the figures."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found)
        page = browser.new_page(viewport={"width": 1180, "height": 720}, device_scale_factor=1.5)
        if config.screenshot:
            picture(page, Path(folder), config.screenshot)
        figures = label(page, config, Path(folder))
        browser.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
