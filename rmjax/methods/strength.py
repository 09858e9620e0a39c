"""Preference strength (Secrets of RLHF II, arXiv:2401.06080, section 2.1): an ensemble of heads says what it makes of
every label. What is done with its opinion: `rmjax.refine.treatments`.

    1. members   M linear Bradley-Terry heads on frozen features, each on its own resample of the pairs; or M whole
                 models, as in the paper (`rmjax.jobs.strength_members`), with the same `parts`
    2. score     every member scores every pair: chosen minus rejected
    3. strength  mean and standard deviation over members (`rmjax.refine.strength`)

The pairs' own columns (weight, margin, probability or votes) are in the loss of every head, as they are in training,
and in the held-out loss that chooses the penalty.

Departures from the paper, and why:
  - Members score pairs that they have not seen: each is cut into folds of prompts, and what is trained without a fold
    scores that fold. The paper lets models score the pairs that they were trained on, which is safe only while they
    have not begun to fit wrong labels. scoring="training" is the paper's way.
  - Members differ by a bootstrap of their pairs, for a convex head ends in the same place in whatever order they come.
  - The penalty is the one with the lowest loss on held-out folds, judged by the labels as they are: no clean label is
    needed, and a noisy set finds a larger penalty by itself.

Dimensions: m members, p parts, h heads, n pairs, d coordinates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float, Int

from rmjax.bounds import require
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.records import Preference
from rmjax.refine import strength
from rmjax.refine.treatments import is_flipped
from rmjax.training.frozen.basis import Basis
from rmjax.training.frozen.solver import solve

_solve = jax.jit(solve)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrengthEnsemble:
    """How the members come about, and which pairs they score."""

    members: int = 10
    scoring: Literal["held_out", "training"] = "held_out"  # pairs of unseen prompts, or those trained on (the paper)
    folds: int = 5  # of held_out, drawn anew for every member
    bootstrap: bool = True  # every head trains on a resample of its pairs
    axes: int = 256  # principal axes of the features that the heads see
    penalties: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # L2; the best on held-out folds

    def __post_init__(self) -> None:
        require("ensemble.", self, "members", "axes", least=1)
        require("ensemble.", self, "folds", least=2)
        if not self.penalties or not all(0 < p < np.inf for p in self.penalties):
            raise UserError(f"ensemble.penalties={self.penalties}: give one number above 0, or more")
        if self.scoring == "training" and not self.bootstrap:
            raise UserError(
                "ensemble.bootstrap=False: members that train on all pairs would be alike; set it, or score held_out"
            )

    def words(self, members: str = "linear heads on frozen features") -> str:
        """How labels are scored, for a report."""
        what = f"an ensemble of {self.members} {members}"
        if self.scoring == "training":
            return f"{what}, on the pairs that they were trained on"
        return f"{what}, each trained in {self.folds} folds and scoring only prompts that it has not seen"


def parts(records: Sequence[Preference], how: StrengthEnsemble, *, seed: int) -> Int[np.ndarray, "m n"]:
    """Which part of each member scores a pair, having trained on the others' pairs; all 0, of one, for "training".

    Raises:
      UserError: fewer prompts than folds.
    """
    if how.scoring == "training":
        return np.zeros((how.members, len(records)), np.int64)
    return strength.folds([p.prompt for p in records], members=how.members, parts=how.folds, seed=seed)


@dataclasses.dataclass(frozen=True)
class Scored:
    """What an ensemble made of labelled pairs."""

    differences: Float[np.ndarray, "m n"]  # score of chosen minus score of rejected
    penalty: float  # the one taken


def score(features: Features, records: Sequence[Preference], how: StrengthEnsemble, *, seed: int) -> Scored:
    """Trains the ensemble on labelled pairs and lets it score them.

    Args:
      records: the pairs of the features, in their order; those of one prompt are never on both sides of a fold.

    Raises:
      UserError: fewer prompts than folds, weights that are all 0, or features that are all alike.
    """
    x = coordinates(features, Basis.fit(features, axes=how.axes))
    weight, margin, smooth = as_labelled(records)
    penalty = best_penalty(x, records, how, seed=seed)
    part = parts(records, how, seed=seed)
    times = np.ones((how.members, 1, len(x))) if how.scoring == "training" else without(part, how.folds)
    times = times.reshape(-1, len(x))
    if how.bootstrap:
        times = resampled(times, np.random.default_rng(seed))
    penalties = np.full(len(times), penalty)
    heads = fit(x, weight=times * weight, margin=margin[None], smooth=smooth[None], penalty=penalties)
    return Scored(seen_by(heads @ x.T, part), penalty)


def best_penalty(
    x: Float[np.ndarray, "n d"], records: Sequence[Preference], how: StrengthEnsemble, *, seed: int
) -> float:
    """The penalty with the lowest loss on held-out folds, judged by the labels and their columns as they are."""
    if len(how.penalties) == 1:
        return how.penalties[0]
    count = len(how.penalties)
    weight, margin, smooth = as_labelled(records)
    part = np.tile(strength.folds([p.prompt for p in records], members=1, parts=how.folds, seed=seed), (count, 1))
    times = without(part, how.folds).reshape(-1, len(x))
    penalties = np.repeat(how.penalties, how.folds)
    heads = fit(x, weight=times * weight, margin=margin[None], smooth=smooth[None], penalty=penalties)
    held = seen_by(heads @ x.T, part).astype(np.float64) - margin
    loss = (1 - smooth) * np.logaddexp(0, -held) + smooth * np.logaddexp(0, held)
    return how.penalties[int(np.argmin(loss @ weight))]


def fit(
    x: Float[np.ndarray, "n d"],
    *,
    weight: Float[np.ndarray, "h n"],
    penalty: Float[np.ndarray, " h"],
    margin: Float[np.ndarray, "#h n"] | None = None,
    smooth: Float[np.ndarray, "#h n"] | None = None,
) -> Float[np.ndarray, "h d"]:
    """Heads that minimise the mean weighted loss softplus(-(w.x - margin)), smoothed, plus penalty / 2 |w|^2."""
    margin, smooth = (np.broadcast_to(0.0 if v is None else v, weight.shape) for v in (margin, smooth))
    return np.asarray(_solve(*(np.asarray(v, np.float32) for v in (x, weight, margin, smooth, penalty))))


def as_labelled(records: Sequence[Preference]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight, margin and smoothing of records, each [n] float64, in the direction of their own labels.

    Raises:
      UserError: weights that are all 0.
    """
    weight = np.array([1.0 if p.weight is None else p.weight for p in records])
    if not weight.any():
        raise UserError(f"weight: 0 for all {len(records)} pairs: leave the column out, or give one a weight above 0")
    return weight, np.array([p.margin or 0.0 for p in records]), np.array([p.smooth for p in records])


