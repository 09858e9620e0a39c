"""LoRA (arXiv:2106.09685): y = x W + scale * (x A) B beside matrices W that are left alone.

A layer's adapters are a subtree of its parameters, {"lora": {"wq": {"a": [l, d, r], "b": [l, r, n, h]}, ...}}, stacked
over layers as its matrices are, with their logical axes: scanned, laid out over a mesh and decayed like them. B begins
at 0, so that a fresh adapter changes nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rmjax.models.config import Lora
from rmjax.models.layers import Constant, Normal, param
from rmjax.models.quantised import INPUTS, dequantised


class Adapter(nnx.Module):
    """A and B of one matrix [inputs..., outputs...]."""

    def __init__(self, shape: tuple[int, ...], axes: tuple[str | None, ...], inputs: int, rank: int) -> None:
        # The variance of PEFT's first A, which is uniform.
        std = (3 * math.prod(shape[:inputs])) ** -0.5
        self.a = param((*shape[:inputs], rank), (*axes[:inputs], None), Normal(std))
        self.b = param((rank, *shape[inputs:]), (None, *axes[inputs:]), Constant(0.0))


class Adapters(nnx.Module):
    """The adapters of one layer, by the names of its matrices."""

    def __init__(self, layer: nnx.Module, lora: Lora) -> None:
        there = tuple(name for name in INPUTS if hasattr(layer, name))
        for name in lora.matrices(there):
            w = getattr(layer, name)
            setattr(self, name, Adapter(w.get_value().shape, w.get_metadata("axes"), INPUTS[name], lora.rank))


def adapt(layer: nnx.Module, lora: Lora | None) -> None:
    """Gives a layer, its matrices being there, the adapters that are asked for; only ever called abstractly."""
    if lora is not None:
        layer.lora = Adapters(layer, lora)


def adapted(layer: Any, pattern: str, x: Float[Array, "*b"], name: str, y: Float[Array, "*c"]) -> Float[Array, "*c"]:
    """y + scale * (x A) B, where y = `einsum(pattern, x, W)` of a layer's matrix; y where it has no adapter."""
    adapter = getattr(getattr(layer, "lora", None), name, None)
    if adapter is None:
        return y
    (given, w), out = pattern.split("->")[0].split(","), pattern.split("->")[1]
    inner = w[: INPUTS[name]]
    batch = given.removesuffix(inner)
    low = jnp.einsum(f"{given},{inner}r->{batch}r", x, adapter.a[...].astype(x.dtype))
    up = jnp.einsum(f"{batch}r,r{w[len(inner) :]}->{out}", low, adapter.b[...].astype(x.dtype))
    return y + jnp.asarray(layer.config.lora.scale, x.dtype) * up


def plain(params: Any, keys: Sequence[str], lora: Lora | None, xp: Any = jnp) -> Float[Any, "*n"]:
    """One parameter as a plain model has it, float32: its adapter added, W + scale * A B, and int8 dequantised.

    Args:
      keys: its path in nested dicts of parameters, which may hold scales and adapters beside it.
      xp: jax.numpy, or numpy for what is fetched to the host.
    """
    *path, name = keys
    branch = functools.reduce(lambda tree, key: tree[key], path, params)
    w = dequantised(branch, name, xp)
    adapter = branch.get("lora", {}).get(name)
    if adapter is None:
        return w
    a, b = (xp.asarray(adapter[part], np.float32) for part in "ab")
    layers, rank = w.shape[0], a.shape[-1]
    # float32, where an accelerator would multiply in bfloat16.
    exact = {"precision": "highest"} if xp is jnp else {}
    product = xp.matmul(a.reshape(layers, -1, rank), b.reshape(layers, rank, -1), **exact)
    return w + np.float32(lora.scale) * product.reshape(w.shape)
