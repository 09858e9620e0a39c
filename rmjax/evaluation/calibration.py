"""Whether a method's probabilities mean what they say.

A pair has no natural positive class (the label is always "chosen"), so a probability is folded to the answer that the
method prefers: confidence = max(p, 1 - p), right where p > 1/2. This does not depend on the order of the answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rmjax.statistics import wilson


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
    brier: float  # mean (1 - p)^2: 0 is perfect, 1/4 is what p = 1/2 everywhere gets
    confidence: float  # mean
    accuracy: float
    bins: tuple[Bin, ...]


def calibration(prob_chosen: Sequence[float], *, bins: int = 10) -> Calibration:
    """Reliability over equal-width confidence bins of [1/2, 1] (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599).

    Args:
        prob_chosen: [n] the probability given to the chosen answer, items without one left out. p = 1/2 counts half.
        bins: how many. ECE is biased upwards when bins hold few items: compare it at equal n only.

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
    return Calibration(
        n=p.size,
        ece=float(error),
        brier=float(np.mean((1 - p) ** 2)),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        bins=tuple(out),
    )
