"""Methods beside the tuned Bradley-Terry head on frozen features: same budget, same start, each part works."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.methods.frozen import Bench, Frozen
from rmjax.methods.proto_rm import ProtoRm
from rmjax.methods.secrets import MetaRm, Projection, SimCse, Swav
from rmjax.models import heads
from rmjax.records import Message, Preference
from rmjax.training.frozen import nonlinear
from rmjax.training.frozen.nonlinear import Batch, Schedule
from rmjax.training.frozen.treatments import Flip, Margin, Smooth

F, N = 6, 30
METHODS = [Projection(), SimCse(), SimCse(form="difference"), Swav(), MetaRm(), ProtoRm(capacity=6, start_with=2)]
HOW = Frozen(axes=5, folds=2, penalties=(0.03, 0.3), schedule=Schedule(hidden=3, steps=4, batch=6))


def pairs(n=N, **columns):
    return [Preference(prompt=(Message("user", str(i)),), chosen="a", rejected="b", **columns) for i in range(n)]


def features(n, seed):
    r = np.random.default_rng(seed)
    x = r.normal(size=(2, n, F)).astype(np.float32)
    x[0, :, :2] += 1.0
    return Features(tuple(map(str, range(n))), *x)


@functools.cache
def bench(how=HOW):
    return Bench(features(N, 0), features(60, 1), pairs(), how, parts=2, seed=3)


def batch(n=8, d=5):
    r = np.random.default_rng(2)
    x = [jnp.asarray(r.normal(size=s), jnp.float32) for s in ((2, n, d), (n, 2, d))]
    return Batch(x[0], jnp.ones(n).at[-2:].set(0), jnp.zeros(n), jnp.zeros(n), x[1])


def begun(method):
    head = heads.split(method.head(3), 5)
    weight = jnp.array([0.5, -1.0, 0.2, 0.0, 0.3])
    return head, method.start(head, head.init(jax.random.key(0)), weight, batch(), jax.random.key(1)), weight


def test_at_the_defaults_every_method_tries_as_many_settings():
    how = Frozen()
    assert {how.settings(m) for m in (None, *METHODS, Flip(), Smooth(), Margin())} == {16}
    assert [HOW.settings(m) for m in (None, Flip(), MetaRm())] == [4, 4, 16]
    base = bench().baseline(3, range(2))
    assert max(bench().auxiliary(3, range(2), MetaRm(), base).chosen) < 16


@pytest.mark.parametrize("method", METHODS[:-1], ids=lambda m: type(m).__name__)
def test_heads_start_at_the_baseline(method):
    head, params, weight = begun(method)
    x = batch().answers[0]
    np.testing.assert_allclose(head.apply(params["head"], x), x @ weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(method.effective(params["head"]), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_every_trained_leaf_learns_and_held_out_pairs_do_not_count(method):
    head, params, _ = begun(method)
    # a start away from where the other directions of the projection carry nothing
    params["head"]["weight"] = params["head"]["weight"] + 0.1
    gradient = jax.jit(lambda b, value: method.gradient(head, params, b, lambda p: 0.0, value, jax.random.key(4)))
    grads = lambda b, value=0.3: gradient(b, jnp.float32(value))
    here = batch()
    found = grads(here)
    empty = {"prototypes"} if head.config.__class__ is heads.Prototypes and not params["head"]["valid"].any() else set()
    for name, leaf in found["head"].items():
        if head.trainable[name] and name not in empty:
            assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-6, name
    other = here.answers.at[:, -2:].add(jnp.array([3.0, -2.0])[:, None, None])
    moved = dataclasses.replace(here, answers=other)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(grads(moved)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    other = grads(here, 0.0)
    assert any(
        np.abs(a - b).max() > 1e-6 for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True)
    ), "the method's own setting changes nothing"


def test_the_baseline_is_better_than_chance_and_chosen_by_fold_loss():
    fitted = bench().baseline(24, range(3))
    assert fitted.differences.shape == (3, 60) and fitted.head.shape == (3, 3, 5)
    assert (fitted.differences > 0).mean() > 0.6
    assert all(loss < np.log(2) for loss in fitted.held_loss)
    assert all(w.split(",")[0] in ("standard", "unit") for w in fitted.words)


@pytest.mark.parametrize("method", [METHODS[3], METHODS[5]], ids=lambda m: type(m).__name__)
def test_methods_go_on_from_the_baseline(method):
    base = bench().baseline(24, range(3))
    fitted = bench().auxiliary(24, range(3), method, base)
    assert fitted.differences.shape == (3, 60) and np.isfinite(fitted.differences).all()
    change = np.abs(fitted.differences - base.differences)
    assert change.max() > 1e-4
    np.testing.assert_array_equal(fitted.form, base.form)
    again = bench().auxiliary(24, range(3), method, base)
    np.testing.assert_array_equal(fitted.differences, again.differences)


@pytest.mark.parametrize("method", METHODS[3:], ids=lambda m: type(m).__name__)
def test_a_fold_has_no_part_in_the_heads_that_leave_it_out(method):
    """Its pairs change places, features and labels: what fit k says of them changes places and sign, no more."""
    found = bench()
    runs = found.runs(24, range(1), whole=True)
    start = np.random.default_rng(5).normal(size=(1, 3, 5)).astype(np.float32)
    own = runs.index[0, :24][runs.fold[0, :24] == 1]
    x = found.x.copy()
    x[:, own] = x[:, np.roll(own, 1), ::-1]

    def held(x):
        one = np.ones(1)
        fixed = {"form": np.zeros(1, int), "start": start, "penalty": 0.1 * one, "folds": 2, "columns": found.columns}
        return nonlinear.fit(x, found.evaluation, runs, method, HOW.schedule, **fixed)[0][0, :, :24]

    before, after = held(found.x), held(x)
    there = runs.fold[0, :24] == 1
    np.testing.assert_allclose(after[:, there], -np.roll(before[:, there], 1, axis=1), rtol=1e-4, atol=1e-5)
    assert np.abs(before[:, there]).max() > 0.1
    assert np.abs(after[:, ~there] - before[:, ~there]).max() > 1e-3  # fit 0 trains on them


def test_weights_and_smoothing_count_in_the_choice():
    own = Bench(features(N, 0), features(60, 1), pairs(prob_chosen=0.5), HOW, parts=2, seed=3)
    np.testing.assert_allclose(own.baseline(24, range(2)).held_loss, np.log(2), rtol=1e-6)  # half of each label


def test_prototypes_decide_served_scores():
    method = METHODS[-1]
    base = bench().baseline(24, range(3))
    head = heads.split(method.head(3), 5)
    params = jax.tree.map(lambda a: a[0], bench().auxiliary(24, range(3), method, base).head)
    assert params["valid"].sum() >= 4 and set(params["classes"][params["valid"] > 0].tolist()) == {0, 1}
    x = jnp.asarray(bench().evaluation[base.form[0]])
    score = lambda p: head.apply(p, x[:, 0]) - head.apply(p, x[:, 1])
    np.testing.assert_allclose(score(params), bench().auxiliary(24, range(3), method, base).differences[0], atol=1e-5)
    moved = {**params, "prototypes": params["prototypes"] + np.random.default_rng(0).normal(size=(6, 3))}
    assert np.abs(score(moved) - score(params)).max() > 1e-3


def test_three_labels_work_and_treatments_refuse_columns_that_they_would_replace():
    for labels in (1, 3):
        base = bench().baseline(labels, range(2))
        for fitted in (
            base,
            bench().treated(labels, range(2), Flip(), base),
            bench().auxiliary(labels, range(2), MetaRm(), base),
        ):
            assert np.isfinite(fitted.differences).all()
    own = Bench(features(N, 0), features(60, 1), pairs(margin=0.5), HOW, parts=2, seed=3)
    base = own.baseline(24, range(2))
    assert np.abs(base.differences - bench().baseline(24, range(2)).differences).max() > 1e-3
    with pytest.raises(UserError, match="method margin: the pairs have margins"):
        own.treated(24, range(2), Margin(), base)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Frozen(forms=()), "frozen.forms"),
        (lambda: Frozen(penalties=(0.0,)), "frozen.penalties"),
        (lambda: Frozen(folds=1), "frozen.folds=1"),
        (lambda: Schedule(batch=1), "schedule.batch=1"),
        (lambda: Schedule(penalties=()), "schedule.penalties"),
        (lambda: Schedule(penalties=(1.0, 0.0)), "schedule.penalties"),
        (lambda: ProtoRm(capacity=3), "proto_rm.capacity=3"),
        (lambda: SimCse(dropout=0.0), "simcse.dropout=0"),
        (lambda: Swav(prototypes=1), "swav.prototypes=1"),
    ],
)
def test_impossible_settings(make, said):
    with pytest.raises(UserError, match=said):
        make()
