"""Intervals and tests against scipy, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rmjax.statistics import Interval, crossed_interval, holm, mcnemar, paired_bootstrap, t_interval, wilson


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(pair):
    k, n = pair
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson(k, n), (expected.low, expected.high), atol=1e-12)


def test_wilson_takes_halves_between_its_neighbours():
    low, high = wilson(10.5, 20)
    assert wilson(10, 20)[0] < low < wilson(11, 20)[0]
    assert wilson(10, 20)[1] < high < wilson(11, 20)[1]


def test_t_interval_known_value():
    # 1..5: mean 3, sd sqrt(2.5), t(4, 0.975) = 2.776445
    interval = t_interval([1, 2, 3, 4, 5])
    half = 2.7764451052 * math.sqrt(2.5 / 5)
    np.testing.assert_allclose([interval.value, interval.low, interval.high], [3, 3 - half, 3 + half], rtol=1e-9)
    assert interval.n == 5


def test_t_interval_of_differences_is_scipys_paired_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 1, 12), rng.normal(0, 1, 12)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    interval = t_interval(a - b)
    np.testing.assert_allclose([interval.low, interval.high], expected, rtol=1e-9)
    assert interval.excludes_zero == (stats.ttest_rel(a, b).pvalue < 0.05)


@pytest.mark.parametrize("values", [[], [0.7], [[1.0, 2.0]]])
def test_t_interval_refuses_less_than_two_runs(values):
    with pytest.raises(ValueError, match="at least two"):
        t_interval(values)


def test_mcnemar_by_enumeration():
    for a, b in itertools.product(range(6), repeat=2):
        n = a + b
        likely = [math.comb(n, k) / 2**n for k in range(n + 1)]
        expected = sum(p for p in likely if p <= likely[a] * (1 + 1e-9))
        assert mcnemar(a, b) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_known_values():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(10, 0) == pytest.approx(2 / 2**10)
    assert mcnemar(3, 3) == 1.0


def test_holm_by_hand():
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04]) and holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.2]) == [0.2]


def slow_bootstrap(x, samples, seed):
    rng = np.random.default_rng(seed)
    means = [np.mean([x[rng.integers(len(x))] for _ in x]) for _ in range(samples)]
    return np.quantile(means, [0.025, 0.975])


def test_bootstrap_is_resampling_of_items():
    x = np.random.default_rng(1).choice([-1, -0.5, 0, 0.5, 1], 40, p=[0.1, 0.1, 0.5, 0.1, 0.2])
    interval = paired_bootstrap(x, seed=2)
    # the Monte Carlo error of a percentile at 4,000 samples is about a twentieth of the standard error
    np.testing.assert_allclose(
        [interval.low, interval.high], slow_bootstrap(x, 4000, 3), atol=0.15 * x.std() / math.sqrt(40)
    )
    assert interval == paired_bootstrap(x, seed=2)


def test_bootstrap_of_many_distinct_values_is_scipys():
    x = np.random.default_rng(1).normal(0.2, 1, 500)
    expected = stats.bootstrap((x,), np.mean, method="percentile", batch=1000, rng=5).confidence_interval
    interval = paired_bootstrap(x, seed=2)
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.005)


def test_bootstrap_edge_cases():
    assert paired_bootstrap([0.0] * 7) == Interval(0, 0, 0, 7)
    with pytest.raises(ValueError, match="one difference an item"):
        paired_bootstrap([])


def test_crossed_interval_without_column_spread_is_wider_than_t_over_all():
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (10, 1))
    table = rows + rng.normal(0, 0.1, (10, 3))
    crossed, naive, by_row = crossed_interval(table), t_interval(table.ravel()), t_interval(table.mean(1))
    width = lambda i: i.high - i.low
    assert width(crossed) > 1.4 * width(naive)  # runs of one draw are not independent
    assert width(crossed) == pytest.approx(width(by_row), rel=0.1)


def test_crossed_interval_is_the_t_interval_over_rows_where_columns_are_equal():
    rows = np.array([0.1, 0.5, 0.2, 0.9])
    crossed, by_row = crossed_interval(np.repeat(rows[:, None], 3, 1)), t_interval(rows)
    np.testing.assert_allclose([crossed.value, crossed.low, crossed.high], [by_row.value, by_row.low, by_row.high])


@pytest.mark.parametrize(("sd_row", "sd_column", "sd_rest"), [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1), (1, 1, 0.01)])
def test_crossed_interval_covers(sd_row, sd_column, sd_rest):
    """Simulation: 95 % intervals of 10 draws x 3 seeds hold the truth at least 94 % of the time."""
    rng = np.random.default_rng(7)
    trials, hits = 1000, 0
    for _ in range(trials):
        table = sd_row * rng.normal(size=(10, 1)) + sd_column * rng.normal(size=(1, 3))
        interval = crossed_interval(table + sd_rest * rng.normal(size=(10, 3)))
        hits += interval.low <= 0 <= interval.high
    assert hits / trials > 0.94


def test_crossed_interval_refuses_a_single_row():
    with pytest.raises(ValueError, match="at least 2 rows"):
        crossed_interval([[1.0, 2.0]])
