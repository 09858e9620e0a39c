"""An ensemble of linear heads by the bootstrap: each on as many pairs drawn with replacement, all in one program.

Dimensions: n pairs (padded), d coordinates, m members.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rmjax.training.frozen.solver import solve


def heads(
    x: Float[np.ndarray, "n d"],
    weight: Float[np.ndarray, " n"],
    smooth: Float[np.ndarray, " n"],
    *,
    labels: int,
    l2: float,
    members: int,
    seed: int | list[int],
) -> Float[np.ndarray, "m d"]:
    """Weights of the members (Efron 1979): a pair drawn k times counts k times its own weight.

    Args:
        x: chosen minus rejected, or, with smoothing 1 where the other one is better, first minus second.
        labels: so many of the pairs, the first, are there; what follows pads.
        l2: penalty of every member.
        seed: of the draws, which are made on the host.
    """
    drawn = np.zeros((members, len(x)), np.float32)
    drawn[:, :labels] = np.random.default_rng(seed).multinomial(labels, np.full(labels, 1 / labels), size=members)
    return np.asarray(_solve(x, drawn * weight, np.broadcast_to(smooth, drawn.shape), np.full(members, l2, np.float32)))


@jax.jit
def _solve(x, weight, smooth, l2):
    return solve(x, weight, jnp.zeros_like(weight), smooth, l2)
