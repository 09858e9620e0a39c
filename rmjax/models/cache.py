"""Caches of keys and values while decoding: a prompt's are shared by its samples, each sample adds its own suffix.

Dimensions: l layers, p prompts, g samples of a prompt, s prompt tokens, m suffix tokens, k key/value heads,
q queries per key head, n = k * q query heads, h head size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rmjax.models.attention import MASKED
from rmjax.models.config import DecoderConfig
from rmjax.models.layers import softcap as cap_logits

Leaf = Any  # an array, or what tree.map put in its place; the shape is in the comment


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """Keys and values of each distinct prompt, right padded; never written after the prefill."""

    k: Leaf  # [l, p, k, s, h]
    v: Leaf  # [l, p, k, s, h]
    lengths: Leaf  # [p] int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixCache:
    """Keys and values of what each sample has generated; slot (p, g) holds `lengths[p, g]` tokens from 0."""

    k: Leaf  # [l, p, g, k, m, h]
    v: Leaf  # [l, p, g, k, m, h]
    lengths: Leaf  # [p, g] int32

    @classmethod
    def empty(cls, config: DecoderConfig, prompts: int, samples: int, size: int) -> SuffixCache:
        """Room for `size` tokens of each sample; a write beyond it is dropped."""
        shape = (config.layers, prompts, samples, config.kv_heads, size, config.head_dim)
        zeros = lambda: jnp.zeros(shape, config.dtype)
        return cls(zeros(), zeros(), jnp.zeros((prompts, samples), jnp.int32))

    def write(self, layer: Int[Array, ""], k: Float[Array, "p g k h"], v: Float[Array, "p g k h"]) -> SuffixCache:
        """Puts one token of every sample at its length, in place where the cache is a loop's carry."""
        p, g = jnp.indices(self.lengths.shape)
        put = lambda old, new: old.at[layer, p, g, :, self.lengths].set(new, mode="drop")
        return dataclasses.replace(self, k=put(self.k, k), v=put(self.v, v))


def attend_cached(
    q: Float[Array, "p g n h"],
    prompt_k: Float[Array, "p k s h"],
    prompt_v: Float[Array, "p k s h"],
    prompt_lengths: Int[Array, " p"],
    suffix: SuffixCache,
    layer: Int[Array, ""],
    *,
    window: int | Int[Array, ""] | None,
    softcap: float,
    scale: float,
) -> Float[Array, "p g n h"]:
    """One new token of each sample sees its prompt and its suffix, itself included, under one softmax.

    The new token is the suffix's token number `suffix.lengths`, already written.
    """
    p, g, n, h = q.shape
    heads, s = prompt_k.shape[1:3]
    own_k, own_v = suffix.k[layer], suffix.v[layer]
    m = own_k.shape[3]
    q = q.reshape(p, g, heads, n // heads, h)

    def logits(pattern: str, k: Array, seen: Array) -> Array:
        x = jnp.einsum(pattern, q, k, preferred_element_type=jnp.float32) * scale
        return jnp.where(seen[:, :, None, None, :], cap_logits(x, softcap), MASKED)

    own = suffix.lengths[:, :, None]  # [p, g, 1]
    at = jnp.arange(s)
    see_prompt = jnp.broadcast_to(at < prompt_lengths[:, None, None], (p, g, s))
    see_own = jnp.arange(m) <= own
    if window is not None:
        see_prompt &= prompt_lengths[:, None, None] + own - at < window
        see_own &= own - jnp.arange(m) < window
    x = logits("pgkqh,pksh->pgkqs", prompt_k, see_prompt)
    y = logits("pgkqh,pgkmh->pgkqm", own_k, see_own)
    weights = jax.nn.softmax(jnp.concatenate([x, y], axis=-1), axis=-1).astype(q.dtype)
    out = jnp.einsum("pgkqs,pksh->pgkqh", weights[..., :s], prompt_v)
    out += jnp.einsum("pgkqm,pgkmh->pgkqh", weights[..., s:], own_v)
    return out.reshape(p, g, n, h)
