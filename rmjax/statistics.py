"""Intervals that every printed rate carries; below everything else in the import order."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def wilson(k: float, n: float, *, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a rate (Wilson 1927, JASA 22:209).

    Args:
        k: successes, 0 <= k <= n; ties may count one half.
        n: trials; 0 gives the interval (0, 1), that is, nothing is known.
        z: the normal quantile; the default makes a 95 % interval.

    Returns:
        (low, high), both within [0, 1] and around k / n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"k={k} is not within 0..n={n}")
    if n == 0:
        return 0.0, 1.0
    rate, square = k / n, z * z
    centre = (rate + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
