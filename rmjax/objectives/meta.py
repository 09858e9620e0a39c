"""MetaRM: keep telling apart the answers of a policy that moves away from the labels (arXiv:2405.00438).

    J(theta)  =  mean over prompts of (2 / k^2) sum_{i<j} sigmoid(|r_i - r_j|)      k unlabelled answers a prompt
    theta'    =  theta + eta grad J(theta)                                          ascent
    theta    <-  theta - alpha grad L_BT(theta')                                    descent, first order

The second gradient is taken at theta' and applied at theta: no second derivatives.

Dimensions: k answers of one prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Params = Any


def difference_loss(rewards: Float[Array, "*b k"], mask: Bool[Array, "*b k"] | None = None) -> Float[Array, "*b"]:
    """(2 / k^2) sum_{i<j} sigmoid(|r_i - r_j|) of each prompt (equation 2); k counts the answers under the mask.

    It grows with the spread of the rewards, from (k - 1) / (2 k) to (k - 1) / k; the gradient at equal rewards is 0.
    Fewer than two answers have no pair: 0.
    """
    mask = jnp.ones(rewards.shape, bool) if mask is None else mask
    i, j = jnp.triu_indices(rewards.shape[-1], 1)
    both = mask[..., i] & mask[..., j]
    gap = rewards[..., i] - rewards[..., j]
    gap = gap * jnp.sign(gap)  # |gap|, whose gradient at 0 is 0 where jnp.abs has 1
    terms = jnp.where(both, jax.nn.sigmoid(gap), 0.0)
    return 2.0 * jnp.sum(terms, -1) / jnp.maximum(jnp.sum(mask, -1), 1) ** 2


def lookahead(
    params: Params, ascend: Callable[[Params], Array], descend: Callable[[Params], Array], eta: float | Array
) -> tuple[Array, Params]:
    """The value and gradient of `descend` at params + eta grad `ascend`(params): the update to apply at `params`.

    Args:
        ascend: the difference loss of unlabelled answers.
        descend: the Bradley-Terry loss of labelled pairs.
        eta: the ascent's step; 0 gives the plain gradient.
    """
    up = jax.grad(ascend)(params)
    ahead = jax.tree.map(lambda p, g: p + eta * g, params, up)
    return jax.value_and_grad(descend)(ahead)
