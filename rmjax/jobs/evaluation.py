"""How a job judges held-out pairs and turns judgments into item scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.judging.judge import Judge
from rmjax.judging.votes import ItemVerdict, verdicts
from rmjax.records import Judgment, Preference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How held-out pairs are judged."""

    votes: int = 1  # judgments per pair and order; more than 1 needs a temperature
    temperature: float = 0.0  # 0: greedy
    orders: Literal["both", "item"] = "both"  # both slot orders of every pair, or one drawn per pair
    constrained: bool = True  # where no verdict can be read, choose one among the labels after the reasoning

    def __post_init__(self) -> None:
        require("evaluation.", self, "votes", least=1)
        require("evaluation.", self, "temperature", least=0)
        if self.votes > 1 and self.temperature == 0:
            raise UserError(
                f"evaluation.votes={self.votes} at evaluation.temperature=0 are alike: set a temperature or votes=1"
            )


def judge_items(
    judge: Judge, items: Sequence[Preference], how: Evaluation, *, path: Path | None = None
) -> tuple[list[Judgment], list[ItemVerdict]]:
    """Judgments of every item and what they add up to."""
    sampling = dataclasses.replace(judge.sampling, temperature=how.temperature)
    judge = dataclasses.replace(judge, sampling=sampling, constrained=how.constrained)
    judgments = judge.judgments(items, samples=how.votes, orders=how.orders, path=path)
    return judgments, verdicts(judgments, items)
