"""How long a collective takes at least: its bytes over the links between chips.

No estimate of the compiler: every link is taken to run at its full rate without latency. A ring collective uses every
axis of the network that its group spans, in both directions where the axis is closed to a ring and in one where it is a
line; what is sent point to point goes along one axis after the other, and the fullest link counts.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from rmjax.aot.chips import Chip
from rmjax.aot.hlo import Instruction

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Network:
    """A slice's chips at their places, in the order of the program's devices."""

    chip: Chip
    sizes: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]

    def seconds(self, kind: str, size: float, group: Sequence[int]) -> float:
        """Time of a ring collective.

        Args:
          kind: one of `KINDS`, but collective-permute.
          size: bytes of the whole: of what is gathered, reduced, or sent by each chip of an all-to-all.
          group: the devices that take part.
        """
        n = len(group)
        if n == 1:
            return 0.0
        if kind == "all-to-all":
            return self.routed([(a, b) for a in group for b in group if a != b], size / n)
        share = size * (n - 1) / n / self.rate(group)
        return 2 * share if kind == "all-reduce" else share

    def rate(self, group: Sequence[int]) -> float:
        """Bytes/s with which a chip of the group can receive from it."""
        links = 0
        for axis, (length, ring) in enumerate(zip(self.sizes, self.chip.rings(self.sizes), strict=True)):
            there = {self.places[d][axis] for d in group}
            if len(there) > 1:
                links += 2 if ring and len(there) == length else 1
        return max(links, 1) * self.chip.link

    def routed(self, pairs: Sequence[tuple[int, int]], size: float) -> float:
        """Time in which `size` bytes go from the first to the second device of every pair, all at once."""
        load: collections.Counter[tuple] = collections.Counter()
        rings = self.chip.rings(self.sizes)
        for source, target in pairs:
            at = list(self.places[source])
            for axis, length in enumerate(self.sizes):
                way = self.places[target][axis] - at[axis]
                if rings[axis] and abs(way) > length / 2:
                    way -= math.copysign(length, way)
                step = 1 if way > 0 else -1
                for _ in range(abs(int(way))):
                    load[(tuple(at), axis, step)] += 1
                    at[axis] = (at[axis] + step) % length
        return max(load.values(), default=0) * size / self.chip.link


def group(instruction: Instruction, count: int) -> tuple[int, ...]:
    """The devices of a collective's first group; all groups are alike.

    Understands {{0,1},{2,3}}, [2,4]<=[4,2]T(1,0), and mesh['a'=2,'b'=4] {'a'}.
    """
    text = instruction.attribute(r"replica_groups=(\{\{[\d,{}]*\}\}|\[[^\s]*|mesh\[[^\]]*\][^{]*\{[^}]*\})")
    if text is None:
        return tuple(range(count))
    if text.startswith("{{"):
        return tuple(int(d) for d in text[2:].split("}")[0].split(","))
    if text.startswith("mesh"):
        names, sizes = zip(*re.findall(r"'(\w+)'=(\d+)", text.split("]")[0]), strict=True)
        used = re.findall(r"'(\w+)'", text.rsplit("{", 1)[1])
        grid = np.arange(math.prod(map(int, sizes))).reshape([int(s) for s in sizes])
        kept = tuple(slice(None) if name in used else 0 for name in names)
        return tuple(int(d) for d in np.ravel(grid[kept]))
    shape, source, turn = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    numbers = lambda x: [int(d) for d in x.split(",")]
    ids = np.arange(math.prod(numbers(source))).reshape(numbers(source))
    ids = ids.transpose(numbers(turn)) if turn else ids
    return tuple(int(d) for d in ids.reshape(numbers(shape))[0])


def pairs(instruction: Instruction) -> list[tuple[int, int]]:
    """Who sends to whom in a collective-permute."""
    text = instruction.attribute(r"source_target_pairs=\{([\d,{}]*)\}") or ""
    return [tuple(int(d) for d in pair.split(",")) for pair in re.findall(r"\{(\d+,\d+)\}", text)]
