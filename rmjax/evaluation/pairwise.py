"""Pairwise accuracy and its comparison: every number with its n and a 95 % interval.

Outcome of an item: 1 where the method prefers the chosen answer, 0 where it prefers the rejected one, 1/2 for a tie
(equal scores, votes or orders that cancel) and for a judge's unparsed verdict (RewardBench's rule). Halves are counted
apart, because a judge that answers nothing scores 50 %.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from rmjax.errors import UserError
from rmjax.judging.votes import ItemVerdict
from rmjax.records import Preference
from rmjax.statistics import Interval, crossed_interval, mcnemar, paired_bootstrap, t_interval, wilson


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemScore:
    """What one method made of one item; one line of scores.jsonl, at full precision."""

    id: str
    outcome: float  # 1, 1/2 or 0
    unparsed: bool = False
    prob_chosen: float | None = None  # the method's probability that the chosen answer is better
    score_chosen: float | None = None
    score_rejected: float | None = None
    subset: str = ""
    source: str = ""

    @property
    def tie(self) -> bool:
        """Half an item for equal scores; an unparsed verdict is not a tie."""
        return self.outcome == 0.5 and not self.unparsed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An accuracy over n items with its 95 % Wilson interval; ties and unparsed verdicts count one half."""

    accuracy: float
    ci95: tuple[float, float]
    n: int
    ties: int = 0
    unparsed: int = 0

    @classmethod
    def of(cls, share: float, n: int, ties: int = 0) -> Accuracy:
        """That of a share of n items."""
        return cls(accuracy=share, ci95=wilson(share * n, n), n=n, ties=ties)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Method `a` minus method `b` on the same items, or over the same runs."""

    a: str
    b: str
    difference: Interval
    over: str  # what the interval generalises over, in words
    only_a: int | None = None  # items on which a did better; None where runs were compared
    only_b: int | None = None
    p: float | None = None  # McNemar, exact; over runs None, unless a caller puts its own test's here

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes zero and, where there is one, the exact test agrees."""
        return self.difference.excludes_zero and (self.p is None or self.p < 0.05)

    @property
    def words(self) -> str:
        """The finding in one sentence."""
        d = self.difference
        if not self.distinguishable:
            return f"{self.a} and {self.b}: not distinguishable ({points(d)})"
        ahead, behind = (self.a, self.b) if d.value > 0 else (self.b, self.a)
        flipped = d if d.value > 0 else Interval(-d.value, -d.high, -d.low, d.n)
        return f"{ahead} is ahead of {behind} by {points(flipped)}"


def points(d: Interval) -> str:
    """A difference of accuracies in percentage points with its interval."""
    return f"{100 * d.value:+.1f} points [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"


def from_scores(items: Sequence[Preference], scores: np.ndarray, *, logistic: bool = False) -> list[ItemScore]:
    """Outcomes of a method that gives each answer a score.

    Args:
        items: n items.
        scores: [n, 2] scores of the chosen and the rejected answer.
        logistic: whether sigmoid(chosen - rejected) is the method's probability (Bradley-Terry).

    Raises:
        UserError: a score is not a finite number (a broken model must not pass as a tie), or an item is labelled a tie.
    """
    if (even := next((p for p in items if p.tie), None)) is not None:
        raise UserError(f"item {even.id!r}: labelled tie, so no answer is right; drop ties before pairwise accuracy")
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(items), 2):
        raise ValueError(f"scores have shape {scores.shape}, expected ({len(items)}, 2)")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores).all(1))[0])
        raise UserError(
            f"item {items[bad].id!r}: scores {scores[bad].tolist()} are not finite; "
            "lower the learning rate or evaluate in float32"
        )
    out = []
    for item, (chosen, rejected) in zip(items, scores.tolist(), strict=True):
        prob = 0.5 * (1 + math.tanh((chosen - rejected) / 2)) if logistic else None
        out.append(
            ItemScore(
                id=item.id,
                outcome=0.5 if chosen == rejected else float(chosen > rejected),
                prob_chosen=prob,
                score_chosen=chosen,
                score_rejected=rejected,
                subset=item.subset,
                source=item.source,
            )
        )
    return out


def from_verdicts(items: Sequence[Preference], verdicts: Sequence[ItemVerdict]) -> list[ItemScore]:
    """Outcomes of a judge: the majority of its votes on each item, with its probability.

    Args:
        items: n items.
        verdicts: their verdicts, in the same order (`judging.votes.verdicts`).
    """
    if [p.id for p in items] != [v.item for v in verdicts]:
        raise ValueError("verdicts are not those of the items, in their order")
    return [
        ItemScore(
            id=item.id,
            outcome=0.5 if v.outcome is None else v.outcome,
            unparsed=v.outcome is None,
            prob_chosen=v.prob_chosen,
            subset=item.subset,
            source=item.source,
        )
        for item, v in zip(items, verdicts, strict=True)
    ]


