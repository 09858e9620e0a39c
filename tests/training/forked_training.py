"""The tiny training in processes of its own: killed with SIGKILL at any moment, told to end, on meshes of devices.

Processes are forked from one that has imported everything and has not begun to use JAX: a second each, not ten.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorboardX
from jax._src import xla_bridge
from orbax.checkpoint import v1 as ocp
from small_training import loop, train

from rmjax.sharding import make_mesh

IMPORTED_LATE = (ocp, tensorboardX)  # by a training, so here before the fork
TOUCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")  # audit events of files


@functools.cache
def context() -> ForkServerContext:
    """Where processes come from. Their modules are found on PYTHONPATH, which is set for that."""
    folders = [str(Path(__file__).parent), str(Path(loop.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    out = multiprocessing.get_context("forkserver")
    out.set_forkserver_preload([__name__])
    return out


def start(target: Any, *args: Any) -> BaseProcess:
    """A process that runs one of this file's functions."""
    process = context().Process(target=target, args=args)
    process.start()
    return process


def begin(devices: int = 1) -> None:
    """Makes a forked process ready: nothing compiled is compiled again."""
    assert not xla_bridge.backends_are_initialized(), "forked from a process that used JAX"
    multiprocessing.set_start_method("fork", force=True)  # a killed process then leaves no named semaphores behind
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_num_cpu_devices", devices)


def run(folder: Path, options: dict[str, Any], touch: int = 0, seconds: float = 0.0) -> None:
    """Trains, and saves the parameters as params.npz.

    Args:
        touch: the process kills itself when it touches a file below `folder` for the so many-th time; 0: never.
        seconds: it does so that long after its first step was begun, whatever it does then; 0: never.
    """
    begin()
    die_at_file(str(folder), touch)
    if seconds:
        usual, timer = loop.place_rows, threading.Timer(seconds, die)
        timer.daemon = True

        def place(*args: Any, **named: Any) -> Any:
            if not timer.ident:
                timer.start()
            return usual(*args, **named)

        loop.place_rows = place
    result = train(folder, **options)
    np.savez(folder / "params.npz", *jax.tree.leaves(result))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_file(folder: str, number: int) -> None:
    touched = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal touched
        if event in TOUCHED and isinstance(args[0], (str, os.PathLike)) and os.fspath(args[0]).startswith(folder):
            touched += 1
            if touched == number:
                die()

    sys.addaudithook(count)


def on_meshes(folder: Path, options: dict[str, Any], *shapes: tuple[int, int, int]) -> None:
    """Trains on a mesh of four devices after another; SIGTERM ends every one after its fourth step."""
    begin(devices=4)
    usual, left = loop.place_rows, [0]

    def place(rows: Any, mesh: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGTERM)
        placed = usual(rows, mesh)
        assert len(placed.tokens.sharding.device_set) == 4, placed.tokens.sharding
        return placed

    loop.place_rows = place
    for shape in shapes:
        left[0] = 4
        with jax.set_mesh(make_mesh(shape)):
            try:
                train(folder, **options)
            except SystemExit as stop:
                assert stop.code == 0
            else:
                raise AssertionError("SIGTERM was not obeyed")
