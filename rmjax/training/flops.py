"""Model FLOPs of a batch, and the peak that they are measured against (MFU)."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rmjax.data.rows import Rows, TwoRows
from rmjax.sharding import batch_parts, current_mesh, own_rows
from rmjax.training.metrics import Work


def work(model: Any, rows: Rows | TwoRows) -> Work:
    """What a step on a batch takes, given this process's rows of it: other rows have about as many tokens."""
    if isinstance(rows, TwoRows):
        parts = [work(model, part) for part in (rows.labelled, rows.unlabelled)]
        return Work(*map(sum, zip(*parts, strict=True)))
    times = _batch_of_own(current_mesh())
    return Work(times * int(np.count_nonzero(rows.group >= 0)), times * train_flops(model, rows))


@functools.lru_cache(maxsize=4)
def _batch_of_own(mesh: Mesh | None) -> int:
    """A batch's rows, counted in this process's rows of it; processes that share a tensor axis have the same ones."""
    parts = batch_parts(mesh)
    return parts // len(own_rows(parts, mesh))


def train_flops(model: Any, rows: Rows) -> float:
    """FLOPs that one training step on these rows needs, forward and backward (arXiv:2204.02311, appendix B).

    6 N per token that is not padding, N being the decoder's matrices without the embedding table; 6 d v per scored
    token for its logits (none where the model has a reward head); 12 heads head_dim per layer and pair of tokens that
    see each other. A decoder's token at position p sees p + 1 tokens, whatever candidate it belongs to, or a window of
    them; an encoder's token sees its whole group. What remat computes twice counts once. The lowest `config.frozen`
    layers, and a frozen output head, have a forward pass only: a third of it (a tied table's head: two thirds, for
    gradients pass through it to the layers). Beside adapters, matrices get no gradient of their own: two thirds.
    """
    config = model.config
    frozen = min(config.frozen, config.layers)
    moved = 2 / 3 if config.lora is not None else 1  # of a matrix that gradients only pass through
    adapters, low = body_size(model, "lora"), frozen / config.layers
    body = 6.0 * ((body_size(model) - adapters) * (moved * (1 - low) + low / 3) + adapters * (1 - low + low / 3))
    there = rows.group >= 0
    if not model.share:
        counts = [np.bincount(line[line >= 0]).astype(np.int64) for line in rows.group]
        pairs = sum(int(np.sum(n * n)) for n in counts)
        return body * np.count_nonzero(there) + 12.0 * config.embed * (config.layers - frozen * 2 / 3) * pairs
    seen = rows.positions[there].astype(np.int64) + 1
    windows = config.windows
    if not isinstance(windows, tuple):
        windows = (seen.size and int(seen.max()) if windows is None else windows,) * config.layers
    each = {w: int(np.minimum(seen, w).sum()) for w in set(windows)}
    visible = sum(each[w] for w in windows) - 2 / 3 * sum(each[w] for w in windows[:frozen])
    logits = 0 if model.head is not None else config.embed * config.vocab * np.count_nonzero(rows.target >= 0)
    if config.frozen:
        logits *= 1 / 3 if config.frozen > config.layers else 2 / 3 if config.tied else moved
    else:
        logits *= moved
    return body * seen.size + 6.0 * logits + 12.0 * config.heads * config.head_dim * visible


@functools.lru_cache(maxsize=64)
def body_size(model: Any, part: str = "") -> int:
    """Parameters of the backbone's layers, or a part of theirs, which every token is multiplied with."""
    sizes = jax.tree.map(lambda is_matrix, s: math.prod(s.shape) * is_matrix, model.matrices, model.shapes)
    backbone = sizes["decoder" if "decoder" in sizes else "encoder"]
    return sum(jax.tree.leaves(backbone["blocks"].get(part, {}) if part else backbone["blocks"]))


@functools.lru_cache(maxsize=4)
def measured_peak(dtype: str) -> float:
    """FLOP/s that one device reaches in a large square matmul, the best of five; measured once per process.

    Under a mesh every device computes the whole product at once: what they share, as cores share a CPU, is counted.
    """
    n = 1024 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((n, n), dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    best = math.inf
    for _ in range(5):
        begin = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * n**3 / best
