"""Proto-RM's losses (arXiv:2406.06606): features are pulled towards prototypes of good and of bad answers.

    a    =  `models.heads.log_assignments` of h, the embedding of `models.heads.Prototypes`, which serves the reward
    loss =  Bradley-Terry + lambda_p mean(-log sum_{k: c_k = label} a_k) + lambda_d diversity

Where this departs from the public code, and why: the code assigns a training answer to prototypes of its *true* class
only, which a new answer does not have; prototypes here are of the pooled feature, not of a padded vector of per-token
scores; distances are squared, because IMP's threshold (arXiv:1902.04552, appendix) is one of squared distances; the
served score goes through the prototypes, where the code's last stage drops them.

`ProtoRm` is this for a whole network, whose head is `models.heads.Prototypes`; its parts serve frozen features too.

Shapes are fixed: K prototypes of which a boolean `valid` says which are there.

Dimensions: n answers, K prototypes, d width.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rmjax.data.rows import Rows
from rmjax.models.heads import log_assignments, squared_distances
from rmjax.objectives.base import LossOutput, Mean
from rmjax.objectives.pairwise import OnRanking, either_flip
from rmjax.objectives.scores import hidden_states, pair_features

REJECTED, CHOSEN = 0, 1  # classes, as in `models.heads.Prototypes`


def assignment_loss(
    log_a: Float[Array, "n K"],
    classes: Int[Array, " K"],
    labels: Int[Array, " n"],
    mask: Bool[Array, " n"] | None = None,
    smooth: float | Float[Array, " n"] = 0.0,
) -> Float[Array, ""]:
    """Mean of (1 - a) l(label) + a l(the other class), l(c) = -log sum_{k: c_k = c} a_k; a = `smooth`, as of pairs.

    A class without a valid prototype makes what belongs to it count nothing.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    total = count = 0.0
    for label, share in ((labels, 1.0 - smooth), (CHOSEN + REJECTED - labels, smooth)):
        own = jnp.where(classes == label[:, None], log_a, -jnp.inf)
        there = mask & jnp.any(jnp.isfinite(own), -1)
        own = jnp.where(there[:, None], own, 0.0)  # a finite value where no gradient is wanted
        weight = jnp.where(there, share, 0.0)
        total, count = total - jnp.sum(weight * jax.nn.logsumexp(own, -1)), count + jnp.sum(weight)
    return total / jnp.maximum(count, 1e-9)


def diversity(
    prototypes: Float[Array, "K d"], classes: Int[Array, " K"], valid: Bool[Array, " K"], *, apart: float | Array = 0.5
) -> Float[Array, ""]:
    """Summed over classes: the mean over pairs nearer than `apart` of apart - ||p_i - p_j||, not squared

    Prototypes that coincide are pushed nowhere, for they have no direction; initialise them apart.
    """
    gap = prototypes[:, None] - prototypes[None]
    square = jnp.sum(gap * gap, -1)
    distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    count = prototypes.shape[0]
    ordered = jnp.arange(count)[:, None] < jnp.arange(count)
    total = jnp.zeros(())
    for label in (REJECTED, CHOSEN):
        there = valid & (classes == label)
        near = ordered & there[:, None] & there & (distance < apart)
        total += jnp.sum(jnp.where(near, apart - distance, 0.0)) / jnp.maximum(jnp.sum(near), 1)
    return total


def threshold(rho: float | Array, width: int, *, sigma: float = 5.0, alpha: float = 0.1) -> Array:
    """IMP's lambda = -2 s log(alpha) + d s log(1 + rho / s): an answer farther than this makes its own prototype.

    Args:
        rho: mean over dimensions of the variance of the class's prototypes.
        width: d.
        sigma: s, the clusters' variance; 5 and alpha = 0.1 are the public code's.
    """
    return -2.0 * sigma * math.log(alpha) + width * sigma * jnp.log1p(rho / sigma)


def spread(prototypes: Float[Array, "K d"], there: Bool[Array, " K"]) -> Float[Array, ""]:
    """rho: the mean over dimensions of the population variance of the prototypes that are there."""
    count = jnp.maximum(jnp.sum(there), 1)
    mean = jnp.sum(jnp.where(there[:, None], prototypes, 0.0), 0) / count
    return jnp.mean(jnp.sum(jnp.where(there[:, None], jnp.square(prototypes - mean), 0.0), 0) / count)


