"""What an objective is: a callable from (model, params, rows) to a loss and metrics, as sums and weights."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from rmjax.data.rows import Group

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


class Loss(typing.Protocol):
    """Maps rows to a weighted loss; a frozen dataclass of hyper-parameters, never of arrays."""

    def __call__(self, model: Any, params: Any, rows: Any) -> LossOutput: ...


Gradient = Callable[[Loss, Any, Any], tuple[Any, LossOutput]]  # (loss, params, rows) -> its mean's gradient


class Checked(typing.Protocol):
    """What the trainer asks before it begins."""

    def check(self, groups: Iterable[Group], model: Any = None) -> None:
        """Raises UserError for data or a model that the objective cannot use."""


@typing.runtime_checkable
class Objective(Loss, Checked, typing.Protocol):
    """A loss that can be trained with.

    One that compares all rows of a batch with each other says `whole_batch = True`: it is not split into microbatches.
    """


@typing.runtime_checkable
class OwnGradient(Checked, typing.Protocol):
    """An objective whose direction is not the gradient of one loss at the parameters, but is made of such gradients.

    `gradient` is the trainer's: it splits the rows into microbatches and adds exactly. One whose batches are `TwoRows`
    says `unlabelled = True`.
    """

    def direction(self, gradient: Gradient, params: Any, batch: Any) -> tuple[Any, LossOutput]: ...
