"""MetaRM's difference loss against a loop and the reference values; the look-ahead step on a problem solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.objectives import meta


def oracle(rewards):
    k = len(rewards)
    return 2 / k**2 * sum(1 / (1 + np.exp(-abs(rewards[i] - rewards[j]))) for i in range(k) for j in range(i + 1, k))


@pytest.mark.parametrize(
    ("rewards", "want"), [([1.0] * 5, 0.4), ([0, 1, 2, 3, 4], 0.676303), ([0, 10, 20, 30, 40], 0.799985)]
)
def test_reference_values(rewards, want):
    np.testing.assert_allclose(meta.difference_loss(jnp.asarray(rewards, jnp.float32)), want, rtol=1e-5)


def test_the_loop_and_the_mask():
    rewards = np.random.default_rng(0).normal(size=(3, 2, 4))
    want = [[oracle(row) for row in block] for block in rewards]
    np.testing.assert_allclose(meta.difference_loss(rewards), want, rtol=1e-5)
    mask = np.array([True, False, True, True])
    np.testing.assert_allclose(meta.difference_loss(rewards[0, 0], mask), oracle(rewards[0, 0][mask]), rtol=1e-5)
    assert meta.difference_loss(rewards[0, 0], np.array([True, False, False, False])) == 0


def test_equal_rewards_have_no_gradient():
    assert not np.any(jax.grad(lambda r: meta.difference_loss(r))(jnp.ones(4)))


def test_the_second_gradient_is_taken_ahead():
    """J = a . p, L = (p - 3)^2 / 2 per leaf: the gradient at p + eta a is p + eta a - 3."""
    params = {"x": jnp.array([1.0, 2.0]), "y": jnp.array(5.0)}
    up = lambda p: jnp.sum(p["x"]) * 2.0 - p["y"]
    down = lambda p: sum(jnp.sum((v - 3.0) ** 2) / 2 for v in p.values())
    value, gradient = meta.lookahead(params, up, down, 0.1)
    np.testing.assert_allclose(gradient["x"], [1.2 - 3, 2.2 - 3], rtol=1e-6)
    np.testing.assert_allclose(gradient["y"], 4.9 - 3, rtol=1e-6)
    np.testing.assert_allclose(value, (1.8**2 + 0.8**2 + 1.9**2) / 2, rtol=1e-5)


def test_no_step_is_the_plain_gradient_and_a_step_is_not():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)), jnp.float32)
    down = lambda w: jnp.mean(jax.nn.softplus(-(x @ w)))
    up = lambda w: jnp.mean(meta.difference_loss((x @ w).reshape(3, 2)))
    w = jnp.array([0.3, -0.2, 0.5])
    np.testing.assert_array_equal(meta.lookahead(w, up, down, 0.0)[1], jax.grad(down)(w))
    assert np.abs(meta.lookahead(w, up, down, 1.0)[1] - jax.grad(down)(w)).max() > 1e-3
