"""A study end to end: cells once, rows that survive a torn line, a report, and options that are refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from rmjax.errors import UserError
from rmjax.jobs.entries import AsIs, Entry
from rmjax.jobs.study import Study, best_point, item_outcomes
from rmjax.methods.bradley_terry import BradleyTerry
from rmjax.methods.gfriend import Gfriend
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer

TRAIN = Train(optimizer=Optimizer(learning_rate=1e-3), batch=4, steps=2)
METHOD = Gfriend(
    samples=4,
    constrained=True,
    sampling=Sampling(max_new_tokens=8),
    train=dataclasses.replace(TRAIN, pairs_per_group=1),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    entries = (
        Entry(name="as it is", labels=0, method=AsIs(), draws=1),
        Entry(name="head", labels=4, method=BradleyTerry(train=TRAIN), grid=((1e-3, 1), (1e-3, 2))),
        Entry(name="GFRIEND", labels=4, method=METHOD),
        Entry(name="GFRIEND, 2 rounds", labels=4, method=dataclasses.replace(METHOD, rounds=2)),
    )
    out = Study(
        workdir=str(tmp_path_factory.mktemp("study") / "run"),
        demonstrations=16,
        sft=TRAIN,
        max_new_tokens=8,
        seeds=(0,),
        draws=2,
        search_draws=1,
        dev=6,
        test=8,
        entries=entries,
        baseline="head",
        keep=True,
    )
    out.run("python -m rmjax.launch study.py")
    return out


def test_every_cell_is_a_row(study):
    work = Path(study.workdir)
    facts = json.loads((work / "summary.json").read_text())
    rows = facts["rows"]
    assert [(r["method"], r["draw"]) for r in rows] == [
        ("as it is", 100),
        *((name, draw) for name in ("head", "GFRIEND", "GFRIEND, 2 rounds") for draw in (100, 101)),
    ]
    assert all(r["n"] == 8 for r in rows)
    assert facts["testbed"] == "controlled world" and facts["search"]["head, 4 labels"] in ([1e-3, 1], [1e-3, 2])
    assert {c["b"] for c in facts["comparisons"]} == {"head, 4 labels"}
    assert "GFRIEND, 2 rounds" in (work / "report.html").read_text()


def test_a_torn_line_is_run_again_and_nothing_else(study):
    path = Path(study.workdir) / "rows.jsonl"
    before = path.read_text().splitlines()
    path.write_text("\n".join(before)[:-20])
    study.run("again")
    after = path.read_text().splitlines()
    drop = lambda line: {k: v for k, v in json.loads(line).items() if k != "seconds"}
    assert after[:-1] == before[:-1]
    assert drop(after[-1]) == drop(before[-1])  # a run repeats itself


def test_a_run_with_more_rounds_begins_with_the_first(study):
    work = Path(study.workdir) / "runs"
    one, two = (work / f"gfriend{name}-4-0-100" / "round-1" / "graded.jsonl" for name in ("", "-2-rounds"))
    assert one.read_bytes() == two.read_bytes()


def test_item_outcomes_are_what_was_counted(study):
    for text in (Path(study.workdir) / "rows.jsonl").read_text().splitlines():
        line = json.loads(text)
        assert sum(s.outcome for s in item_outcomes(line)) / line["n"] == pytest.approx(line["accuracy"])


def test_the_best_point_wins():
    entry = Entry(name="x", labels=1, method=BradleyTerry(train=TRAIN), grid=((1.0, 1), (2.0, 2)))
    rows = [{"entry": entry.key, "rate": r, "steps": int(r), "accuracy": a} for r, a in ((1.0, 0.6), (2.0, 0.7))]
    assert best_point(entry, rows) == (2.0, 2)
    assert best_point(entry, []) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "nope"}, "'nope' is no row"),
        ({"draws": 0}, "draws=0"),
        ({"entries": ()}, "0 rows"),
    ],
)
def test_impossible_studies_are_refused(study, change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(study, **change)
