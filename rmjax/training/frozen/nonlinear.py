"""Heads with a loss beside Bradley-Terry's, trained on minibatches: settings, folds and runs in one program.

Every head's linear part starts at the tuned Bradley-Terry head of its own run and fold, for which the penalised
pairwise loss has no gradient left. So what is compared with that baseline is what the method's own loss does to it, and
not one optimiser with another: trained from a random start on a few hundred pairs, all of these heads lose to the
convex solution. Proto-RM alone does not start at the baseline's scores: its prototypes have a share in them from the
first step on.

Within a run all heads (one for each setting and fold, and one for each setting on all labels) see the same minibatches,
so that the gathered features are shared and settings differ by nothing but themselves; a fold's pairs weigh nothing in
the heads that leave it out. Subsets enter by index, so one program serves every number of labels.

Dimensions: r runs, N pairs of the pool, e evaluation pairs, n pairs of a run (padded), d coordinates, b batch, k folds,
s settings.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.models import heads
from rmjax.objectives.pairwise import sigmoid_loss
from rmjax.training.frozen.draws import Runs

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Labelled pairs and as many unlabelled ones."""

    answers: Array  # [2, b, d] chosen, then rejected ones
    weight: Array  # [b]; 0: not there, or held out
    margin: Array  # [b]
    smooth: Array  # [b]
    shifted: Array  # [b, 2, d] both answers of pairs whose label this run does not see


@typing.runtime_checkable
class Auxiliary(typing.Protocol):
    """A method on frozen features: a frozen, hashable dataclass. `grid`: the values of its one setting to be tried."""

    grid: tuple[float, ...]

    def head(self, hidden: int) -> heads.HeadConfig: ...

    def start(self, head: heads.Head, params: Params, weight: Array, batch: Batch, key: Array) -> Params:
        """{"head": parameters to begin with, others that are trained beside it, without a penalty}.

        Args:
            params: a fresh head.
            weight: [d] the tuned Bradley-Terry head.
            batch: all pairs that this head is trained on, the others with weight 0.
        """

    def effective(self, params: Params) -> Array:
        """[d]: the linear part of a head, which the penalty is on: the same penalty as the baseline's."""

    def gradient(
        self, head: heads.Head, params: Params, batch: Batch, penalty: typing.Callable, value: Array, key: Array
    ) -> Params:
        """The gradient of a minibatch; `penalty` (params -> number) is to be added to what is minimised."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How such heads are trained."""

    hidden: int = 8  # width of the projection
    steps: int = 60
    batch: int = 16  # pairs, as in arXiv:2401.06080
    learning_rate: float = 0.3  # the peak of a cosine; plain gradient descent, gradients clipped to norm 1
    penalties: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)  # times the penalty that the run's baseline chose

    def __post_init__(self) -> None:
        require("schedule.", self, "hidden", "steps", least=1)
        require("schedule.", self, "batch", least=2)
        require("schedule.", self, "learning_rate", above=0)
        if not self.penalties or not all(0 < p < np.inf for p in self.penalties):
            raise UserError(f"schedule.penalties={self.penalties}: give at least one number, all above 0")


def pair_loss(head: heads.Head, params: Params, answers: Float[Array, "*v 2 b d"], batch: Batch) -> Float[Array, ""]:
    """Weighted Bradley-Terry with the batch's columns; the mean over views, if there are any.

    Args:
        answers: chosen, then rejected ones; one array, so that the head's product with features is one.
    """
    chosen, rejected = jnp.moveaxis(head.apply(params["head"], answers), -2, 0)
    losses = jnp.sum(batch.weight * sigmoid_loss(chosen - rejected - batch.margin, batch.smooth), axis=-1)
    return jnp.mean(losses) / jnp.maximum(jnp.sum(batch.weight), 1e-9)


def fit(
    x: Float[np.ndarray, "a N 2 d"],
    evaluation: Float[np.ndarray, "a e 2 d"],
    runs: Runs,
    method: Auxiliary,
    schedule: Schedule,
    *,
    form: np.ndarray,
    start: Float[np.ndarray, "r k d"],
    penalty: np.ndarray,
    folds: int,
    columns: tuple[np.ndarray, np.ndarray, np.ndarray],
    seed: int = 0,
) -> tuple[Float[np.ndarray, "r s n"], Float[np.ndarray, "r s e"], Params]:
    """Held-out differences, differences on the evaluation pairs, and the final parameters [r, s, ...].

    Settings are the method's grid x penalties, the grid outermost.

    Args:
        x: chosen and rejected coordinates of the pool, in each of a bases.
        runs: of any numbers of labels, padded to one size.
        form: [r] which basis each run takes.
        start: the baseline's weights without each fold, and on all labels last.
        penalty: [r] the baseline's.
        columns: weight, margin and smoothing of the pool's pairs, each [N].
    """
    program = _program(method, schedule, folds, x.shape[-1])
    per_run = (runs.index, runs.there, runs.fold, np.asarray(form), np.asarray(runs.draws), start, np.float32(penalty))
    cols = tuple(jnp.asarray(c, jnp.float32) for c in columns)
    held, on_eval, params = program(jnp.asarray(x), jnp.asarray(evaluation), cols, per_run, jax.random.key(seed))
    return np.asarray(held), np.asarray(on_eval), jax.tree.map(np.asarray, params)


