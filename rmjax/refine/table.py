"""What a refinement made: counts per level, pairs, items without one, perplexities."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import rich.table
from scipy import stats

from rmjax.judging.asks import Order
from rmjax.refine.levels import Graded
from rmjax.refine.pairs import Pair

LEVELS = {
    "SA": "strong accept",
    "WA": "weak accept",
    "SR": "strong reject",
    "WR": "weak reject",
    "unparsed": "unparsed",
}
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Counts and figures of one refinement; `dataclasses.asdict` of it is ready for JSON."""

    items: int
    judgments: int
    levels: dict[str, int]  # judgments per level
    pairs: int
    groups: int  # prompts with a pair
    usable: int  # items with a pair
    without: dict[str, int]  # items without a pair, by reason
    retried: int  # judgments from retries
    hinted: int  # judgments from hints that reached the verdict named
    perplexity: dict[str, float]  # quantiles over judgments that have one; empty without any
    auc: float | None  # P(a right judgment has lower perplexity than a wrong one); None without both
    auc_within: float | None  # the same within prompts: share of their pairs, ties one half
    weight_spread: float | None  # standard deviation over mean of the pairs' weights: 0 means weights do nothing

    def rich(self) -> rich.table.Table:
        """The figures for a terminal."""
        table = rich.table.Table("refinement", "", title_justify="left")
        table.columns[1].justify = "right"
        table.add_row("judgments", f"{self.judgments:,} of {self.items:,} items")
        for level, name in LEVELS.items():
            table.add_row(f"  {name} ({level})" if name != level else f"  {name}", f"{self.levels[level]:,}")
        for name, number in (("from retries", self.retried), ("from hints", self.hinted)):
            if number:
                table.add_row(f"  {name}", f"{number:,}")
        table.add_section()
        table.add_row("pairs", f"{self.pairs:,} in {self.groups:,} prompts")
        table.add_row("items with a pair", f"{self.usable:,}")
        for reason, number in self.without.items():
            table.add_row(f"  without: {reason}", f"{number:,}")
        if self.weight_spread is not None:
            table.add_row("spread of weights (sd / mean)", f"{self.weight_spread:.3f}")
        table.add_section()
        if self.perplexity:
            names, values = zip(*self.perplexity.items(), strict=True)
            table.add_row("perplexity, quantiles " + " / ".join(names), " / ".join(f"{v:.2f}" for v in values))
        if self.auc is not None:
            table.add_row("AUC of low perplexity for right", f"{self.auc:.3f}")
        if self.auc_within is not None:
            table.add_row("  within prompts", f"{self.auc_within:.3f}")
        return table


def table(graded: Sequence[Graded], prompts: dict[Order, list[Graded]], pairs: Sequence[Pair], retried: int) -> Table:
    """Counts a refinement.

    Args:
        graded: all judgments, graded.
        prompts: the same by rendered prompt.
        pairs: the pairs that were made.
        retried: how many of the judgments come from retries.
    """
    levels = Counter(g.level for g in graded)
    known = [g.perplexity for g in graded if g.perplexity is not None]
    usable = {p.accepted.judgment.item for p in pairs}
    items: dict[str, list[Graded]] = {}
    for g in graded:
        items.setdefault(g.judgment.item, []).append(g)
    weights = np.array([p.weight for p in pairs], np.float64)
    return Table(
        items=len(items),
        judgments=len(graded),
        levels={level: levels[level] for level in LEVELS},
        pairs=len(pairs),
        groups=len({(p.accepted.judgment.item, p.accepted.judgment.slot) for p in pairs}),
        usable=len(usable),
        without=dict(Counter(reason(found) for item, found in items.items() if item not in usable)),
        retried=retried,
        hinted=sum(g.judgment.hint is not None for g in graded),
        perplexity={f"{100 * q:g} %": float(v) for q, v in zip(QUANTILES, np.quantile(known, QUANTILES), strict=True)}
        if known
        else {},
        auc=auc(graded),
        auc_within=auc_within(prompts.values()),
        weight_spread=float(weights.std() / weights.mean()) if len(weights) else None,
    )


def reason(graded: Sequence[Graded]) -> str:
    """Why an item has no pair."""
    parsed = {g.judgment.correct for g in graded if g.level != "unparsed"}
    if len(parsed) == 2:
        return "right and wrong in different slot orders only"
    return {frozenset(): "nothing parsed", frozenset({True}): "all right", frozenset({False}): "all wrong"}[
        frozenset(parsed)
    ]


def split(graded: Sequence[Graded]) -> tuple[list[float], list[float]]:
    """Perplexities of right and of wrong judgments."""
    right = [g.perplexity for g in graded if g.perplexity is not None and g.judgment.correct]
    wrong = [g.perplexity for g in graded if g.perplexity is not None and not g.judgment.correct]
    return right, wrong


def auc(graded: Sequence[Graded]) -> float | None:
    """P(PPL of a right judgment < PPL of a wrong one) + 1/2 P(equal), by ranks (Mann-Whitney); None without both."""
    right, wrong = split(graded)
    if not right or not wrong:
        return None
    ranks = stats.rankdata(right + wrong)[: len(right)]
    above = ranks.sum() - len(right) * (len(right) + 1) / 2  # pairs in which the right one is higher
    return float(1.0 - above / (len(right) * len(wrong)))


def auc_within(prompts: Sequence[Sequence[Graded]]) -> float | None:
    """The same over pairs of one prompt only, all prompts' pairs together; None without a pair."""
    found = [(auc(graded), len(right) * len(wrong)) for graded in prompts for right, wrong in [split(graded)]]
    found = [(a, n) for a, n in found if a is not None]
    return sum(a * n for a, n in found) / sum(n for _, n in found) if found else None
