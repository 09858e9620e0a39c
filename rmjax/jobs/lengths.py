"""What does not fit the model's positions: refused or dropped before any work is done, never cut silently."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, TypeVar

from rich.console import Console

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.judging.asks import SLOTS
from rmjax.judging.judge import Judge
from rmjax.records import Demonstration, Preference

console = Console()
Policy = Literal["error", "drop"]
Record = TypeVar("Record", Preference, Demonstration)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
    """What becomes of over-long pairs and demonstrations."""

    max_length: int = 0  # tokens of prompt and judgment together; 0: the model's own positions
    train: Policy = "drop"  # pairs and demonstrations to train on
    evaluation: Policy = "error"  # pairs to evaluate on: dropping some changes the question

    def __post_init__(self) -> None:
        require("lengths.", self, "max_length", least=0)

    def fitting(
        self, judge: Judge, items: Sequence[Preference], *, policy: Policy, what: str, hints: bool = False
    ) -> list[Preference]:
        """The items whose judge prompt, in either slot order, fits beside the longest judgment.

        Args:
          hints: whether some may be asked again with a hint in the prompt, which makes it longer.

        Raises:
          UserError: one does not and the policy is `error`, or none does; `hints`, and the judge prompt has no hint.
        """
        ways = list(itertools.product(SLOTS, (None, *SLOTS) if hints else (None,)))
        needs = [(max(len(judge.prompt_ids(p, *way)) for way in ways), judge.longest) for p in items]
        named = "prompt with its hint" if hints else "prompt"
        mend = "raise --lengths.max-length, lower sampling.max-new-tokens or shorten the prompt's template"
        return kept(items, needs, self._most(judge), policy=policy, what=what, parts=(named, "judgment"), mend=mend)

    def demonstrations(self, judge: Judge, found: Sequence[Demonstration], *, row: int) -> list[Demonstration]:
        """The demonstrations that fit, prompt and completion together, by the policy of what is trained on.

        Args:
          row: tokens of a row in training; 0: as many as the longest needs.

        Raises:
          UserError: as in `fitting`.
        """
        chat, most = judge.chat, min(self._most(judge), row or self._most(judge))
        needs = [(len(chat.prompt_ids(d.prompt)), len(chat.completion_ids(d.completion))) for d in found]
        mend = "raise --lengths.max-length (and --sft.length, where it is set) or shorten it"
        parts = ("prompt", "completion")
        return kept(found, needs, most, policy=self.train, what="demonstrations", parts=parts, mend=mend)

    def _most(self, judge: Judge) -> int:
        return self.max_length or judge.model.config.max_positions


def kept(
    records: Sequence[Record],
    needs: Sequence[tuple[int, int]],
    most: int,
    *,
    policy: Policy,
    what: str,
    parts: tuple[str, str],
    mend: str,
) -> list[Record]:
    """The records that need at most `most` tokens; the others are counted or refused.

    Args:
      needs: tokens of a record's two parts, which `parts` names.
      what: the records, in a word or two.
      mend: what a user can do about it.
    """
    fits = [sum(need) <= most for need in needs]
    if all(fits):
        return list(records)
    over, first = fits.count(False), fits.index(False)
    if policy == "error" or not any(fits):
        (a, b), (one, other) = needs[first], parts
        raise UserError(
            f"{what}: {over} of {len(records)} are too long; {records[first].id!r} needs {a} tokens of {one} and {b} "
            f"of {other}, the limit is {most}: {mend}"
        )
    console.print(f"{what}: {over:,} of {len(records):,} dropped, longer than {most} tokens")
    return [record for record, fit in zip(records, fits, strict=True) if fit]
