"""Reward heads: an independent oracle each, gradients, what is not trained, and heads as pure functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmjax.errors import UserError
from rmjax.models import heads
from rmjax.models.config import EncoderConfig
from rmjax.models.heads import Ensemble, Linear, Mlp, Prototypes
from rmjax.models.model import Model

F = 6
FIXED = {"valid", "classes", "gamma", "mix"}
PROTO = Prototypes(embed=4, capacity=5, gamma=0.7, mix=0.3)
CONFIGS = {
    "linear": Linear(),
    "bias": Linear(bias=True),
    "mlp": Mlp(hidden=7),
    "prototypes": PROTO,
    "ensemble": Ensemble(members=3, of=Mlp(hidden=7), lcb=0.5),
    "prototypes_ensemble": Ensemble(members=2, of=PROTO),
}


def x(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((*shape, F)).astype(np.float32)


def fill(params: dict, seed: int = 1) -> dict:
    """A prototypical head's parameters with three prototypes in its five places."""
    if "heads" in params:
        return {"heads": fill(params["heads"], seed)}
    if "prototypes" not in params:
        return params
    there = jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0])
    p = np.random.default_rng(seed).normal(size=params["prototypes"].shape).astype(np.float32)
    there = jnp.broadcast_to(there, params["valid"].shape)
    return params | {"prototypes": jnp.asarray(p), "valid": there, "classes": there * jnp.arange(5) % 2}


def new(name: str, seed: int = 0) -> tuple[heads.Head, dict]:
    head = heads.split(CONFIGS[name], F)
    return head, fill(head.init(jax.random.key(seed)))


def oracle(config, params: dict, features: np.ndarray) -> float:
    """One reward, by loops, in float64."""
    p = {k: np.asarray(v, np.float64) for k, v in params.items() if k != "heads"}
    v = np.asarray(features, np.float64)
    if isinstance(config, Ensemble):
        each = [
            oracle(config.of, jax.tree.map(lambda leaf, m=m: leaf[m], params["heads"]), v)
            for m in range(config.members)
        ]
        return np.mean(each) - config.lcb * np.std(each)
    if isinstance(config, Linear):
        return sum(a * b for a, b in zip(v, p["weight"], strict=True)) + p.get("bias", 0.0)
    if isinstance(config, Mlp):
        hidden = [max(0.0, v @ p["hidden"][:, j] + p["bias"][j]) for j in range(config.hidden)]
        return float(np.dot(hidden, p["weight"]))
    z = v @ p["projection"]
    near = [k for k in range(config.capacity) if p["valid"][k]]
    weights = [np.exp(-config.gamma * sum((z - p["prototypes"][k]) ** 2)) for k in near]
    mean = sum(w * p["prototypes"][k] for w, k in zip(weights, near, strict=True)) / sum(weights)
    return float(((1 - config.mix) * z + config.mix * mean) @ p["weight"])


@pytest.mark.parametrize("name", CONFIGS)
def test_rewards_are_the_oracles(name: str):
    head, params = new(name)
    features = x(2, 3)
    got = head.apply(params, features)
    assert got.shape == (2, 3) and got.dtype == jnp.float32
    want = [[oracle(CONFIGS[name], params, v) for v in line] for line in features]
    assert np.ptp(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    half = head.apply(params, jnp.asarray(features, jnp.bfloat16))
    assert half.dtype == jnp.float32


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_and_what_is_not_trained(name: str):
    """Every leaf has a gradient, but those said to be fixed, which AdamW with its decay leaves alone."""
    head, params = new(name)
    loss = lambda p: jnp.sum(jnp.sin(head.apply(p, x(8)))) + jnp.sum(jnp.cos(head.embed(p, x(8))))
    grads = jax.grad(loss)(params)
    for (path, grad), trained in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(head.trainable), strict=True
    ):
        assert trained == (path[-1].key not in FIXED)
        assert trained == bool(jnp.any(grad != 0)), path
    encoder = EncoderConfig(vocab=5, layers=1, embed=F, heads=2, mlp=4)
    matrices = Model.of(encoder, CONFIGS[name], ("cls",)).matrices["head"]
    tx = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1, mask=matrices))
    updates, _ = tx.update(grads, tx.init(params), params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        assert (path[-1].key in FIXED) == (not np.any(update)), path


def test_prototypes_are_used_when_they_are_valid():
    head, params = new("prototypes")
    before = head.apply(params, x(4))
    module = head.bind(params)
    share = module.assign(x(4))
    np.testing.assert_allclose(share.sum(-1), 1.0, rtol=1e-6)
    assert np.all(share[:, [1, 4]] == 0) and np.all(share[:, [0, 2, 3]] > 0)
    moved = lambda k: params | {"prototypes": params["prototypes"].at[k].add(0.5)}
    assert np.abs(head.apply(moved(2), x(4)) - before).min() > 1e-3
    np.testing.assert_array_equal(head.apply(moved(1), x(4)), before)
    np.testing.assert_array_equal(head.apply(params | {"classes": 1 - params["classes"]}, x(4)), before)
    # Without any, the reward is that of the embedding.
    none = params | {"valid": jnp.zeros(5)}
    np.testing.assert_allclose(head.apply(none, x(4)), head.embed(none, x(4)) @ none["weight"], rtol=1e-5)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(jax.grad(lambda p: head.apply(p, x(4)).sum())(none)))


