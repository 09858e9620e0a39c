"""Pooling: from the hidden states of packed rows to one feature vector per candidate.

    last     the candidate's last token (decoders)
    cls      the text's first token (encoders)
    pooler   the encoder's dense layer and tanh over the first token: what Hugging Face's BERT classifiers read
    mean     the mean over all tokens of prompt and answer, special tokens included
    answer   the mean over the answer's tokens, its end token included

Several kinds are concatenated in the given order. `unit_` before a kind divides that part by its norm.

Dimensions: b rows, t tokens, c candidate slots, d width, m indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rmjax.data.rows import Rows
from rmjax.errors import UserError
from rmjax.models.config import DecoderConfig, EncoderConfig

Pool = tuple[str, ...]
DECODER: Pool = ("last", "mean", "answer")  # a decoder's first token has seen nothing but itself
ENCODER: Pool = ("last", "cls", "pooler", "mean", "answer")
UNIT = "unit_"
TINY = 1e-12  # a norm below it counts as this


def default(config: DecoderConfig | EncoderConfig) -> Pool:
    """A decoder's last token; of an encoder what its frozen features serve best with."""
    return ("last",) if isinstance(config, DecoderConfig) else ("cls", "mean", "answer")


def check(kinds: Pool, config: DecoderConfig | EncoderConfig) -> None:
    """Raises UserError for a kind that the model cannot give, and for none at all."""
    known = DECODER if isinstance(config, DecoderConfig) else ENCODER
    if not kinds or len(set(kinds)) < len(kinds):
        raise UserError(f"model field pool={kinds}: give one or more of {', '.join(known)}, each once")
    for kind in kinds:
        if plain(kind) not in known:
            raise UserError(
                f"model field pool={kinds}: {kind!r} is not one of {', '.join(known)} for this model, with or without "
                f"{UNIT} before it"
            )
    if "pooler" in map(plain, kinds) and not config.pooler:
        raise UserError(f"model field pool={kinds}: this encoder was saved without its pooler; use 'cls' or 'mean'")


def plain(kind: str) -> str:
    """A kind without `unit_`."""
    return kind.removeprefix(UNIT)


def take_tokens(hidden: Float[Array, "b t d"], index: Int[Array, "b m"]) -> Float[Array, "b m d"]:
    """The hidden states at `index`; where that is -1, those of the row's first token, for the caller to mask."""
    return jnp.take_along_axis(hidden, jnp.maximum(index, 0)[..., None], axis=1)


def pool(module: Any, hidden: Float[Array, "b t d"], rows: Rows, kinds: Sequence[str]) -> Float[Array, "b c f"]:
    """Features of every candidate slot, in the dtype of `hidden` or float32; an empty slot's mean nothing.

    Args:
      module: has `pooler`, where that kind is asked for.
      hidden: final hidden states of packed rows, shared prompts or not.
      kinds: `pool` of the model; f = d times their number.
    """
    parts = [_one(module, hidden, rows, kind) for kind in kinds]
    return parts[0] if len(parts) == 1 else jnp.concatenate([p.astype(jnp.float32) for p in parts], axis=-1)


def _one(module: Any, hidden: Array, rows: Rows, kind: str) -> Float[Array, "b c d"]:
    if kind.startswith(UNIT):
        part = _one(module, hidden, rows, plain(kind)).astype(jnp.float32)
        # Of the square, or the norm's gradient at 0 would be NaN.
        return part * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(part), axis=-1, keepdims=True), TINY**2))
    match kind:
        case "last":
            return take_tokens(hidden, rows.slot_last)
        case "cls":
            return take_tokens(hidden, _first(rows))
        case "pooler":
            return module.pooler(take_tokens(hidden, _first(rows)))
        case "mean":
            return _mean(hidden, members(rows))
        case "answer":
            return _mean(hidden, answers(rows))
    raise ValueError(f"pooling {kind!r}")


def _first(rows: Rows) -> Int[Array, "b c"]:
    """The index of each slot's first token; rows are packed without sharing, so a text is one run of tokens."""
    last = jnp.maximum(rows.slot_last, 0)
    return last - jnp.take_along_axis(rows.positions, last, axis=1)


def answers(rows: Rows) -> Bool[Array, "b c t"]:
    """Which tokens are each slot's answer."""
    slots = jnp.arange(1, rows.slot_last.shape[1] + 1, dtype=rows.branch.dtype)
    return (rows.branch[:, None, :] == slots[:, None]) & (rows.group >= 0)[:, None, :]


def members(rows: Rows) -> Bool[Array, "b c t"]:
    """Which tokens are each slot's prompt or answer."""
    group = jnp.take_along_axis(rows.group, jnp.maximum(rows.slot_last, 0), axis=1)
    prompt = (rows.branch == 0)[:, None, :] & (rows.group[:, None, :] == group[..., None])
    return (answers(rows) | prompt) & (rows.group >= 0)[:, None, :] & (rows.slot_last >= 0)[..., None]


def _mean(hidden: Float[Array, "b t d"], where: Bool[Array, "b c t"]) -> Float[Array, "b c d"]:
    """float32 on every platform: a feature's fourth decimal decides pairs."""
    weights = where.astype(jnp.float32)
    total = jnp.einsum("bct,btd->bcd", weights, hidden.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)


def pooled(model: Any, params: Any, rows: Rows) -> Float[Array, "b c f"]:
    """A whole forward pass to features: a score for `objectives.reference.packed_scores`."""
    network = model.bind(params)
    return network.pooled(network.hidden(rows.tokens, rows.positions, rows.group, rows.branch), rows)
