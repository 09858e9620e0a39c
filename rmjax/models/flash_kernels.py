"""The three kernels of `flash.py`: what one step of their grids does with one tile.

Arguments are blocks in fast memory: first what is read, then what is written, then what stays between steps. A block of
queries, keys, values or gradients is [s, h], a number per query [1, s], `of_query` and `of_key` are the rows of
`flash_tiles.marks`. Numbers that belong to the rows of a [s, s] tile stay as [s, LANES], the same in every lane.

Dimensions: s tokens of a block, h head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from rmjax.models.blockwise import MASKED, How
from rmjax.models.flash_tiles import LANES


def split(x: Array, by: int) -> tuple[Array, Array]:
    """Quotient and remainder of numbers that are not negative; // and % look at the sign, and for that at the chip."""
    return jax.lax.div(x, jnp.int32(by)), jax.lax.rem(x, jnp.int32(by))


class Step(NamedTuple):
    """One tile, and its place among those of its outer block."""

    outer: Array  # block of the row
    inner: Array
    full: Array  # no mask needed
    first: Array
    last: Array
    window: Array | None

    @classmethod
    def of(cls, blocks: int, outer: Any, inner: Any, full: Any, window: Array | None) -> Step:
        """The tile of the grid's step."""
        at = pl.program_id(1)
        here = outer[at]
        first = (at == 0) | (outer[jnp.maximum(at - 1, 0)] != here)
        return cls(split(here, blocks)[1], inner[at], full[at] == 1, first, outer[at + 1] != here, window)


def forward_kernel(step: Step, how: How, q, k, v, of_query, of_key, out, lse, total, top, sums, code, position) -> None:
    """Output and log-sum-exp of a query block: softmax on the way over its key blocks."""

    @pl.when(step.first)
    def _() -> None:
        total[...] = jnp.zeros_like(total)
        top[...] = jnp.full_like(top, MASKED)
        sums[...] = jnp.zeros_like(sums)
        code[...], position[...] = _column(of_query[0:1]), _column(of_query[3:4])

    def tile(masked: bool) -> None:
        x, _ = _logits(q[...], k[...], how)
        if masked:
            x = jnp.where(_rows_see(step, how, code, position, of_key), x, MASKED)
        before = top[...]
        now = jnp.maximum(before, jnp.max(x, axis=1, keepdims=True))
        weights = jnp.exp(x - _wide(now, x.shape[1]))
        fade = jnp.exp(before - now)
        top[...] = now
        sums[...] = fade * sums[...] + jnp.sum(weights, axis=1, keepdims=True)
        total[...] = total[...] * _wide(fade, total.shape[1]) + _dot(weights.astype(v.dtype), v[...], 1, 0)

    _either(step.full, tile)

    @pl.when(step.last)
    def _() -> None:
        out[...] = (total[...] / _wide(sums[...], total.shape[1])).astype(out.dtype)
        lse[...] = (top[...] + jnp.log(sums[...])).T[0:1]


def dq_kernel(
    step: Step, how: How, q, k, v, g, lse, inner, of_query, of_key, dq, total, ends, means, code, position
) -> None:
    """The gradient of a query block. `inner`: the inner product of each query's output and its gradient."""

    @pl.when(step.first)
    def _() -> None:
        total[...] = jnp.zeros_like(total)
        ends[...], means[...] = _column(lse[...]), _column(inner[...])
        code[...], position[...] = _column(of_query[0:1]), _column(of_query[3:4])

    def tile(masked: bool) -> None:
        x, slope = _logits(q[...], k[...], how)
        weights = jnp.exp(x - _wide(ends[...], x.shape[1]))
        if masked:
            weights = jnp.where(_rows_see(step, how, code, position, of_key), weights, 0.0)
        d = weights * (_dot(g[...], v[...], 1, 1) - _wide(means[...], x.shape[1]))
        d = d if slope is None else d * slope
        total[...] += _dot(d.astype(k.dtype), k[...], 1, 0)

    _either(step.full, tile)

    @pl.when(step.last)
    def _() -> None:
        dq[...] = (total[...] * how.scale).astype(dq.dtype)


