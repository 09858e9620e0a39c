"""Scores of candidates on disk-shaped data, by packed forward passes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rmjax.data import packing
from rmjax.data.limits import require_context
from rmjax.data.rows import Group, Rows
from rmjax.progress import Meter


def slot_scores(
    model: Any, params: Any, groups: Sequence[Group], score: Any, *, batch: int = 16, length: int = 0
) -> list[np.ndarray]:
    """One float32 array per group: the score of each of its completions, in order."""
    counts = [len(group.completions) for group in groups]
    return packed_scores(model, params, groups, score, counts, batch=batch, length=length)


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
        batch: packed rows per forward pass.
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
    shape = packing.fit(groups, length=length, share=model.share)
    packed = packing.pack(groups, shape, share=model.share)
    empty = packing.empty(shape)
    out: list[np.ndarray] = [np.empty(0, np.float32)] * len(groups)
    with Meter(name, len(groups), "items", quiet=jax.process_index() > 0) as meter:

        def take(values: jax.Array, members: list[list[int]], tokens: int) -> None:
            for line, keys in zip(np.asarray(values), members, strict=False):
                first = 0
                for k in keys:
                    out[k] = line[first : first + counts[k]]
                    first += counts[k]
            meter.update(sum(map(len, members)), tokens)

        under_way = None  # read one batch late, while the next is computed
        for start in range(0, len(packed.rows), batch):
            members = packed.members[start : start + batch]
            rows = packing.stack(packed.rows[start : start + batch] + [empty] * (batch - len(members)))
            values = _program(model, score)(params, rows)
            if under_way is not None:
                take(*under_way)
            under_way = values, members, int(np.count_nonzero(rows.group >= 0))
        take(*under_way)
    return out


@functools.lru_cache(maxsize=16)
def _program(model: Any, score: Any) -> Any:
    @jax.jit
    def run(params: Any, rows: Rows) -> jax.Array:
        return score(model, params, rows)

    return run
