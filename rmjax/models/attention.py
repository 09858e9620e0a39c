"""Attention over packed rows (`data/rows.py`): token i sees token j iff they share a group, j is not later in the row,
and j belongs to the group's shared prompt or to i's own branch.

Short rows are attended to densely; from `LONG` tokens on, by blocks that skip what nobody sees (`blockwise.py`).

Dimensions: b rows, t tokens, n query heads, k key/value heads, q queries per key head, h head size.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from rmjax.models import blockwise
from rmjax.models.blockwise import BLOCK, MASKED, WIDE, Layout
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
        layout = Layout(none, group, none, jnp.ones((), jnp.int32))
        out = _by_blocks(q, k, v, layout, 0.0, scale, causal=False)
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
        width = jnp.asarray(t if window is None else window, jnp.int32)
        out = _by_blocks(q, k, v, Layout(positions, group, branch, width), softcap, scale)
    return out.reshape(b, t, n, h)


def dense(
    q: Float[Array, "b t k q h"],
    k: Float[Array, "b t k h"],
    v: Float[Array, "b t k h"],
    mask: Bool[Array, "b t t"],
    softcap: float,
    scale: float,
) -> Float[Array, "b t k q h"]:
    """Every query against every key; the reference of `blockwise.attend`."""
    logits = jnp.einsum("btkqh,bskh->bkqts", q, k, preferred_element_type=jnp.float32) * scale
    logits = jnp.where(mask[:, None, None], cap_logits(logits, softcap), MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkqts,bskh->btkqh", weights, v)


def _by_blocks(
    q: Array, k: Array, v: Array, layout: Layout, softcap: float, scale: float, *, causal: bool = True
) -> Array:
    """`blockwise.attend` on rows filled up to whole blocks; under a mesh, each device by itself on its rows and heads.

    Its loops have as many turns as there is work, which no automatic partition of them could know.
    """
    t = q.shape[1]
    block = WIDE if t % WIDE == 0 and t > WIDE else BLOCK
    more = -t % block
    fill = lambda x, value=0: jnp.pad(x, ((0, 0), (0, more)) + ((0, 0),) * (x.ndim - 2), constant_values=value)
    q, k, v = fill(q), fill(k), fill(v)
    layout = Layout(fill(layout.positions), fill(layout.group, -1), fill(layout.branch), layout.window)
    run = lambda q, k, v, layout: blockwise.attend(q, k, v, layout, softcap, scale, block, causal)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:

        def over(name: str, size: int) -> tuple[str, ...] | None:
            axes = RULES[name] if isinstance(RULES[name], tuple) else (RULES[name],)
            return axes if size % math.prod(mesh.shape[a] for a in axes) == 0 else None

        rows, heads = over("batch", q.shape[0]), over("kv_heads", q.shape[2])
        tokens, wide, vector = P(rows, None, heads, None), P(rows, None, heads, None, None), P(rows, None)
        specs = (wide, tokens, tokens, Layout(vector, vector, vector, P()))
        run = jax.shard_map(run, in_specs=specs, out_specs=wide, check_vma=False)
    return run(q, k, v, layout)[:, :t]
