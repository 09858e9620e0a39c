"""Graded judgments -> weighted pairs -> groups to train on.

A pair is an accepted and a rejected judgment of one rendered judge prompt: same item, same slot order. The public code
of GFRIEND pools all questions, so that most of its pairs compare answers to different prompts.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from rmjax.data.rows import Group
from rmjax.judging.asks import Order, coin
from rmjax.records import Preference
from rmjax.refine.levels import Grade, Graded

Policy = Literal["all", "one"]
Normalise = Literal["none", "run", "item"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """An accepted and a rejected judgment of one prompt, and what their comparison weighs."""

    accepted: Graded
    rejected: Graded
    weight: float = 1.0


def by_prompt(graded: Sequence[Graded]) -> dict[Order, list[Graded]]:
    """Graded judgments by rendered prompt, earliest sample first, hinted ones last.

    Raises:
        ValueError: judgments of one item and slot order have different prompts.
    """
    prompts: dict[Order, list[Graded]] = {}
    for g in graded:
        prompts.setdefault((g.judgment.item, g.judgment.slot), []).append(g)
    for (item, slot), found in prompts.items():
        if len({g.judgment.prompt for g in found}) > 1:
            raise ValueError(f"item {item!r}, chosen answer in {slot}: its judgments answer different prompts")
        found.sort(key=lambda g: (g.judgment.hint is not None, g.judgment.index))
    return prompts


def sides(graded: Sequence[Graded], *, unparsed: bool) -> tuple[list[Graded], list[Graded]]:
    """(accepted, rejected) judgments, in their order; unparsed ones are rejected if `unparsed`, else on no side."""
    wrong = ("SR", "WR", "unparsed") if unparsed else ("SR", "WR")
    return [g for g in graded if g.level in ("SA", "WA")], [g for g in graded if g.level in wrong]


def pairs(graded: Sequence[Graded], *, policy: Policy, unparsed: bool, seed: int) -> list[Pair]:
    """The pairs of a run, by prompt.

    Args:
        policy: "all": accepted x rejected of every prompt. "one": one pair per item, the baseline of plain DPO: the
            earliest accepted and the earliest rejected judgment of the slot order that completes such a pair first.
        unparsed: whether unparsed judgments are further rejected ones.
        seed: decides between slot orders that complete their pair at the same sample.
    """
    prompts = {key: sides(found, unparsed=unparsed) for key, found in by_prompt(graded).items()}
    if policy == "one":
        prompts = one_per_item(prompts, seed=seed)
    return [Pair(a, r) for accepted, rejected in prompts.values() for a, r in itertools.product(accepted, rejected)]


def one_per_item(
    prompts: Mapping[Order, tuple[list[Graded], list[Graded]]], *, seed: int
) -> dict[Order, tuple[list[Graded], list[Graded]]]:
    """Of each item the slot order whose earliest accepted and rejected judgment come first, and just these two."""
    best: dict[str, tuple[tuple, Order]] = {}
    for key, (accepted, rejected) in prompts.items():
        if accepted and rejected:
            last = max((g.judgment.hint is not None, g.judgment.index) for g in (accepted[0], rejected[0]))
            when = (*last, (key[1] == "B") ^ coin(seed, key[0], "pair"))
            best[key[0]] = min(best.get(key[0], (when, key)), (when, key))
    return {key: (prompts[key][0][:1], prompts[key][1][:1]) for _, key in best.values()}


def softplus_weight(gap: float, alpha: float) -> float:
    """w = log(1 + exp(alpha gap)): GFRIEND's weight of a pair by the gap of its grades."""
    return float(np.logaddexp(0.0, alpha * gap))


def gap(pair: Pair, grade: Grade) -> float:
    """g+ - g-; unsigned grades (confidences) are compared by |s+ - s-|, as the public code does."""
    difference = pair.accepted.grade - pair.rejected.grade
    return abs(difference) if grade == "unsigned" else difference


def weighted(
    made: Sequence[Pair], *, weights: Literal["softplus", "off"], grade: Grade, alpha: float, normalise: Normalise
) -> list[Pair]:
    """The pairs with their weights.

    Args:
        weights: "softplus" of alpha times the gap, or "off": 1.
        normalise: "none"; "run": divided by the run's mean, so that alpha does not change the step size; "item": each
            item's weights sum to the same, whatever its number of pairs, and the run's mean is 1.
    """
    raw = [softplus_weight(gap(p, grade), alpha) if weights == "softplus" else 1.0 for p in made]
    if normalise == "item":
        sums: dict[str, float] = collections.defaultdict(float)
        for p, w in zip(made, raw, strict=True):
            sums[p.accepted.judgment.item] += w
        raw = [w / sums[p.accepted.judgment.item] * len(made) / len(sums) for p, w in zip(made, raw, strict=True)]
    elif normalise == "run":
        mean = math.fsum(raw) / max(1, len(raw))
        raw = [w / mean for w in raw]
    return [dataclasses.replace(p, weight=w) for p, w in zip(made, raw, strict=True)]


def item_of(group: Group) -> str:
    """The id of the item whose judgments, in one slot order, a group of `groups` holds."""
    return group.id.rsplit("|", 1)[0]


def groups(made: Sequence[Pair], items: Sequence[Preference] = ()) -> list[Group]:
    """One group per prompt: its judgments once each, and the pairs among them.

    Equal completions are one candidate, and pairs of them stay as often as they were sampled. `ref_logps` are the
    recorded log-probabilities of all the completion's tokens: the policy that sampled is the reference. An item's own
    strength counts: its weight multiplies its pairs', and the probability that its label is wrong is their smoothing.
    """
    strength = {p.id: (1.0 if p.weight is None else p.weight, p.smooth) for p in items}
    prompts: dict[Order, list[Pair]] = {}
    for pair in made:
        prompts.setdefault((pair.accepted.judgment.item, pair.accepted.judgment.slot), []).append(pair)
    out = []
    for (item, slot), of_prompt in prompts.items():
        candidates: dict[tuple[int, ...], Graded] = {}
        for g in itertools.chain.from_iterable((p.accepted, p.rejected) for p in of_prompt):
            candidates.setdefault(g.judgment.tokens, g)
        index = {tokens: i for i, tokens in enumerate(candidates)}
        weight, smooth = strength.get(item, (1.0, 0.0))
        out.append(
            Group(
                id=f"{item}|{slot}",
                prompt=of_prompt[0].accepted.judgment.prompt,
                completions=list(candidates),
                ref_logps=[math.fsum(g.judgment.logps) for g in candidates.values()],
                pairs=[(index[p.accepted.judgment.tokens], index[p.rejected.judgment.tokens]) for p in of_prompt],
                weight=[weight * p.weight for p in of_prompt],
                smooth=[smooth] * len(of_prompt) if smooth else (),
            )
        )
    return out
