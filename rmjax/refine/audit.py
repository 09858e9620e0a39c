"""Are labels known by construction right? Agreement with a judge by aspect and direction, and what is done about it.

A pair's outcome is the majority of all of a judge's votes, both orders: 1 where it names the label's answer, 0 where it
names the other one, 1/2 where votes are even. An item without a parsed vote is counted apart, and in no rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import rich.table
from rich.markup import escape

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.judging.votes import ItemVerdict, rate
from rmjax.records import Preference
from rmjax.refine.conditional import direction_of
from rmjax.refine.strength import means
from rmjax.statistics import Interval

NAMED = {"better": "edited for the better", "worse": "edited for the worse"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often a judge agrees with the labels of some pairs."""

    rate: Interval  # Wilson, 95 %; even votes count one half; n is the pairs with a parsed vote
    even: int  # pairs whose votes are even
    unparsed: int  # pairs without a parsed vote

    @classmethod
    def of(cls, verdicts: Sequence[ItemVerdict]) -> Agreement:
        outcomes = [v.outcome for v in verdicts]
        known = [o for o in outcomes if o is not None]
        return cls(rate=rate(known), even=known.count(0.5), unparsed=len(outcomes) - len(known))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """What a judge says of synthetic labels."""

    overall: Agreement
    directions: Mapping[str, Agreement]  # better, worse; empty for methods without directions
    aspects: Mapping[str, Agreement]  # a pair written to several aspects counts under each
    crossed: Mapping[str, Mapping[str, Agreement]]  # aspect -> direction -> agreement

    def facts(self) -> dict[str, Any]:
        """The figures for summary.json."""
        return dataclasses.asdict(self)

    def rows(self) -> list[tuple[str, Agreement]]:
        """(what, agreement), as they are shown."""
        out = [("all pairs", self.overall)]
        out += [(NAMED[d], a) for d, a in self.directions.items()]
        for aspect, found in self.aspects.items():
            out.append((aspect, found))
            out += [(f"  {NAMED[d]}", a) for d, a in self.crossed[aspect].items()]
        return out

    def rich(self) -> rich.table.Table:
        """The figures for a terminal."""
        table = rich.table.Table(box=None, padding=(0, 2, 0, 0), title="the judge agrees with", title_justify="left")
        table.add_column("labels of", no_wrap=True)
        for name in ("agreement, %", "95 % interval", "pairs", "even votes", "unparsed"):
            table.add_column(name, justify="right")
        for name, a in self.rows():
            r = a.rate
            value = (f"{100 * r.value:.1f}", f"{100 * r.low:.1f} to {100 * r.high:.1f}") if r.n else ("", "")
            table.add_row(escape(name), *value, f"{r.n:,}", f"{a.even:,}", f"{a.unparsed:,}")
        return table


def audit(pairs: Sequence[Preference], verdicts: Sequence[ItemVerdict]) -> Audit:
    """Agreement overall, by direction, by aspect, and by both.

    Args:
        pairs: synthetic pairs, with `meta["origin"]`.
        verdicts: one a pair, in the same order (`judging.votes.verdicts`).

    Raises:
        ValueError: the verdicts are not those of the pairs.
    """
    if [p.id for p in pairs] != [v.item for v in verdicts]:
        raise ValueError("verdicts are not those of the pairs, in their order")
    both = list(zip(pairs, verdicts, strict=True))
    where = lambda fits: Agreement.of([v for p, v in both if fits(p)])
    found = {d: where(lambda p, d=d: direction_of(p) == d) for d in NAMED if any(direction_of(p) == d for p in pairs)}
    names = list(dict.fromkeys(a for p in pairs for a in aspects_of(p)))
    return Audit(
        overall=Agreement.of(verdicts),
        directions=found,
        aspects={a: where(lambda p, a=a: a in aspects_of(p)) for a in names},
        crossed={
            a: {d: where(lambda p, a=a, d=d: a in aspects_of(p) and direction_of(p) == d) for d in found} for a in names
        },
    )


def aspects_of(p: Preference) -> Sequence[str]:
    """The aspects that a pair was written to; none for methods without aspects."""
    return p.meta.get("origin", {}).get("aspects", ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trust:
    """What is done with labels that are doubted."""

    by: Literal["judge", "strength"] = "judge"  # who doubts: the judge of this audit, or the ensemble of a strength job
    action: Literal["none", "drop", "weigh"] = "none"  # drop the doubtful; or multiply every weight by the belief
    least: float = 0.5  # labels believed less than this are dropped

    def __post_init__(self) -> None:
        require("trust.", self, "least", least=0, most=1)
        if self.action != "drop" and self.least != 0.5:
            raise UserError(f"trust.least={self.least} is read with trust.action=drop only: set both")
        if self.action == "none" and self.by != "judge":
            raise UserError(f"trust.by={self.by} without an action changes nothing: set trust.action to drop or weigh")

    def believed(self, pairs: Sequence[Preference], verdicts: Sequence[ItemVerdict]) -> list[float]:
        """The probability that each label is right.

        By the judge: its mean probability of the label's answer over both orders (votes where logits say nothing), 1/2
        where nothing was parsed. By strength: the sigmoid of `meta["strength"]["mean"]`, the ensemble's Bradley-Terry
        probability. Raises UserError for a pair without a strength.
        """
        if self.by == "strength":
            return [1.0 / (1.0 + math.exp(-max(-700.0, m))) for m in means(pairs).tolist()]
        return [0.5 if v.prob_chosen is None else v.prob_chosen for v in verdicts]

    def __call__(self, pairs: Sequence[Preference], verdicts: Sequence[ItemVerdict]) -> list[Preference]:
        """The pairs that stay, in their order; labels never change. Flips and soft labels: `refine.treatments`."""
        if self.action == "none":
            return list(pairs)
        believed = self.believed(pairs, verdicts)
        if self.action == "drop":
            return [p for p, b in zip(pairs, believed, strict=True) if b >= self.least]
        return [
            dataclasses.replace(p, weight=b * (1.0 if p.weight is None else p.weight))
            for p, b in zip(pairs, believed, strict=True)
        ]
