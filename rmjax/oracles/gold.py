"""The oracle of a world: it knows the true reward, and may be made to err."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rmjax.errors import UserError
from rmjax.oracles.blind import uniform
from rmjax.records import Choice, Messages, Pair, Vote

Reward = Callable[[Messages, str], float]


class GoldOracle:
    """Names the answer of higher true reward; equal rewards are a tie.

    With `noise` it names the other one with that probability, drawn by (seed, pair id): the same pair always gets the
    same label, whichever of its answers is called first. Ties are never wrong.
    """

    def __init__(self, reward: Reward, *, noise: float = 0.0, seed: int = 0, name: str = "gold"):
        """
        Args:
          reward: (prompt, answer) -> true reward.
          noise: share of labels that are wrong, 0 to 1/2.

        Raises:
          UserError: noise out of range.
        """
        if not 0 <= noise <= 0.5:
            raise UserError(f"noise={noise}: give a share of wrong labels from 0 to 0.5")
        self.reward, self.noise, self.seed, self.name = reward, noise, seed, name

    def label(self, pairs: Sequence[Pair]) -> list[Vote]:
        """One vote a pair. Raises what the world's reward raises for a text that it does not know."""
        return [Vote(item=pair.id, choice=self._choice(pair), by=self.name) for pair in pairs]

    def _choice(self, pair: Pair) -> Choice:
        first, second = (self.reward(pair.prompt, answer) for answer in (pair.first, pair.second))
        if first == second:
            return "tie"
        wrong = uniform(self.seed, pair.id, "noise") < self.noise
        return "first" if (first > second) != wrong else "second"
