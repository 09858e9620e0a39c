"""Flash attention over packed rows as TPU kernels: tiles that nobody sees are neither computed nor read.

The tiles that hold anything visible are listed on the device (`flash_tiles.py`), and a kernel's grid has exactly that
many steps: its length is a number computed from the rows, and the lists tell each step which blocks to fetch (scalar
prefetch). Within a query block the softmax is online (arXiv:2205.14135); the backward pass computes it again from the
log-sum-exp, once summed over keys (dq) and once over queries (dk, dv). No array has t^2 entries.

Products take their inputs as they are (bfloat16 on the matrix unit) and sum in float32.

Dimensions: b rows, t tokens, k key/value heads, q queries per key head, n = k * q query heads, h head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from rmjax.models.blockwise import How, Layout
from rmjax.models.flash_kernels import Step, dkv_kernel, dq_kernel, forward_kernel, split
from rmjax.models.flash_tiles import LANES, block_size, list_tiles, marks, most_tiles

__all__ = ["backward", "block_size", "forward"]
NUMBER, INTEGER = (LANES, jnp.float32), (LANES, jnp.int32)  # scratch: one a token


class _Grid:
    """Steps over heads and tiles, and where in the arrays each step's blocks lie.

    Arrays are [b, heads, t, h], [b, n, 1, t] (a number per query) and [b, 4, t] (the rule). With `by_key`, tiles are
    summed up by key block, and the innermost steps are the query heads that share a key head.
    """

    def __init__(self, q: Float[Array, "b n t h"], k: Float[Array, "b k t h"], layout: Layout, how: How, by_key: bool):
        (self.b, self.n, t, self.h), self.heads = q.shape, k.shape[1]
        self.how, self.by_key, self.blocks, self.dtype = how, by_key, t // how.block, q.dtype
        self.tiles, self.windowed = list_tiles(layout, how.block, how.causal, by_key), layout.window is not None
        self.window = jnp.reshape(layout.window if self.windowed else 0, (1,)).astype(jnp.int32)
        size = how.block
        vectors = (None, None, size, self.h)
        self.query, self.key = (self._place(vectors, x, heads=True) for x in ("query", "key"))
        self.number = self._place((None, None, 1, size), "query", heads=True, lanes=True)
        self.of_query, self.of_key = (self._place((None, 4, size), x, lanes=True) for x in ("query", "key"))

    def _place(self, shape: tuple, what: str, *, heads: bool = False, lanes: bool = False) -> pl.BlockSpec:
        per = self.n // self.heads

        def index(head: Any, step: Any, *rest: Any) -> tuple[Any, ...]:
            if self.by_key:
                shared, outer, inner, *_ = rest
                head = {"query": head * per + shared, "key": head}[what]
            else:
                outer, inner, *_ = rest
                head = {"query": head, "key": split(head, per)[0]}[what]
            is_outer = self.by_key == (what == "key")
            row, block = split(outer[step], self.blocks)
            block = block if is_outer else inner[step]
            lead = (row, *((head,) if heads else ()))
            return (*lead, 0, block) if lanes else (*lead, block, 0)

        return pl.BlockSpec(shape, index)

    def run(
        self,
        kernel: Callable,
        products: int,
        inputs: Sequence[tuple[Array, pl.BlockSpec]],
        outputs: Sequence[tuple[tuple[int, ...], Any, pl.BlockSpec]],
        scratch: Sequence[tuple[int, Any]],
    ) -> list[Array]:
        """outputs: shape, dtype, block; scratch: width and dtype beside the tokens of a block."""
        size = self.how.block
        grid = (self.heads, self.tiles.count, self.n // self.heads) if self.by_key else (self.n, self.tiles.count)
        tiles = self.n * most_tiles(self.b, self.blocks, self.how.causal)  # how many there are is known on the device

        def body(outer: Any, inner: Any, full: Any, window: Any, *refs: Any) -> None:
            step = Step.of(self.blocks, outer, inner, full, window[0] if self.windowed else None)
            kernel(step, self.how, *refs)

        call = pl.pallas_call(
            body,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=4,
                grid=grid,
                in_specs=[block for _, block in inputs],
                out_specs=[block for *_, block in outputs],
                scratch_shapes=[pltpu.VMEM((size, width), dtype) for width, dtype in scratch],
            ),
            out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in outputs],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", *("arbitrary",) * (len(grid) - 1))),
            cost_estimate=pl.CostEstimate(
                flops=2 * products * size * size * self.h * tiles,
                transcendentals=size * size * tiles,
                bytes_accessed=2 * size * self.h * tiles * self.dtype.itemsize,  # the two inner blocks of a tile
            ),
            name=kernel.__name__,
        )
        return call(*self.tiles[:3], self.window, *(x for x, _ in inputs))


def forward(
    q: Float[Array, "b t k q h"], k: Float[Array, "b t k h"], v: Float[Array, "b t k h"], layout: Layout, how: How
) -> tuple[Float[Array, "b t k q h"], Float[Array, "b k q t"]]:
    """The output, and the log-sum-exp of each token's logits; t is a multiple of how.block, that of `LANES`."""
    queries, keys, values = map(_heads_first, (q, k, v))
    grid, rule = _Grid(queries, keys, layout, how, by_key=False), marks(layout)
    b, n, t, h = queries.shape
    inputs = (
        *((queries, grid.query), (keys, grid.key), (values, grid.key)),
        *((rule, grid.of_query), (rule, grid.of_key)),
    )
    outputs = (queries.shape, q.dtype, grid.query), ((b, n, 1, t), jnp.float32, grid.number)
    scratch = (h, jnp.float32), NUMBER, NUMBER, INTEGER, INTEGER
    out, lse = grid.run(forward_kernel, 2, inputs, outputs, scratch)
    return _tokens_first(out, q), lse.reshape(b, *q.shape[2:4], t)


