"""The reward world: deterministic, labels by gold, noise as asked, a drift that fools a linear head."""

import dataclasses
import itertools

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.worlds.reward_world import RewardWorld

WORLD = RewardWorld()


def test_draws_repeat_and_a_shorter_one_is_a_beginning():
    a, b = WORLD.pairs(50), RewardWorld().pairs(20)
    for field in dataclasses.fields(a):
        long, short = getattr(a, field.name), getattr(b, field.name)
        np.testing.assert_array_equal(long[:20], short)
    assert a.chosen.shape == a.rejected.shape == (50, 64) and a.chosen.dtype == np.float32
    assert len(set(a.ids)) == 50
    for other in (WORLD.pairs(50, draw=1), WORLD.pairs(50, split="test"), RewardWorld(seed=1).pairs(50)):
        assert not np.isclose(other.chosen, a.chosen).any(1).all()
    np.testing.assert_array_equal(WORLD.responses(9, 5)[:4], WORLD.responses(4, 5))
    assert WORLD.responses(4, 5).shape == (4, 5, 64) and WORLD.responses(4, 5).dtype == np.float32


def test_gold_is_the_formula():
    rng = np.random.default_rng(0)
    u, z = rng.standard_normal((7, 4)), rng.standard_normal((7, 8))
    slow = [
        sum(WORLD.weights[i] * (1 + 0.3 * a[i]) * b[i] - 0.1 * b[i] ** 2 for i in range(4))
        for a, b in zip(u, z, strict=True)
    ]
    np.testing.assert_allclose(WORLD.gold(u, z), slow)
    assert (WORLD.weights > 0).all() and np.linalg.norm(WORLD.weights) == pytest.approx(1)


def test_labels_are_gold_except_for_the_flipped():
    noisy = RewardWorld(noise=0.2).pairs(4000)
    np.testing.assert_array_equal(noisy.gold[:, 0] < noisy.gold[:, 1], noisy.flipped)
    assert noisy.flipped.mean() == pytest.approx(0.2, abs=0.02)
    clean = WORLD.pairs(4000)
    assert not clean.flipped.any() and not RewardWorld(noise=0.2).pairs(100, split="test").flipped.any()
    # the same responses with and without noise; only the sides of flipped pairs differ
    np.testing.assert_array_equal(np.where(noisy.flipped[:, None], noisy.rejected, noisy.chosen), clean.chosen)
    records = noisy.records()
    wrong = [p.meta["gold_chosen"] < p.meta["gold_rejected"] for p in records]
    assert wrong == noisy.flipped.tolist() and [p.id for p in records] == list(noisy.ids)
    assert {p.chosen[:10] for p, w in zip(records, wrong, strict=True) if w} == {"response b"}


def test_features_hold_the_aspects():
    """Without noise the mixing is undone by its pseudo-inverse, and gold is a function of what comes out."""
    world = RewardWorld(feature_noise=0.0)
    found = world.pairs(30)
    inner = found.chosen.astype(float) @ np.linalg.pinv(world.mixing)
    np.testing.assert_allclose(world.gold(inner[:, 8:], inner[:, :8]), found.gold[:, 0], atol=1e-4)


def test_spread_of_the_training_distribution():
    inner = RewardWorld(feature_noise=0.0)
    z = (inner.responses(20_000, 2).astype(float) @ np.linalg.pinv(inner.mixing))[:, :, :8].reshape(-1, 8)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(z.T), inner.covariance, atol=0.03)


def test_the_policy_climbs_the_linear_reward():
    w = np.concatenate([WORLD.weights, np.zeros(4)])
    spread = np.sqrt(w @ WORLD.covariance @ w)
    for t in (0, 1, 3):
        assert w @ WORLD.shift(t) == pytest.approx(t * spread)  # `drift` standard deviations a round
    assert (WORLD.shift(1)[4:] > 0).all()  # spurious aspects are dragged along
    assert not RewardWorld(drift=0.0).shift(5).any()


def linear_head(world: RewardWorld) -> np.ndarray:
    """Least squares on differences, both signs: a head that learnt round 0."""
    x = world.pairs(3000)
    return np.linalg.lstsq(x.chosen - x.rejected, np.ones(3000), rcond=None)[0]


def test_a_head_of_round_0_fails_more_each_round():
    head = linear_head(WORLD)
    accuracy = []
    for t in range(5):
        found = WORLD.pairs(3000, split="test", round=t)
        accuracy.append(np.mean((found.chosen - found.rejected) @ head > 0))
    assert accuracy[0] > 0.85
    assert all(a > b + 0.01 for a, b in itertools.pairwise(accuracy))


def test_without_drift_rounds_are_alike():
    still = RewardWorld(drift=0.0)
    head = linear_head(still)
    near = [np.mean((p.chosen - p.rejected) @ head > 0) for p in (still.pairs(3000, round=t) for t in (0, 4))]
    assert near[0] == pytest.approx(near[1], abs=0.03)


@pytest.mark.parametrize(
    ("field", "value"),
    [("noise", 0.6), ("relevant", 0), ("spurious", 5), ("features", 11), ("correlation", 1.0), ("drift", float("nan"))],
)
def test_worlds_that_cannot_be(field, value):
    with pytest.raises(UserError, match=f"world.{field}="):
        RewardWorld(**{field: value})


def test_splits_and_rounds_that_are_not_there():
    with pytest.raises(UserError, match="train, dev, test"):
        WORLD.pairs(1, split="trian")
    with pytest.raises(UserError, match="train, dev, test"):
        WORLD.responses(1, 2, split="tset")
    with pytest.raises(UserError, match="round -1"):
        WORLD.responses(1, 2, round=-1)
