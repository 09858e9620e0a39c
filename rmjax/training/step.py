"""The training step: a jitted, donated function per model, objective, optimizer's direction, microbatches, dropout."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmjax import compiler
from rmjax.data.rows import Rows, TwoRows
from rmjax.errors import UserError
from rmjax.models.layers import Dropout
from rmjax.models.model import join
from rmjax.objectives.base import Loss, LossOutput, Mean, Objective, OwnGradient
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import TrainState

Step = Callable[..., tuple[TrainState, dict[str, Mean]]]


def train_step(
    model: Any, objective: Objective, optimizer: Optimizer, microbatches: int = 1, dropout: float = 0.0
) -> Step:
    """Returns `step(state, rows, learning_rate, seed=0, base=None) -> (state, metrics)`; `state` is donated.

    `base` is what is not trained (`Model.split`), where the state does not hold all parameters: it gets no gradient.

    Dropout's masks are a function of the seed, the update's number and a row's place in the batch: a resumed run
    repeats them, and neither the mesh nor the number of microbatches changes them.

    Memoised on everything that the program depends on, the learning rate not being among it: a second training with
    another rate, schedule, length or seed compiles nothing.

    Metrics: loss, grad_norm (before clipping), and the objective's.

    Raises:
      UserError: microbatches for an objective that needs whole batches.
    """
    check_microbatches(objective, microbatches)
    return _train_step(model, objective, optimizer.direction, microbatches, dropout)


def check_microbatches(objective: Objective | OwnGradient, microbatches: int) -> None:
    """Raises UserError for microbatches where the objective needs whole batches."""
    if microbatches > 1 and getattr(objective, "whole_batch", False):
        raise UserError(
            f"train.microbatches={microbatches}: the method compares all answers of a batch; set it to 1 "
            "(--model.remat full saves memory)"
        )


@functools.lru_cache(maxsize=64)
def _train_step(model: Any, objective: Objective, optimizer: Optimizer, microbatches: int, dropout: float) -> Step:
    tx = transform(optimizer, model)

    @functools.partial(jax.jit, donate_argnames="state", compiler_options=compiler.here())
    def step(
        state: TrainState, rows: Rows | TwoRows, learning_rate: float, seed: int = 0, base: Any = None
    ) -> tuple[TrainState, dict[str, Mean]]:
        if dropout:
            rows = with_dropout(rows, jax.random.fold_in(jax.random.key(seed), state.step), dropout)
        grads, out = gradients(model, objective, state.params, rows, microbatches, base)
        norm = optax.tree.norm(grads)
        directions, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, directions)
        metrics = {"loss": out.loss, "grad_norm": Mean(norm, jnp.ones((), jnp.float32)), **out.metrics}
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def with_dropout(rows: Rows | TwoRows, key: jax.Array, rate: float) -> Rows | TwoRows:
    """The rows with a stream of dropout each."""
    if isinstance(rows, TwoRows):
        parts = (
            with_dropout(x, jax.random.fold_in(key, i), rate) for i, x in enumerate((rows.labelled, rows.unlabelled))
        )
        return TwoRows(*parts)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows.tokens.shape[0]))
    return dataclasses.replace(rows, dropout=Dropout(keys, rate))


def gradients(
    model: Any,
    objective: Objective | OwnGradient,
    params: Any,
    rows: Rows | TwoRows,
    microbatches: int = 1,
    base: Any = None,
) -> tuple[Any, LossOutput]:
    """The gradient of the batch's mean loss, or the direction that the objective makes of such gradients.

    With it come the batch's loss and metrics.

    Args:
      base: what of the model's parameters is not differentiated, where `params` are not all.
    """
    if isinstance(objective, OwnGradient):
        mean = lambda objective, params, rows: _mean_gradient(model, objective, params, rows, microbatches, base)
        return objective.direction(mean, params, rows)
    return _mean_gradient(model, objective, params, rows, microbatches, base)


def _mean_gradient(
    model: Any, objective: Loss, params: Any, rows: Rows, microbatches: int, base: Any
) -> tuple[Any, LossOutput]:
    """Sums of losses and of weights are accumulated over microbatches and divided once.

    So ragged batches give the same gradient however they are split.
    """

    def summed(params: Any, rows: Rows) -> tuple[jax.Array, LossOutput]:
        out = objective(model, join(params, base), rows)
        return out.loss.total, out

    grad = functools.partial(jax.grad(summed, has_aux=True), params)
    if microbatches == 1:
        grads, out = grad(rows)
    else:
        pieces = jax.tree.map(functools.partial(_split, microbatches), rows)
        shapes = jax.eval_shape(grad, jax.tree.map(lambda x: x[0], pieces))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        add = lambda total, piece: (jax.tree.map(jnp.add, total, grad(piece)), None)
        (grads, out), _ = jax.lax.scan(add, zeros, pieces)
    return jax.tree.map(lambda g: g / jnp.maximum(out.loss.weight, 1e-9), grads), out


def _split(microbatches: int, x: jax.Array) -> jax.Array:
    """[b, ...] -> [microbatches, b / microbatches, ...], with a stride, so that every device keeps its own rows."""
    return jnp.swapaxes(x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:]), 0, 1)
