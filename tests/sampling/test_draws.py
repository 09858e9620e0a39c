"""Frequencies of draws, and their random streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rmjax.errors import UserError
from rmjax.sampling.draws import block, draw, id_words, uniforms, whole, words
from rmjax.sampling.filters import filtered
from rmjax.sampling.policy import Sampling

N = 40_000


def drawn(logits: np.ndarray, sampling: Sampling, n: int = N) -> np.ndarray:
    many = jnp.broadcast_to(jnp.asarray(logits), (n, len(logits)))
    u = None if sampling.greedy else jax.random.uniform(jax.random.key(11), (n, 2))
    return np.asarray(jax.jit(lambda x, u: draw(x, u, sampling)[0])(many, u))


@pytest.mark.parametrize(
    "case",
    [{}, {"temperature": 0.7}, {"temperature": 2.0, "top_k": 9}, {"top_p": 0.8}, {"allowed": (3, 30, 7)}],
    ids=str,
)
@pytest.mark.parametrize("vocab", [37, 64, 301])
def test_chi_square(vocab, case):
    sampling = Sampling(**case)
    logits = (1.5 * np.random.default_rng(vocab).normal(size=vocab)).astype(np.float32)
    scores = np.full(vocab, -np.inf)
    ids = list(sampling.allowed) or list(range(vocab))
    scores[ids] = filtered(jnp.asarray(logits[ids]) / sampling.temperature, sampling)
    p = np.exp(scores - scores.max())
    p /= p.sum()
    counts = np.bincount(drawn(logits, sampling), minlength=vocab)
    assert counts[p == 0].sum() == 0
    often = p * N >= 5
    observed, expected = [*counts[often], counts[~often].sum()], [*p[often], p[~often].sum()]
    use = np.asarray(expected) > 0
    assert stats.chisquare(np.asarray(observed)[use], N * np.asarray(expected)[use]).pvalue > 1e-4


def test_normaliser_is_that_of_the_untempered_logits():
    x = np.random.default_rng(0).normal(size=(5, 37)).astype(np.float32)
    u = np.full((5, 2), 0.5, np.float32)
    sampling = Sampling(temperature=0.3, top_k=2, allowed=(1, 5, 9))
    np.testing.assert_allclose(draw(x, u, sampling)[1], np.log(np.exp(x.astype(np.float64)).sum(1)), rtol=1e-6)


@pytest.mark.parametrize(
    "case", [{}, {"temperature": 0}, {"temperature": 0.7, "top_p": 0.8}, {"allowed": (3, 300)}], ids=str
)
def test_ids_that_fill_the_vocabulary_up_change_nothing(case):
    """For as many devices as may be, each holding whole blocks; though what fills it up has the highest logits."""
    x = np.random.default_rng(1).normal(size=(64, 301)).astype(np.float32)
    u = np.random.default_rng(2).random((64, 2), np.float32)
    token, normaliser = draw(x, u, Sampling(**case))
    for devices in (1, 4, 64):
        size = whole(301, devices)
        assert size % (block(301) * devices) == 0
        filled = np.full((64, size), 9.0, np.float32)
        filled[:, :301] = x
        again = draw(filled, u, Sampling(**case), vocab=301)
        np.testing.assert_array_equal(again[0], token)
        np.testing.assert_allclose(again[1], normaliser, rtol=1e-6)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-23, 1 - 2**-24])
def test_extreme_numbers_never_draw_what_is_filtered_out(u):
    x = np.full((1, 100), -np.inf, np.float32)
    x[0, [13, 14, 60]] = [0.0, -80.0, -3.0]
    numbers = np.full((1, 2), u, np.float32)
    assert int(draw(x, numbers, Sampling())[0][0]) in (13, 14, 60)
    assert int(draw(x, numbers, Sampling(top_k=1))[0][0]) == 13


def test_greedy_takes_the_lowest_of_equal_logits():
    x = np.asarray([[0.0, 5.0, 5.0], [7.0, 1.0, 7.0]], np.float32)
    np.testing.assert_array_equal(draw(x, None, Sampling(temperature=0))[0], [1, 0])


def test_streams_are_keyed_by_seed_id_index_and_number():
    ids = np.stack([id_words("a"), id_words("b")])
    index, zero = np.asarray([[0, 1], [0, 1]], np.int32), np.zeros((2, 2), np.int32)
    u = np.asarray(uniforms(words(5), ids, index, zero, 4))
    assert u.shape == (4, 2, 2, 2) and len(np.unique(u)) == u.size and (u >= 0).all() and (u < 1).all()
    later = uniforms(words(5), ids[::-1], index[:, ::-1], zero + 2, 2)  # other rows, slots and round
    np.testing.assert_array_equal(np.asarray(later)[:, ::-1, ::-1], u[2:])
    assert not np.isin(uniforms(words(5 + 2**32), ids, index, zero, 4), u).any()


def test_hash_of_ids_is_the_same_in_every_process():
    assert id_words("request-1").tolist() == [1300005370, 1685586730]
    with pytest.raises(UserError, match="seed=18446744073709551616"):
        words(2**64)
