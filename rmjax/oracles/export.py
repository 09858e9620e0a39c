"""From votes to preference records, with the votes as a column that training reads."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from rmjax.records import Pair, Preference, Vote


@dataclasses.dataclass(frozen=True)
class Exported:
    """Records, and what gave none."""

    records: list[Preference]
    unknown: int  # pairs on which everybody who looked could not tell
    unlabelled: int  # pairs that nobody looked at

    @property
    def ties(self) -> int:
        return sum(p.tie for p in self.records)


def preferences(pairs: Sequence[Pair], votes: Iterable[Vote]) -> Exported:
    """One record for every pair that somebody could tell, in the order of the pairs.

    The answer with more votes is chosen. It is a tie where both have as many (the first answer then stands as chosen,
    which means nothing), or where more than half of the votes are ties. `votes` counts chosen, rejected and tie; "can't
    tell" is not counted.

    Raises:
      ValueError: a vote on another pair.
    """
    of_pair: dict[str, Counter[str]] = {pair.id: Counter() for pair in pairs}
    for vote in votes:
        if vote.item not in of_pair:
            raise ValueError(f"a vote on {vote.item!r}, which is not among the pairs")
        of_pair[vote.item][vote.choice] += 1
    records, unknown, unlabelled = [], 0, 0
    for pair in pairs:
        count = of_pair[pair.id]
        told = count["first"] + count["second"] + count["tie"]
        if not told:
            unknown, unlabelled = unknown + bool(count), unlabelled + (not count)
            continue
        second = count["second"] > count["first"]
        chosen, rejected = (pair.second, pair.first) if second else (pair.first, pair.second)
        more, fewer = max(count["first"], count["second"]), min(count["first"], count["second"])
        record = Preference(
            prompt=pair.prompt,
            chosen=chosen,
            rejected=rejected,
            tie=more == fewer or 2 * count["tie"] > told,
            votes={"chosen": more, "rejected": fewer, "tie": count["tie"]},
            id=pair.id,
            source=pair.source,
            meta=pair.meta,
        )
        records.append(record)
    return Exported(records, unknown, unlabelled)
