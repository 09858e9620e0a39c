"""How many labels a wished accuracy needs, or that it cannot be told yet; and when to stop buying."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import numpy as np

from rmjax.bounds import require
from rmjax.evaluation import learning_curve
from rmjax.evaluation.learning_curve import Points
from rmjax.evaluation.ledger import Prices
from rmjax.statistics import Interval

FAR = 10**9  # labels that nobody buys: written as "never"

BENT = 0.01  # p of `learning_curve.misfit`: below, the points do not follow the law
ALIKE = 1e-4  # accuracy a doubling: a slope known to less is what rounding leaves of draws that do not differ
OFF = 0.005  # accuracy: a law that is nowhere further off is near enough (its exponent is one of a grid)

Finding = Literal["reached", "told", "flat", "misfit", "above", "wide", "alike"]
Advice = Literal["stop", "go on", "cannot be told"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """When a number of labels counts as told, and when buying stops."""

    widest: float = 10.0  # an interval of labels whose ends differ by a larger factor tells nothing
    threshold: float = 0.01  # least gain in accuracy that a doubling of the labels is worth
    samples: int = 2000  # of the bootstrap

    def __post_init__(self) -> None:
        require("rule.", self, "widest", above=1)
        require("rule.", self, "threshold", above=0, below=0.5)
        require("rule.", self, "samples", least=200, most=100_000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needed:
    """Labels for a wished accuracy; None is never (or more than anybody buys)."""

    accuracy: float
    finding: Finding
    labels: int | None
    low: int | None
    high: int | None
    words: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What the next doubling of the labels is expected to gain."""

    labels: int  # there are so many
    gain: Interval  # of accuracy
    advice: Advice
    words: str
    money: float | None = None  # that the doubling costs, by the price of a label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What an amount of money buys."""

    money: float
    labels: int  # bought with it, beside those that there are
    accuracy: Interval  # expected with all of them
    words: str


