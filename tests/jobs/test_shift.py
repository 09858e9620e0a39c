"""The drift job: what a small run leaves, resuming, what is compared, what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rmjax import config, json_file, jsonl, launch
from rmjax.bounds import LAST_SEED
from rmjax.errors import UserError
from rmjax.jobs import shift
from rmjax.jobs.shift import BASELINE, BEFORE, HIDDEN, META, RELABELLED, THIS, TRAINING, Shift
from rmjax.methods.frozen import Bench
from rmjax.methods.shift import Hidden, HiddenMetaRm, adapted

SETTINGS = """
    --seeds 2 --rounds 2 --labels 40 --unlabelled 12 --test 50 --world.features 12
    --frozen.folds 2 --frozen.forms standard --frozen.penalties 0.01 0.1
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Shift:
    """A run whose heads with a loss of their own, tested elsewhere, are the baseline's.

    The head of the place p is right on 10 p + t of round t's 50 pairs.
    """

    def placed(bench, labels, number, method, base, places):
        rights = [np.concatenate([np.arange(50) < 10 * p + t for t in range(3)]) for p in range(len(places))]
        found = np.where(rights, 1.0, -1.0)
        words = ("w",) * len(places)
        every = np.repeat(found[:, None], 16, axis=1)
        return dataclasses.replace(base, differences=found, words=words), every

    place = f"--workdir {tmp_path_factory.mktemp('shift') / 'run'}"
    job = config.override(config.load("shift"), (place + SETTINGS).split(), name="shift")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shift, "adapted", placed)
        patch.setattr(Bench, "auxiliary", lambda self, labels, numbers, method, base: base)
        job.run("python -m rmjax.launch shift")
    return job


def test_what_a_run_leaves(job):
    summary, lines = (json_file.read(path(job, "summary.json")), [x for _, x in jsonl.lines(path(job, "rows.jsonl"))])
    assert [x["seed"] for x in lines] == [0, 1] and summary["testbed"] == "controlled world"
    names = list(lines[0]["accuracy"])
    assert names[0] == BASELINE and names[-1] == RELABELLED and len(names) == 4 + 2 * 3 + 1
    for x in lines:
        for name in META:
            of = lambda whose, x=x, name=name: x["accuracy"][f"{name}, {whose}"]
            assert of(THIS) == [0.0, 0.22, 0.44]  # place t on round t
            assert of(BEFORE) == [0.0, 0.02, 0.24]  # place t - 1
            assert of(TRAINING) == [0.0, 0.02, 0.04]  # place 0
        # new labels of round 0 are a draw of the training distribution: the very one
        assert x["accuracy"][RELABELLED][0] == x["accuracy"][BASELINE][0] > 0.6
    assert len(summary["rows"]) == len(names) * 3 * 2 and all(r["n"] == 50 for r in summary["rows"])
    # 3 pairs at 3 rounds; for each head: this round - control at 3, the round before at 2, - training at 2
    assert len(summary["comparisons"]) == 3 * 3 + 2 * (3 + 2 + 2)
    assert all(0 <= c["p"] <= 1 for c in summary["comparisons"])
    assert summary["by_eta"]["MetaRM"] == [[0.0, 0.22, 0.44]] * 4
    page = path(job, "report.html").read_text()
    assert page.index("Accuracy by round") < page.index('<section id="comparisons">') and page.count("<svg") == 1
    assert "±" in page and "<script" not in page and "&lt;svg" not in page


def test_a_trial_with_the_methods_themselves(monkeypatch):
    """Each round is scored by the head that saw that round's answers, the one before's, or those of training."""
    name, given = "hidden layer, MetaRM", "--rounds 2 --labels 16 --unlabelled 10 --test 20 --world.features 12"
    given += " --frozen.folds 2 --frozen.penalties 0.1 --frozen.schedule.steps 2 --frozen.schedule.penalties 1"
    given += " --frozen.schedule.batch 4 --frozen.schedule.hidden 3"
    job, told = config.override(config.load("shift"), given.split(), name="shift"), []
    monkeypatch.setattr(shift, "adapted", lambda *a: told.append((a[5], adapted(*a))) or told[-1][1])
    monkeypatch.setattr(shift, "META", {name: HiddenMetaRm(grid=(0.3, 300.0))})
    for other in ("SimCse", "Swav"):  # one program for all three rows: compiling each takes seconds
        monkeypatch.setattr(shift, other, Hidden)
    found = job.trial(3)
    accuracy, ((places, (fitted, every)),) = found["accuracy"], told
    assert accuracy["+ SimCSE"] == accuracy["+ SwAV"] == accuracy[HIDDEN] and len(accuracy[HIDDEN]) == 3
    world = dataclasses.replace(job.world, seed=3)
    for t, place in enumerate(places):
        drawn = world.responses(10, 2, round=t)
        assert (place.chosen == drawn[:, 0]).all() and (place.rejected == drawn[:, 1]).all()
    right = (fitted.differences > 0).reshape(3, 3, 20).mean(2)  # [place, round]
    for whose, rows in ((THIS, [0, 1, 2]), (BEFORE, [0, 0, 1]), (TRAINING, [0, 0, 0])):
        assert accuracy[f"{name}, {whose}"] == [right[p, t] for t, p in enumerate(rows)]
    assert len(found["by_eta"][name]) == every.shape[1] == 2
    assert len(set(map(tuple, fitted.differences))) == 3  # the places' heads are not the same


def test_a_killed_run_goes_on(job, monkeypatch):
    file = path(job, "rows.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole.splitlines(keepends=True)[0] + b'{"seed": 1, "acc')
    ran = []
    monkeypatch.setattr(Shift, "trial", lambda self, seed: ran.append(seed) or jsonl.parse(whole.splitlines()[1], "x"))
    job.run("")
    assert ran == [1] and file.read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--rounds 0", "rounds=0"),
        ("--seeds 1", "seeds=1"),
        ("--labels 3", "labels=3"),
        ("--frozen.schedule.hidden 2", "hidden=2: a hidden layer needs at least 3"),
        (f"--world.seed {LAST_SEED}", f"world.seed={LAST_SEED}"),
    ],
)
def test_refused(options, said, capsys):
    assert launch.main(["shift", *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def path(job, name):
    return Path(job.workdir) / name


def test_another_world_in_the_same_folder_is_refused(job):
    with pytest.raises(UserError, match=r"world\.drift"):
        dataclasses.replace(job, world=dataclasses.replace(job.world, drift=2.0)).run("")
