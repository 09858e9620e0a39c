"""Training: groups in, parameters out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from rmjax.data import packing
from rmjax.data.pipeline import batches
from rmjax.data.rows import Group
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import new_state
from rmjax.training.step import train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How long and with what to train."""

    optimizer: Optimizer = Optimizer()
    steps: int = 0
    epochs: int = 0
    batch: int = 16
    microbatches: int = 1
    seed: int = 0
    save_every: int = 0
    log_every: int = 10
    pairs_per_group: int | None = None
    length: int = 0


def fit(model: Any, params: Any, objective: Any, groups: Sequence[Group], train: Train, folder: Path | None, *, name: str) -> Any:
    objective.check(groups, model)
    shape = packing.fit(groups, length=train.length, pairs_per_group=train.pairs_per_group)
    data = batches(groups, shape, batch=train.batch, seed=train.seed, steps=train.steps, epochs=train.epochs, pairs_per_group=train.pairs_per_group)
    step = train_step(model, objective, train.optimizer, train.microbatches)
    state = new_state(model, transform(train.optimizer.direction, model), params)
    log = []
    for i, rows in enumerate(data):
        state, metrics = step(state, rows, train.optimizer.rate(i, data.total))
        if i % train.log_every == 0 or i == data.total - 1:
            log.append({"step": i, **{f"train/{k}": float(v.value()) for k, v in metrics.items()}})
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log))
    return state.params
