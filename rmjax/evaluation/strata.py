"""A weighted mean of accuracies of separate groups of items, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rmjax.statistics import Interval, wilson


def weighted_rate(right: Sequence[float], n: Sequence[int], weights: Sequence[float]) -> Interval:
    """sum(w_i p_i) / sum(w_i) over independent groups, with a 95 % interval.

    The interval recovers each group's variance near its own limits from its Wilson interval (l_i, u_i) and adds them
    up: low = p - sqrt(sum w_i^2 (p_i - l_i)^2), high likewise (MOVER: Zou and Donner 2008, Statistics in Medicine
    27:1693, eq. 9). A group in which all items are right still has a width. One group: its Wilson interval.

    Args:
        right: right items of each group; ties may count one half.
        n: items of each group, each at least 1.
        weights: of the groups, not negative, not all 0; they need not sum to one.

    Raises:
        ValueError: lists of different lengths, an empty group, or weights of no use.
    """
    if not len(right) == len(n) == len(weights) or not n or min(n) < 1:
        raise ValueError(f"groups need one count, size and weight each, and an item: {right}, {n}, {weights}")
    total = math.fsum(weights)
    if min(weights) < 0 or not total > 0:
        raise ValueError(f"weights {list(weights)} are negative or all zero")
    shares = [w / total for w in weights]
    rates = [k / m for k, m in zip(right, n, strict=True)]
    limits = [wilson(k, m) for k, m in zip(right, n, strict=True)]
    value = math.fsum(w * p for w, p in zip(shares, rates, strict=True))
    below = math.hypot(*(w * (p - low) for w, p, (low, _) in zip(shares, rates, limits, strict=True)))
    above = math.hypot(*(w * (high - p) for w, p, (_, high) in zip(shares, rates, limits, strict=True)))
    return Interval(value, max(0.0, value - below), min(1.0, value + above), sum(n))
