"""A purse around an oracle: it counts what is bought, refuses to spend more, and pays for no pair twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmjax.errors import UserError
from rmjax.oracles.journal import Journal, content_of, entry_of
from rmjax.oracles.oracle import Oracle
from rmjax.records import Pair, Vote


class Budget:
    """An oracle that is another one, up to so many pairs.

    A pair that was bought before is free, in this run or in an earlier one that wrote to the same file. A vote of
    "unknown" costs as much as any other: the question was asked.

    Attributes:
      spent: pairs bought, those of earlier runs included.
    """

    def __init__(self, oracle: Oracle, budget: int, *, path: Path | None = None, part: int = 1):
        """
        Args:
          oracle: who labels.
          budget: pairs that may be bought in all.
          path: votes.jsonl; a run that was killed goes on with what it holds. None: nothing is kept.
          part: pairs asked of the oracle at once. What it answered is written before the next part is asked, so a kill
            costs at most one part. 1 loses nothing that was paid for; a judge that keeps its own file may take more.

        Raises:
          UserError: impossible numbers, or a file with another oracle's votes, in use, or with more than the budget.
        """
        if budget < 0 or part < 1:
            raise UserError(f"budget={budget}, part={part}: give a budget of at least 0 and a part of at least 1")
        self.oracle, self.budget, self.part = oracle, budget, part
        self.name = oracle.name
        self._journal = Journal(path, by=oracle.name) if path else None
        self._votes: dict[str, Vote] = dict(self._journal.standing) if self._journal else {}
        self._content = {e.item: e.content for e in self._journal.standing.values()} if self._journal else {}
        if self.spent > budget:
            self.close()
            raise UserError(f"{path}: holds {self.spent:,} bought votes, above budget={budget:,}: raise the budget")

    @property
    def spent(self) -> int:
        return len(self._votes)

    @property
    def left(self) -> int:
        """Pairs that may still be bought."""
        return self.budget - self.spent

    def label(self, pairs: Sequence[Pair]) -> list[Vote]:
        """One vote a pair, bought where it was not yet.

        Raises:
          UserError: more than is left (nothing is bought then), one id for two pairs, and the oracle's own.
        """
        new: dict[str, Pair] = {}
        for pair in pairs:
            known = content_of(new[pair.id]) if pair.id in new else self._content.get(pair.id)
            if known is None:
                new[pair.id] = pair
            elif known != content_of(pair):
                raise UserError(f"pair {pair.id!r}: bought before with other texts; give every pair its own id")
        if len(new) > self.left:
            raise UserError(
                f"budget of {self.budget:,} labels: {self.spent:,} are bought and {len(new):,} more are asked for; "
                f"ask for {self.left:,} at most, or raise the budget"
            )
        wanted = list(new.values())
        for start in range(0, len(wanted), self.part):
            some = wanted[start : start + self.part]
            for pair, vote in zip(some, self.oracle.label(some), strict=True):
                if self._journal:
                    self._journal.add(entry_of(vote, pair))
                self._votes[pair.id], self._content[pair.id] = vote, content_of(pair)
        return [self._votes[pair.id] for pair in pairs]

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._journal:
            self._journal.close()
