"""int8 weights: against rounding in loops, their error bounds, what is kept how, and files in and out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.models import hf
from rmjax.models.config import DecoderConfig, EncoderConfig, Lora
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.models.quantised import dequantise, quantise

DECODER = Model.of(
    DecoderConfig(vocab=13, layers=2, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=6, tied=False),
    Linear(),
)
ENCODER = Model.of(
    EncoderConfig(vocab=13, layers=1, embed=8, heads=2, mlp=6, max_positions=16), Linear(bias=True), ("pooler",)
)
MODELS = {"decoder": DECODER, "encoder": ENCODER}
TOKENS = np.random.default_rng(0).integers(1, 13, (2, 7)).astype(np.int32)


def hidden(model, params):
    at, zero = np.broadcast_to(np.arange(7, dtype=np.int32), TOKENS.shape), np.zeros_like(TOKENS)
    return np.asarray(jax.jit(lambda p: model.bind(p).hidden(TOKENS, at, zero, zero))(params))


@pytest.mark.parametrize(("shape", "inputs"), [((2, 5, 3, 2), 1), ((2, 3, 2, 4), 2), ((1, 6, 4), 1)])
def test_rounding_in_loops(shape, inputs):
    """Every value is its channel's scale times the nearest of -127 .. 127; the largest one is exact."""
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    w[0].reshape(-1, int(np.prod(shape[1 + inputs :])))[:, 0] = 0.0  # a channel of zeros
    q, scale = quantise(w, inputs)
    flat = lambda x: x.reshape(shape[0], int(np.prod(shape[1 : 1 + inputs])), -1)
    got, back = flat(q), flat(dequantise(q, scale, inputs))
    for layer, out in np.ndindex(shape[0], flat(w).shape[2]):
        channel = flat(w)[layer, :, out].astype(np.float64)
        unit = max(abs(v) for v in channel) / 127 or 1.0
        for i, v in enumerate(channel):
            assert got[layer, i, out] == round(v / unit)
            assert abs(back[layer, i, out] - v) <= unit / 2 * (1 + 1e-5)
    again, same = quantise(dequantise(q, scale, inputs), inputs)
    np.testing.assert_array_equal(again, q)
    np.testing.assert_allclose(same, scale, rtol=1e-6)


def test_rounding_a_sum_undoes_a_small_change():
    """Why stages hand on adapters apart: of changes of rms 1e-4 upon weights of rms 0.02, about a sixth is left."""
    r = np.random.default_rng(0)
    q, scale = quantise(0.02 * r.standard_normal((1, 2048, 64)).astype(np.float32), 1)
    base, change = dequantise(q, scale, 1), 1e-4 * r.standard_normal(q.shape).astype(np.float32)
    found = dequantise(*quantise(base + change, 1), 1) - base
    assert 0.1 < (found * change).sum() / (change**2).sum() < 0.25


@functools.cache
def kept(kind, weights):
    model = MODELS[kind].with_config(weights=weights)
    return model, model.stored(MODELS[kind].init(jax.random.key(0)))


@pytest.mark.parametrize("kind", MODELS)
def test_the_forward_pass_is_that_of_the_weights_it_stands_for(kind):
    """Scaling what comes out is scaling the matrix; the error is that of rounding, and never 0."""
    model, params = kept(kind, "int8")
    plain, whole = model.merged(params)
    assert plain == MODELS[kind]
    got = hidden(model, params)
    np.testing.assert_allclose(got, hidden(plain, whole), atol=2e-5)
    exact = hidden(plain, MODELS[kind].init(jax.random.key(0)))
    assert 0 < np.abs(got - exact).max() < 0.1 * np.abs(exact).max()


def test_a_product_stays_within_its_error_bound():
    """|x (W - Q S)| <= s / 2 * sum |x| for every output channel; plus bfloat16's for what is kept so."""
    r = np.random.default_rng(0)
    w, x = r.standard_normal((1, 64, 16)).astype(np.float32), r.standard_normal((9, 64)).astype(np.float32)
    q, scale = quantise(w, 1)
    error = np.abs(x @ w[0].astype(np.float64) - x.astype(np.float64) @ q[0] * scale[0])
    bound = np.abs(x).sum(1)[:, None] * scale[0] / 2
    assert (error <= bound).all() and error.max() > bound.max() / 100


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_kept_how(kind):
    """Matrices int8 with scales, tables bfloat16; norms, biases, pooler and head float32; adapters too."""
    model, params = kept(kind, "int8")
    model, params = model.with_adapters(params, Lora(rank=1), jax.random.key(1))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *branch, name = (key.key for key in path)
        if "lora" in branch or name.endswith("_scale"):
            want = jnp.float32
        elif name in ("wq", "wk", "wv", "wo", "gate", "up", "down"):
            want = jnp.int8
        else:
            want = jnp.bfloat16 if name in ("table", "unembed", "positions", "types") else jnp.float32
        assert leaf.dtype == want, path
    form = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    fresh = MODELS[kind].with_config(weights="int8").init(jax.random.key(0))
    assert form(params) == form(model.shapes) and form(fresh) == form(model.without_adapters(params)[1])


@pytest.mark.parametrize("kind", MODELS)
def test_files(kind, tmp_path):
    """Read int8 from plain files, and written as the plain weights that it stands for: read again, it is the same."""
    plain = MODELS[kind]
    if kind == "decoder":  # a classifier's file has no output head
        plain = plain.with_head(None)
    whole = plain.init(jax.random.key(0))
    model = plain.with_config(weights="int8")
    path = hf.save(tmp_path / "plain", plain, whole)
    params = hf.load_params(path, model)
    same(params, model.stored(whole))
    written = hf.save(tmp_path / "written", model, params)
    back, meant = hf.load(written)
    assert back == plain
    same(meant, model.merged(params)[1])
    same(hf.load_params(written, model), params)


def same(one, other) -> None:
    """Integers exactly; scales up to the rounding of a division, which a host and a device may do differently."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-6)
