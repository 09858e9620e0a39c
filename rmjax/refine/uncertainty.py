"""Pairs that the model is unsure of: margin, entropy, variance, mutual information.

With p = sigmoid(score of the first answer - score of the second), of one model or of each member of an ensemble:

    Margin     smallest |difference| of the model
    Entropy    largest H(mean p), the mean over members
    Variance   largest variance of the members' differences
    Bald       largest H(mean p) - mean H(p), the mutual information of the label and the member (Houlsby et al. 2011,
               arXiv:1112.5745)

For one model H(p) falls as |difference| grows, so it ranks the pairs exactly as the margin does, and calibrating p by a
temperature changes nothing; that is why `Entropy` takes an ensemble's mean, which is another order. Entropy is large
where members agree on 1/2 (the label is noise) and where they disagree (more labels would tell); Bald and Variance keep
the second only.

Dimensions: n pairs, m members.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.special import entr, expit

from rmjax.errors import UserError
from rmjax.refine.select import Pool, free, largest


@dataclasses.dataclass(frozen=True)
class Margin:
    """The pairs whose two answers the model scores most alike."""

    def choose(self, pool, count, *, labelled, seed):
        there = free(pool, count, labelled)
        pool.needs("differences", by="margin")
        return largest(-np.abs(pool.differences), count, there)


@dataclasses.dataclass(frozen=True)
class Entropy:
    """The pairs whose mean probability over the ensemble is nearest to 1/2."""

    def choose(self, pool, count, *, labelled, seed):
        there = free(pool, count, labelled)
        return largest(entropy(expit(members(pool, "entropy")).mean(0)), count, there)


@dataclasses.dataclass(frozen=True)
class Variance:
    """The pairs on which the members' differences vary most."""

    def choose(self, pool, count, *, labelled, seed):
        there = free(pool, count, labelled)
        return largest(members(pool, "variance").var(0), count, there)


@dataclasses.dataclass(frozen=True)
class Bald:
    """The pairs whose label would tell most about which member is right."""

    def choose(self, pool, count, *, labelled, seed):
        there = free(pool, count, labelled)
        p = expit(members(pool, "bald"))
        return largest(entropy(p.mean(0)) - entropy(p).mean(0), count, there)


ENSEMBLE = (Entropy, Variance, Bald)  # what reads `Pool.members`


def entropy(p: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Of a Bernoulli variable, in nats; 0 at 0 and 1."""
    return entr(p) + entr(1.0 - p)


def members(pool: Pool, by: str) -> Float[np.ndarray, "m n"]:
    """The ensemble's differences in float64. Raises UserError for none, and for one member, which cannot disagree."""
    pool.needs("members", by=by)
    if len(pool.members) < 2:
        raise UserError(f"selection {by}: an ensemble of {len(pool.members)}; give at least 2 members")
    return pool.members.astype(np.float64)
