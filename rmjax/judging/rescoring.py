"""Log-probabilities of tokens that were not sampled as they stand: forced verdicts, bare reasoning, hints removed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rmjax.data import packing
from rmjax.data.rows import Group, Rows
from rmjax.objectives.scores import hidden_states, token_logps


def token_scores(
    model: Any, params: Any, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch: int = 8
) -> list[np.ndarray]:
    """log pi(token | what precedes it) of every completion token, by teacher forcing.

    Args:
        sequences: (prompt ids, completion ids), neither empty.
        batch: packed rows per forward pass.

    Returns:
        One float32 array per sequence, as long as its completion.
    """
    groups = [Group(id=str(i), prompt=p, completions=[c]) for i, (p, c) in enumerate(sequences)]
    if not groups:
        return []
    shape = packing.fit(groups)
    packed = packing.pack(groups, shape)
    empty = packing.empty(shape)
    scores: list[np.ndarray] = [np.empty(0, np.float32)] * len(groups)
    for start in range(0, len(packed.rows), batch):
        rows = packed.rows[start : start + batch]
        logps = np.asarray(_program(model)(params, packing.stack(rows + [empty] * (batch - len(rows)))))
        for line, members in zip(logps, packed.members[start : start + batch], strict=False):
            ends = np.cumsum([len(sequences[k][1]) for k in members])
            for k, end in zip(members, ends, strict=True):
                scores[k] = line[end - len(sequences[k][1]) : end]
    return scores


@functools.lru_cache(maxsize=8)
def _program(model: Any) -> Any:
    @jax.jit
    def score(params: Any, rows: Rows) -> jax.Array:
        module = model.bind(params)
        return token_logps(module, hidden_states(module, rows), rows)

    return score
