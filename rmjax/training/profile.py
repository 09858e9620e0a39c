"""An XLA trace of a few steps: what the host, the device and every operation did, and when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from rmjax.progress import say

FOLDER = "profile"  # in the folder of a training
WARM = 2  # steps of this process that are not traced: the first one compiles


class Profile:
    """Traces `count` steps of a process, after the first few, into `folder`/profile; nothing where count is 0.

    Without a folder, count is 0 (`Train.check_no_files`).
    """

    def __init__(self, name: str, folder: Path | None, count: int, *, start: int, total: int) -> None:
        """
        Args:
          start: steps made before this process.
          total: the last step.
        """
        self._name, self._path = name, folder and folder / FOLDER
        self._first = start + WARM + 1 if count else total + 1
        self._last = min(self._first + count - 1, total)
        self._running = False
        if count and self._first > total:
            say(f"{name}: train.profile={count}: {total - start} steps are left, and the first {WARM} are not traced")

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """What is done within belongs to step `number`."""
        if number == self._first:
            jax.profiler.start_trace(str(self._path))
            self._running = True
        if not self._running:
            yield
            return
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def finish(self, number: int, out: Any) -> None:
        """Ends the trace after its last step, when the device has computed `out`."""
        if self._running and number == self._last:
            jax.block_until_ready(out)
            self._stop()
            say(f"{self._name}: steps {self._first} to {self._last} are traced in {self._path} (docs/training.md)")

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
