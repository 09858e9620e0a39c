"""Coordinates, draws, the convex solver, cross-validation and treatments of heads on frozen features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.training.frozen import draws, linear, selection, treatments
from rmjax.training.frozen.basis import Basis, normalised
from rmjax.training.frozen.solver import solve

R = np.random.default_rng(0)


def features(n=40, f=6, seed=0):
    r = np.random.default_rng(seed)
    return Features(tuple(map(str, range(n))), *(r.normal(size=(2, n, f)) * [5, 1, 1, 0.1, 1, 1]).astype(np.float32))


def test_coordinates_have_unit_differences_and_uncorrelated_axes():
    x = features()
    basis = Basis.fit(x, axes=4)
    difference = basis(x.chosen) - basis(x.rejected)
    np.testing.assert_allclose(np.mean(np.sum(difference**2, 1)), 1, rtol=1e-5)
    moment = difference.T @ difference / len(x)
    np.testing.assert_allclose(moment, np.diag(np.diag(moment)), atol=1e-6)


def test_coordinates_know_no_label():
    x = features()
    swapped = Features(x.ids, np.where(R.random(40)[:, None] < 0.5, x.chosen, x.rejected), x.rejected)
    swapped = dataclasses.replace(swapped, rejected=x.chosen + x.rejected - swapped.chosen)
    a, b = (np.abs(Basis.fit(v, axes=6).matrix) for v in (x, swapped))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_unit_parts():
    out = normalised(features().chosen, 2).reshape(40, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(out, axis=-1), 1, rtol=1e-5)


def test_equal_answers_and_nan_are_refused():
    x = features()
    with pytest.raises(UserError, match="all 40 pairs the chosen answer's are equal"):
        Basis.fit(dataclasses.replace(x, rejected=x.chosen), axes=3)
    bad = x.chosen.copy()
    bad[3, 1] = np.nan
    with pytest.raises(UserError, match=r"1 of 40 chosen answers have NaN .* pair '3'"):
        dataclasses.replace(x, chosen=bad).require_finite()


def objective(w, x, weight, margin, smooth, l2):
    d = x @ w - margin
    loss = (1 - smooth) * np.logaddexp(0, -d) + smooth * np.logaddexp(0, d)
    slope = weight * (1 / (1 + np.exp(-d)) - (1 - smooth)) / weight.sum()
    return (weight * loss).sum() / weight.sum() + l2 / 2 * w @ w, slope @ x + l2 * w


def test_the_solver_finds_the_minimum_of_every_head():
    """Against L-BFGS in float64, with all columns, weights of zero and penalties over three decades."""
    x = (R.normal(size=(30, 8)) * np.linspace(1, 0.1, 8)).astype(np.float32)
    weight, margin = R.uniform(0, 2, (4, 30)), R.normal(size=(4, 30))
    smooth, l2 = R.uniform(0, 0.5, (4, 30)), np.array([0.003, 0.03, 0.3, 3.0])
    weight[:, :5] = 0
    cast = lambda *a: [jnp.asarray(v, jnp.float32) for v in a]
    got = jax.jit(solve)(*cast(x, weight, margin, smooth, l2))
    for w, *column in zip(np.asarray(got, np.float64), weight, margin, smooth, l2, strict=True):
        best = minimize(objective, np.zeros(8), (x.astype(np.float64), *column), jac=True, tol=1e-12)
        np.testing.assert_allclose(w, best.x, atol=2e-3 * np.abs(best.x).max())
    nothing = solve(*cast(x, np.zeros((1, 30)), margin[:1], smooth[:1], l2[:1]))
    np.testing.assert_array_equal(nothing, 0)


def test_draws_are_nested_and_folds_keep_prompts_together():
    groups = np.repeat(np.arange(15), 2)
    few, many = (draws.runs(groups, n, range(3), folds=4, seed=1, padded=25) for n in (8, 20))
    for a, b in zip(few.index, many.index, strict=True):
        np.testing.assert_array_equal(a[:8], b[:8])
        assert len(set(b[:20].tolist())) == 20
    assert many.there.sum(1).tolist() == [20] * 3
    for index, first in zip(many.index, many.first, strict=True):
        assert first[:20].tolist() == [groups[index].tolist().index(g) for g in groups[index[:20]]]
        assert first[20:].tolist() == list(range(20, 25))
    for index, fold in zip(many.index[:, :20], many.fold[:, :20], strict=True):
        for prompt in set(groups[index]):
            assert len(set(fold[groups[index] == prompt])) == 1
        assert set(fold) == {0, 1, 2, 3}
    with pytest.raises(UserError, match="labels=31: there are 30"):
        draws.runs(groups, 31, [0], folds=4, seed=1)


def test_buckets():
    assert [draws.bucket(n, 1134) for n in (3, 64, 65, 500, 1134)] == [64, 64, 256, 1024, 1134]


def test_held_out_scores_are_those_of_heads_that_did_not_see_the_fold():
    """An independent loop: each fold, each penalty, by the solver on the fold's own rows."""
    x = R.normal(size=(1, 20, 4)).astype(np.float32)
    runs = draws.runs(np.arange(20), 12, [0, 1], folds=3, seed=0, padded=16)
    columns = (R.uniform(0.5, 2, 20), 0.1 * R.normal(size=20), R.uniform(0, 0.2, 20))
    held, weights = linear.fit(x, runs, form=np.zeros(2, int), penalties=(0.01, 1.0), folds=3, columns=columns)
    assert held.shape == (2, 2, 16) and weights.shape == (2, 2, 4, 4)
    for r in range(2):
        index, fold = runs.index[r, :12], runs.fold[r, :12]
        for s, l2 in enumerate((0.01, 1.0)):
            for k in range(4):
                seen = index[fold != k]
                own = [c[seen][None].astype(np.float32) for c in columns]
                w = solve(x[0, seen], *own, np.array([l2], np.float32))[0]
                np.testing.assert_allclose(weights[r, s, k], w, atol=1e-3)
                rows = np.flatnonzero(fold == k)
                np.testing.assert_allclose(held[r, s, rows], x[0, index[rows]] @ w, atol=3e-3)


