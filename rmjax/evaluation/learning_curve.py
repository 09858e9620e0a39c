"""The learning curve: accuracy against the number of labels, as an inverse power law with an interval.

acc(n) = a - b n^-c (Cortes et al. 1993, "Learning curves: asymptotic values and rate of convergence"; for few points
Figueroa et al. 2012, BMC Med Inform Decis Mak 12:8). a is what the curve tends to, at most 1; b is at least 0; c lies
within `EXPONENTS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from rmjax.errors import UserError

EXPONENTS = (0.05, 1.5)  # below, a curve is a logarithm within any budget; above, a step
GRID = 60  # exponents that are tried
LEAST = 3  # numbers of labels; the law has three parameters
SHRINK = 4  # a number's spread is estimated as if so many further runs had the mean spread of all numbers

Draw = tuple[int, int]  # (label draw, seed)


class Curves(NamedTuple):
    """Parameters of one curve or of many."""

    a: Float[np.ndarray, " k"]
    b: Float[np.ndarray, " k"]  # at n labels the distance to a is b n^-c
    c: Float[np.ndarray, " k"]

    def at(self, labels: Float[np.ndarray, " n"]) -> Float[np.ndarray, "k n"]:
        """Accuracy at each number of labels."""
        n = np.asarray(labels, np.float64)
        return self.a[:, None] - self.b[:, None] * n ** -self.c[:, None]

    def needed(self, accuracy: float) -> Float[np.ndarray, " k"]:
        """Labels at which each curve has that accuracy; infinity where it never has."""
        gap = self.a - accuracy
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            found = (self.b / gap) ** (1 / self.c)
        return np.where(gap > 0, found, np.inf)


def middle(values: Float[np.ndarray, " k"]) -> tuple[float, float]:
    """The 2.5 % and the 97.5 % quantile of values among which may be infinity, as two of the values."""
    ordered = np.sort(values)
    return float(ordered[math.ceil(0.025 * len(ordered)) - 1]), float(ordered[math.ceil(0.975 * len(ordered)) - 1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """Mean accuracies at p numbers of labels, and each run's deviation from them."""

    labels: Float[np.ndarray, " p"]  # rising
    means: Float[np.ndarray, " p"]
    deviations: Float[np.ndarray, "p r"]  # of each run; 0 where a run lacks that number of labels
    counts: Float[np.ndarray, " p"]  # runs at each
    spread: Float[np.ndarray, " p"]  # standard deviation of one run, shrunk towards the mean of all
    single: Bool[np.ndarray, " p"]  # one label draw, however many seeds: its spread over draws is not seen there

    @property
    def errors(self) -> Float[np.ndarray, " p"]:
        """Standard errors of the means, over label draws."""
        return self.spread / np.sqrt(np.where(self.single, 1, self.counts))

    @property
    def seen(self) -> Bool[np.ndarray, " p"]:
        """Where several runs show their spread."""
        return (self.counts > 1) & ~self.single

    @property
    def scale(self) -> Float[np.ndarray, " p"]:
        """What turns the root of the sum of squared deviations into a mean's standard error, where it is seen."""
        return np.where(self.seen, self.counts * np.maximum(self.counts - 1, 1), 1.0) ** 0.5

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the spread."""
        return max(1.0, float(self.counts[self.seen].max()) - 1)

    @property
    def halves(self) -> Float[np.ndarray, " p"]:
        """Half the width of each mean's 95 % t interval."""
        return float(stats.t.ppf(0.975, self.freedom)) * self.errors


def points(rows: Mapping[int, Mapping[Draw, float]]) -> Points:
    """The points of number of labels -> run -> accuracy.

    Seeds of one draw share its labels, so that a draw is one run with the mean of its seeds. Where all labels are taken
    there is one draw: such a point counts as one run with the spread of the largest number of labels that has several
    draws. Where no number of labels has several draws, the runs are seeds.

    Raises:
        UserError: fewer than `LEAST` numbers of labels, or none with two runs.
    """
    labels = sorted(rows)
    if len(labels) < LEAST:
        raise UserError(
            f"a learning curve needs at least {LEAST} numbers of labels, and {len(labels)} are there "
            f"({', '.join(map(str, labels))}): run curve with more --labels"
        )
    draws = [len({draw for draw, _ in rows[n]}) for n in labels]
    if max(draws) > 1:
        rows = {n: _by_draw(found) for n, found in rows.items()}
    runs = sorted({run for found in rows.values() for run in found})
    place = {run: i for i, run in enumerate(runs)}
    single = np.array([d == 1 and max(draws) > 1 for d in draws])
    counts = np.array([len(rows[n]) for n in labels], np.float64)
    if not np.any((counts > 1) & ~single):
        raise UserError("a learning curve needs two runs or more of a number of labels: run curve with more --draws")
    means = np.array([np.mean(list(rows[n].values())) for n in labels])
    deviations = np.zeros((len(labels), len(runs)))
    for i, n in enumerate(labels):
        for run, value in rows[n].items():
            deviations[i, place[run]] = value - means[i]
    seen = (counts > 1) & ~single
    squares = (deviations**2).sum(1)
    pooled = squares[seen].sum() / (counts[seen] - 1).sum()
    spread = np.sqrt((squares + SHRINK * pooled) / (counts - 1 + SHRINK))
    spread[single] = spread[np.flatnonzero(seen)[-1]]
    spread = np.maximum(spread, 1e-6)
    return Points(
        labels=np.array(labels, np.float64),
        means=means,
        deviations=deviations,
        counts=counts,
        spread=spread,
        single=single,
    )


