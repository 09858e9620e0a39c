"""Is the longer answer the better one? And answers of unusual length."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from rmjax.data.doctor.findings import Finding
from rmjax.data.doctor.pairs import Pairs
from rmjax.statistics import mcnemar, wilson

LEVEL = 0.05  # of the tests of all pairs and of each subset together (Bonferroni)
SKEWED = 0.1  # so far from one half, a share is a warning
FAR = 6.0  # robust standard deviations of log length
RATIO = 50.0  # one answer so much longer than the other


def lengths(pairs: Pairs) -> list[Finding]:
    """All findings about lengths, in characters."""
    sizes = np.array([(len(p.chosen.strip()), len(p.rejected.strip())) for p in pairs.records], np.float64)
    return [*skew(pairs, sizes), *unusual(pairs, sizes)]


def skew(pairs: Pairs, sizes: Float[np.ndarray, "n 2"]) -> list[Finding]:
    """How often the longer answer is the chosen one, in all pairs or in a subset; pairs of one length are left out."""
    labelled = np.array([not p.tie for p in pairs.records]) & (sizes[:, 0] != sizes[:, 1])
    longer = labelled & (sizes[:, 0] > sizes[:, 1])
    places = {"": np.arange(len(pairs)), **pairs.subsets}
    told = {place: (int(longer[rows].sum()), int(labelled[rows].sum())) for place, rows in places.items()}
    significant = [place for place, (k, n) in told.items() if mcnemar(k, n - k) < LEVEL / len(told)]
    if not significant:
        return []
    k, n = told[""]
    shown = ["", *(place for place in significant if place)]
    parts = [f"{place}: " * bool(place) + f"longer wins {_share(*told[place])}" for place in shown]
    title = f"the {'longer' if k > n / 2 else 'shorter'} answer is chosen more often"
    skewed = any(abs(told[place][0] / told[place][1] - 0.5) >= SKEWED for place in significant)
    return [
        Finding(
            kind="length",
            severity="warning" if skewed else "note",
            title=title if "" in significant else "the subset tells which length is chosen",
            count=max(k, n - k),
            of=n,
            advice="a reward model can learn length instead of quality: compare it with this figure, read the length "
            "section of score's report, or balance the pairs",
            detail="; ".join(parts),
        )
    ]


def _share(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"{100 * k / n:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def unusual(pairs: Pairs, sizes: Float[np.ndarray, "n 2"]) -> list[Finding]:
    """Answers whose length is far from all others', and pairs of which one answer is far longer than the other."""
    log = np.log1p(sizes)
    middle = np.median(log)
    scale = max(1.4826 * float(np.median(np.abs(log - middle))), 0.25)
    far = np.abs(log - middle).max(1) > FAR * scale
    ratio = (sizes.max(1) + 1) / (sizes.min(1) + 1)
    odd = np.flatnonzero((far | (ratio > RATIO)) & (sizes.min(1) > 0))
    if not len(odd):
        return []
    return [
        Finding(
            kind="unusual-length",
            severity="note",
            title="answers of unusual length",
            count=len(odd),
            of=len(pairs),
            advice="look at some: pasted documents, single letters and cut answers teach length",
            detail=f"the median answer has {np.expm1(middle):,.0f} characters",
            cases=[pairs.case([int(i)], f"{sizes[i, 0]:,.0f} and {sizes[i, 1]:,.0f} characters") for i in odd],
        )
    ]
