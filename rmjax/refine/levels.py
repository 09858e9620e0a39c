"""Perplexity -> score -> level -> grade (GFRIEND, arXiv:2506.08965; docs/methods/gfriend.md).

score s   exp(-PPL / tau), or 1 - rank of PPL in the run        more fluent reasoning scores higher
level     right: SA if s > threshold else WA;  wrong: SR if s > threshold else WR
grade g   signed: +s if right, -s if wrong;  unsigned: s;  levels: SA 2, WA 1, WR -1, SR -2
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from rmjax.errors import UserError
from rmjax.records import Judgment

Score = Literal["perplexity", "rank"]
Level = Literal["SA", "WA", "SR", "WR", "unparsed"]
Grade = Literal["signed", "unsigned", "levels"]

# The surest mistake is the farthest from the surest success, so SA against SR weighs most.
DISCRETE: dict[Level, float] = {"SA": 2.0, "WA": 1.0, "WR": -1.0, "SR": -2.0, "unparsed": -1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graded:
    """A judgment and what refinement made of it."""

    judgment: Judgment
    perplexity: float | None  # of its reasoning; None where unparsed or empty
    score: float  # in [0, 1]; 0 where there is no perplexity
    level: Level
    grade: float


def scores(perplexities: Sequence[float | None], *, score: Score, tau: float) -> list[float]:
    """A score in [0, 1] per judgment, higher for lower perplexity; 0 where there is none.

    "perplexity": exp(-PPL / tau). "rank": 1 - (r - 1/2) / n for the r-th lowest of the run's n perplexities, equal
    ones sharing their mean rank; so the mean is 1/2 whatever the scale of the perplexities.
    """
    if score == "perplexity":
        return [0.0 if p is None else math.exp(-p / tau) for p in perplexities]
    known = [p for p in perplexities if p is not None]
    ranks = iter(stats.rankdata(known))
    return [0.0 if p is None else float(1.0 - (next(ranks) - 0.5) / len(known)) for p in perplexities]


def parse_quantile(threshold: float | str) -> float | None:
    """q of "quantile:q"; None for a plain number.

    Raises:
        UserError: neither a number nor such a text with q in (0, 1).
    """
    if not isinstance(threshold, str):
        return None
    name, _, number = threshold.partition(":")
    try:
        q = float(number)
    except ValueError:
        q = -1.0
    if name != "quantile" or not 0 < q < 1:
        raise UserError(f"refinement.threshold={threshold!r}: give a number, or quantile:Q with Q between 0 and 1")
    return q


def cut(threshold: float | str, run: Sequence[float]) -> float:
    """The threshold as a number: a quantile is that of the run's scores (0 for a run without any)."""
    q = parse_quantile(threshold)
    if q is None:
        return float(threshold)
    return float(np.quantile(np.asarray(run, np.float64), q)) if len(run) else 0.0


def level(correct: bool | None, *, strong: bool) -> Level:
    """The level of a judgment: accept or reject by its verdict, strong or weak by its score."""
    if correct is None:
        return "unparsed"
    return ("SA" if strong else "WA") if correct else ("SR" if strong else "WR")


def grade_of(score: float, level: Level, grade: Grade) -> float:
    """The grade; an unparsed judgment, used as a further rejected one, has the weakest: 0, or -1 among levels."""
    if grade == "levels":
        return DISCRETE[level]
    return -score if grade == "signed" and level in ("SR", "WR") else score


def graded(
    judgments: Sequence[Judgment],
    perplexities: Sequence[float | None],
    *,
    score: Score,
    tau: float,
    threshold: float | str,
    grade: Grade,
) -> list[Graded]:
    """Grades a run's judgments. A quantile threshold is taken over the scores of those that have a perplexity."""
    values = scores(perplexities, score=score, tau=tau)
    limit = cut(threshold, [s for s, p in zip(values, perplexities, strict=True) if p is not None])
    out = []
    for judgment, p, s in zip(judgments, perplexities, values, strict=True):
        found = level(judgment.correct, strong=s > limit)
        out.append(Graded(judgment=judgment, perplexity=p, score=s, level=found, grade=grade_of(s, found, grade)))
    return out
