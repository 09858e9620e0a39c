"""The small parts of a backbone: parameters, dropout, norms, rotary embeddings, activations, the loop over layers.

Dimensions: b batch, t tokens, n query heads, h head size, r ropes, f frequencies (h / 2).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from rmjax.models.config import Activation, DecoderConfig, EncoderConfig, Remat, Rope
from rmjax.sharding import RULES, shard

KEPT: Mapping[str, tuple[str, ...]] = {  # by `config.Remat`: what is kept, by its `checkpoint_name`
    "full": (),
    "attention": ("attention",),  # blockwise.NAME: the output and the log-sum-exp
    "qkv": ("attention", "qkv"),
    "products": ("attention", "qkv", "attended", "gate", "up"),
}
SHALLOW = 8  # layers; a loop over so few is unrolled: it would stack what the backward pass needs, a fifth of its time


class Init(Protocol):
    """How a new parameter's values are drawn: on the host, or (other values) within a traced function."""

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray: ...

    def draw(self, key: Array, shape: tuple[int, ...]) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Normal:
    """Independent normal values around zero."""

    std: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.std * rng.standard_normal(shape, np.float32)

    def draw(self, key: Array, shape: tuple[int, ...]) -> Array:
        return self.std * jax.random.normal(key, shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Constant:
    """One value everywhere."""

    value: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value, np.float32)

    def draw(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jnp.full(shape, self.value, jnp.float32)


def param(
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    init: Init,
    *,
    trainable: bool = True,
    dtype: Any = jnp.float32,
) -> nnx.Param:
    """A parameter; its axes' logical names (`sharding.RULES`) and how to draw it ride along as metadata.

    float32, but for what is never trained and kept smaller (`models/quantised.py`).
    Modules are only ever built abstractly (`parts`); `Model.init` draws the values. What is not trainable gets no
    gradient from its module, so that Adam leaves it as it is.
    """
    return nnx.Param(jnp.zeros(shape, dtype), axes=axes, init=init, trainable=trainable)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Inverted dropout (arXiv:1207.0580): a share `rate` of values becomes 0, the others are divided by 1 - rate.

    Every row of a batch has a stream of its own, so that neither a mesh nor a split into microbatches changes a mask.
    """

    keys: Any  # [*n, b] random keys
    rate: float = dataclasses.field(metadata={"static": True})

    def at(self, number: int | Int[Array, "*n"]) -> Dropout:
        """Streams of their own for a place, a view or (numbers [n]) each of n layers."""
        fold = lambda n: jax.vmap(jax.random.fold_in, (0, None))(self.keys, n)
        return dataclasses.replace(self, keys=jax.vmap(fold)(number) if jnp.ndim(number) else fold(number))

    def __call__(self, x: Float[Array, "b *n d"]) -> Float[Array, "b *n d"]:
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:]))(self.keys)
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))


def drop(x: Float[Array, "b *n d"], dropout: Dropout | None, place: int) -> Float[Array, "b *n d"]:
    """x after the dropout of one of a layer's places; x itself where there is none."""
    return x if dropout is None else dropout.at(place)(x)


class Parts(NamedTuple):
    """A module's static part, and trees of its parameters (nested dicts) of what is known without their values."""

    graphdef: Any
    axes: Any  # tuples of logical axis names; a stacked module's leading axis is "layers"
    shapes: Any  # ShapeDtypeStructs
    inits: Any  # what draws new values
    trainable: Any  # booleans


def parts(build: Callable[[], nnx.Module]) -> Parts:
    """The parts of the module that `build` makes; nothing is allocated."""
    graphdef, state = nnx.split(nnx.eval_shape(build))
    is_variable = lambda v: isinstance(v, nnx.Variable)

    def names(v: nnx.Variable) -> tuple[str | None, ...]:
        axes = v.get_metadata("axes")
        return ("layers",) * (v.get_value().ndim - len(axes)) + axes

    def tree(what: Callable[[nnx.Variable], Any]) -> Any:
        return nnx.to_pure_dict(jax.tree.map(lambda v: v.replace(what(v)), state, is_leaf=is_variable))

    known = (tree(names), nnx.to_pure_dict(state), tree(lambda v: v.get_metadata("init")))
    return Parts(graphdef, *known, tree(lambda v: v.get_metadata("trainable")))


# What is computed before and what is computed after are not fused, nor are their gradients. Fused into a matrix product
# that reads it, a value is computed once for every tile of the product: a TPU loses up to half of the product's speed.
apart = jax.lax.optimization_barrier


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(w: Array, axes: tuple[str | None, ...], dtype: Any) -> Array:
    w = shard(w.astype(dtype), *axes)
    return shard(w, *(None if a is not None and RULES[a] == "fsdp" else a for a in axes))


def _gathered_bwd(axes: tuple[str | None, ...], dtype: Any, _: None, g: Array) -> tuple[Array]:
    return (shard(g, *axes).astype(jnp.float32),)


_gathered.defvjp(lambda w, axes, dtype: (_gathered(w, axes, dtype), None), _gathered_bwd)


def whole(w: nnx.Param, dtype: Any) -> Array:
    """A matrix as a product reads it: in the activations' `dtype`, gathered from the devices that hold its parts.

    A float32 master is cast where it lies, before the gathering: half as many bytes are sent. Its gradient goes the
    same way back, summed over devices and scattered in `dtype`, and only then float32: a reduce-scatter, which XLA
    makes of the sum and the slice only where they meet. A weight that is kept small is gathered as it is kept.
    """
    axes, value = w.get_metadata("axes"), w[...]
    return _gathered(value, axes, dtype if value.dtype == jnp.float32 else value.dtype).astype(dtype)


def rms_norm(x: Float[Array, "*b d"], scale: Float[Array, " d"], eps: float, offset: bool) -> Float[Array, "*b d"]:
    """x / rms(x) * w (arXiv:1910.07467), or * (1 + w) with `offset`; computed in float32."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * (1.0 + scale if offset else scale)).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "*b d"]:
    """(x - mean) / std * w + b (arXiv:1607.06450); computed in float32."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * scale + bias).astype(x.dtype)


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Angular frequency of each pair of dimensions, [h / 2] float64 (arXiv:2104.09864; llama3: arXiv:2407.21783)."""
    freq = rope.theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if rope.scaling == "linear":
        return freq / rope.factor
    if rope.scaling == "llama3":
        # Long wavelengths are stretched, short ones kept, those between mixed in proportion to the turns they make.
        turns = rope.original_positions * freq / (2 * math.pi)
        keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = np.clip(keep, 0.0, 1.0)
        return keep * freq + (1 - keep) * freq / rope.factor
    return freq


def rotations(ropes: tuple[Rope, ...], head_dim: int, positions: Int[Array, "b t"]) -> Float[Array, "r 2 b t f"]:
    """Cosines and sines of every rope at the given positions. float32: bfloat16 angles would round positions."""
    freq = jnp.asarray(np.stack([frequencies(r, head_dim) for r in ropes]), jnp.float32)
    angles = positions.astype(jnp.float32)[None, :, :, None] * freq[:, None, None, :]
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)


def rotate(x: Float[Array, "b t n h"], rotation: Float[Array, "2 b t f"]) -> Float[Array, "b t n h"]:
    """Turns each (i, i + h/2) pair of dimensions by its angle; computed in float32."""
    cos, sin = rotation[0][:, :, None, :], rotation[1][:, :, None, :]
    if x.dtype != jnp.bfloat16:
        a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
    # Halves change places in a product with a permutation, exact in bfloat16: cutting and joining rows of 128 numbers
    # within their lanes costs a TPU three times as much.
    h = x.shape[-1]
    places = jnp.asarray(np.roll(np.eye(h), h // 2, axis=0), x.dtype)
    swapped = jnp.einsum("btnh,hi->btni", x, places, preferred_element_type=jnp.float32)
    both = lambda first, second: jnp.concatenate([first, second], axis=-1)
    return (x.astype(jnp.float32) * both(cos, cos) + swapped * both(-sin, sin)).astype(x.dtype)


def walk(body: Callable, x: Array, layers: Any, c: DecoderConfig | EncoderConfig) -> tuple[Array, Any]:
    """`jax.lax.scan` over all layers; no backward pass is computed through the lowest `c.frozen` of them.

    Where all of them are frozen there is none anyway: `Model.bind` gives neither them nor the embeddings a gradient.
    """
    scan = functools.partial(jax.lax.scan, body, unroll=c.layers <= SHALLOW)
    if not 0 < c.frozen < c.layers:
        return scan(x, layers)
    x, low = scan(x, jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf[: c.frozen]), layers))
    x, high = scan(x, jax.tree.map(lambda leaf: leaf[c.frozen :], layers))
    return x, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), low, high)


@jax.custom_vjp
def gradients_apart(x: Any) -> Any:
    """x; but what is computed of its gradients is not fused with what computes them (see `apart`)."""
    return x


gradients_apart.defvjp(lambda x: (x, None), lambda _, g: (apart(g),))


def rematerialised(body: Callable, how: Remat) -> Callable:
    """A layer whose backward pass computes again what `how` does not keep."""
    if how == "none":
        return body
    return jax.checkpoint(body, policy=jax.checkpoint_policies.save_only_these_names(*KEPT[how]))


def activate(x: Float[Array, "*b"], kind: Activation) -> Float[Array, "*b"]:
    return jax.nn.silu(x) if kind == "silu" else jax.nn.gelu(x, approximate=kind == "gelu_tanh")


def softcap(x: Float[Array, "*b"], cap: float) -> Float[Array, "*b"]:
    """cap * tanh(x / cap) (arXiv:2408.00118, section 2); the identity where cap is 0."""
    return cap * jnp.tanh(x / cap) if cap else x