@functools.lru_cache(maxsize=16)
def _program(method: Auxiliary, schedule: Schedule, folds: int, width: int):
    head = heads.split(method.head(schedule.hidden), width)
    grid, penalties = (jnp.asarray(v, jnp.float32) for v in (method.grid, schedule.penalties))
    values, times = (a.reshape(-1) for a in jnp.meshgrid(grid, penalties, indexing="ij"))
    rate = optax.cosine_decay_schedule(schedule.learning_rate, schedule.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate))

    def penalised(l2: Array) -> typing.Callable:
        return lambda p: 0.5 * l2 * jnp.sum(jnp.square(method.effective(p["head"])))

    def trained(tree: Params) -> Params:
        return jax.tree.map(lambda leaf, on: leaf if on else jnp.zeros_like(leaf), tree, head.trainable)

    @jax.jit
    def run_all(x, evaluation, columns, per_run, key):
        def run(args):
            index, there, fold, form, draw, weights, l2 = args
            pool, tests = x[form], evaluation[form]
            keys = jax.random.split(jax.random.fold_in(key, draw), 4)
            labelled = jnp.zeros(pool.shape[0], bool).at[index].max(there)
            others = jnp.where(jnp.all(labelled), True, ~labelled)  # no pair is unlabelled: all stand in for them

            def gather(rows, there, key) -> Batch:
                place = index[rows]
                pick = jnp.argsort(jnp.where(others, jax.random.uniform(key, others.shape), jnp.inf))
                pick = pick[jnp.arange(schedule.batch) % jnp.maximum(jnp.sum(others), 1)]
                weight, margin, smooth = (c[place] for c in columns)
                return Batch(jnp.swapaxes(pool[place], 0, 1), jnp.where(there, weight, 0.0), margin, smooth, pool[pick])

            # Fit k leaves fold k out; the last one leaves out none.
            leave = jnp.concatenate([jnp.arange(folds), jnp.array([-1])])
            whole = gather(jnp.arange(len(index)), there, keys[0])
            first = head.init(keys[1])

            def begin(k, w):
                batch = dataclasses.replace(whole, weight=jnp.where(fold != k, whole.weight, 0.0))
                return method.start(head, first, w, batch, keys[2])

            begun = jax.vmap(begin)(leave, weights)  # [k + 1, ...]
            params = jax.tree.map(lambda p: jnp.broadcast_to(p, (len(values), *p.shape)), begun)
            over = lambda f: jax.vmap(jax.vmap(f, (0, 0, None, None, 0)), (0, 0, 0, 0, None))  # settings, then folds

            def step(carry, number):
                params, state = carry
                key = jax.random.fold_in(keys[3], number)
                draw_key, other_key, noise = jax.random.split(key, 3)
                order = jnp.argsort(jnp.where(there, jax.random.uniform(draw_key, there.shape), jnp.inf))
                rows = order[: schedule.batch]
                batch = gather(rows, there[rows], other_key)

                def one(p, state, value, times, k):
                    mine = dataclasses.replace(batch, weight=jnp.where(fold[rows] != k, batch.weight, 0.0))
                    grads = method.gradient(head, p, mine, penalised(times * l2), value, noise)
                    updates, state = optimizer.update({**grads, "head": trained(grads["head"])}, state)
                    return optax.apply_updates(p, updates), state

                return over(one)(params, state, values, times, leave), None

            (params, _), _ = jax.lax.scan(
                step, (params, jax.vmap(jax.vmap(optimizer.init))(params)), jnp.arange(schedule.steps)
            )
            score = lambda p, pairs: head.apply(p, pairs[:, 0]) - head.apply(p, pairs[:, 1])
            final = jax.tree.map(lambda p: p[:, -1], params["head"])
            inner = jax.tree.map(lambda p: p[:, :-1], params["head"])
            held = jax.vmap(jax.vmap(lambda p: score(p, pool[index])))(inner)  # [s, k, n]
            held = jnp.sum(jnp.where(fold == jnp.arange(folds)[:, None], held, 0.0), axis=1)
            return held, jax.vmap(lambda p: score(p, tests))(final), final

        return jax.lax.map(run, per_run)

    return run_all
