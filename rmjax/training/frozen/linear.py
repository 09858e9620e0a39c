"""Linear heads of many runs in one program: folds, penalties and treatments vmapped, runs one after the other.

For each run: a head for every (setting, fold), trained without that fold, scores the fold; and a head for every setting
is trained on all of the run's labels. With a treatment, strengths come from heads on the pairs that a head is trained
on alone, so no score or label of a held-out fold enters the columns of the heads that are tested on it; the one thing
that does is the penalty of those strength heads, the baseline's, which was chosen on all folds.

Dimensions: r runs, n pairs of a run (padded), d coordinates, k folds, s settings, m heads of an ensemble.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rmjax.training.frozen.draws import Runs
from rmjax.training.frozen.solver import solve
from rmjax.training.frozen.treatments import Treatment, parts_of

REPEATS, PARTS = 2, 5  # of the strength's ensemble


def fit(
    x: Float[np.ndarray, "b N d"],
    runs: Runs,
    *,
    form: np.ndarray,
    penalties: tuple[float, ...],
    folds: int,
    columns: tuple[np.ndarray, np.ndarray, np.ndarray],
    treatment: Treatment | None = None,
    strength_penalty: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "r s n"], Float[np.ndarray, "r s k d"]]:
    """Held-out differences of every setting, and weights: one for each fold left out, the last on all labels.

    Args:
        x: chosen minus rejected, the whole pool in each of b bases.
        form: [r] which basis each run takes.
        columns: weight, margin and smoothing of the pool's pairs, each [N].
        treatment: settings are then its grid x penalties, the grid outermost; it replaces margin and smoothing.
        strength_penalty: [r] the L2 of the ensemble's heads; with a treatment only.
    """
    weight, margin, smooth = (jnp.asarray(c, jnp.float32) for c in columns)
    program = _program(penalties, folds, treatment)
    strengths = np.zeros(len(runs)) if strength_penalty is None else strength_penalty
    per_run = (
        runs.index,
        runs.there,
        runs.fold,
        runs.first,
        np.asarray(form),
        strengths.astype(np.float32),
        np.asarray(runs.draws),
    )
    held, final = program(jnp.asarray(x), weight, margin, smooth, per_run, jax.random.key(seed))
    return np.asarray(held), np.asarray(final)


@functools.lru_cache(maxsize=16)
def _program(penalties: tuple[float, ...], folds: int, treatment: Treatment | None):
    l2 = jnp.asarray(penalties, jnp.float32)

    @jax.jit
    def run_all(x, weight, margin, smooth, per_run, key):
        def run(args):
            index, there, fold, first, form, strength_l2, draw = args
            pairs = x[form, index]
            # Row k trains without fold k; the last one on everything.
            seen = there & jnp.concatenate([fold != jnp.arange(folds)[:, None], jnp.ones((1, len(index)), bool)])
            weights = jnp.where(seen, weight[index], 0.0)
            if treatment is None:
                made = tuple(jnp.broadcast_to(c[index], (1, *weights.shape)) for c in (margin, smooth))
            else:
                made = treat(pairs, weights, seen, first, strength_l2, jax.random.fold_in(key, draw))
            w = heads(pairs, weights, *made)  # [s, k + 1, d]
            scores = w @ pairs.T
            held = jnp.sum(jnp.where(fold == jnp.arange(folds)[:, None], scores[:, :-1], 0.0), axis=1)
            return held, w

        def heads(pairs, weights, margins, smooths) -> Float[Array, "s k d"]:
            """margins, smooths: [g, k + 1, n] for the g values of a treatment's setting."""
            grid, rows, n = margins.shape
            shape = (grid, len(penalties), rows, n)
            flat = lambda a: jnp.broadcast_to(a, shape).reshape(-1, n)
            tuned = jnp.broadcast_to(l2[:, None], shape[:3]).reshape(-1)
            w = solve(pairs, flat(weights), flat(margins[:, None]), flat(smooths[:, None]), tuned)
            return w.reshape(grid * len(penalties), rows, -1)

        def treat(pairs, weights, seen, first, strength_l2, key):
            def strength(weight, there, key) -> Float[Array, " n"]:
                unseen = parts_of(key, there, first, repeats=REPEATS, parts=PARTS)
                zero = jnp.zeros_like(unseen)
                w = solve(pairs, weight * (1.0 - unseen), zero, zero, jnp.broadcast_to(strength_l2, unseen.shape[:1]))
                return jnp.sum(unseen * (w @ pairs.T), axis=0) / REPEATS

            means = jax.vmap(strength)(weights, seen, jax.random.split(key, folds + 1))
            grid = jnp.asarray(treatment.grid, jnp.float32)
            of = jax.vmap(jax.vmap(treatment.columns, (0, 0, None)), (None, None, 0))
            return of(means, seen, grid)

        return jax.lax.map(run, per_run)

    return run_all
