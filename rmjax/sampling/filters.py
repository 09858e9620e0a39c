"""Top-k, top-p and min-p as one threshold on the logits, found without sorting.

Sorting the vocabulary at every step costs more than a small model's forward pass. What the filters need is the largest
value such that the logits from it upwards weigh enough (k of them, or a mass of p); it is found exactly, bit by bit.

Dimensions: *b batch, v vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from rmjax.sampling.policy import Sampling


def filtered(logits: Float[Array, "*b v"], sampling: Sampling) -> Float[Array, "*b v"]:
    """Steps 3 to 5 of `Sampling` on tempered logits: what may not be drawn becomes -inf."""
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        logits = _from(logits, _largest(logits, jnp.ones_like(logits), sampling.top_k))
    if sampling.top_p < 1:
        weights = jax.nn.softmax(logits, axis=-1)
        logits = _from(logits, _largest(logits, weights, sampling.top_p))
    if sampling.min_p > 0:
        top = jnp.max(logits, axis=-1, keepdims=True)
        logits = jnp.where(jnp.exp(logits - top) < sampling.min_p, -jnp.inf, logits)
    return logits


def _from(logits: Array, threshold: UInt32[Array, "*b 1"]) -> Array:
    return jnp.where(_ordered(logits) < threshold, -jnp.inf, logits)


def _largest(logits: Float[Array, "*b v"], weights: Float[Array, "*b v"], target: float) -> UInt32[Array, "*b 1"]:
    """The largest value (as `_ordered`) such that the weights of the logits from it upwards sum to `target`.

    0, which every logit reaches, where rounding keeps the sum of all weights below the target.
    """
    values = _ordered(logits)

    def refine(i: Array, found: Array) -> Array:
        trial = found | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        enough = jnp.sum(jnp.where(values >= trial, weights, 0.0), axis=-1, keepdims=True) >= target
        return jnp.where(enough, trial, found)

    return jax.lax.fori_loop(0, 32, refine, jnp.zeros((*logits.shape[:-1], 1), jnp.uint32))


def _ordered(x: Float[Array, "*b"]) -> UInt32[Array, "*b"]:
    """float32 as unsigned integers in the same order."""
    x = jnp.where(x == 0, 0.0, x.astype(jnp.float32))  # -0 as 0, which it equals
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31, ~bits, bits | jnp.uint32(1 << 31))
