"""How a job judges held-out pairs and turns judgments into item scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rmjax.evaluation.pairwise import ItemScore
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


def judge_items(
    judge: Judge, items: Sequence[Preference], how: Evaluation, *, path: Path | None = None
) -> tuple[list[Judgment], list[ItemVerdict]]:
    """Judgments of every item and what they add up to."""
    sampling = dataclasses.replace(judge.sampling, temperature=how.temperature)
    judge = dataclasses.replace(judge, sampling=sampling, constrained=how.constrained)
    judgments = judge.judgments(items, samples=how.votes, orders=how.orders, path=path)
    return judgments, verdicts(judgments, items)


def item_scores(items: Sequence[Preference], found: Sequence[ItemVerdict]) -> list[ItemScore]:
    """One score an item: right, wrong, tie, or unparsed."""
    by_id = {p.id: p for p in items}
    return [
        ItemScore(
            id=v.item,
            outcome=0.5 if v.outcome is None else v.outcome,
            unparsed=v.outcome is None,
            prob_chosen=v.prob_chosen,
            subset=by_id[v.item].subset,
            source=by_id[v.item].source,
        )
        for v in found
    ]
