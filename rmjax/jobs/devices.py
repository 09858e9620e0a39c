"""The mesh that a job runs on: the accelerators of the machine or of all machines, or the cores of CPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os

import jax

from rmjax import distributed
from rmjax.errors import UserError
from rmjax.sharding import MESH_AXES, current_mesh, make_mesh
from rmjax.training.loop import Train, check_mesh

MOST_CORES = 8
TIMEOUT = "xla_cpu_collective_call_terminate_timeout_seconds"
PATIENCE = 3600  # seconds that a core waits for another one in a reduction, on a busy or suspended machine


def split_cpu(processes: int = 1) -> None:
    """Makes a device of every core of the CPU (a power of two of them). Call it before JAX is first used.

    XLA computes a batched product, as in attention, on one core. Over a mesh of cores all of them work. A number of
    devices that the user has set in the environment stays.

    Args:
        processes: of this job on this machine, which share its cores.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if TIMEOUT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{TIMEOUT}={PATIENCE}".strip()
    if "xla_force_host_platform_device_count" not in flags and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        cores = min(max(1, cores // processes), MOST_CORES)
        jax.config.update("jax_num_cpu_devices", 1 << (cores.bit_length() - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """How a job uses the devices of this machine, or of all processes: data x fsdp x tensor of them.

    Where data and fsdp are both 0, accelerators are fsdp's, for memory, and cores of a CPU data's, for speed. Numbers
    that are all given and make less than there are leave the other devices alone: 1 x 1 x 1 is one device. Several
    processes use as many devices each.
    """

    data: int = 0  # copies of the model, each with its part of every batch; 0: the rest
    fsdp: int = 0  # parts of every parameter and of every batch; 0: the rest
    tensor: int = 1  # parts of every matrix; must divide the number of key/value heads

    def shape(self, count: int, *, cores: bool = False) -> tuple[int, int, int]:
        """The mesh's shape on `count` devices. UserError where it is not theirs."""
        wanted = {axis: getattr(self, axis) for axis in MESH_AXES}
        if not self.data and not self.fsdp:
            wanted["fsdp" if cores else "data"] = 1
        said = ", ".join(f"devices.{axis}={n}" for axis, n in wanted.items())
        if min(wanted.values()) < 0 or list(wanted.values()).count(0) > 1:
            raise UserError(f"{said}: give numbers above 0, and 0 for at most one of them (the rest)")
        named = math.prod(n for n in wanted.values() if n)
        if named > count or (0 in wanted.values() and count % named):
            many = "a multiple of " if 0 in wanted.values() else ""
            raise UserError(f"{said} needs {many}{named} devices, but there are {count}: change one of them")
        return tuple(n or count // named for n in wanted.values())

    def use(self, *trains: Train) -> contextlib.AbstractContextManager:
        """Sets the mesh, over all processes; nothing where it would be one device.

        Args:
            trains: what will be trained on it. Of a CPU's cores, as many are used as divide their batches.

        Raises:
            UserError: the devices are not so many, or do not divide a batch or themselves among the processes.
        """
        count, cores, processes = jax.device_count(), jax.default_backend() == "cpu", distributed.count()
        batches = [t.batch // t.microbatches for t in trains]
        whole = processes * max(self.tensor, 1)  # what a row lies on, of every process
        if cores and not (self.data and self.fsdp) and count >= whole and not any(b % processes for b in batches):
            count = whole * math.gcd(count // whole, *(b // processes for b in batches))
        shape = self.shape(count, cores=cores)
        devices = _devices(math.prod(shape))
        if math.prod(shape) == 1:
            return contextlib.nullcontext()
        mesh = make_mesh(shape, devices)
        for train in trains:
            check_mesh(train, mesh)
        return jax.set_mesh(mesh)

    def own(self) -> contextlib.AbstractContextManager:
        """Sets the mesh of this process's own devices, for work that processes do apart; within `use`.

        There each of them holds the whole model: parts of every parameter, or on a CPU copies. One process, which has
        no others, keeps its mesh.
        """
        if distributed.count() == 1:
            return contextlib.nullcontext()
        devices = [d for d in current_mesh().devices.flat if d.process_index == jax.process_index()]
        devices.sort(key=lambda d: d.id)
        tensor = math.gcd(len(devices), current_mesh().shape["tensor"])
        rest = len(devices) // tensor
        cores = jax.default_backend() == "cpu" and not self.fsdp
        return jax.set_mesh(make_mesh((rest, 1, tensor) if cores else (1, rest, tensor), devices))


def _devices(count: int) -> list[jax.Device] | None:
    """So many devices, as many of every process; None: the first ones of a single process.

    Raises:
        UserError: processes cannot have as many each.
    """
    processes = distributed.count()
    if processes == 1:
        return None
    each, rest = divmod(count, processes)
    if rest:
        raise UserError(f"devices: {count} of them do not split over {processes} processes; choose a multiple")
    own = [[d for d in jax.devices() if d.process_index == p] for p in range(processes)]
    return [d for devices in own for d in sorted(devices, key=lambda d: d.id)[:each]]
