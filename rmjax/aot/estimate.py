"""Compiles a lowered program for its slice and says what the compiler says of it: memory, operations, time, cost.

All of it is the compiler's estimate or a bound; nothing has run. `timeline.py` says which is which.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from rmjax import compiler
from rmjax.aot import hlo, topology
from rmjax.aot.chips import GIB, Chip, chip
from rmjax.aot.links import Network
from rmjax.aot.programs import Program
from rmjax.aot.timeline import Tally, Timeline
from rmjax.errors import UserError

SPENT = re.compile(r"Used ([\d.]+)([GM]) of [\d.]+[GM] hbm|\(([\d.]+)([GM])\) exceeds available HBM")


class DoesNotFit(Exception):
    """The compiler found no way to run the program in the chip's memory.

    `needs` is what it would take, in bytes; None where another memory than the main one is too small, or the compiler
    does not say: then `str` is what it says.
    """

    def __init__(self, needs: float | None, said: str = "does not fit") -> None:
        super().__init__(said if needs is None else f"needs {needs / GIB:.1f} GiB a chip")
        self.needs = needs


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One program on one slice. Sizes are bytes a chip, times seconds of one run (an update, a pass, a token)."""

    chip: Chip
    chips: int
    arguments: int
    temporaries: int  # in all memories: some lie in the chip's fast one
    peak: int  # what is alive in main memory at once at most
    tally: Tally
    model_flops: float  # over all chips
    tokens: int  # over all chips
    compile_seconds: float

    @property
    def step(self) -> float:
        """Estimated seconds of one run."""
        return self.tally.step

    @property
    def mfu(self) -> float:
        """The model's FLOPs (no recomputation) over what the chips could do in the estimated time."""
        return self.model_flops / (self.step * self.chips * self.chip.peak)

    @property
    def bounds(self) -> Mapping[str, float]:
        """Seconds that no schedule can go below: all FLOPs at peak, all bytes at full bandwidth, links all busy."""
        tally, chip = self.tally, self.chip
        return {
            "arithmetic": tally.flops / chip.peak,
            "memory": tally.bytes / chip.bandwidth,
            "communication": tally.links,
        }

    @property
    def bound(self) -> str:
        """Which of the bounds is the highest."""
        return max(self.bounds, key=self.bounds.__getitem__)

    @property
    def tokens_per_second(self) -> float:
        """Over all chips."""
        return self.tokens / self.step

    def facts(self) -> dict[str, Any]:
        """The entry of summary.json."""
        tally = self.tally
        return {
            "hbm": {
                "arguments": self.arguments,
                "temporaries": self.temporaries,
                "peak": self.peak,
                "chip": self.chip.hbm,
            },
            "flops_per_chip": tally.flops,
            "bytes_per_chip": tally.bytes,
            "collectives": {k: {"bytes": tally.collectives[k], "count": tally.counts[k]} for k in tally.collectives},
            "seconds": {"step": self.step, **tally.seconds},
            "link_seconds": tally.links,
            "kernels": dict(tally.kernels),
            "bounds": dict(self.bounds),
            "bound": self.bound,
            "model_flops": self.model_flops,
            "mfu": self.mfu,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens_per_second,
            "loops_of_unknown_length": tally.unknown,
            "compile_seconds": self.compile_seconds,
        }


def estimate(program: Program, name: str, options: Mapping[str, str] | None = None) -> Estimate:
    """Compiles a program (minutes of one core) and reads what came out.

    Args:
      name: of the topology, such as v5e:4x4.
      options: of the compiler; None: those that a training job uses on a TPU.

    Raises:
      DoesNotFit: it needs more memory than the chip has.
      UserError: an option that the compiler does not know, or a value that it does not take.
    """
    begin = time.perf_counter()
    try:
        compiled = program.lowered.compile(compiler_options=dict(compiler.TPU if options is None else options))
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" in str(e):
            raise DoesNotFit(_needs(str(e)), str(e).splitlines()[0]) from e
        if "compile option" in str(e) or "setting option" in str(e):
            raise UserError(f"--options: {str(e).splitlines()[0]}") from e
        raise
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    network = Network(chip(name), topology.sizes(name), tuple(tuple(d.coords) for d in program.mesh.devices.flat))
    tally = Timeline(hlo.parse(compiled.as_text()), network, program.kernels).run()
    return Estimate(
        chip=chip(name),
        chips=program.mesh.size,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        tally=tally,
        model_flops=program.flops,
        tokens=program.tokens,
        compile_seconds=seconds,
    )


def _needs(message: str) -> float | None:
    found = SPENT.search(message)
    if found is None:
        return None
    number, unit = (part for part in found.groups() if part is not None)
    return float(number) * {"G": GIB, "M": 2**20}[unit]