class Plan:
    """The curve of one method, its bootstrap, and what follows from them."""

    def __init__(self, points: Points, rule: Rule, *, seed: int) -> None:
        """Fits the curve and its bootstrap. `points` is what `learning_curve.points` returned."""
        self.points, self.rule = points, rule
        self.curve = learning_curve.fit(points.labels, points.means[None], points.errors)
        self.noise = learning_curve.noise(points, samples=rule.samples, seed=seed)
        self.curves = learning_curve.fit(points.labels, points.means + self.noise, points.errors)
        self.slope = learning_curve.rise(points)

    @property
    def rising(self) -> bool:
        """Whether the points rise by more than their draws' noise."""
        return self.slope[1] > 0

    @property
    def alike(self) -> str:
        """That the runs do not show the noise of a curve's form, as where all of them move by the same amount between
        numbers of labels: intervals would have no width. Empty where they do."""
        slope, low, high = self.slope
        if high - low > 2 * ALIKE:
            return ""
        return (
            f"all {int(self.points.counts.max())} runs move by the same {100 * slope:+.1f} points a doubling, so how "
            "far others would differ is not known: more draws, or more held-out pairs"
        )

    @functools.cached_property
    def misfit(self) -> float:
        """The probability of points that lie so far from the law, if it were true."""
        return learning_curve.misfit(self.points, self.curve, self.noise)

    @property
    def bent(self) -> str:
        """That the law does not fit the points, and where; empty where it does."""
        off = self.points.means - self.curve.at(self.points.labels)[0]
        worst = int(np.argmax(np.abs(off)))
        if abs(off[worst]) < OFF or self.misfit >= BENT:
            return ""
        n = int(self.points.labels[worst])
        return (
            f"no curve a - b n^-c fits these points (p {max(self.misfit, 1 / self.rule.samples):.2g}; "
            f"{100 * off[worst]:+.1f} points at {n:,} labels), so no forecast holds"
        )

    @property
    def last(self) -> int:
        """The largest number of labels so far."""
        return int(self.points.labels[-1])

    @property
    def asymptote(self) -> Interval:
        """What the curve tends to."""
        return self._interval(float(self.curve.a[0]), self.curves.a)

    def at(self, labels: float) -> Interval:
        """The expected accuracy with so many labels."""
        n = np.array([labels], np.float64)
        return self._interval(float(self.curve.at(n)[0, 0]), self.curves.at(n)[:, 0])

    def _interval(self, value: float, values: np.ndarray) -> Interval:
        # The bootstrap need not hold the fit itself: a parameter at its bound has all of its spread on one side.
        low, high = np.quantile(values, [0.025, 0.975])
        runs = int(self.points.counts.max())
        return Interval(value, float(min(low, value)), float(max(high, value)), runs)

    def needed(self, accuracy: float) -> Needed:
        """Labels that an accuracy needs, with an interval; or that this cannot be told, and why."""
        answer = lambda finding, words, labels=None, low=None, high=None: Needed(
            accuracy=accuracy, finding=finding, labels=labels, low=low, high=high, words=words
        )
        wish, p = f"{100 * accuracy:.1f} %", self.points
        for n, mean, half in zip(p.labels, p.means, p.halves, strict=True):
            if mean - half >= accuracy and (np.ptp(p.deviations) > ALIKE or not self.alike):
                n = int(n)
                return answer("reached", f"{wish} is reached: {100 * mean:.1f} % with {n:,} labels", n, n, n)
        if self.alike:
            return answer("alike", f"{wish}: cannot be told yet. {self.alike[:1].upper()}{self.alike[1:]}")
        if not self.rising:
            slope, low, high = (100 * v for v in self.slope)
            return answer(
                "flat",
                f"{wish}: cannot be told yet. No rise can be told from noise ({slope:+.1f} points a doubling, "
                f"{low:+.1f} to {high:+.1f}): more draws, or numbers of labels further apart",
            )
        if self.bent:
            return answer("misfit", f"{wish}: cannot be told yet. {self.bent[:1].upper()}{self.bent[1:]}")
        found = self.curves.needed(accuracy)
        value = float(self.curve.needed(accuracy)[0])
        low, high = learning_curve.middle(found)
        low, high = min(low, value), max(high, value)
        labels, least, most = (None if v >= FAR else math.ceil(v) for v in (value, low, high))
        if least is None:
            top = self.asymptote
            return answer(
                "above",
                f"{wish} is more than this curve tends to ({100 * top.value:.1f} %, {100 * top.low:.1f} to "
                f"{100 * top.high:.1f}): another method, model or cleaner labels, not more labels",
            )
        if most is None or most > self.rule.widest * least:
            known = (
                f"{least:,} labels or more, or no number of them" if most is None else f"{least:,} to {most:,} labels"
            )
            told = f"{wish}: cannot be told yet. {known}, by what is known; measure the curve with more labels"
            return answer("wide", told, labels, least, most)
        return answer("told", f"{wish} needs about {labels:,} labels ({least:,} to {most:,})", labels, least, most)

    def step(self, prices: Prices | None = None) -> Step:
        """The next doubling, and whether it is worth it."""
        n, threshold = np.array([self.last, 2 * self.last], np.float64), self.rule.threshold
        gains = lambda curves: (lambda x: x[:, 1] - x[:, 0])(curves.at(n))
        gain = self._interval(float(gains(self.curve)[0]), gains(self.curves))
        advice: Advice = "cannot be told"
        doubt = self.alike or (self.bent if self.rising else "")
        if gain.high < threshold and not doubt:
            advice = "stop"
        elif gain.low >= threshold and self.rising and not doubt:
            advice = "go on"
        why = {
            "stop": f"less than what is asked ({100 * threshold:g})",
            "go on": f"at least what is asked ({100 * threshold:g})",
            "cannot be told": doubt or f"which may be less or more than what is asked ({100 * threshold:g})",
        }
        money = None if prices is None or prices.label is None else prices.label * self.last
        price = "" if money is None else f", for {money:,.2f} {prices.currency}".rstrip()
        gained = f"{100 * gain.value:.1f} points ({100 * gain.low:.1f} to {100 * gain.high:.1f})"
        if self.alike:
            gained = f"{100 * gain.value:.1f} points (no interval)"
        elif gain.high - gain.low < 5e-4 and self.slope[0] <= 0:  # at the law's bound: shown without width
            slope, low, high = (100 * v for v in self.slope)
            gained = f"nothing, by a law that cannot fall ({slope:+.1f} points a doubling, {low:+.1f} to {high:+.1f})"
        words = f"{self.last:,} labels more{price} gain {gained}, {why[advice]}: {advice}"
        return Step(labels=self.last, gain=gain, advice=advice, words=words, money=money)

    def budget(self, money: float, price: float, currency: str = "") -> Budget:
        """What the money buys at a price per label."""
        labels = int(money / price + 1e-9)  # 0.3 buys three at 0.1, which division makes 2.9999...
        found = self.at(self.last + labels)
        known = "no interval" if self.alike else f"{100 * found.low:.1f} to {100 * found.high:.1f}"
        words = (
            f"{money:,.2f} {currency}".rstrip() + f" buys {labels:,} labels: {self.last + labels:,} in all, "
            f"{100 * found.value:.1f} % expected ({known})"
        )
        return Budget(money=money, labels=labels, accuracy=found, words=words)

    def predicted(self, labels: int, half: float) -> Interval:
        """Where a mean accuracy that is measured with so many labels is expected.

        Args:
            half: of that mean's own 95 % interval; it widens the interval of the curve.
        """
        curve = self.at(labels)
        low, high = curve.value - curve.low, curve.high - curve.value
        return Interval(curve.value, curve.value - math.hypot(low, half), curve.value + math.hypot(high, half), curve.n)

    def band(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The curve and its 95 % band: [n] each."""
        low, high = np.quantile(self.curves.at(labels), [0.025, 0.975], axis=0)
        value = self.curve.at(labels)[0]
        return value, np.minimum(low, value), np.maximum(high, value)
