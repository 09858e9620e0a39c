"""Does a reward model measure length? Correlations, accuracy by which answer is longer, accuracy at balanced lengths.

Length is the number of characters of an answer, without its prompt: it needs no tokenizer, so two models are compared
on the same strata.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from rmjax.evaluation.baselines import lengths
from rmjax.evaluation.pairwise import Accuracy, ItemScore, accuracy
from rmjax.evaluation.strata import weighted_rate
from rmjax.records import Preference
from rmjax.statistics import Interval

LONGER, SHORTER, SAME = "chosen longer", "chosen shorter", "within 10 %"
NEAR = 0.1  # lengths that differ by at most this share of the longer one are the same
SAMPLES = 999  # bootstrap: the second digit of a limit is all that anyone reads


Pairs = Float[np.ndarray, "n k"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthFigures:
    """How rewards go with length. None: not defined (a constant reward or length, an empty stratum, no scores)."""

    pearson: Interval | None  # of reward and length, over all answers
    spearman: Interval | None
    within: Interval | None  # Pearson's after taking each prompt's mean away: what is left where prompts do not differ
    strata: Mapping[str, Accuracy]  # by which answer is longer; empty strata are left out
    controlled: Interval | None  # mean of the accuracies where the chosen answer is longer and where it is shorter


def length_figures(items: Sequence[Preference], scores: Sequence[ItemScore], *, seed: int = 0) -> LengthFigures:
    """The figures of one method on n items; without scores (a judge) there are no correlations.

    `controlled` is the accuracy on a balanced set, in which the longer answer is right as often as wrong and length
    says nothing: (accuracy of LONGER + accuracy of SHORTER) / 2, so that "the longer answer wins" gets exactly one
    half. It asks what the length-controlled win rate of AlpacaEval asks (Dubois et al. 2024, arXiv:2404.04475), by
    strata instead of by a regression, which would have to assume how length enters.
    """
    found = lengths(items)
    strata: dict[str, list[ItemScore]] = {LONGER: [], SHORTER: [], SAME: []}
    for name, score in zip(stratum(found), scores, strict=True):
        strata[name].append(score)
    accuracies = {name: accuracy(group) for name, group in strata.items() if group}
    controlled = None
    if LONGER in accuracies and SHORTER in accuracies:
        pair = accuracies[LONGER], accuracies[SHORTER]
        controlled = weighted_rate([a.accuracy * a.n for a in pair], [a.n for a in pair], [1, 1])
    known = all(s.score_chosen is not None for s in scores)
    rewards = np.array([(s.score_chosen, s.score_rejected) for s in scores], np.float64) if known else None
    correlate = lambda of: None if rewards is None else correlation(rewards, found, of, seed=seed)
    return LengthFigures(
        pearson=correlate(pearson),
        spearman=correlate(spearman),
        within=correlate(within),
        strata=accuracies,
        controlled=controlled,
    )


def stratum(found: Float[np.ndarray, "n 2"]) -> list[str]:
    """Which stratum each pair of lengths (chosen, rejected) belongs to."""
    near = [abs(a - b) <= NEAR * max(a, b) for a, b in found]
    return [SAME if n else LONGER if a > b else SHORTER for n, (a, b) in zip(near, found, strict=True)]


def pearson(rewards: Pairs, found: Pairs) -> float:
    """Pearson's r over all answers; nan where a side is constant."""
    if np.ptp(rewards) == 0 or np.ptp(found) == 0:  # a rounded mean would leave noise to correlate
        return math.nan
    return _cosine(rewards - rewards.mean(), found - found.mean())


def spearman(rewards: Pairs, found: Pairs) -> float:
    """Spearman's rho over all answers: Pearson's r of mid-ranks."""
    rank = lambda x: stats.rankdata(x).reshape(x.shape)
    return pearson(rank(rewards), rank(found))


def within(rewards: Pairs, found: Pairs) -> float:
    """Pearson's r of deviations from each prompt's mean. The order of a pair plays no part."""
    centre = lambda x: x - x.mean(1, keepdims=True)
    return _cosine(centre(rewards), centre(found))


def correlation(
    rewards: Pairs, found: Pairs, of: Callable[[Pairs, Pairs], float], *, seed: int = 0, samples: int = SAMPLES
) -> Interval | None:
    """A correlation with its 95 % percentile bootstrap interval; None where it is not defined.

    Prompts are drawn with all their answers, because answers to one prompt are not independent.

    Args:
        rewards, found: [n, k] rewards and lengths of k answers to each of n prompts.
    """
    value = of(rewards, found)
    if not math.isfinite(value):
        return None
    rng, n = np.random.default_rng(seed), len(rewards)
    draws = [rng.integers(n, size=n) for _ in range(samples)]
    drawn = np.array([of(rewards[i], found[i]) for i in draws])
    drawn = drawn[np.isfinite(drawn)]  # a draw of one prompt alone has no correlation
    low, high = np.quantile(drawn, (0.025, 0.975)) if n > 1 and drawn.size else (-1.0, 1.0)
    return Interval(value, float(low), float(high), n)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = math.sqrt(float(np.sum(a * a)) * float(np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else math.nan
