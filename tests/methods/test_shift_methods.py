"""Unlabelled answers of other places: what a method sees of them, and a head that can bend."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.methods.frozen import Bench, Frozen
from rmjax.methods.secrets import MetaRm
from rmjax.methods.shift import Hidden, HiddenMetaRm, adapted, joined
from rmjax.models import heads
from rmjax.records import Message, Preference
from rmjax.training.frozen.nonlinear import Batch, Schedule

F, N = 6, 24
HOW = Frozen(
    forms=("standard",),
    axes=5,
    folds=2,
    penalties=(0.03, 0.3),
    schedule=Schedule(hidden=4, steps=6, batch=8, penalties=(1.0,)),
)


def features(n, seed, shift=0.0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(2, n, F)).astype(np.float32)
    x[0, :, :2] += 1.0
    return Features(tuple(map(str, range(n))), *(x + np.float32(shift)))


@functools.cache
def bench():
    pairs = [Preference(prompt=(Message("user", str(i)),), chosen="a", rejected="b") for i in range(N)]
    return Bench(features(N, 0), features(40, 1), pairs, HOW, parts=1, seed=3)


@functools.cache
def run(method, *places):
    """Differences [places, items] of a method whose unlabelled pairs are 16 draws with these shifts."""
    base = bench().baseline(N, [2])
    unlabelled = [features(16, 5, shift) for shift in places]
    fitted, every = adapted(bench(), N, 2, method, base, unlabelled)
    assert every.shape == (len(places), len(method.grid), 40)
    return fitted.differences


def test_without_ascent_it_is_the_method_on_the_pairs_alone():
    base = bench().baseline(N, [2])
    alone = bench().auxiliary(N, [2], MetaRm(grid=(0.0,)), base)
    np.testing.assert_allclose(run(MetaRm(grid=(0.0,)), 0.0, 9.0), np.repeat(alone.differences, 2, 0), atol=1e-5)


def test_a_linear_head_cannot_see_that_all_answers_moved_and_a_bent_one_can():
    linear, bent = run(MetaRm(grid=(3.0,)), 0.0, 9.0), run(HiddenMetaRm(grid=(3.0,)), 0.0, 9.0)
    np.testing.assert_allclose(linear[0], linear[1], atol=1e-4)
    assert np.abs(linear[0] - run(MetaRm(grid=(0.0,)), 0.0, 9.0)[0]).max() > 1e-3  # the ascent does something
    assert np.abs(bent[0] - bent[1]).max() > 1e-3


def test_the_hidden_layer_starts_at_the_baseline_and_all_of_it_learns():
    r = np.random.default_rng(2)
    answers, shifted = (jnp.asarray(r.normal(size=s), jnp.float32) for s in ((2, 8, 5), (8, 2, 5)))
    batch = Batch(answers, jnp.ones(8).at[-2:].set(0), jnp.zeros(8), jnp.zeros(8), shifted)
    weight = jnp.array([0.5, -1.0, 0.2, 0.0, 0.3])
    for method in (Hidden(), HiddenMetaRm()):
        head = heads.split(method.head(4), 5)
        params = method.start(head, head.init(jax.random.key(0)), weight, batch, jax.random.key(1))
        np.testing.assert_allclose(head.apply(params["head"], answers), answers @ weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(method.effective(params["head"]), weight, rtol=1e-5, atol=1e-6)
        params["head"]["weight"] = params["head"]["weight"] + 0.1  # or units of weight 0 would pass nothing back
        one = lambda b, p=params, m=method, h=head: m.gradient(h, p, b, lambda _: 0.0, 0.3, jax.random.key(4))
        gradient = jax.jit(one)
        found = gradient(batch)["head"]
        assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-6 for leaf in found.values())
        other = answers.at[:, -2:].add(jnp.array([3.0, -2.0])[:, None, None])  # of weight 0
        moved = gradient(dataclasses.replace(batch, answers=other))["head"]
        for name, leaf in found.items():
            np.testing.assert_allclose(leaf, moved[name], rtol=1e-5, atol=1e-6)


def test_two_units_are_too_few():
    with pytest.raises(UserError, match=r"hidden=2: a hidden layer needs at least 3"):
        Hidden().head(2)


def test_joined():
    both = joined([features(3, 0), features(2, 1)])
    assert len(both) == 5
    np.testing.assert_array_equal(both.rejected[3:], features(2, 1).rejected)
