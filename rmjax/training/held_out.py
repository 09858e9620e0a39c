"""Evaluation while a model trains, on groups that it is not trained on: how the best parameters are found.

They are a part of the training data, by a hash: never of the pairs that a report calls held out.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from rmjax.data import packing
from rmjax.data.limits import require_context
from rmjax.data.pipeline import batches
from rmjax.data.rows import Group, Rows
from rmjax.errors import UserError
from rmjax.objectives.base import Loss, Mean, Objective
from rmjax.objectives.pairwise import OnRanking
from rmjax.training.metrics import Window

Unit = Callable[[Group], object]  # what of a group must not be on both sides
PARTS = 1 << 32


def prompt(group: Group) -> object:
    """The group's prompt."""
    return tuple(group.prompt)


def split(groups: Sequence[Group], share: float, unit: Unit = prompt) -> tuple[list[Group], list[Group]]:
    """(groups to train on, groups to evaluate on): about `share` of the units, by a hash of each.

    A unit's side does not depend on what else there is.

    Raises:
      UserError: one of the two sides is empty.
    """
    limit = share * PARTS
    held = [_place(unit(group)) < limit for group in groups]
    train, test = ([g for g, h in zip(groups, held, strict=True) if h is side] for side in (False, True))
    if not train or not test:
        raise UserError(
            f"train.eval_share={share:g}: {len(groups)} groups leave {len(train)} to train on and {len(test)} to "
            "evaluate on; give another share or more data, or train.eval_every=0"
        )
    return train, test


def _place(unit: object) -> int:
    return int.from_bytes(hashlib.sha256(f"evaluated {unit!r}".encode()).digest()[:4], "big")


class Evaluation:
    """The objective's loss and metrics on all held-out groups; the ranking loss where the objective is built on one."""

    def __init__(self, model: Any, objective: Objective, groups: Sequence[Group], *, batch: int) -> None:
        """
        Args:
          batch: packed rows computed at once, over all devices.

        Raises:
          UserError: a group that is longer than the model can hold.
        """
        require_context(groups, model.context)
        self._model, self._groups, self._batch = model, groups, batch
        self._objective: Loss = objective.ranking if isinstance(objective, OnRanking) else objective
        self._shape = packing.fit(groups, share=model.share)

    def rows(self) -> Iterator[Rows]:
        """This process's rows of every batch; the last one is filled up with empty rows."""
        return batches(self._groups, self._shape, batch=self._batch, seed=0, epochs=1, share=self._model.share)

    def __call__(self, params: Any, place: Callable[[Rows], Rows]) -> dict[str, float]:
        """The means over all groups, `loss` among them; no dropout.

        Args:
          place: puts a process's rows where they are computed.

        Raises:
          UserError: the loss is not finite.
        """
        measure = _measure(self._model, self._objective)
        window = Window()
        for metrics in jax.device_get([measure(params, place(rows)) for rows in self.rows()]):
            window.add(metrics)
        means = window.take()
        if not math.isfinite(means.get("loss", math.nan)):
            raise UserError(f"the loss on the groups held out by train.eval_share is {means.get('loss')}: no best one")
        return means


@functools.lru_cache(maxsize=16)
def _measure(model: Any, objective: Loss) -> Callable[[Any, Rows], dict[str, Mean]]:
    @jax.jit
    def measure(params: Any, rows: Rows) -> dict[str, Mean]:
        out = objective(model, params, rows)
        return {"loss": out.loss, **out.metrics}

    return measure
