"""Dropout of the trunk: its masks, its places, its streams; off, nothing is there."""

import jax
import jax.numpy as jnp
import numpy as np

from rmjax.data import packing
from rmjax.data.rows import Group
from rmjax.models.config import DecoderConfig, EncoderConfig
from rmjax.models.heads import Linear
from rmjax.models.layers import Dropout
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar, hidden_states
from rmjax.training.step import gradients, with_dropout

DECODER = Model.of(DecoderConfig(vocab=13, layers=2, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=8), Linear())
ENCODER = Model.of(EncoderConfig(vocab=13, layers=2, embed=8, heads=2, mlp=8, max_positions=16), Linear(), ("cls",))


def rows(model, count=3):
    r = np.random.default_rng(0)
    groups = [
        Group(
            id=str(i),
            prompt=r.integers(1, 13, 3).tolist(),
            completions=r.integers(1, 13, (2, 2)).tolist(),
            pairs=[(0, 1)],
        )
        for i in range(count)
    ]
    shape = packing.fit(groups[:1], length=12, share=model.share)
    return packing.stack([packing.assemble([g], shape, share=model.share) for g in groups])


def test_a_share_is_dropped_and_the_rest_scaled():
    dropout = Dropout(jax.random.split(jax.random.key(0), 2), 0.25)
    out = np.asarray(dropout(jnp.ones((2, 500, 8))))
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
    assert abs((out == 0).mean() - 0.25) < 0.02
    assert (out[0] != out[1]).any()
    layers = dropout.at(jnp.arange(3))
    assert layers.keys.shape == (3, 2)
    np.testing.assert_array_equal(*(jax.random.key_data(k) for k in (layers.keys[2], dropout.at(2).keys)))


def test_a_row_keeps_its_mask_wherever_it_lies():
    """Alone, in a batch, and in the gradient of a batch that is split into microbatches."""
    params, batch = ENCODER.init(jax.random.key(0)), rows(ENCODER, 4)

    @jax.jit
    def run(params, rows):
        hidden = hidden_states(ENCODER.bind(params), rows)
        return hidden, *(gradients(ENCODER, Pairwise(score=Scalar()), params, rows, n)[0] for n in (1, 2))

    dropped, whole, split = run(params, with_dropout(batch, jax.random.key(1), 0.5))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, split)
    turned = jax.tree.map(lambda x: x[::-1], with_dropout(batch, jax.random.key(1), 0.5))
    np.testing.assert_allclose(run(params, turned)[0][::-1], dropped, atol=1e-6)
    other = run(params, with_dropout(batch, jax.random.key(2), 0.5))[0]
    assert np.abs(other - dropped).max() > 0.1


def test_every_place_is_dropped():
    """With all of it dropped, an encoder is the last norm's bias; with nothing of it, what it is without."""
    params, batch = ENCODER.init(jax.random.key(0)), rows(ENCODER)
    run = jax.jit(lambda rows: hidden_states(ENCODER.bind(params), rows))
    np.testing.assert_allclose(run(with_dropout(batch, jax.random.key(1), 1 - 1e-12)), 0, atol=1e-6)
    np.testing.assert_allclose(run(with_dropout(batch, jax.random.key(1), 1e-9)), run(batch), atol=1e-6)


def test_a_decoders_places_are_dropped():
    """With all of it dropped, a decoder is its embeddings under the last norm: what one without layers would be."""
    params, batch = DECODER.init(jax.random.key(0)), rows(DECODER)
    got = jax.jit(lambda rows: hidden_states(DECODER.bind(params), rows))(
        with_dropout(batch, jax.random.key(1), 1 - 1e-12)
    )
    x = np.asarray(params["decoder"]["table"])[batch.tokens]
    expected = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + DECODER.config.norm_eps) * params["decoder"]["norm"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_layers_places_and_views_have_streams_of_their_own():
    dropout = Dropout(jax.random.split(jax.random.key(0), 1), 0.5)
    masks = [dropout.at(v).at(n).at(p)(jnp.ones((1, 64))) for v in (0, 1) for n in (0, 1) for p in (0, 1)]
    masks += [dropout.at(v).at(2)(jnp.ones((1, 64))) for v in (0, 1)]  # an encoder's embeddings
    assert len({np.asarray(m).tobytes() for m in masks}) == 10
