"""Proto-RM (arXiv:2406.06606) on frozen features: a projection, prototypes of good and bad answers, a linear reward.

Departures from the public code, and why, stand in `rmjax.objectives.prototypical`. Prototypes begin as means of random
parts of each class (or by k-means++) of the projected training features; IMP then adds answers that are far from all of
their class until the table is full; from there they are parameters like any other. Their share in the score is fixed
(`mix`), not faded out, because a share that ends at 0 serves a plain linear head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.methods.secrets import from_weight
from rmjax.models import heads
from rmjax.objectives import prototypical
from rmjax.training.frozen.nonlinear import Batch, Params, pair_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtoRm:
    """The prototypical head. Setting: the weight of the assignment loss."""

    grid: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0)
    capacity: int = 16  # prototypes that there is room for, both classes together
    start_with: int = 4  # prototypes a class before IMP adds any
    init: Literal["means", "kmeans++"] = "means"
    mix: float = 0.5  # the prototypes' share of the score
    gamma: float = 1.0
    diversity: float = 0.1
    sigma: float = 0.05  # IMP's variance; the code's 5 is for vectors of 550 rewards, and adds nothing at |z| = 1
    alpha: float = 0.1

    def __post_init__(self) -> None:
        require_prototypes("proto_rm.", self)

    def head(self, hidden: int) -> heads.HeadConfig:
        return heads.Prototypes(embed=hidden, capacity=self.capacity, gamma=self.gamma, mix=self.mix)

    def start(self, head: heads.Head, params: Params, weight: Array, batch: Batch, key: Array) -> Params:
        params = from_weight(params, weight)
        h = head.embed(params, batch.answers).reshape(2 * batch.answers.shape[1], -1)
        found = first_prototypes(
            key,
            h,
            batch.weight,
            batch.smooth,
            start_with=self.start_with,
            init=self.init,
            capacity=self.capacity,
            sigma=self.sigma,
            alpha=self.alpha,
        )
        return {"head": {**params, **found}}

    def effective(self, params: Params) -> Array:
        return params["projection"] @ params["weight"]

    def gradient(
        self, head: heads.Head, params: Params, batch: Batch, penalty: Callable, value: Array, key: Array
    ) -> Params:
        labels, mask = classes_of(batch.weight.shape[0]), jnp.tile(batch.weight > 0, 2)
        smooth = jnp.tile(batch.smooth, 2)

        def loss(p: Params) -> Array:
            own = p["head"]
            h = head.embed(own, batch.answers)
            log_a = heads.log_assignments(h, own["prototypes"], own["valid"], own["gamma"])
            log_a = log_a.reshape(len(labels), -1)
            pulled = prototypical.assignment_loss(log_a, own["classes"], labels, mask, smooth)
            apart = prototypical.diversity(own["prototypes"], own["classes"], own["valid"] > 0.5)
            ranked = pair_loss(head, p, batch.answers, batch)
            return ranked + value * pulled + self.diversity * apart + penalty(p)

        return jax.grad(loss)(params)


def require_prototypes(where: str, method: Any) -> None:
    """Raises UserError for settings of prototypes that cannot be.

    Args:
        where: what stands before a field's name, as in `bounds.require`.
    """
    require(where, method, "start_with", least=1)
    require(where, method, "mix", above=0, most=1)
    require(where, method, "gamma", "sigma", above=0)
    require(where, method, "alpha", above=0, below=1)
    require(where, method, "diversity", least=0)
    if method.init not in ("means", "kmeans++"):
        raise UserError(f"{where}init={method.init!r}: not one of means, kmeans++")
    if method.capacity < 2 * method.start_with:
        raise UserError(
            f"{where}capacity={method.capacity}: two classes of {method.start_with} prototypes need at least "
            f"{2 * method.start_with}"
        )


def classes_of(pairs: int) -> Array:
    """The class of each answer, chosen ones first."""
    return jnp.repeat(jnp.array([prototypical.CHOSEN, prototypical.REJECTED]), pairs)


def first_prototypes(
    key: Array,
    h: Array,
    weight: Array,
    smooth: Array,
    *,
    start_with: int,
    init: Literal["means", "kmeans++"],
    capacity: int,
    sigma: float,
    alpha: float,
) -> Params:
    """`prototypes`, `classes` and `valid` of a head, float32: the first ones of each class, and what IMP adds to them.

    An answer's class is the likelier one: pairs that are more probably the other way round than not are turned, and
    ties are left out, for an answer is one prototype of one class.

    Args:
        h: [2n, d], embeddings of the chosen answers, then of the rejected ones.
        weight: [n], of the pairs; 0: left out.
        smooth: [n], the probability that a pair's label is wrong.
    """
    labels = jnp.where(jnp.tile(smooth > 0.5, 2), 1 - classes_of(len(weight)), classes_of(len(weight)))
    mask = jnp.tile((weight > 0) & (smooth != 0.5), 2)
    key, visits = jax.random.split(key)
    first = prototypical.class_means if init == "means" else prototypical.kmeans_pp
    found, classes, valid = first(key, h, labels, start_with, mask)
    room = capacity - len(classes)
    table = jnp.pad(found, ((0, room), (0, 0))), jnp.pad(classes, (0, room)), jnp.pad(valid, (0, room))
    # At random, or the chosen ones would fill the table; what is left out stands last, where nothing looks at it.
    order = jnp.argsort(jnp.where(mask, jax.random.uniform(visits, labels.shape), jnp.inf))
    table = prototypical.add(h[order], labels[order], *table, sigma=sigma, alpha=alpha, mask=mask[order])
    names = ("prototypes", "classes", "valid")
    return {name: value.astype(jnp.float32) for name, value in zip(names, table, strict=True)}
