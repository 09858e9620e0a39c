"""Temporary memory of attention's value and gradients over one packed row, by its length.

    python benchmarks/attention_memory.py [--topologies v5e:2x2 v5p:2x2x1] [--lengths 2048 4096]

One row of 8 query heads and 2 key/value heads of 128, bfloat16. Programs are compiled, never run: `memory_analysis()`
says what they allocate beside their arguments and results. `dense` holds every logit; `blocks` is what CPUs and GPUs
run; by a topology's name, what that TPU would run, by its compiler (libtpu on this machine, no TPU). A TPU's figure
leaves out what its compiler keeps in fast memory. One line of JSON a length, in MiB.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import tyro
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array

from rmjax.models import attention

HEADS, KV, SIZE = 8, 2, 128


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is compiled."""

    topologies: tuple[str, ...] = ()  # TPUs, such as v5e:2x2
    lengths: tuple[int, ...] = (2048, 4096, 8192, 16384, 32768)


def dense(q: Array, k: Array, v: Array, positions: Array, group: Array, branch: Array) -> Array:
    """Every query against every key."""
    mask = attention.visible(positions, group, branch, None)
    return attention.dense(q.reshape(1, -1, KV, HEADS // KV, SIZE), k, v, mask, 0.0, SIZE**-0.5)


def temporary(attend: Callable[..., Array], length: int, device: jax.Device) -> float:
    """MiB beside arguments and results."""
    sharding = SingleDeviceSharding(device)
    array = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    vectors = [array((1, length, n, SIZE), jnp.bfloat16) for n in (HEADS, KV, KV)]
    marks = [array((1, length), jnp.int32)] * 3
    loss = lambda *args: jnp.sum(jnp.square(attend(*args).astype(jnp.float32)))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*vectors, *marks).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def main(b: Benchmark) -> None:
    """Prints a line of JSON for each length."""
    attend = functools.partial(attention.attend, window=None, softcap=0.0, scale=SIZE**-0.5)
    cpu = jax.devices("cpu")[0]
    for length in b.lengths:
        out = {"length": length, "dense": temporary(dense, length, cpu), "blocks": temporary(attend, length, cpu)}
        for name in b.topologies:
            tpu = topologies.get_topology_desc(platform="tpu", topology_name=name).devices[0]
            out[name] = temporary(attend, length, tpu)
        print(json.dumps({name: round(x, 1) for name, x in out.items()}), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
