"""The curve job on a tiny decoder: rows, summary, report, tables; resuming computes what lacks; refusals in a line."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from rmjax import config, json_file, jsonl, launch
from rmjax.errors import UserError
from rmjax.evaluation import curves
from rmjax.evaluation.curves import Dot, figure
from rmjax.evaluation.pairwise import compare_runs
from rmjax.jobs.curve import BASELINE, Curve, rates
from rmjax.methods.frozen import Bench
from rmjax.records import Preference
from rmjax.worlds.judge_world import JudgeWorld

SETTINGS = """
    --labels 3 12 0 --draws 2 --methods margin metarm --frozen.schedule.steps 3
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
        (m, n) for m in (BASELINE, "+ margin by strength", "MetaRM") for n in (3, 12, 24)
    }
    assert all(r["n"] == 10 and 0 <= r["accuracy"] <= 1 for r in rows) and len(rows) == 18
    tried = {BASELINE: 2, "+ margin by strength": 4, "MetaRM": 16}
    assert summary["settings_tried"] == tried and all(r["settings_tried"] == tried[r["method"]] for r in rows)
    assert "real data" not in str(summary) and summary["testbed"] == f"pairs of {job.data.path}"
    assert {(r["draw"], r["seed"]) for r in rows if r["labels"] == 12} == {(0, 0), (1, 0)}
    assert {(r["draw"], r["seed"]) for r in rows if r["labels"] == 24} == {(0, 0), (0, 1)}  # one draw: all labels
    assert [c["b"] for c in summary["comparisons"]] == [f"{BASELINE}, {n} labels" for n in (3, 12, 24)] * 2
    assert all(0 <= c["p"] <= 1 for c in summary["comparisons"]) and "6 comparisons" in summary["p"]
    assert set(json_file.read(_path(job, "run.json"))["seconds_of"]) == {"features", "heads"}
    page = _path(job, "report.html").read_text()
    assert page.index("Accuracy against the number of labels") < page.index('<section id="accuracy">')
    assert "<script" not in page and "&lt;section" not in page and "&lt;svg" not in page and "real data" not in page
    assert f"{BASELINE} 2, + margin by strength 4, MetaRM 16." in page and "for all 6 comparisons" in page


def test_a_second_run_repeats_nothing(job, monkeypatch):
    before = _path(job, "rows.jsonl").read_bytes()
    for part in ("baseline", "treated", "auxiliary"):
        monkeypatch.setattr(Bench, part, lambda *a, **k: pytest.fail("computed again"))
    job.run("python -m rmjax.launch curve")
    assert _path(job, "rows.jsonl").read_bytes() == before


def test_a_killed_run_goes_on(job, monkeypatch):
    """Without its last four lines: 12 labels lack MetaRM, 24 lack all."""
    path, fitted = _path(job, "rows.jsonl"), []
    lines = path.read_text().splitlines(keepends=True)
    before = json_file.read(_path(job, "summary.json"))["rows"]
    path.write_text("".join(lines[:-4]))
    baseline = Bench.baseline
    monkeypatch.setattr(Bench, "baseline", lambda self, n, runs: fitted.append(n) or baseline(self, n, runs))
    job.run("python -m rmjax.launch curve")
    assert fitted == [12, 24]
    same = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert same(json_file.read(_path(job, "summary.json"))["rows"]) == same(before)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"margin": 2.0}, r"has margin, which the methods margin would replace: .*\(--data\.ignore margin\)"),
        ({"votes": {"chosen": 2, "rejected": 1}}, r"has votes, .*\(--data\.ignore votes\)"),
        ({"tie": True}, r"is a tie, kept as a soft label of 1/2, .*\(--data\.tie drop\)"),
    ],
)
def test_columns_that_a_method_would_replace_are_refused_before_any_work(job, tmp_path, monkeypatch, column, said):
    monkeypatch.delattr("rmjax.jobs.curve.load_model")
    items = jsonl.read(job.data.path, Preference)
    jsonl.write(tmp_path / "t.jsonl", [dataclasses.replace(items[0], **column), *items[1:]])
    data = dataclasses.replace(job.data, path=str(tmp_path / "t.jsonl"), tie="half")
    with pytest.raises(UserError, match=rf"record '{items[0].id}' {said}"):
        dataclasses.replace(job, data=data, workdir=str(tmp_path / "w")).run("")
    assert not (tmp_path / "w").exists()


def test_rates():
    assert rates(np.array([1.0, -1.0, 0.0, 2.0]), 2) == [0.5, 0.75]
    with pytest.raises(UserError, match="not a finite number"):
        rates(np.array([1.0, np.nan]), 1)


def test_more_labels_than_pairs(job):
    with pytest.raises(UserError, match=r"^labels=25: --data.path has 24 training pairs; give at most that, or 0"):
        dataclasses.replace(job, labels=(12, 25), workdir=job.workdir + "-more").run()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--methods grm-sft", "with --objective.sft"),
        ("--methods grm-dpo", "'grm-dpo' has no meaning on a frozen model"),
        ("--frozen.schedule.penalties 0", "schedule.penalties=(0.0,)"),
        ("--methods flip --frozen.schedule.steps 9", "schedule.steps=9: none of bradley-terry, flip reads it"),
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
    dots = lambda at: [Dot(n, at, at - 0.02, at + 0.02) for n in (100, 50)]
    lines = {m: dots(0.5 + i / 10) for i, m in enumerate((BASELINE, "a", "b"))}
    show = lambda lines: figure(lines, baseline=BASELINE, across="labels", label="l", log=True)
    svg = show(lines)
    assert svg.count(">a</text>") == 1 and svg.count(">b</text>") == 1 and f">{BASELINE}</text>" not in svg
    assert ">50</text>" in svg and ">100</text>" in svg and ">labels</text>" in svg
    assert show({BASELINE: lines[BASELINE]}).count(f">{BASELINE}</text>") == 1  # alone, it is the panel


def test_holm():
    """Against values worked out by hand: raw p of 0.01, 0.04, 0.03 give 0.03, 0.06, 0.06."""
    found, r = {}, np.random.default_rng(0).normal(size=8)
    r = (r - r.mean()) / stats.sem(r)
    for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03)):
        gains = 0.01 * (r - stats.t.ppf(p / 2, 7))
        runs = {(i, 0): v for i, v in enumerate(gains)}
        found[name, 50] = compare_runs(runs, dict.fromkeys(runs, 0.0), names=(name, "base"))
        assert curves.p_value(found[name, 50].difference) == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    adjusted = curves.holm(found)
    assert [c.p for c in adjusted.values()] == pytest.approx([0.03, 0.06, 0.06])
    assert [c.distinguishable for c in found.values()] == [True] * 3
    assert [c.distinguishable for c in adjusted.values()] == [True, False, False]
    same = compare_runs(runs, runs, names=("a", "a"))
    assert curves.holm({("a", 50): same})["a", 50].p == 1 and curves.holm({}) == {}
    console = Console(width=80)
    with console.capture() as shown:
        console.print(curves.comparison_table({("+ smoothing by strength", 1503): adjusted["a", 50]}))
        console.print(curves.comparison_table({("+ smoothing by strength", 1503): same}))
    text = shown.get()
    assert "…" not in text and len(text.splitlines()) == 4 and "undecided" in text


def _path(job, name):
    return Path(job.workdir) / name
