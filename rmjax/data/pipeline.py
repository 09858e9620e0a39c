"""The input pipeline: groups -> shuffled, packed batches of one shape, resumable and the same for a given seed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from rmjax.data.limits import limit
from rmjax.data.loads import load
from rmjax.data.packing import WINDOW, FirstFit, assemble, empty, stack
from rmjax.data.rows import Group, Rows, RowShape, TwoRows
from rmjax.errors import UserError
from rmjax.sharding import current_mesh, own_rows


def draw(group: Group, rng: np.random.Generator, pairs: int) -> Group:
    """`pairs` of the group's pairs, drawn without replacement, and only the candidates that they name."""
    if not len(group.pairs):
        return group
    chosen = sorted(rng.choice(len(group.pairs), size=min(pairs, len(group.pairs)), replace=False).tolist())
    named = sorted({i for k in chosen for i in group.pairs[k]})
    number = {old: new for new, old in enumerate(named)}
    pick = lambda values: [values[k] for k in chosen] if len(values) else ()
    return dataclasses.replace(
        group,
        completions=[group.completions[i] for i in named],
        ref_logps=[group.ref_logps[i] for i in named] if len(group.ref_logps) else (),
        skip=[group.skip[i] for i in named] if len(group.skip) else (),
        pairs=[(number[group.pairs[k][0]], number[group.pairs[k][1]]) for k in chosen],
        weight=pick(group.weight),
        margin=pick(group.margin),
        smooth=pick(group.smooth),
    )


class Order:
    """The group of every visit: each epoch is another permutation.

    Grain's own shuffle computes the same without the memory of a permutation, but takes milliseconds a visit where
    there are few groups, which is our usual case.
    """

    def __init__(self, count: int, seed: int):
        self._count = count
        self._permutation = functools.lru_cache(maxsize=4)(
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(count)
        )

    def __call__(self, visit: int) -> int:
        epoch, place = divmod(visit, self._count)
        return int(self._permutation(epoch)[place])


