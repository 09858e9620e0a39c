"""Attention over packed rows in blocks, for long rows: what no token of a block sees is not computed.

A prompt is causal and a branch sees its prompt and itself, so most of a row's [t, t] square is empty. Queries are cut
into blocks of 128 or 256 tokens; each (row, query block) is one *item*, and only the key blocks that it can see are
gathered and attended to, densely. Items are sorted by how many key blocks they need, rounded up to a class, and each
class is one loop whose trip count is the number of its items: control flow that really skips work, and no vmap, which
would turn it into a select. Memory is linear in t: one item's logits at a time, in both directions (arXiv:2205.14135's
recomputation from the log-sum-exp, without its online softmax, since an item has all its keys at hand).

Dimensions: b rows, t tokens, k key/value heads, q queries per key head, h head size, j blocks per row, i items (b j),
s tokens of a block, m gathered key tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

BLOCK, WIDE = 128, 256  # tokens; the wide one is a tenth faster on a CPU where it divides the row, else slower
MASKED = -1e30  # finite, so that a row without any visible token gives no NaN
NAME = "attention"  # what a rematerialisation policy saves: the output and its log-sum-exp


class Layout(NamedTuple):
    """What each token of packed rows is; see `data/rows.py`."""

    positions: Array  # [b, t] int32
    group: Array  # [b, t] int32
    branch: Array  # [b, t] int32
    window: Array | None  # [] int32; a token sees itself and the window - 1 positions before it; None: all before it


class How(NamedTuple):
    """What is fixed when the program is made."""

    softcap: float
    scale: float
    causal: bool = True  # False: tokens see later ones of the row as well (encoders)
    block: int = BLOCK  # tokens; divides the row


Forward = Callable[[Array, Array, Array, Layout, How], tuple[Array, Array]]
Backward = Callable[[Array, Array, Array, Layout, How, Array, Array, Array], tuple[Array, Array, Array]]


def differentiable(forward: Forward, backward: Backward) -> Callable[[Array, Array, Array, Layout, How], Array]:
    """attend(q, k, v, layout, how) of a forward that also gives the log-sum-exp and a backward that starts from it.

    Shapes: q and the output [b, t, k, q, h], k and v [b, t, k, h], log-sum-exp [b, k, q, t]. Kept between the two are
    inputs, output and log-sum-exp; the last two are named `NAME`.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
    def attend(q: Array, k: Array, v: Array, layout: Layout, how: How) -> Array:
        return forward(q, k, v, layout, how)[0]

    def attend_fwd(q: Array, k: Array, v: Array, layout: Layout, how: How) -> tuple[Array, tuple]:
        out, lse = forward(q, k, v, layout, how)
        out, lse = checkpoint_name(out, NAME), checkpoint_name(lse, NAME)
        return out, (q, k, v, layout, out, lse)

    def attend_bwd(how: How, kept: tuple, g: Array) -> tuple[Array, Array, Array, None]:
        q, k, v, layout, out, lse = kept
        return *backward(q, k, v, layout, how, out, lse, g), None

    attend.defvjp(attend_fwd, attend_bwd)
    return attend


def block_size(t: int) -> int:
    """Tokens of a block for rows of t tokens."""
    return WIDE if t % WIDE == 0 and t > WIDE else BLOCK


class _Plan(NamedTuple):
    """Which key blocks each item gathers, and which items each class holds."""

    blocks: Array  # [i, j] int32: an item's key blocks, those it needs first
    needs: Array  # [i] int32: how many it needs; 0: the item is padding and is skipped
    items: Array  # [i] int32: items sorted by class
    starts: Array  # [classes + 1] int32: where each class begins in `items`


