"""The mesh that a job runs on."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import jax

from rmjax.errors import UserError
from rmjax.sharding import MESH_AXES, make_mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """How the devices of this machine are used: data x fsdp x tensor of them; at most one axis may be 0, the rest."""

    data: int = 1  # copies of the model, each with its part of every batch
    fsdp: int = 0  # parts of every parameter and of every batch
    tensor: int = 1  # parts of every matrix; must divide the number of key/value heads

    def shape(self, count: int) -> tuple[int, int, int]:
        """The mesh's shape on `count` devices. UserError where it is not theirs."""
        wanted = {axis: getattr(self, axis) for axis in MESH_AXES}
        said = ", ".join(f"devices.{axis}={n}" for axis, n in wanted.items())
        if min(wanted.values()) < 0 or list(wanted.values()).count(0) > 1:
            raise UserError(f"{said}: give numbers above 0, and 0 for at most one of them (the rest)")
        named = math.prod(n for n in wanted.values() if n)
        sizes = tuple(n or count // named for n in wanted.values())
        if math.prod(sizes) != count:
            raise UserError(f"{said} needs a multiple of {named} devices, but there are {count}: change one of them")
        return sizes

    def use(self) -> contextlib.AbstractContextManager:
        """Sets the mesh; nothing where there is one device."""
        count = jax.device_count()
        shape = self.shape(count)
        return contextlib.nullcontext() if count == 1 else jax.set_mesh(make_mesh(shape))
