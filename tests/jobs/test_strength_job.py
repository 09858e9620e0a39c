"""The strength and noise jobs end to end on a small model: files, table, report, refusals."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest

from rmjax import config, jsonl
from rmjax.bounds import LAST_SEED
from rmjax.data.sources import read_preferences
from rmjax.errors import UserError
from rmjax.jobs import noise, strength_report
from rmjax.jobs.noise import NOISY, RULES, SHIPPED, TRUE
from rmjax.jobs.strength_report import Strengths
from rmjax.launch import main
from rmjax.records import Message, Preference
from rmjax.refine import strength
from rmjax.refine.treatments import Treatment
from rmjax.worlds.judge_world import JudgeWorld
from rmjax.worlds.reward_world import RewardWorld

FAST = ["--ensemble.members", "2", "--ensemble.folds", "3", "--ensemble.penalties", "0.01"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """base/, an untrained decoder; pairs.jsonl, in which meta.bad says which labels are wrong."""
    place, world = tmp_path_factory.mktemp("strength"), JudgeWorld(noise=0.3)
    world.write_base(place / "base")
    pairs = [dataclasses.replace(p, meta={"bad": not p.meta["correct"]}) for p in world.preferences(40, split="train")]
    jsonl.write(place / "pairs.jsonl", pairs)
    return place


@pytest.fixture(scope="module")
def flags(folder) -> list[str]:
    return [
        *("--model.path", str(folder / "base"), "--data.path", str(folder / "pairs.jsonl"), *FAST),
        *("--features", str(folder / "features")),
    ]


@pytest.fixture(scope="module")
def done(folder, flags):
    """A finished run."""
    code = main(["strength", *flags, "--known", "bad", "--workdir", str(folder / "run")])
    assert code == 0
    return folder / "run"


def test_files(done, folder):
    before = read_preferences(folder / "pairs.jsonl").records
    found, treated = (read_preferences(done / f"{name}.jsonl").records for name in ("strengths", "treated"))
    assert [p.id for p in found] == [p.id for p in treated] == [p.id for p in before]
    assert [dataclasses.replace(p, meta=b.meta) for p, b in zip(found, before, strict=True)] == before
    assert treated == Treatment()(found)
    facts, run = (json.loads((done / f"{name}.json").read_text()) for name in ("summary", "run"))
    wrong = np.array([p.meta["bad"] for p in before])
    assert facts["auroc"] == pytest.approx(strength.auroc(strength.means(found), wrong))
    assert facts["flipped"] == sum("flipped" in p.meta for p in treated) <= 4
    assert facts["n"] == 40 and len(facts["bands"]) == 20 and facts["below_zero"] == sum(strength.means(found) < 0)
    assert run["seconds"] > 0 and len(run["data"]) == 2


def test_the_report_is_one_page(done):
    page = (done / "report.html").read_text()
    found = strength.suspicious(read_preferences(done / "strengths.jsonl").records)
    assert "<script" not in page and "http" not in page.split("<style>")[1].split("</style>")[1]
    assert page.count("<svg") == 3 and "known to be wrong" in page
    assert page.count('<article class="reading">') == min(20, sum(strength.means(found) < 0))
    assert page.index(found[0].id) < page.index(found[1].id)
    file = str(done.parent / "pairs.jsonl")
    assert f"40 labels of {file}, scored by" in page and "real data" not in page
    assert json.loads((done / "summary.json").read_text())["pairs"] == file


def test_edits_are_the_treatments_alone():
    """Columns that the pairs came with are no edits, also where a flip turns them around."""
    prompt = (Message("user", "q"),)
    plain = [Preference(prompt=prompt, chosen="a", rejected="b", id=f"r{i}") for i in range(4)]
    own = [{"margin": 1.0}, {"prob_chosen": 0.9}, {"meta": {"flipped": False}}, {"margin": 2.0}]
    records = [dataclasses.replace(p, **c) for p, c in zip(plain, own, strict=True)]
    found = strength.annotate(records, np.array([[-3.0, -2.0, -1.0, 1.0]]))
    wrong = np.array([True, False, True, False])
    after = Treatment(flip=0.5, smoothing=0.0, margin=0.0)(found)
    result = Strengths(found=found, treated=after, how="hand", file="f", wrong=wrong)
    assert [result.facts()[k] for k in ("flipped", "smoothed", "margins")] == [2, 0, None]
    assert result.edits()["labels turned around that are known to be wrong"] == "1 of 2 known"
    kept = [dataclasses.replace(p, meta={**p.meta, "flipped": True}) for p in found]
    assert Strengths(found=kept, treated=kept, how="hand", file="f").facts()["flipped"] == 0
    shown = strength_report.suspicious_table(result, count=4)
    assert shown.row_count == 3
    bare = strength.annotate(plain, np.array([[-3.0, -2.0, -1.0, 1.0]]))
    treated = Treatment(flip=0.25, smoothing=0.1, margin=1.0)(bare)
    facts = Strengths(found=bare, treated=treated, how="hand", file="f").facts()
    assert [facts[k] for k in ("flipped", "smoothed", "margins")] == [1, 2, [-2.0, 3.0]]


def test_the_same_command_again_reads_the_cached_features(done, folder, flags, monkeypatch):
    before = (done / "strengths.jsonl").read_bytes()
    monkeypatch.setattr("rmjax.training.features.compute", lambda *_, **__: pytest.fail("computed again"))
    assert main(["strength", *flags, "--known", "bad", "--workdir", str(done)]) == 0
    assert (done / "strengths.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--known", "worse"], "has meta.worse=None"),
        (["--ensemble.folds", "99"], "40 different prompts for 99 folds"),
        (["--treatment.flip", "2"], "treatment.flip=2.0"),
        (["--data.path", "nowhere.jsonl"], "no such file"),
    ],
)
def test_one_line_refusals(flags, tmp_path, capsys, extra, message):
    assert main(["strength", *flags, *extra, "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and said.count("\n") == 1


def test_known_is_checked_before_the_model_is_loaded(flags, tmp_path, capsys):
    extra = ["--known", "worse", "--model.path", "nowhere", "--workdir", str(tmp_path / "run")]
    assert main(["strength", *flags, *extra]) == 2
    assert "has meta.worse=None" in capsys.readouterr().err


def test_columns_in_the_way_are_said_before_any_work(flags, folder, tmp_path, capsys):
    records = [dataclasses.replace(p, margin=1.0) for p in read_preferences(folder / "pairs.jsonl").records]
    jsonl.write(tmp_path / "margins.jsonl", records)
    extra = ["--data.path", str(tmp_path / "margins.jsonl"), "--model.path", "nowhere"]
    assert main(["strength", *flags, *extra, "--workdir", str(tmp_path / "run")]) == 2
    assert "has margin already" in capsys.readouterr().err


def test_texts_are_shown_as_text(tmp_path):
    evil = "<script>alert(1)</script>"
    p = Preference(prompt=(Message("user", evil),), chosen=f"{evil} a", rejected="b", id="x")
    found = strength.annotate([p, dataclasses.replace(p, id="y")], np.array([[-1.0, 1.0]]))
    result = Strengths(found=found, treated=found, how="hand", file="pairs.jsonl")
    run = {"command": "c", "seconds": 1.0, "data": {}, "versions": {}, "config": {}}
    run["device"] = {"platform": "cpu", "cores": 2}
    strength_report.write(tmp_path / "report.html", result, run=run)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and page.count("<article") == 1


def test_flips_swap_features_and_records_alike():
    pairs = RewardWorld().pairs(30)
    features = noise.Features(pairs.ids, pairs.chosen, pairs.rejected)
    found = noise.flipped(pairs.records(), features, features, 0.2, 3)
    assert found.flipped.sum() == 6
    for i, p in enumerate(pairs.records()):
        texts, rows = (p.chosen, p.rejected), (pairs.chosen[i], pairs.rejected[i])
        if found.flipped[i]:
            texts, rows = texts[::-1], rows[::-1]
        assert (found.records[i].chosen, found.records[i].rejected) == texts
        np.testing.assert_array_equal([found.train.chosen[i], found.train.rejected[i]], rows)
    assert (noise.flipped(pairs.records(), features, features, 0.2, 4).flipped != found.flipped).any()


def test_the_world_gives_back_what_noise_costs(tmp_path, capsys, monkeypatch):
    """A small docs/results: the shipped default wins back at least half, tuned blind; a killed run goes on."""
    job = config.override(
        config.load("noise_world"),
        ["--seeds", "3", "--labels", "400", "--test", "1000", "--workdir", str(tmp_path / "run")],
        name="noise_world",
    )
    job.run("")
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(facts["rules"]) == set(RULES)
    assert facts["auroc"]["held_out"]["value"] > 0.8
    rows = facts["rules"][RULES[0]]
    won = {name: row["won_back"] for name, row in rows.items()}
    assert won[NOISY]["value"] == 0 and [won[TRUE][k] for k in ("value", "low", "high")] == pytest.approx([1, 1, 1])
    assert won[SHIPPED]["low"] < won[SHIPPED]["value"] < won[SHIPPED]["high"]
    assert won[SHIPPED]["value"] > 0.5 and rows[SHIPPED]["gain"]["value"] > 0.01
    assert rows[SHIPPED]["accuracy"]["n"] == 3
    said = capsys.readouterr().out
    assert "won back" in said and "shipped default" in said

    lines = (tmp_path / "run" / "trials.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "trials.jsonl").write_text("".join(lines[:2]) + lines[2][:20])  # killed in the third
    seeds, one = [], noise.trial
    monkeypatch.setattr(noise, "trial", lambda *args, seed, **more: seeds.append(seed) or one(*args, seed=seed, **more))
    job.run("")
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert seeds == [2] and {**again, "seconds": 0} == {**facts, "seconds": 0}


def test_won_back_is_bounded_by_a_bootstrap_over_trials():
    """Two trials, gain and loss of one together: a resample holds the first twice, both, or the second twice."""
    found = noise.won_back(np.array([0.01, 0.06]), np.array([0.02, 0.08]))
    assert found == pytest.approx({"value": 0.7, "low": 0.5, "high": 0.75, "n": 2})
    assert noise.percent(found) == "70 % (50 to 75)"
    some = noise.won_back(np.array([0.01, 0.05]), np.array([0.0, 0.08]))
    assert some == {"value": pytest.approx(0.75), "low": None, "high": None, "n": 2}
    assert noise.percent(some) == "75 % (no interval)"
    assert noise.won_back(np.array([0.01, 0.06]), np.array([0.02, -0.02])) is None


def test_the_noise_job_on_a_file(flags, tmp_path, monkeypatch):
    """Features that favour the file's answers, on all devices: strength finds what was turned around."""
    real, one, stack, inside = noise.cached, noise.trial, [], []

    def favouring(*args):
        found = real(*args)
        return dataclasses.replace(found, chosen=found.chosen + 5 * found.chosen.std())

    @contextlib.contextmanager
    def use(devices):
        stack.append(devices)
        yield
        stack.pop()

    monkeypatch.setattr(noise, "cached", favouring)
    monkeypatch.setattr(noise.Devices, "use", use)
    monkeypatch.setattr(noise, "trial", lambda *args, **more: inside.append(bool(stack)) or one(*args, **more))
    assert main(["noise", *flags, "--seeds", "2", "--workdir", str(tmp_path / "run")]) == 0
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert facts["auroc"]["held_out"]["value"] > 0.9
    assert facts["rules"][RULES[0]][TRUE]["accuracy"]["value"] > 0.9
    assert inside == [True, True] and not stack
    assert (tmp_path / "run" / "run.json").exists()
    assert 0 < facts["baselines"]["longer answer wins"] < 1