def test_treatments_make_columns():
    mean = jnp.array([-2.0, 0.5, -0.1, 3.0, -1.0, 9.0])
    there = jnp.array([True, True, True, True, True, False])
    columns = lambda t, v: [np.asarray(c).round(3).tolist() for c in t.columns(mean, there, jnp.float32(v))]
    assert columns(treatments.Flip(), 0.4) == [[0] * 6, [1, 0, 0, 0, 1, 0]]  # two of five
    assert columns(treatments.Flip(), 1.0)[1] == [1, 0, 1, 0, 1, 0]  # never a label that the ensemble agrees with
    assert columns(treatments.Smooth(), 0.3)[1] == pytest.approx([0.3, 0, 0.3, 0, 0.3, 0])
    assert columns(treatments.Margin(), 2.0) == [[-3, 1, pytest.approx(-0.2), 6, -2, 0], [0] * 6]


def test_every_pair_is_left_out_once_a_repeat():
    there = jnp.arange(16) < 11
    unseen = treatments.parts_of(jax.random.key(0), there, jnp.arange(16), repeats=2, parts=5).reshape(2, 5, 16)
    np.testing.assert_array_equal(unseen.sum(1)[:, :11], 1)
    assert set(unseen[:, :, :11].sum(2).ravel().tolist()) == {2, 3}


def test_pairs_of_one_prompt_are_left_out_together():
    first = jnp.array([0, 1, 0, 3, 1, 0, 6, 3, 8, 9])  # the last is not there
    there = jnp.arange(10) < 9
    unseen = np.asarray(treatments.parts_of(jax.random.key(1), there, first, repeats=3, parts=5))
    assert unseen.shape == (15, 10)
    for pair, owner in enumerate(first[:9].tolist()):
        np.testing.assert_array_equal(unseen[:, pair], unseen[:, owner])
    np.testing.assert_array_equal(unseen.reshape(3, 5, 10).sum(1)[:, :9], 1)
    assert unseen[:, [0, 1, 3, 6, 8]].sum(1).tolist() == [1] * 15  # five prompts, five parts: each its own


