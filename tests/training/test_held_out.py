"""Evaluation while a model trains: on what, how well, and that the best parameters are kept and used."""

import dataclasses
import functools
import math
import shutil
import signal

import jax
import numpy as np
import pytest
import small_training
from small_training import MODEL, TRAIN, equal, groups, params, rows, train

from rmjax.data import packing
from rmjax.errors import UserError
from rmjax.models.heads import Linear
from rmjax.objectives.meta import MetaRm
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.objectives.sft import Sft
from rmjax.training import loop
from rmjax.training.held_out import Evaluation, split
from rmjax.training.loop import Train, fit

BEST = dict(eval_every=3, eval_share=0.3, select="best", save_every=100, keep=1)
FAST = dataclasses.replace(TRAIN.optimizer, learning_rate=1.0)  # soon too fast: the loss goes up again


def nll(model, tree, data) -> float:
    """Mean negative log-probability of a completion token, each sequence computed alone."""
    total, count, shape = 0.0, 0.0, packing.fit(data)
    one = jax.jit(functools.partial(Sft(), model))
    for group in data:
        out = one(tree, packing.stack(packing.pack([group], shape).rows))
        total, count = total + float(out.loss.total), count + float(out.loss.weight)
    return total / count


def test_a_prompt_is_on_one_side_whatever_else_there_is():
    data = groups(200)
    ours, held = split(data, 0.25)
    assert not {tuple(g.prompt) for g in ours} & {tuple(g.prompt) for g in held}
    assert sorted(g.id for g in ours + held) == sorted(g.id for g in data)
    assert 30 < len(held) < 70
    few = split(data[:40], 0.25)[1]
    assert few == [g for g in data[:40] if g in held]
    by_id = split(data, 0.25, lambda g: int(g.id[1:]) // 2)[1]
    assert all((f"g{int(g.id[1:]) ^ 1}" in {h.id for h in by_id}) for g in by_id)


def test_an_empty_side_is_refused():
    with pytest.raises(UserError, match=r"train.eval_share=0.01: 3 groups leave 3 to train on and 0 to evaluate on"):
        split(groups(3), 0.01)


def test_the_loss_is_that_of_every_group_alone():
    data = groups(9)
    found = Evaluation(MODEL, Sft(), data, batch=2)(params(), lambda rows: rows)
    assert found["loss"] == pytest.approx(nll(MODEL, params(), data), rel=1e-5)


@pytest.mark.parametrize("objective", [Pairwise(score=Scalar()), MetaRm(ranking=Pairwise(score=Scalar()), eta=0.1)])
def test_a_reward_model_is_evaluated_by_its_ranking_loss(objective):
    model, data = MODEL.with_head(Linear()), groups(9, pairs=True)
    tree = model.add_head(params(), jax.random.key(3))
    found = Evaluation(model, objective, data, batch=4)(tree, lambda rows: rows)
    scores = np.stack(slot_scores(model, tree, data, Scalar())).astype(np.float64)
    delta = scores[:, 0] - scores[:, 1]
    weight = np.array([g.weight[0] for g in data])
    assert found["loss"] == pytest.approx(np.sum(weight * np.log1p(np.exp(-delta))) / weight.sum(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(delta > 0))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A training whose held-out loss has its lowest value before its end."""
    folder = tmp_path_factory.mktemp("best")
    return train(folder, **BEST, optimizer=FAST), rows(folder), folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A training on the other groups alone, with no evaluation."""
    folder, ours = tmp_path_factory.mktemp("plain"), split(groups(), BEST["eval_share"])[0]
    how = dataclasses.replace(TRAIN, optimizer=FAST, save_every=0)
    return fit(MODEL, params(), Sft(), ours, how, folder, name="plain"), rows(folder)


def test_the_best_evaluated_parameters_are_the_result(unbroken, plain):
    end, lines, folder = unbroken
    losses = {row["step"]: row["eval/loss"] for row in lines if "eval/loss" in row}
    assert list(losses) == [3, 6, 9, 12, 14]
    best = min(losses, key=losses.get)
    assert best < 14, losses
    held = split(groups(), BEST["eval_share"])[1]
    assert losses[best] == pytest.approx(nll(MODEL, end, held), rel=1e-5)
    assert sorted(int(p.name) for p in (folder / "checkpoints").iterdir()) == [best, 14]
    assert nll(MODEL, plain[0], held) == pytest.approx(losses[14], rel=1e-5)


def test_evaluation_changes_no_training(unbroken, plain):
    """The rows of a training on the other groups alone, evaluated or not."""
    assert plain[1] == [row for row in unbroken[1] if "train/loss" in row]


def test_told_to_end_in_an_evaluation_after_its_best_it_still_finds_it(unbroken, tmp_path, monkeypatch):
    """SIGTERM: the evaluated parameters are saved. The best checkpoint is older, and is kept beside them."""
    usual, left = loop.place_rows, [12]  # of 9 steps and 3 evaluations of one batch each

    def told(part, mesh):
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGTERM)
        return usual(part, mesh)

    how = {**BEST, "save_every": 5, "optimizer": FAST}
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(loop, "place_rows", told)
        train(tmp_path, **how)
    best, newest = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert stop.value.code == 0 and best < newest == 9
    assert [row["step"] for row in rows(tmp_path) if "eval/loss" in row] == [3, 6, 9]
    assert equal(train(tmp_path, **how), unbroken[0])
    assert rows(tmp_path) == unbroken[1]


@pytest.fixture
def copy(unbroken, tmp_path):
    """What that training left."""
    return shutil.copytree(unbroken[2], tmp_path / "copy")


def test_a_damaged_best_is_no_other_result(copy):
    best = min((copy / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for damage in (lambda: next(best.glob("state/**/d/*")).unlink(), lambda: shutil.rmtree(best)):
        damage()
        with pytest.raises(UserError, match=rf"DAMAGED checkpoint .*/{best.name}, the best of this training"):
            train(copy, **BEST, optimizer=FAST)


def test_other_held_out_groups_are_another_training(copy, monkeypatch):
    held = split(groups(), BEST["eval_share"])[1]
    other = [dataclasses.replace(g, completions=[[3, 0]]) if g in held else g for g in groups()]
    monkeypatch.setattr(small_training, "groups", lambda: other)
    with pytest.raises(UserError, match=r"other settings \(held-out data: \w+ -> \w+\)"):
        train(copy, **BEST, optimizer=FAST)


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"train.select=best needs train.eval_every \(here 0\) and train.save_every"):
        Train(steps=1, select="best", save_every=5)
    with pytest.raises(UserError, match=r"train.select='first': not one of last, best"):
        Train(steps=1, select="first")
    for share in (0.0, 1.0, math.nan):
        with pytest.raises(UserError, match=r"train.eval_share=\S+: give a number above 0 and below 1"):
            Train(steps=1, eval_share=share)
    with pytest.raises(UserError, match=r"train.eval_share=0.2: is for train.eval_every, here 0"):
        Train(steps=1, eval_share=0.2)
    with pytest.raises(UserError, match=r"train.eval_every=3: this training keeps no files; set it to 0"):
        train(None, eval_every=3)
    with pytest.raises(UserError, match=r"train.eval_share=0.001: 2 groups leave 2 to train on and 0 to evaluate on"):
        dataclasses.replace(TRAIN, eval_every=3, eval_share=0.001).check(MODEL, groups(2))
    with pytest.raises(UserError, match=r"the loss on the groups held out by train.eval_share is nan"):
        Evaluation(MODEL, Sft(), groups(2), batch=2)(jax.tree.map(lambda p: p * np.nan, params()), lambda rows: rows)
