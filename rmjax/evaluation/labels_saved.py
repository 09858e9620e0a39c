"""Labels saved at equal accuracy: how many fewer labels one curve needs than another for what both reach.

Curves are means over runs, made monotone (isotonic regression: more labels are not taken to harm) and linear between
the numbers of labels that were measured. With N(a) the labels at which a curve reaches accuracy a:

    at the end    N_baseline(a) - N(a)  at the highest accuracy a that both curves reach
    on average    the same, averaged over all accuracies from the higher of the two starts to that one

Neither needs a guess of what lies beyond the last label bought. Intervals: runs are resampled, both curves' alike
(a run of one is paired with the same run of the other), and everything is computed anew (percentile bootstrap).

Dimensions: r runs, k numbers of labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from rmjax.statistics import Interval

SAMPLES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """Labels that a method saves against a baseline; below 0 it needs more."""

    level: float  # the highest accuracy that both mean curves reach
    needs: float  # labels that the method needs for it
    baseline_needs: float
    at_end: Interval  # baseline_needs - needs
    on_average: Interval  # over all accuracies that both reach


def saved(
    curve: Float[np.ndarray, "r k"],
    baseline: Float[np.ndarray, "r k"],
    counts: Sequence[int],
    *,
    seed: int = 0,
    samples: int = SAMPLES,
) -> Saved:
    """Accuracies of a method and of a baseline over the same runs.

    Args:
        counts: numbers of labels, rising.

    Raises:
        ValueError: shapes that do not fit, or fewer than two runs.
    """
    curve, baseline, x = (np.asarray(v, np.float64) for v in (curve, baseline, counts))
    if curve.shape != baseline.shape or curve.ndim != 2 or curve.shape[1] != len(x) or len(curve) < 2:
        raise ValueError(f"curves of shapes {curve.shape} and {baseline.shape} at {len(x)} numbers of labels")
    if (np.diff(x) <= 0).any() or len(x) < 2:
        raise ValueError(f"numbers of labels {list(counts)}: give at least two, rising")
    level, needs, other, average = _gap(curve.mean(0), baseline.mean(0), x)
    rng, found = np.random.default_rng(seed), []
    for _ in range(samples):
        runs = rng.integers(len(curve), size=len(curve))
        _, a, b, mean = _gap(curve[runs].mean(0), baseline[runs].mean(0), x)
        found.append((b - a, mean))
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    end, mean = (Interval(v, lo, hi, len(curve)) for v, lo, hi in zip((other - needs, average), low, high, strict=True))
    return Saved(level=level, needs=needs, baseline_needs=other, at_end=end, on_average=mean)


def area(curve: Float[np.ndarray, "r k"], counts: Sequence[int]) -> Float[np.ndarray, " r"]:
    """Each run's accuracy averaged over the numbers of labels (trapezoidal rule): its area under the curve."""
    x = np.asarray(counts, np.float64)
    return np.trapezoid(np.asarray(curve, np.float64), x, axis=1) / (x[-1] - x[0])


def reach(level: float, x: Float[np.ndarray, " k"], y: Float[np.ndarray, " k"]) -> float:
    """The least x at which the rising, piecewise linear y reaches `level`; the first x where it starts above."""
    i = int(np.searchsorted(y, level - 1e-12))
    if i == 0:
        return float(x[0])
    if i == len(y):
        raise ValueError(f"the curve ends at {y[-1]}, below {level}")
    return float(x[i - 1] + (x[i] - x[i - 1]) * (level - y[i - 1]) / (y[i] - y[i - 1]))


def _gap(curve, baseline, x) -> tuple[float, float, float, float]:
    """(level, labels that the curve needs there, the baseline's, labels saved on average)."""
    a, b = (isotonic_regression(y).x for y in (curve, baseline))
    top, bottom = min(a[-1], b[-1]), max(a[0], b[0])
    needs, other = reach(top, x, a), reach(top, x, b)
    if top - bottom < 1e-9:
        return top, needs, other, other - needs
    mean = (_needed(b, x, bottom, top) - _needed(a, x, bottom, top)) / (top - bottom)
    return top, needs, other, mean


def _needed(y, x, bottom: float, top: float) -> float:
    """The integral over accuracies, from `bottom` to `top`, of the labels beyond the first that a rising curve needs.

    It is the area between the curve, clipped to these accuracies, and `top`: exact, flat pieces or not.
    """
    knots = np.sort([*x, reach(bottom, x, y), reach(top, x, y)])
    return np.trapezoid(top - np.clip(np.interp(knots, x, y), bottom, top), knots)
