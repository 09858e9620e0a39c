"""Reward heads: from a token's hidden state to a number. A head's config builds its module.

Dimensions: d width.
"""

from __future__ import annotations

import dataclasses
import typing

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rmjax.models.layers import param


@typing.runtime_checkable
class HeadConfig(typing.Protocol):
    """A frozen, hashable dataclass that builds a module `(hidden [..., d]) -> [...] float32`."""

    def build(self, embed: int, *, rngs: nnx.Rngs) -> nnx.Module: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """One score per token: w . h (the Bradley-Terry head of reward models). Scores start at zero without `scale`."""

    scale: float = 1.0  # standard deviation of w times the root of the width

    def build(self, embed: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return LinearHead(self, embed, rngs=rngs)


class LinearHead(nnx.Module):
    def __init__(self, config: Linear, embed: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(config.scale * embed**-0.5) if config.scale else nnx.initializers.zeros
        self.weight = param(rngs.params(), (embed,), ("act_embed",), init)

    def __call__(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b"]:
        """float32 throughout: a reward's second decimal decides pairs."""
        return jnp.sum(hidden.astype(jnp.float32) * self.weight[...], axis=-1)