def backward(
    q: Array, k: Array, v: Array, layout: Layout, how: How, out: Array, lse: Float[Array, "b k q t"], g: Array
) -> tuple[Array, Array, Array]:
    """The gradients of q, k, v for a gradient g of the output."""
    inner = jnp.moveaxis(jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1), 1, -1)
    queries, keys, values, grads = map(_heads_first, (q, k, v, g))
    b, n, t, h = queries.shape
    numbers, rule, total = [x.reshape(b, n, 1, t) for x in (lse, inner)], marks(layout), (h, jnp.float32)

    def inputs(grid: _Grid) -> tuple[tuple[Array, pl.BlockSpec], ...]:
        arrays = queries, keys, values, grads, *numbers, rule, rule
        places = grid.query, grid.key, grid.key, grid.query, grid.number, grid.number, grid.of_query, grid.of_key
        return tuple(zip(arrays, places, strict=True))

    grid = _Grid(queries, keys, layout, how, by_key=False)
    scratch = total, NUMBER, NUMBER, INTEGER, INTEGER
    (dq,) = grid.run(dq_kernel, 3, inputs(grid), [(queries.shape, q.dtype, grid.query)], scratch)
    grid = _Grid(queries, keys, layout, how, by_key=True)
    outputs = [(keys.shape, x.dtype, grid.key) for x in (k, v)]
    dk, dv = grid.run(dkv_kernel, 4, inputs(grid), outputs, (total, total, INTEGER, INTEGER, INTEGER))
    return _tokens_first(dq, q), _tokens_first(dk, k), _tokens_first(dv, v)


def _heads_first(x: Array) -> Float[Array, "b n t h"]:
    b, t, *_, h = x.shape
    return jnp.swapaxes(x.reshape(b, t, -1, h), 1, 2)


def _tokens_first(x: Float[Array, "b n t h"], like: Array) -> Array:
    return jnp.swapaxes(x, 1, 2).reshape(like.shape)