def columns(treated: Sequence[Preference]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Margin and smoothing of treated records, for differences taken as the labels were before the treatment.

    A flipped pair's loss, of -(w.x), is that of w.x under the margin -m and the smoothing 1 - a. So features that were
    computed before a flip are used after it.
    """
    turned = np.array([is_flipped(p) for p in treated], bool)
    _, margin, smooth = as_labelled(treated)
    return np.where(turned, -margin, margin), np.where(turned, 1.0 - smooth, smooth)


def coordinates(features: Features, basis: Basis) -> Float[np.ndarray, "n d"]:
    """Chosen minus rejected, as heads see it."""
    return basis(features.chosen) - basis(features.rejected)


def without(part: np.ndarray, parts: int) -> Float[np.ndarray, "m p n"]:
    """1 for the pairs that the head of each part trains on: all but its own."""
    return (part[:, None] != np.arange(parts)[:, None]).astype(np.float64)


def seen_by(scores: Float[np.ndarray, "h n"], part: np.ndarray) -> Float[np.ndarray, "m n"]:
    """Of each member's heads, [m * p, n], the score by the one whose part a pair is."""
    scores = scores.reshape(len(part), -1, part.shape[1])
    return np.take_along_axis(scores, part[:, None], 1)[:, 0]


def resampled(weight: Float[np.ndarray, "h n"], rng: np.random.Generator) -> Float[np.ndarray, "h n"]:
    """Each row's pairs drawn with replacement, as many as it has: how often each was drawn."""
    return np.stack([rng.multinomial(int(row.sum()), row / row.sum()) for row in weight]).astype(np.float64)
