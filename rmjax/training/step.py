"""The training step: one jitted, donated function per (model, objective, optimizer's direction, microbatches)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmjax.data.rows import Rows
from rmjax.objectives.base import LossOutput, Mean, Objective
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import TrainState

Step = Callable[[TrainState, Rows, float], tuple[TrainState, dict[str, Mean]]]


def train_step(model: Any, objective: Objective, optimizer: Optimizer, microbatches: int = 1) -> Step:
    """Returns `step(state, rows, learning_rate) -> (state, metrics)`; `state` is donated.

    Memoised on everything that the program depends on, the learning rate not being among it: a second training with
    another rate, schedule or length compiles nothing.

    Metrics: loss, grad_norm (before clipping), and the objective's.
    """
    return _train_step(model, objective, optimizer.direction, microbatches)


@functools.lru_cache(maxsize=64)
def _train_step(model: Any, objective: Objective, optimizer: Optimizer, microbatches: int) -> Step:
    tx = transform(optimizer, model)

    @functools.partial(jax.jit, donate_argnames="state")
    def step(state: TrainState, rows: Rows, learning_rate: float) -> tuple[TrainState, dict[str, Mean]]:
        grads, out = gradients(model, objective, state.params, rows, microbatches)
        norm = optax.tree.norm(grads)
        directions, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, directions)
        metrics = {"loss": out.loss, "grad_norm": Mean(norm, jnp.ones((), jnp.float32)), **out.metrics}
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def gradients(
    model: Any, objective: Objective, params: Any, rows: Rows, microbatches: int = 1
) -> tuple[Any, LossOutput]:
    """The gradient of the batch's mean loss, and the batch's loss and metrics.

    Sums of losses and of weights are accumulated over microbatches and divided once, so that ragged batches give the
    same gradient however they are split.
    """

    def summed(params: Any, rows: Rows) -> tuple[jax.Array, LossOutput]:
        out = objective(model, params, rows)
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
