"""Attention over packed rows (`data/rows.py`): token i sees token j iff they share a group, j is not later in the row,
and j belongs to the group's shared prompt or to i's own branch.

Dimensions: b rows, t tokens, n query heads, k key/value heads, q queries per key head, h head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rmjax.models.layers import softcap as cap_logits

MASKED = -1e30  # finite, so that a row without any visible token gives no NaN


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
    """Grouped-query attention under the packed-row rule; softmax in float32."""
    b, t, n, h = q.shape
    heads = k.shape[2]
    q = q.reshape(b, t, heads, n // heads, h)
    logits = jnp.einsum("btkqh,bskh->bkqts", q, k, preferred_element_type=jnp.float32) * scale
    logits = cap_logits(logits, softcap)
    logits = jnp.where(visible(positions, group, branch, window)[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkqts,bskh->btkqh", weights, v).reshape(b, t, n, h)
