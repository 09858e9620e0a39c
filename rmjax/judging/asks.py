"""What is asked of a judge: which samples of which items, and where the chosen answer stands in each."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.records import Judgment, Preference, Slot

Orders = Literal["both", "random", "item", "chosen_a", "chosen_b"]
SLOTS: tuple[Slot, Slot] = ("A", "B")
Order = tuple[str, Slot]  # item, slot of the chosen answer: one rendered judge prompt
Key = tuple[str, Slot, Slot | None, int]  # item, slot of the chosen answer, hint, index


@dataclasses.dataclass(frozen=True)
class Ask:
    """Judgments first..first+samples-1 of one item in one slot order, perhaps with a hint."""

    item: Preference
    slot: Slot
    first: int
    samples: int
    prompt: tuple[int, ...]
    hint: Slot | None = None

    @property
    def id(self) -> str:
        """Keys the random stream: what is drawn depends on the item, its slot order and its hint, not on the batch."""
        return f"{self.item.id}|{self.slot}" + (f"|hint {self.hint}" if self.hint else "")

    @property
    def keys(self) -> list[Key]:
        """What tells its judgments from all others of a run."""
        return [(self.item.id, self.slot, self.hint, i) for i in range(self.first, self.first + self.samples)]


def key_of(judgment: Judgment) -> Key:
    """What tells a judgment from all others of a run."""
    return judgment.item, judgment.slot, judgment.hint, judgment.index


def slots_of(item: str, orders: Orders, numbers: range, *, seed: int) -> dict[Slot, range]:
    """Which judgments (indices within a slot order) the samples with these numbers are.

    See `Judge.judgments` for `orders`. The result of a longer range only adds to that of a shorter one.
    """
    if orders == "both":
        return {slot: numbers for slot in SLOTS}
    if orders in ("chosen_a", "chosen_b"):
        return {orders[-1].upper(): numbers}
    if orders == "item":
        return {SLOTS[coin(seed, item, "item")]: numbers}
    if orders != "random":
        raise UserError(f"orders={orders!r} is unknown: use both, random, item, chosen_a or chosen_b")
    drawn: dict[Slot, list[int]] = {slot: [] for slot in SLOTS}
    for n in numbers:
        # Each block of two holds one sample of either order, so sample n is always number n // 2 of its order.
        drawn[SLOTS[coin(seed, item, f"block {n // 2}") ^ (n & 1)]].append(n // 2)
    return {slot: range(found[0], found[-1] + 1) for slot, found in drawn.items() if found}


def coin(seed: int, item: str, use: str) -> int:
    """0 or 1, a function of its arguments alone."""
    return hashlib.blake2b(f"{seed}|{item}|{use}".encode(), digest_size=1).digest()[0] & 1


def on_file(path: Path, asks: Sequence[Ask]) -> dict[Key, Judgment]:
    """The judgments that a file holds.

    Raises:
        UserError: one that is asked for now was made with another rendered prompt.
    """
    known = {key_of(j): j for j in jsonl.read(path, Judgment)} if path.exists() else {}
    for ask in asks:
        for key in ask.keys:
            if key in known and known[key].prompt != ask.prompt:
                raise UserError(
                    f"{path}: judgment {key[3]} of item {ask.item.id!r} was made with another judge prompt: "
                    "delete the file or choose another workdir"
                )
    return known


def remaining(ask: Ask, known: Mapping[Key, Judgment]) -> Ask | None:
    """What is still to be sampled of an ask: from its first missing judgment on; None where nothing is."""
    missing = [key[3] for key in ask.keys if key not in known]
    if not missing:
        return None
    return dataclasses.replace(ask, first=missing[0], samples=ask.first + ask.samples - missing[0])
