"""What becomes of groups that do not fit a row: the over-long policies.

    error                a UserError that names the group and the numbers (evaluation: nothing may be lost unseen)
    drop                 the group is left out, and counted (training)
    keep_end_of_prompt   the start of the prompt is cut until the group fits (a first BOS stays), and counted; where the
                         completions alone are too long, the group is dropped, and counted

No answer is cut here: it would be scored without its end. An encoder's contract cuts over-long pairs before they come
here, answers too where that is needed (`TextPair.cut`), and counts them.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from rmjax.data.loads import load
from rmjax.data.rows import Group, RowShape
from rmjax.errors import UserError

Overlong = Literal["error", "drop", "keep_end_of_prompt"]


class Limited(NamedTuple):
    """Groups that all fit; `kept` are their indices in the input; `dropped` counts by reason what was done."""

    groups: list[Group]
    kept: list[int]
    dropped: Mapping[str, int]


def limit(
    groups: Sequence[Group],
    shape: RowShape,
    *,
    overlong: Overlong = "error",
    bos: int | None = None,
    pairs_per_group: int | None = None,
    share: bool = True,
) -> Limited:
    """Applies the policy to every group that is larger than a row.

    Reasons counted: "too_long", "too_many_completions", "too_many_targets", "too_many_pairs" (dropped) and
    "prompt_cut" (kept). A group with reference log-probabilities is never cut, because they belong to the whole
    prompt: cut first, then score. Raises UserError.
    """
    if overlong not in ("error", "drop", "keep_end_of_prompt"):
        raise UserError(f"overlong={overlong!r}: use 'error', 'drop' or 'keep_end_of_prompt'")
    out, kept, dropped = [], [], Counter()
    for index, group in enumerate(groups):
        check(group)
        if share and any(group.skip):
            raise UserError(f"group {group.id!r}: its completions have prompts of their own, which share=True ignores")
        reason = _excess(group, shape, pairs_per_group, share)
        if reason == "too_long" and overlong == "keep_end_of_prompt":
            group = _cut(group, shape.length, bos, pairs_per_group, share)
            reason = _excess(group, shape, pairs_per_group, share)
            dropped["prompt_cut"] += not reason
        if not reason:
            out.append(group)
            kept.append(index)
        elif overlong == "error":
            raise UserError(_complaint(group, shape, reason, pairs_per_group, share))
        else:
            dropped[reason] += 1
    return Limited(out, kept, {k: n for k, n in dropped.items() if n})


def _excess(group: Group, shape: RowShape, pairs_per_group: int | None, share: bool) -> str:
    size = load(group, pairs_per_group=pairs_per_group, share=share)
    if size.length > shape.length:
        return "too_long"
    if size.slots > shape.slots:
        return "too_many_completions"
    if size.targets > shape.targets:
        return "too_many_targets"
    return "too_many_pairs" if size.pairs > shape.pairs else ""


def _complaint(group: Group, shape: RowShape, reason: str, pairs_per_group: int | None, share: bool) -> str:
    size = load(group, pairs_per_group=pairs_per_group, share=share)
    return (
        f"group {group.id!r} is {reason}: {size.length} tokens (prompt {len(group.prompt)}), {size.slots} completions, "
        f"{size.targets} scored tokens, {size.pairs} pairs; a row holds {shape.length}, {shape.slots}, "
        f"{shape.targets}, {shape.pairs}: raise the length, or choose overlong 'drop' or 'keep_end_of_prompt'"
    )


def _cut(group: Group, length: int, bos: int | None, pairs_per_group: int | None, share: bool) -> Group:
    """Takes tokens from the prompt's start; at least one token (and a first BOS) stays."""
    size = load(group, pairs_per_group=pairs_per_group, share=share)
    if any(group.skip):  # its contract has cut it already, to what the model can read
        return group
    copies = 1 if share else size.slots
    over = -(-(size.length - length) // copies)
    head = 1 if bos is not None and group.prompt[0] == bos else 0
    if over > len(group.prompt) - head - 1:
        return group
    if len(group.ref_logps):
        raise UserError(
            f"group {group.id!r}: its prompt must be cut by {over} tokens, but its reference log-probabilities were "
            f"computed for the whole prompt; cut before scoring, or raise the length from {length}"
        )
    return dataclasses.replace(group, prompt=[*group.prompt[:head], *group.prompt[head + over :]])


def check(group: Group) -> None:
    """Raises UserError where a group cannot be scored or its columns do not match."""

    def fail(what: str) -> None:
        raise UserError(f"group {group.id!r}: {what}")

    if not len(group.prompt):
        fail("the prompt has no token, so nothing predicts the first token of its completions; add a BOS or a template")
    if not len(group.completions):
        fail("no completion")
    for i, ids in enumerate(group.completions):
        if not len(ids):
            fail(f"completion {i} has no token")
    for name in ("ref_logps", "skip"):
        if len(getattr(group, name)) not in (0, len(group.completions)):
            fail(f"{len(getattr(group, name))} {name} for {len(group.completions)} completions")
    for skip in group.skip:
        if not 0 <= skip < len(group.prompt):
            fail(f"skip {skip} of a prompt of {len(group.prompt)} tokens")
    for i, j in group.pairs:
        if i == j or not (0 <= i < len(group.completions) and 0 <= j < len(group.completions)):
            fail(f"pair ({i}, {j}) among {len(group.completions)} completions")
    for name in ("weight", "margin", "smooth"):
        if len(getattr(group, name)) not in (0, len(group.pairs)):
            fail(f"{len(getattr(group, name))} values of {name} for {len(group.pairs)} pairs")
    for name in ("ref_logps", "weight", "margin", "smooth"):
        for value in getattr(group, name):
            if not math.isfinite(value):
                fail(f"{name} is {value}")


def require_context(groups: Iterable[Group], context: int | None) -> None:
    """Raises UserError where a prompt with one of its completions has more tokens than the model has positions."""
    if context is None:
        return
    for group in groups:
        for i, ids in enumerate(group.completions):
            size = len(group.prompt_of(i)) + len(ids)
            if size > context:
                raise UserError(
                    f"group {group.id!r}: prompt and completion {i} have {size} tokens, but the model reads {context}: "
                    "cut them first (TextPair.cut), or leave the record out"
                )
