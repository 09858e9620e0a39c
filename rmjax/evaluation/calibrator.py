"""What makes a trained reward model's probabilities mean what they say: a few numbers fitted on held-out pairs.

    calibrated reward   r' = r / temperature + length * log(1 + characters) - offset
    probability         P(a better than b) = sigmoid(r'_a - r'_b)

Temperature (Platt 1999; Guo et al. 2017, arXiv:1706.04599) and length are fitted together by maximum likelihood: a
logistic regression without intercept on the differences of reward and of log length. The offset makes the mean reward
of the pairs' answers zero; no probability depends on it. Temperature alone changes no order; the length term does.

Huang et al. (2024, arXiv:2409.17407) take away, without labels, whatever part of a reward its length predicts. Here the
labels decide how much of it stays, for longer answers can be better ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.special import expit

from rmjax.bounds import require
from rmjax.errors import UserError

STEPS = 100  # Newton converges in less than ten
Pairs = Float[np.ndarray, "n 2"]  # chosen, rejected


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibrator:
    """The fitted numbers; the defaults change nothing."""

    temperature: float = 1.0
    offset: float = 0.0
    length: float = 0.0  # reward per unit of log(1 + characters); 0: length plays no part

    def __post_init__(self) -> None:
        require("calibrator.", self, "temperature", above=0)
        require("calibrator.", self, "offset", "length")

    @property
    def words(self) -> str:
        """The numbers, in words."""
        length = f", length {self.length:+.3g}" if self.length else ""
        return f"calibrated (temperature {self.temperature:.3g}, offset {self.offset:+.3g}{length})"

    def apply(self, rewards: Float[np.ndarray, "*n"], characters: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Calibrated rewards, float64, of answers with so many characters."""
        rewards = np.asarray(rewards, np.float64)
        return rewards / self.temperature + self.length * np.log1p(characters) - self.offset

    def probabilities(self, rewards: Pairs, characters: Pairs) -> Float[np.ndarray, " n"]:
        """The probability that the first answer of each pair is better."""
        calibrated = self.apply(rewards, characters)
        return expit(calibrated[:, 0] - calibrated[:, 1])


def fit(rewards: Pairs, characters: Pairs, *, length: bool = False) -> Calibrator:
    """The maximum-likelihood calibrator of labelled pairs.

    Args:
        rewards, characters: of the chosen and the rejected answer of pairs that the model was not trained on.
        length: whether to fit the length term; else it is 0.

    Raises:
        UserError: no maximum exists (every pair is right, too few pairs, no differences), or rewards go against labels.
    """
    rewards, characters = np.asarray(rewards, np.float64), np.asarray(characters, np.float64)
    columns = [rewards, np.log1p(characters)] if length else [rewards]
    x = np.stack([c[:, 0] - c[:, 1] for c in columns], 1)
    weights = logistic(x, ("rewards", "lengths")[: x.shape[1]])
    if weights[0] <= 0:
        raise UserError(
            f"calibration on {len(x)} pairs: rewards go against the labels (fitted slope {weights[0]:.3g}), so no "
            "temperature above 0 fits; check that chosen and rejected are not exchanged, or train the model more"
        )
    centred = Calibrator(temperature=1 / weights[0], length=float(weights[1]) if length else 0.0)
    return dataclasses.replace(centred, offset=float(centred.apply(rewards, characters).mean()))


def logistic(x: Float[np.ndarray, "n k"], names: Sequence[str]) -> Float[np.ndarray, " k"]:
    """The w that minimises sum log(1 + exp(-x w)), by Newton's method with step halving.

    Raises:
        UserError: no unique finite minimum: a column that is all zero or follows another one, or separable pairs
            (Albert and Anderson 1984, Biometrika 71:1).
    """
    n, both = len(x), " and ".join(names)
    for name, column in zip(names, x.T, strict=True):
        if not column.any():
            raise UserError(f"calibration on {n} pairs: the two {name} of every pair are equal: nothing can be fitted")
    scale = np.sqrt(np.mean(x * x, 0))
    z = x / scale
    if np.linalg.matrix_rank(z, tol=1e-9 * math.sqrt(n)) < z.shape[1]:
        raise UserError(f"calibration on {n} pairs: {both} go together exactly; fit without the length term")
    if _separable(z):
        raise UserError(
            f"calibration on {n} pairs: {both} rank every pair right (or every pair wrong), so no finite temperature "
            "is the most likely; give more held-out pairs"
        )
    w = np.zeros(z.shape[1])
    loss = lambda w: float(np.logaddexp(0, -z @ w).sum())
    for _ in range(STEPS):
        p = expit(-z @ w)
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z, z.T @ p)
        size, before = 1.0, loss(w)
        while loss(w + size * step) > before and size > 1e-9:
            size /= 2
        w = w + size * step
        if np.abs(step).max() <= 1e-12 * max(1.0, np.abs(w).max()):
            break
    return w / scale


def _separable(z: Float[np.ndarray, "n k"]) -> bool:
    """Whether some w has z w >= 0 for all pairs and > 0 for one: the likelihood then grows for ever along w.

    Both signs are covered, for w is free.
    """
    found = linprog(-z.sum(0), A_ub=-z, b_ub=np.zeros(len(z)), bounds=[(-1, 1)] * z.shape[1], method="highs")
    return -found.fun > 1e-9 * len(z)


def folds(keys: Sequence[str], count: int) -> np.ndarray:
    """[n] the fold of each item: equal keys (prompts) share one, sizes in keys differ by at most one.

    Raises:
        UserError: fewer keys than folds.
    """
    order = sorted(set(keys), key=lambda k: hashlib.sha256(k.encode()).digest())  # the same whatever the file's order
    if len(order) < count:
        raise UserError(f"{len(order)} prompts cannot make folds={count}: give more pairs or fewer folds")
    place = {key: i % count for i, key in enumerate(order)}
    return np.array([place[key] for key in keys])


def cross_validated(
    rewards: Pairs, characters: Pairs, keys: Sequence[str], *, count: int = 5, length: bool = False
) -> Float[np.ndarray, " n"]:
    """The probability of each pair under the calibrator fitted on the other folds. UserError as in `fit`, `folds`."""
    fold, out = folds(keys, count), np.empty(len(rewards))
    for k in range(count):
        held = fold == k
        found = fit(rewards[~held], characters[~held], length=length)
        out[held] = found.probabilities(rewards[held], characters[held])
    return out
