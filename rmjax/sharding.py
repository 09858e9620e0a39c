"""The mesh, the one table from logical to mesh axes, and the helpers that use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmjax.errors import UserError

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


def make_mesh(shape: tuple[int, int, int]) -> Mesh:
    """A (data, fsdp, tensor) mesh. Auto is spelled out: since jax 0.9 the default is Explicit."""
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


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
