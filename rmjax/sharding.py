"""The mesh, the one table from logical to mesh axes, and the helpers that use them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmjax.errors import UserError

T = TypeVar("T")  # a tree of arrays
GATHERED = 1 << 28  # bytes of an array that other processes send at once
MESH_AXES = ("data", "fsdp", "tensor")
RULES: Mapping[str, Any] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "layers": None,
    "embed": "fsdp",
    "act_embed": None,
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
}


def make_mesh(shape: tuple[int, int, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh of these devices, or of all. Auto is spelled out: jax's default is Explicit."""
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def current_mesh() -> Mesh | None:
    """The mesh set by `jax.set_mesh`, or None."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else mesh


def batch_parts(mesh: Mesh | None) -> int:
    """Into how many parts a batch is split."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in RULES["batch"])


def own_rows(batch: int, mesh: Mesh | None) -> list[int]:
    """The rows of a batch that lie on this process's devices, ascending; not one piece where the mesh mixes processes.

    Raises:
      UserError: the mesh does not split so many rows.
    """
    if mesh is None:
        return list(range(batch))
    if batch % batch_parts(mesh):
        raise UserError(f"batch={batch} does not split over {batch_parts(mesh)} data-parallel devices; use a multiple")
    found = NamedSharding(mesh, spec(("batch",))).addressable_devices_indices_map((batch,)).values()
    return sorted({row for index in found for row in range(*index[0].indices(batch))})


def place_rows(rows: T, mesh: Mesh | None) -> T:
    """This process's rows of a batch (`own_rows`) as its part of the arrays [b, ...] that lie over the whole mesh."""
    if mesh is None:
        return rows
    sharding, parts = NamedSharding(mesh, spec(("batch",))), batch_parts(mesh)
    own = own_rows(parts, mesh)

    def put(x: np.ndarray) -> jax.Array:
        each = x.shape[0] // len(own)
        first = {part * each: i * each for i, part in enumerate(own)}  # row of the batch -> row of ours
        piece = lambda at: x[first[at[0].start or 0] :][:each]
        return jax.make_array_from_callback((each * parts, *x.shape[1:]), sharding, piece)

    return jax.tree.map(put, rows)


def place_batch(rows: T, mesh: Mesh | None) -> T:
    """A whole batch [b, ...], which every process has, over the mesh; `batch_parts` divides b."""
    if mesh is None:
        return rows
    sharding = NamedSharding(mesh, spec(("batch",)))
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda at: x[at]), rows)


def to_host(x: Any) -> np.ndarray:
    """The whole array in this process, wherever its pieces are; all processes call it.

    Pieces of other processes come a slice of the first axis at a time: whole, a stacked matrix of a large model would
    not fit beside what a device holds.
    """
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    if x.ndim < 2 or x.nbytes <= GATHERED:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    out = np.empty(x.shape, x.dtype)
    for i in range(x.shape[0]):
        out[i] = multihost_utils.process_allgather(_row(x, i), tiled=True)
    return out


@jax.jit
def _row(x: jax.Array, i: int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, keepdims=False)


def spec(axes: Sequence[str | None]) -> P:
    """Logical axis names -> PartitionSpec."""
    return P(*(None if a is None else RULES[a] for a in axes))


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation; the identity where no mesh is set (unit tests)."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes))


def tree_shardings(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """Trees of logical axis tuples and of the arrays' shapes -> a tree of NamedShardings.

    Raises:
      UserError: a mesh axis does not divide a dimension that lies over it.
    """
    uneven = {}

    def sharding(names: tuple[str | None, ...], x: Any) -> NamedSharding:
        for name, size in zip(names, x.shape, strict=True):
            axis = RULES.get(name)
            if axis is not None and size % mesh.shape[axis]:
                uneven[f"{axis}={mesh.shape[axis]} does not divide {name}={size}"] = None
        return NamedSharding(mesh, spec(names))

    out = jax.tree.map(sharding, axes, shapes, is_leaf=lambda a: isinstance(a, tuple))
    if uneven:
        raise UserError(f"devices: {', '.join(uneven)} of the model: choose a mesh whose axes divide them")
    return out
