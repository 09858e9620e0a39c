"""Log-probabilities of tokens that were not sampled as they stand: forced verdicts, bare reasoning, hints removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rmjax.data.rows import Group, Rows
from rmjax.objectives.reference import packed_scores
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
    return packed_scores(model, params, groups, _logps, [len(c) for _, c in sequences], batch=batch)


def _logps(model: Any, params: Any, rows: Rows) -> jax.Array:
    module = model.bind(params)
    return token_logps(module, hidden_states(module, rows), rows)
