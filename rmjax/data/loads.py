"""How much of a row a group takes: tokens, slots, scored tokens, pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rmjax.data.rows import Group


class Load(NamedTuple):
    """What one group, or a row of them, occupies."""

    length: int
    slots: int
    targets: int
    pairs: int

    def __add__(self, other: Load) -> Load:  # type: ignore[override]
        return Load(*(a + b for a, b in zip(self, other, strict=True)))

    def within(self, room: Load) -> bool:
        return all(a <= b for a, b in zip(self, room, strict=True))

    @staticmethod
    def total(loads: Iterable[Load]) -> Load:
        return sum(loads, start=Load(0, 0, 0, 0))


def load(group: Group, *, pairs_per_group: int | None = None, share: bool = True) -> Load:
    """The group's load; with `pairs_per_group`, the largest load that any draw of that many pairs can have."""
    lengths = [len(c) for c in group.completions]
    copies = [0 if share else len(group.prompt_of(i)) for i in range(len(lengths))]
    pairs = len(group.pairs)
    if pairs_per_group is not None and pairs:
        named = {i for pair in group.pairs for i in pair}
        pairs = min(pairs, pairs_per_group)
        lengths, copies = (sorted((x[i] for i in named), reverse=True)[: 2 * pairs] for x in (lengths, copies))
    prompts = len(group.prompt) if share else sum(copies)
    return Load(prompts + sum(lengths), len(lengths), sum(lengths), pairs)


def bucket(n: int) -> int:
    """Rounds a length up to a multiple of 32 (of 128 from 256 on), so that few shapes are compiled."""
    step = 32 if n <= 256 else 128
    return max(1, -(-n // step)) * step
