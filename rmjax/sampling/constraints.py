"""Draws constrained to a few ids: a verdict that must be one of its labels.

Dimensions: *b batch, v vocabulary, a allowed ids.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def restrict(logits: Float[Array, "*b v"], allowed: tuple[int, ...]) -> Float[Array, "*b a"]:
    """The logits of the allowed ids, in ascending order of id; all logits where `allowed` is empty."""
    return logits[..., jnp.asarray(sorted(allowed))] if allowed else logits


def release(index: Int[Array, "*b"], allowed: tuple[int, ...]) -> Int[Array, "*b"]:
    """What was drawn from `restrict`'s logits, as token ids."""
    return jnp.asarray(sorted(allowed), index.dtype)[index] if allowed else index
