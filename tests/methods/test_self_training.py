"""Self-training: the rules by hand, the loop against a slow one, what is hidden stays hidden."""

import functools

import numpy as np
import pytest
from scipy.optimize import minimize

from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.methods import self_training
from rmjax.methods.frozen import Bench, Frozen
from rmjax.methods.self_training import Ser, Ssrm, Weak, train, voted
from rmjax.records import Message, Preference
from rmjax.refine.label_model import LabelModel

N, F = 24, 7
HOW = Frozen(axes=6, folds=2, penalties=(0.03, 0.3))  # tests/jobs/test_self_train.py compiles the same programs


def features(n, seed):
    r = np.random.default_rng(seed)
    x = r.normal(size=(2, n, F)).astype(np.float32)
    x[0, :, :2] += 0.7
    return Features(tuple(map(str, range(n))), *x)


@functools.cache
def bench():
    items = [
        Preference(prompt=(Message("user", str(i)),), chosen="a", rejected="b", weight=2.0 if i % 5 == 0 else None)
        for i in range(N)
    ]
    return Bench(features(N, 0), features(30, 1), items, HOW, parts=1, seed=3)


@functools.cache
def base():
    return bench().baseline(6, range(3))


def logit(p):
    return np.log(p / (1 - p))


def test_ser_keeps_what_lies_on_two_sides_or_far_apart():
    pairs = {(0.56, 0.44): 1, (0.56, 0.46): 0, (0.44, 0.56): -1, (0.9, 0.59): 1, (0.9, 0.61): 0, (0.1, 0.41): -1}
    rewards = np.array([[logit(a), logit(b)] for a, b in pairs])
    assert Ser()(rewards).tolist() == list(pairs.values())
    assert Ser()(rewards[:, ::-1]).tolist() == [-v for v in pairs.values()]
    assert Ser()(rewards[None]).shape == (1, 6)


def test_ssrm_keeps_probabilities_above_its_threshold():
    gaps = np.array([logit(0.81), logit(0.79), -logit(0.81), 0.0, 1000.0])
    assert Ssrm()(np.stack([gaps + 5, np.full(5, 5.0)], 1)).tolist() == [1, 0, -1, 0, 1]
    assert Weak()(np.array([0.81, 0.8, 0.19, 0.5])).tolist() == [1, 0, -1, 0]


def oracle(run, rule, rounds):
    """One run: heads by scipy in float64, labels given pair by pair."""
    form, penalty = base().form[run], base().penalty[run]
    x, tests = (np.asarray(v[form], np.float64) for v in (bench().x, bench().evaluation))
    seed = set(bench().runs(6, range(3)).index[run, :6].tolist())
    given, w = {}, base().head[run, -1]

    def head():
        rows = [(2.0 if i % 5 == 0 else 1.0, x[i, 0] - x[i, 1]) for i in seed]
        rows += [(1.0, sign * (x[i, 0] - x[i, 1])) for i, sign in given.items()]
        weight, d = np.array([r[0] for r in rows]), np.stack([r[1] for r in rows])
        loss = lambda w: weight @ np.logaddexp(0, -(d @ w)) / weight.sum() + penalty / 2 * w @ w
        return minimize(loss, np.zeros(d.shape[1]), method="BFGS", options={"gtol": 1e-9}).x

    for _ in range(rounds):
        for i in sorted(set(range(N)) - seed - given.keys()):
            if sign := int(rule(x[i] @ w)):
                given[i] = sign
        w = head()
    return given, (tests[:, 0] - tests[:, 1]) @ w


@pytest.mark.parametrize("rule", [Ssrm(confidence=0.6), Ser(gap=0.1)])
def test_the_loop_against_a_slow_one(rule):
    found = train(bench(), 6, range(3), base(), rule, rounds=2)
    assert found.given.shape == (2, 3)
    for run in range(3):
        given, differences = oracle(run, rule, 2)
        assert found.given[-1, run] == len(given) and found.right[-1, run] == sum(v > 0 for v in given.values())
        np.testing.assert_allclose(found.differences[run], differences, atol=2e-3)
    assert (found.given[1] >= found.given[0]).all() and (found.given[-1] < N - 6).any() and found.given.any()
    assert (found.right < found.given).any()  # some are wrong, so that the row of true labels differs
    assert not np.allclose(found.true, found.differences)


def test_who_gives_nothing_or_the_truth():
    """No label: the baseline's head again. The truth for all pairs: both rows are one."""
    none = train(bench(), 6, range(3), base(), lambda rewards: np.zeros(N, int), rounds=1)
    tests = bench().evaluation[:, :, 0] - bench().evaluation[:, :, 1]
    np.testing.assert_allclose(
        none.differences, [tests[f] @ w for f, w in zip(base().form, base().head[:, -1], strict=True)], atol=2e-3
    )
    assert not none.given.any()
    every = train(bench(), 6, range(3), base(), lambda rewards: np.ones(N, int), rounds=1)
    np.testing.assert_array_equal(every.differences, every.true)
    assert (every.given == N - 6).all() and (every.right == every.given).all()
    np.testing.assert_allclose(every.differences[0].shape, (30,))
    assert not np.allclose(every.differences, none.differences, atol=1e-2)


def test_labelling_functions_that_point_the_wrong_way():
    """Each run's own seed labels turn them around, and nothing else of the truth does."""
    r = np.random.default_rng(0)
    votes = np.where(r.random((300, 3)) < [0.1, 0.2, 0.3], 1, -1)  # the chosen answer is the first one of all pairs
    seed = np.zeros((2, 300), bool)
    seed[0, :40] = seed[1, 40:80] = True
    blind, found = voted(votes, seed, Weak())
    assert blind.shape == (2, 300) and found.shape == (2, 3) and (found > 0.5).all()
    assert (blind < 0).mean() > 0.5 and np.array_equal(blind[0], blind[1])
    labels, found = voted(votes, seed, Weak(seeded=True))
    assert (found < 0.5).all() and ((labels > 0).sum(1) > 4 * (labels < 0).sum(1)).all()
    assert not np.array_equal(found[0], found[1])
    turned, again = voted(np.where(seed[0][:, None], votes, -votes), seed[:1], Weak(seeded=True))
    np.testing.assert_allclose(again, found[:1])
    np.testing.assert_array_equal(turned[0], np.where(seed[0], labels[0], -labels[0]))


def test_labels_of_the_rest_are_not_looked_at():
    """Pairs outside the first draw change places: their given labels turn around, and the draw's head stays."""
    seed = self_training.seeded(bench(), 6, [0])[0]
    other = object.__new__(Bench)
    other.__dict__ = {**bench().__dict__, "x": np.where(seed[:, None, None], bench().x, bench().x[:, :, ::-1])}
    one, two = (train(b, 6, range(3), base(), Ssrm(confidence=0.52), rounds=2) for b in (bench(), other))
    np.testing.assert_allclose(one.differences[0], two.differences[0], atol=1e-4)
    assert one.given[-1, 0] and np.array_equal(one.given[:, 0], two.given[:, 0])
    np.testing.assert_array_equal(one.right[:, 0], (two.given - two.right)[:, 0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Ser(gap=1.5), "ser.gap=1.5"),
        (lambda: Ssrm(confidence=0.3), "ssrm.confidence=0.3"),
        (lambda: Weak(confidence=1.0), "weak.confidence=1.0"),
        (lambda: Weak(seeded=True, model=LabelModel(start=0.8)), "weak.model.start=0.8: not read"),
        (lambda: Ser(high=0.4), "ser.low=0.45: above ser.high=0.4"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(UserError, match=said):
        make()
