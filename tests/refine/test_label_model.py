"""The label model: EM against loops, accuracies that are known, symmetries."""

import itertools

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.refine.label_model import LabelModel, probability

ACCURACY = np.array([0.9, 0.75, 0.65, 0.6])
SPEAKS = np.array([0.9, 0.6, 0.8, 0.3])


def simulated(n=4000, seed=0):
    """Truth, and votes of functions with these accuracies that speak so often."""
    r = np.random.default_rng(seed)
    y = r.choice([-1, 1], n)
    right = r.random((n, 4)) < ACCURACY
    return y, np.where(r.random((n, 4)) < SPEAKS, np.where(right, y[:, None], -y[:, None]), 0)


def oracle(votes, *, start, strength, steps, truth=None):
    """EM item by item in plain Python: joint probabilities of both truths, then expected right votes."""
    a, mean = [start] * votes.shape[1], start
    if truth is not None:
        mean = 0.5
        for j in range(votes.shape[1]):
            seen = [v == y for v, y in zip(votes[:, j], truth, strict=True) if v and y]
            a[j] = (strength / 2 + sum(seen)) / (strength + len(seen))
    for step in range(steps + 1):
        prob = []
        for i, row in enumerate(votes):
            up = down = 0.5
            for v, share in zip(row, a, strict=True):
                if v:
                    up *= share if v > 0 else 1 - share
                    down *= share if v < 0 else 1 - share
            known = truth is not None and truth[i]
            prob.append(float(truth[i] > 0) if known else up / (up + down))
        if step == steps:
            return a, prob
        for j in range(votes.shape[1]):
            right = sum(p if v > 0 else 1 - p for p, v in zip(prob, votes[:, j], strict=True) if v)
            a[j] = (strength * mean + right) / (strength + sum(v != 0 for v in votes[:, j]))


def test_against_loops():
    y, votes = simulated(60)
    for steps, truth in itertools.product((1, 3), (None, np.where(np.arange(60) < 9, y, 0))):
        found = LabelModel(start=0.6, strength=4, steps=steps, tolerance=0.0).fit(votes, truth)
        accuracy, prob = oracle(votes, start=0.6, strength=4, steps=steps, truth=truth)
        np.testing.assert_allclose(found.accuracy, accuracy, rtol=1e-12)
        np.testing.assert_allclose(found.prob, prob, rtol=1e-12)
        assert found.steps == steps


def test_it_recovers_the_accuracies_and_beats_a_majority():
    y, votes = simulated()
    found = LabelModel().fit(votes)
    np.testing.assert_allclose(found.accuracy, ACCURACY, atol=0.05)
    assert found.steps < LabelModel().steps
    right = lambda scores: np.mean(np.where(scores == 0, 0.5, np.sign(scores) == y))
    assert right(found.prob - 0.5) > right(votes.sum(1)) + 0.01
    sure = found.prob > 0.9
    assert abs(np.mean(y[sure] == 1) - found.prob[sure].mean()) < 0.03  # and its probabilities mean what they say


def test_a_few_labels_set_the_directions():
    """Functions that are wrong more often than right: without labels all are taken for right, with 30 none is."""
    y, votes = simulated(1000)
    truth = np.where(np.arange(1000) < 30, y, 0)
    blind, seeded = LabelModel().fit(-votes), LabelModel().fit(-votes, truth)
    np.testing.assert_allclose(seeded.accuracy, 1 - ACCURACY, atol=0.08)
    right = lambda found: np.mean(np.sign(found.prob - 0.5)[30:] == y[30:])
    assert right(blind) < 0.2 and right(seeded) > 0.8
    assert (seeded.prob[:30] == (y[:30] > 0)).all()  # what is known stays
    np.testing.assert_allclose(LabelModel().fit(votes, truth).prob, seeded.prob, rtol=1e-6)  # no direction is assumed
    assert (LabelModel().fit(votes, 0 * truth).prob == 0.5).all()  # and none is found without a label


def test_which_answer_comes_first_does_not_matter():
    y, votes = simulated(200)
    turned = np.random.default_rng(1).choice([-1, 1], 200)
    for truth in (None, np.where(np.arange(200) < 20, y, 0)):
        one = LabelModel().fit(votes, truth)
        other = LabelModel().fit(turned[:, None] * votes, None if truth is None else turned * truth)
        np.testing.assert_allclose(one.accuracy, other.accuracy, rtol=1e-9)
        np.testing.assert_allclose(np.where(turned > 0, other.prob, 1 - other.prob), one.prob, rtol=1e-9)


def test_identities():
    """One function alone keeps its accuracy; who abstains keeps the prior's and changes nothing; no vote is 1/2."""
    found = LabelModel(start=0.8).fit(np.array([[1, 0], [-1, 0], [0, 0]]))
    np.testing.assert_allclose(found.accuracy, 0.8)
    np.testing.assert_allclose(found.prob, [0.8, 0.2, 0.5])
    _, votes = simulated(100)
    silent = np.concatenate([votes, np.zeros((100, 1), int)], 1)
    np.testing.assert_allclose(LabelModel().fit(silent).prob, LabelModel().fit(votes).prob, rtol=1e-12)
    np.testing.assert_allclose(probability(np.array([[1, -1]]), np.array([0.7, 0.7])), 0.5)
    assert np.isfinite(probability(np.array([[1]]), np.array([1.0]))).all()


def test_refusals():
    with pytest.raises(UserError, match="give one of"):
        LabelModel().fit(np.array([[2, 0]]))
    with pytest.raises(UserError, match="abstain on all 3 items"):
        LabelModel().fit(np.zeros((3, 2), int))
    with pytest.raises(UserError, match=r"label_model\.start=0\.5"):
        LabelModel(start=0.5)
    with pytest.raises(UserError, match=r"label_model\.strength=0"):
        LabelModel(strength=0)
