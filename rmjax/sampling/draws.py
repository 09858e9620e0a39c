"""One draw from a distribution over the vocabulary, and the random streams that draws come from.

A token's randomness is a function of (seed, request id, sample index, token number) and of nothing else, so a sample
does not depend on the batch, the slot, the order or the restart that it is drawn in. (What remains is rounding: another
batch shape may add in another order, and move a probability's last bit across the drawn number.)

Dimensions: *b batch, v vocabulary, p prompts, g samples of a prompt, r tokens of a round.
"""

from __future__ import annotations

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from rmjax.errors import UserError
from rmjax.sampling.constraints import release, restrict
from rmjax.sampling.filters import filtered
from rmjax.sampling.policy import Sampling
from rmjax.sharding import shard


def words(seed: int) -> np.ndarray:
    """A seed as the two uint32 words of a threefry key. UserError where it does not fit."""
    if not 0 <= seed < 2**64:
        raise UserError(f"seed={seed}: use a number from 0 to 2**64 - 1")
    return np.asarray([seed >> 32, seed & 0xFFFFFFFF], np.uint32)


def id_words(id: str) -> np.ndarray:
    """A stable hash of a request's id: two uint32 words."""
    return np.frombuffer(hashlib.blake2b(id.encode(), digest_size=8).digest(), np.dtype("<u4")).astype(np.uint32)


def uniforms(
    seed: UInt32[Array, " 2"],
    ids: UInt32[Array, "p 2"],
    index: Int[Array, "p g"],
    number: Int[Array, "p g"],
    tokens: int,
) -> Float[Array, "r p g 2"]:
    """Two numbers in [0, 1) for each of a sample's tokens `number`, `number` + 1, ...

    Args:
        seed: `words` of the run's seed.
        ids: `id_words` of each prompt's request.
        index: which sample of its request a slot holds.
        number: of the first token.
        tokens: how many (r).
    """
    root = jax.random.wrap_key_data(seed, impl="threefry2x32")
    fold = jax.random.fold_in

    def sample(id: Array, index: Array, number: Array) -> Array:
        key = fold(fold(fold(root, id[0]), id[1]), index)
        token = lambda n: jax.random.uniform(fold(key, n), (2,))
        return jax.vmap(token)(number + jnp.arange(tokens))

    drawn = jax.vmap(jax.vmap(sample, (None, 0, 0)))(ids, index, number)
    return jnp.moveaxis(drawn, 2, 0)


def block(vocab: int) -> int:
    """How many ids are drawn from at the second of `draw`'s two levels; the first is over blocks of so many."""
    return 1 << max(0, math.ceil(math.log2(vocab) / 2))


def whole(vocab: int, devices: int) -> int:
    """The vocabulary filled up so that each of the devices that it lies over holds whole blocks."""
    return vocab + -vocab % (block(vocab) * devices)


def draw(
    logits: Float[Array, "*b v"], uniform: Float[Array, "*b 2"] | None, sampling: Sampling, *, vocab: int = 0
) -> tuple[Int[Array, "*b"], Float[Array, "*b"]]:
    """Draws one token from each distribution.

    Args:
        logits: float32, untempered.
        uniform: two random numbers in [0, 1) each; None at temperature 0.
        sampling: how.
        vocab: ids from here on only fill up the vocabulary (`whole`), and are not drawn; 0: there are none.

    Returns:
        The tokens, int32, and the log of the sum of exp(logits): a token's log-probability is its logit minus that.
    """
    if vocab and vocab < logits.shape[-1]:
        logits = jnp.where(jnp.arange(logits.shape[-1]) < vocab, logits, -jnp.inf)
    size = block(vocab or logits.shape[-1])
    blocks = _blocks(logits, size)
    sums, top = _sums(blocks)
    normaliser = top + jnp.log(jnp.sum(sums, axis=-1))
    if sampling.greedy:
        index = _argmax(restrict(logits, sampling.allowed))
    elif sampling.plain:
        index = _inverse(blocks, sums, uniform)
    else:
        scores = restrict(logits, sampling.allowed)
        scores = filtered(scores / sampling.temperature, sampling)
        blocks = _blocks(scores, block(scores.shape[-1]) if sampling.allowed else size)
        index = _inverse(blocks, _sums(blocks)[0], uniform)
    return release(index, sampling.allowed), normaliser


def _argmax(x: Float[Array, "*b v"]) -> Int[Array, "*b"]:
    """The lowest index of the maximum, by two plain reductions: XLA's CPU argmax is not vectorised."""
    v = x.shape[-1]
    index = jnp.where(x == jnp.max(x, axis=-1, keepdims=True), jnp.arange(v), v - 1)
    return jnp.min(index, axis=-1).astype(jnp.int32)


def _blocks(scores: Float[Array, "*b v"], size: int) -> Float[Array, "*b n size"]:
    """The last axis in blocks, filled up with what is never drawn."""
    pad = [(0, 0)] * (scores.ndim - 1) + [(0, -scores.shape[-1] % size)]
    return jnp.pad(scores, pad, constant_values=-jnp.inf).reshape(*scores.shape[:-1], -1, size)


def _sums(blocks: Float[Array, "*b n m"]) -> tuple[Float[Array, "*b n"], Float[Array, "*b"]]:
    """The sum of exp(score - top) over each block, and top, the highest score of all."""
    top = jnp.max(blocks, axis=(-2, -1))
    sums = jnp.sum(jnp.exp(blocks - top[..., None, None]), axis=-1)
    if sums.ndim > 1:  # whole on every device from here on: there are few
        sums = shard(sums, "batch", *(None,) * (sums.ndim - 1))
    return sums, top


def _inverse(
    blocks: Float[Array, "*b n m"], sums: Float[Array, "*b n"], uniform: Float[Array, "*b 2"]
) -> Int[Array, "*b"]:
    """Inverts the cumulative distribution in two levels: a block of ids, then an id of the block.

    Only blocks are summed over the whole vocabulary, and each level has a random number of its own, so that float32
    numbers are fine enough for unlikely ids of large vocabularies.
    """
    which = _pick(sums, uniform[..., 0])
    inside = jnp.take_along_axis(blocks, which[..., None, None], axis=-2)[..., 0, :]
    inside = jnp.exp(inside - jnp.max(inside, axis=-1, keepdims=True))
    return which * blocks.shape[-1] + _pick(inside, uniform[..., 1])


def _pick(weights: Float[Array, "*b n"], uniform: Float[Array, "*b"]) -> Int[Array, "*b"]:
    """An index drawn by weight; never one of weight 0, whatever the rounding of the cumulative sum."""
    cumulative = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0.0)
    total = jnp.max(cumulative, axis=-1, keepdims=True)
    return jnp.argmax(cumulative > uniform[..., None] * total, axis=-1).astype(jnp.int32)
