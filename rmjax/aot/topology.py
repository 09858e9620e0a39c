"""A TPU slice that is not there: its devices, as the compiler knows them, and the mesh over them."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh

from rmjax.aot.chips import chip
from rmjax.errors import UserError
from rmjax.sharding import MESH_AXES

INSTALL = "pip install 'rmjax[tpu]' (Linux, x86-64; no TPU is needed)"


def sizes(topology: str) -> tuple[int, ...]:
    """The network's axes: v5p:2x2x2 -> (2, 2, 2). UserError where the name is no such thing."""
    parts, axes = topology.partition(":")[2].split("x"), chip(topology).axes
    if not all(p.isdigit() and int(p) > 0 for p in parts) or len(parts) != axes:
        example = {2: "v5e:4x4", 3: "v5p:2x2x2"}[axes]
        raise UserError(f"--topology {topology}: write the chip and the slice's {axes} sizes, such as {example}")
    return tuple(int(p) for p in parts)


def devices(topology: str) -> Sequence[jax.Device]:
    """The slice's devices, one a chip; nothing runs on them.

    Raises:
      UserError: the TPU compiler is not installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"compile needs the TPU compiler, which is not installed: {INSTALL}")
    axes = sizes(topology)
    # Else it asks a metadata server, which only a TPU machine has, and waits for it.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_LIBRARY_PATH", _library())
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the lock is for chips, and there are none
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as e:
        first = str(e).strip().splitlines()[0][:200]
        raise UserError(f"--topology {topology}: the TPU compiler knows no such slice ({first})") from e
    if len(found) != math.prod(axes):
        raise UserError(f"--topology {topology}: the compiler makes {len(found)} devices of it; give another shape")
    return found


def _library() -> str:
    spec = importlib.util.find_spec("libtpu")
    return os.path.join(next(iter(spec.submodule_search_locations)), "libtpu.so")


def mesh(topology: str, shape: tuple[int, int, int]) -> Mesh:
    """A (data, fsdp, tensor) mesh over the slice, laid out for its network.

    Raises:
      UserError: as `devices`, or the shape is not of as many chips.
    """
    found = devices(topology)
    if math.prod(shape) != len(found):
        said = " x ".join(map(str, shape))
        raise UserError(f"--topology {topology} has {len(found)} chips, the mesh {said} = {math.prod(shape)}")
    try:
        grid = mesh_utils.create_device_mesh(shape, list(found))
    except NotImplementedError as e:  # as `sharding.make_mesh` on the slice itself
        said = " x ".join(map(str, shape))
        raise UserError(
            f"--topology {topology}: a mesh of {said} does not follow the network's axes; make each of devices.data, "
            "fsdp and tensor a product of some of them"
        ) from e
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)
