"""Adapters: fresh ones change nothing; others against products in loops and merged models; what an 8B one weighs."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.models.config import TARGETS, DecoderConfig, EncoderConfig, Lora
from rmjax.models.heads import Linear
from rmjax.models.lora import adapted
from rmjax.models.model import Model, join
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import state_shapes

DECODER = Model.of(DecoderConfig(vocab=13, layers=2, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=6), Linear())
ENCODER = Model.of(EncoderConfig(vocab=13, layers=2, embed=8, heads=2, mlp=6, max_positions=16), Linear(), ("pooler",))
MODELS = {"decoder": DECODER, "encoder": ENCODER}
TOKENS = np.random.default_rng(0).integers(1, 13, (2, 7)).astype(np.int32)
AT, ZERO = np.broadcast_to(np.arange(7, dtype=np.int32), TOKENS.shape), np.zeros_like(TOKENS)


@functools.cache
def program(model):
    def run(params):
        network = model.bind(params)
        hidden = network.hidden(TOKENS, AT, ZERO, ZERO)
        if model.share:
            last, _ = network.prefill(TOKENS, jnp.full(2, 7))
            return hidden, network.reward(last)
        return hidden, network.reward(network.encoder.pooler(hidden[:, 0]))

    return jax.jit(run)


def said(model, params):
    return [np.asarray(x) for x in program(model)(params)]


@functools.cache
def adapters(kind, **how):
    """A model with adapters that are not fresh, and its parameters."""
    model, fresh = MODELS[kind].with_adapters(start(kind), Lora(**how), jax.random.key(1))
    noise = np.random.default_rng(2)
    trained, base = model.split(fresh)
    moved = jax.tree.map(lambda x: x + 0.3 * noise.standard_normal(x.shape).astype(np.float32), trained)
    return model, fresh, join(moved, base)


@functools.cache
def start(kind):
    return MODELS[kind].init(jax.random.key(0))


def named(tree):
    return {".".join(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("kind", MODELS)
def test_a_fresh_adapter_changes_nothing_and_any_other_does(kind):
    model, fresh, moved = adapters(kind, rank=2)
    plain = said(MODELS[kind], start(kind))
    for a, b in zip(said(model, fresh), plain, strict=True):
        np.testing.assert_array_equal(a, b)
    rewards = said(model, moved)[1]
    for name, leaf in named(moved).items():  # each leaf of its own is in the score
        if ".lora." in name:
            keys = name.split(".")
            other = jax.tree.map(lambda x: x, moved)
            branch = functools.reduce(lambda tree, key: tree[key], keys[:-1], other)
            branch[keys[-1]] = leaf + 0.5 * np.random.default_rng(3).standard_normal(leaf.shape).astype(np.float32)
            assert np.abs(said(model, other)[1] - rewards).max() > 1e-4, name
    off, rest = model.without_adapters(fresh)
    assert off == MODELS[kind]
    jax.tree.map(np.testing.assert_array_equal, rest, start(kind))


@pytest.mark.parametrize(
    ("name", "pattern", "x", "w", "inputs"),
    [
        ("wq", "btd,dnh->btnh", (2, 3, 4), (4, 2, 3), 1),
        ("wo", "btnh,nhd->btd", (2, 3, 2, 3), (2, 3, 5), 2),
        ("down", "btf,fd->btd", (1, 2, 5), (5, 4), 1),
    ],
)
def test_a_product_with_an_adapter_in_loops(name, pattern, x, w, inputs):
    """y + scale * sum_r (sum_i x_i A_ir) B_ro, float64."""
    r = np.random.default_rng(0)
    lora, given = Lora(rank=3, alpha=7.0, rslora=True), r.standard_normal(x)
    a, b = r.standard_normal((*w[:inputs], 3)), r.standard_normal((3, *w[inputs:]))
    layer = types.SimpleNamespace(
        lora=types.SimpleNamespace(**{name: types.SimpleNamespace(a=a, b=b)}), config=types.SimpleNamespace(lora=lora)
    )
    y = r.standard_normal((*x[:2], *w[inputs:]))
    rows, low, high = given.reshape(-1, math.prod(w[:inputs])), a.reshape(-1, 3), b.reshape(3, -1)
    want = y.reshape(len(rows), -1).copy()
    for n, o, k, i in np.ndindex(len(rows), high.shape[1], 3, rows.shape[1]):
        want[n, o] += 7.0 / math.sqrt(3.0) * rows[n, i] * low[i, k] * high[k, o]
    with jax.enable_x64(True):
        got = adapted(layer, pattern, jnp.asarray(given), name, jnp.asarray(y))
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "how"), [("decoder", {"rank": 2}), ("encoder", {"rank": 3, "targets": ("q", "down")})]
)
def test_a_whole_model_is_the_plain_one_with_its_adapters_added(kind, how):
    """The sum is made here in float64; forward pass and prefill are the plain model's."""
    model, _, moved = adapters(kind, **how)
    base = model.without_adapters(moved)[1]
    blocks = moved[kind]["blocks"]
    assert set(blocks["lora"]) == {TARGETS[t] for t in how.get("targets", TARGETS)} & set(blocks)
    summed = dict(base[kind]["blocks"])
    for name, adapter in blocks["lora"].items():
        w = np.asarray(blocks[name], np.float64)
        a, b = (np.asarray(adapter[part], np.float64) for part in "ab")
        product = np.stack([x.reshape(-1, x.shape[-1]) @ y.reshape(len(y), -1) for x, y in zip(a, b, strict=True)])
        summed[name] = (w + 32.0 / how["rank"] * product.reshape(w.shape)).astype(np.float32)
    want = {**base, kind: {**base[kind], "blocks": summed}}
    plain, merged = model.merged(moved)
    assert plain == MODELS[kind]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), merged, want)
    for a, b in zip(said(model, moved), said(plain, want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_an_8b_state_has_no_float32_base_and_no_moments_of_it(weights):
    """By shapes: Llama-3-8B with adapters of rank 16 on every matrix, 41.9 M parameters of 8.03 G."""
    config = DecoderConfig(
        vocab=128256, layers=32, embed=4096, heads=32, kv_heads=8, head_dim=128, mlp=14336, tied=False,
        dtype="bfloat16", weights=weights, lora=Lora(rank=16),
    )  # fmt: skip
    model = Model.of(config)
    trained, base = model.split(model.shapes)
    state = state_shapes(model, transform(Optimizer().direction, model))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    by_hand = 16 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert count(trained) == count(state.params) == by_hand == 41_943_040
    assert count(state.opt_state) == 2 * by_hand + 1  # Adam's two moments and its count
    assert all(".lora." in name for name in named(trained))
    scales = {"int8": 32 * (4096 + 2 * 1024 + 4096 + 2 * 14336 + 4096)}.get(weights, 0)
    float32 = [x for x in jax.tree.leaves(base) if x.dtype == jnp.float32]
    assert count(float32) == (2 * 32 + 1) * 4096 + scales  # norms
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(base))
    assert size < {"bfloat16": 16.1e9, "int8": 9.2e9}[weights]
    assert jax.tree.structure(model.split(model.axes)[0], is_leaf=lambda a: isinstance(a, tuple)) == (
        jax.tree.structure(trained)
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rank": -1}, "lora.rank=-1: give a number of at least 0"),
        ({"rank": 2, "alpha": 0.0}, "lora.alpha=0"),
        ({"rank": 2, "targets": ("q_proj",)}, "lora.targets='q_proj': not one of q, k, v, o, gate, up, down"),
        ({"alpha": 8.0}, "lora.rank=0: the other settings of lora count only with a rank"),
    ],
)
def test_settings_that_cannot_be_meant(how, message):
    with pytest.raises(UserError, match=message):
        Lora(**how)


def test_a_matrix_that_the_model_lacks_is_named():
    with pytest.raises(UserError, match=r"lora\.targets='gate': this model's layers have no such matrix"):
        ENCODER.with_config(lora=Lora(rank=2, targets=("gate",)))
