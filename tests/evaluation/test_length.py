"""Reward and length: correlations against scipy, strata by hand, what "the longer answer wins" gets."""

import numpy as np
import pytest
from scipy import stats

from rmjax.evaluation import length
from rmjax.evaluation.baselines import longer
from rmjax.evaluation.pairwise import ItemScore, from_scores
from rmjax.records import Message, Preference


def items(sizes):
    prompt = (Message("user", "q"),)
    return [Preference(prompt=prompt, chosen="x" * a, rejected="y" * b, id=str(i)) for i, (a, b) in enumerate(sizes)]


def test_correlations_are_scipys():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 12, (40, 2))
    rewards = 0.3 * sizes + rng.normal(size=(40, 2))
    found = length.length_figures(items(sizes), from_scores(items(sizes), rewards))
    assert found.pearson.value == pytest.approx(stats.pearsonr(rewards.ravel(), sizes.ravel())[0])
    assert found.spearman.value == pytest.approx(stats.spearmanr(rewards.ravel(), sizes.ravel())[0])
    for interval in (found.pearson, found.spearman, found.within):
        assert interval.low < interval.value < interval.high and interval.n == 40


def test_within_ignores_what_differs_between_prompts_and_the_order_of_a_pair():
    rng = np.random.default_rng(1)
    sizes, rewards = rng.integers(1, 50, (30, 2)).astype(float), rng.normal(size=(30, 2))
    value = length.within(rewards, sizes)
    assert length.within(rewards + 100 * rng.normal(size=(30, 1)), sizes) == pytest.approx(value)
    swapped = rng.random(30) < 0.5
    turn = lambda x: np.where(swapped[:, None], x[:, ::-1], x)
    assert length.within(turn(rewards), turn(sizes)) == pytest.approx(value)


def test_an_interval_covers_a_known_correlation():
    """Gaussian rewards and lengths with r = 0.5: the interval holds it in about 57 of 60 draws."""
    rng, inside = np.random.default_rng(2), 0
    for _ in range(60):
        a = rng.normal(size=(100, 1))
        b = 0.5 * a + np.sqrt(0.75) * rng.normal(size=(100, 1))
        found = length.correlation(a, b, length.pearson, samples=199)
        inside += found.low <= 0.5 <= found.high
    assert inside >= 52


def test_strata_at_their_edges():
    assert length.stratum(np.array([(100.0, 90.0), (100.0, 89.0), (89.0, 100.0), (5.0, 5.0)])) == [
        length.SAME,
        length.LONGER,
        length.SHORTER,
        length.SAME,
    ]


def test_length_controlled_accuracy_by_hand():
    sizes = [(20, 10)] * 8 + [(10, 20)] * 2 + [(10, 10)] * 3
    rights = [1] * 6 + [0] * 2 + [1, 0] + [1, 1, 0]
    scores = from_scores(items(sizes), np.array([(float(r), 1.0 - r) for r in rights]))
    found = length.length_figures(items(sizes), scores)
    assert {k: (a.accuracy, a.n) for k, a in found.strata.items()} == {
        length.LONGER: (0.75, 8),
        length.SHORTER: (0.5, 2),
        length.SAME: (pytest.approx(2 / 3), 3),
    }
    assert found.controlled.value == pytest.approx((0.75 + 0.5) / 2)


def test_longer_wins_gets_one_half_at_balanced_lengths():
    sizes = [(20, 10)] * 9 + [(10, 20)]
    found = length.length_figures(items(sizes), longer(items(sizes)))
    assert found.controlled.value == 0.5 and found.pearson.value == pytest.approx(1.0)


def test_what_is_not_defined_is_none():
    sizes = [(20, 10), (30, 10)]
    flat = length.length_figures(items(sizes), from_scores(items(sizes), np.full((2, 2), 0.1)))
    assert flat.pearson is flat.spearman is flat.within is None
    assert flat.controlled is None and list(flat.strata) == [length.LONGER]
    judged = length.length_figures(items(sizes), [ItemScore(id=str(i), outcome=1.0) for i in range(2)])
    assert judged.pearson is None and judged.strata[length.LONGER].n == 2


def test_one_pair_says_nothing_about_the_interval():
    found = length.length_figures(items([(20, 10)]), from_scores(items([(20, 10)]), np.array([(1.0, 0.0)])))
    assert (found.pearson.low, found.pearson.high) == (-1.0, 1.0)
