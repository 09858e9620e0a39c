"""Metrics: means over the steps since the last row, speed, and the files that they go to.

Rows are `{"step": n, "train/...": ..., "perf/...": ...}`, n being the number of updates made. "train/" values are those
of the batches before their updates; they are the same in an interrupted and in an unbroken run, and so are the
"eval/..." of rows of their own. "perf/" are not. docs/training.md lists them.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from rmjax import jsonl
from rmjax.objectives.base import Mean

FILE = "metrics.jsonl"
EVENTS = "tensorboard"
Waiting = Literal["input", "checkpoint", "evaluation"]  # what the host may do between two steps


class Window:
    """Sums and weights of the metrics since the last row; a checkpoint keeps them, so that no step is lost."""

    def __init__(self, sums: Mapping[str, Any] | None = None) -> None:
        self.sums = {name: (float(total), float(weight)) for name, (total, weight) in (sums or {}).items()}

    def add(self, metrics: Mapping[str, Mean]) -> None:
        for name, mean in metrics.items():
            total, weight = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (total + float(mean.total), weight + float(mean.weight))

    def take(self) -> dict[str, float]:
        """The means, and an empty window; what has counted nothing is left out."""
        means = {name: total / weight for name, (total, weight) in self.sums.items() if weight}
        self.sums = {}
        return means


class Work(NamedTuple):
    """What one step took."""

    tokens: int  # not padding, of all processes
    flops: float


class Speed:
    """Tokens per second, MFU and the shares of the time that went into input, checkpoints and evaluation.

    All since the last row, and by the host's clock. The first step of a process, which compiles, starts the clock and
    is not counted.
    """

    def __init__(self) -> None:
        self.peak = 0.0  # FLOP/s of all devices; 0: not known, so no MFU
        self._begin = math.nan
        self._work, self._waited = Work(0, 0.0), _no_waits()

    @contextlib.contextmanager
    def waiting(self, what: Waiting) -> Iterator[None]:
        """No step is queued while this lasts."""
        begin = time.perf_counter()
        yield
        self._waited[what] += time.perf_counter() - begin

    def add(self, work: Work) -> None:
        if math.isnan(self._begin):
            self._begin, self._waited = time.perf_counter(), _no_waits()
        else:
            self._work = Work(*(a + b for a, b in zip(self._work, work, strict=True)))

    def take(self) -> dict[str, float]:
        now = time.perf_counter()
        seconds, work, waited = now - self._begin, self._work, self._waited
        self._begin, self._work, self._waited = now, Work(0, 0.0), _no_waits()
        if not work.tokens:
            return {}
        values = {"perf/tokens_per_s": work.tokens / seconds}
        values |= {f"perf/{what}_wait": spent / seconds for what, spent in waited.items()}
        return values | ({"perf/mfu": work.flops / seconds / self.peak} if self.peak else {})


def _no_waits() -> dict[str, float]:
    return dict.fromkeys(typing.get_args(Waiting), 0.0)


def memory_peak() -> dict[str, int]:
    """The most bytes that were in use at once since the process began: of the fullest of this process's devices, or,
    where the backend does not say, as a CPU's, the resident memory of the whole process, which is another thing.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    if peaks:
        return {"perf/device_memory_peak": max(peaks)}
    unit = 1 if sys.platform == "darwin" else 1024  # what the system counts in
    return {"perf/process_memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


class Log:
    """metrics.jsonl, and TensorBoard events beside it. Without a folder, nothing is written."""

    def __init__(self, folder: Path | None, start: int) -> None:
        """Continues the files in `folder` after step `start`; what later steps left there is taken back.

        Raises UserError where the folder cannot be written.
        """
        self._lines = self._events = None
        if folder is None:
            return
        from tensorboardX import SummaryWriter  # not needed by a fit without a folder

        path = folder / FILE
        with jsonl.Appender(path, dict) as old:
            kept = [row for row in old.existing if row["step"] <= start]
        if len(kept) < len(old.existing):
            jsonl.write(path, kept)
        self._lines = jsonl.Appender(path, dict)
        with jsonl.writing(folder / EVENTS):
            self._events = SummaryWriter(str(folder / EVENTS), purge_step=start + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()
            self._events.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row. Raises UserError where the disk is full."""
        if self._lines is not None:
            self._lines.append({"step": step, **values})
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
