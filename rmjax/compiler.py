"""Compiler options of a platform: the one table that training jobs and the `compile` job's estimates both use.

XLA's defaults for a TPU split products with a gathered or scattered operand into loops of small ones ("windowed
einsum") from a size on that every matrix here passes. Gathering whole matrices beside the arithmetic of the layer
before is faster, but summing gradients is not: their loop hides a reduce-scatter, which would else be an all-reduce
that everything waits for. And a product with element-wise work around it is given more than the default 16 MiB of the
fast memory (128 MiB): else it reads its operands more often than its arithmetic takes. docs/results/tpu.md has what
each option brings.
"""

from __future__ import annotations

from collections.abc import Mapping

TPU: Mapping[str, str] = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    "xla_tpu_reduce_scatter_collective_matmul_mode": "post_spmd",
    "xla_tpu_scoped_vmem_limit_kib": "65536",
}


def options(platform: str) -> dict[str, str] | None:
    """What a training step is compiled with; None: nothing but the defaults.

    Args:
      platform: where it runs, as `jax.default_backend()` says it: tpu, gpu or cpu.
    """
    return dict(TPU) if platform == "tpu" else None