def add(
    h: Float[Array, "n d"],
    labels: Int[Array, " n"],
    prototypes: Float[Array, "K d"],
    classes: Int[Array, " K"],
    valid: Bool[Array, " K"],
    *,
    sigma: float = 5.0,
    alpha: float = 0.1,
    mask: Bool[Array, " n"] | None = None,
) -> tuple[Float[Array, "K d"], Int[Array, " K"], Bool[Array, " K"]]:
    """IMP: answers in order; one whose squared distance to all prototypes of its class is above lambda becomes one.

    A new prototype takes the first slot that is not valid; where none is left, nothing more is added. Ends where the
    table is full or the mask has no more answers. Returns prototypes, classes and valid, in the shapes that came in.
    """
    h, labels = jnp.asarray(h), jnp.asarray(labels)
    mask = jnp.ones(labels.shape, bool) if mask is None else jnp.asarray(mask)
    last = jnp.max(jnp.where(mask, jnp.arange(1, len(h) + 1), 0))

    def room(state):
        return (state[0] < last) & ~jnp.all(state[3])

    def visit(state):
        i, prototypes, classes, valid = state
        x, label = h[i], labels[i]
        own = valid & (classes == label)
        nearest = jnp.min(jnp.where(own, squared_distances(x, prototypes), jnp.inf))
        far = nearest > threshold(spread(prototypes, own), x.shape[-1], sigma=sigma, alpha=alpha)
        new = (jnp.arange(valid.shape[0]) == jnp.argmin(valid)) & far & mask[i]
        return i + 1, jnp.where(new[:, None], x, prototypes), jnp.where(new, label, classes), valid | new

    return jax.lax.while_loop(room, visit, (jnp.int32(0), prototypes, classes, valid))[1:]


def class_means(
    key: Array, h: Float[Array, "n d"], labels: Int[Array, " n"], count: int, mask: Bool[Array, " n"] | None = None
) -> tuple[Float[Array, "2*count d"], Int[Array, " 2*count"], Bool[Array, " 2*count"]]:
    """`count` prototypes a class: the means of a random, even partition of its answers; 1 gives the class mean.

    Fewer answers than prototypes leave the rest invalid.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    draw = jax.random.uniform(key, labels.shape)
    means, valid = [], []
    for label in (REJECTED, CHOSEN):
        there = mask & (labels == label)
        rank = jnp.argsort(jnp.argsort(jnp.where(there, draw, jnp.inf)))
        part = (rank[:, None] % count == jnp.arange(count)) & there[:, None]
        size = jnp.sum(part, 0)
        means.append(part.astype(h.dtype).T @ h / jnp.maximum(size, 1)[:, None])
        valid.append(size > 0)
    classes = jnp.repeat(jnp.array([REJECTED, CHOSEN]), count)
    return jnp.concatenate(means), classes, jnp.concatenate(valid)


def kmeans_pp(
    key: Array, h: Float[Array, "n d"], labels: Int[Array, " n"], count: int, mask: Bool[Array, " n"] | None = None
) -> tuple[Float[Array, "2*count d"], Int[Array, " 2*count"], Bool[Array, " 2*count"]]:
    """`count` prototypes a class: answers drawn with probability in proportion to the squared distance to those drawn
    before (k-means++, Arthur and Vassilvitskii 2007).

    Fewer distinct answers than prototypes leave the rest invalid.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    found, valid = [], []
    for label in (REJECTED, CHOSEN):
        there = mask & (labels == label)
        nearest = jnp.where(there, 1.0, 0.0)  # the first is uniform
        for i in range(count):
            pick = jax.random.categorical(jax.random.fold_in(key, label * count + i), jnp.log(nearest))
            valid.append(jnp.any(nearest > 0))
            found.append(jnp.where(valid[-1], h[pick], 0.0))
            gap = jnp.sum(jnp.square(h - h[pick]), -1)
            nearest = jnp.where(there, gap if i == 0 else jnp.minimum(nearest, gap), 0.0)
    classes = jnp.repeat(jnp.array([REJECTED, CHOSEN]), count)
    return jnp.stack(found), classes, jnp.stack(valid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtoRm(OnRanking):
    """L_ranking + `assignment` mean(-log sum_{k: c_k = label} a_k) + `diversity` diversity, on packed rows.

    A pair's two assignment losses are weighted and smoothed as the pair is, so that any number of microbatches gives
    one gradient, and a tie pulls both of its answers to both classes alike.
    """

    assignment: float
    diversity: float

    def __call__(self, model: Any, params: Any, rows: Rows) -> LossOutput:
        module = model.bind(params)
        hidden = hidden_states(module, rows)
        ranked, head = self.ranking.on(module, hidden, rows), module.head
        table, valid, classes = head.prototypes[...], head.valid[...], jax.lax.stop_gradient(head.classes[...])
        both = jnp.stack(pair_features(module, hidden, rows), axis=1)
        log_a = log_assignments(head.embed(both), table, valid, head.gamma[...])
        labels = jnp.array([CHOSEN, REJECTED])
        smooth = either_flip(rows.smooth, self.ranking.label_smoothing).reshape(-1)
        pulled = jax.vmap(lambda a, s: assignment_loss(a, classes, labels, smooth=s))(log_a, smooth)
        weight = jnp.where(rows.pairs[..., 0] >= 0, rows.weight, 0.0).reshape(-1)
        pulled = Mean.of(pulled, weight)
        apart = diversity(table, classes, jax.lax.stop_gradient(valid) > 0.5)
        total = ranked.loss.total + self.assignment * pulled.total + self.diversity * apart * ranked.loss.weight
        extra = {"ranking": ranked.loss, "assignment": pulled, "diversity": Mean(apart, jnp.ones((), jnp.float32))}
        return LossOutput(Mean(total, ranked.loss.weight), {**ranked.metrics, **extra})
