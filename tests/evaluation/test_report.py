"""The report: everything is on it, it loads nothing, and a model's text stays text."""

import dataclasses
import html.parser
import re

import pytest

from rmjax.evaluation import report
from rmjax.evaluation.report import Axis
from rmjax.evaluation.sections import Grades, Reading, ReportData, pick
from rmjax.evaluation.summary import Row
from rmjax.records import Judgment, Message, Preference
from rmjax.refine.levels import Graded
from rmjax.refine.table import Table

HOSTILE = (
    "<script>alert(1)</script><img src=\"http://evil.example/x.png\" onerror='x()'></p></main>"
    "<style>*{display:none}</style>{{ 7*7 }}{% raw %}&lt; $\\foo_1$ \x00 \ud800 ]]> -->"
)


class Page(html.parser.HTMLParser):
    """Elements, links and the text of a page; unbalanced elements fail."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.urls, self.words, self.open = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.urls += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data", "srcset", "poster")]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing at {self.getpos()}"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def assert_self_contained(text: str, page: Page) -> None:
    assert not {"script", "img", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert all(url.startswith("#") for url in page.urls), page.urls
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL)) + "".join(
        re.findall(r'style="([^"]*)"', text)
    )
    assert "@import" not in styles
    assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", styles))


@pytest.fixture(scope="module")
def rendered(report_data) -> str:
    return report.render(report_data)


@pytest.fixture(scope="module")
def page(rendered) -> Page:
    return Page(rendered)


def test_self_contained(rendered, page):
    assert_self_contained(rendered, page)
    assert "http" not in re.sub(r"http-equiv", "", rendered)  # not even a name space
    assert "default-src 'none'" in rendered
    assert "prefers-color-scheme: dark" in rendered and "@media print" in rendered


def test_every_section_with_its_explanation(page, rendered):
    for heading in (
        "Accuracy on held-out pairs",
        "Paired comparisons",
        "Training curves",
        "Grades and levels",
        "Calibration",
        "Judgments to read",
        "Cost",
        "The run",
    ):
        assert heading in page.text
    assert page.tags.count("section") == page.text.count("How to read this.") == 8
    targets = {url[1:] for url in page.urls if "xlink" not in url}
    assert {"accuracy", "run"} <= targets
    assert all(f'id="{t}"' in rendered for t in targets)
    assert "Left out" not in page.text


def test_the_numbers_are_there(page, report_data):
    for row in report_data.rows:
        assert row.method in page.text
    assert f"{100 * report_data.rows[0].accuracy:.1f}" in page.text
    assert "5 runs: 5 label draws, one seed" in page.text
    for name, a in report_data.baselines.items():
        assert name in page.text and f"{100 * a.accuracy:.1f}" in page.text
    assert "not distinguishable" in page.text
    for level, n in report_data.grades["Round 1"].levels.items():
        assert f"{level} {n}" in page.text
    assert f"Brier {report_data.calibration['GFRIEND'].brier:.3f}" in page.text
    assert "controlled world" in page.text
    assert "python -m rmjax.launch quickstart" in page.text
    assert "method.sampling.temperature 1.0" in page.text and "configs.quickstart:Quickstart" not in page.text


def test_wrong_judgments_come_first(page):
    text = page.text
    assert -1 < text.index("verdict B, wrong") < text.index("verdict A, right") < text.index("Unparsed")


def test_empty_data_say_what_is_missing():
    text = report.render(ReportData(title="Nothing", testbed="real data"))
    page = Page(text)
    assert "section" not in page.tags
    for part in ("accuracy", "training curves", "calibration", "judgments to read", "cost", "trivial baselines"):
        assert part in page.text.split("Left out")[1]


def test_hostile_text_is_shown_as_text(report_data):
    reading = Reading(
        item=HOSTILE,
        question=HOSTILE,
        answers={"A": HOSTILE, "B": HOSTILE},
        chosen="A",
        text=HOSTILE,
        verdict="A",
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
    )
    baseline = next(iter(report_data.baselines.values()))
    calibration = next(iter(report_data.calibration.values()))
    data = ReportData(
        title=HOSTILE,
        testbed="real data",
        lead=HOSTILE,
        rows=[dataclasses.replace(report_data.rows[0], method=HOSTILE)],
        baselines={HOSTILE: baseline},
        comparisons=[dataclasses.replace(report_data.comparisons[0], a=HOSTILE, b=HOSTILE, over=HOSTILE)],
        subsets={HOSTILE: {HOSTILE: baseline}},
        curves={HOSTILE: [(0, 1.0), (1, 2.0)]},
        grades={HOSTILE: Grades(right=[0.1], wrong=[0.2], score=HOSTILE, levels={HOSTILE: 1}, made={HOSTILE: HOSTILE})},
        calibration={HOSTILE: calibration},
        readings=[reading],
        costs=[dataclasses.replace(report_data.costs[0], stage=HOSTILE, note=HOSTILE)],
        run={
            "command": HOSTILE,
            "config": {HOSTILE: HOSTILE},
            "data": {HOSTILE: HOSTILE},
            "versions": {"rmjax": HOSTILE},
        },
    )
    text = report.render(data)
    page = Page(text)
    assert_self_contained(text, page)
    assert page.tags.count("style") == 1
    assert page.text.count("alert(1)") >= 20
    assert "{{ 7*7 }}" in page.text and "<b>" not in HOSTILE


def test_written_whole_even_with_lone_surrogates(tmp_path, report_data):
    path = tmp_path / "deep" / "report.html"
    report.write(path, dataclasses.replace(report_data, lead="half a pair \ud800 \U0001f600"))
    assert "\U0001f600" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def judgment(verdict="A", slot="A", item="p", prob_a=0.25) -> Judgment:
    return Judgment(
        item=item,
        slot=slot,
        index=0,
        prompt=(1,),
        tokens=(2,),
        logps=(-0.1,),
        reasoning=1,
        text="because",
        verdict=verdict,
        prob_a=prob_a,
        finish="stop",
    )


def test_a_reading_puts_the_answers_into_their_slots():
    item = Preference(prompt=(Message("user", "q"),), chosen="good", rejected="bad", id="p")
    a, b = Reading.of(item, judgment(slot="A")), Reading.of(item, judgment(slot="B"), grade=0.5, level=None)
    assert (a.answers, a.outcome) == ({"A": "good", "B": "bad"}, "right")
    assert (b.answers, b.outcome) == ({"A": "bad", "B": "good"}, "wrong")
    assert b.facts == {"p(A)": "0.25", "grade": "0.5"}
    assert Reading.of(item, judgment(verdict=None)).outcome == "unparsed"
    assert Reading.of(item, judgment(verdict="tie")).outcome == "tie"
    graded = Graded(judgment=judgment(), perplexity=6.125, score=0.5, level="SA", grade=0.5)
    assert Reading.graded(item, graded).facts["level"] == "strong accept"


def test_grades_of_a_refinement():
    made = Table(
        items=3,
        judgments=4,
        levels={"SA": 1, "WA": 1, "SR": 0, "WR": 1, "unparsed": 1},
        pairs=2,
        groups=1,
        usable=1,
        without={"all right": 2},
        retried=0,
        hinted=0,
        perplexity={},
        auc=None,
        auc_within=None,
        weight_spread=0.25,
    )
    graded = [
        Graded(judgment=judgment(verdict=v), perplexity=p, score=s, level=level, grade=s)
        for v, p, s, level in (
            ("A", 2.0, 0.9, "SA"),
            ("A", 5.0, 0.4, "WA"),
            ("B", 6.0, 0.3, "WR"),
            (None, None, 0.0, "unparsed"),
        )
    ]
    grades = Grades.of(graded, made, score="exp(-PPL / 10)", threshold=0.5)
    assert (grades.right, grades.wrong, grades.threshold) == ([0.9, 0.4], [0.3], 0.5)
    assert list(grades.levels.items()) == [
        ("strong accept", 1), ("weak accept", 1), ("weak reject", 1), ("strong reject", 0), ("unparsed", 1),
    ]  # fmt: skip
    assert grades.made["labels without: all right"] == 2
    assert not any("retries" in name or "AUC" in name for name in grades.made)


def test_pick_takes_each_outcome_and_each_item_once():
    item = lambda i: Preference(prompt=(Message("user", "q"),), chosen="good", rejected="bad", id=f"p{i}")
    readings = [Reading.of(item(i // 2), judgment(verdict="AB"[i % 4 == 3], item=f"p{i // 2}")) for i in range(40)]
    picked = pick(readings, each=3)
    assert [(r.item, r.outcome) for r in picked] == [
        ("p0", "right"), ("p1", "right"), ("p1", "wrong"), ("p2", "right"), ("p3", "wrong"), ("p5", "wrong"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("intervals", "reference"),
    [([], 0.5), ([(0.5, 0.5)], 0.5), ([(0.62, 0.68), (0.9, 0.93)], 0.5), ([(-0.004, 0.003)], 0.0), ([(0.0, 1.0)], 0.5)],
)
def test_axis_holds_everything_on_round_ticks(intervals, reference):
    axis = Axis.around(intervals, reference)
    ends = [x for pair in intervals for x in pair] + [reference]
    assert axis.low <= min(ends) + 1e-9 and axis.high >= max(ends) - 1e-9 and axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 9
    assert (axis.at(axis.low), axis.at(axis.high), axis.width(axis.low, axis.high)) == ("0.00%", "100.00%", "100.00%")
    middle = float(axis.at((axis.low + axis.high) / 2).rstrip("%"))
    assert middle == pytest.approx(50)


def test_small_words():
    assert [report.duration(s) for s in (0.34, 59.6, 119, 287.4, 7300)] == [
        "0.3 s", "60 s", "119 s", "4 min 47 s", "2 h 01 min",
    ]  # fmt: skip
    assert report.points(-0.0251) == "−2.5" and report.points(0.1) == "+10.0"
    assert (report.count(None), report.count(12345), report.count(0.61999)) == ("", "12,345", "0.62")
    assert report.device({"platform": "cpu", "cores": 2, "count": 8, "kind": "cpu"}) == "CPU, 2 cores"
    assert report.device({"platform": "tpu", "cores": 2, "count": 8, "kind": "TPU v5e"}) == "8 × TPU v5e"


def test_a_run_on_another_number_of_items_says_so(report_data):
    odd = Row(method="other set", labels=1, seed=0, accuracy=0.5, ci95=(0.4, 0.6), n=99, seconds=1.0)
    assert (
        "99 items"
        in Page(report.render(ReportData(title="t", testbed="real data", rows=[*report_data.rows, odd]))).text
    )
