"""Intervals and paired tests that every printed rate carries; below everything else in the import order.

Which one for what:
    wilson            a rate over independent items (one model, one test set)
    mcnemar           two methods on the same items: is the number of disagreements one-sided?
    paired_bootstrap  two methods on the same items: how large is the difference?
    t_interval        a mean over runs (or over paired differences of runs)
    crossed_interval  the same over runs that cross label draws with training seeds
    holm              p-values of several tests that are looked at together
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; `n` is the number of units that it averages."""

    value: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside, that is, whether a difference can be told from none."""
        return self.low > 0 or self.high < 0


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


def t_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Student's t interval of a mean, over runs or over the differences of paired runs.

    Raises:
        ValueError: fewer than two values: one run says nothing about the spread over runs.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or x.size < 2:
        raise ValueError(f"a t interval needs at least two values, got shape {x.shape}")
    half = stats.t.ppf((1 + level) / 2, x.size - 1) * stats.sem(x)
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), x.size)


def crossed_interval(table: Sequence[Sequence[float]], *, level: float = 0.95) -> Interval:
    """The interval of a mean over runs that cross two random factors, rows (label draws) and columns (seeds).

    Runs that share a draw or a seed are not independent, so a t interval over all of them is too narrow. The
    variance of the grand mean in the two-way random-effects layout is (MS_rows + MS_columns - MS_rest) / (r c)
    (Cornfield and Tukey 1956), its degrees of freedom are Satterthwaite's (1946). Where a sample's estimate falls
    below what either factor alone gives, the larger one is taken: wider, never narrower, and with that factor's
    own degrees of freedom. Two seeds leave one degree of freedom, so the interval can be very wide; it is honest.

    Args:
        table: [r, c], r >= 2 and c >= 2.
    """
    x = np.asarray(table, np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"a crossed interval needs at least 2 rows and 2 columns, got shape {x.shape}")
    r, c = x.shape
    grand, rows, columns = x.mean(), x.mean(1), x.mean(0)
    rest = x - rows[:, None] - columns[None, :] + grand
    ms_rows = c * np.sum((rows - grand) ** 2) / (r - 1)
    ms_columns = r * np.sum((columns - grand) ** 2) / (c - 1)
    ms_rest = np.sum(rest**2) / ((r - 1) * (c - 1))
    both = ms_rows + ms_columns - ms_rest
    if both > max(ms_rows, ms_columns):
        spread = ms_rows**2 / (r - 1) + ms_columns**2 / (c - 1) + ms_rest**2 / ((r - 1) * (c - 1))
        freedom = both**2 / spread
    elif ms_rows >= ms_columns:
        both, freedom = ms_rows, r - 1
    else:
        both, freedom = ms_columns, c - 1
    half = stats.t.ppf((1 + level) / 2, freedom) * math.sqrt(both / (r * c))
    return Interval(float(grand), float(grand - half), float(grand + half), x.size)


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value of McNemar's test (1947): a sign test on the items that the methods disagree on.

    Args:
        only_a: items on which A did better; only_b: items on which B did. The others carry no information.
    """
    disagreements = only_a + only_b
    return 1.0 if disagreements == 0 else float(stats.binomtest(only_a, disagreements, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that hold for all of them at once (Holm 1979), in their order: the k-th smallest of n times n - k + 1,
    at most 1, and none below a smaller one's."""
    adjusted, least = [1.0] * len(p_values), 0.0
    for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, p_values[i] * (len(p_values) - k)))
        adjusted[i] = least
    return adjusted


def paired_bootstrap(
    differences: Sequence[float], *, seed: int = 0, samples: int = 9999, level: float = 0.95
) -> Interval:
    """The percentile bootstrap interval of a mean difference over items (Efron 1979); the item is the unit.

    Args:
        differences: one number an item, method A minus method B. A few distinct values (outcomes 0, 1/2, 1) are
            resampled by their counts: the same distribution as resampling items, without the items.
    """
    x = np.asarray(differences, np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"a bootstrap needs one difference an item, got shape {x.shape}")
    rng = np.random.default_rng(seed)
    values, counts = np.unique(x, return_counts=True)
    chunk = max(1, 2_000_000 // values.size)  # draws at once: bounds the memory
    means = np.concatenate(
        [
            rng.multinomial(x.size, counts / x.size, size=min(chunk, samples - i)) @ values / x.size
            for i in range(0, samples, chunk)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high), x.size)
