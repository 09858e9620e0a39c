"""Labels saved at equal accuracy, on curves whose answer is known."""

import numpy as np
import pytest

from rmjax.evaluation.labels_saved import area, reach, saved

COUNTS = [20, 40, 60, 80, 100]


def line(start: float, slope: float) -> np.ndarray:
    return start + slope * np.array(COUNTS, np.float64)


def runs(curve: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    return curve + noise * np.random.default_rng(seed).standard_normal((12, len(curve)))


def test_a_curve_that_is_another_one_with_half_the_labels():
    found = saved(runs(line(0.5, 0.002)), runs(line(0.5, 0.001)), COUNTS, samples=9)
    # Both reach 0.6, from 0.54 (where the faster one begins) on: n / 2 labels against n for n in 40..100.
    assert found.level == pytest.approx(0.6) and found.needs == pytest.approx(50)
    assert found.baseline_needs == pytest.approx(100) and found.at_end.value == pytest.approx(50)
    assert found.on_average.value == pytest.approx((40 + 100) / 2 / 2)
    for d in (found.at_end, found.on_average):
        assert d.low == pytest.approx(d.value) == pytest.approx(d.high) and d.n == 12


def test_it_changes_its_sign_with_the_order():
    a, b = runs(line(0.5, 0.002), 0.005, 1), runs(line(0.5, 0.001), 0.005, 2)
    one, other = saved(a, b, COUNTS, seed=4, samples=200), saved(b, a, COUNTS, seed=4, samples=200)
    for name in ("at_end", "on_average"):
        x, y = getattr(one, name), getattr(other, name)
        assert (x.value, x.low, x.high) == pytest.approx((-y.value, -y.high, -y.low))
        assert x.low <= x.value <= x.high and x.excludes_zero


def test_curves_of_one_law_are_not_told_apart():
    found = saved(runs(line(0.5, 0.001), 0.02, 1), runs(line(0.5, 0.001), 0.02, 2), COUNTS, samples=200)
    assert not found.on_average.excludes_zero and not found.at_end.excludes_zero


def test_flat_and_falling_pieces():
    """The mean falls at 60 labels: monotone it is flat there, and a flat piece is a jump of the labels needed."""
    curve = np.array([0.5, 0.62, 0.58, 0.7, 0.7])  # monotone: .5 .6 .6 .7 .7
    found = saved(runs(curve), runs(line(0.5 - 0.001 * 20, 0.001 * 1.25)), COUNTS, samples=9)  # .505 to .605
    assert found.level == pytest.approx(0.605) and found.needs == pytest.approx(61)
    # By hand: needed are 20 to 40 labels on the way to .6, then 60 to 61; the line needs (a - .48) / .00125.
    fast = (0.6 - 0.505) * (21 + 40) / 2 + 0.005 * 60.5
    slow = (0.605 - 0.505) * (20 + 100) / 2
    assert found.on_average.value == pytest.approx((slow - fast) / 0.1)


def test_curves_that_share_no_accuracy():
    found = saved(runs(line(0.8, 0.001)), runs(line(0.5, 0.001)), COUNTS, samples=9)
    assert found.needs == 20 and found.baseline_needs == pytest.approx(100) and found.on_average.value == 80


def test_reach_and_area():
    x, y = np.array([10.0, 20.0, 40.0]), np.array([0.5, 0.6, 0.6])
    assert reach(0.4, x, y) == 10 and reach(0.55, x, y) == pytest.approx(15) and reach(0.6, x, y) == pytest.approx(20)
    with pytest.raises(ValueError, match="below"):
        reach(0.61, x, y)
    assert area(np.array([[0.5, 0.6, 0.6], [0.5, 0.5, 0.5]]), x) == pytest.approx([(5.5 + 12) / 30, 0.5])


@pytest.mark.parametrize("counts", [[20, 40], [20, 20, 30, 40, 50], [5, 4, 3, 2, 1]])
def test_refused(counts):
    with pytest.raises(ValueError):
        saved(runs(line(0.5, 0.001)), runs(line(0.5, 0.001)), counts)
