"""Kappas: a textbook's example, scikit-learn, slow loops, identities, and what is left out."""

import io
import itertools

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import cohen_kappa_score

from rmjax.evaluation.agreement import CATEGORIES, agreement, agreement_table, cohen, fleiss
from rmjax.records import Vote

# Fleiss (1971) as Wikipedia's article on Fleiss' kappa prints the worked example: 14 raters, 10 subjects, 5 categories.
TEXTBOOK = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)


def draw(rng, n, noise):
    """Two raters of the same truth, each wrong now and then."""
    truth = rng.integers(0, 3, n)
    return [[CATEGORIES[i] for i in np.where(rng.random(n) < noise, rng.integers(0, 3, n), truth)] for _ in range(2)]


def test_cohen_is_scikit_learn_s():
    for noise in (0.1, 0.5, 1.0):
        a, b = draw(np.random.default_rng(0), 200, noise)
        found = cohen(a, b)
        np.testing.assert_allclose(found.value, cohen_kappa_score(a, b), atol=1e-12)
        assert found.n == 200 and found.low < found.value < found.high
        assert cohen(a, b) == found != cohen(a, b, seed=1)


def test_cohen_s_interval_is_the_bootstrap_over_pairs():
    a, b = draw(np.random.default_rng(1), 60, 0.3)
    rng = np.random.default_rng(2)
    left, right = np.array(a), np.array(b)
    values = []
    for i in rng.integers(0, 60, (1000, 60)):
        equal = np.mean(left[i] == right[i])
        chance = sum(np.mean(left[i] == name) * np.mean(right[i] == name) for name in CATEGORIES)
        values.append((equal - chance) / (1 - chance))
    found = cohen(a, b)
    np.testing.assert_allclose([found.low, found.high], np.quantile(values, [0.025, 0.975]), atol=0.05)


def test_fleiss_is_the_textbook_s():
    found = fleiss(TEXTBOOK)
    np.testing.assert_allclose(found.value, 0.210, atol=5e-4)
    assert found.n == 10 and found.low < found.value < found.high


def test_fleiss_by_slow_loops_with_uneven_ratings():
    counts = np.random.default_rng(0).integers(0, 3, (30, 3))
    kept = [row for row in counts.tolist() if sum(row) >= 2]
    equal = []
    for row in kept:
        raters = [c for c, n in enumerate(row) for _ in range(n)]
        equal.append(np.mean([x == y for x, y in itertools.combinations(raters, 2)]))
    total = sum(map(sum, kept))
    chance = sum((sum(row[c] for row in kept) / total) ** 2 for c in range(3))
    found = fleiss(counts)
    np.testing.assert_allclose(found.value, (np.mean(equal) - chance) / (1 - chance), atol=1e-12)
    assert found.n == len(kept) < 30


def test_perfect_agreement_is_one_and_no_variety_is_not_defined():
    ratings = ["first", "second", "tie", "first"]
    assert cohen(ratings, ratings).value == 1
    assert cohen(["tie"] * 4, ["tie"] * 4) is None and cohen([], []) is None
    assert fleiss(np.array([[3, 0, 0], [0, 3, 0]])).value == 1
    assert fleiss(np.array([[3, 0, 0], [3, 0, 0]])) is None and fleiss(np.array([[1, 0, 0]])) is None


def votes(by, choices):
    names = {"1": "first", "2": "second", "t": "tie", "?": "unknown"}
    return [Vote(item=str(i), choice=names[c], by=by) for i, c in enumerate(choices) if c != " "]


def test_can_t_tell_is_no_rating_and_a_reference_no_person():
    people = [*votes("ann", "1122t1?"), *votes("bob", "1121 t1"), *votes("eve", "?122t12")]
    found = agreement(people, reference=votes("the file", "1111111"))
    assert [(t.a, t.b, t.agreement.n) for t in found.twos] == [
        ("ann", "bob", 5),
        ("ann", "eve", 5),
        ("ann", "the file", 6),
        ("bob", "eve", 5),
        ("bob", "the file", 6),
        ("eve", "the file", 6),
    ]
    assert found.twos[0].agreement.value == pytest.approx(3 / 5)
    assert found.unknown == {"ann": 1, "bob": 0, "eve": 1}
    alone = agreement(people)
    assert found.kappa == alone.kappa and found.kappa.n == 7
    np.testing.assert_allclose(found.twos[0].kappa.value, cohen_kappa_score(list("11221"), list("1121t")), atol=1e-12)
    out = io.StringIO()
    Console(file=out, width=120).print(agreement_table(found))
    assert "60.0" in out.getvalue() and "Fleiss" in out.getvalue()


def test_two_who_share_no_pair():
    found = agreement([*votes("ann", "1?"), *votes("bob", " 1")])
    assert (found.twos[0].agreement, found.twos[0].kappa, found.kappa) == (None, None, None)
    out = io.StringIO()
    Console(file=out, width=120).print(agreement_table(found))
    assert out.getvalue().splitlines()[2].split() == ["ann", "bob", "not", "defined", "0"]


def test_two_votes_of_one_person():
    with pytest.raises(ValueError, match="voted twice"):
        agreement([*votes("ann", "1"), *votes("ann", "2")])