def dkv_kernel(
    step: Step, how: How, q, k, v, g, lse, inner, of_query, of_key, dk, dv, total_k, total_v, low, high, position
) -> None:
    """The gradients of a key block, over its query blocks and the query heads that share it; tiles are transposed."""
    head, heads = pl.program_id(2), pl.num_programs(2)

    @pl.when(step.first & (head == 0))
    def _() -> None:
        total_k[...], total_v[...] = jnp.zeros_like(total_k), jnp.zeros_like(total_v)
        low[...], high[...], position[...] = (_column(of_key[i : i + 1]) for i in (1, 2, 3))

    def tile(masked: bool) -> None:
        x, slope = _logits(k[...], q[...], how)
        weights = jnp.exp(x - lse[...])
        if masked:
            keys = [_wide(y[...], x.shape[1]) for y in (low, high, position)]
            mask = _see(step, how, (of_query[0:1], of_query[3:4]), keys, step.inner - step.outer, 1)
            weights = jnp.where(mask, weights, 0.0)
        total_v[...] += _dot(weights.astype(g.dtype), g[...], 1, 0)
        d = weights * (_dot(v[...], g[...], 1, 1) - inner[...])
        d = d if slope is None else d * slope
        total_k[...] += _dot(d.astype(q.dtype), q[...], 1, 0)

    _either(step.full, tile)

    @pl.when(step.last & (head == heads - 1))
    def _() -> None:
        dk[...] = (total_k[...] * how.scale).astype(dk.dtype)
        dv[...] = total_v[...].astype(dv.dtype)


def _column(x: Array) -> Array:
    """[1, s] -> [s, LANES]."""
    return jnp.broadcast_to(x, (LANES, x.shape[1])).T


def _wide(x: Array, width: int) -> Array:
    """[s, LANES] -> [s, width]."""
    return jnp.tile(x, (1, -(-width // LANES)))[:, :width]


def _rows_see(step: Step, how: How, code: Any, position: Any, of_key: Any) -> Bool[Array, "s s"]:
    """The rule on a tile whose rows are queries."""
    size = of_key.shape[1]
    keys = of_key[1:2], of_key[2:3], of_key[3:4]
    return _see(step, how, (_wide(code[...], size), _wide(position[...], size)), keys, step.outer - step.inner, 0)


def _see(
    step: Step, how: How, queries: Sequence[Array], keys: Sequence[Array], ahead: Array, axis: int
) -> Bool[Array, "s s"]:
    """The rule on a tile with queries along `axis`, whose block lies `ahead` blocks behind that of the keys."""
    (code, at), (low, high, position) = queries, keys
    mask = (low <= code) & (code <= high)
    if how.causal:
        index = functools.partial(jax.lax.broadcasted_iota, jnp.int32, mask.shape)
        mask &= index(1 - axis) - index(axis) <= ahead * mask.shape[0]
    if step.window is not None:
        mask &= at - position < step.window
    return mask


def _logits(x: Array, y: Array, how: How) -> tuple[Float[Array, "s s"], Float[Array, "s s"] | None]:
    """Float32 logits of a tile, and the slope of the soft cap, if there is one."""
    z = _dot(x, y, 1, 1) * how.scale
    if not how.softcap:
        return z, None
    z = jnp.tanh(z / how.softcap)
    return how.softcap * z, 1.0 - z * z


def _dot(x: Array, y: Array, i: int, j: int) -> Array:
    """The product over axis i of x and axis j of y; float32."""
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


def _either(full: Array, tile: Callable[[bool], None]) -> None:
    """tile(masked), without a mask where none is needed."""
    pl.when(full)(functools.partial(tile, False))
    pl.when(jnp.logical_not(full))(functools.partial(tile, True))
