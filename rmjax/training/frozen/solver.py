"""The Bradley-Terry loss of many linear heads on one set of pairs, minimised, all heads at once.

    F(w)  =  sum_i s_i [(1 - a_i) softplus(-(w.x_i - m_i)) + a_i softplus(w.x_i - m_i)] / sum_i s_i  +  (l2 / 2) |w|^2

x: chosen minus rejected; s, m, a: weight, margin, smoothing. F is convex, so a search over learning rates, steps and
seeds, which is most of what makes baselines bad, is not needed: the penalty is the only thing to tune.

Accelerated gradient descent (Beck and Teboulle 2009) with restarts (O'Donoghue and Candes 2015), on coordinates scaled
by the diagonal of the curvature's bound X' S X / 4 + l2 (Boehning 1992: the logistic's second derivative is at most
1/4). In the principal axes of `basis` that is nearly all of the curvature, so 40 steps are enough: on real features
weights are within 0.5 % of the minimum's for penalties of 1e-3 and more, whatever the number of pairs. The least
penalties on the fewest pairs stop short of it (1e-4 on 50 pairs: weights by 20 %, scores correlate by 0.98).

Dimensions: n pairs, d coordinates, c heads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

STEPS = 40
POWER_STEPS = 10
SAFETY = 1.1  # power iteration comes from below


def solve(
    x: Float[Array, "n d"],
    weight: Float[Array, "c n"],
    margin: Float[Array, "c n"],
    smooth: Float[Array, "c n"],
    l2: Float[Array, " c"],
    *,
    steps: int = STEPS,
) -> Float[Array, "c d"]:
    """The minimising weights of every head; zeros where all of its weights are 0."""
    share = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-9)
    scale = jax.lax.rsqrt(0.25 * share @ jnp.square(x) + l2[:, None])  # [c, d]

    def curvature(v: Float[Array, "c d"]) -> Float[Array, "c d"]:
        w = scale * v
        return scale * (0.25 * (share * (w @ x.T)) @ x + l2[:, None] * w)

    def gradient(v: Float[Array, "c d"]) -> Float[Array, "c d"]:
        w = scale * v
        slope = share * (jax.nn.sigmoid(w @ x.T - margin) - (1.0 - smooth))
        return scale * (slope @ x + l2[:, None] * w)

    def powered(v: Float[Array, "c d"], _: None) -> tuple[Float[Array, "c d"], Float[Array, " c"]]:
        v = curvature(v)
        norm = jnp.linalg.norm(v, axis=1)
        return v / jnp.maximum(norm, 1e-9)[:, None], norm

    start = jax.random.normal(jax.random.key(0), scale.shape)
    _, norms = jax.lax.scan(powered, start / jnp.linalg.norm(start, axis=1, keepdims=True), None, POWER_STEPS)
    rate = 1.0 / (SAFETY * jnp.maximum(norms[-1], 1e-9))

    def step(state, _):
        v, ahead, t = state
        slope = gradient(ahead)
        new = ahead - rate[:, None] * slope
        wrong = jnp.sum(slope * (new - v), axis=1) > 0  # the momentum climbs: start it anew
        t = jnp.where(wrong, 1.0, t)
        after = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * t * t))
        return (new, new + jnp.where(wrong, 0.0, (t - 1.0) / after)[:, None] * (new - v), after), None

    zeros = jnp.zeros_like(scale)
    (v, _, _), _ = jax.lax.scan(step, (zeros, zeros, jnp.ones(l2.shape)), None, steps)
    return scale * v
