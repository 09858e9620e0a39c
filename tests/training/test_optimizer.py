"""Schedules by value, what decays, clipping, and what the compiled step depends on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_training import MODEL, params

from rmjax.errors import UserError
from rmjax.objectives.sft import Sft
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.step import train_step


@pytest.mark.parametrize(
    ("schedule", "end", "want"),
    [
        ("constant", 0.0, [1 / 3, 2 / 3, 1, 1, 1, 1, 1]),
        ("linear", 0.0, [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25, 0]),
        ("linear", 0.2, [1 / 3, 2 / 3, 1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", 0.0, [1 / 3, 2 / 3, 1, 0.853553, 0.5, 0.146447, 0]),
        ("cosine", 0.1, [1 / 3, 2 / 3, 1, 0.868198, 0.55, 0.231802, 0.1]),
    ],
)
def test_rates(schedule, end, want):
    """Warm-up of 2 updates that already move, then the peak, then `end` of it at the last of 7."""
    o = Optimizer(learning_rate=4e-3, schedule=schedule, warmup=2, end=end)
    np.testing.assert_allclose([o.rate(i, 7) / 4e-3 for i in range(7)], want, atol=1e-6)


def test_warmup_below_one_is_a_share():
    share, steps = Optimizer(learning_rate=1.0, warmup=0.1), Optimizer(learning_rate=1.0, warmup=30)
    assert [share.rate(i, 300) for i in range(300)] == [steps.rate(i, 300) for i in range(300)]


def test_rates_after_the_end_and_of_one_step():
    o = Optimizer(learning_rate=1.0, schedule="cosine", end=0.1)
    assert o.rate(50, 10) == pytest.approx(0.1)
    assert o.rate(0, 1) == 1.0


def test_cosine_is_optax():
    o, steps = Optimizer(learning_rate=3e-4, schedule="cosine", end=0.1), 40
    theirs = optax.cosine_decay_schedule(3e-4, steps - 1, alpha=0.1)
    np.testing.assert_allclose([o.rate(i, steps) for i in range(steps)], [theirs(i) for i in range(steps)], rtol=1e-4)


def test_updates_are_adamw():
    """Direction times rate is optax.adamw with the same mask."""
    o = Optimizer(learning_rate=0.01, schedule="constant", b2=0.98, weight_decay=0.3, clip=0.5)
    tx = transform(o.direction, MODEL)
    mask = lambda p: MODEL.matrices
    chain = (optax.clip_by_global_norm(0.5), optax.adamw(0.01, 0.9, 0.98, weight_decay=0.3, mask=mask))
    theirs = optax.chain(*chain)
    p = q = params()
    state, other = tx.init(p), theirs.init(q)

    @jax.jit
    def updated(g, state, p, other, q):
        d, state = tx.update(g, state, p)
        u, other = theirs.update(g, other, q)
        return state, jax.tree.map(lambda x, y: x - 0.01 * y, p, d), other, optax.apply_updates(q, u)

    for i in range(3):
        g = jax.tree.map(lambda x, i=i: np.cos(np.asarray(x) * 9 + i), p)
        state, p, other, q = updated(g, state, p, other, q)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), p, q)


def test_only_matrices_decay():
    p = params()
    tx = transform(Optimizer(weight_decay=0.5, clip=0.0).direction, MODEL)
    d, _ = jax.jit(lambda p: tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p))(p)
    decayed = jax.tree.map(lambda x, y: bool(np.allclose(x, 0.5 * np.asarray(y))) and bool(np.any(x)), d, p)
    still = jax.tree.map(lambda x: not np.any(x), d)
    assert decayed == MODEL.matrices
    assert still == jax.tree.map(lambda m: not m, MODEL.matrices)
    assert not all(jax.tree.leaves(MODEL.matrices)), "norms are no matrices"


def test_rate_and_schedule_are_no_part_of_the_program():
    base = Optimizer(learning_rate=1e-3)
    step = train_step(MODEL, Sft(), base)
    other = dict(learning_rate=1.0, schedule="linear", warmup=7, end=0.5)
    assert train_step(MODEL, Sft(), dataclasses.replace(base, **other)) is step
    for change in (dict(b1=0.8), dict(b2=0.9), dict(eps=1e-6), dict(weight_decay=0.1), dict(clip=0.0)):
        assert train_step(MODEL, Sft(), dataclasses.replace(base, **change)) is not step, change


@pytest.mark.parametrize(
    "bad",
    [
        dict(schedule="cos"),
        dict(learning_rate=-1.0),
        dict(learning_rate=0.0),
        dict(learning_rate=math.nan),
        dict(learning_rate=math.inf),
        dict(b1=-0.1),
        dict(b2=1.0),
        dict(eps=0.0),
        dict(warmup=-1.0),
        dict(weight_decay=-0.1),
        dict(clip=-1.0),
        dict(clip=math.nan),
        dict(end=1.5),
        dict(end=0.1, schedule="constant"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(bad):
    name, value = next(iter(bad.items()))
    with pytest.raises(UserError, match=rf"^optimizer\.{name}='?{value}'?: [^\n]+$"):
        Optimizer(**bad)
