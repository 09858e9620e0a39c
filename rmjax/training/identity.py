"""What makes a training this one: a checkpoint of another is refused by the fields that differ."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmjax.data.rows import Group


def describe(value: Any, at: str) -> dict[str, str]:
    """A configuration as a flat table, `field.field` -> text."""
    if not dataclasses.is_dataclass(value):
        return {at: repr(value)}
    fields = [describe(getattr(value, f.name), f"{at}.{f.name}") for f in dataclasses.fields(value)]
    return functools.reduce(dict.__or__, fields, {at: type(value).__qualname__})


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The first few fields in which two such tables differ, in words."""
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return "; ".join(f"{k}: {old.get(k)} -> {new.get(k)}" for k in changed[:4]) + more


def fingerprint(groups: Sequence[Group]) -> str:
    """A hash of everything in the groups, in order."""
    digest = hashlib.sha256()
    for group in groups:
        columns = (group.ref_logps, group.weight, group.margin, group.smooth)
        numbers = [np.asarray(x, np.float32) for x in columns]
        for ids in (group.prompt, *group.completions, group.skip, [i for pair in group.pairs for i in pair]):
            numbers.append(np.asarray(ids, np.int32))
        digest.update(f"{group.id} {[x.size for x in numbers]}".encode())
        digest.update(b"".join(x.tobytes() for x in numbers))
    return digest.hexdigest()[:16]


def checksum(tree: Any) -> int:
    """The sum of all arrays' bits, modulo 2**32: the same on every mesh, and cheap beside writing them."""
    return int(_checksum(tree))


@jax.jit
def _checksum(tree: Any) -> jax.Array:
    def of(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
        return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)

    return functools.reduce(jnp.add, [of(x) for x in jax.tree.leaves(tree)])
