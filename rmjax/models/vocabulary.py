"""The two ends of a language model, which read tables of the whole vocabulary: embeddings in, log-probabilities out.

A table [v, d] lies over the mesh in parts of its rows (tensor) and of its columns (fsdp). Neither end gathers all of it
at once: an embedding is looked up in every device's columns and what was found is exchanged, and log-probabilities walk
over the vocabulary in pieces, each gathered when its turn comes, with a running log-sum-exp.

Dimensions: b rows, t tokens, n scored tokens, d width, v vocabulary.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rmjax.models.layers import softcap
from rmjax.sharding import RULES, shard, spec

LOGIT_BYTES = 1 << 28  # the most that one piece's logits may take on a device
LOWEST = -1e30  # finite: below any logit


def shares_rows(rows: int) -> bool:
    """Whether a mesh is set and divides the rows of a batch."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and rows % math.prod(mesh.shape[a] for a in RULES["batch"]) == 0


def lookup(table: Float[Array, "v d"], tokens: Int[Array, "b t"], dtype: Any) -> Float[Array, "b t d"]:
    """The tokens' rows of the table, in `dtype`."""
    if not shares_rows(tokens.shape[0]):
        return shard(table.astype(dtype), "vocab", "act_embed")[tokens]
    tensor = jax.sharding.get_abstract_mesh().shape["tensor"]

    def local(table: Array, tokens: Array) -> Array:
        # The rows of all devices that hold other columns; then every device gets all columns of its own rows.
        tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        if tensor == 1:
            found = table[tokens].astype(dtype)
        else:
            tokens = tokens - jax.lax.axis_index("tensor") * table.shape[0]
            there = (tokens >= 0) & (tokens < table.shape[0])
            found = jnp.where(there[..., None], table[jnp.where(there, tokens, 0)], 0).astype(dtype)
            found = jax.lax.psum(found, "tensor")
        return jax.lax.all_to_all(found, "fsdp", split_axis=0, concat_axis=2, tiled=True)

    rows = spec(("batch", "length"))
    specs = (spec(("vocab", "embed")), rows)
    return jax.shard_map(local, in_specs=specs, out_specs=P(*rows, None), check_vma=False)(table, tokens)


def target_logps(
    states: Float[Array, "b n d"],
    targets: Int[Array, "b n"],
    table: Float[Array, "v d"],
    cap: float,
    pieces: int = 0,
) -> Float[Array, "b n"]:
    """log p(target | state), float32.

    Args:
      table: the output head's, as it is kept.
      cap: of the logits (`layers.softcap`).
      pieces: of the vocabulary; their logits are recomputed in the backward pass. 0: so many that a piece's logits fit
        in `LOGIT_BYTES`, and nothing is recomputed where one piece does.
    """
    if not shares_rows(states.shape[0]):
        return _local_logps(states, targets, table, cap, pieces, ())
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in ("fsdp", "tensor") if mesh.shape[axis] > 1)
    rows = P(RULES["batch"], None)
    run = functools.partial(_local_logps, cap=cap, pieces=pieces, axes=axes)
    specs = (P(*rows, None), rows, spec(("vocab", "embed")))
    return jax.shard_map(run, in_specs=specs, out_specs=rows, check_vma=False)(states, targets, table)


def _local_logps(
    states: Array, targets: Array, table: Array, cap: float, pieces: int, axes: tuple[str, ...]
) -> Float[Array, "b n"]:
    """One device's: of its rows, with the others of `axes` for what they have of the table."""
    (b, n, _), v, dtype = states.shape, table.shape[0], states.dtype
    pieces = min(v, pieces or -(-(4 * b * n * v) // LOGIT_BYTES))
    size = -(-v // pieces)
    first = jax.lax.axis_index("tensor") * v if "tensor" in axes else 0
    if dtype != table.dtype and table.dtype == jnp.float32:
        table = table.astype(dtype)
    table = jnp.pad(table, ((0, size * pieces - v), (0, 0))).reshape(pieces, size, -1)
    # Gradients of the states add up over the pieces: in float32.
    states = states.astype(jnp.float32)

    def piece(carry: tuple[Array, Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array, Array], None]:
        (top, total, found), (w, number) = carry, part
        if "fsdp" in axes:
            w = jax.lax.all_gather(w, "fsdp", axis=1, tiled=True)
        x = jnp.einsum("bnd,vd->bnv", states.astype(dtype), w.astype(dtype), preferred_element_type=jnp.float32)
        x = softcap(x, cap)
        ids = number * size + jnp.arange(size, dtype=targets.dtype)
        is_target = (targets - first)[..., None] == ids
        if size * pieces != v:
            x = jnp.where(ids < v, x, LOWEST)
            is_target &= ids < v  # what follows is the next device's
        higher = jnp.maximum(top, jax.lax.stop_gradient(jnp.max(x, axis=-1)))
        total = total * jnp.exp(top - higher) + jnp.sum(jnp.exp(x - higher[..., None]), axis=-1)
        # A comparison instead of a gather: its gradient is a select that fuses, not a scatter into the logits.
        found = found + jnp.sum(jnp.where(is_target, x, 0.0), axis=-1)
        return (higher, total, found), None

    carry = (jnp.full((b, n), LOWEST), jnp.zeros((b, n)), jnp.zeros((b, n)))
    if pieces == 1:
        carry, _ = piece(carry, (table[0], jnp.int32(0)))
    else:
        carry, _ = jax.lax.scan(jax.checkpoint(piece), carry, (table, jnp.arange(pieces, dtype=jnp.int32)))
    top, total, found = carry
    if "tensor" in axes:
        highest = jax.lax.pmax(jax.lax.stop_gradient(top), "tensor")
        total = jax.lax.psum(total * jnp.exp(top - highest), "tensor")
        top, found = highest, jax.lax.psum(found, "tensor")
    return found - top - jnp.log(total)
