"""Whether a method's probabilities mean what they say.

A pair has no natural positive class (the label is always "chosen"), so a probability is folded to the answer that the
method prefers: confidence = max(p, 1 - p), right where p > 1/2. This does not depend on the order of the answers.

The Brier score is a mean with Student's interval. ECE's is a bootstrap over items (Efron 1979) that takes care of what
chance alone adds: it is the basic one, 2 * value - quantiles, and it begins at 0 where a perfectly calibrated method
with the same confidences would get as much (consistency resampling: Bröcker and Smith 2007, Weather and Forecasting
22:651).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rmjax.statistics import t_interval, wilson

SAMPLES = 1999


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bin:
    """The items whose confidence lies in (low, high]; the first bin holds 1/2 as well."""

    low: float
    high: float
    n: int
    confidence: float  # mean; nan where the bin is empty
    accuracy: float  # nan where the bin is empty
    ci95: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration over n items."""

    n: int
    ece: float  # expected calibration error: mean |accuracy - confidence| over bins, weighted by items
    ece95: tuple[float, float]
    brier: float  # mean (1 - p)^2: 0 is perfect, 1/4 is what p = 1/2 everywhere gets
    brier95: tuple[float, float]
    confidence: float  # mean
    accuracy: float
    bins: tuple[Bin, ...]


def calibration(prob_chosen: Sequence[float], *, bins: int = 10, seed: int = 0) -> Calibration:
    """Reliability over equal-width confidence bins of [1/2, 1] (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599).

    Args:
        prob_chosen: [n] the probability given to the chosen answer, items without one left out. p = 1/2 counts half.
        bins: how many. ECE is biased upwards when bins hold few items: compare it at equal n only.
        seed: of the bootstrap.

    Raises:
        ValueError: no items, or a value outside [0, 1] (nan included).
    """
    p = np.asarray(prob_chosen, np.float64)
    if p.ndim != 1 or p.size == 0:
        raise ValueError(f"calibration needs probabilities [n], got shape {p.shape}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"not a probability: {p[~((p >= 0) & (p <= 1))][0]}")
    confidence = np.maximum(p, 1 - p)
    right = np.where(p == 0.5, 0.5, p > 0.5)
    edges = np.linspace(0.5, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    out, error = [], 0.0
    for i in range(bins):
        inside = index == i
        n = int(inside.sum())
        conf, acc = (float(confidence[inside].mean()), float(right[inside].mean())) if n else (np.nan, np.nan)
        error += n * abs(acc - conf) / p.size if n else 0.0
        out.append(
            Bin(
                low=float(edges[i]),
                high=float(edges[i + 1]),
                n=n,
                confidence=conf,
                accuracy=acc,
                ci95=wilson(float(right[inside].sum()), n),
            )
        )
    losses = (1 - p) ** 2
    interval = t_interval(losses) if p.size > 1 else None
    return Calibration(
        n=p.size,
        ece=float(error),
        ece95=_ece_interval(float(error), right, confidence, index, seed),
        brier=float(losses.mean()),
        brier95=(max(0.0, interval.low), min(1.0, interval.high)) if interval else (0.0, 1.0),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        bins=tuple(out),
    )


def _ece_interval(
    ece: float, right: np.ndarray, confidence: np.ndarray, index: np.ndarray, seed: int
) -> tuple[float, float]:
    """The interval within [0, 1] of an ECE = sum over bins |sum of (right - confidence) in the bin| / n.

    A bin's sum over resampled items is nearly normal, so the sums of all bins are drawn at once, with the covariance
    that resampling items has; that of a calibrated method is drawn likewise. No draw needs the items.

    Args:
        right, confidence, index: [n] outcome, confidence and bin of each item.
    """
    n, rng = right.size, np.random.default_rng(seed)
    add = lambda x: np.bincount(index, x) / n
    excess = right - confidence
    mean = add(excess)
    covariance = np.diag(add(excess**2) / n) - np.outer(mean, mean) / n
    drawn = np.abs(rng.multivariate_normal(mean, covariance, size=SAMPLES, method="eigh")).sum(1)
    calibrated = np.abs(rng.normal(size=(SAMPLES, mean.size)) * np.sqrt(add(confidence * (1 - confidence)) / n)).sum(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    noise = ece <= np.quantile(calibrated, 0.975)
    return 0.0 if noise else max(0.0, 2 * ece - float(high)), min(1.0, max(ece, 2 * ece - float(low)))
