"""Which labels a run sees, and how they are cut into folds; drawn on the host, the same on every machine.

Dimensions: N labelled pairs of the pool, r runs, n pairs of the largest run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from rmjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs of one program: each a subset of the pool, cut into folds."""

    labels: tuple[int, ...]  # of each run
    draws: tuple[int, ...]  # of each run
    index: Int[np.ndarray, "r n"]  # into the pool; what is not there repeats pair 0
    there: Bool[np.ndarray, "r n"]
    fold: Int[np.ndarray, "r n"]
    first: Int[np.ndarray, "r n"]  # the place in the run of the first pair of the same prompt

    def __len__(self) -> int:
        return len(self.labels)


def draw(count: int, *, seed: int, number: int) -> Int[np.ndarray, " N"]:
    """The order in which label draw `number` takes the pool's pairs: fewer labels of a draw are the first of more."""
    return np.random.default_rng([seed, number]).permutation(count)


def runs(groups: Sequence[int], labels: int, draws: Sequence[int], *, folds: int, seed: int, padded: int = 0) -> Runs:
    """One run a draw, all with as many labels.

    Args:
        groups: [N]: which prompt a pair is of. Pairs of one prompt stay in one fold.
        folds: at most so many; fewer prompts than folds leave folds empty.
        padded: n; 0: `labels`.

    Raises:
        UserError: more labels than pairs, or none.
    """
    if not 1 <= labels <= len(groups):
        raise UserError(f"labels={labels}: there are {len(groups)} training pairs; give counts from 1 to that")
    taken = [draw(len(groups), seed=seed, number=number)[:labels] for number in draws]
    return runs_of(groups, np.array(taken).reshape(-1, labels), draws, folds=folds, seed=seed, padded=padded)


def runs_of(
    groups: Sequence[int],
    taken: Int[np.ndarray, "r l"],
    draws: Sequence[int],
    *,
    folds: int,
    seed: int,
    padded: int = 0,
) -> Runs:
    """Runs on these pairs; the rest as in `runs`, whose folds it draws by (seed, draw, number of labels)."""
    groups, labels = np.asarray(groups), taken.shape[1]
    size = max(padded, labels)
    index, fold = np.zeros((len(draws), size), np.int32), np.zeros((len(draws), size), np.int32)
    first = np.tile(np.arange(size, dtype=np.int32), (len(draws), 1))
    for row, number in enumerate(draws):
        index[row, :labels] = taken[row]
        _, place, owner = np.unique(groups[index[row, :labels]], return_index=True, return_inverse=True)
        first[row, :labels] = place[owner]
        order = np.random.default_rng([seed, number, labels]).permutation(owner.max() + 1)
        fold[row, :labels] = order[owner] % folds
    there = np.broadcast_to(np.arange(size) < labels, index.shape)
    return Runs((labels,) * len(draws), tuple(draws), index, there, fold, first)


def bucket(labels: int, most: int) -> int:
    """The padded size of a run: the next of 64, 256, 1024, ..., so that few shapes are compiled; at most `most`."""
    size = 64
    while size < labels:
        size *= 4
    return min(size, most)
