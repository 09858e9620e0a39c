"""Packing: groups (host lists of ids) -> rows of one fixed shape, every distinct token once.

First-fit, online and deterministic: a group goes to the oldest open row that still holds it; at most `window` rows are
open, and the oldest one is closed when another is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from rmjax.data.limits import Overlong, limit
from rmjax.data.loads import Load, bucket, load
from rmjax.data.rows import Group, Rows, RowShape
from rmjax.errors import UserError

WINDOW = 16  # open rows: enough to fill the gaps, few enough that no group waits long


class FirstFit:
    """Rows being filled: keys with their loads go in, closed rows (lists of keys) come out."""

    def __init__(self, shape: RowShape, *, window: int = WINDOW):
        self._room = Load(shape.length, shape.slots, shape.targets, shape.pairs)
        self._window = window
        self._open: list[tuple[list[int], Load]] = []

    def add(self, key: int, size: Load) -> list[int] | None:
        """Places one group; returns the keys of the row that had to be closed for it, if any."""
        for i, (keys, used) in enumerate(self._open):
            total = used + size
            if total.within(self._room):
                self._open[i] = ([*keys, key], total)
                return None
        self._open.append(([key], size))
        return self._open.pop(0)[0] if len(self._open) > self._window else None

    def close(self) -> list[int] | None:
        """Closes the oldest open row and returns its keys; None where no row is open."""
        return self._open.pop(0)[0] if self._open else None

    def open_rows(self) -> list[list[int]]:
        """The keys of the open rows, oldest first: with the loads, the whole state."""
        return [list(keys) for keys, _ in self._open]

    def reopen(self, rows: Sequence[Sequence[tuple[int, Load]]]) -> None:
        """Restores the state that `open_rows` gave."""
        self._open = [([key for key, _ in row], Load.total(size for _, size in row)) for row in rows]


class Packed(NamedTuple):
    """Rows without a batch axis, and which groups (indices into the input) each holds, in the order of its slots."""

    rows: list[Rows]
    members: list[list[int]]
    dropped: Mapping[str, int]


def fit(
    groups: Iterable[Group],
    *,
    length: int = 0,
    pairs_per_group: int | None = None,
    share: bool = True,
    window: int = WINDOW,
) -> RowShape:
    """The smallest bucketed row that holds every group (or a row of exactly `length` tokens, if that is given).

    Slots, targets and pairs are what rows of that length need when they are packed in the given order. Groups longer
    than `length` are left out of account: `limit` decides what becomes of them.
    """
    sizes = [load(g, pairs_per_group=pairs_per_group, share=share) for g in groups]
    length = length or bucket(max((s.length for s in sizes), default=1))
    sizes = [s for s in sizes if s.length <= length]
    if not sizes:
        raise UserError(f"length {length}: no group fits a row of that many tokens; give a larger length")
    endless = RowShape(length=length, slots=1 << 30, targets=length, pairs=1 << 30)
    used = [Load.total(sizes[k] for k in keys) for keys in _plan(sizes, endless, window)]
    return RowShape(
        length=length,
        slots=_power(max(u.slots for u in used)),
        targets=min(length, bucket(max(u.targets for u in used))),
        pairs=_power(max(u.pairs for u in used)),
    )


def pack(
    groups: Sequence[Group],
    shape: RowShape,
    *,
    overlong: Overlong = "error",
    bos: int | None = None,
    share: bool = True,
    window: int = WINDOW,
) -> Packed:
    """Packs every group once. What does not fit the shape goes by the policy `overlong` (see `limits.limit`).

    share=False gives each candidate its own copy of the prompt: what encoders need, and for decoders the same numbers,
    slower: the oracle of tests.
    Raises UserError for groups that are malformed, or over-long where the policy is "error".
    """
    limited = limit(groups, shape, overlong=overlong, bos=bos, share=share)
    sizes = [load(g, share=share) for g in limited.groups]
    plans = list(_plan(sizes, shape, window))
    rows = [assemble([limited.groups[k] for k in keys], shape, share=share) for keys in plans]
    return Packed(rows, [[limited.kept[k] for k in keys] for keys in plans], limited.dropped)


def _plan(sizes: Sequence[Load], shape: RowShape, window: int) -> Iterator[list[int]]:
    packer = FirstFit(shape, window=window)
    for key, size in enumerate(sizes):
        closed = packer.add(key, size)
        if closed is not None:
            yield closed
    while (closed := packer.close()) is not None:
        yield closed


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def empty(shape: RowShape) -> Rows:
    """A row with nothing in it (no batch axis)."""
    t, c, n, p = shape.length, shape.slots, shape.targets, shape.pairs
    none = lambda *dims: np.full(dims, -1, np.int32)
    zeros = lambda *dims: np.zeros(dims, np.float32)
    return Rows(
        tokens=np.zeros(t, np.int32),
        positions=np.zeros(t, np.int32),
        group=none(t),
        branch=np.zeros(t, np.int32),
        target=none(n),
        source=none(n),
        slot=none(n),
        slot_last=none(c),
        ref_logps=zeros(c),
        pairs=none(p, 2),
        weight=zeros(p),
        margin=zeros(p),
        smooth=zeros(p),
    )


def assemble(groups: Sequence[Group], shape: RowShape, *, share: bool = True) -> Rows:
    """One row (no batch axis) that holds exactly these groups; they must fit."""
    row = empty(shape)
    at = slots = targets = pairs = number = 0

    def put(ids: Sequence[int], start: int, branch: int) -> int:
        nonlocal at
        span = slice(at, at + len(ids))
        row.tokens[span] = ids
        row.positions[span] = np.arange(start, start + len(ids))
        row.group[span] = number
        row.branch[span] = branch
        at += len(ids)
        return span.start

    for group in groups:
        first = slots
        if share:
            put(group.prompt, 0, 0)
        for i, ids in enumerate(group.completions):
            prompt = group.prompt if share else group.prompt_of(i)
            if not share:
                put(prompt, 0, 0)
            before = at - 1 if i == 0 or not share else before  # the prompt's last token
            start = put(ids, len(prompt), slots + 1)
            span = slice(targets, targets + len(ids))
            row.target[span] = np.arange(start, at)
            row.source[span] = np.arange(start - 1, at - 1)
            row.source[targets] = before
            row.slot[span] = slots
            row.slot_last[slots] = at - 1
            if len(group.ref_logps):
                row.ref_logps[slots] = group.ref_logps[i]
            targets, slots = span.stop, slots + 1
            number += not share
        number += share
        span = slice(pairs, pairs + len(group.pairs))
        if len(group.pairs):
            row.pairs[span] = np.asarray(group.pairs) + first
            row.weight[span] = group.weight if len(group.weight) else 1.0
            row.margin[span] = group.margin if len(group.margin) else 0.0
            row.smooth[span] = group.smooth if len(group.smooth) else 0.0
        pairs = span.stop
    return row


def stack(rows: Sequence[Rows]) -> Rows:
    """Rows without a batch axis -> one batch [b, ...]."""
    return jax.tree.map(lambda *fields: np.stack(fields), *rows)
