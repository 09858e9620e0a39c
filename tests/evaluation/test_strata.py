"""Weighted rates: by hand, against Wilson's interval, and by their coverage."""

import numpy as np
import pytest

from rmjax.evaluation.strata import weighted_rate
from rmjax.statistics import wilson


def test_by_hand():
    found = weighted_rate([72, 90], [100, 100], [1, 1])
    (low_a, high_a), (low_b, high_b) = wilson(72, 100), wilson(90, 100)
    assert found.value == pytest.approx(0.81) and found.n == 200
    assert found.low == pytest.approx(0.81 - 0.5 * np.sqrt((0.72 - low_a) ** 2 + (0.9 - low_b) ** 2))
    assert found.high == pytest.approx(0.81 + 0.5 * np.sqrt((high_a - 0.72) ** 2 + (high_b - 0.9) ** 2))


def test_one_group_is_wilsons_and_only_ratios_of_weights_count():
    found = weighted_rate([7], [10], [3])
    assert (found.low, found.high) == pytest.approx(wilson(7, 10))
    assert weighted_rate([7, 2], [10, 5], [2, 6]) == weighted_rate([7, 2], [10, 5], [1, 3])


def test_all_right_still_has_a_width():
    found = weighted_rate([10, 10], [10, 10], [1, 1])
    assert found.value == found.high == 1.0 and found.low < 0.9


def test_coverage_is_near_95_percent():
    rng, rates, n, weights = np.random.default_rng(0), np.array([0.6, 0.9]), np.array([40, 60]), [1, 2]
    truth = np.average(rates, weights=weights)
    drawn = [weighted_rate(rng.binomial(n, rates).tolist(), n.tolist(), weights) for _ in range(2000)]
    assert np.mean([d.low <= truth <= d.high for d in drawn]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("bad", [([], [], []), ([1], [0], [1]), ([1], [2], [-1]), ([1], [2], [0]), ([1, 1], [2], [1])])
def test_refuses_what_is_no_group(bad):
    with pytest.raises(ValueError):
        weighted_rate(*bad)
