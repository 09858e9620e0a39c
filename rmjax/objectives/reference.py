"""Scores of candidates on disk-shaped data, by packed forward passes; log-probabilities of the reference."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rmjax import compiler, distributed
from rmjax.data import packing
from rmjax.data.limits import require_context
from rmjax.data.rows import Group, Rows
from rmjax.objectives.scores import LogProb
from rmjax.progress import Meter
from rmjax.sharding import batch_parts, current_mesh, place_batch


def slot_scores(
    model: Any, params: Any, groups: Sequence[Group], score: Any, *, batch: int = 16, length: int = 0
) -> list[np.ndarray]:
    """One float32 array per group: the score of each of its completions, in order."""
    counts = [len(group.completions) for group in groups]
    return packed_scores(model, params, groups, score, counts, batch=batch, length=length)


def with_reference(
    model: Any, params: Any, groups: Sequence[Group], *, batch: int = 16, length: int = 0
) -> list[Group]:
    """The groups, with the reference's log-probabilities where none were recorded.

    The reference is the model that is about to be trained, its adapters off: there is no second copy of its parameters.
    """
    missing = [i for i, group in enumerate(groups) if not len(group.ref_logps)]
    off, base = model.without_adapters(params)
    found = slot_scores(off, base, [groups[i] for i in missing], LogProb(), batch=batch, length=length)
    out = list(groups)
    for i, logps in zip(missing, found, strict=True):
        out[i] = dataclasses.replace(out[i], ref_logps=logps.tolist())
    return out


def packed_scores(
    model: Any,
    params: Any,
    groups: Sequence[Group],
    score: Any,
    counts: Sequence[int],
    *,
    batch: int,
    length: int = 0,
    name: str = "scoring",
) -> list[np.ndarray]:
    """What a score of rows says of each group.

    Args:
        score: (model, params, rows) -> float32 [b, k, ...], a row's groups one after the other; hashable.
        counts: how many of the k each group has.
        batch: packed rows per forward pass; filled up to what the mesh splits.
        length: tokens of a row; 0: what the longest group needs.
        name: shown beside the progress of what takes long.

    Returns:
        One float32 array [count, ...] per group.

    Raises:
        UserError: a group longer than the model or a row can hold.
    """
    if not groups:
        return []
    require_context(groups, model.context)
    mesh = current_mesh()
    batch = -(-batch // batch_parts(mesh)) * batch_parts(mesh)
    shape = packing.fit(groups, length=length, share=model.share)
    packed = packing.pack(groups, shape, share=model.share)
    empty = packing.empty(shape)
    out: dict[int, np.ndarray] = {}
    # Where every process has the model on devices of its own, each computes every so-many-th batch.
    apart = distributed.count() if mesh is None or not mesh.is_multi_process else 1
    with Meter(name, len(groups), "items", quiet=False) as meter:

        def take(values: jax.Array, members: list[list[int]], tokens: int) -> None:
            for line, keys in zip(np.asarray(values), members, strict=False):
                first = 0
                for k in keys:
                    out[k] = line[first : first + counts[k]]
                    first += counts[k]
            meter.update(sum(map(len, members)), tokens)

        under_way = None  # read one batch late, while the next is computed
        for start in range(batch * (distributed.index() % apart), len(packed.rows), apart * batch):
            members = packed.members[start : start + batch]
            rows = packing.stack(packed.rows[start : start + batch] + [empty] * (batch - len(members)))
            values = _program(model, score, mesh)(params, place_batch(rows, mesh))
            if under_way is not None:
                take(*under_way)
            under_way = values, members, int(np.count_nonzero(rows.group >= 0))
        if under_way is not None:
            take(*under_way)
    if apart > 1:
        out = {k: values for part in distributed.gather(out) for k, values in part.items()}
    return [out[k] for k in range(len(groups))]


@functools.lru_cache(maxsize=16)
def _program(model: Any, score: Any, mesh: Mesh | None) -> Any:
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())  # in every process

    @functools.partial(jax.jit, out_shardings=whole, compiler_options=compiler.here())
    def run(params: Any, rows: Rows) -> jax.Array:
        return score(model, params, rows)

    return run
