"""Attention against a loop in float64 that knows nothing of masks, heads in groups or blocks."""

import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.models.attention import attend

T, HEADS, KV, SIZE = 14, 4, 2, 6


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two rows: a prompt with two branches and another group behind it; one plain sequence; both with padding."""
    group = np.array([[0] * 9 + [1] * 3 + [-1] * 2, [0] * 13 + [-1]])
    branch = np.array([[0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 3, 3, 0, 0], [0] * 14])
    positions = np.array([[0, 1, 2, 3, 4, 5, 3, 4, 5, 0, 1, 2, 0, 0], [*range(13), 0]])
    return positions, group, branch


def oracle(q, k, v, positions, group, branch, window, softcap, scale) -> np.ndarray:
    """One query, one head, one key at a time."""
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for i in range(T):
            for n in range(HEADS):
                logits, values = [], []
                for j in range(i + 1):
                    if group[b, i] != group[b, j] or branch[b, j] not in (0, branch[b, i]):
                        continue
                    if window is not None and positions[b, i] - positions[b, j] >= window:
                        continue
                    x = float(q[b, i, n] @ k[b, j, n // (HEADS // KV)]) * scale
                    logits.append(softcap * np.tanh(x / softcap) if softcap else x)
                    values.append(v[b, j, n // (HEADS // KV)])
                w = np.exp(np.asarray(logits) - max(logits))
                out[b, i, n] = (w / w.sum()) @ np.asarray(values)
    return out


@pytest.mark.parametrize("window", [None, 2, 1000])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_attend_is_the_loop(window: int | None, softcap: float):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, T, n, SIZE)) for n in (HEADS, KV, KV))
    vectors = rows()
    expected = oracle(q, k, v, *vectors, window, softcap, 0.7)
    # A layer's window is an array where layers differ.
    for w in (window, None if window is None else jnp.int32(window)):
        got = attend(*map(jnp.float32, (q, k, v)), *map(jnp.int32, vectors), window=w, softcap=softcap, scale=0.7)
        here = vectors[1] >= 0
        np.testing.assert_allclose(np.asarray(got)[here], expected[here], atol=2e-6)
        assert np.isfinite(np.asarray(got)).all(), "padding must not become NaN"


def test_window_matters():
    """The loop test would pass were both sides to ignore the window."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.float32(rng.normal(size=(2, T, n, SIZE))) for n in (HEADS, KV, KV))
    vectors = tuple(map(jnp.int32, rows()))
    narrow, wide = (attend(q, k, v, *vectors, window=w, softcap=0.0, scale=1.0) for w in (2, None))
    assert float(jnp.abs(narrow - wide).max()) > 0.1