def batches(
    groups: Sequence[Group],
    shape: RowShape,
    *,
    batch: int,
    seed: int,
    steps: int = 0,
    epochs: int = 0,
    pairs_per_group: int | None = None,
    share: bool = True,
    window: int = WINDOW,
    own: Sequence[int] | None = None,
) -> Batches:
    """An iterator of Rows [len(own), ...]: this process's rows of every batch.

    Every process shuffles, draws and packs alike, and assembles its own rows only (of `batch`, by number; None: those
    that the mesh puts on its devices). A batch holds the same rows in the same order however many processes share it,
    and a saved position is the same in all of them.

    Give `steps` (endless epochs, cut after that many batches) or `epochs` (the last batch is padded with empty rows).
    `pairs_per_group=n` draws n of a group's pairs anew at every visit. share=False gives each candidate its own copy
    of the prompt (see `packing.pack`). Every group must fit the shape (see `limits.limit`). Raises UserError.
    """
    if bool(steps) == bool(epochs) or steps < 0 or epochs < 0:
        raise UserError(f"steps={steps}, epochs={epochs}: give one of the two, above 0")
    if batch < 1:
        raise UserError(f"batch={batch}: give a number of rows above 0")
    own = own_rows(batch, current_mesh()) if own is None else own
    if pairs_per_group is not None and pairs_per_group < 1:
        raise UserError(f"pairs_per_group={pairs_per_group}: give a number above 0, or leave it out for all pairs")
    if not groups:
        raise UserError("no group to train on: every record was dropped or none was given")
    limit(groups, shape, pairs_per_group=pairs_per_group, share=share)

    order = Order(len(groups), seed)
    count = epochs * len(groups) if epochs else sys.maxsize
    visits = grain.MapDataset.range(count).seed(seed).map(lambda visit: groups[order(visit)])
    if pairs_per_group is not None:
        visits = visits.random_map(lambda group, rng: draw(group, rng, pairs_per_group))
    total = steps or -(-_count_rows(visits, shape, window, share) // batch)
    origin = _origin(groups, seed)
    return Batches(visits, shape, batch=batch, own=own, total=total, share=share, window=window, origin=origin)


def _count_rows(visits: grain.MapDataset, shape: RowShape, window: int, share: bool) -> int:
    packer = FirstFit(shape, window=window)
    closed = sum(packer.add(i, load(visits[i], share=share)) is not None for i in range(len(visits)))
    return closed + len(packer.open_rows())


def _origin(groups: Sequence[Group], seed: int) -> str:
    digest = hashlib.sha256(f"{seed} {len(groups)}".encode())
    for group in groups:
        digest.update(f"{group.id} {len(group.prompt)} {len(group.completions)} {len(group.pairs)}".encode())
    return digest.hexdigest()[:16]


class Batches(grain.DatasetIterator[Rows]):
    """Packed batches. The state is the number of visits made and the visits that wait in open rows."""

    def __init__(
        self,
        visits: grain.MapDataset,
        shape: RowShape,
        *,
        batch: int,
        own: Sequence[int],
        total: int,
        share: bool,
        window: int,
        origin: str,
    ):
        super().__init__()
        self.shape = shape
        self.rows = batch
        self._own = frozenset(own)
        self.total = total
        self._visits = visits
        self._share = share
        self._window = window
        self._origin = origin
        self.set_state({"origin": origin, "batch": 0, "next": 0, "open": []})

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        if self._batch >= self.total:
            raise StopIteration
        self._batch += 1
        return stack([row for i in range(self.rows) if (row := self._row(i in self._own)) is not None])

    def _row(self, own: bool) -> Rows | None:
        """The next row; None for another process's."""
        while self._next < len(self._visits):
            key, self._next = self._next, self._next + 1
            self._waiting[key] = self._visits[key]
            closed = self._packer.add(key, load(self._waiting[key], share=self._share))
            if closed is not None:
                return self._take(closed, own)
        return self._take(self._packer.close() or [], own)

    def _take(self, keys: list[int], own: bool) -> Rows | None:
        groups = [self._waiting.pop(key) for key in keys]
        if not own:
            return None
        return assemble(groups, self.shape, share=self._share) if groups else empty(self.shape)

    def get_state(self) -> dict[str, Any]:
        """A JSON-ready state; the same whatever made it, so that a checkpoint of it can be compared."""
        return {"origin": self._origin, "batch": self._batch, "next": self._next, "open": self._packer.open_rows()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state, bit for bit. Raises UserError where the data or the seed differ."""
        if state["origin"] != self._origin:
            raise UserError(
                "the saved data position belongs to other data or another seed; resume with what the run began with, "
                "or choose a new workdir"
            )
        self._batch, self._next = state["batch"], state["next"]
        self._waiting = {key: self._visits[key] for row in state["open"] for key in row}
        self._packer = FirstFit(self.shape, window=self._window)
        size = lambda key: load(self._waiting[key], share=self._share)
        self._packer.reopen([[(key, size(key)) for key in row] for row in state["open"]])


class Together(grain.DatasetIterator[TwoRows]):
    """Two streams of batches, one of each an update; as many as the first one has."""

    def __init__(self, labelled: Batches, unlabelled: Batches):
        super().__init__()
        self.total = labelled.total
        self._parts = {"labelled": labelled, "unlabelled": unlabelled}

    def __iter__(self) -> Iterator[TwoRows]:
        return self

    def __next__(self) -> TwoRows:
        return TwoRows(**{name: next(part) for name, part in self._parts.items()})

    def get_state(self) -> dict[str, Any]:
        """Both states."""
        return {name: part.get_state() for name, part in self._parts.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues both. Raises UserError where either was another."""
        for name, part in self._parts.items():
            part.set_state(state[name])
