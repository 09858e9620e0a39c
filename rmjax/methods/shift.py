"""Unlabelled answers from where a reward model is to be used: MetaRM as its papers mean it, and a head that can bend.

MetaRM (arXiv:2405.00438) ascends on answers of the policy that has moved. `adapted` trains the methods of
`methods.frozen` with such answers, given as features, for one or several places at once; labels stay those of training.

Departures from the paper, and why: k = 2 answers a prompt instead of 5 (pairs are what a pool holds; at independent
answers the gradient's mean differs by a factor (k - 1) / k alone, which eta absorbs); every place's head starts at the
tuned Bradley-Terry head, not at that of the round before, so that rounds do not inherit each other's luck.

A head that is linear in the features never sees a policy that moves as a whole: it trains on differences of answers,
and a common shift cancels in them, in labelled and unlabelled pairs alike (features of unit length are not quite linear
in this sense). `Hidden` and `HiddenMetaRm` put one hidden layer in its place.

Dimensions: N training pairs, p places, U unlabelled pairs, e evaluation pairs, s settings, d coordinates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.methods.frozen import Bench, Fitted, name
from rmjax.methods.secrets import MetaRm, Projection
from rmjax.models import heads
from rmjax.training.frozen import nonlinear, selection
from rmjax.training.frozen.draws import Runs
from rmjax.training.frozen.nonlinear import Auxiliary, Batch, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hidden(Projection):
    """Bradley-Terry on w . relu(A x + b): the control of `HiddenMetaRm`. Setting: feature dropout.

    Two units, relu(v . x) - relu(-v . x), are the baseline's v . x at the start; the others begin with weight 0.
    """

    def head(self, hidden: int) -> heads.HeadConfig:
        """Raises UserError for fewer than 3 units: two of them hold the baseline."""
        if hidden < 3:
            raise UserError(f"frozen.schedule.hidden={hidden}: a hidden layer needs at least 3, two for the baseline")
        return heads.Mlp(hidden=hidden, scale=0.0)

    def start(self, head: heads.Head, params: Params, weight: Array, batch: Batch, key: Array) -> Params:
        norm = jnp.maximum(jnp.linalg.norm(weight), 1e-6)
        units = params["hidden"] * norm / jnp.linalg.norm(params["hidden"], axis=0)  # as large as the baseline's
        units = units.at[:, 0].set(weight).at[:, 1].set(-weight)
        out = jnp.zeros_like(params["weight"]).at[:2].set(jnp.array([1.0, -1.0]))
        return {"head": {**params, "hidden": units, "weight": out}}

    def effective(self, params: Params) -> Array:
        """The mean slope of the head: every unit is on in half of the space."""
        return params["hidden"] @ params["weight"] / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenMetaRm(Hidden):
    """MetaRM with a hidden layer. Setting: eta."""

    grid: tuple[float, ...] = MetaRm.grid

    def gradient(
        self, head: heads.Head, params: Params, batch: Batch, penalty: Callable, value: Array, key: Array
    ) -> Params:
        return MetaRm.gradient(self, head, params, batch, penalty, value, key)


def adapted(
    bench: Bench,
    labels: int,
    number: int,
    method: Auxiliary,
    base: Fitted,
    unlabelled: Sequence[Features],
    *,
    run: int = 0,
) -> tuple[Fitted, Float[np.ndarray, "p s e"]]:
    """A method on one label draw, once for each place with that place's unlabelled answers.

    Settings are chosen as in `Bench.auxiliary`: on folds of the draw's labels, so nothing of any place's labels enters.

    Args:
        number: the label draw.
        base: the baseline on it, ...
        run: ... which may hold several draws: the place of this one.
        unlabelled: of each place, equally many pairs of answers; which one is called chosen means nothing.

    Returns:
        The method at the chosen setting (its runs are the places), and evaluation differences at every setting.
    """
    runs, form = bench.runs(labels, [number]), int(base.form[run])
    index, count = runs.index[0][runs.there[0]], len(unlabelled)
    seen, basis = bench.x[form][index], bench.bases[form]
    pairs = [np.stack([basis(u.chosen), basis(u.rejected)], 1) for u in unlabelled]
    pool = np.stack([np.concatenate([seen, place]) for place in pairs])  # a place stands where bases stood
    tests = np.broadcast_to(bench.evaluation[form], (count, *bench.evaluation[form].shape))
    here = lambda a: np.repeat(a[:, : len(index)], count, axis=0)
    placed = Runs(
        labels=(labels,) * count,
        draws=(number,) * count,
        index=np.tile(np.arange(len(index), dtype=np.int32), (count, 1)),
        there=here(runs.there),
        fold=here(runs.fold),
        first=here(runs.first),
    )
    blank = np.zeros(pool.shape[1] - len(index), np.float32)
    columns = tuple(np.concatenate([c[index], blank]) for c in bench.columns)
    schedule = bench.how.schedule
    held, every, params = nonlinear.fit(
        pool,
        tests,
        placed,
        method,
        schedule,
        form=np.arange(count),
        start=np.repeat(base.head[run : run + 1], count, axis=0),
        penalty=np.repeat(base.penalty[run : run + 1], count),
        folds=bench.how.folds,
        columns=columns,
        seed=bench.seed,
    )
    loss = selection.calibrated_loss(
        held, placed.there, weight=columns[0][placed.index], smooth=columns[2][placed.index]
    )
    chosen, row = selection.best(loss, method=name(method)), np.arange(count)
    times = schedule.penalties
    words = tuple(f"{method.grid[c // len(times)]:g}, L2 x {times[c % len(times)]:g}" for c in chosen)
    head = {key: leaf[row, chosen] for key, leaf in params.items()}
    penalty = np.repeat(base.penalty[run], count)
    fitted = Fitted(every[row, chosen], loss[row, chosen], chosen, words, np.full(count, form), penalty, head)
    return fitted, every


def joined(parts: Sequence[Features]) -> Features:
    """Features of several files, one after the other."""
    ids = sum((p.ids for p in parts), ())
    return Features(ids, np.concatenate([p.chosen for p in parts]), np.concatenate([p.rejected for p in parts]))
