"""The labels of a file, hidden until they are bought: what a study of selection pays with."""

from __future__ import annotations

from collections.abc import Sequence

from rmjax.errors import UserError
from rmjax.oracles.blind import swapped
from rmjax.records import Choice, Pair, Preference, Vote


def hide(preferences: Sequence[Preference], *, seed: int) -> list[Pair]:
    """The pairs without their labels, each in an order drawn by (seed, id), in the order of the preferences.

    Ids and sources stay. `meta` and `subset` do not: they may tell the label (a gold reward, a score).
    """
    pairs = []
    for p in preferences:
        first, second = (p.rejected, p.chosen) if swapped(seed, p.id, "hide") else (p.chosen, p.rejected)
        pairs.append(Pair(prompt=p.prompt, first=first, second=second, id=p.id, source=p.source))
    return pairs


class ColumnOracle:
    """Sells the labels of preferences.

    A tie is a tie. A probability or votes name the likelier answer, which need not be the one called chosen, and give
    the vote its `prob_first`; at 1/2 they are a tie. Nothing is drawn: the same pair has the same label every time.

    Attributes:
      bought: ids of the pairs that were sold, each once.
    """

    def __init__(self, preferences: Sequence[Preference], *, name: str = "labels"):
        """Raises UserError where an id repeats."""
        self.name = name
        self.bought: set[str] = set()
        self._labels: dict[str, Preference] = {}
        for p in preferences:
            if p.id in self._labels:
                raise UserError(f"{name}: id {p.id!r} repeats: give every pair its own id")
            self._labels[p.id] = p

    def label(self, pairs: Sequence[Pair]) -> list[Vote]:
        """One vote a pair. Raises UserError for an id that is not in the file, or whose texts are others there."""
        votes = [self._vote(pair) for pair in pairs]
        self.bought.update(pair.id for pair in pairs)  # only now: a call that was refused sells nothing
        return votes

    def _vote(self, pair: Pair) -> Vote:
        p = self._labels.get(pair.id)
        if p is None:
            raise UserError(f"{self.name}: no label for pair {pair.id!r}; ask for pairs of the same file")
        straight = (pair.first, pair.second) == (p.chosen, p.rejected)
        if pair.prompt != p.prompt or not (straight or (pair.first, pair.second) == (p.rejected, p.chosen)):
            raise UserError(
                f"{self.name}: pair {pair.id!r} has other texts in the file; ask for pairs of the same file"
            )
        prob = 1.0 - p.smooth if straight else p.smooth
        choice: Choice = "tie" if prob == 0.5 else "first" if prob > 0.5 else "second"
        soft = p.prob_chosen is not None or bool(p.votes)
        return Vote(item=pair.id, choice=choice, by=self.name, prob_first=prob if soft and not p.tie else None)
