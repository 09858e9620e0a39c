"""Secrets of RLHF II (arXiv:2401.06080) on frozen features: contrastive losses and MetaRM beside Bradley-Terry.

A frozen trunk has no dropout of its own, so the two views are two dropout masks of the features that the head reads,
and what the contrastive loss shapes is the head's hidden layer, the only representation that is trained here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rmjax.bounds import require
from rmjax.models import heads
from rmjax.objectives import contrastive, meta
from rmjax.training.frozen.nonlinear import Batch, Params, pair_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projection:
    """Bradley-Terry on w . A x and nothing else: the control of the contrastive methods. Setting: feature dropout."""

    grid: tuple[float, ...] = (0.0, 0.05, 0.1, 0.3)

    def head(self, hidden: int) -> heads.HeadConfig:
        """A prototypical head that has no valid prototype, which is w . A x."""
        return heads.Prototypes(embed=hidden, capacity=1, mix=0.0)

    def start(self, head: heads.Head, params: Params, weight: Array, batch: Batch, key: Array) -> Params:
        return {"head": from_weight(params, weight)}

    def effective(self, params: Params) -> Array:
        return params["projection"] @ params["weight"]

    def gradient(
        self, head: heads.Head, params: Params, batch: Batch, penalty: Callable, value: Array, key: Array
    ) -> Params:
        seen = views(batch, value, key, 1)
        return jax.grad(lambda p: pair_loss(head, p, seen, batch) + penalty(p))(params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCse(Projection):
    """L_BT + beta SimCSE; both views carry the Bradley-Terry loss, as in the paper. Setting: beta."""

    grid: tuple[float, ...] = (0.003, 0.03, 0.3, 1.0)  # the paper's 1 is for a whole language model
    form: contrastive.Form = "direct"
    temperature: float = 0.05
    dropout: float = 0.1  # of features; the paper drops 0.05 at every layer

    def __post_init__(self) -> None:
        require("simcse.", self, "temperature", above=0)
        require("simcse.", self, "dropout", above=0, below=1)

    def auxiliary(self, params: Params, a: Array, b: Array, mask: Array) -> Array:
        return contrastive.simcse(a, b, self.temperature, mask)

    def gradient(
        self, head: heads.Head, params: Params, batch: Batch, penalty: Callable, value: Array, key: Array
    ) -> Params:
        both = views(batch, self.dropout, key, 2)
        mask = jnp.tile(batch.weight > 0, 2)

        def loss(p: Params) -> Array:
            a, b = (contrastive.rows(c, r, self.form) for c, r in head.embed(p["head"], both))
            return pair_loss(head, p, both, batch) + value * self.auxiliary(p, a, b, mask) + penalty(p)

        return jax.grad(loss)(params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swav(SimCse):
    """L_BT + beta SwAV, with learnt prototypes that are dropped after training. Setting: beta."""

    temperature: float = 0.1
    prototypes: int = 20  # the paper: 50 (direct), 20 (difference), for batches and widths far above these

    def __post_init__(self) -> None:
        super().__post_init__()
        require("swav.", self, "prototypes", least=2)

    def start(self, head: heads.Head, params: Params, weight: Array, batch: Batch, key: Array) -> Params:
        width = head.embed(params, batch.answers[0, :1]).shape[-1]
        return {"head": from_weight(params, weight), "centres": jax.random.normal(key, (self.prototypes, width))}

    def auxiliary(self, params: Params, a: Array, b: Array, mask: Array) -> Array:
        return contrastive.swav(a, b, params["centres"], self.temperature, mask=mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaRm:
    """MetaRM: ascent on the difference loss of unlabelled answers, descent at the looked-ahead head. Setting: eta.

    The unlabelled answers are those of the training pairs whose labels the run does not see (k = 2 a prompt): the same
    distribution, not that of a policy that has moved, which fixed data does not have. Where every label is seen, the
    pairs themselves stand in.
    """

    grid: tuple[float, ...] = (0.3, 3.0, 30.0, 300.0)  # below, nothing moves

    def head(self, hidden: int) -> heads.HeadConfig:
        return heads.Linear(scale=0.0)

    def start(self, head: heads.Head, params: Params, weight: Array, batch: Batch, key: Array) -> Params:
        return {"head": {"weight": weight}}

    def effective(self, params: Params) -> Array:
        return params["weight"]

    def gradient(
        self, head: heads.Head, params: Params, batch: Batch, penalty: Callable, value: Array, key: Array
    ) -> Params:
        ascend = lambda p: jnp.mean(meta.difference_loss(head.apply(p["head"], batch.shifted)))
        descend = lambda p: pair_loss(head, p, batch.answers, batch)
        _, gradient = meta.lookahead(params, ascend, descend, value)
        return jax.tree.map(jnp.add, gradient, jax.grad(penalty)(params))


def from_weight(params: Params, weight: Array) -> Params:
    """A head w . A x that gives weight . x: the first row of A has its direction, the others are random, with w = 0."""
    norm = jnp.maximum(jnp.linalg.norm(weight), 1e-6)
    projection = params["projection"]
    projection = projection / jnp.linalg.norm(projection, axis=0)
    projection = projection.at[:, 0].set(weight / norm)
    return {**params, "projection": projection, "weight": jnp.zeros_like(params["weight"]).at[0].set(norm)}


def views(batch: Batch, rate: float | Array, key: Array, count: int) -> Float[Array, "v 2 b d"]:
    """`count` draws of the answers' features with a share `rate` of them dropped, the others scaled up."""
    keys = jax.random.split(key, 2 * count)
    drawn = jax.vmap(lambda k: jax.random.uniform(k, batch.answers.shape[1:]))(keys)
    kept = drawn.reshape(count, *batch.answers.shape) >= rate
    return jnp.where(kept, batch.answers, 0.0) / (1.0 - rate)
