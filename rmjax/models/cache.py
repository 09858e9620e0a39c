"""Caches of keys and values while decoding: a prompt's are shared by its samples, each sample adds its own suffix.

Every layer has arrays of its own, because a matrix product reads a whole buffer in place but a layer of a stacked one
through a copy. All suffixes are written at one shared clock position, one contiguous write a layer and step; the cache
is a ring, and a sample's tokens are those of the last `lengths` steps.

Dimensions: p prompts, g samples of a prompt, b = p * g samples, s prompt tokens, m suffix tokens, k key/value heads,
q queries per key head, n = k * q query heads, h head size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rmjax.models.attention import MASKED
from rmjax.models.config import DecoderConfig
from rmjax.models.layers import softcap as cap_logits
from rmjax.sharding import shard

Leaf = Any  # an array, or what tree.map put in its place; the shape is in the comment


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """Keys and values of each distinct prompt, right padded; never written after the prefill."""

    k: tuple[Leaf, ...]  # per layer [p, k, h, s]: queries times keys then needs no transposition
    v: tuple[Leaf, ...]  # per layer [p, k, s, h]
    lengths: Leaf  # [p] int32

    @classmethod
    def empty(cls, config: DecoderConfig, prompts: int, size: int) -> PromptCache:
        """No prompt yet; room for `size` tokens of each."""
        heads, h = config.kv_heads, config.head_dim
        k = lambda: shard(jnp.zeros((prompts, heads, h, size), config.dtype), "batch", "kv_heads", None, None)
        v = lambda: shard(jnp.zeros((prompts, heads, size, h), config.dtype), "batch", "kv_heads", None, None)
        layers = range(config.layers)
        return cls(tuple(k() for _ in layers), tuple(v() for _ in layers), jnp.zeros(prompts, jnp.int32))

    def put(self, rows: Int[Array, " b"], new: PromptCache) -> PromptCache:
        """Replaces the prompts `rows` by new ones; a row beyond the last is dropped."""
        return jax.tree.map(lambda old, x: old.at[rows].set(x, mode="drop"), self, new)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixCache:
    """Keys and values of what each sample has generated: slot (p, g) holds the tokens of the last `lengths` steps.

    The step that `clock` counts writes position clock % m. A sample longer than m has lost its first tokens. p and g
    are one axis of the arrays: a reshape between the write and the product that reads it would copy the cache.
    """

    k: tuple[Leaf, ...]  # per layer [b, k, m, h]
    v: tuple[Leaf, ...]  # per layer [b, k, m, h]
    lengths: Leaf  # [p, g] int32
    clock: Leaf  # [] int32: steps made

    @classmethod
    def empty(cls, config: DecoderConfig, prompts: int, samples: int, size: int) -> SuffixCache:
        """Room for `size` tokens of each sample."""
        shape = (prompts * samples, config.kv_heads, size, config.head_dim)
        zeros = lambda: shard(jnp.zeros(shape, config.dtype), "batch", "kv_heads", None, None)
        layers = range(config.layers)
        lengths = jnp.zeros((prompts, samples), jnp.int32)
        return cls(tuple(zeros() for _ in layers), tuple(zeros() for _ in layers), lengths, jnp.int32(0))

    @property
    def size(self) -> int:
        """Tokens that a sample has room for."""
        return self.k[0].shape[2]

    def write(
        self, layer: int, k: Float[Array, "p g k h"], v: Float[Array, "p g k h"]
    ) -> tuple[Float[Array, "b k m h"], Float[Array, "b k m h"]]:
        """One layer with this step's token of every sample, in place where the cache is a loop's carry."""
        at = self.clock % self.size

        def put(old: Array, new: Array) -> Array:
            new = new.reshape(-1, *new.shape[2:])[:, :, None]
            return jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=2)

        return put(self.k[layer], k), put(self.v[layer], v)

    def age(self) -> Int[Array, " m"]:
        """How many steps ago a position was written, this step's being 0."""
        return (self.clock - jnp.arange(self.size)) % self.size

    def grow(self, size: int) -> SuffixCache:
        """The same tokens with more room."""

        def wider(x: Array) -> Array:
            oldest_first = jnp.roll(x, -(self.clock % self.size), axis=2)
            return jnp.pad(oldest_first, ((0, 0), (0, 0), (0, size - self.size), (0, 0)))

        k, v = tuple(map(wider, self.k)), tuple(map(wider, self.v))
        return SuffixCache(k, v, self.lengths, jnp.int32(self.size))


def attend_cached(
    q: Float[Array, "p g n h"],
    prompt: tuple[Float[Array, "p k h s"], Float[Array, "p k s h"]],
    own: tuple[Float[Array, "b k m h"], Float[Array, "b k m h"]],
    see_prompt: Bool[Array, "p _ s"],
    see_own: Bool[Array, "p g m"],
    *,
    softcap: float,
    scale: float,
) -> Float[Array, "p g n h"]:
    """One new token of each sample sees its prompt and its own suffix, itself included, under one softmax.

    The softmax is float32. Its two parts share a maximum and a sum and are never copied into one array.
    """
    p, g, n, h = q.shape
    heads, s = prompt[0].shape[1], prompt[0].shape[3]
    per = n // heads
    q = q.reshape(p, g, heads, per, h)
    rows = q.transpose(0, 2, 1, 3, 4).reshape(p, heads, g * per, h)
    x = jnp.einsum("pkrh,pkhs->pkrs", rows, prompt[0], preferred_element_type=jnp.float32)
    each = q.reshape(p * g, heads, per, h)
    y = jnp.einsum("bkqh,bkmh->bkqm", each, own[0], preferred_element_type=jnp.float32).reshape(p, g, heads, per, -1)
    x = cap_logits(x.reshape(p, heads, g, per, s) * scale, softcap)
    x = jnp.where(see_prompt[:, None, :, None], x, MASKED)
    y = jnp.where(see_own[:, :, None, None], cap_logits(y * scale, softcap), MASKED)
    swap = lambda z: z.transpose(0, 2, 1, 3)  # [p k g q] <-> [p g k q]
    top = jnp.maximum(swap(jnp.max(x, -1)), jnp.max(y, -1))
    x = jnp.exp(x - swap(top)[..., None]).reshape(p, heads, g * per, s).astype(q.dtype)
    y = jnp.exp(y - top[..., None])
    # As a product, because a TPU sums along a row slowly. Of one column, XLA would make a sum again.
    sums = jnp.einsum("pkrs,sc->pkrc", x, jnp.ones((s, 2), x.dtype), preferred_element_type=jnp.float32)[..., 0]
    total = swap(sums.reshape(p, heads, g, per)) + jnp.sum(y, -1)
    out = jnp.einsum("pkrs,pksh->pkrh", x, prompt[1], preferred_element_type=jnp.float32)
    out = out.reshape(p, heads, g, per, h).transpose(0, 2, 1, 3, 4)
    y = y.astype(q.dtype).reshape(p * g, heads, per, -1)
    out += jnp.einsum("bkqm,bkmh->bkqh", y, own[1], preferred_element_type=jnp.float32).reshape(out.shape)
    return (out / total[..., None]).astype(q.dtype).reshape(p, g, n, h)
