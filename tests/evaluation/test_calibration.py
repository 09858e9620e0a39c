"""ECE, Brier score and reliability bins against a slow loop and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from rmjax.evaluation.calibration import calibration


def slow_ece(p, bins=10):
    """One item at a time, from the definition."""
    inside = [[] for _ in range(bins)]
    for x in p:
        confidence = max(x, 1 - x)
        i = next(i for i in range(bins) if confidence <= 0.5 + (i + 1) * 0.5 / bins + 1e-12)
        inside[i].append((confidence, 0.5 if x == 0.5 else float(x > 0.5)))
    means = [(len(b), np.mean(b, axis=0)) for b in inside if b]
    return sum(n * abs(conf - acc) for n, (conf, acc) in means) / len(p)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60))
def test_against_a_slow_loop(p):
    found = calibration(p)
    assert found.ece == pytest.approx(slow_ece(p), abs=1e-9)
    assert found.brier == pytest.approx(np.mean([(1 - x) ** 2 for x in p]))
    assert sum(b.n for b in found.bins) == found.n == len(p)


def test_brier_is_scikit_learns():
    p = np.random.default_rng(0).random(100)
    assert calibration(p).brier == pytest.approx(brier_score_loss(np.ones(100), p, pos_label=1))


def test_invariant_to_which_answer_is_called_chosen():
    """Confidence, accuracy and ECE must not use that the label is always `chosen`."""
    p = np.random.default_rng(0).random(200)
    wrong = calibration(1 - p)
    assert calibration(p).confidence == pytest.approx(wrong.confidence)
    assert calibration(p).accuracy == pytest.approx(1 - wrong.accuracy)


def test_a_calibrated_method_has_low_ece_and_an_overconfident_one_high():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 1, 20000)
    right = rng.random(20000) < truth
    honest = np.where(right, truth, 1 - truth)
    assert calibration(honest).ece < 0.01
    sure = np.where(right, 0.99, 0.01)
    assert calibration(sure).ece == pytest.approx(0.24, abs=0.01)


def test_edges():
    found = calibration([0.5, 0.55, 0.550001, 1.0, 0.0])
    assert [b.n for b in found.bins] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.bins[0].accuracy == 0.75  # one tie, one right
    assert np.isnan(found.bins[3].accuracy) and found.bins[3].ci95 == (0.0, 1.0)


@pytest.mark.parametrize("bad", [[], [1.2], [-0.1], [float("nan")]])
def test_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError):
        calibration(bad)


def test_the_intervals_hold_the_true_figures():
    """True ECE 0.2 and Brier 0.25 of a method that says 0.7 and is right half of the time: held in most of 60 draws."""
    rng, held = np.random.default_rng(0), np.zeros(2)
    for seed in range(60):
        right = rng.random(200) < 0.5
        found = calibration(np.where(right, 0.7, 0.3), seed=seed)
        held += [a <= x <= b for (a, b), x in ((found.ece95, 0.2), (found.brier95, 0.5 * 0.09 + 0.5 * 0.49))]
    assert (held >= 52).all()


def test_the_interval_of_a_calibrated_methods_ece_reaches_down_to_nothing():
    """Binning noise makes the estimate positive; the interval must not exclude the truth, 0."""
    rng, low = np.random.default_rng(1), []
    for seed in range(20):
        truth = rng.uniform(0.5, 1, 150)
        found = calibration(np.where(rng.random(150) < truth, truth, 1 - truth), seed=seed)
        assert found.ece95[0] <= found.ece <= found.ece95[1]
        low.append(found.ece95[0])
    assert low.count(0.0) >= 17


def test_the_ece_bootstrap_resamples_items():
    """Against a slow bootstrap that draws items and computes the figure anew."""
    p = np.random.default_rng(3).random(60)
    rng = np.random.default_rng(4)
    drawn = [slow_ece(rng.choice(p, p.size)) for _ in range(1500)]
    found, (low, high) = calibration(p), np.quantile(drawn, (0.025, 0.975))
    assert found.ece95[0] == pytest.approx(max(0, 2 * found.ece - high), abs=0.02)
    assert found.ece95[1] == pytest.approx(max(found.ece, 2 * found.ece - low), abs=0.02)
