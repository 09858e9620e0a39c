"""The strength job with whole models as members: killed and continued, against the train job's own parts, refusals."""

import dataclasses
import json

import numpy as np
import pytest

from rmjax import jsonl
from rmjax.data import packing
from rmjax.data.sources import read_preferences
from rmjax.jobs import strength_members
from rmjax.jobs.sources import ModelSource
from rmjax.jobs.train import TrainJob
from rmjax.launch import main
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar
from rmjax.refine import strength
from rmjax.training.loop import Train, fit
from rmjax.worlds.judge_world import JudgeWorld

TRAIN = Train(optimizer=TrainJob.train.optimizer, steps=2, batch=2, save_every=1, quiet=True)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """base/, an untrained decoder, and pairs.jsonl, one of them with a weight."""
    place, world = tmp_path_factory.mktemp("tuned"), JudgeWorld()
    world.write_base(place / "base")
    pairs = world.preferences(10, split="train")
    jsonl.write(place / "pairs.jsonl", [dataclasses.replace(pairs[0], weight=3.0), *pairs[1:]])
    return place


@pytest.fixture(scope="module")
def flags(folder) -> list[str]:
    files = ["--model.path", str(folder / "base"), "--data.path", str(folder / "pairs.jsonl")]
    train = "--train.steps 2 --train.epochs 0 --train.batch 2 --train.save-every 1 --train.quiet --devices.data 1"
    return [*files, "--trunk", "tuned", "--ensemble.members", "2", "--seed", "5", *train.split(), "--devices.fsdp", "1"]


def test_a_killed_run_goes_on_and_members_score_what_they_have_not_seen(folder, flags, tmp_path, monkeypatch):
    command = ["strength", *flags, "--ensemble.folds", "2", "--workdir", str(tmp_path / "run")]
    seen = []

    def counted(model, params, objective, groups, *args, **more):
        if len(seen) == 3:
            raise Killed
        seen.append({g.id for g in groups})
        return fit(model, params, objective, groups, *args, **more)

    monkeypatch.setattr(strength_members, "fit", counted)
    with pytest.raises(Killed):
        main(command)
    assert not (tmp_path / "run" / "strengths.jsonl").exists()
    killed = seen.copy()
    seen.clear()
    assert main(command) == 0
    assert len(seen) == 1, "three of the four trainings were done before"

    records = read_preferences(folder / "pairs.jsonl").records
    found = read_preferences(tmp_path / "run" / "strengths.jsonl").records
    differences = np.array([p.meta["strength"]["differences"] for p in found])
    assert differences.shape == (10, 2) and np.unique(differences).size == 20
    ids = {p.id for p in records}
    part = strength.folds([p.prompt for p in records], members=2, parts=2, seed=5)
    for at, trained_on in enumerate([*killed, *seen]):
        assert trained_on == ids - {p.id for p, f in zip(records, part[at // 2], strict=True) if f == at % 2}

    # The second member's first part, by the train job's own pieces.
    start = TrainJob(model=ModelSource(path=str(folder / "base")), seed=6).start()
    length = packing.fit(start.groups(records)).length  # of all trainings' rows
    train, objective = dataclasses.replace(TRAIN, seed=6, length=length), Pairwise(score=Scalar())
    others = start.groups([p for p, f in zip(records, part[1], strict=True) if f])
    params = fit(start.model, start.params, objective, others, train, None, name="by hand")
    own = [i for i, f in enumerate(part[1]) if not f]
    rewards = dataclasses.replace(start, params=params).rewards([records[i] for i in own]).astype(np.float64)
    np.testing.assert_allclose(differences[own, 1], rewards[:, 0] - rewards[:, 1], atol=1e-6)

    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert facts["trunk"] == "tuned" and "penalty" not in facts and facts["n"] == 10
    page = (tmp_path / "run" / "report.html").read_text()
    assert "2 fine-tuned models, each trained in 2 folds and scoring only prompts that it has not seen" in page
    assert not [*(tmp_path / "run").rglob("checkpoints")]


def test_the_papers_way_scores_what_was_trained_on(flags, tmp_path, monkeypatch):
    """One training a member, on all pairs in its own order."""
    orders = []

    def untrained(model, params, objective, groups, train, *args, **more):
        orders.append((len(groups), train.seed))
        return params

    monkeypatch.setattr(strength_members, "fit", untrained)
    assert main(["strength", *flags, "--ensemble.scoring", "training", "--workdir", str(tmp_path / "run")]) == 0
    assert orders == [(10, 5), (10, 6)]
    assert sorted(p.name for p in (tmp_path / "run").glob("member-*")) == ["member-1", "member-2"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--ensemble.axes", "7"], "ensemble.axes=7: is for heads on a frozen trunk"),
        (["--features", "elsewhere"], "features=elsewhere: is for heads on a frozen trunk"),
        (["--trunk", "frozen"], "train: no setting of it counts for heads on a frozen trunk; add --trunk tuned"),
        (["--train.seed", "1"], "train.seed=1: the job's own --seed decides"),
        (["--train.freeze", "99"], "train.freeze=99: the model has"),
        (["--train.length", "1"], "--train.length 1: 10 of 10 training pairs need longer rows"),
        (["--ensemble.folds", "99"], "different prompts for 99 folds"),
        (["--ensemble.scoring", "training", "--ensemble.folds", "10"], "ensemble.folds=10: is for scoring held_out"),
        (["--train.head-only", "5"], "train.head_only=5: 5 updates of the head alone leave none of 2"),
        (
            ["--train.steps", "0", "--train.epochs", "1", "--train.head-only", "50"],
            "50 updates of the head alone leave",
        ),
    ],
)
def test_one_line_refusals_that_leave_nothing_behind(flags, tmp_path, capsys, extra, message):
    assert main(["strength", *flags, *extra, "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
