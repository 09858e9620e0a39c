"""Preference strength inside a labelled subset: what an ensemble of heads makes of each label becomes its columns.

arXiv:2401.06080, section 2; the same edits of records, for files, are in `rmjax.refine.treatments`. The mean strength
mu_i of pair i is over heads that saw no pair of i's prompt: the prompts of the subset are cut into parts `repeats`
times, and each part is scored by a head of the others. (The paper's models score their own training pairs; with a few
hundred labels they have fitted the wrong ones too.) A treatment turns mu into margin and smoothing columns:

    flip       the lowest `share` of labels, as far as mu < 0, is turned around: smoothing 1
    smoothing  labels with mu < 0 get smoothing a
    margin     margin = scale * mu, clipped to [-3, 6] in units of the ensemble's scores

Dimensions: n pairs of a subset.
"""

from __future__ import annotations

import dataclasses
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

LOW, HIGH = -3.0, 6.0

Columns = tuple[Float[Array, " n"], Float[Array, " n"]]  # margin, smoothing


@typing.runtime_checkable
class Treatment(typing.Protocol):
    """Makes columns of strengths; `grid` holds the values of its one setting that are tried."""

    grid: tuple[float, ...]

    def columns(self, mean: Float[Array, " n"], there: Bool[Array, " n"], value: Array) -> Columns: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Turns the weakest labels around."""

    grid: tuple[float, ...] = (0.1, 0.2)  # shares of the labels: the paper's appendix and its main text

    def columns(self, mean: Float[Array, " n"], there: Bool[Array, " n"], value: Array) -> Columns:
        rank = jnp.argsort(jnp.argsort(jnp.where(there, mean, jnp.inf)))
        turned = there & (mean < 0) & (rank < jnp.floor(value * jnp.sum(there) + 1e-4))
        return jnp.zeros_like(mean), turned.astype(mean.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Smooth:
    """Says that labels which the ensemble disagrees with may be wrong."""

    grid: tuple[float, ...] = (0.1, 0.3)  # probabilities that such a label is wrong; the paper gives none

    def columns(self, mean: Float[Array, " n"], there: Bool[Array, " n"], value: Array) -> Columns:
        return jnp.zeros_like(mean), jnp.where(there & (mean < 0), value, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Margin:
    """Asks for a gap in proportion to the strength."""

    grid: tuple[float, ...] = (0.5, 1.0)  # scales of the strength

    def columns(self, mean: Float[Array, " n"], there: Bool[Array, " n"], value: Array) -> Columns:
        return jnp.where(there, jnp.clip(value * mean, LOW, HIGH), 0.0), jnp.zeros_like(mean)


def parts_of(
    key: Array, there: Bool[Array, " n"], first: Int[Array, " n"], *, repeats: int, parts: int
) -> Float[Array, "m n"]:
    """Which pairs each of repeats x parts heads does not see, as 0 and 1; every pair is left out `repeats` times.

    Args:
        first: the first pair of each pair's prompt: pairs of one prompt, which are all there or none, are left out
            together.
    """
    draw = jax.random.uniform(key, (repeats, there.shape[0]))
    prompts = there & (first == jnp.arange(there.shape[0]))
    rank = jnp.argsort(jnp.argsort(jnp.where(prompts, draw, jnp.inf), axis=1), axis=1)
    part = (rank % parts)[:, first]
    return (part[:, None, :] == jnp.arange(parts)[:, None]).reshape(repeats * parts, -1).astype(jnp.float32)
