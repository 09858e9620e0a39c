"""Which pairs to label next: one interface for every way to choose.

A strategy sees a `Pool` of pairs, among them those that are labelled, and never a label. The two answers of a pair must
stand in an order that says nothing of which is better. Where pairs are worth the same, the earlier one is taken.

    Random, OnPolicyMix          need nothing, and which pairs are new (below)
    Margin, Entropy              what the model that is trained so far, or an ensemble of it, makes of the pairs
    Variance, Bald               (`refine.uncertainty`)
    KCenter                      pairs that are far from all labelled ones (`refine.k_center`)
    InformationGain              pairs that a linear head's estimate is least sure of (`refine.information`)

Dimensions: n pairs of the pool, f features of an answer, p of a prompt, m members of an ensemble, l labelled pairs.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from rmjax.bounds import require
from rmjax.errors import UserError

CHUNK = 1 << 16  # rows that are looked at for NaN at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """Pairs to choose from, labelled ones among them, and what is known of them without a label.

    Raises:
        UserError: no field is given, or a value is NaN or infinite.
        ValueError: fields of different lengths or wrong shapes.
    """

    first: Float[np.ndarray, "n f"] | None = None  # features of the prompt with the first answer
    second: Float[np.ndarray, "n f"] | None = None
    prompt: Float[np.ndarray, "n p"] | None = None  # features of the prompt (instruction) alone
    differences: Float[np.ndarray, " n"] | None = None  # the current model's score of the first minus of the second
    members: Float[np.ndarray, "m n"] | None = None  # the same of every member of an ensemble
    on_policy: Bool[np.ndarray, " n"] | None = None  # whether the current policy wrote the answers

    def __post_init__(self) -> None:
        shapes = {"first": 2, "second": 2, "prompt": 2, "differences": 1, "members": 2, "on_policy": 1}
        there = {name: value for name in shapes if (value := getattr(self, name)) is not None}
        if not there:
            raise UserError("pool: nothing is known of its pairs; give features, scores or which are on-policy")
        lengths = {name: value.shape[1 if name == "members" else 0] for name, value in there.items()}
        wrong = [name for name, value in there.items() if value.ndim != shapes[name]]
        if wrong or len(set(lengths.values())) > 1 or ("first" in there) != ("second" in there):
            raise ValueError(f"pool: shapes { ({name: value.shape for name, value in there.items()}) }")
        if self.first is not None and self.first.shape != self.second.shape:
            raise ValueError(f"pool: first {self.first.shape}, second {self.second.shape}")
        for name, value in there.items():
            for start in range(0, len(value), CHUNK):
                if not np.isfinite(value[start : start + CHUNK]).all():
                    raise UserError(f"pool: {name} has NaN or infinite values; check the model that made them")

    def __len__(self) -> int:
        value = next(v for f in dataclasses.fields(self) if (v := getattr(self, f.name)) is not None)
        return value.shape[-1] if value is self.members else len(value)

    def needs(self, *names: str, by: str) -> None:
        """Raises UserError for a field that a strategy reads and that is not given."""
        for name in names:
            if getattr(self, name) is None:
                raise UserError(f"selection {by}: the pool has no {name}; give it, or choose another selection")


class Strategy(Protocol):
    """Chooses pairs to label."""

    def choose(
        self, pool: Pool, count: int, *, labelled: Int[np.ndarray, " l"], seed: int
    ) -> Int[np.ndarray, " count"]:
        """Places in the pool of `count` pairs that are not labelled, the most wanted first, int64.

        Args:
            labelled: places of the pairs that have a label.
            seed: of what is drawn at random; strategies that draw nothing ignore it.

        Raises:
            UserError: fewer than `count` pairs have no label, `count` below 1, a place that is none, or the pool lacks
                what the strategy reads.
        """


def free(pool: Pool, count: int, labelled: Int[np.ndarray, " l"]) -> Bool[np.ndarray, " n"]:
    """Which pairs have no label. Raises UserError as `Strategy.choose` says."""
    labelled = np.asarray(labelled, np.int64)
    if labelled.size and not 0 <= labelled.min() <= labelled.max() < len(pool):
        raise UserError(f"selection: labelled pairs {labelled.min()} to {labelled.max()} of a pool of {len(pool)}")
    out = np.ones(len(pool), bool)
    out[labelled] = False
    left = int(out.sum())
    if not 1 <= count <= left:
        raise UserError(f"selection: count={count}: {left} of {len(pool)} pairs have no label; give 1 to that")
    return out


def largest(worth: Float[np.ndarray, " n"], count: int, there: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " count"]:
    """The `count` pairs of largest worth among those that are there; of equal ones the earlier."""
    return np.argsort(np.where(there, -np.asarray(worth, np.float64), np.inf), kind="stable")[:count]


@dataclasses.dataclass(frozen=True)
class Random:
    """Each pair as likely as any other: what every other strategy is compared with."""

    def choose(self, pool, count, *, labelled, seed):
        there = np.flatnonzero(free(pool, count, labelled))
        return np.random.default_rng(seed).permutation(there)[:count]


@dataclasses.dataclass(frozen=True)
class OnPolicyMix:
    """A share at random from pairs that the current policy wrote, the rest at random from the others.

    arXiv:2407.02119 labels responses of the policy that is trained ("on-policy"); the mix with older ones is ours.
    """

    share: float = 0.5  # of the count, rounded to the nearest, that is on-policy

    def __post_init__(self) -> None:
        require("on-policy mix: ", self, "share", least=0, most=1)

    def choose(self, pool, count, *, labelled, seed):
        pool.needs("on_policy", by="on-policy mix")
        there = free(pool, count, labelled)
        rng, out = np.random.default_rng(seed), []
        new = int(np.floor(self.share * count + 0.5))
        for wanted, among, what in ((new, pool.on_policy, "on-policy"), (count - new, ~pool.on_policy, "other")):
            place = np.flatnonzero(there & among)
            if wanted > len(place):
                raise UserError(
                    f"selection on-policy mix: {wanted} of count={count} are to be {what} pairs, and {len(place)} have "
                    "no label; change the share or the count"
                )
            out.append(rng.permutation(place)[:wanted])
        return np.concatenate(out)
