"""Contrastive auxiliary losses on features of answers: SimCSE and SwAV (arXiv:2401.06080, section 3.1).

Two stochastic views of a batch (two dropout masks of one network) are compared. What a row is, `rows` decides:

    direct       the features of all chosen and all rejected answers                      [2n, d]
    difference   f(chosen) - f(rejected), and its negative                                [2n, d]

The total loss of the paper is L_BT + beta * L_contrastive; beta = 1 for SimCSE, 0.1 for SwAV (50 prototypes), 0.5 for
SwAV on differences (20 prototypes). It does not state temperatures or Sinkhorn's settings: the defaults here are those
of SimCSE (arXiv:2104.08821) and SwAV (arXiv:2006.09882).

`Contrastive` is that total for a whole network under dropout; its parts serve heads on frozen features too.

Dimensions: n pairs, r rows of a view, d width of a feature, k prototypes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rmjax.data.rows import Rows
from rmjax.objectives.base import LossOutput, Mean
from rmjax.objectives.pairwise import OnRanking
from rmjax.objectives.scores import hidden_states, pair_features

Form = Literal["direct", "difference"]


def rows(chosen: Float[Array, "n d"], rejected: Float[Array, "n d"], form: Form) -> Float[Array, "2*n d"]:
    """The rows H of one view. ValueError where the form is none of the two."""
    if form == "direct":
        return jnp.concatenate([chosen, rejected])
    if form == "difference":
        return jnp.concatenate([chosen - rejected, rejected - chosen])
    raise ValueError(f"form={form!r}: direct or difference")


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Each row divided by its Euclidean norm; a row of zeros stays, with gradient zero."""
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    return x * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def simcse(
    a: Float[Array, "r d"],
    b: Float[Array, "r d"],
    temperature: float | Array = 0.05,
    mask: Bool[Array, " r"] | None = None,
) -> Float[Array, ""]:
    """Mean over rows of -log(exp(cos(a_i, b_i) / t) / sum_j exp(cos(a_i, b_j) / t)), the paper's equation 6.

    As printed it is one-sided: a is the query. The views are draws of one distribution, so the other side has the same
    expectation. Rows that the mask leaves out are neither queries nor negatives; no row at all gives 0.
    """
    mask = jnp.ones(a.shape[0], bool) if mask is None else mask
    logits = jnp.where(mask, unit(a) @ unit(b).T / temperature, -jnp.inf)
    logits = jnp.where(mask[:, None], logits, 0.0)  # a row without any candidate has no finite softmax
    losses = -jnp.diagonal(jax.nn.log_softmax(logits))
    return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def sinkhorn(
    scores: Float[Array, "r k"],
    epsilon: float = 0.05,
    iterations: int = 3,
    mask: Bool[Array, " r"] | None = None,
) -> Float[Array, "r k"]:
    """Soft assignments of rows to prototypes that use all prototypes alike (SwAV, section 3.1 and its listing).

    Q = exp(scores / epsilon), then in turn: every prototype's total becomes r / k, every row's total 1. Row totals are
    set last, so rows sum to 1 exactly and prototypes to r / k approximately. In logarithms: finite for any scores.
    Rows that the mask leaves out are zero and take no part.
    """
    mask = jnp.ones(scores.shape[0], bool) if mask is None else mask
    log_q = jnp.where(mask[:, None], scores / epsilon, -jnp.inf)
    for _ in range(iterations):
        total = jax.nn.logsumexp(log_q, axis=0, keepdims=True)
        log_q = log_q - jnp.where(jnp.isfinite(total), total, 0.0)
        log_q = jnp.where(mask[:, None], jax.nn.log_softmax(jnp.where(mask[:, None], log_q, 0.0), axis=1), -jnp.inf)
    return jnp.exp(log_q)


def swav(
    a: Float[Array, "r d"],
    b: Float[Array, "r d"],
    prototypes: Float[Array, "k d"],
    temperature: float | Array = 0.1,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    mask: Bool[Array, " r"] | None = None,
) -> Float[Array, ""]:
    """Mean over rows of l(a, code of b) + l(b, code of a); l(h, q) = -sum_k q_k log softmax_k(h . c_k / t), equation 8.

    Codes are Sinkhorn's, without gradient. Features and prototypes are divided by their norms, as in SwAV; the paper
    does not say so, but without it the scores have no scale that a fixed epsilon would fit.
    """
    mask = jnp.ones(a.shape[0], bool) if mask is None else mask
    centres = unit(prototypes)
    scores = [unit(x) @ centres.T for x in (a, b)]
    codes = [jax.lax.stop_gradient(sinkhorn(s, epsilon, iterations, mask)) for s in scores]
    losses = -sum(jnp.sum(codes[1 - i] * jax.nn.log_softmax(scores[i] / temperature), -1) for i in (0, 1))
    return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(OnRanking):
    """L_ranking (mean of two dropout passes) + beta L_cl between the passes' pooled features (section 3.1, total loss).

    Rows come with dropout, and whole batches at once: every answer of a batch is compared with every other. Pairs of
    weight 0 are left out of both losses. With `loss` swav the model's head is `WithPrototypes`.
    """

    loss: Literal["simcse", "swav"]
    beta: float
    form: Form
    temperature: float
    whole_batch: ClassVar[bool] = True

    def __call__(self, model: Any, params: Any, batch: Rows) -> LossOutput:
        """ValueError for rows without dropout: the two passes would be one."""
        if batch.dropout is None:
            raise ValueError("a contrastive loss compares two dropout passes: the rows have no dropout")
        module, passes, views = model.bind(params), [], []
        for view in (0, 1):
            own = dataclasses.replace(batch, dropout=batch.dropout.at(view))
            hidden = hidden_states(module, own)
            passes.append(self.ranking.on(module, hidden, own))
            views.append(rows(*pair_features(module, hidden, own), self.form))
        mask = jnp.tile(((batch.pairs[..., 0] >= 0) & (batch.weight > 0)).reshape(-1), 2)
        if self.loss == "simcse":
            apart = simcse(*views, self.temperature, mask)
        else:
            apart = swav(*views, module.head.centres[...], self.temperature, mask=mask)
        first, second = passes
        weight = first.loss.weight
        total = (first.loss.total + second.loss.total) / 2 + self.beta * apart * weight
        one = jnp.ones((), jnp.float32)
        metrics = {**first.metrics, "ranking": first.loss, self.loss: Mean(apart, one)}
        return LossOutput(Mean(total, weight), metrics)
