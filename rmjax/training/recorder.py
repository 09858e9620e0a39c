"""What becomes of a step's metrics: read one step late, checked, averaged, shown and written."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax

from rmjax.errors import UserError
from rmjax.objectives.base import Mean
from rmjax.progress import TALLY, Meter
from rmjax.training.compiles import Compiles
from rmjax.training.metrics import Log, Speed, Window, Work, memory_peak


class Recorder:
    """Holds the newest step's metrics back until the step after it has been queued, so that the device never waits."""

    def __init__(
        self, name: str, log: Log, meter: Meter, compiles: Compiles, *, every: int, total: int, window: Window
    ) -> None:
        self.window = window
        self.speed = Speed()
        self._compiles = compiles
        self._name, self._log, self._meter = name, log, meter
        self._every, self._total = every, total
        self._pending: tuple[int, float, Mapping[str, Mean], Work] | None = None

    def put(self, step: int, rate: float, metrics: Mapping[str, Mean], work: Work) -> None:
        """Takes what step `step` (from 1) will give, and reads the step before it."""
        self.flush()
        self._pending = step, rate, metrics, work

    def flush(self) -> None:
        """Waits for the newest step and reads it. Raises UserError where a metric is not finite."""
        if self._pending is None:
            return
        step, rate, metrics, work = self._pending
        self._pending = None
        metrics = jax.device_get(metrics)
        TALLY.add(trained=work.tokens)
        self._check(step, rate, metrics)
        self.window.add(metrics)
        self.speed.add(work)
        loss = metrics["loss"]
        self._meter.update(1, work.tokens, note=f"loss {loss.total / max(loss.weight, 1e-9):.4f}")
        if step % self._every == 0 or step == self._total:
            values = {"learning_rate": rate, **self.window.take()}
            perf = {**self.speed.take(), **self._compiles.take(), **memory_peak()}
            self._log.write(step, {f"train/{k}": v for k, v in values.items()} | perf)

    def _check(self, step: int, rate: float, metrics: Mapping[str, Mean]) -> None:
        for key, mean in metrics.items():
            if not math.isfinite(mean.total):
                raise UserError(
                    f"{self._name}: {key} is {mean.total} at step {step} of {self._total}, learning rate {rate:.3g}: "
                    "lower train.optimizer.learning_rate, lengthen its warmup, or look for extreme values in the data"
                )
