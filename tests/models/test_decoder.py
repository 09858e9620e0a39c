"""The decoder's identities: decoding = forward, packed = apart, padding inert, causal, every leaf trained."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.models.cache import SuffixCache
from rmjax.models.config import REMATS, DecoderConfig, Rope
from rmjax.models.heads import Linear
from rmjax.models.layers import rotate, rotations
from rmjax.models.model import Model

PLAIN = DecoderConfig(vocab=37, layers=2, embed=24, heads=4, kv_heads=2, head_dim=8, mlp=32)
FULL = dataclasses.replace(
    PLAIN,
    tied=False,
    norm_offset=True,
    post_norms=True,
    qk_norm=True,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    activation="gelu_tanh",
    embed_scale=24**0.5,
    query_scale=0.2,
    attn_softcap=2.0,
    logit_softcap=5.0,
    rope=Rope(theta=1000.0, scaling="linear", factor=2.0),
    local_rope=Rope(theta=50.0),
    window=4,
    sliding=(True, False),
)
CONFIGS = {
    "plain": PLAIN,
    "full": FULL,
    "window": dataclasses.replace(PLAIN, window=3, sliding=(True, True)),
    "mixed": dataclasses.replace(PLAIN, window=3, sliding=(False, True)),
}
P, S, G, M = 2, 7, 3, 5  # prompts, their padded length, samples of each, tokens of a sample
T = 32  # the longest row


@functools.cache
def setup(name: str, head: Linear | None = None):
    """The model and parameters that are nowhere zero or one."""
    model = Model.of(CONFIGS[name], head)
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda x: x + jnp.float32(0.2 * rng.normal(size=x.shape)), model.init(jax.random.key(0)))


@functools.cache
def tokens() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Right-padded prompts, their lengths, and the samples' tokens."""
    prompts = jax.random.randint(jax.random.key(2), (P, S), 0, PLAIN.vocab)
    return prompts, jnp.asarray([S, 4], jnp.int32), jax.random.randint(jax.random.key(3), (P, G, M), 0, PLAIN.vocab)


@functools.cache
def compiled(model: Model, method: str):
    """One compilation per model and method, as what follows calls them often."""
    return jax.jit(lambda params, *args: getattr(model.bind(params), method)(*args))


def forward(model: Model, params, row: jax.Array, positions=None, group=None, branch=None) -> jax.Array:
    """One row's hidden states [t, d]; without vectors it is one plain sequence. Padded to one shape for all."""
    t = row.shape[0]
    vectors = [row, np.arange(t) if positions is None else positions]
    vectors += [np.zeros(t) if v is None else v for v in (group, branch)]
    padded = [
        jnp.pad(jnp.asarray(v, jnp.int32), (0, T - t), constant_values=-1 if i == 2 else 0)
        for i, v in enumerate(vectors)
    ]
    return compiled(model, "hidden")(params, *(v[None] for v in padded))[0, :t]


def decode(model: Model, params, size: int = M) -> tuple[jax.Array, jax.Array]:
    """Hidden states by prefill [p, d] and by M steps [p, g, m, d]."""
    prompts, lengths, new = tokens()
    last, prompt = compiled(model, "prefill")(params, prompts, lengths)
    suffix, hidden = SuffixCache.empty(model.config, P, G, size), []
    for i in range(M):
        h, suffix = compiled(model, "step")(params, new[:, :, i], prompt, suffix)
        hidden.append(h)
    np.testing.assert_array_equal(suffix.lengths, M)
    return last, jnp.stack(hidden, axis=2)


@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_is_the_forward_pass(name: str):
    model, params = setup(name)
    prompts, lengths, new = tokens()
    last, hidden = decode(model, params, size=M + 3)
    for p in range(P):
        length = int(lengths[p])
        for g in range(G):
            whole = forward(model, params, jnp.concatenate([prompts[p, :length], new[p, g]]))
            np.testing.assert_allclose(last[p], whole[length - 1], atol=2e-5)
            np.testing.assert_allclose(hidden[p, g], whole[length:], atol=2e-5)