def test_strength_finds_flipped_labels():
    """Flips of an otherwise learnable direction get smoothing 1 where they are the weakest, in a separable toy."""
    x = R.normal(size=(1, 60, 3)).astype(np.float32)
    x[0, :, 0] = np.abs(x[0, :, 0]) + 1.0
    x[0, :6] *= -1
    runs = draws.runs(np.arange(60), 60, [0], folds=3, seed=0)
    columns = (np.ones(60), np.zeros(60), np.zeros(60))
    fit = lambda **more: linear.fit(x, runs, form=np.zeros(1, int), penalties=(0.1,), folds=3, columns=columns, **more)
    plain = fit()[1][0, 0, -1]
    flip = treatments.Flip(grid=(0.1,))
    turned = fit(treatment=flip, strength_penalty=np.array([0.1]))[1][0, 0, -1]
    clean = linear.fit(
        np.concatenate([-x[:, :6], x[:, 6:]], 1),
        runs,
        form=np.zeros(1, int),
        penalties=(0.1,),
        folds=3,
        columns=columns,
    )[1][0, 0, -1]
    np.testing.assert_allclose(turned, clean, atol=1e-3)
    assert np.abs(plain - clean).max() > 0.05


def test_selection_ignores_scale_and_takes_the_larger_penalty_of_equals():
    held = R.normal(size=(2, 3, 50)) + 0.5
    there = np.ones((2, 50), bool)
    there[:, 40:] = False
    loss = plain_loss(held, there)
    np.testing.assert_allclose(plain_loss(7 * held, there), loss, rtol=1e-9)
    held[:, :, 40:] = 1e9
    np.testing.assert_allclose(plain_loss(held, there), loss, rtol=1e-9)
    np.testing.assert_allclose(plain_loss(-np.ones((1, 1, 5)), np.ones((1, 5), bool)), np.log(2))
    assert selection.best(np.array([[0.5, 0.5, 0.6], [0.7, 0.6, 0.8]]), method="m").tolist() == [1, 1]


def plain_loss(held, there):
    return selection.calibrated_loss(held, there, weight=np.ones(there.shape), smooth=np.zeros(there.shape))


def test_selection_weighs_and_smooths_as_training_does():
    """A pair of weight 2 is there twice, of weight 0 not at all; smoothing mixes in the turned label."""
    held, there = R.normal(size=(1, 3, 20)) + 0.5, np.ones((1, 20), bool)
    weight, smooth = R.integers(0, 3, (1, 20)), np.zeros((1, 20))
    twice = np.repeat(held, weight[0], axis=2)
    want = plain_loss(twice, np.ones((1, twice.shape[2]), bool))
    np.testing.assert_allclose(selection.calibrated_loss(held, there, weight=weight, smooth=smooth), want, rtol=1e-9)
    ones, turned = np.ones((1, 20)), np.where(np.arange(20) < 6, 1.0, 0.0)[None]
    flipped = plain_loss(np.where(turned[:, None] > 0, -held, held), there)
    np.testing.assert_allclose(selection.calibrated_loss(held, there, weight=ones, smooth=turned), flipped, rtol=1e-9)
    both = np.concatenate([held, -held], axis=2)
    shares = np.repeat([[0.8, 0.2]], 20, axis=1)  # of the label as given, of the turned one
    want = selection.calibrated_loss(both, np.ones((1, 40), bool), weight=shares, smooth=np.zeros((1, 40)))
    got = selection.calibrated_loss(held, there, weight=ones, smooth=np.full((1, 20), 0.2))
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_a_loss_that_is_nan_is_never_chosen():
    nan = float("nan")
    assert selection.best(np.array([[0.5, 0.4, nan], [nan, 0.6, 0.8]]), method="m").tolist() == [1, 1]
    with pytest.raises(UserError, match=r"^method metarm: in 1 of 2 runs no setting has finite held-out scores"):
        selection.best(np.array([[0.5, nan], [nan, nan]]), method="metarm")
