"""Reward heads: from pooled features to a number. A head's config builds its module.

On a `Model`, a head is a branch of its parameters; `split` gives the same head as pure functions of that branch (a
nested dict), to be jitted and vmapped over thousands of heads on cached features.

Dimensions: f features, d embedding, k prototypes or members.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.models.layers import Constant, Normal, param, parts

MASKED = -1e30  # finite, so that a head without any prototype gives no NaN


@typing.runtime_checkable
class HeadConfig(typing.Protocol):
    """A frozen, hashable dataclass that builds a module `(features [*, f]) -> [*] float32`.

    The module of a head on its own has `embed(features [*, f]) -> [*, d]` as well: what contrastive and prototypical
    losses see.
    """

    def build(self, width: int) -> nnx.Module: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """w . x (the Bradley-Terry head of reward models), with a bias w . x + b."""

    scale: float = 1.0  # a new w has standard deviation scale / sqrt(width); 0: scores start at zero
    bias: bool = False  # pairs alone do not train it: it is there for heads that come with one

    def build(self, width: int) -> nnx.Module:
        return LinearHead(self, width)


class LinearHead(nnx.Module):
    def __init__(self, config: Linear, width: int) -> None:
        self.config = config
        self.weight = param((width,), ("act_embed",), Normal(config.scale * width**-0.5))
        if config.bias:
            self.bias = param((), (), Constant(0.0))

    def embed(self, features: Float[Array, "*b f"]) -> Float[Array, "*b f"]:
        """The features themselves."""
        return features.astype(jnp.float32)

    def __call__(self, features: Float[Array, "*b f"]) -> Float[Array, "*b"]:
        """float32 throughout: a reward's second decimal decides pairs. A product: thousands of heads are then one."""
        out = _product(features, self.weight[...])
        return out + self.bias[...] if self.config.bias else out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlp:
    """w . relu(A x + b): one hidden layer (the head of GRM, arXiv:2406.10216, without its dropout)."""

    hidden: int = 1024
    scale: float = 1.0  # a new w has standard deviation scale / sqrt(hidden); 0: scores start at zero

    def __post_init__(self) -> None:
        require("head.", self, "hidden", least=1)

    def build(self, width: int) -> nnx.Module:
        return MlpHead(self, width)