def test_samples_at_different_lengths():
    """A slot that is further along than its neighbours writes and sees its own tokens only."""
    model, params = setup("full")
    prompts, lengths, new = tokens()
    prefill, step = compiled(model, "prefill"), compiled(model, "step")
    _, prompt = prefill(params, prompts, lengths)
    suffix = SuffixCache.empty(model.config, P, G, M)
    for i in range(3):  # slot (0, 1) is restarted after its first token
        hidden, suffix = step(params, new[:, :, i].at[0, 1].set(new[0, 1, max(i - 1, 0)]), prompt, suffix)
        if i == 0:
            suffix = dataclasses.replace(suffix, lengths=suffix.lengths.at[0, 1].set(0))
    for p, g, count in ((0, 0, 3), (0, 1, 2), (1, 2, 3)):
        whole = forward(model, params, jnp.concatenate([prompts[p, : lengths[p]], new[p, g, :count]]))
        np.testing.assert_allclose(hidden[p, g], whole[-1], atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_row_is_its_sequences_apart(name: str):
    """A prompt shared by three branches and a second group behind it, against four plain sequences."""
    model, params = setup(name)
    prompts, _, new = tokens()
    other = new[1].reshape(-1)[:6]
    row = jnp.concatenate([prompts[0], new[0].reshape(-1), other, jnp.zeros(2, jnp.int32)])
    n = S + G * M
    positions = np.r_[np.arange(S), np.tile(np.arange(S, S + M), G), np.arange(6), 0, 0]
    group = np.r_[np.zeros(n), np.ones(6), -1, -1]
    branch = np.r_[np.zeros(S), np.repeat(np.arange(1, G + 1), M), np.zeros(3), np.full(3, G + 1), 0, 0]
    hidden = forward(model, params, row, positions, group, branch)
    for g in range(G):
        apart = forward(model, params, jnp.concatenate([prompts[0], new[0, g]]))
        np.testing.assert_allclose(hidden[:S], apart[:S], atol=2e-5)
        np.testing.assert_allclose(hidden[S + g * M : S + (g + 1) * M], apart[S:], atol=2e-5)
    np.testing.assert_allclose(hidden[n : n + 6], forward(model, params, other), atol=2e-5)


def test_padding_is_inert():
    model, params = setup("full")
    row = tokens()[0][0]
    group = jnp.where(jnp.arange(S) < 4, 0, -1)
    one, two = (forward(model, params, r, None, group) for r in (row, row.at[4:].add(1) % PLAIN.vocab))
    np.testing.assert_array_equal(one[:4], two[:4])
    assert bool(jnp.isfinite(one).all())
    # In the prefill too: neither the prompt's last state nor what samples see depends on the padding.
    prompts, lengths, new = tokens()
    prefill, step = compiled(model, "prefill"), compiled(model, "step")
    suffix = SuffixCache.empty(model.config, P, G, M)
    results = []
    for padding in (0, 5):
        last, cache = prefill(params, jnp.where(jnp.arange(S) < lengths[:, None], prompts, padding), lengths)
        results.append((last, step(params, new[:, :, 0], cache, suffix)[0]))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_empty_prompt():
    """A slot without a prompt (an unused one) is finite, and its samples see only themselves."""
    model, params = setup("full")
    last, cache = compiled(model, "prefill")(params, tokens()[0], jnp.asarray([0, 4], jnp.int32))
    hidden, _ = compiled(model, "step")(params, tokens()[2][:, :, 0], cache, SuffixCache.empty(model.config, P, G, M))
    assert bool(jnp.isfinite(last).all())
    np.testing.assert_allclose(hidden[0, 1], forward(model, params, tokens()[2][0, 1, :1])[0], atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_causal_by_gradient(name: str):
    """The state of token i has no gradient with respect to later tokens, and one to those it may see."""
    model, params = setup(name)
    row, at = jnp.arange(9), 5

    def state(table):
        p = {"decoder": {**params["decoder"], "table": table}}
        return jnp.sum(forward(model, p, row)[at] ** 2)

    size = jnp.abs(jax.jit(jax.grad(state))(params["decoder"]["table"])[:9]).max(axis=1)
    assert float(size[at + 1 :].max()) == 0.0
    assert float(size[at - 1 : at + 1].min()) > 1e-6


def test_every_parameter_gets_a_gradient():
    model, params = setup("full", Linear())
    row = tokens()[0][0]

    @functools.partial(jax.jit, static_argnums=0)
    def grad(model: Model, params):
        def loss(params):
            h = forward(model, params, row)
            net = model.bind(params)
            logps = jax.nn.log_softmax(net.logits(h))[jnp.arange(S - 1), row[1:]]
            return jnp.sum(net.reward(h) ** 2) - jnp.mean(logps)

        return jax.grad(loss)(params)

    plain = grad(model, params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(plain)[0]:
        layers = np.abs(leaf if "blocks" in str(path) else leaf[None])
        assert layers.reshape(len(layers), -1).max(axis=1).min() > 1e-7, path
    remat = grad(model.with_config(remat="qkv"), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, remat)
    # What more is kept, fewer products are computed again.
    products = [str(jax.make_jaxpr(grad, static_argnums=0)(model.with_config(remat=r), params)) for r in REMATS]
    counts = [text.count("dot_general[") for text in products]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) >= 4, counts


def test_rotation_of_bfloat16_is_that_of_float32():
    """Halves that change places by a product with a permutation lose nothing."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8)).astype(jnp.bfloat16)
    turn = rotations((Rope(),), 8, jnp.arange(10).reshape(2, 5) * 100)[0]
    want = jnp.asarray(rotate(x.astype(jnp.float32), turn), jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(rotate(x, turn), np.float32), np.asarray(want, np.float32))


def test_bfloat16_activations():
    """Close to float32; float32 scores and gradients, and caches of the activations' dtype."""
    model, params = setup("full")
    half = model.with_config(dtype="bfloat16")
    row = tokens()[0][0]
    exact, rounded = forward(model, params, row), forward(half, params, row)
    assert rounded.dtype == jnp.bfloat16
    assert float(jnp.abs(rounded - exact).mean() / jnp.abs(exact).mean()) < 0.05
    last, hidden = decode(half, params)
    assert last.dtype == hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(hidden), np.float32(decode(model, params)[1]), atol=0.5)

    scalar, both = setup("full", Linear())
    scalar = scalar.with_config(dtype="bfloat16")

    def scores(params):
        net, h = scalar.bind(params), forward(scalar, params, row)
        return jnp.sum(net.logits(h)) + jnp.sum(net.reward(h)), (net.logits(h), net.reward(h))

    dtypes = jax.tree.map(lambda x: x.dtype, jax.eval_shape(jax.grad(scores, has_aux=True), both))
    assert set(jax.tree.leaves(dtypes)) == {jnp.dtype("float32")}


def test_models_are_equal_by_their_configs():
    assert Model.of(PLAIN) == Model.of(dataclasses.replace(PLAIN)) and hash(Model.of(PLAIN)) == hash(Model.of(PLAIN))
    assert Model.of(PLAIN) != Model.of(PLAIN, Linear()) != Model.of(PLAIN).with_config(remat="full")
    assert Model.of(PLAIN).with_head(Linear()) == Model.of(PLAIN, Linear())


def test_init_and_trees():
    model = Model.of(FULL, Linear())
    params = model.init(jax.random.key(0))
    shape = lambda x: (x.shape, x.dtype)
    assert jax.tree.map(shape, params) == jax.tree.map(shape, model.shapes)
    is_axes = lambda a: isinstance(a, tuple)
    ranks = jax.tree.map(len, model.axes, is_leaf=is_axes)
    assert ranks == jax.tree.map(lambda x: x.ndim, params)
    decayed = {name for name, yes in model.matrices["decoder"]["blocks"].items() if yes}
    assert decayed == {"wq", "wk", "wv", "wo", "gate", "up", "down"}
    assert model.matrices["decoder"]["table"] and not model.matrices["head"]["weight"]
    again = model.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    # An untrained model is near the uniform distribution, so that training starts near log(vocab).
    plain = Model.of(PLAIN)
    p = plain.init(jax.random.key(0))
    logps = jax.nn.log_softmax(plain.bind(p).logits(forward(plain, p, tokens()[0][0])))
    assert abs(float(logps.mean()) + np.log(PLAIN.vocab)) < 0.1


def test_new_head_leaves_the_decoder_alone():
    model, params = setup("plain")
    scalar = model.with_head(Linear())
    both = scalar.add_head(params, jax.random.key(4))
    assert jax.tree.map(jnp.shape, both) == jax.tree.map(lambda s: s.shape, scalar.shapes)
    assert both["decoder"] is params["decoder"]
    zero = model.with_head(Linear(scale=0.0)).add_head(params, jax.random.key(4))
    assert float(jnp.abs(zero["head"]["weight"]).max()) == 0.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kv_heads": 3}, "heads=4 is not a multiple of kv_heads=3"),
        ({"head_dim": 7}, "head_dim=7 is odd"),
        ({"layers": 0}, "layers=0"),
        ({"sliding": (True,), "window": 2}, "sliding has 1 entries for layers=2"),
        ({"sliding": (True, True)}, "window=0"),
        ({"dtype": "float8"}, "dtype='float8'"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"local_rope": Rope()}, "local_rope"),
        ({"lm_head": False}, "lm_head=False"),
    ],
)
def test_impossible_configs(changes: dict, says: str):
    with pytest.raises(UserError, match=says):
        dataclasses.replace(PLAIN, **changes)


def test_rope_names_what_it_supports():
    with pytest.raises(UserError, match="'yarn' is not supported; use none, linear or llama3"):
        Rope(scaling="yarn")
