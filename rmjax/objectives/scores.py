"""A score per candidate: what every pairwise loss compares.

Dimensions: b rows, t tokens, n scored tokens, c candidate slots, d model, v vocabulary.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from rmjax.data.rows import Group, Rows
from rmjax.errors import UserError
from rmjax.models.pooling import take_tokens


def token_logps(module: Any, hidden: Float[Array, "b t d"], rows: Rows, *, pieces: int = 0) -> Float[Array, "b n"]:
    """log p(target | what precedes it), float32, 0 where a row has no target.

    Hidden states are gathered at the scored tokens first, so logits exist only there, and of a part of the vocabulary
    at a time: never [b, t, v].

    Args:
      module: has `target_logps(states [b, n, d], targets [b, n], pieces)`.
      hidden: final hidden states.
      rows: `source` and `target` index into the row, -1 where absent.
      pieces: of the vocabulary (`models/vocabulary.py`); 0: as many as memory asks for.
    """
    states = take_tokens(hidden, rows.source)
    targets = jnp.take_along_axis(rows.tokens, jnp.maximum(rows.target, 0), axis=1)
    return jnp.where(rows.target >= 0, module.target_logps(states, targets, pieces), 0.0)


def slot_sums(values: Float[Array, "b n"], rows: Rows) -> Float[Array, "b c"]:
    """Sums a value per scored token over each candidate slot. Slots are local to a row: no communication."""
    slots = jnp.arange(rows.slot_last.shape[1], dtype=rows.slot.dtype)
    member = (rows.slot[..., None] == slots) & (rows.target >= 0)[..., None]
    return jnp.sum(jnp.where(member, values[..., None], 0.0), axis=1)


def slot_lengths(rows: Rows) -> Float[Array, "b c"]:
    """Scored tokens of each slot, at least 1."""
    return jnp.maximum(slot_sums(jnp.ones(rows.target.shape, jnp.float32), rows), 1.0)


def hidden_states(module: Any, rows: Rows) -> Float[Array, "b t d"]:
    """The backbone's final hidden states of packed rows, with the rows' dropout, if any."""
    return module.hidden(rows.tokens, rows.positions, rows.group, rows.branch, rows.dropout)


def pair_features(
    module: Any, hidden: Float[Array, "b t d"], rows: Rows
) -> tuple[Float[Array, "n f"], Float[Array, "n f"]]:
    """What the head reads, float32, of the better and worse candidates of n = b p pairs; absent ones mean nothing."""
    pooled = module.pooled(hidden, rows).astype(jnp.float32)
    better, worse = (take_tokens(pooled, rows.pairs[..., side]) for side in (0, 1))
    return better.reshape(-1, better.shape[-1]), worse.reshape(-1, worse.shape[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(abc.ABC):
    """Maps a forward pass to one score per slot. Calling a score runs the forward pass as well."""

    needs_logps: ClassVar[bool]
    beta: ClassVar[float]  # the scale of scores against log-ratios

    @abc.abstractmethod
    def of(self, module: Any, hidden: Array, logps: Any, rows: Rows) -> Float[Array, "b c"]:
        """The scores, given what the forward pass left; `logps` [b, c] are sums, or None where not needed."""

    def check(self, groups: Iterable[Group], model: Any = None) -> None:  # noqa: B027 - most need nothing
        """Raises UserError where the groups or the model lack what the score needs."""

    def __call__(self, model: Any, params: Any, rows: Rows) -> Float[Array, "b c"]:
        module = model.bind(params)
        hidden = hidden_states(module, rows)
        logps = slot_sums(token_logps(module, hidden, rows), rows) if self.needs_logps else None
        return self.of(module, hidden, logps, rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogProb(Score):
    """log pi(y|x), summed over the completion: what `ref_logps` are, computed with the reference's parameters."""

    length_normalised: bool = False  # the mean over the completion's tokens instead of the sum
    needs_logps: ClassVar[bool] = True
    beta: ClassVar[float] = 1.0

    def of(self, module: Any, hidden: Any, logps: Float[Array, "b c"], rows: Rows) -> Float[Array, "b c"]:
        return logps / slot_lengths(rows) if self.length_normalised else logps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implicit(Score):
    """beta (log pi(y|x) - log pi_ref(y|x)): the implicit reward of DPO (arXiv:2305.18290, eq. 5 without its Z(x)).

    `length_normalised` divides the log-ratio by the completion's number of tokens. TRL's `ipo` and `sigmoid_norm` do
    so, its `sigmoid`, `hinge` and `robust` do not.
    """

    beta: float = 0.1
    length_normalised: bool = False
    needs_logps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise UserError(f"beta={self.beta}: must be above 0 (usual: 0.05 to 0.5)")

    def of(self, module: Any, hidden: Any, logps: Float[Array, "b c"], rows: Rows) -> Float[Array, "b c"]:
        ratios = logps - rows.ref_logps
        return self.beta * (ratios / slot_lengths(rows) if self.length_normalised else ratios)

    def check(self, groups: Iterable[Group], model: Any = None) -> None:
        """Raises UserError where a group lacks its reference log-probabilities."""
        for group in groups:
            if len(group.ref_logps) != len(group.completions):
                raise UserError(
                    f"group {group.id!r}: {len(group.ref_logps)} ref_logps for {len(group.completions)} completions; "
                    "the implicit score needs one each (compute them with the reference model first)"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scalar(Score):
    """The reward head's value of a candidate's pooled features (Bradley-Terry family)."""

    beta: ClassVar[float] = 1.0  # a head's scale is learnt
    needs_logps: ClassVar[bool] = False

    def of(self, module: Any, hidden: Float[Array, "b t d"], logps: Any, rows: Rows) -> Float[Array, "b c"]:
        rewards = module.reward(module.pooled(hidden, rows)).astype(jnp.float32)
        return jnp.where(rows.slot_last >= 0, rewards, 0.0)

    def check(self, groups: Iterable[Group], model: Any = None) -> None:
        """Raises UserError where the model has no reward head."""
        if model is not None and model.head is None:
            raise UserError("score=Scalar: the model has no reward head; add one (model.with_head) or use Implicit")
