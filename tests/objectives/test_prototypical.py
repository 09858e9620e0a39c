"""Proto-RM's losses against loops in float64, IMP's threshold and addition, initialisation, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.models.heads import log_assignments
from rmjax.objectives import prototypical as proto

R = np.random.default_rng(0)
H, P = R.normal(size=(7, 4)), R.normal(size=(6, 4))
CLASSES, VALID = np.array([0, 0, 0, 1, 1, 1]), np.array([True, True, False, True, True, True])
LABELS = np.array([0, 1, 0, 1, 1, 0, 0])


def assign_oracle(h, gamma):
    weights = [np.exp(-gamma * np.sum((h - p) ** 2)) if v else 0.0 for p, v in zip(P, VALID, strict=True)]
    return np.array(weights) / sum(weights)


def test_assignment_loss_is_the_loop():
    log_a = log_assignments(H, P, VALID, 0.3)
    each = [-np.log(sum(assign_oracle(h, 0.3)[c == CLASSES])) for h, c in zip(H, LABELS, strict=True)]
    np.testing.assert_allclose(proto.assignment_loss(log_a, CLASSES, LABELS), np.mean(each), rtol=1e-4)
    mask = np.arange(7) < 3
    np.testing.assert_allclose(proto.assignment_loss(log_a, CLASSES, LABELS, mask), np.mean(each[:3]), rtol=1e-4)


def test_a_tie_is_symmetric_in_the_classes():
    log_a = log_assignments(H, P, VALID, 0.3)
    loss = lambda labels, smooth: float(proto.assignment_loss(log_a, CLASSES, labels, smooth=smooth))
    assert loss(LABELS, 0.5) == pytest.approx(loss(1 - LABELS, 0.5))
    assert loss(LABELS, 0.2) == pytest.approx(loss(1 - LABELS, 0.8))
    assert loss(LABELS, 0.2) == pytest.approx(0.8 * loss(LABELS, 0.0) + 0.2 * loss(1 - LABELS, 0.0))
    assert abs(loss(LABELS, 0.0) - loss(1 - LABELS, 0.0)) > 0.1


def test_a_class_without_prototypes_counts_nothing():
    only = np.array([True, True, True, False, False, False])
    loss = lambda p: proto.assignment_loss(log_assignments(H, p, only, 1.0), CLASSES, LABELS)
    np.testing.assert_allclose(loss(P), 0.0, atol=1e-6)  # class 0 holds all the mass
    assert np.isfinite(jax.grad(loss)(jnp.asarray(P))).all()


def test_diversity_is_the_loop():
    near = 0.3 * P
    want = 0.0
    for c in (0, 1):
        own = [p for p, k, v in zip(near, CLASSES, VALID, strict=True) if k == c and v]
        gaps = [1.0 - np.linalg.norm(a - b) for i, a in enumerate(own) for b in own[i + 1 :]]
        kept = [g for g in gaps if g > 0]
        want += sum(kept) / max(1, len(kept))
    assert want > 0
    np.testing.assert_allclose(proto.diversity(near, CLASSES, VALID, apart=1.0), want, rtol=1e-5)
    assert proto.diversity(100 * P, CLASSES, VALID) == 0


def test_diversity_has_a_finite_gradient_where_prototypes_coincide():
    same = jnp.zeros((6, 4)).at[0].set(0.1)
    gradient = jax.grad(lambda p: proto.diversity(p, jnp.asarray(CLASSES), jnp.asarray(VALID)))(same)
    assert np.isfinite(gradient).all() and np.any(gradient)


@pytest.mark.parametrize(("rho", "want"), [(0.0, 23.0259), (0.1, 32.9272), (1.0, 114.1866)])
def test_threshold(rho, want):
    np.testing.assert_allclose(proto.threshold(rho, 100), want, rtol=1e-5)


def add_oracle(h, labels, prototypes, classes, valid, sigma, alpha):
    prototypes, classes, valid = prototypes.copy(), classes.copy(), valid.copy()
    for x, c in zip(h, labels, strict=True):
        own = [k for k in range(len(valid)) if valid[k] and classes[k] == c]
        rho = np.var(prototypes[own], axis=0).mean() if own else 0.0
        limit = -2 * sigma * np.log(alpha) + h.shape[1] * sigma * np.log(1 + rho / sigma)
        far = min((np.sum((x - prototypes[k]) ** 2) for k in own), default=np.inf) > limit
        if far and not valid.all():
            k = int(np.argmin(valid))
            prototypes[k], classes[k], valid[k] = x, c, True
    return prototypes, classes, valid


@pytest.mark.parametrize("left_out", [[], [0, 3, 6], range(7)])
def test_addition_is_the_loop(left_out):
    few, there = np.array([True, False, False, True, False, False]), np.ones(7, bool)
    there[list(left_out)] = False
    got = proto.add(4 * H, LABELS, P, CLASSES, few, sigma=1.0, mask=there)
    want = add_oracle(4 * H[there], LABELS[there], P, CLASSES, few, 1.0, 0.1)
    assert few.sum() < want[2].sum() or not there.any()
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(got[2], want[2])


def test_near_answers_and_a_full_table_add_nothing():
    for h, valid in ((np.repeat(P[:1], 2, 0), VALID), (50 * H[:2], np.ones(6, bool))):
        got = proto.add(h, np.zeros(2, int), P, CLASSES, valid)
        np.testing.assert_array_equal(got[2], valid)
        np.testing.assert_allclose(got[0], P, rtol=1e-6)


def test_class_means():
    means, classes, valid = proto.class_means(jax.random.key(0), H, LABELS, 1)
    np.testing.assert_allclose(means, [H[LABELS == 0].mean(0), H[LABELS == 1].mean(0)], rtol=1e-5)
    np.testing.assert_array_equal(classes, [0, 1])
    _, _, valid = proto.class_means(jax.random.key(0), H, LABELS, 4, np.arange(7) < 6)
    np.testing.assert_array_equal(valid, [True] * 3 + [False] + [True] * 3 + [False])  # three answers of each class


def test_kmeans_pp_takes_answers_of_the_class_apart_from_each_other():
    h = np.concatenate([np.zeros((5, 2)), np.full((1, 2), 9.0), np.ones((4, 2))]).astype(np.float32)
    labels = np.array([0] * 6 + [1] * 4)
    found, classes, valid = proto.kmeans_pp(jax.random.key(1), h, labels, 3)
    own = np.asarray(found)[(classes == 0) & valid]
    np.testing.assert_array_equal(own[np.argsort(own[:, 0])], [[0, 0], [9, 9]])  # two distinct answers, so two
    assert np.asarray(valid)[classes == 1].sum() == 1


def test_every_part_gets_a_gradient():
    def loss(h, p):
        log_a = log_assignments(h, p, jnp.asarray(VALID), 0.2)
        return proto.assignment_loss(log_a, CLASSES, LABELS) + proto.diversity(p, CLASSES, jnp.asarray(VALID))

    for gradient in jax.grad(loss, (0, 1))(jnp.asarray(H, jnp.float32), jnp.asarray(P, jnp.float32)):
        assert np.isfinite(gradient).all()
    assert np.all(np.abs(gradient).max(1)[VALID] > 0) and not np.any(gradient[~VALID])
