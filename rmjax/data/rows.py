"""Packed rows: the one batch layout. Every distinct token is computed once.

Dimensions: b rows, t tokens, n scored tokens, c candidate slots, p pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

Leaf = Any  # an array, or what tree.map put in its place; the shape is in the comment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """One example in tokens: a prompt, its candidate completions, and the pairs among them (host side)."""

    id: str
    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    ref_logps: Sequence[float] = ()  # one per completion; empty where the objective needs none
    pairs: Sequence[tuple[int, int]] = ()  # (better, worse) indices into completions
    weight: Sequence[float] = ()  # one per pair; empty: 1
    margin: Sequence[float] = ()  # one per pair; empty: 0
    smooth: Sequence[float] = ()  # one per pair; empty: 0
    # One per completion: tokens after the prompt's first that its own copy of the prompt leaves out (rows packed with
    # share=False only); empty: none.
    skip: Sequence[int] = ()

    def prompt_of(self, completion: int) -> Sequence[int]:
        """The prompt as this completion's own copy of it has it."""
        if not len(self.skip) or not self.skip[completion]:
            return self.prompt
        return [self.prompt[0], *self.prompt[1 + self.skip[completion] :]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """The static shape of a row; one compiled program per shape."""

    length: int  # t
    slots: int  # c
    targets: int  # n
    pairs: int  # p


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A batch of packed rows; -1 marks what is not there.

    i sees j iff group_i == group_j and j <= i (index in the row) and branch_j in {0, branch_i}. An encoder's tokens see
    all of their group; its rows are packed with share=False, so that every candidate is a group of its own.
    """

    tokens: Leaf  # [b, t] int32
    positions: Leaf  # [b, t] int32; a branch continues from the end of its group's prompt
    group: Leaf  # [b, t] int32: which example of the row; -1 = padding
    branch: Leaf  # [b, t] int32: 0 = shared prompt of the group, s + 1 = candidate slot s of the row
    target: Leaf  # [b, n] int32: index in the row of a token whose log-probability counts
    source: Leaf  # [b, n] int32: index of the token that predicts it
    slot: Leaf  # [b, n] int32: the candidate slot it belongs to
    slot_last: Leaf  # [b, c] int32: a slot's last token, for scalar heads
    ref_logps: Leaf  # [b, c] float32
    pairs: Leaf  # [b, p, 2] int32: better slot, worse slot
    weight: Leaf  # [b, p] float32
    margin: Leaf  # [b, p] float32
    smooth: Leaf  # [b, p] float32
    dropout: Leaf = None  # `models.layers.Dropout` with a stream a row, put there by a training step; None: no dropout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoRows:
    """The batch of an objective that wants unlabelled answers with every update."""

    labelled: Rows
    unlabelled: Rows  # pairs: every two answers of a prompt, in no order of worth
