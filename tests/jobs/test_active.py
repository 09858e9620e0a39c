"""Selection studied in the reward world and on files: what is left, resuming, refusals."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from rmjax import config, json_file, jsonl, launch
from rmjax.errors import UserError
from rmjax.evaluation import labels_saved
from rmjax.jobs.active import Active
from rmjax.jobs.active_world import prompts_of
from rmjax.jobs.reward import load_model
from rmjax.methods.active import Market
from rmjax.records import Preference
from rmjax.training.features import compute
from rmjax.training.prompt_features import prompts
from rmjax.worlds.reward_world import RewardWorld

SMALL = """
    --seeds 2 --buying.start 4 --buying.step 4 --buying.most 12
    --frozen.folds 2 --frozen.forms standard --frozen.penalties 0.1 1 --frozen.axes 6
"""
WORLD = f"{SMALL} --pool 24 --test 40 --world.features 12 --strategies margin k-center-prompts"


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(labels_saved, "saved", functools.partial(labels_saved.saved, samples=20))


def test_a_world(tmp_path, monkeypatch):
    job = config.override(config.load("active_world"), f"{WORLD} --workdir {tmp_path}/run".split(), name="active_world")
    job.run("")
    summary = json_file.read(tmp_path / "run/summary.json")
    rows, names = summary["rows"], ("random", "margin", "k-center-prompts")
    assert {(r["method"], r["labels"], r["draw"]) for r in rows} == {
        (m, n, run) for m in names for n in (4, 8, 12) for run in (0, 1)
    }
    assert all(r["n"] == 40 for r in rows) and summary["testbed"] == "controlled world"
    assert set(summary["against_random"]) == {"margin", "k-center-prompts"} and "2 comparisons" in summary["p"]
    at_start = {r["accuracy"] for r in rows if r["labels"] == 4 and r["draw"] == 0}
    assert len(at_start) == 1  # every strategy begins with the same labels
    of = lambda name, n: np.array([r["accuracy"] for r in rows if (r["method"], r["labels"]) == (name, n)])
    area = lambda name: (of(name, 4) / 2 + of(name, 8) + of(name, 12) / 2) / 2
    gain = summary["against_random"]["margin"]["area"]["difference"]["value"]
    assert gain == pytest.approx((area("margin") - area("random")).mean())
    page = (tmp_path / "run/report.html").read_text()
    assert "<svg" in page and "Labels saved against random" in page and "<script" not in page

    lines = (tmp_path / "run/rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run/rows.jsonl").write_text("".join(lines[:-1]))
    bought, rounds = [], Market.rounds
    monkeypatch.setattr(Market, "rounds", lambda self, s, *a: bought.append(s) or rounds(self, s, *a))
    job.run("")
    same = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert len(bought) == 1 and same(json_file.read(tmp_path / "run/summary.json")["rows"]) == same(rows)


def test_prompts_of_a_world():
    world = RewardWorld(features=12, feature_noise=0.0)
    prompt, _ = world._draw(5, 2, "train", 0, 0)
    assert np.allclose(prompts_of(world, world.pairs(5)), prompt, atol=1e-5)


@pytest.fixture
def job(files, tmp_path) -> Active:
    place = f"""
        --model.path {files}/base --data.path {files}/train.jsonl --data.eval-path {files}/held.jsonl
        --features {tmp_path}/features --workdir {tmp_path}/run --strategies information-gain
    """
    return config.override(config.load("active"), (place + SMALL + "--buying.most 8").split(), name="active")


def test_a_file(job):
    job.run("python -m rmjax.launch active")
    work = Path(job.workdir)
    rows = json_file.read(work / "summary.json")["rows"]
    assert len(rows) == 2 * 2 * 2 and all(r["n"] == 12 for r in rows)
    assert set(json_file.read(work / "run.json")["seconds_of"]) == {"features", "runs"}


def test_features_of_prompts_are_those_of_an_empty_answer(job, tmp_path, monkeypatch):
    reward, items = load_model(job.model), jsonl.read(job.data.path, Preference)[:3]
    of = lambda items: prompts(tmp_path / "f", reward.model, reward.params, reward.chat, items)
    found = of([*items, items[1]])
    empty = [dataclasses.replace(p, chosen="", rejected="", id="") for p in items]
    wanted = compute(reward.model, reward.params, reward.chat, empty)[0]
    assert np.allclose(found, wanted[[0, 1, 2, 1]], atol=1e-5) and len(np.unique(wanted, axis=0)) == 3
    monkeypatch.delattr("rmjax.training.prompt_features.packed_scores")
    assert (of([*items, items[1]]) == found).all()  # read, not computed


@pytest.mark.parametrize(("column", "said"), [({"margin": 2.0}, "has margin"), ({"weight": 2.0}, "has weight")])
def test_columns_that_are_not_bought_are_refused_before_any_work(job, tmp_path, monkeypatch, column, said):
    monkeypatch.delattr("rmjax.jobs.active.load_model")
    items = jsonl.read(job.data.path, Preference)
    jsonl.write(tmp_path / "t.jsonl", [dataclasses.replace(items[0], **column), *items[1:]])
    data = dataclasses.replace(job.data, path=str(tmp_path / "t.jsonl"))
    with pytest.raises(UserError, match=said):
        dataclasses.replace(job, data=data, workdir=str(tmp_path / "w")).run("")


def test_more_labels_than_pairs(job, tmp_path, monkeypatch):
    monkeypatch.delattr("rmjax.jobs.active.load_model")
    buying = dataclasses.replace(job.buying, most=9)
    with pytest.raises(UserError, match=r"^buying\.most=9: the pool has 8 pairs"):
        dataclasses.replace(job, buying=buying, workdir=str(tmp_path)).run("")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("active --strategies random", "'random' is always there"),
        ("active --strategies apo", "'apo' is none of k-center-prompts"),
        ("active --strategies bald bald", "give each once"),
        ("active --strategies margin --buying.members 3", "buying.members=3: none of random, margin reads"),
        ("active --seeds 1", "seeds=1"),
        ("active --buying.most 30", "buying.most=30"),
        ("active --frozen.schedule.steps 7", "schedule.steps=7"),
        ("active_world --pool 100", "buying.most=400: the pool has 100 pairs"),
    ],
)
def test_refused(options, said, capsys):
    assert launch.main(options.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