def accuracy(scores: Sequence[ItemScore]) -> Accuracy:
    """The accuracy over all items; an empty list has none."""
    if not scores:
        raise ValueError("accuracy of no items")
    total, n = sum(s.outcome for s in scores), len(scores)
    return Accuracy(
        accuracy=total / n,
        ci95=wilson(total, n),
        n=n,
        ties=sum(s.tie for s in scores),
        unparsed=sum(s.unparsed for s in scores),
    )


def accuracy_by(scores: Sequence[ItemScore], field: str) -> dict[str, Accuracy]:
    """Accuracies by `subset` or `source`, in order of first appearance; items without one are under ''."""
    if field not in ("subset", "source"):
        raise ValueError(f"field={field!r}: subset or source")
    groups: dict[str, list[ItemScore]] = {}
    for s in scores:
        groups.setdefault(getattr(s, field), []).append(s)
    return {name: accuracy(group) for name, group in groups.items()}


def compare(a: Sequence[ItemScore], b: Sequence[ItemScore], *, names: tuple[str, str], seed: int = 0) -> Comparison:
    """Compares two methods on the same items: McNemar's exact test and a paired bootstrap interval.

    Items are matched by id, in any order.

    Raises:
        UserError: the two did not judge the same items, or an id is there twice.
    """
    left, right = _by_id(a, names[0]), _by_id(b, names[1])
    if left.keys() != right.keys():
        stray = sorted(left.keys() ^ right.keys())
        owner = names[0] if stray[0] in left else names[1]
        raise UserError(
            f"{names[0]!r} and {names[1]!r} judged different items ({len(stray)} not shared; {stray[0]!r} is only in "
            f"{owner!r}): evaluate both on one file"
        )
    differences = np.array([left[i] - right[i] for i in left])
    only_a, only_b = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(
        a=names[0],
        b=names[1],
        difference=paired_bootstrap(differences, seed=seed),
        over=f"the same {len(left):,} items",
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b),
    )


def _by_id(scores: Sequence[ItemScore], name: str) -> dict[str, float]:
    outcomes = {s.id: s.outcome for s in scores}
    if len(outcomes) != len(scores):
        seen: set[str] = set()
        twice = next(s.id for s in scores if s.id in seen or seen.add(s.id))
        raise UserError(f"{name!r}: item {twice!r} is scored twice; give every item its own id")
    return outcomes


Run = tuple[int, int]  # (label draw, seed)


def over_runs(values: Mapping[Run, float]) -> tuple[Interval, str]:
    """The mean of one number a run with its 95 % interval, and in words what the interval generalises over.

    A complete grid of at least 2 draws and 2 seeds gets the crossed interval. Otherwise the runs of a draw are
    averaged and a t interval over draws is taken (over seeds, if there is one draw): it then says nothing about
    the other factor, and the words say that.

    Raises:
        ValueError: fewer than two runs.
    """
    draws, seeds = sorted({d for d, _ in values}), sorted({s for _, s in values})
    if len(draws) > 1 and len(seeds) > 1 and len(values) == len(draws) * len(seeds):
        interval = crossed_interval([[values[d, s] for s in seeds] for d in draws])
        return interval, f"{len(draws)} label draws x {len(seeds)} seeds"
    if len(draws) > 1:
        means = [float(np.mean([v for (d, _), v in values.items() if d == draw])) for draw in draws]
        return t_interval(means), f"{len(draws)} label draws" + ("" if len(seeds) > 1 else ", one seed")
    return t_interval([values[draws[0], s] for s in seeds] if draws else []), f"{len(seeds)} seeds, one label draw"


def compare_runs(a: Mapping[Run, float], b: Mapping[Run, float], *, names: tuple[str, str]) -> Comparison:
    """Compares two methods over the same runs by the paired differences of their accuracies.

    Raises:
        UserError: the two were not run on the same draws and seeds, or on one only.
    """
    if a.keys() != b.keys():
        stray = sorted(a.keys() ^ b.keys())[0]
        raise UserError(
            f"{names[0]!r} and {names[1]!r} have different runs: (draw {stray[0]}, seed {stray[1]}) is only in "
            f"{names[0] if stray in a else names[1]!r}; run both on the same draws and seeds"
        )
    if len(a) < 2:
        raise UserError(f"{names[0]!r} against {names[1]!r}: one run each; give at least two draws or seeds")
    interval, over = over_runs({run: a[run] - b[run] for run in a})
    return Comparison(a=names[0], b=names[1], difference=interval, over=over)
