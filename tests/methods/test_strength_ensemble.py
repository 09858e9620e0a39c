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
    turned = np.array(["flipped" in p.meta for p in treated])
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
    prompts = [p.prompt for p in pairs.records()]
    for scoring in ("held_out", "training"):
        scored = score(features(pairs), prompts, dataclasses.replace(SMALL, scoring=scoring), seed=0)
        assert scored.differences.shape == (3, 240) and scored.penalty == 3e-3
        mean, std = strength.mean_std(scored.differences)
        assert strength.auroc(mean, pairs.flipped) > 0.85 and std.min() > 0
        again = score(features(pairs), prompts, dataclasses.replace(SMALL, scoring=scoring), seed=0)
        np.testing.assert_array_equal(scored.differences, again.differences)


def test_held_out_scores_do_not_know_their_label(pairs):
    """Turning a pair's label around turns its own score around, and nothing else about it.

    The head that scores it has never seen it, so the score of (a, b) does not move when the label does; a member that
    trained on it moves towards the label.
    """
    prompts = [p.prompt for p in pairs.records()]
    other = dataclasses.replace(
        pairs,
        chosen=np.concatenate([pairs.rejected[:1], pairs.chosen[1:]]),
        rejected=np.concatenate([pairs.chosen[:1], pairs.rejected[1:]]),
    )
    how = dataclasses.replace(SMALL, bootstrap=False)
    before, after = (score(features(p), prompts, how, seed=0).differences[:, 0] for p in (pairs, other))
    np.testing.assert_allclose(before, -after, atol=1e-5)
    seen = dataclasses.replace(SMALL, scoring="training")
    before, after = (score(features(p), prompts, seen, seed=0).differences[:, 0] for p in (pairs, other))
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


def test_noisy_labels_choose_a_larger_penalty():
    how = dataclasses.replace(SMALL, penalties=StrengthEnsemble().penalties)
    chosen = []
    for noise in (0.0, 0.3):
        pairs = RewardWorld(noise=noise, curve=0.0, interaction=0.0).pairs(240)
        x = (pairs.chosen - pairs.rejected) / np.sqrt(np.mean(np.sum((pairs.chosen - pairs.rejected) ** 2, 1)))
        chosen.append(method.best_penalty(x, [p.prompt for p in pairs.records()], how, seed=0))
    assert chosen[0] < chosen[1]


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
