"""Which tiles of packed rows hold anything visible, as lists for the kernels of `flash.py`.

A tile is one block of queries against one block of keys of the same row.

Dimensions: b rows, t tokens, j blocks per row, i items of a list.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rmjax.models.blockwise import Layout, blocks_meet, cut, extent

BLOCK = 512  # tokens: 1 MiB of float32 logits, and products that take longer than fetching what they read
LANES = 128  # of a vector register; blocks are multiples of it
NEVER = jnp.iinfo(jnp.int32).max


class Tiles(NamedTuple):
    """The tiles to compute, in order; those of one outer block follow each other and are summed up."""

    outer: Int[Array, " i+1"]  # row * j + block; -1 behind the last
    inner: Int[Array, " i+1"]  # the block of the same row that it meets
    full: Int[Array, " i+1"]  # 1: every query sees every key
    count: Int[Array, ""]  # tiles; what is behind them in the lists is not computed


def block_size(t: int) -> int:
    """Tokens of a block for rows of t tokens."""
    return min(BLOCK, -(-t // LANES) * LANES)


def most_tiles(b: int, blocks: int, causal: bool) -> int:
    """Tiles of b rows in which every token sees every earlier one (every one, if not causal)."""
    return b * (blocks * (blocks + 1) // 2 if causal else blocks * blocks)


def list_tiles(layout: Layout, block: int, causal: bool, by_key: bool = False) -> Tiles:
    """Lists the tiles with anything visible; outer blocks are those of queries, or of keys.

    Every outer block has at least one tile, even if it is all padding: its result is written after its last one.
    """
    blocks = layout.group.shape[1] // block
    needed = blocks_meet(layout, block, causal) | jnp.eye(blocks, dtype=bool)
    full = _full(layout, block, causal)
    if by_key:
        needed, full = needed.swapaxes(1, 2), full.swapaxes(1, 2)
    # One sort of numbers that say all: a scatter or a gather would be many slow little steps.
    number = 2 * jnp.arange(needed.size, dtype=jnp.int32) + full.reshape(-1)
    number = jnp.sort(jnp.where(needed.reshape(-1), number, NEVER))[: most_tiles(len(needed), blocks, causal)]
    number = jnp.append(number, NEVER)
    behind, at = number == NEVER, number // 2
    outer, inner = jnp.where(behind, -1, at // blocks), jnp.where(behind, 0, at % blocks)
    return Tiles(outer, inner, number % 2, jnp.sum(needed, dtype=jnp.int32))


def _full(layout: Layout, block: int, causal: bool) -> Bool[Array, "b j j"]:
    """[row, query block, key block]: does every query see every key? Such tiles need no mask."""
    there, (group, branch, positions) = cut(layout, block)

    def same(x: Array) -> Bool[Array, "b j j"]:
        """One value in both blocks."""
        low, high = extent(x, there)
        one = low == high
        return one[:, :, None] & one[:, None, :] & (low[:, :, None] == low[:, None, :])

    whole = jnp.all(there, axis=-1)
    full = whole[:, :, None] & whole[:, None, :] & same(group)
    full &= jnp.all(branch == 0, axis=-1)[:, None, :] | same(branch)
    if causal:
        full &= jnp.tril(jnp.ones(full.shape[1:], bool), -1)
    if layout.window is not None:
        first, last = extent(positions, there)
        full &= last[:, :, None] - first[:, None, :] < layout.window
    return full


def marks(layout: Layout) -> Int[Array, "b 4 t"]:
    """The packed-row rule as numbers: a token sees those whose low <= its code <= high.

    The four rows are code, low, high and position. Padding sees nothing and is not seen. A row of t tokens has less
    than t^2 / 4 codes, since each group and each branch has a token: 32 bits do for any row below 92,000.
    """
    there, many = layout.group >= 0, jnp.max(layout.branch, axis=1, keepdims=True) + 1
    start = layout.group * many
    code = start + layout.branch
    high = jnp.where(layout.branch == 0, start + many - 1, code)
    rows = jnp.where(there, code, -1), jnp.where(there, code, NEVER), jnp.where(there, high, -1), layout.positions
    return jnp.stack(rows, axis=1).astype(jnp.int32)
