"""The fitted calibrator against scipy's optimiser and scikit-learn, its cross-validation, and what cannot be fitted."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from rmjax.errors import UserError
from rmjax.evaluation.calibration import calibration
from rmjax.evaluation.calibrator import Calibrator, cross_validated, fit, folds, logistic


def pairs(n, *, temperature=1.0, length=0.0, seed=0):
    """Rewards and lengths of pairs, labelled by the logistic model itself."""
    rng = np.random.default_rng(seed)
    rewards, sizes = temperature * rng.normal(size=(n, 2)), rng.integers(1, 400, (n, 2)).astype(float)
    better = rewards / temperature + length * np.log1p(sizes)
    first = rng.random(n) < expit(better[:, 0] - better[:, 1])
    order = lambda x: np.where(first[:, None], x, x[:, ::-1])
    return order(rewards), order(sizes)


@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e5])
def test_against_scipy(length, scale):
    rewards, sizes = pairs(300, length=0.5)
    found = fit(scale * rewards, sizes, length=length)

    def loss(w):  # the definition, one pair at a time
        z = [
            w[0] * (r[0] - r[1]) + (w[1] * np.log((1 + s[0]) / (1 + s[1])) if length else 0.0)
            for r, s in zip(rewards, sizes, strict=True)
        ]
        return sum(np.log1p(np.exp(-x)) for x in z)

    best = minimize(loss, np.array([1.0, 0.0][: 1 + length]), method="BFGS", options={"gtol": 1e-8}).x
    assert scale / found.temperature == pytest.approx(best[0], rel=1e-5)
    assert found.length == pytest.approx(best[1] if length else 0.0, rel=1e-4)


def test_the_gradient_vanishes_at_the_fit():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2)) + 0.2
    w = logistic(x, ("rewards", "lengths"))
    np.testing.assert_allclose(x.T @ expit(-x @ w), 0, atol=1e-10)


def test_a_known_temperature_and_length_come_back():
    found = fit(*pairs(8000, temperature=4.0, length=-0.5), length=True)
    assert found.temperature == pytest.approx(4.0, rel=0.08) and found.length == pytest.approx(-0.5, abs=0.08)


def test_the_offset_centres_and_changes_no_probability():
    rewards, sizes = pairs(100)
    found = fit(rewards, sizes)
    assert found.apply(rewards, sizes).mean() == pytest.approx(0, abs=1e-12)
    moved = fit(rewards + 7.0, sizes)
    assert moved.temperature == pytest.approx(found.temperature)
    np.testing.assert_allclose(moved.probabilities(rewards, sizes), found.probabilities(rewards, sizes))


def test_temperature_alone_changes_no_order_and_the_default_nothing():
    rewards, sizes = pairs(50, temperature=3.0)
    found = fit(rewards, sizes)
    right = lambda r: r[:, 0] > r[:, 1]
    np.testing.assert_array_equal(right(found.apply(rewards, sizes)), right(rewards))
    np.testing.assert_array_equal(Calibrator().apply(rewards, sizes), rewards)


def test_a_length_term_can_change_the_order():
    found = Calibrator(length=-1.0)
    assert found.apply(np.array([1.0, 0.9]), np.array([1000.0, 10.0])).argmax() == 1


def test_overconfidence_is_mended_out_of_fold():
    rewards, sizes = pairs(1500)
    rewards = 6 * rewards
    before = calibration(expit(rewards[:, 0] - rewards[:, 1]))
    after = calibration(cross_validated(rewards, sizes, [str(i) for i in range(1500)]))
    assert after.brier95[1] < before.brier95[0] and after.ece < 0.05 < before.ece
    assert after.accuracy == before.accuracy


def test_cross_validation_never_sees_a_fold_it_predicts():
    """Out of fold, each prediction is that of a fit on the other folds, computed here one by one."""
    rewards, sizes = pairs(60)
    keys = [str(i // 2) for i in range(60)]
    fold, found = folds(keys, 3), cross_validated(rewards, sizes, keys, count=3)
    for i in range(60):
        other = fold != fold[i]
        alone = fit(rewards[other], sizes[other]).probabilities(rewards[i : i + 1], sizes[i : i + 1])
        assert found[i] == pytest.approx(alone[0])


def test_folds_keep_prompts_together_and_depend_on_nothing_else():
    keys = [f"prompt {i % 17}" for i in range(100)]
    found = folds(keys, 5)
    assert all(len({f for f, k in zip(found, keys, strict=True) if k == key}) == 1 for key in set(keys))
    assert sorted(np.bincount([found[keys.index(k)] for k in set(keys)])) == [3, 3, 3, 4, 4]
    np.testing.assert_array_equal(folds(keys[::-1], 5), found[::-1])
    with pytest.raises(UserError, match="17 prompts cannot make folds=18"):
        folds(keys, 18)


SIZES = np.array([(10.0, 20.0), (30.0, 5.0), (7.0, 9.0)])


@pytest.mark.parametrize(
    ("rewards", "sizes", "length", "said"),
    [
        ([(2, 1)], SIZES[:1], False, "calibration on 1 pairs: rewards rank every pair right"),
        ([(2, 1), (3, 1), (1, 0)], SIZES, False, "rewards rank every pair right"),
        ([(1, 2), (1, 3), (1, 1)], SIZES, False, "every pair wrong"),
        ([(1, 1), (2, 2), (3, 3)], SIZES, False, "the two rewards of every pair are equal"),
        ([(2, 1), (1, 2), (1, 0)], np.full((3, 2), 5.0), True, "the two lengths of every pair are equal"),
        (np.log1p(SIZES), SIZES, True, "go together exactly"),
        ([(1, 4), (1, 3), (1, 0)], SIZES, False, "rewards go against the labels"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(rewards, sizes, length, said):
    with pytest.raises(UserError, match=said) as error:
        fit(np.array(rewards, float), sizes, length=length)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_must_be_one(bad):
    with pytest.raises(UserError, match=r"calibrator\.temperature"):
        Calibrator(temperature=bad)
