"""The reward world: pairs of responses as feature vectors, with a known gold reward, a noisy annotator and a shift.

It stands in for a frozen backbone, so heads and what surrounds them (strength, treatments, meta-learning, prototypes)
are measured against a truth, in seconds.

    prompt      u [r] ~ N(0, 1)                     how much it cares for each of the r relevant aspects
    response    z [a] ~ N(mean of the round, S)     S: 1, and `correlation` between relevant aspect i and spurious r + i
    features    x [f] = (z, u) M + feature_noise    M: fixed, random; what a head sees
    gold        sum_i w_i (1 + interaction u_i) z_i - curve / 2 sum_i z_i^2      over the relevant aspects

Rounds: the mean of z in round t is  drift t  S w / sqrt(w' S w).  That is where the optimum of "linear reward minus KL
from the training distribution" lies: a policy that climbs the linear part of the reward moves there, spurious aspects
with it, at `drift` standard deviations of that reward a round. Gold's curvature makes the climbed aspects worth less
and less, so a head that is right in round 0 is wrong about ever more pairs.

Draws depend on (seed of the world, split, round, draw) alone, and a shorter draw is the beginning of a longer one.

Dimensions: n pairs, m prompts, k responses, a aspects, r relevant ones, f features.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib

import numpy as np
from jaxtyping import Bool, Float

from rmjax.bounds import LAST_SEED, require
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.records import Message, Preference

SPLITS = ("train", "dev", "test")


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labelled pairs of the world."""

    ids: tuple[str, ...]
    chosen: Float[np.ndarray, "n f"]  # float32 features of the response that the label prefers
    rejected: Float[np.ndarray, "n f"]
    gold: Float[np.ndarray, "n 2"]  # true rewards of chosen and rejected
    flipped: Bool[np.ndarray, " n"]  # the label is not gold's

    def features(self) -> Features:
        """The pairs as features."""
        return Features(self.ids, self.chosen, self.rejected)

    def records(self) -> list[Preference]:
        """The pairs as records, with stand-ins for texts; `meta`: gold_chosen, gold_rejected."""
        return [
            Preference(
                prompt=(Message("user", f"prompt {id}"),),
                chosen=f"response {'b' if wrong else 'a'} to {id}",
                rejected=f"response {'a' if wrong else 'b'} to {id}",
                id=id,
                source="reward world",
                meta={"gold_chosen": float(gold[0]), "gold_rejected": float(gold[1])},
            )
            for id, gold, wrong in zip(self.ids, self.gold, self.flipped, strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardWorld:
    """A distribution of prompts, responses and labels in feature space."""

    seed: int = 0  # of the aspects' weights and the mixing; draws have their own
    relevant: int = 4  # aspects that gold counts
    spurious: int = 4  # aspects that it does not, each correlated with a relevant one; at most `relevant`
    features: int = 64  # width of what a head sees
    feature_noise: float = 0.3  # standard deviation of the noise on every feature
    correlation: float = 0.5  # of a spurious aspect with its relevant one
    interaction: float = 0.3  # how much a prompt changes the aspects' weights
    curve: float = 0.2  # how fast an aspect's worth saturates
    noise: float = 0.0  # annotator: probability that a train label is flipped
    drift: float = 1.0  # standard deviations of reward that the policy gains a round

    def __post_init__(self) -> None:
        require("world.", self, "seed", least=0, most=LAST_SEED)
        require("world.", self, "relevant", least=1)
        require("world.", self, "spurious", least=0, most=self.relevant)
        require("world.", self, "features", least=2 * self.relevant + self.spurious)
        require("world.", self, "feature_noise", "interaction", "curve", "drift", least=0)
        require("world.", self, "correlation", above=-1, below=1)
        require("world.", self, "noise", least=0, most=0.5)

    def require_seeds(self, count: int) -> None:
        """Raises UserError where the last of `count` worlds, this one's seed and those that follow, has none."""
        if self.seed + count - 1 > LAST_SEED:
            raise UserError(
                f"world.seed={self.seed}: with seeds={count} the last world's would be above {LAST_SEED}; give a "
                "smaller one"
            )

    @functools.cached_property
    def weights(self) -> Float[np.ndarray, " r"]:
        """What gold counts each relevant aspect with: all positive, of length 1."""
        w = self._stream("weights").uniform(0.5, 1.5, self.relevant)
        return w / np.linalg.norm(w)

    @functools.cached_property
    def covariance(self) -> Float[np.ndarray, "a a"]:
        """S, of a response's aspects around their mean."""
        s = np.eye(self.relevant + self.spurious)
        for i in range(self.spurious):
            s[i, self.relevant + i] = s[self.relevant + i, i] = self.correlation
        return s

    @functools.cached_property
    def mixing(self) -> Float[np.ndarray, "d f"]:
        """M: aspects of the response, then of the prompt, to features; its rows are orthonormal times sqrt(f / d)."""
        d = 2 * self.relevant + self.spurious
        rows = np.linalg.qr(self._stream("mixing").standard_normal((self.features, d)))[0].T
        return rows * math.sqrt(self.features / d)

    def shift(self, round: int) -> Float[np.ndarray, " a"]:
        """The mean of a response's aspects in a round: 0 in round 0, the training distribution's."""
        if round < 0:
            raise UserError(f"world: round {round}: give 0 for the training distribution, or a later round")
        w = np.concatenate([self.weights, np.zeros(self.spurious)])
        up = self.covariance @ w
        return self.drift * round * up / math.sqrt(w @ up)

    def gold(self, prompt: Float[np.ndarray, "*b r"], response: Float[np.ndarray, "*b a"]) -> Float[np.ndarray, "*b"]:
        """The true reward of a response."""
        z = response[..., : self.relevant]
        return np.sum(self.weights * (1 + self.interaction * prompt) * z - self.curve / 2 * z**2, axis=-1)

    def pairs(self, n: int, *, split: str = "train", draw: int = 0, round: int = 0) -> Labelled:
        """`n` labelled pairs of a round's responses. Only train labels are noisy.

        Raises:
          UserError: no such split or round.
        """
        prompt, response = self._draw(n, 2, split, draw, round)
        gold = self.gold(prompt[:, None], response)
        x = self._features(prompt, response, split, draw, round)
        wrong = self._stream("annotator", split, draw, round).random(n) < (self.noise if split == "train" else 0.0)
        first = (gold[:, 0] > gold[:, 1]) != wrong  # which one the label prefers
        order = np.where(first[:, None], [[0, 1]], [[1, 0]])
        pick = lambda values, side: values[np.arange(n), order[:, side]]
        ids = tuple(f"{split}-{round}-{draw}-{i:05d}" for i in range(n))
        return Labelled(ids, pick(x, 0), pick(x, 1), np.take_along_axis(gold, order, 1), wrong)

    def responses(
        self, m: int, k: int, *, split: str = "train", draw: int = 0, round: int = 0
    ) -> Float[np.ndarray, "m k f"]:
        """Features of `k` unlabelled responses of the round's policy to each of `m` new prompts, float32.

        Raises:
          UserError: no such split or round.
        """
        prompt, response = self._draw(m, k, f"{split}/unlabelled", draw, round)
        return self._features(prompt, response, f"{split}/unlabelled", draw, round)

    def _draw(self, n: int, k: int, split: str, draw: int, round: int) -> tuple[np.ndarray, np.ndarray]:
        if split.removesuffix("/unlabelled") not in SPLITS:
            raise UserError(f"world: split {split!r} is not one of {', '.join(SPLITS)}")
        prompt = self._stream("prompts", split, draw, round).standard_normal((n, self.relevant))
        around = self._stream("responses", split, draw, round).standard_normal((n, k, len(self.covariance)))
        return prompt, self.shift(round) + around @ np.linalg.cholesky(self.covariance).T

    def _features(
        self, prompt: np.ndarray, response: np.ndarray, split: str, draw: int, round: int
    ) -> Float[np.ndarray, "n k f"]:
        both = np.concatenate([response, np.broadcast_to(prompt[:, None], (*response.shape[:2], self.relevant))], -1)
        noise = self._stream("features", split, draw, round).standard_normal((*response.shape[:2], self.features))
        return (both @ self.mixing + self.feature_noise * noise).astype(np.float32)

    def _stream(self, *name: object) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32("/".join(map(str, name)).encode())])
