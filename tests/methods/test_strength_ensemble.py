"""The ensemble: heads against a slow solver, no head scores what it has seen, flipped labels are found."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.methods import strength as method
from rmjax.methods.strength import StrengthEnsemble, columns, fit, score
from rmjax.refine import strength, treatments
from rmjax.refine.treatments import Treatment
from rmjax.training.frozen import treatments as frozen
from rmjax.training.frozen.basis import Basis
from rmjax.worlds.reward_world import RewardWorld

SMALL = StrengthEnsemble(members=3, folds=4, penalties=(3e-3,))


@pytest.fixture(scope="module")
def pairs():
    return RewardWorld(noise=0.2).pairs(240)


def features(pairs) -> Features:
    return Features(pairs.ids, pairs.chosen, pairs.rejected)


def test_heads_are_the_minimisers():
    """Weights, margins, smoothing and penalties of each head, against float64 BFGS."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5)) / np.sqrt(5)
    weight, margin = rng.integers(0, 3, (3, 40)).astype(float), rng.standard_normal((3, 40))
    smooth, penalty = rng.uniform(0, 0.4, (3, 40)), np.array([0.01, 0.1, 1.0])
    found = fit(x, weight=weight, margin=margin, smooth=smooth, penalty=penalty)

    def loss(theta, h):
        d = x @ theta - margin[h]
        each = (1 - smooth[h]) * np.logaddexp(0, -d) + smooth[h] * np.logaddexp(0, d)
        return weight[h] @ each / weight[h].sum() + penalty[h] / 2 * theta @ theta

    slow = [minimize(loss, np.zeros(5), args=(h,), tol=1e-10).x for h in range(3)]
    np.testing.assert_allclose(found, slow, atol=2e-3)


def test_a_flip_by_columns_is_a_flip_of_features(pairs):
    found = strength.annotate(pairs.records(), np.random.default_rng(0).standard_normal((2, 240)))
    treated = Treatment(flip=0.3)(found)
    margin, smooth = columns(treated)
    x = pairs.chosen - pairs.rejected
    x = x / np.sqrt(np.mean(np.sum(x**2, 1)))
    turned = np.array([treatments.is_flipped(p) for p in treated])
    assert turned.sum() == 72
    swapped = np.where(turned[:, None], -x, x)
    plain = {"margin": [[p.margin for p in treated]], "smooth": [[p.smooth for p in treated]]}
    how = {"weight": np.ones((1, 240)), "penalty": np.array([0.01])}
    a = fit(x, **how, margin=margin[None], smooth=smooth[None])
    b = fit(swapped, **how, **{k: np.array(v) for k, v in plain.items()})
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("inside", "value", "edit"),
    [
        (frozen.Flip(), 0.2, lambda r: treatments.flip(r, share=0.2)),
        (frozen.Smooth(), 0.1, lambda r: treatments.soften(r, smoothing=0.1)),
        (frozen.Margin(), 2.0, lambda r: treatments.widen(r, scale=2.0, low=frozen.LOW, high=frozen.HIGH)),
    ],
)
def test_edits_of_records_are_the_columns_inside_the_frozen_program(pairs, inside, value, edit):
    found = strength.annotate(pairs.records(), np.random.default_rng(1).standard_normal((3, 240)) * 2)
    mean = jnp.asarray(strength.means(found), jnp.float32)
    margin, smooth = inside.columns(mean, jnp.ones(240, bool), jnp.float32(value))
    mine = columns(edit(found))
    np.testing.assert_allclose(margin, mine[0], atol=1e-5)
    np.testing.assert_allclose(smooth, mine[1], atol=1e-6)
    assert np.any(mine[0]) or np.any(mine[1])


def test_flipped_labels_are_found(pairs):
    for scoring in ("held_out", "training"):
        scored = score(features(pairs), pairs.records(), dataclasses.replace(SMALL, scoring=scoring), seed=0)
        assert scored.differences.shape == (3, 240) and scored.penalty == 3e-3
        mean, std = strength.mean_std(scored.differences)
        assert strength.auroc(mean, pairs.flipped) > 0.85 and std.min() > 0
        again = score(features(pairs), pairs.records(), dataclasses.replace(SMALL, scoring=scoring), seed=0)
        np.testing.assert_array_equal(scored.differences, again.differences)


def test_held_out_scores_do_not_know_their_label(pairs):
    """Turning a pair's label around turns its own score around, and nothing else about it.

    The head that scores it has never seen it, so the score of (a, b) does not move when the label does; a member that
    trained on it moves towards the label.
    """
    records = pairs.records()
    other = dataclasses.replace(
        pairs,
        chosen=np.concatenate([pairs.rejected[:1], pairs.chosen[1:]]),
        rejected=np.concatenate([pairs.chosen[:1], pairs.rejected[1:]]),
    )
    how = dataclasses.replace(SMALL, bootstrap=False)
    before, after = (score(features(p), records, how, seed=0).differences[:, 0] for p in (pairs, other))
    np.testing.assert_allclose(before, -after, atol=1e-5)
    seen = dataclasses.replace(SMALL, scoring="training")
    before, after = (score(features(p), records, seen, seed=0).differences[:, 0] for p in (pairs, other))
    assert (before + after > 1e-3).any()


