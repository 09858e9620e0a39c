"""The curve job on a tiny decoder: rows, summary, report; a second run computes nothing; refusals in a line."""

import dataclasses
from pathlib import Path

import pytest

from rmjax import config, json_file, jsonl, launch
from rmjax.errors import UserError
from rmjax.evaluation.curves import figure
from rmjax.evaluation.summary import Group
from rmjax.jobs.curve import BASELINE, Curve
from rmjax.methods.frozen import Bench
from rmjax.worlds.judge_world import JudgeWorld

SETTINGS = """
    --labels 3 12 0 --draws 2 --methods margin
    --frozen.axes 6 --frozen.folds 2 --frozen.forms standard --frozen.penalties 0.1 1
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Curve:
    folder, world = tmp_path_factory.mktemp("curve"), JudgeWorld()
    world.write_base(folder / "base")
    jsonl.write(folder / "train.jsonl", world.draw(labels=24, draw=0))
    jsonl.write(folder / "held.jsonl", world.preferences(10, split="test"))
    place = f"""
        --model.path {folder}/base --data.path {folder}/train.jsonl --data.eval-path {folder}/held.jsonl
        --features {folder}/features --workdir {folder}/run
    """
    job = config.override(config.load("curve"), (place + SETTINGS).split(), name="curve")
    job.run("python -m rmjax.launch curve")
    return job


def test_what_a_run_leaves(job):
    summary = json_file.read(_path(job, "summary.json"))
    rows = summary["rows"]
    assert {(r["method"], r["labels"]) for r in rows} == {
        (m, n) for m in (BASELINE, "+ margin by strength") for n in (3, 12, 24)
    }
    assert all(r["n"] == 10 and 0 <= r["accuracy"] <= 1 for r in rows) and len(rows) == 12
    assert {(r["draw"], r["seed"]) for r in rows if r["labels"] == 12} == {(0, 0), (1, 0)}
    assert {(r["draw"], r["seed"]) for r in rows if r["labels"] == 24} == {(0, 0), (0, 1)}  # one draw: all labels
    assert [c["b"] for c in summary["comparisons"]] == [f"{BASELINE}, {n} labels" for n in (3, 12, 24)]
    assert set(json_file.read(_path(job, "run.json"))["seconds_of"]) == {"features", "heads"}
    page = _path(job, "report.html").read_text()
    assert page.index("Accuracy against the number of labels") < page.index('<section id="accuracy">')
    assert "<script" not in page and "&lt;section" not in page


def test_a_second_run_repeats_nothing(job, monkeypatch):
    before = _path(job, "rows.jsonl").read_bytes()
    for part in ("baseline", "treated", "auxiliary"):
        monkeypatch.setattr(Bench, part, lambda *a, **k: pytest.fail("computed again"))
    job.run("python -m rmjax.launch curve")
    assert _path(job, "rows.jsonl").read_bytes() == before


def test_more_labels_than_pairs(job):
    with pytest.raises(UserError, match=r"^labels=25: --data.path has 24 training pairs; give at most that, or 0"):
        dataclasses.replace(job, labels=(12, 25), workdir=job.workdir + "-more").run()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--methods grm-sft", "'grm-sft' has no meaning on a frozen model"),
        ("--methods simsce", "'simsce' is none of flip, smooth"),
        ("--methods flip flip", "give each once"),
        ("--labels -3", "labels=(-3,)"),
        ("--labels 5 5", "labels=(5, 5)"),
        ("--draws 1", "draws=1"),
        ("--frozen.folds 1", "frozen.folds=1"),
        ("--seed -1", "seed=-1"),
    ],
)
def test_refused_before_any_file_is_read(options, said, capsys):
    assert launch.main(["curve", *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_figure_has_a_panel_a_method():
    point = lambda method, labels, at: Group(
        method=method,
        labels=labels,
        accuracy=at,
        low=at - 0.02,
        high=at + 0.02,
        over="2 label draws, one seed",
        values=(at, at),
        n=10,
        seconds=1.0,
        ties=0.0,
        unparsed=0.0,
    )
    found = [point(m, n, 0.5 + i / 10) for i, m in enumerate((BASELINE, "a", "b")) for n in (50, 100)]
    svg = figure(found, baseline=BASELINE)
    assert svg.count(">a</text>") == 1 and svg.count(">b</text>") == 1 and f">{BASELINE}</text>" not in svg
    assert ">50</text>" in svg and ">100</text>" in svg
    assert figure(found[:2], baseline=BASELINE).count(f">{BASELINE}</text>") == 1  # alone, it is the panel


def _path(job, name):
    return Path(job.workdir) / name
