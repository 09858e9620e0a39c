"""Pairs whose judge prompt and judgment do not fit the model's positions: refused or dropped, never cut silently."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from rich.console import Console

from rmjax.errors import UserError
from rmjax.judging.judge import Judge
from rmjax.records import Preference

console = Console()
Policy = Literal["error", "drop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
    """What becomes of over-long pairs."""

    max_length: int = 0  # tokens of prompt and judgment together; 0: the model's own positions
    train: Policy = "drop"  # pairs to train on
    evaluation: Policy = "error"  # pairs to evaluate on: dropping some changes the question

    def fitting(self, judge: Judge, items: Sequence[Preference], *, policy: Policy, what: str) -> list[Preference]:
        """The items that fit.

        Raises:
          UserError: one does not and the policy is `error`, or none does.
        """
        most = self.max_length or judge.model.config.max_positions
        room = most - judge.sampling.max_new_tokens
        needs = {p.id: max(len(judge.prompt_ids(p, slot)) for slot in ("A", "B")) for p in items}
        kept = [p for p in items if needs[p.id] <= room]
        if len(kept) == len(items):
            return kept
        first = next(p for p in items if needs[p.id] > room)
        mend = "raise --lengths.max-length, lower sampling.max-new-tokens or shorten the prompt's template"
        if policy == "error" or not kept:
            raise UserError(
                f"{what}: {len(items) - len(kept)} of {len(items)} pairs are too long; pair {first.id!r} needs "
                f"{needs[first.id]} tokens of prompt and {judge.sampling.max_new_tokens} of judgment, "
                f"the limit is {most}: {mend}"
            )
        console.print(f"{what}: {len(items) - len(kept):,} of {len(items):,} pairs dropped, longer than {most} tokens")
        return kept