def test_every_pair_is_scored_by_the_head_that_missed_it():
    part = np.array([[0, 1, 1], [1, 0, 1]])
    np.testing.assert_array_equal(method.without(part, 2), [[[0, 1, 1], [1, 0, 0]], [[1, 0, 1], [0, 1, 0]]])
    scores = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]])  # member 0's two heads, then member 1's
    np.testing.assert_array_equal(method.seen_by(scores, part), [[1, 5, 6], [10, 8, 12]])


def test_a_resample_keeps_the_size_and_what_is_left_out():
    weight = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], float)
    drawn = method.resampled(weight, np.random.default_rng(0))
    assert drawn.sum(1).tolist() == [3, 3] and not drawn[weight == 0].any()


def noisy(share: float):
    """Pairs of a world in which a linear head can be right, scaled differences, and settings that seek a penalty."""
    pairs = RewardWorld(noise=share, curve=0.0, interaction=0.0).pairs(240)
    x = (pairs.chosen - pairs.rejected) / np.sqrt(np.mean(np.sum((pairs.chosen - pairs.rejected) ** 2, 1)))
    return pairs, x, dataclasses.replace(SMALL, penalties=StrengthEnsemble().penalties)


def test_noisy_labels_choose_a_larger_penalty():
    chosen = []
    for share in (0.0, 0.3):
        pairs, x, how = noisy(share)
        chosen.append(method.best_penalty(x, pairs.records(), how, seed=0))
    assert chosen[0] < chosen[1]


def with_columns(records, wrong, **columns):
    """The records with columns where a label is wrong."""
    return [dataclasses.replace(p, **columns) if w else p for p, w in zip(records, wrong, strict=True)]


def test_soft_labels_of_probability_zero_are_the_other_labels():
    """Members and penalty: turned around by the column or by the features, it is the same loss."""
    pairs, x, how = noisy(0.3)
    swap = lambda a, b: np.where(pairs.flipped[:, None], b, a)
    turned = Features(pairs.ids, swap(pairs.chosen, pairs.rejected), swap(pairs.rejected, pairs.chosen))
    soft = with_columns(pairs.records(), pairs.flipped, prob_chosen=0.0)
    a, b = (score(f, r, how, seed=0) for f, r in ((features(pairs), soft), (turned, pairs.records())))
    assert a.penalty == b.penalty < method.best_penalty(x, pairs.records(), how, seed=0)
    np.testing.assert_allclose(a.differences, np.where(pairs.flipped, -b.differences, b.differences), atol=1e-4)


def test_weights_and_margins_choose_the_penalty():
    """Nothing is noisy where wrong labels weigh nothing; a margin that is asked for on unseen pairs too wants scale."""
    pairs, x, how = noisy(0.3)
    plain, light = pairs.records(), with_columns(pairs.records(), pairs.flipped, weight=0.0)
    wide = [dataclasses.replace(p, margin=2.0) for p in plain]
    found = [method.best_penalty(x, r, how, seed=0) for r in (plain, light, wide)]
    assert found[1] < found[0] and found[2] < found[0]


@pytest.mark.parametrize(
    "columns", [{"weight": 3.0}, {"margin": 1.5}, {"prob_chosen": 0.7}, {"votes": {"chosen": 2, "rejected": 1}}]
)
def test_members_minimise_the_loss_with_the_columns_of_the_file(pairs, columns):
    """Each fold's head against float64 BFGS on the other folds."""
    how = dataclasses.replace(SMALL, members=1, folds=2, axes=5, bootstrap=False)
    records = with_columns(pairs.records(), np.arange(240) % 3 == 0, **columns)
    x = method.coordinates(features(pairs), Basis.fit(features(pairs), axes=5)).astype(np.float64)
    weight = np.array([p.weight or 1.0 for p in records])
    part = strength.folds([p.prompt for p in records], members=1, parts=2, seed=0)[0]

    def loss(theta, seen):
        total = 0.0
        for i in np.flatnonzero(seen):
            d = x[i] @ theta - (records[i].margin or 0.0)
            soft = records[i].smooth
            total += weight[i] * ((1 - soft) * np.logaddexp(0, -d) + soft * np.logaddexp(0, d))
        return total / weight[seen].sum() + 3e-3 / 2 * theta @ theta

    found = score(features(pairs), records, how, seed=0).differences[0]
    for fold in (0, 1):
        slow = minimize(loss, np.zeros(5), args=(part != fold,), tol=1e-8).x
        np.testing.assert_allclose(found[part == fold], x[part == fold] @ slow, atol=2e-3)


def test_weights_that_are_all_zero_are_refused(pairs):
    with pytest.raises(UserError, match="weight: 0 for all 240 pairs"):
        score(features(pairs), with_columns(pairs.records(), np.ones(240, bool), weight=0.0), SMALL, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": 0}, "ensemble.members=0"),
        ({"folds": 1}, "ensemble.folds=1"),
        ({"penalties": ()}, "ensemble.penalties"),
        ({"penalties": (0.1, float("nan"))}, "ensemble.penalties"),
        ({"scoring": "training", "bootstrap": False}, "ensemble.bootstrap=False"),
    ],
)
def test_settings_that_mean_nothing(change, message):
    with pytest.raises(UserError, match=message):
        StrengthEnsemble(**change)