class MlpHead(nnx.Module):
    def __init__(self, config: Mlp, width: int) -> None:
        self.hidden = param((width, config.hidden), ("embed", None), Normal((2 / width) ** 0.5))  # arXiv:1502.01852
        self.bias = param((config.hidden,), (None,), Constant(0.0))
        self.weight = param((config.hidden,), (None,), Normal(config.scale * config.hidden**-0.5))

    def embed(self, features: Float[Array, "*b f"]) -> Float[Array, "*b d"]:
        """The hidden layer."""
        return jax.nn.relu(_product(features, self.hidden[...]) + self.bias[...])

    def __call__(self, features: Float[Array, "*b f"]) -> Float[Array, "*b"]:
        return jnp.sum(self.embed(features) * self.weight[...], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prototypes:
    """A prototypical head (after Proto-RM, arXiv:2406.06606): a reward that is pulled towards learnt prototypes.

        z = A x,   a = softmax(-gamma |z - p_k|^2),   reward = w . ((1 - mix) z + mix sum_k a_k p_k)

    over the valid prototypes of all classes. The paper's code differs, for the reasons in brackets: it compares with
    the prototypes of a sample's own true class only (which no one knows at test time), a vector of per-token scalars
    (ragged), by the distance and not its square (its addition threshold is one for squares), and leaves its prototypes
    out where the reward is used (so they would change nothing).

    A new head has no valid prototype and gives w . z; whoever initialises it sets `prototypes`, `valid` and `classes`.
    """

    embed: int = 64  # d: the width of the prototypes' space
    capacity: int = 32  # prototypes that there is room for
    gamma: float = 1.0  # how sharply near prototypes are preferred; kept as a parameter that is not trained
    mix: float = 0.5  # the prototypes' share of what is scored; kept likewise, so that it can follow a schedule
    centred: bool = False  # z = A (x - c), c not trained: for features that differ by far less than their size

    def __post_init__(self) -> None:
        require("head.", self, "embed", "capacity", least=1)
        require("head.", self, "gamma", above=0)
        require("head.", self, "mix", least=0, most=1)

    def build(self, width: int) -> nnx.Module:
        return PrototypesHead(self, width)


class PrototypesHead(nnx.Module):
    """`valid` and `classes` (0: rejected, 1: chosen) are float32 leaves, 0 or 1, without a gradient."""

    def __init__(self, config: Prototypes, width: int) -> None:
        d, k = config.embed, config.capacity
        # |z| is about 1 for features of unit variance, so that gamma 1 tells near from far, and rewards are about 1.
        self.projection = param((width, d), ("embed", None), Normal((width * d) ** -0.5))
        self.prototypes = param((k, d), (None, None), Constant(0.0))
        self.valid = param((k,), (None,), Constant(0.0), trainable=False)
        self.classes = param((k,), (None,), Constant(0.0), trainable=False)
        self.gamma = param((), (), Constant(config.gamma), trainable=False)
        self.mix = param((), (), Constant(config.mix), trainable=False)
        self.weight = param((d,), (None,), Normal(1.0))
        if config.centred:
            self.centre = param((width,), ("act_embed",), Constant(0.0), trainable=False)
        self.config = config

    def embed(self, features: Float[Array, "*b f"]) -> Float[Array, "*b d"]:
        """z."""
        x = features.astype(jnp.float32)
        return _product(x - jax.lax.stop_gradient(self.centre[...]) if self.config.centred else x, self.projection[...])

    def assign(self, features: Float[Array, "*b f"]) -> Float[Array, "*b k"]:
        """a: how much each prototype counts; 0 for those that are not valid."""
        return assignments(self.embed(features), self.prototypes[...], self.valid[...], self.gamma[...])

    def __call__(self, features: Float[Array, "*b f"]) -> Float[Array, "*b"]:
        z, p, valid = self.embed(features), self.prototypes[...], self.valid[...]
        near = _product(assignments(z, p, valid, self.gamma[...]), p)
        mix = jax.lax.stop_gradient(jnp.where(jnp.any(valid > 0.5), self.mix[...], 0.0))
        return jnp.sum(((1.0 - mix) * z + mix * near) * self.weight[...], axis=-1)


def squared_distances(z: Float[Array, "*b d"], prototypes: Float[Array, "k d"]) -> Float[Array, "*b k"]:
    """|z - p_k|^2, at least 0."""
    squares = jnp.sum(jnp.square(z), axis=-1, keepdims=True) + jnp.sum(jnp.square(prototypes), axis=-1)
    return jnp.maximum(squares - 2.0 * _product(z, prototypes.T), 0.0)


def assignments(
    z: Float[Array, "*b d"],
    prototypes: Float[Array, "k d"],
    valid: Float[Array, " k"],
    gamma: float | Float[Array, ""],
) -> Float[Array, "*b k"]:
    """softmax_k(-gamma |z - p_k|^2) over the valid prototypes of all classes; zeros where there is none."""
    there, logits = _nearness(z, prototypes, valid, gamma)
    return jnp.where(there, jax.nn.softmax(logits, axis=-1), 0.0)


def log_assignments(
    z: Float[Array, "*b d"],
    prototypes: Float[Array, "k d"],
    valid: Float[Array, " k"],
    gamma: float | Float[Array, ""],
) -> Float[Array, "*b k"]:
    """The logarithm of `assignments`, with no loss of digits where one is tiny; -inf for those that are not valid."""
    there, logits = _nearness(z, prototypes, valid, gamma)
    return jnp.where(there, jax.nn.log_softmax(logits, axis=-1), -jnp.inf)


def _nearness(z: Array, prototypes: Array, valid: Array, gamma: float | Array) -> tuple[Array, Array]:
    """Which prototypes are valid, and logits; no gradient for either `valid` or `gamma`."""
    there, gamma = jax.lax.stop_gradient(valid) > 0.5, jax.lax.stop_gradient(gamma)
    return there, jnp.where(there, -gamma * squared_distances(z, prototypes), MASKED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Several heads on the same features: their mean, or a lower confidence bound mean - lcb std (arXiv:2401.16635)."""

    members: int = 5
    of: Linear | Mlp | Prototypes = Linear()
    lcb: float = 0.0  # standard deviations (population) below the mean; 0: the mean

    def __post_init__(self) -> None:
        require("head.", self, "members", least=1)
        require("head.", self, "lcb", least=0)
        if isinstance(self.of, Ensemble):
            raise UserError("head.of is an Ensemble itself; use one ensemble with more members")

    def build(self, width: int) -> nnx.Module:
        return EnsembleHead(self, width)


class EnsembleHead(nnx.Module):
    """`heads` is one module whose parameters carry a leading axis of members."""

    def __init__(self, config: Ensemble, width: int) -> None:
        self.config = config
        self.heads = nnx.vmap(lambda _: config.of.build(width))(jnp.arange(config.members))

    def members(self, features: Float[Array, "*b f"]) -> Float[Array, "*b k"]:
        """Each member's reward."""
        return jax.vmap(lambda head: head(features), out_axes=-1)(self.heads)

    def embed(self, features: Float[Array, "*b f"]) -> Float[Array, "*b k d"]:
        """Each member's embedding."""
        return jax.vmap(lambda head: head.embed(features), out_axes=-2)(self.heads)

    def __call__(self, features: Float[Array, "*b f"]) -> Float[Array, "*b"]:
        rewards = self.members(features)
        mean = jnp.mean(rewards, axis=-1)
        if not self.config.lcb:
            return mean
        # The floor: a square root has no gradient where all members agree.
        variance = jnp.maximum(jnp.mean(jnp.square(rewards - mean[..., None]), axis=-1), 1e-12)
        return mean - self.config.lcb * jnp.sqrt(variance)


def _product(x: Float[Array, "*b f"], w: Float[Array, "f ..."]) -> Float[Array, "*b ..."]:
    """float32 on every platform."""
    return jnp.matmul(x.astype(jnp.float32), w, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Head:
    """A head as pure functions of its parameters (a nested dict, `params["head"]` of a `Model`); all can be vmapped."""

    config: HeadConfig
    width: int  # f
    graphdef: Any = dataclasses.field(compare=False, repr=False)
    shapes: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as ShapeDtypeStructs
    inits: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as what draws new values
    trainable: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as booleans

    def init(self, key: Array) -> Any:
        """New parameters, each from a stream of its own (key, path). Not the values that `Model.init` draws."""

        def draw(path: Any, init: Any, shape: jax.ShapeDtypeStruct) -> Array:
            name = ".".join(k.key for k in path)
            return init.draw(jax.random.fold_in(key, zlib.crc32(name.encode())), shape.shape)

        return jax.tree_util.tree_map_with_path(draw, self.inits, self.shapes)

    def bind(self, params: Any) -> Any:
        """The module with these parameters: its other methods (`assign` of prototypes, `members` of an ensemble)."""
        return nnx.merge(self.graphdef, params)

    def apply(self, params: Any, features: Float[Array, "*b f"]) -> Float[Array, "*b"]:
        """Rewards."""
        return self.bind(params)(features)

    def embed(self, params: Any, features: Float[Array, "*b f"]) -> Float[Array, "*b d"]:
        """What contrastive and prototypical losses see; of an ensemble [*, k, d]."""
        return self.bind(params).embed(features)


def as_linear(config: HeadConfig, params: Any) -> tuple[np.ndarray, float] | None:
    """(w, b) with reward = w . x + b for all x, float64; None for a head that is not linear.

    Linear are: a linear head, a prototypical one without a valid prototype, and the mean of heads that are linear.
    """
    host = lambda name: np.asarray(params[name], np.float64)
    match config:
        case Linear():
            return host("weight"), float(host("bias")) if config.bias else 0.0
        case Prototypes() if not np.any(host("valid") > 0.5):
            weight = host("projection") @ host("weight")
            return weight, -float(host("centre") @ weight) if config.centred else 0.0
        case Ensemble(lcb=0.0):
            members = [jax.tree.map(lambda leaf: leaf[i], params["heads"]) for i in range(config.members)]  # noqa: B023
            found = [as_linear(config.of, member) for member in members]
            if None not in found:
                weights, biases = zip(*found, strict=True)
                return np.mean(weights, axis=0), float(np.mean(biases))
    return None


@functools.lru_cache
def split(config: HeadConfig, width: int) -> Head:
    """The head of this config on features of this width."""
    p = parts(lambda: config.build(width))
    return Head(config, width, p.graphdef, p.shapes, p.inits, p.trainable)