def _by_draw(runs: Mapping[Draw, float]) -> dict[Draw, float]:
    seeds = defaultdict(list)
    for (draw, _), value in runs.items():
        seeds[draw].append(value)
    return {(draw, 0): float(np.mean(values)) for draw, values in seeds.items()}


def fit(
    labels: Float[np.ndarray, " p"],
    means: Float[np.ndarray, "k p"],
    errors: Float[np.ndarray, " p"],
    exponents: tuple[float, float] = EXPONENTS,
) -> Curves:
    """Weighted least squares of k curves on the same numbers of labels.

    For an exponent the law is linear in a and b, so that both are had in closed form and only c is searched, on a grid
    that is even in its logarithm.
    """
    c = np.geomspace(*exponents, GRID)
    x = (labels / labels[0])[None] ** -c[:, None]  # [c, p], 1 at the first: well conditioned
    w = errors**-2.0 / np.sum(errors**-2.0)
    y_mean = means @ w  # [k]
    x_mean = x @ w  # [c]
    dx = x - x_mean[:, None]
    dy = means - y_mean[:, None]
    b = np.maximum(0.0, -(dy * w) @ dx.T / np.sum(w * dx**2, 1))  # [k, c]
    a = y_mean[:, None] + b * x_mean
    over = a > 1
    forced = np.maximum(0.0, ((1 - means) * w) @ x.T / np.sum(w * x**2, 1))  # means drawn anew may be above 1
    a, b = np.where(over, 1.0, a), np.where(over, forced, b)
    error = (w * (means[:, None] - a[:, :, None] + b[:, :, None] * x) ** 2).sum(-1)  # [k, c]
    best = error.argmin(1)
    pick = lambda values: np.take_along_axis(values, best[:, None], 1)[:, 0]
    chosen = c[best]
    return Curves(pick(a), pick(b) * labels[0] ** chosen, chosen)


def noise(found: Points, *, samples: int, seed: int) -> Float[np.ndarray, "k p"]:
    """What the means would differ by from the truth with other label draws.

    A multiplier bootstrap (Mammen 1993): every run's deviations, at all its numbers of labels together, are multiplied
    by one normal variable, so that draws whose fewer labels are the first of their more stay correlated as they are.
    Divided by a chi variable it is as wide as Student's t for few draws, where resampling draws is too narrow.
    """
    rng = np.random.default_rng(seed)
    wide = np.sqrt(found.freedom / rng.chisquare(found.freedom, (samples, 1)))
    drawn = rng.standard_normal((samples, found.deviations.shape[1])) @ found.deviations.T
    lone = rng.standard_normal((samples, len(found.labels))) * found.errors
    return np.where(found.seen, drawn / found.scale, lone) * wide


def misfit(found: Points, law: Curves, noise: Float[np.ndarray, "k p"]) -> float:
    """p: how often points that the law gave, with such noise, are as far from the law that fits them best as these."""
    square = lambda means, curves: np.sum(((means - curves.at(found.labels)) / found.errors) ** 2, -1)
    drawn = law.at(found.labels) + noise
    return float(np.mean(square(drawn, fit(found.labels, drawn, found.errors)) >= square(found.means[None], law)))


def rise(found: Points) -> tuple[float, float, float]:
    """Accuracy gained by a doubling of the labels: the slope on log2 n, with its 95 % t interval over draws."""
    x = np.log2(found.labels)
    w = found.errors**-2.0
    x = x - np.sum(w * x) / np.sum(w)
    lever = w * x / np.sum(w * x * x)
    slope = float(lever @ found.means)
    of_runs = (lever * found.seen / found.scale) @ found.deviations
    error = math.sqrt(float(np.sum(of_runs**2) + np.sum((lever * ~found.seen * found.errors) ** 2)))
    half = float(stats.t.ppf(0.975, found.freedom)) * error
    return slope, slope - half, slope + half
