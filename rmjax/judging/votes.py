"""From many judgments to one verdict per item, and to what is known of a judge.

Unparsed judgments are a class of their own: they are no vote, their share is reported, and accuracy is given under
both conventions. Ties count one half.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from rmjax.errors import UserError
from rmjax.judging.asks import SLOTS
from rmjax.records import Judgment, Preference, Slot
from rmjax.statistics import Interval, wilson


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemVerdict:
    """What all judgments of one item say together."""

    item: str
    chosen: int  # verdicts that name the chosen answer
    rejected: int
    ties: int
    unparsed: int
    prob_chosen: float | None  # mean over orders of the mean over parsed votes; None where nothing was parsed
    consistent: bool | None  # both orders lean towards the same answer; None unless both have a parsed vote

    @property
    def parsed(self) -> int:
        return self.chosen + self.rejected + self.ties

    @property
    def outcome(self) -> float | None:
        """1 where most votes name the chosen answer, 0 where most name the rejected one, 1/2 where the votes are even.

        None where no judgment could be parsed.
        """
        return lean(self.chosen, self.rejected) if self.parsed else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """A judge's figures, each with its 95 % Wilson interval (a half-won item counts one half in it).

    Intervals of shares of judgments take them as independent; several judgments of one item are not quite.
    """

    items: int
    judgments: int
    accuracy: Interval  # of the majority vote, over all items; an item without a parsed vote counts one half
    accuracy_parsed: Interval  # the same over the items with a parsed vote
    accuracy_prob: Interval  # of prob_chosen > 1/2, over the items with a parsed vote
    single: Interval  # of a single parsed judgment, ties one half
    single_by_slot: dict[str, Interval]  # the same where the chosen answer stood in A, in B
    says_a: Interval  # share of A among parsed verdicts that are A or B: 1/2 without position bias, if orders balance
    consistency: Interval  # share of items whose two orders agree, among those with a parsed vote in both
    unparsed: Interval  # share of all judgments
    forced: Interval  # share of judgments whose verdict was forced


def lean(chosen: int, rejected: int) -> float:
    """1, 0, or 1/2 where the votes are even."""
    return 0.5 if chosen == rejected else float(chosen > rejected)


def prob_chosen(judgment: Judgment) -> float | None:
    """A parsed judgment's probability that the chosen answer is better.

    From the logits at the verdict token; where the verdict is not a token of its own and logits say nothing, the
    verdict itself: 1, 0, or 1/2 for a tie. None where unparsed.
    """
    if judgment.verdict is None:
        return None
    if judgment.prob_a is not None:
        return judgment.prob_a if judgment.slot == "A" else 1.0 - judgment.prob_a
    return credit(judgment)


def credit(judgment: Judgment) -> float:
    """What a parsed judgment scores: 1 right, 1/2 tie, 0 wrong."""
    return 0.5 if judgment.verdict == "tie" else float(judgment.verdict == judgment.slot)


def verdicts(judgments: Iterable[Judgment], items: Sequence[Preference]) -> list[ItemVerdict]:
    """The verdict on every item, in the order of the items.

    Raises:
        UserError: an item is labelled a tie, so that no verdict on it is right.
        ValueError: an item has no judgment, or a judgment no item.
    """
    if (even := next((item for item in items if item.tie), None)) is not None:
        raise UserError(f"item {even.id!r}: labelled tie, so no verdict is right; drop ties before judging accuracy")
    of_item: dict[str, list[Judgment]] = {item.id: [] for item in items}
    for judgment in judgments:
        if judgment.item not in of_item:
            raise ValueError(f"judgment of item {judgment.item!r}, which is not among the items")
        of_item[judgment.item].append(judgment)
    if (bare := next((item for item, found in of_item.items() if not found), None)) is not None:
        raise ValueError(f"item {bare!r} has no judgment")
    return [_verdict(item, found) for item, found in of_item.items()]


def _verdict(item: str, judgments: Sequence[Judgment]) -> ItemVerdict:
    parsed = [j for j in judgments if j.verdict is not None]
    credits = Counter(credit(j) for j in parsed)
    by_slot: dict[Slot, list[Judgment]] = {slot: [j for j in parsed if j.slot == slot] for slot in SLOTS}
    means = [sum(prob_chosen(j) for j in of_slot) / len(of_slot) for of_slot in by_slot.values() if of_slot]
    leans = [
        lean(sum(credit(j) == 1 for j in of_slot), sum(credit(j) == 0 for j in of_slot))
        for of_slot in by_slot.values()
        if of_slot
    ]
    return ItemVerdict(
        item=item,
        chosen=credits[1.0],
        rejected=credits[0.0],
        ties=credits[0.5],
        unparsed=len(judgments) - len(parsed),
        prob_chosen=sum(means) / len(means) if means else None,
        consistent=leans[0] == leans[1] if len(leans) == 2 else None,
    )


def summary(judgments: Sequence[Judgment], items: Sequence[Preference]) -> Summary:
    """The figures of a judge over its judgments of these items."""
    found = verdicts(judgments, items)
    voted = [v for v in found if v.parsed]
    parsed = [j for j in judgments if j.verdict is not None]
    named = [j for j in parsed if j.verdict != "tie"]
    both = [v for v in found if v.consistent is not None]
    return Summary(
        items=len(found),
        judgments=len(judgments),
        accuracy=rate([0.5 if v.outcome is None else v.outcome for v in found]),
        accuracy_parsed=rate([v.outcome for v in voted]),
        accuracy_prob=rate([0.5 if v.prob_chosen == 0.5 else float(v.prob_chosen > 0.5) for v in voted]),
        single=rate([credit(j) for j in parsed]),
        single_by_slot={slot: rate([credit(j) for j in parsed if j.slot == slot]) for slot in SLOTS},
        says_a=rate([j.verdict == "A" for j in named]),
        consistency=rate([v.consistent for v in both]),
        unparsed=rate([j.verdict is None for j in judgments]),
        forced=rate([j.forced for j in judgments]),
    )


def rate(values: Sequence[float]) -> Interval:
    """The mean of values in [0, 1] with its Wilson interval; of nothing, 1/2 within (0, 1) and n = 0."""
    total, n = float(sum(values)), len(values)
    low, high = wilson(total, n)
    return Interval(total / n if n else 0.5, low, high, n)
