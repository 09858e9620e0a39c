"""Scores, thresholds, levels and grades against worked numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmjax.errors import UserError
from rmjax.refine.levels import cut, grade_of, graded, level, scores
from rmjax.refine.perplexity import given_prompt, perplexity

SETTINGS = dict(score="perplexity", tau=10.0, threshold=0.5, grade="signed")
positive = st.floats(1.0, 1e6)


@pytest.mark.parametrize(
    ("ppl", "score"), [(1.5, 0.860708), (3, 0.740818), (6.931, 0.500024), (10, 0.367879), (20, 0.135335)]
)
def test_worked_scores(ppl, score):
    assert scores([ppl], score="perplexity", tau=10.0) == [pytest.approx(score, abs=5e-7)]


def test_perplexity_is_a_geometric_mean():
    logps = [math.log(p) for p in (0.5, 0.25, 0.125)]
    assert perplexity(logps) == pytest.approx((0.5 * 0.25 * 0.125) ** (-1 / 3))
    assert perplexity([]) is None


def test_only_the_reasoning_counts(judgment):
    found = given_prompt(
        [judgment("i", "A", "A", ppl=5.0), judgment("i", "A", None), judgment("i", "A", "B", reasoning=0)]
    )
    assert found == [pytest.approx(5.0), None, None]


@given(st.lists(st.one_of(st.none(), positive), max_size=30))
def test_rank_scores_agree_with_counting(ppls):
    known = [p for p in ppls if p is not None]
    found = scores(ppls, score="rank", tau=10.0)
    for p, s in zip(ppls, found, strict=True):
        if p is None:
            assert s == 0.0
        else:
            higher = sum(q > p for q in known) + 0.5 * sum(q == p for q in known)
            assert s == pytest.approx(higher / len(known))


@given(st.lists(st.floats(1.0, 50.0, allow_nan=False), min_size=2, max_size=40, unique=True), st.floats(0.05, 0.95))
def test_a_quantile_splits_the_run(ppls, q):
    found = scores(ppls, score="rank", tau=10.0)
    limit = cut(f"quantile:{q}", found)
    strong = sum(s > limit for s in found)
    assert abs(strong - (1 - q) * len(ppls)) <= 1


def test_the_median_splits_where_the_papers_threshold_does_not(judgment):
    run = [judgment("i", "A", "A", index=i, ppl=1.4 + 0.01 * i) for i in range(10)]
    levels = lambda threshold: [g.level for g in graded(run, given_prompt(run), **SETTINGS | {"threshold": threshold})]
    assert set(levels(0.5)) == {"SA"}
    assert levels("quantile:0.5") == ["SA"] * 5 + ["WA"] * 5  # lower perplexity is stronger


def test_levels_are_verdict_by_strength():
    found = [level(c, strong=s) for c in (True, False) for s in (True, False)]
    assert found == ["SA", "WA", "SR", "WR"]
    assert level(None, strong=True) == "unparsed"


def test_grades():
    grades = lambda g: [grade_of(0.3, name, g) for name in ("SA", "WA", "SR", "WR")]
    assert grades("signed") == [0.3, 0.3, -0.3, -0.3]
    assert grades("unsigned") == [0.3] * 4
    assert grades("levels") == [2.0, 1.0, -2.0, -1.0]
    assert [grade_of(0.0, "unparsed", g) for g in ("signed", "unsigned", "levels")] == [0.0, 0.0, -1.0]


def test_grading_a_run(judgment):
    run = [
        judgment("i", "A", "A", ppl=3.0),
        judgment("i", "B", "A", ppl=10.0),
        judgment("i", "A", "tie", ppl=3.0),
        judgment("i", "A", None),
        judgment("i", "A", "A", reasoning=0),
    ]
    found = graded(run, given_prompt(run), **SETTINGS)
    assert [g.level for g in found] == ["SA", "WR", "SR", "unparsed", "WA"]  # a tie misses the chosen answer
    np.testing.assert_allclose([g.grade for g in found], [0.740818, -0.367879, -0.740818, 0.0, 0.0], atol=5e-7)
    assert [g.judgment for g in found] == run


def test_the_quantile_is_over_judgments_with_a_perplexity(judgment):
    run = [judgment("i", "A", "A", index=i, ppl=p) for i, p in enumerate((2.0, 3.0))]
    run += [judgment("i", "A", None, index=i) for i in range(2, 9)]
    assert [g.level for g in graded(run, given_prompt(run), **SETTINGS | {"threshold": "quantile:0.5"})][:2] == [
        "SA",
        "WA",
    ]


@pytest.mark.parametrize("text", ["median", "quantile:", "quantile:1", "quantile:nan", "0.5"])
def test_thresholds_that_mean_nothing(text):
    with pytest.raises(UserError, match="threshold"):
        cut(text, [0.1, 0.2])
