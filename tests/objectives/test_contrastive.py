"""SimCSE and SwAV against loops in float64; Sinkhorn's totals; masks; gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.objectives import contrastive

R = np.random.default_rng(0)
A, B, CENTRES = R.normal(size=(6, 5)), R.normal(size=(6, 5)), R.normal(size=(3, 5))
MASK = np.array([True, True, False, True, True, False])


def cosine(x, y):
    return float(x @ y / np.sqrt(x @ x) / np.sqrt(y @ y))


def simcse_oracle(a, b, t):
    out = []
    for i in range(len(a)):
        terms = [np.exp(cosine(a[i], b[j]) / t) for j in range(len(b))]
        out.append(-np.log(terms[i] / sum(terms)))
    return np.mean(out)


def sinkhorn_oracle(scores, epsilon, iterations):
    q = np.exp(np.asarray(scores, np.float64) / epsilon)
    r, k = q.shape
    for _ in range(iterations):
        for j in range(k):
            q[:, j] *= r / k / q[:, j].sum()
        for i in range(r):
            q[i] /= q[i].sum()
    return q


def swav_oracle(a, b, centres, t, epsilon, iterations):
    scores = [np.array([[cosine(x, c) for c in centres] for x in view]) for view in (a, b)]
    codes = [sinkhorn_oracle(s, epsilon, iterations) for s in scores]
    total = 0.0
    for view, other in ((0, 1), (1, 0)):
        for i in range(len(a)):
            p = np.exp(scores[view][i] / t)
            total -= sum(codes[other][i, k] * np.log(p[k] / p.sum()) for k in range(len(centres)))
    return total / len(a)


@pytest.mark.parametrize("t", [0.05, 0.5])
def test_simcse_is_the_loop(t):
    np.testing.assert_allclose(contrastive.simcse(A, B, t), simcse_oracle(A, B, t), rtol=1e-5)


def test_rows_left_out_are_neither_queries_nor_negatives():
    want = simcse_oracle(A[MASK], B[MASK], 0.2)
    np.testing.assert_allclose(contrastive.simcse(A, B, 0.2, MASK), want, rtol=1e-5)
    assert contrastive.simcse(A, B, 0.2, np.zeros(6, bool)) == 0
    codes = contrastive.sinkhorn(A[:, :3], mask=MASK)
    np.testing.assert_allclose(codes[MASK], contrastive.sinkhorn(A[MASK, :3]), rtol=1e-5)
    assert not np.any(codes[~MASK])
    want = swav_oracle(A[MASK], B[MASK], CENTRES, 0.1, 0.05, 3)
    np.testing.assert_allclose(contrastive.swav(A, B, CENTRES, mask=MASK), want, rtol=1e-4)


def test_views_that_agree_and_are_orthogonal():
    """-log of a softmax over one 1 and r - 1 zeros."""
    want = -np.log(np.exp(1 / 0.5) / (np.exp(1 / 0.5) + 4))
    np.testing.assert_allclose(contrastive.simcse(np.eye(5), 3 * np.eye(5), 0.5), want, rtol=1e-6)


def test_forms_of_rows():
    c, r = A[:2], B[:2]
    np.testing.assert_array_equal(contrastive.rows(c, r, "direct"), np.concatenate([c, r]).astype(np.float32))
    np.testing.assert_allclose(contrastive.rows(c, r, "difference"), np.concatenate([c - r, r - c]), rtol=1e-6)
    with pytest.raises(ValueError, match="direct or difference"):
        contrastive.rows(c, r, "sum")


def test_sinkhorn_is_the_loop_and_uses_prototypes_alike():
    scores = R.uniform(-1, 1, (8, 4))
    got = contrastive.sinkhorn(scores, 0.05, 3)
    np.testing.assert_allclose(got, sinkhorn_oracle(scores, 0.05, 3), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)
    many = contrastive.sinkhorn(scores, 0.5, 50)
    np.testing.assert_allclose(many.sum(0), 2, rtol=1e-4)
    np.testing.assert_allclose(contrastive.sinkhorn(1e4 * scores), contrastive.sinkhorn(1e4 * scores), rtol=0)
    assert np.isfinite(contrastive.sinkhorn(1e4 * scores)).all()


def test_swav_is_the_loop():
    got = contrastive.swav(A, B, CENTRES, 0.1)
    np.testing.assert_allclose(got, swav_oracle(A, B, CENTRES, 0.1, 0.05, 3), rtol=1e-4)


def test_codes_carry_no_gradient():
    """The gradient is that of the cross-entropy with the codes held fixed."""
    a, b, c = (jnp.asarray(x, jnp.float32) for x in (A, B, CENTRES))
    scores = [contrastive.unit(x) @ contrastive.unit(c).T for x in (a, b)]
    codes = [contrastive.sinkhorn(s) for s in scores]

    def fixed(a, b, c):
        s = [contrastive.unit(x) @ contrastive.unit(c).T for x in (a, b)]
        return -sum(jnp.sum(codes[1 - i] * jax.nn.log_softmax(s[i] / 0.1), -1) for i in (0, 1)).mean()

    for got, want in zip(
        jax.grad(lambda *x: contrastive.swav(*x), (0, 1, 2))(a, b, c), jax.grad(fixed, (0, 1, 2))(a, b, c), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
        assert np.abs(got).max() > 1e-3


def test_a_row_of_zeros_gives_finite_gradients():
    zero = jnp.zeros((3, 5))
    for loss in (contrastive.simcse, lambda a, b: contrastive.swav(a, b, jnp.asarray(CENTRES))):
        assert np.isfinite(jax.grad(loss)(zero, jnp.asarray(B[:3]))).all()
    gone = jax.grad(lambda a: contrastive.simcse(a, jnp.asarray(B), 0.1, jnp.asarray(MASK)))(jnp.asarray(A))
    assert np.isfinite(gone).all() and not np.any(gone[~MASK])
