"""MetaRM: keep telling apart the answers of a policy that moves away from the labels (arXiv:2405.00438).

    J(theta)  =  mean over prompts of (2 / k^2) sum_{i<j} sigmoid(|r_i - r_j|)      k unlabelled answers a prompt
    theta'    =  theta + eta grad J(theta)                                          ascent
    theta    <-  theta - alpha grad L_BT(theta')                                    descent, first order

The second gradient is taken at theta' and applied at theta: no second derivatives.

`MetaRm` is this for a whole network on packed rows.

Dimensions: k answers of one prompt; b rows, p pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rmjax.data.rows import Group, Rows, TwoRows
from rmjax.objectives.base import Gradient, LossOutput, Mean
from rmjax.objectives.pairwise import OnRanking
from rmjax.objectives.scores import Scalar

Params = Any


def difference_loss(rewards: Float[Array, "*b k"], mask: Bool[Array, "*b k"] | None = None) -> Float[Array, "*b"]:
    """(2 / k^2) sum_{i<j} sigmoid(|r_i - r_j|) of each prompt (equation 2); k counts the answers under the mask.

    It grows with the spread of the rewards, from (k - 1) / (2 k) to (k - 1) / k; the gradient at equal rewards is 0.
    Fewer than two answers have no pair: 0.
    """
    mask = jnp.ones(rewards.shape, bool) if mask is None else mask
    i, j = jnp.triu_indices(rewards.shape[-1], 1)
    both = mask[..., i] & mask[..., j]
    terms = jnp.where(both, apart(rewards[..., i] - rewards[..., j]), 0.0)
    return 2.0 * jnp.sum(terms, -1) / jnp.maximum(jnp.sum(mask, -1), 1) ** 2


def apart(gap: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """sigmoid(|gap|), whose gradient at 0 is 0 (that of jnp.abs is 1)."""
    return jax.nn.sigmoid(gap * jnp.sign(gap))


def ahead(params: Params, up: Params, eta: float | Array) -> Params:
    """theta' = theta + eta grad J(theta)."""
    return jax.tree.map(lambda p, g: p + eta * g, params, up)


def lookahead(
    params: Params, ascend: Callable[[Params], Array], descend: Callable[[Params], Array], eta: float | Array
) -> tuple[Array, Params]:
    """The value and gradient of `descend` at params + eta grad `ascend`(params): the update to apply at `params`.

    Args:
        ascend: the difference loss of unlabelled answers.
        descend: the Bradley-Terry loss of labelled pairs.
        eta: the ascent's step; 0 gives the plain gradient.
    """
    return jax.value_and_grad(descend)(ahead(params, jax.grad(ascend)(params), eta))


def unlabelled(id: str, prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> Group:
    """The answers of one prompt for `Difference`: every two are a pair, and all pairs together weigh 1."""
    pairs = list(itertools.combinations(range(len(completions)), 2))
    return Group(id=id, prompt=prompt, completions=completions, pairs=pairs, weight=[1 / len(pairs)] * len(pairs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """J on packed rows of `unlabelled` groups, whatever each one's k."""

    def __call__(self, model: Any, params: Params, rows: Rows) -> LossOutput:
        scores, there = Scalar()(model, params, rows), rows.pairs[..., 0] >= 0
        one, other = (jnp.take_along_axis(scores, jnp.maximum(rows.pairs[..., i], 0), axis=1) for i in (0, 1))
        # The pair's weight is 1 / (k (k - 1) / 2): so k; and 2 / k^2 times a sum is (k - 1) / k times a mean.
        k = (1.0 + jnp.sqrt(1.0 + 8.0 / jnp.where(there, rows.weight, 1.0))) / 2.0
        return LossOutput(Mean.of(apart(one - other) * (k - 1.0) / k, jnp.where(there, rows.weight, 0.0)), {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaRm(OnRanking):
    """The gradient of the ranking loss at theta + eta grad J(theta), to be applied at theta (arXiv:2405.00438, alg. 1).

    The optimizer moves theta by it as by any gradient (the paper writes plain gradient descent). The loss and metrics
    that are logged are those at theta + eta grad J(theta); `difference` is J(theta).
    """

    eta: float
    unlabelled: ClassVar[bool] = True

    def direction(self, gradient: Gradient, params: Params, batch: TwoRows) -> tuple[Params, LossOutput]:
        """Both gradients are exact for any number of microbatches."""
        up, spread = gradient(Difference(), params, batch.unlabelled)
        grads, out = gradient(self.ranking, ahead(params, up, self.eta), batch.labelled)
        return grads, LossOutput(out.loss, {**out.metrics, "difference": spread.loss})
