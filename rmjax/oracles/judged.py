"""Another model as the oracle: a generative judge, asked in both orders, several times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rmjax.judging.asks import Orders
from rmjax.judging.judge import Judge
from rmjax.judging.votes import ItemVerdict, verdicts
from rmjax.records import Choice, Pair, Preference, Vote

console = Console()


class JudgeOracle:
    """Votes as a judge does.

    The choice is the majority of its parsed verdicts over all samples and both orders (even: a tie; nothing parsed:
    unknown); `prob_first` is the mean over the orders of its mean probability. What a judge with a position bias says
    of one order is undone by the other. A pair that is too long for the judge is not asked: unknown.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        samples: int = 1,
        orders: Orders = "both",
        path: Path | None = None,
        name: str = "judge",
    ):
        """
        Args:
          judge: temperature 0 takes samples=1.
          samples: judgments per pair, and with orders="both" per order.
          orders: which slot holds the first answer; see `Judge.judgments`.
          path: JSONL file of all judgments; those that it holds are not sampled again.
        """
        self.judge, self.samples, self.orders, self.path, self.name = judge, samples, orders, path, name

    def label(self, pairs: Sequence[Pair]) -> list[Vote]:
        """One vote a pair; `seconds` is an even share of the call's. Raises UserError, as `Judge.judgments` does."""
        if not pairs:
            return []
        start = time.perf_counter()
        # The judge's records call one answer chosen; that is the first here, and no more is meant by it.
        items = [Preference(prompt=p.prompt, chosen=p.first, rejected=p.second, id=p.id) for p in pairs]
        read = [item for item in items if self.judge.fits(item)]
        if len(read) < len(items):
            console.print(f"{self.name}: {len(items) - len(read):,} of {len(items):,} pairs are too long to be judged")
        judgments = self.judge.judgments(read, samples=self.samples, orders=self.orders, path=self.path) if read else []
        found = {v.item: v for v in verdicts(judgments, read)}
        seconds = (time.perf_counter() - start) / len(pairs)
        return [self._vote(item.id, found.get(item.id), seconds) for item in items]

    def _vote(self, id: str, verdict: ItemVerdict | None, seconds: float) -> Vote:
        if verdict is None:
            return Vote(item=id, choice="unknown", by=self.name, seconds=seconds)
        return Vote(item=id, choice=choice_of(verdict), by=self.name, prob_first=verdict.prob_chosen, seconds=seconds)


def choice_of(verdict: ItemVerdict) -> Choice:
    """The majority of a judge's votes on a pair whose first answer was called chosen."""
    if verdict.outcome is None:
        return "unknown"
    return "tie" if verdict.outcome == 0.5 else "first" if verdict.outcome > 0.5 else "second"
