"""What training carries from step to step, and how it lies on a mesh."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmjax.sharding import current_mesh, tree_shardings
from rmjax.training.optimizer import moving

Leaf = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Nothing random, nothing of the host: a resumed run repeats itself."""

    step: Leaf  # [] int32: updates made
    params: Leaf  # nested dicts of float32 arrays: those that are trained (`Model.split`)
    opt_state: Leaf


def state_shapes(model: Any, tx: optax.GradientTransformation) -> TrainState:
    """The state's shapes and dtypes, `tx` being this very model's (`optimizer.transform`); nothing is allocated."""
    step, params = jax.ShapeDtypeStruct((), jnp.int32), model.split(model.shapes)[0]
    return TrainState(step, params, jax.eval_shape(tx.init, params))


def state_shardings(model: Any, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Where every leaf of the state lies, Adam's moments as their parameters (their layers are not split).

    Computed whole before anything is allocated: `jax.jit(tx.init)` by itself puts the moments on one device.
    """
    params, everywhere = model.split(tree_shardings(model.axes, model.shapes, mesh))[0], NamedSharding(mesh, P())
    shapes, moved = state_shapes(model, tx).opt_state, moving(model, params)
    opt_state = optax.tree.map_params(tx, lambda _, s: s, shapes, moved, transform_non_params=lambda _: everywhere)
    return TrainState(everywhere, params, opt_state)


def abstract_state(model: Any, tx: optax.GradientTransformation) -> TrainState:
    """Shapes, dtypes and, under a mesh, shardings: what a checkpoint is restored as."""
    shapes, mesh = state_shapes(model, tx), current_mesh()
    if mesh is None:
        return shapes
    shaped = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    return jax.tree.map(shaped, shapes, state_shardings(model, tx, mesh))


def new_state(model: Any, tx: optax.GradientTransformation, params: Any) -> TrainState:
    """The state before the first step. What is trained of `params` is copied: the step donates its state."""
    return _init(model, tx, current_mesh())(model.split(params)[0])


@functools.lru_cache(maxsize=64)
def _init(model: Any, tx: optax.GradientTransformation, mesh: Mesh | None) -> Any:
    build = lambda params: TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), tx.init(params))
    return jax.jit(build, out_shardings=None if mesh is None else state_shardings(model, tx, mesh))


def restarted(model: Any, tx: optax.GradientTransformation, state: TrainState) -> TrainState:
    """The state with moments and a count of 0; the rest is not touched."""
    return dataclasses.replace(state, opt_state=_moments(model, tx, current_mesh())(state.params))


@functools.lru_cache(maxsize=64)
def _moments(model: Any, tx: optax.GradientTransformation, mesh: Mesh | None) -> Any:
    return jax.jit(tx.init, out_shardings=None if mesh is None else state_shardings(model, tx, mesh).opt_state)
