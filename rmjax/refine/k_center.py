"""k-center greedy: pairs that are far from everything labelled (Gonzalez 1985; Sener and Savarese, arXiv:1708.00489).

    next: argmax_i min_s |x_i - x_s|  over labelled and chosen s; of equal ones the first

A pass over the features for every pick reads 1.5 GB for a million vectors of width 384, so a pass is shared by several
picks, and the result is still the greedy one. Distances to the nearest centre only fall as centres are added. So the
`BATCH` farthest points are looked at together: among themselves their distances are known, and as long as the best of
them is still farther than the farthest point outside *was*, it is what greedy would take. What is taken enters all
distances in one pass (one product x c', and a minimum); the first of a batch always is, so there is never more than
one pass a pick.

Squared distances are |x|^2 - 2 x.c + |c|^2 in float32, exact to about 1e-6 |x|^2 (vectors that share a large constant
part should be centred first): points whose distances agree to that may change places with what exact arithmetic takes.
The features are not copied (nor cut into chunks of rows, each of which would be), beside them there are about 2 b
numbers a point, and the host waits once, at the end.

Dimensions: n points, f features, b batch, k picks, l labelled.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rmjax.errors import UserError
from rmjax.refine.select import free

BATCH = 16
BLOCK = 1024  # points whose farthest is looked up at once
TAKEN = -1.0  # stands for the distance of what cannot be taken (again)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KCenter:
    """Pairs far from the labelled ones, in the space of their instructions or of what is evaluated.

    arXiv:2407.02119's coresetIFT and coresetEFT. An evaluated pair has two answers, which may change places, so it is
    the vector [(first + second) / sqrt 2, |first - second| / sqrt 2], as long as [first, second] is; that is ours.
    """

    of: Literal["prompt", "answers"] = "prompt"

    def choose(self, pool, count, *, labelled, seed):
        there = free(pool, count, labelled)
        if self.of == "prompt":
            pool.needs("prompt", by="k-center of prompts")
            x = pool.prompt
        else:
            pool.needs("first", "second", by="k-center of answers")
            n, f = pool.first.shape
            x = np.empty((n, 2 * f), np.float32)  # filled in place: a pool's features may be gigabytes
            np.add(pool.first, pool.second, out=x[:, :f])
            np.abs(np.subtract(pool.first, pool.second, out=x[:, f:]), out=x[:, f:])
            x /= np.float32(np.sqrt(2))
        return greedy(x, count, centres=np.flatnonzero(~there))


def greedy(
    x: Float[np.ndarray, "n f"] | Float[Array, "n f"],
    count: int,
    *,
    centres: Int[np.ndarray, " l"],
    batch: int = BATCH,
) -> Int[np.ndarray, " k"]:
    """The places of `count` points, none of them a centre, in greedy order. With no centres the first is point 0.

    Args:
        x: finite; an array of the host is copied to the device once.
        centres: places of the points that are covered from the start.
        batch: points that are looked at together; it changes the time and not the result.

    Raises:
        UserError: squared distances that float32 does not hold, or NaN.
        ValueError: fewer than `count` points are no centres.
    """
    left = len(x) - len(np.unique(centres))
    if not 1 <= count <= left:
        raise ValueError(f"count={count}: {left} of {len(x)} points are no centres; give 1 to that")
    x = jax.device_put(x.astype(np.float32) if x.dtype != np.float32 else x)
    groups = -(-len(centres) // batch)
    padded = np.full(batch << max(0, groups - 1).bit_length(), -1, np.int32)  # few shapes, so few programs
    padded[: len(centres)] = centres
    found, square = _program(count, batch)(x, jnp.asarray(padded.reshape(-1, batch)), groups)
    if not 4 * float(square) < np.finfo(np.float32).max:  # NaN too
        raise UserError(f"k-center: a vector's squared length is {float(square):.3g}; scale the features down")
    return np.asarray(found, np.int64)


@functools.lru_cache(maxsize=16)
def _program(count: int, batch: int):
    @jax.jit
    def run(x, centres, groups):
        n = len(x)
        squares = jnp.sum(jnp.square(x), axis=1)

        def covered(distance, places: Int[Array, " b"]):
            """The distances with these points as centres (-1: none), which are then taken; one pass."""
            there = places >= 0
            length = jnp.where(there, squares[places], jnp.inf)
            near = squares + jnp.min(length - x @ (2.0 * x[places]).T, axis=1)
            distance = jnp.where(distance < 0, distance, jnp.minimum(distance, jnp.maximum(near, 0.0)))
            return distance.at[jnp.where(there, places, n)].set(TAKEN, mode="drop")

        start = jnp.full(n, jnp.finfo(jnp.float32).max)
        distance = jax.lax.fori_loop(0, groups, lambda i, d: covered(d, centres[i]), start)

        def step(state):
            done, found, distance = state
            value, place = _top(distance, batch + 1)
            outside = value[batch]
            value, place = value[:batch], place[:batch]
            c = x[place]
            apart = squares[place][:, None] + squares[place] - c @ (2.0 * c).T

            def pick(i, inner):
                value, taken, going = inner
                best = jnp.max(value)
                j = jnp.argmin(jnp.where(value == best, place, n))  # of equal ones the first of the pool
                going &= (i == 0) | ((best > outside) & (best > TAKEN) & (done + i < count))
                left = jnp.where(value < 0, value, jnp.minimum(value, jnp.maximum(apart[j], 0.0))).at[j].set(TAKEN)
                return jnp.where(going, left, value), taken.at[i].set(jnp.where(going, place[j], -1)), going

            begin = value, jnp.full(batch, -1, jnp.int32), jnp.bool_(True)
            _, taken, _ = jax.lax.fori_loop(0, batch, pick, begin)
            where = jnp.where(taken >= 0, done + jnp.arange(batch), count)
            return done + jnp.sum(taken >= 0), found.at[where].set(taken, mode="drop"), covered(distance, taken)

        begin = jnp.int32(0), jnp.zeros(count, jnp.int32), distance
        _, found, _ = jax.lax.while_loop(lambda state: state[0] < count, step, begin)
        return found, jnp.max(squares)

    return run


def _top(distance: Float[Array, " n"], count: int) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
    """The largest values, of equal ones the first, and their places; what is missing is `TAKEN`, at place n - 1.

    Sorting a million values costs as much as a pass over their features. The k largest lie in the k blocks of largest
    maximum (of equal ones the first), so only those are sorted.
    """
    blocks = -(-len(distance) // BLOCK)
    padded = jnp.pad(distance, (0, (blocks + max(0, count - blocks)) * BLOCK - len(distance)), constant_values=TAKEN)
    table = padded.reshape(-1, BLOCK)
    _, best = jax.lax.top_k(jnp.max(table, axis=1), count)
    best = jnp.sort(best)  # in the pool's order, for equal values
    value, place = jax.lax.top_k(table[best].reshape(-1), count)
    return value, jnp.minimum(best[place // BLOCK] * BLOCK + place % BLOCK, len(distance) - 1)
