"""Weights that are not trained, kept small: bfloat16, or int8 with a float32 scale per output channel.

int8 is symmetric and for weights alone: w ~ q * s with s = max |w| / 127 over a channel's inputs, so that
|w - q s| <= s / 2. A product is (x q) * s: the scale is applied to what comes out, and no float copy of the matrix is
kept. Activations stay as they are (LLM.int8(), arXiv:2208.07339, quantises them too).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int8

from rmjax.models.config import Weights
from rmjax.models.layers import Constant, param

# The matrices of a layer, of every family: how many of their axes (after the layers') are inputs.
INPUTS = {"wq": 1, "wk": 1, "wv": 1, "wo": 2, "gate": 1, "up": 1, "down": 1}
SCALE = "_scale"  # ends the name of an int8 matrix's scales


def store(module: nnx.Module, weights: Weights) -> None:
    """Gives a module's own matrices and tables the type in which they are kept; only ever called abstractly.

    int8 is for the matrices of layers; tables (embeddings, an output head) are bfloat16 beside them. An encoder's
    pooler belongs to the reward head, which is trained: it stays float32, as norms and biases do.
    """
    if weights == "float32":
        return
    for name, found in list(vars(module).items()):
        if not isinstance(found, nnx.Param) or name.startswith("pool_") or "embed" not in found.get_metadata("axes"):
            continue
        shape, axes, init = found.get_value().shape, found.get_metadata("axes"), found.get_metadata("init")
        kind = jnp.int8 if weights == "int8" and name in INPUTS else jnp.bfloat16
        setattr(module, name, param(shape, axes, init, dtype=kind))
        if kind == jnp.int8:
            at = INPUTS[name]
            outputs = tuple("act_embed" if axis == "embed" else axis for axis in axes[at:])
            setattr(module, name + SCALE, param(shape[at:], outputs, Constant(1.0)))


def quantise(w: Float[Any, "*n"], inputs: int, xp: Any = np) -> tuple[Int8[Any, "*n"], Float[Any, "*m"]]:
    """int8 values and float32 scales of stacked matrices [l, inputs..., outputs...]; scales: [l, outputs...].

    Args:
      inputs: how many axes after the first are inputs.
      xp: numpy or jax.numpy.
    """
    if xp is np and len(w) > 1:  # a layer at a time: what is computed on the way takes several times its bytes
        values, scales = zip(*(quantise(layer[None], inputs) for layer in w), strict=True)
        return np.concatenate(values), np.concatenate(scales)
    axes = tuple(range(1, 1 + inputs))
    scale = (xp.max(xp.abs(w), axis=axes) / 127.0).astype(np.float32)
    scale = xp.where(scale > 0, scale, xp.ones_like(scale))  # of a channel that is all 0
    return xp.round(w / xp.expand_dims(scale, axes)).astype(np.int8), scale


def dequantise(q: Int8[Any, "*n"], scale: Float[Any, "*m"], inputs: int, xp: Any = np) -> Float[Any, "*n"]:
    """What `quantise`'s result stands for, float32."""
    return q.astype(np.float32) * xp.expand_dims(scale, tuple(range(1, 1 + inputs)))


def dequantised(branch: Mapping[str, Any], name: str, xp: Any = np) -> Float[Any, "*n"]:
    """The float32 values of one of a module's parameters, however it is kept."""
    value, scale = xp.asarray(branch[name]), branch.get(name + SCALE)
    return value.astype(np.float32) if scale is None else dequantise(value, xp.asarray(scale), INPUTS[name], xp)


def stored(name: str, value: Float[Any, "*n"], kind: Any, xp: Any = np) -> dict[str, Any]:
    """A float32 parameter as it is kept: its leaf of dtype `kind`, and the scales of an int8 one."""
    if kind == jnp.int8:
        q, scale = quantise(value, INPUTS[name], xp)
        return {name: q, name + SCALE: scale}
    return {name: value.astype(kind)}


def stored_tree(params: Any, shapes: Any) -> Any:
    """Nested dicts of float32 parameters as they are kept, `shapes` being those of what is kept."""
    out: dict[str, Any] = {}
    for name, leaf in params.items():
        if isinstance(leaf, dict):
            out[name] = stored_tree(leaf, shapes[name])
        else:
            out |= stored(name, leaf, shapes[name].dtype, jnp)
    return out


def rescaled(block: Any, name: str, y: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """A product with one of a layer's matrices, in units of its weights: times the scales of an int8 one."""
    scale = getattr(block, name + SCALE, None)
    return y if scale is None else (y.astype(jnp.float32) * scale[...]).astype(y.dtype)
