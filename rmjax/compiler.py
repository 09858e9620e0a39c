"""The compiler's options on a TPU: what jobs run with and what the `compile` job estimates, in one place.

XLA's defaults for a TPU split products with a gathered or scattered operand into loops of small ones ("windowed
einsum") from a size on that every matrix here passes. Gathering whole matrices beside the arithmetic of the layer
before is faster, but summing gradients is not: their loop hides a reduce-scatter, which would else be an all-reduce
that everything waits for. And a product with element-wise work around it is given more than the default 16 MiB of the
fast memory (128 MiB): else it reads its operands more often than its arithmetic takes. docs/results/tpu.md has what
each option brings, docs/results/decode_tpu.md that of decoding.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

TPU: Mapping[str, str] = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    "xla_tpu_reduce_scatter_collective_matmul_mode": "post_spmd",
    "xla_tpu_scoped_vmem_limit_kib": "65536",
}

# Decoding: products are small, and the more fast memory each may take, the less is left for what is fetched ahead.
DECODE: Mapping[str, str] = {**TPU, "xla_tpu_scoped_vmem_limit_kib": "32768"}


def here(options: Mapping[str, str] = TPU) -> dict[str, str] | None:
    """`TPU` or `DECODE` where JAX runs on a TPU; None elsewhere: nothing but the compiler's defaults."""
    return dict(options) if jax.default_backend() == "tpu" else None
