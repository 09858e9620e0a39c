"""Self-training of a reward head on frozen features: seed labels -> labels that the head gives itself -> a new head.

    1. seed    the tuned Bradley-Terry head of a label draw (`methods.frozen.Bench.baseline`)
    2. label   a rule looks at both answers' scores of every pair that has no label yet: +1, -1, or back in the pool
    3. refit   a head on the seed's labels and on all labels given so far; then from 2 again

    SER   (arXiv:2411.00418)  s = sigmoid(r); j over k where s_j > .55 and s_k < .45, or s_j - s_k > .3
    SSRM  (arXiv:2409.06903)  the verdict's probability, here sigmoid(r_j - r_k), above .8
    weak  (arXiv:2410.20869)  labelling functions and a label model, no reward head: one round

A label that was given stays; SER and SSRM both put back what was not sure. Departures, and why: SER runs its two
conditions in stages by the model's learning status, here either is enough; a Bradley-Terry head has no offset, so the
middle of SER's scores is the reward of the pool's mean answer (the origin of the bench's coordinates); SSRM averages a
judge's verdict over both orders, and a scalar reward has none. The new head inherits the draw's form and penalty, as
every method on this bench does, and is the minimiser of the same convex loss, so nothing but the labels differs from
the baseline.

Dimensions: N pairs of the pool, r runs, e held-out pairs, d coordinates, t rounds, k labelling functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.methods.frozen import Bench, Fitted
from rmjax.methods.strength import fit
from rmjax.refine.label_model import LabelModel

Labels = Int[np.ndarray, "*n"]  # +1: the first answer is better; -1: the second; 0: no label
Rule = Callable[[Float[np.ndarray, "*n 2"]], Labels]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ser:
    """SER's filter: two answers on different sides of the middle, or far apart."""

    title: ClassVar[str] = "SER"
    high: float = 0.55
    low: float = 0.45
    gap: float = 0.3

    def __post_init__(self) -> None:
        require("ser.", self, "high", "low", "gap", least=0, most=1)
        if self.low > self.high:
            raise UserError(f"ser.low={self.low}: above ser.high={self.high}, so both answers could win; lower it")

    def __call__(self, rewards: Float[np.ndarray, "*n 2"]) -> Labels:
        """The pairs that are sure."""
        s = expit(np.asarray(rewards, np.float64))
        ahead = lambda j, k: ((s[..., j] > self.high) & (s[..., k] < self.low)) | (s[..., j] - s[..., k] > self.gap)
        return ahead(0, 1).astype(np.int64) - ahead(1, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ssrm:
    """SSRM's threshold on the probability of the likelier answer."""

    title: ClassVar[str] = "SSRM"
    confidence: float = 0.8

    def __post_init__(self) -> None:
        require("ssrm.", self, "confidence", least=0.5, below=1)

    def __call__(self, rewards: Float[np.ndarray, "*n 2"]) -> Labels:
        """The pairs that are sure."""
        rewards = np.asarray(rewards, np.float64)
        return sure(expit(rewards[..., 0] - rewards[..., 1]), self.confidence)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weak:
    """Labels of labelling functions, where the label model's probability is high enough."""

    title: ClassVar[str] = "weak"
    confidence: float = 0.8
    model: LabelModel = LabelModel()
    seeded: bool = False  # seed labels say which way each function points, and how well; else its own direction holds

    def __post_init__(self) -> None:
        require("weak.", self, "confidence", least=0.5, below=1)
        if self.seeded and self.model.start != LabelModel().start:
            raise UserError(f"weak.model.start={self.model.start}: not read with --weak.seeded; leave it out")

    def __call__(self, prob: Float[np.ndarray, "*n"]) -> Labels:
        """Labels of the label model's probabilities."""
        return sure(prob, self.confidence)


def sure(prob: Float[np.ndarray, "*n"], confidence: float) -> Labels:
    """+1 where the probability is above `confidence`, -1 where its complement is, else 0."""
    return (prob > confidence).astype(np.int64) - (1.0 - prob > confidence)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Self-training over some runs."""

    differences: Float[np.ndarray, "r e"]  # of the held-out pairs, by the last head: chosen minus rejected
    true: Float[np.ndarray, "r e"]  # the same of a head whose given labels are all turned to the truth
    given: Int[np.ndarray, "t r"]  # labels given so far, after each round
    right: Int[np.ndarray, "t r"]  # of them, as many agree with the truth


def voted(
    votes: Int[np.ndarray, "N k"], seed: Bool[np.ndarray, "r N"], how: Weak
) -> tuple[Int[np.ndarray, "r N"], Float[np.ndarray, "r k"]]:
    """What labelling functions make of the pool: a rule's labels, and the accuracies that were found.

    Args:
        votes: +1 for the chosen answer, -1 for the rejected one, or 0.
        seed: the pairs whose labels a run has; they play a part where `how.seeded`.
    """
    found = [how.model.fit(votes, truth) for truth in (seed.astype(np.int64) if how.seeded else [None])]
    labels, accuracy = (np.stack(x) for x in zip(*((how(f.prob), f.accuracy) for f in found), strict=True))
    return np.broadcast_to(labels, seed.shape), np.broadcast_to(accuracy, (len(seed), votes.shape[1]))


def train(bench: Bench, labels: int, numbers: Sequence[int], base: Fitted, rule: Rule, *, rounds: int) -> Trained:
    """The loop over label draws. The truth of the pairs that a draw does not take is looked at for `right` alone.

    Args:
        base: the baseline's fit to the draws.
        rule: of the rewards [r, N, 2] of both answers, as the last head says, or whatever it takes them for.
    """
    seed = seeded(bench, labels, numbers)
    given, head = np.zeros(seed.shape, np.int64), base.head[:, -1]
    counts, right = [], []
    for _ in range(rounds):
        rewards = np.stack([bench.x[f] @ w for f, w in zip(base.form, head, strict=True)])
        given = np.where(seed | (given != 0), given, rule(rewards))
        head = refit(bench, seed, given, base)
        counts.append((given != 0).sum(1)), right.append((given > 0).sum(1))
    true = refit(bench, seed, np.abs(given), base)
    return Trained(held(bench, base, head), held(bench, base, true), np.array(counts), np.array(right))


def seeded(bench: Bench, labels: int, numbers: Sequence[int]) -> Bool[np.ndarray, "r N"]:
    """The pairs that each draw takes."""
    runs = bench.runs(labels, numbers)
    out = np.zeros((len(runs), len(bench.groups)), bool)
    for row, index, there in zip(out, runs.index, runs.there, strict=True):
        row[index[there]] = True
    return out


def refit(
    bench: Bench, seed: Bool[np.ndarray, "r N"], given: Int[np.ndarray, "r N"], base: Fitted
) -> Float[np.ndarray, "r d"]:
    """Heads on the seed's pairs, with their columns, and on the given labels, with weight 1."""
    weight, margin, smooth = (np.broadcast_to(c, seed.shape) for c in bench.columns)
    columns = {
        "weight": np.where(seed, weight, (given != 0).astype(np.float64)),
        "margin": np.where(seed, margin, 0.0),
        "smooth": np.where(seed, smooth, (given < 0).astype(np.float64)),  # 1: the second answer is the better one
    }
    heads = [fit(x[:, 0] - x[:, 1], penalty=base.penalty, **columns) for x in bench.x]
    return np.stack([heads[f][i] for i, f in enumerate(base.form)])


def held(bench: Bench, base: Fitted, head: Float[np.ndarray, "r d"]) -> Float[np.ndarray, "r e"]:
    """Differences of the held-out pairs, chosen minus rejected."""
    x = bench.evaluation[:, :, 0] - bench.evaluation[:, :, 1]
    return np.stack([x[f] @ w for f, w in zip(base.form, head, strict=True)])