def test_distances():
    z, p = x(3), x(5, seed=1)
    want = [[float(sum((a - b) ** 2)) for b in p] for a in z]
    np.testing.assert_allclose(heads.squared_distances(z, p), want, rtol=1e-5)
    assert float(heads.squared_distances(1e3 * z, 1e3 * z).min()) >= 0


def test_log_assignments_are_those_of_the_score_and_keep_tiny_ones():
    z, p = jnp.asarray(x(3)), jnp.asarray(x(5, seed=1))
    valid = jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0])
    got = heads.log_assignments(z, p, valid, 0.3)
    each = np.exp(-0.3 * np.sum((np.asarray(z, np.float64)[:, None] - np.asarray(p)) ** 2, -1)) * np.asarray(valid)
    np.testing.assert_allclose(np.exp(got), each / each.sum(-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(np.exp(got), heads.assignments(z, p, valid, 0.3), rtol=1e-5)
    assert np.isfinite(heads.log_assignments(30 * z, 30 * p, valid, 1.0)[:, [0, 2, 3]]).all()
    total = lambda p, valid: jnp.sum(jnp.where(valid > 0.5, heads.log_assignments(z, p, valid, 0.3), 0.0))
    for there in (valid, jnp.zeros(5)):
        gradient = jax.grad(total)(p, there)
        assert np.isfinite(gradient).all() and np.any(gradient) == np.any(there) and not np.any(gradient[there < 0.5])


def test_ensembles():
    config = Ensemble(members=4, of=Linear(), lcb=1.5)
    head = heads.split(config, F)
    params = head.init(jax.random.key(0))
    each = np.asarray(head.bind(params).members(x(5)))
    assert each.shape == (5, 4) and np.all(np.std(each, axis=1) > 1e-3)
    assert head.embed(params, x(5)).shape == (5, 4, F)
    np.testing.assert_allclose(head.apply(params, x(5)), each.mean(1) - 1.5 * each.std(1), rtol=1e-5)
    mean = heads.split(dataclasses.replace(config, lcb=0.0), F)
    np.testing.assert_allclose(mean.apply(params, x(5)), each.mean(1), rtol=1e-5)
    same = jax.tree.map(lambda v: jnp.broadcast_to(v[:1], v.shape), params)
    grads = jax.grad(lambda p: head.apply(p, x(5)).sum())(same)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ["linear", "prototypes", "ensemble"])
def test_many_heads_at_once(name: str):
    """jit and vmap over keys and parameters give what one head at a time gives."""
    head = heads.split(CONFIGS[name], F)
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(head.init))(keys)
    run = lambda p, features: (head.apply(p, features), head.embed(p, features))
    got = jax.jit(jax.vmap(run, in_axes=(0, None)))(many, x(4))
    for i, key in enumerate(keys):
        one = head.init(key)
        want = run(one, x(4))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6), got, want)
    assert np.std(np.asarray(got[0]), axis=0).min() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_dict_serves_on_a_model(name: str):
    model = Model.of(EncoderConfig(vocab=5, layers=1, embed=F, heads=2, mlp=4), CONFIGS[name], ("cls",))
    head, params = new(name)
    shape = lambda v: (v.shape, v.dtype)
    assert jax.tree.map(shape, params) == jax.tree.map(shape, model.shapes["head"])
    both = model.init(jax.random.key(0)) | {"head": params}
    np.testing.assert_array_equal(model.bind(both).reward(x(4)), head.apply(params, x(4)))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Mlp(hidden=0), r"head.hidden=0"),
        (lambda: Prototypes(gamma=0.0), r"head.gamma=0.0"),
        (lambda: Prototypes(mix=1.5), r"head.mix=1.5"),
        (lambda: Prototypes(capacity=0), r"head.capacity=0"),
        (lambda: Ensemble(members=0), r"head.members=0"),
        (lambda: Ensemble(lcb=-1.0), r"head.lcb=-1.0"),
        (lambda: Ensemble(of=Ensemble()), r"head.of is an Ensemble itself"),
    ],
)
def test_impossible_configs(build, says: str):
    with pytest.raises(UserError, match=says):
        build()
