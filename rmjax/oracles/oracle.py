"""Who labels pairs: one interface for a known truth, a file's hidden labels, a judge and a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rmjax.records import Pair, Vote


class Oracle(Protocol):
    """Labels pairs, for a price."""

    name: str

    def label(self, pairs: Sequence[Pair]) -> list[Vote]:
        """One vote a pair, in the order of `pairs`.

        Raises:
          UserError: a pair that this oracle knows nothing of.
        """
