"""TPU chips: what their makers say that they hold and how fast they are.

Sources, read in November 2026: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e} for memory, peak, bandwidths and the
network; a link's rate is a chip's stated bidirectional bandwidth over both directions and all its links. Clocks follow
from the peak and what a chip's matrix units multiply and add in a cycle: 4 x 128^2 (v5e), 8 x 128^2 (v5p), 4 x 256^2
(v6e, whose page says two such units: that would be 3.5 GHz). In these the compiler's estimate of a product of 8,192^2
matrices is 88, 90 and 70 % of peak. v4 is missing: the compiler makes two devices of a chip, one of each core.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rmjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip, as a device of JAX (v5p: two cores as one)."""

    name: str
    hbm: float  # bytes of memory that the compiler lets a program have: of v5e's 16 GiB 15.75
    peak: float  # bfloat16 FLOP/s
    bandwidth: float  # bytes/s of memory
    link: float  # bytes/s of one link between chips in one direction
    clock: float  # cycles/s, in which the compiler estimates
    axes: int  # of the network
    wrap: int  # length that an axis must be a multiple of for its ends to be joined

    def rings(self, sizes: Sequence[int]) -> tuple[bool, ...]:
        """Which axes of a slice's network are rings: of three axes all or none, for only whole cubes are joined so."""
        joined = tuple(n % self.wrap == 0 for n in sizes)
        return joined if self.axes == 2 else (all(joined),) * len(joined)


GIB = 2**30
CHIPS = {
    "v5e": Chip(name="v5e", hbm=15.75 * GIB, peak=197e12, bandwidth=819e9, link=50e9, clock=1.5e9, axes=2, wrap=16),
    "v5p": Chip(name="v5p", hbm=95.74 * GIB, peak=459e12, bandwidth=2765e9, link=100e9, clock=1.75e9, axes=3, wrap=4),
    "v6e": Chip(name="v6e", hbm=31.25 * GIB, peak=918e12, bandwidth=1638e9, link=100e9, clock=1.75e9, axes=2, wrap=16),
}


def chip(topology: str) -> Chip:
    """The chip of a topology such as v5e:4x4. UserError where it is none of `CHIPS`."""
    name = topology.split(":")[0]
    if name not in CHIPS:
        raise UserError(f"--topology {topology}: chip {name!r} is not known; known: {', '.join(CHIPS)} (v5e:4x4)")
    return CHIPS[name]
