"""The proxy study end to end, tiny: both ways, the ledger, a torn line, refusals."""

import dataclasses
import json
from pathlib import Path

import pytest
from helpers.small_policy import METHOD, TRAIN, write_base

from rmjax import config, launch
from rmjax.jobs.study_proxy import StudyProxy, best_point
from rmjax.methods.proxy_oracle import ProxyOracle
from rmjax.worlds.policy_world import BEST, PolicyWorld


def small(patch: pytest.MonkeyPatch) -> None:
    """A policy of two updates writes nothing of worth, so worth is which letters it writes."""
    patch.setattr(PolicyWorld, "write_base", lambda self, path, seed=0: write_base(path, seed=seed))
    patch.setattr(PolicyWorld, "reward", lambda self, prompt, answer: float(sum(map(ord, answer))))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyProxy:
    """A finished study."""
    job = StudyProxy(
        workdir=str(tmp_path_factory.mktemp("study") / "run"),
        demonstrations=32,
        sft=TRAIN,
        pool=32,
        dev=4,
        test=4,
        samples=3,
        seeds=2,
        search_seeds=1,
        budgets=(2,),
        selections=("random",),
        grid=((1e-2, 1),),
        method=dataclasses.replace(METHOD, budget=ProxyOracle().budget, per_label=9),
    )
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        job.run("python -m rmjax.launch study_proxy")
    return job


def test_both_ways_buy_the_same_and_the_proxy_gives_nine_times_as_many(study):
    rows = [json.loads(line) for line in (Path(study.workdir) / "rows.jsonl").read_text().splitlines()]
    ways = ["seed policy", "direct", "proxy", "all gold"]
    assert [(r["way"], r["seed"]) for r in rows] == [(way, seed) for seed in (0, 1) for way in ways]
    for r in rows:
        if r["way"] in ("direct", "proxy"):
            assert r["bought"] == r["budget"] == 2
            assert r["given"] == (0 if r["way"] == "direct" else 18)
            assert r["trained"] == r["bought"] - r["ties"] + r["given"]
    assert config.load("study_proxy").method.per_label >= 9
    summary = json.loads((Path(study.workdir) / "summary.json").read_text())
    assert summary["best"] == BEST and summary["testbed"] == "controlled world"
    proxy = next(r for r in summary["rows"] if r["way"] == "proxy")
    mean = sum(r["sampled"] for r in rows if r["way"] == "proxy") / 2
    assert proxy["sampled"]["value"] == pytest.approx(mean) and 0 <= proxy["proxy_accuracy"]["value"] <= 1
    assert set(summary["comparisons"]) == {"proxy - direct", "random - seed policy"}  # random alone: nothing beside it
    (first,) = summary["comparisons"]["proxy - direct"]
    assert (first["a"], first["b"]) == ("proxy, random, 2 labels", "direct, random, 2 labels")
    direct = sum(r["sampled"] for r in rows if r["way"] == "direct") / 2
    assert first["difference"]["value"] == pytest.approx(mean - direct)


def test_a_torn_line_is_run_again_and_nothing_else(study, monkeypatch):
    small(monkeypatch)
    path, page = Path(study.workdir) / "rows.jsonl", Path(study.workdir) / "report.html"
    page.unlink()
    before = path.read_text().splitlines()
    path.write_text("\n".join(before)[:-20])
    study.run("again")
    after = path.read_text().splitlines()
    drop = lambda line: {k: v for k, v in json.loads(line).items() if k != "seconds"}
    assert after[:-1] == before[:-1] and drop(after[-1]) == drop(before[-1])
    text = page.read_text()
    assert text.count("<svg") == 1 and "<script" not in text
    for part in ("Gold reward against labels bought", "Compared: proxy - direct", "proxy, random"):
        assert part in text


def test_the_best_point_wins():
    rows = [{"way": "direct", "budget": 4, "rate": p, "steps": 1, "sampled": v} for p, v in ((0.1, 1.0), (0.2, 3.0))]
    assert best_point(rows, "direct", 4, ((0.1, 1), (0.2, 1))) == (0.2, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--selections random nearest", "'nearest' is none of"),
        ("--selections margin", "name it too"),
        ("--budgets 50 50", "all different"),
        ("--budgets 500", "take 5,000"),
        ("--noise 0.7", "noise=0.7"),
        ("--seeds 1", "seeds=1"),
        ("--method.budget 70", "method.budget: the study's own --budgets decide"),
        ("--method.evaluator-train.seed 3", "method.evaluator_train.seed=3: the study's own seeds decide"),
        ("--method.train.profile 1", "method.train.profile=1: this training keeps no files; set it to 0"),
        ("--grid 1e-4 0", "train.steps=0"),
    ],
)
def test_refused(options, said, capsys):
    assert launch.main(["study_proxy", *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_the_worlds_splits_share_no_question():
    world = PolicyWorld()
    asked = {split: {p[0].content for p in world.prompts(1500, split=split)} for split in ("train", "dev", "test")}
    assert not asked["train"] & asked["dev"] and not asked["train"] & asked["test"] and not asked["dev"] & asked["test"]
    assert world.prompts(9, seed=3) == world.prompts(20, seed=3)[:9] != world.prompts(9, seed=4)
    assert not {d.prompt[0].content for d in world.demonstrations(500)} & (asked["dev"] | asked["test"])
    worth = [world.reward(d.prompt, d.completion) for d in world.demonstrations(2000)]
    assert sum(worth) / len(worth) == pytest.approx(0.6 * BEST, abs=0.6)
    assert dataclasses.replace(world, seed=1).prompts(9) != world.prompts(9)
