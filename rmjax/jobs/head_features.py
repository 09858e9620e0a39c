"""Labelled pairs with the features that a head is fitted to, each file of the feature cache named and read once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rmjax.data.features import Features
from rmjax.jobs.reward import RewardModel
from rmjax.models.pooling import Pool
from rmjax.records import Preference
from rmjax.training.features import cached


@dataclasses.dataclass(frozen=True)
class FeaturedPairs:
    """Pairs and what a trunk says of them, from the cache or computed. To name a cache's file takes a whole model's
    hash."""

    items: Sequence[Preference]
    start: RewardModel  # the trunk, with the pooling of `features`
    folder: str  # of the cache

    @functools.cached_property
    def features(self) -> Features:
        """With the trunk's pooling."""
        return self._read(self.start.model.pool)

    def kind(self, kind: str) -> Float[np.ndarray, "n 2 f"]:
        """Features of one kind: a part of those that are known, where it is among them."""
        model = self.start.model
        if kind not in model.pool:
            return both(self._read((kind,)))
        width, place = model.config.embed, model.pool.index(kind)
        return both(self.features)[..., place * width : (place + 1) * width]

    def _read(self, pool: Pool) -> Features:
        start = self.start
        return cached(self.folder, start.model.with_head(None, pool), start.params, start.chat, self.items)


def both(features: Features) -> Float[np.ndarray, "n 2 f"]:
    """Chosen and rejected answers' features."""
    return np.stack([features.chosen, features.rejected], axis=1)
