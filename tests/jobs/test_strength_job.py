"""The strength and noise jobs end to end on a small model: files, table, report, refusals."""

import dataclasses
import json

import numpy as np
import pytest

from rmjax import config, jsonl
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
    result = Strengths(found=found, treated=found, how="hand")
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


def test_the_world_gives_back_what_noise_costs(tmp_path, capsys):
    """A small version of docs/results: the shipped default finds flips and wins back at least half, tuned blind."""
    job = config.override(
        config.load("noise_world"),
        ["--seeds", "3", "--labels", "400", "--test", "1000", "--workdir", str(tmp_path / "run")],
        name="noise_world",
    )
    job.run("")
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len(facts["trials"]) == 3 and set(facts["rules"]) == set(RULES)
    assert facts["auroc"]["held_out"]["value"] > 0.8
    rows = facts["rules"][RULES[0]]
    assert rows[NOISY]["won_back"] == 0 and rows[TRUE]["won_back"] == pytest.approx(1)
    assert rows[SHIPPED]["won_back"] > 0.5 and rows[SHIPPED]["gain"]["value"] > 0.01
    assert rows[SHIPPED]["accuracy"]["n"] == 3
    said = capsys.readouterr().out
    assert "won back" in said and "shipped default" in said


def test_the_noise_job_on_a_file(flags, folder, tmp_path):
    assert main(["noise", *flags, "--seeds", "2", "--workdir", str(tmp_path / "run")]) == 0
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 <= facts["auroc"]["held_out"]["value"] <= 1
    assert (tmp_path / "run" / "run.json").exists()
    assert 0 < facts["baselines"]["longer answer wins"] < 1


def test_noise_is_said_once():
    with pytest.raises(UserError, match=r"world\.noise=0\.1: --share decides"):
        noise.NoiseWorldJob(world=RewardWorld(noise=0.1))
    with pytest.raises(UserError, match=r"share=0\.5"):
        noise.NoiseWorldJob(share=0.5)
