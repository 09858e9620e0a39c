"""SIGTERM as a request: finish the step, save, exit."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Termination:
    """While active, SIGTERM is noted instead of obeyed; a note that nobody acted on is obeyed at the end.

    With several processes, jax's preemption service makes them agree on the step to stop after.
    """

    def __init__(self, active: bool) -> None:
        self._active = active and threading.current_thread() is threading.main_thread()
        self._several = jax.process_count() > 1
        self._noted = False

    def __enter__(self) -> Termination:
        if self._active and not self._several:
            self._before: Any = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._active and not self._several:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            if self._noted and kind is None:
                signal.raise_signal(signal.SIGTERM)

    def asked(self, step: int) -> bool:
        """Whether to stop after this step; every process gets the same answer."""
        if self._active and self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
