"""A program's time on one chip, added up along its schedule.

The compiler's own estimate is the cycles of fusions and copies. A loop's body counts as often as it runs. Two things
have no estimate and are bounded: a kernel by its declared FLOPs at `KERNEL` of the chip's peak or by its bytes, and a
collective by its bytes over the links (`links.py`). A collective that stops the program counts in full. One that
travels in a fusion with arithmetic (start, fusion, done) is hidden as far as that fusion lasts, and one between a start
and a done as far as what is scheduled between them lasts; what is left is waited for.
"""

from __future__ import annotations

import collections
import dataclasses

from rmjax.aot import cost, links
from rmjax.aot.hlo import Computation, Instruction, Module
from rmjax.aot.links import KINDS, Network

KERNEL = 0.5  # of peak: what a kernel's declared FLOPs are taken to run at
HEADER = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id")


@dataclasses.dataclass
class Tally:
    """Seconds, FLOPs and bytes of a program, or of one run of a loop's body."""

    seconds: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # by what: see `PARTS`
    collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # bytes by kind
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # of collectives, by kind
    kernels: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # seconds by kernel
    flops: float = 0.0
    bytes: float = 0.0
    links: float = 0.0  # seconds that the links are busy, hidden or not
    unknown: int = 0  # loops whose trip count is data: their body counts once

    def add(self, other: Tally, times: int) -> None:
        """Adds another tally so many times."""
        for name in ("seconds", "collectives", "counts", "kernels"):
            mine = getattr(self, name)
            for key, value in getattr(other, name).items():
                mine[key] += value * times
        for name in ("flops", "bytes", "links"):
            setattr(self, name, getattr(self, name) + getattr(other, name) * times)
        self.unknown += other.unknown

    @property
    def step(self) -> float:
        """Seconds of all."""
        return sum(self.seconds.values())


class Timeline:
    """Walks a module."""

    def __init__(self, module: Module, network: Network, kernels: float = 1.0) -> None:
        """
        Args:
          kernels: the share of their declared FLOPs that kernels need.
        """
        self._module, self._network, self._chip, self._share = module, network, network.chip, kernels
        self._bodies: dict[str, Tally] = {}
        started = [i for c in module.computations.values() for i in c if self._marked(i, "AsyncCollectiveStart")]
        self._carried = {self._channel(i) for i in started}

    def run(self) -> Tally:
        """The whole program's tally."""
        return self._walk(self._module.entry)

    def _walk(self, computation: Computation) -> Tally:
        if computation.name in self._bodies:
            return self._bodies[computation.name]
        tally = Tally()
        clock, free = 0.0, 0.0  # now, and when the links are done with what has been asked of them
        pending: dict[str, float] = {}  # a start's name -> when it will be done
        left: dict[str | None, float] = {}  # a carried collective's channel -> seconds that it still needs
        for i in computation:
            before = tally.step
            if i.opcode in HEADER:
                continue
            if i.opcode == "while":
                body = self._module.computations[i.attribute(r"body=%([\w.\-]+)")]
                trips = self._module.trips(i, computation)
                tally.add(self._walk(body), 1 if trips is None else trips)
                tally.unknown += trips is None
            elif i.opcode in ("call", "conditional"):
                ways = [self._walk(c) for c in self._module.called(i)]
                tally.add(max(ways, key=lambda t: t.step), 1)
            elif (kind := _kind(i.opcode)) is not None:
                if i.opcode.endswith("-done"):
                    tally.seconds["communication"] += max(0.0, pending.pop(i.operands[0], 0.0) - clock)
                else:
                    took = self._collective(tally, computation, i, kind)
                    if i.opcode.endswith("-start"):
                        free = pending[i.name] = max(clock, free) + took
                    else:
                        tally.seconds["communication"] += took
            elif self._marked(i, "AsyncCollectiveStart"):
                inner, where = self._inner(i)
                left[self._channel(i)] = self._collective(tally, where, inner, _kind(inner.opcode))
            elif self._marked(i, "AsyncCollectiveDone"):
                tally.seconds["communication"] += left.pop(self._channel(i), 0.0)
            else:
                self._plain(tally, computation, i)
                channel = self._channel(i)
                if channel in left:
                    left[channel] = max(0.0, left[channel] - (tally.step - before))
                elif i.opcode == "fusion" and channel is not None and channel not in self._carried:
                    inner, where = self._inner(i)
                    took = self._collective(tally, where, inner, _kind(inner.opcode))
                    tally.seconds["communication"] += max(0.0, took - (tally.step - before))
            clock += tally.step - before
        self._bodies[computation.name] = tally
        return tally

    def _plain(self, tally: Tally, computation: Computation, i: Instruction) -> None:
        moved = cost.moved(self._module, computation, i)
        tally.bytes += moved
        flops = cost.flops(self._module, computation, i)
        if cost.is_kernel(i):
            flops *= self._share
            took = max(flops / (KERNEL * self._chip.peak), moved / self._chip.bandwidth)
            tally.seconds["kernels"] += took
            tally.kernels[i.name.rstrip("0123456789").rstrip(".")] += took
        elif i.cycles is not None:
            matrix, copied = cost.is_matrix(self._module, i), i.opcode in ("copy", "transpose")
            part = "matrix" if matrix else "copies" if copied else "memory"
            tally.seconds[part] += i.cycles / self._chip.clock
        tally.flops += flops

    def _collective(self, tally: Tally, computation: Computation, i: Instruction, kind: str) -> float:
        """Counts a collective once, and returns how long the links need for it."""
        results, many = i.shapes, len(i.operands)
        if i.opcode.endswith("-start") and kind != "all-reduce":  # operands, results, and perhaps a word or two
            results = results[many : 2 * many]
        size = sum(s.bytes for s in results)
        if kind == "collective-permute":
            took = self._network.routed(links.pairs(i), size)
        else:
            among = links.group(i, len(self._network.places))
            size *= len(among) if kind == "reduce-scatter" else 1
            took = self._network.seconds(kind, size, among)
        tally.collectives[kind] += size
        tally.counts[kind] += 1
        tally.links += took
        return took

    def _marked(self, i: Instruction, target: str) -> bool:
        return i.opcode == "fusion" and any(
            f'custom_call_target="{target}"' in x.attributes for x in self._module.inside(i)
        )

    def _inner(self, i: Instruction) -> tuple[Instruction, Computation]:
        return next((x, c) for c in self._module.called(i) for x in c if _kind(x.opcode) is not None)

    def _channel(self, i: Instruction) -> str | None:
        """The channel of the collective within a fusion, or None."""
        if i.opcode != "fusion":
            return None
        found = (x for x in self._module.inside(i) if _kind(x.opcode) is not None)
        return next((x.attribute(r"channel_id=(\d+)") for x in found), None)


def _kind(opcode: str) -> str | None:
    plain = opcode.removesuffix("-start").removesuffix("-done")
    return plain if plain in KINDS else None
