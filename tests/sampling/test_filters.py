"""The filters against slow loops over sorted lists, and against transformers' warpers."""

import jax
import numpy as np
import pytest

from rmjax.sampling.filters import filtered
from rmjax.sampling.policy import Sampling

CASES = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 500},
    {"top_p": 0.05},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 0.6, "top_k": 30, "top_p": 0.95},
    {"temperature": 1.8, "top_p": 0.5, "min_p": 0.2},
]


def logits(rows: int = 6, vocab: int = 157) -> np.ndarray:
    return (3 * np.random.default_rng(1).normal(size=(rows, vocab))).astype(np.float32)


def kept(x: np.ndarray, sampling: Sampling) -> np.ndarray:
    return np.isfinite(np.asarray(jax.jit(lambda x: filtered(x / sampling.temperature, sampling))(x)))


def slow(row: np.ndarray, s: Sampling) -> set[int]:
    """The documented rules, one id at a time, in float64."""
    row = row.astype(np.float64) / s.temperature
    left = sorted(range(len(row)), key=lambda i: -row[i])
    if s.top_k:
        left = left[: s.top_k]
    mass = np.exp(row[left] - row.max())
    mass /= mass.sum()
    if s.top_p < 1:
        count, total = 0, 0.0
        while total < s.top_p and count < len(left):
            total += mass[count]
            count += 1
        left = left[:count]
    return {i for i in left if np.exp(row[i] - row[left[0]]) >= s.min_p}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_a_slow_loop(case):
    sampling = Sampling(**case)
    for row, mask in zip(logits(), kept(logits(), sampling), strict=True):
        assert set(np.flatnonzero(mask).tolist()) == slow(row, sampling)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_transformers(case):
    torch = pytest.importorskip("torch")
    from transformers import generation

    sampling = Sampling(**case)
    scores = torch.tensor(logits())
    scores = generation.TemperatureLogitsWarper(float(sampling.temperature))(None, scores)
    if sampling.top_k:
        scores = generation.TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = generation.TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = generation.MinPLogitsWarper(sampling.min_p)(None, scores)
    np.testing.assert_array_equal(kept(logits(), sampling), torch.isfinite(scores).numpy())


def test_equal_logits_stay_or_go_together():
    x = np.asarray([[1.0, 2.0, 2.0, 0.0, -0.0, -1.0]], np.float32)
    np.testing.assert_array_equal(kept(x, Sampling(top_k=2))[0], [0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(kept(x, Sampling(top_k=4))[0], [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(kept(x, Sampling(top_p=0.1))[0], [0, 1, 1, 0, 0, 0])


def test_the_most_likely_id_always_stays():
    for case in ({"top_p": 1e-6}, {"min_p": 1.0}, {"top_k": 1}):
        mask = kept(logits(), Sampling(**case))
        assert mask[np.arange(6), logits().argmax(1)].all() and (mask.sum(1) == 1).all()
