"""The Bradley-Terry reward model: the baseline that every method here has to beat."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from rmjax.data.chat import Chat
from rmjax.data.rows import Group
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.records import Preference
from rmjax.training.loop import Train, fit
from rmjax.training.optimizer import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class BradleyTerry:
    """A linear head on the last token of prompt + answer; all weights are trained."""

    train: Train = Train(optimizer=Optimizer(learning_rate=1e-5), batch=16, epochs=3)


def groups_of(chat: Chat, items: Sequence[Preference]) -> list[Group]:
    """One group a pair; weight, margin and smoothing are the record's own strength columns (tie: 0.5)."""
    return [
        Group(
            id=p.id,
            prompt=chat.prompt_ids(p.prompt),
            completions=[chat.completion_ids(p.chosen), chat.completion_ids(p.rejected)],
            pairs=[(0, 1)],
            weight=[1.0 if p.weight is None else p.weight],
            margin=[p.margin or 0.0],
            smooth=[p.smooth],
        )
        for p in items
    ]


def learn(
    model: Model,
    params: dict,
    chat: Chat,
    items: Sequence[Preference],
    method: BradleyTerry,
    *,
    seed: int,
    folder: Path | None = None,
    name: str = "Bradley-Terry",
) -> tuple[Model, dict]:
    """Adds a fresh head to the backbone and trains both; returns the model with its head."""
    scalar = model.with_head(Linear())
    params = scalar.add_head(params, jax.random.key(seed))
    objective, groups = Pairwise(score=Scalar()), groups_of(chat, items)
    params = fit(scalar, params, objective, groups, method.train, folder, name=name, contract=chat.contract())
    return scalar, params


def rewards(model: Model, params: dict, chat: Chat, items: Sequence[Preference]) -> np.ndarray:
    """[n, 2] float32: the reward of each item's chosen and rejected answer."""
    return np.stack(slot_scores(model, params, groups_of(chat, items), Scalar()))
