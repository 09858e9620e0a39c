"""Supervised fine-tuning: the negative log-probability of completion tokens, prompts and padding left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from rmjax.data.rows import Group, Rows
from rmjax.errors import UserError
from rmjax.objectives.base import LossOutput, Mean
from rmjax.objectives.scores import hidden_states, token_logps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sft:
    """-sum_t log pi(y_t | x, y_<t) / (number of completion tokens), over all candidates of a batch."""

    def check(self, groups: Iterable[Group], model: Any = None) -> None:
        """Raises UserError where a group carries preferences, which imitation would ignore."""
        for group in groups:
            if len(group.pairs):
                raise UserError(
                    f"group {group.id!r}: has {len(group.pairs)} preference pairs, which SFT would ignore (it would "
                    "imitate the rejected answers too): keep the chosen completions only"
                )

    def __call__(self, model: Any, params: Any, rows: Rows) -> LossOutput:
        module = model.bind(params)
        logps = token_logps(module, hidden_states(module, rows), rows)
        loss = Mean.of(-logps, rows.target >= 0)
        return LossOutput(loss, {"completion_tokens": Mean(loss.weight, jnp.ones((), jnp.float32))})
