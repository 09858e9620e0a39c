"""SIGTERM as a request: finish the step, save, exit."""

from __future__ import annotations

import functools
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


class Termination:
    """While active, SIGTERM is noted instead of obeyed; a note that nobody acted on is obeyed at the end.

    With several processes one note is enough: after every step they add up their notes on the devices, and read the sum
    one step late, so that all stop after the same step and no device waits.
    """

    def __init__(self, active: bool) -> None:
        self._active = active and threading.current_thread() is threading.main_thread()
        self._several = active and jax.process_count() > 1
        self._noted = False
        self._sum: jax.Array | None = None

    def __enter__(self) -> Termination:
        if self._active:
            self._before: Any = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._active:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            if self._noted and kind is None:
                signal.raise_signal(signal.SIGTERM)

    def asked(self) -> bool:
        """Whether to stop after this step; every process gets the same answer, and each must ask after every step."""
        if not self._several:
            return self._noted
        before, self._sum = self._sum, _add_up(self._noted)
        return before is not None and int(before) > 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True


def _add_up(noted: bool) -> jax.Array:
    """The number of processes' devices with a note, in every process."""
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    local = np.full(jax.local_device_count(), noted, np.int32)
    notes = jax.make_array_from_process_local_data(NamedSharding(mesh, P("devices")), local)
    with jax.set_mesh(mesh):
        return _total(mesh)(notes)


@functools.lru_cache(maxsize=1)
def _total(mesh: Mesh) -> Any:
    return jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))