def classes(blocks: int) -> tuple[int, ...]:
    """Numbers of key blocks that programs are made for: every one up to 6, then steps of a third."""
    sizes = [1]
    while sizes[-1] < blocks:
        sizes.append(min(blocks, sizes[-1] + max(1, sizes[-1] // 3)))
    return tuple(sizes)


def cut(layout: Layout, block: int) -> tuple[Bool[Array, "b j s"], tuple[Array, Array, Array]]:
    """What is no padding, and group, branch and positions, by blocks."""
    b, t = layout.group.shape
    group, branch, positions = (
        x.reshape(b, t // block, block) for x in (layout.group, layout.branch, layout.positions)
    )
    return group >= 0, (group, branch, positions)


def extent(x: Int[Array, "b j s"], where: Bool[Array, "b j s"]) -> tuple[Int[Array, "b j"], Int[Array, "b j"]]:
    """The least and the largest of each block."""
    low = jnp.min(jnp.where(where, x, jnp.iinfo(jnp.int32).max), axis=-1)
    return low, jnp.max(jnp.where(where, x, -1), axis=-1)


def blocks_meet(layout: Layout, block: int, causal: bool) -> Bool[Array, "b j j"]:
    """[row, query block, key block]: does any query see any key? By the extents of groups, branches and positions.

    Never too few, and exact on most rows.
    """
    there, (group, branch, positions) = cut(layout, block)

    def meet(x: Array, where: Array) -> Bool[Array, "b j j"]:
        low, high = extent(x, where)
        return (low[:, :, None] <= high[:, None, :]) & (low[:, None, :] <= high[:, :, None])

    any_prompt = jnp.any(there & (branch == 0), axis=-1)[:, None, :]
    needed = meet(group, there) & (any_prompt | meet(branch, there & (branch > 0)))
    if layout.window is not None:
        first, last = extent(positions, there)
        needed &= first[:, :, None] - last[:, None, :] < layout.window
    if causal:
        needed &= jnp.tril(jnp.ones(needed.shape[1:], bool))
    return needed


def _plan(layout: Layout, block: int, causal: bool = True) -> _Plan:
    b, t = layout.group.shape
    needed = blocks_meet(layout, block, causal).reshape(b * (t // block), t // block)
    blocks = jnp.argsort(~needed, axis=1, stable=True).astype(jnp.int32)
    needs = jnp.sum(needed, axis=1, dtype=jnp.int32)
    sizes = jnp.asarray((0, *classes(t // block)), jnp.int32)
    which = jnp.searchsorted(sizes, needs).astype(jnp.int32)
    items = jnp.argsort(which, stable=True).astype(jnp.int32)
    starts = jnp.searchsorted(which[items], jnp.arange(1, len(sizes) + 1)).astype(jnp.int32)
    return _Plan(blocks, needs, items, starts)


def _each_item(plan: _Plan, carry: Any, body: Callable[[Any, Array, int], Any]) -> Any:
    """carry = body(carry, item, key blocks of its class), for every item that is not padding."""
    for c, size in enumerate(classes(plan.blocks.shape[1])):

        def step(at: Array, carry: Any, size: int = size) -> Any:
            return body(carry, plan.items[at], size)

        carry = jax.lax.fori_loop(plan.starts[c], plan.starts[c + 1], step, carry)
    return carry


class _Item:
    """One query block and the keys it sees, by dynamic slices of the whole batch's arrays."""

    def __init__(self, plan: _Plan, layout: Layout, item: Array, size: int, block: int, causal: bool):
        self.causal, self.block, self.columns = causal, block, layout.group.shape[1] // block
        self.row, self.at = item // self.columns, item % self.columns
        self.blocks = jax.lax.dynamic_slice(plan.blocks, (item, 0), (1, size))[0]
        self.needs = plan.needs[item]
        self.layout = layout

    def queries(self, x: Float[Array, "b t k q h"]) -> Float[Array, "k r h"]:
        """The item's rows of x, heads first; r = s q."""
        _, _, k, q, h = x.shape
        x = jax.lax.dynamic_slice(x, (self.row, self.at * self.block, 0, 0, 0), (1, self.block, k, q, h))[0]
        return jnp.swapaxes(x, 0, 1).reshape(k, self.block * q, h)

    def put(self, x: Float[Array, "b t k q h"], y: Float[Array, "k r h"]) -> Float[Array, "b t k q h"]:
        """The inverse of `queries`: x with the item's rows set to y."""
        _, _, k, q, h = x.shape
        y = jnp.swapaxes(y.reshape(k, self.block, q, h), 0, 1)[None].astype(x.dtype)
        return jax.lax.dynamic_update_slice(x, y, (self.row, self.at * self.block, 0, 0, 0))

    def keys(self, x: Float[Array, "b t k h"]) -> Float[Array, "k m h"]:
        """The item's key blocks, side by side, heads first."""
        _, _, k, h = x.shape
        x = jax.lax.dynamic_index_in_dim(x, self.row, 0, keepdims=False).reshape(self.columns, self.block, k, h)
        return jnp.swapaxes(jnp.take(x, self.blocks, axis=0, mode="clip").reshape(-1, k, h), 0, 1)

    def add(self, x: Float[Array, "b t k h"], y: Float[Array, "k h m"]) -> Float[Array, "b t k h"]:
        """x with y added at the item's key blocks; those it does not need hold nothing and are passed over."""
        k, h, _ = y.shape

        def one(i: Array, x: Array) -> Array:
            part = jax.lax.dynamic_slice(y, (0, 0, i * self.block), (k, h, self.block))
            part = jnp.transpose(part, (2, 0, 1))[None]
            where = (self.row, self.blocks[i] * self.block, 0, 0)
            return jax.lax.dynamic_update_slice(x, jax.lax.dynamic_slice(x, where, part.shape) + part, where)

        return jax.lax.fori_loop(0, self.needs, one, x)

    def mask(self) -> Bool[Array, "s m"]:
        """The packed-row rule, element by element."""

        def at_queries(x: Array) -> Array:
            return jax.lax.dynamic_slice(x, (self.row, self.at * self.block), (1, self.block))[0][:, None]

        def at_keys(x: Array) -> Array:
            x = jax.lax.dynamic_index_in_dim(x, self.row, 0, keepdims=False).reshape(self.columns, self.block)
            return jnp.take(x, self.blocks, axis=0, mode="clip").reshape(1, -1)

        layout, inside = self.layout, jnp.arange(self.block, dtype=jnp.int32)
        index = (self.at * self.block + inside)[:, None], (self.blocks[:, None] * self.block + inside).reshape(1, -1)
        needed = jnp.repeat(jnp.arange(self.blocks.shape[0]) < self.needs, self.block)[None]
        branch = at_keys(layout.branch)
        mask = (at_queries(layout.group) == at_keys(layout.group)) & needed
        if self.causal:
            mask &= index[1] <= index[0]
        mask &= (branch == 0) | (branch == at_queries(layout.branch))
        if layout.window is not None:
            mask &= at_queries(layout.positions) - at_keys(layout.positions) < layout.window
        return mask

    def logits(self, q: Array, k: Array, softcap: float, scale: float) -> tuple[Array, Array | None]:
        """Masked float32 logits [k, r, m], and the slope of the soft cap, if there is one."""
        x = _dot(q, k, 2, 2) * scale
        slope = None
        if softcap:
            x = softcap * jnp.tanh(x / softcap)
            slope = 1.0 - jnp.square(x / softcap)
        _, rows, keys = x.shape
        mask = jnp.broadcast_to(self.mask()[:, None], (self.block, rows // self.block, keys)).reshape(rows, keys)
        return jnp.where(mask, x, MASKED), slope


def _dot(x: Array, y: Array, i: int, j: int) -> Float[Array, "k m n"]:
    """The product of x and y over axis i of x and axis j of y, batched over heads (axis 0); float32.

    Whatever i and j are, both free axes stay in order: the forms that CPU kernels take without a transposed copy.
    """
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((0,), (0,))), preferred_element_type=jnp.float32)


def forward(
    q: Float[Array, "b t k q h"], k: Float[Array, "b t k h"], v: Float[Array, "b t k h"], layout: Layout, how: How
) -> tuple[Float[Array, "b t k q h"], Float[Array, "b k q t"]]:
    """The output, and the log-sum-exp of each token's logits. Padding gets zeros."""
    plan = _plan(layout, how.block, how.causal)

    def body(carry: tuple[Array, Array], number: Array, size: int) -> tuple[Array, Array]:
        out, lse = carry
        item = _Item(plan, layout, number, size, how.block, how.causal)
        logits, _ = item.logits(item.queries(q), item.keys(k), how.softcap, how.scale)
        top = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        o = _dot(weights.astype(v.dtype), item.keys(v), 2, 1) / total
        return item.put(out, o), item.put(lse, top + jnp.log(total))

    zeros = jnp.zeros(q.shape, q.dtype), jnp.zeros((*q.shape[:-1], 1), jnp.float32)
    out, lse = _each_item(plan, zeros, body)
    return out, jnp.moveaxis(lse[..., 0], 1, -1)


def backward(
    q: Array, k: Array, v: Array, layout: Layout, how: How, out: Array, lse: Float[Array, "b k q t"], g: Array
) -> tuple[Array, Array, Array]:
    """The gradients of q, k, v for a gradient g of the output."""
    plan = _plan(layout, how.block, how.causal)
    lse = jnp.moveaxis(lse, -1, 1)[..., None]

    def body(carry: tuple[Array, Array, Array], number: Array, size: int) -> tuple[Array, Array, Array]:
        dq, dk, dv = carry
        item = _Item(plan, layout, number, size, how.block, how.causal)
        qs, ks, gs = item.queries(q), item.keys(k), item.queries(g)
        # Within the item: over whole arrays, XLA fuses this sum into the product that makes g and recomputes it.
        inner = jnp.sum(gs.astype(jnp.float32) * item.queries(out).astype(jnp.float32), axis=-1, keepdims=True)
        logits, slope = item.logits(qs, ks, how.softcap, how.scale)
        weights = jnp.exp(logits - item.queries(lse))
        d = weights * (_dot(gs, item.keys(v), 2, 2) - inner) * how.scale
        d = (d if slope is None else d * slope).astype(q.dtype)
        dv = item.add(dv, _dot(gs, weights.astype(g.dtype), 1, 1))
        dk = item.add(dk, _dot(qs, d, 1, 1))
        return item.put(dq, _dot(d, ks, 2, 1)), dk, dv

    zeros = jnp.zeros(k.shape, jnp.float32)
    dq, dk, dv = _each_item(plan, (jnp.zeros_like(q), zeros, zeros), body)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype)
