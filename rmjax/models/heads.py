"""Reward heads: from a token's hidden state to a number. A head's config builds its module.

Dimensions: d width.
"""

from __future__ import annotations

import dataclasses
import typing

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rmjax.models.layers import Normal, param


@typing.runtime_checkable
class HeadConfig(typing.Protocol):
    """A frozen, hashable dataclass that builds a module `(hidden [..., d]) -> [...] float32`."""

    def build(self, embed: int) -> nnx.Module: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """One score per token: w . h (the Bradley-Terry head of reward models)."""

    scale: float = 1.0  # a new w has standard deviation scale / sqrt(width); 0: scores start at zero

    def build(self, embed: int) -> nnx.Module:
        return LinearHead(self, embed)


class LinearHead(nnx.Module):
    def __init__(self, config: Linear, embed: int) -> None:
        self.weight = param((embed,), ("act_embed",), Normal(config.scale * embed**-0.5))

    def __call__(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b"]:
        """float32 throughout: a reward's second decimal decides pairs."""
        return jnp.sum(hidden.astype(jnp.float32) * self.weight[...], axis=-1)
