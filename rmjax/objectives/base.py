"""What an objective is: a callable from (model, params, rows) to a loss and metrics, as sums and weights."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Leaf = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean kept as its sum and weight, so that it adds exactly across microbatches and hosts."""

    total: Leaf  # []
    weight: Leaf  # []

    @classmethod
    def of(cls, values: jax.Array, where: jax.Array | None = None) -> Mean:
        where = jnp.ones(values.shape, jnp.float32) if where is None else where.astype(jnp.float32)
        return cls(jnp.sum(jnp.where(where > 0, values * where, 0.0).astype(jnp.float32)), jnp.sum(where))

    def value(self) -> jax.Array:
        return self.total / jnp.maximum(self.weight, 1e-9)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossOutput:
    """A loss to minimise and what to log beside it."""

    loss: Mean
    metrics: dict[str, Mean]


@typing.runtime_checkable
class Objective(typing.Protocol):
    """Maps rows to a weighted loss; a frozen dataclass of hyper-parameters, never of arrays.

    One that compares all rows of a batch with each other says `whole_batch = True`: it is not split into microbatches.
    """

    def __call__(self, model: Any, params: Any, rows: Any) -> LossOutput: ...


Gradient = Callable[[Objective, Any, Any], tuple[Any, LossOutput]]  # (objective, params, rows) -> its mean's gradient


@typing.runtime_checkable
class OwnGradient(typing.Protocol):
    """An objective whose direction is not the gradient of one loss at the parameters, but is made of such gradients.

    `gradient` is the trainer's: it splits the rows into microbatches and adds exactly.
    """

    def direction(self, gradient: Gradient, params: Any, batch: Any) -> tuple[Any, LossOutput]: ...
