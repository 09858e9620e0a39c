"""Scores of candidates on disk-shaped data: one number per completion, by packed forward passes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rmjax.data import packing
from rmjax.data.rows import Group, Rows


def slot_scores(
    model: Any, params: Any, groups: Sequence[Group], score: Any, *, batch: int = 16, length: int = 0
) -> list[np.ndarray]:
    """One float32 array per group: the score of each of its completions, in order."""
    if not groups:
        return []
    shape = packing.fit(groups, length=length)
    packed = packing.pack(groups, shape)
    empty = packing.empty(shape)
    out: list[np.ndarray] = [np.empty(0, np.float32)] * len(groups)
    for start in range(0, len(packed.rows), batch):
        rows = packed.rows[start : start + batch]
        values = np.asarray(_program(model, score)(params, packing.stack(rows + [empty] * (batch - len(rows)))))
        for line, members in zip(values, packed.members[start : start + batch], strict=False):
            first = 0
            for k in members:
                out[k] = line[first : first + len(groups[k].completions)]
                first += len(groups[k].completions)
    return out


@functools.lru_cache(maxsize=16)
def _program(model: Any, score: Any) -> Any:
    @jax.jit
    def run(params: Any, rows: Rows) -> jax.Array:
        return score(model, params, rows)

    return run