@pytest.mark.parametrize(
    ("name", "value"), [("weight", 0.0), ("margin", 1.0), ("prob_chosen", 0.5), ("votes", {"chosen": 2})]
)
def test_noise_refuses_columns_before_any_work(flags, folder, tmp_path, capsys, name, value):
    records = read_preferences(folder / "pairs.jsonl").records
    jsonl.write(tmp_path / "more.jsonl", [*records[:-1], dataclasses.replace(records[-1], **{name: value})])
    extra = ["--data.path", str(tmp_path / "more.jsonl"), "--model.path", "nowhere"]
    assert main(["noise", *flags, *extra, "--workdir", str(tmp_path / "run")]) == 2
    assert f"has {name}, which" in (said := capsys.readouterr().err) and f"--data.ignore {name}" in said
    assert main(["noise", *flags, *extra, "--data.ignore", name, "--workdir", str(tmp_path / "run")]) == 2
    assert "--model.path nowhere" in capsys.readouterr().err


def test_noise_is_said_once():
    with pytest.raises(UserError, match=r"world\.noise=0\.1: --share decides"):
        noise.NoiseWorldJob(world=RewardWorld(noise=0.1))
    with pytest.raises(UserError, match=r"share=0\.5"):
        noise.NoiseWorldJob(share=0.5)


def test_every_seed_of_the_world_is_one():
    assert noise.NoiseWorldJob(world=RewardWorld(seed=LAST_SEED - 2), seeds=3).setting(2).flipped.any()
    with pytest.raises(UserError, match=r"world\.seed=4294967294: with seeds=3"):
        noise.NoiseWorldJob(world=RewardWorld(seed=LAST_SEED - 1), seeds=3)
