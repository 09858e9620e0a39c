"""Attention over packed rows (`data/rows.py`): token i sees token j iff they share a group, j is not later in the row,
and j belongs to the group's shared prompt or to i's own branch.

Short rows are attended to densely; from `LONG` tokens on, by blocks that skip what nobody sees: with the kernels of
`flash.py` where the program is made for a TPU, with the plain JAX of `blockwise.py` elsewhere.

Dimensions: b rows, t tokens, n query heads, k key/value heads, q queries per key head, h head size.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from rmjax.models import blockwise, flash
from rmjax.models.blockwise import MASKED, How, Layout, differentiable
from rmjax.models.layers import softcap as cap_logits
from rmjax.sharding import RULES

LONG = 256  # tokens; a gradient on 2 CPU cores by blocks is 1.5 times as fast there, 1.7 at 512 and 4 at 1,024


def visible(
    positions: Int[Array, "b t"],
    group: Int[Array, "b t"],
    branch: Int[Array, "b t"],
    window: int | Int[Array, ""] | None,
) -> Bool[Array, "b t t"]:
    """The packed-row rule as a mask [row, query, key]; with a window, also position_i - position_j < window."""
    t = positions.shape[1]
    same = group[:, :, None] == group[:, None, :]
    causal = jnp.tril(jnp.ones((t, t), bool))
    path = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    mask = same & causal & path
    if window is not None:
        mask &= positions[:, :, None] - positions[:, None, :] < window
    return mask


def attend_both_ways(
    q: Float[Array, "b t n h"], k: Float[Array, "b t n h"], v: Float[Array, "b t n h"], group: Int[Array, "b t"]
) -> Float[Array, "b t n h"]:
    """An encoder's attention: a token sees its whole group, before and after it. Padding gets anything finite."""
    b, t, n, h = q.shape
    q, scale = q[:, :, :, None], h**-0.5
    if t < LONG:
        out = dense(q, k, v, group[:, :, None] == group[:, None, :], 0.0, scale)
    else:
        none = jnp.zeros_like(group)
        out = _by_blocks(q, k, v, Layout(none, group, none, None), How(0.0, scale, causal=False))
    return out.reshape(b, t, n, h)


def attend(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b t k h"],
    v: Float[Array, "b t k h"],
    positions: Int[Array, "b t"],
    group: Int[Array, "b t"],
    branch: Int[Array, "b t"],
    *,
    window: int | Int[Array, ""] | None,
    softcap: float,
    scale: float,
) -> Float[Array, "b t n h"]:
    """Grouped-query attention under the packed-row rule; softmax in float32. Padding gets anything finite."""
    b, t, n, h = q.shape
    heads = k.shape[2]
    q = q.reshape(b, t, heads, n // heads, h)
    if t < LONG:
        out = dense(q, k, v, visible(positions, group, branch, window), softcap, scale)
    else:
        width = None if window is None else jnp.asarray(window, jnp.int32)
        out = _by_blocks(q, k, v, Layout(positions, group, branch, width), How(softcap, scale))
    return out.reshape(b, t, n, h)


def dense(
    q: Float[Array, "b t k q h"],
    k: Float[Array, "b t k h"],
    v: Float[Array, "b t k h"],
    mask: Bool[Array, "b t t"],
    softcap: float,
    scale: float,
) -> Float[Array, "b t k q h"]:
    """Every query against every key; the reference of the other two."""
    logits = jnp.einsum("btkqh,bskh->bkqts", q, k, preferred_element_type=jnp.float32) * scale
    logits = jnp.where(mask[:, None, None], cap_logits(logits, softcap), MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkqts,bskh->btkqh", weights, v)


def _fill(x: Array, more: int, axis: int = 1, value: int = 0) -> Array:
    return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)], constant_values=value)


def _whole(way: ModuleType, layout: Layout, how: How) -> tuple[int, Layout, How]:
    """How many tokens of padding make whole blocks of a row, and layout and settings with them."""
    t = layout.group.shape[1]
    block = way.block_size(t)
    more = -t % block
    positions, group, branch = (_fill(x, more, value=-(i == 1)) for i, x in enumerate(layout[:3]))
    return more, Layout(positions, group, branch, layout.window), how._replace(block=block)


def _forward(q: Array, k: Array, v: Array, layout: Layout, how: How) -> tuple[Array, Array]:
    def run(way: ModuleType, q: Array, k: Array, v: Array, layout: Layout) -> tuple[Array, Array]:
        more, layout, whole = _whole(way, layout, how)
        out, lse = way.forward(*(_fill(x, more) for x in (q, k, v)), layout, whole)
        return out[:, : q.shape[1]], lse[..., : q.shape[1]]

    ways = functools.partial(run, flash), functools.partial(run, blockwise)
    return jax.lax.platform_dependent(q, k, v, layout, tpu=ways[0], default=ways[1])


def _backward(
    q: Array, k: Array, v: Array, layout: Layout, how: How, out: Array, lse: Array, g: Array
) -> tuple[Array, Array, Array]:
    def run(way: ModuleType, layout: Layout, lse: Array, *vectors: Array) -> tuple[Array, ...]:
        more, layout, whole = _whole(way, layout, how)
        q, k, v, out, g = (_fill(x, more) for x in vectors)
        grads = way.backward(q, k, v, layout, whole, out, _fill(lse, more, 3), g)
        return tuple(x[:, : lse.shape[3]] for x in grads)

    ways = functools.partial(run, flash), functools.partial(run, blockwise)
    return jax.lax.platform_dependent(layout, lse, q, k, v, out, g, tpu=ways[0], default=ways[1])


_attend_long = differentiable(_forward, _backward)


def _by_blocks(q: Array, k: Array, v: Array, layout: Layout, how: How) -> Array:
    """Attention over long rows; under a mesh, each device by itself on its rows and heads.

    Its loops have as many turns as there is work, which no automatic partition of them could know.
    """
    run = lambda q, k, v, layout: _attend_long(q, k, v, layout, how)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:

        def over(name: str, size: int) -> tuple[str, ...] | None:
            axes = RULES[name] if isinstance(RULES[name], tuple) else (RULES[name],)
            return axes if size % math.prod(mesh.shape[a] for a in axes) == 0 else None

        rows, heads = over("batch", q.shape[0]), over("kv_heads", q.shape[2])
        tokens, wide, vector = P(rows, None, heads, None), P(rows, None, heads, None, None), P(rows, None)
        window = None if layout.window is None else P()
        specs = (wide, tokens, tokens, Layout(vector, vector, vector, window))
        run = jax.shard_map(run, in_specs=specs, out_specs=wide, check_vma=False)
    return run(q, k, v, layout)
