"""Accuracies, ties, paired comparisons over items and over runs."""

import dataclasses

import numpy as np
import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import (
    ItemScore,
    accuracy,
    accuracy_by,
    compare,
    compare_runs,
    from_scores,
    from_verdicts,
    over_runs,
)
from rmjax.judging.votes import ItemVerdict
from rmjax.records import Message, Preference
from rmjax.statistics import crossed_interval, t_interval, wilson


def preference(i: int, **fields) -> Preference:
    return Preference(prompt=(Message("user", "q"),), chosen=f"yes {i}", rejected=f"no {i}", id=f"p{i}", **fields)


def outcomes(values) -> list[ItemScore]:
    return [ItemScore(id=f"p{i}", outcome=v) for i, v in enumerate(values)]


def test_from_scores_counts_ties_one_half():
    items = [preference(i) for i in range(4)]
    scores = from_scores(items, [[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [0.1, 0.10000001]])
    assert [s.outcome for s in scores] == [1.0, 0.0, 0.5, 0.0]
    result = accuracy(scores)
    assert (result.accuracy, result.n, result.ties, result.unparsed) == (0.375, 4, 1, 0)
    assert result.ci95 == wilson(1.5, 4)


def test_logistic_probability():
    scores = from_scores([preference(0), preference(1)], [[3.0, 1.0], [-800.0, 800.0]], logistic=True)
    assert scores[0].prob_chosen == pytest.approx(1 / (1 + np.exp(-2)))
    assert scores[1].prob_chosen == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_score_is_no_tie(bad):
    with pytest.raises(UserError, match=r"'p1'.*not finite"):
        from_scores([preference(0), preference(1)], [[1.0, 0.0], [bad, bad]])


def test_an_item_labelled_tie_has_no_right_answer():
    with pytest.raises(UserError, match="'p1': labelled tie"):
        from_scores([preference(0), preference(1, tie=True)], [[1.0, 0.0], [1.0, 0.0]])


def test_from_verdicts_keeps_unparsed_apart_from_ties():
    vote = lambda i, chosen, rejected, unparsed: ItemVerdict(
        item=f"p{i}",
        chosen=chosen,
        rejected=rejected,
        ties=0,
        unparsed=unparsed,
        prob_chosen=None,
        consistent=None,
    )
    items = [preference(i) for i in range(3)]
    scores = from_verdicts(items, [vote(0, 2, 0, 0), vote(1, 1, 1, 0), vote(2, 0, 0, 2)])
    assert [s.outcome for s in scores] == [1.0, 0.5, 0.5]
    assert [(s.tie, s.unparsed) for s in scores] == [(False, False), (True, False), (False, True)]
    result = accuracy(scores)
    assert (result.accuracy, result.ties, result.unparsed) == (pytest.approx(2 / 3), 1, 1)
    with pytest.raises(ValueError, match="order"):
        from_verdicts(items, [vote(1, 1, 0, 0), vote(0, 1, 0, 0), vote(2, 1, 0, 0)])


def test_accuracy_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no items"):
        accuracy([])


def test_accuracy_by_subset():
    scores = [dataclasses.replace(s, subset="ab"[i % 2]) for i, s in enumerate(outcomes([1, 0, 1, 1, 0.5]))]
    found = accuracy_by(scores, "subset")
    assert {k: (v.accuracy, v.n) for k, v in found.items()} == {"a": (2.5 / 3, 3), "b": (0.5, 2)}
    assert list(accuracy_by(scores, "source")) == [""]
    with pytest.raises(ValueError, match="subset or source"):
        accuracy_by(scores, "id")


def test_scores_survive_the_disk_at_full_precision(tmp_path):
    score = ItemScore(id="é", outcome=1.0, prob_chosen=1 / 3, score_chosen=float(np.float32(0.1)), score_rejected=1e-30)
    jsonl.write(tmp_path / "scores.jsonl", [score])
    assert jsonl.read(tmp_path / "scores.jsonl", ItemScore) == [score]


def test_equal_methods_are_not_distinguishable():
    a = outcomes([1, 0] * 200)
    result = compare(a, list(reversed(a)), names=("a", "b"))
    assert (result.only_a, result.only_b, result.p) == (0, 0, 1.0)
    assert result.difference.value == 0 and not result.distinguishable
    assert "not distinguishable" in result.words


def test_a_one_sided_disagreement_is_found():
    b = outcomes([1] * 50 + [0] * 50)
    a = outcomes([1] * 50 + [1] * 20 + [0] * 30)
    result = compare(a, b, names=("new", "old"))
    assert (result.only_a, result.only_b) == (20, 0)
    assert result.p == pytest.approx(2 / 2**20)
    assert result.difference.value == pytest.approx(0.2)
    assert result.difference.low > 0.1
    assert result.words.startswith("new is ahead of old by +20.0 points [+1")
    back = compare(b, a, names=("old", "new"))
    assert back.words.startswith("new is ahead of old by +20.0 points [+1")
    assert back.difference.value == pytest.approx(-0.2)


def test_interval_and_exact_test_must_agree():
    """Five disagreements of one kind: the bootstrap interval excludes zero, the exact p is 0.0625."""
    a, b = outcomes([1] * 100), outcomes([1] * 95 + [0] * 5)
    result = compare(a, b, names=("a", "b"))
    assert result.difference.excludes_zero and result.p == pytest.approx(0.0625)
    assert not result.distinguishable


def test_same_accuracies_can_differ_significantly_or_not():
    """Equal marginal accuracies, other pairing: what an unpaired test cannot see."""
    base = np.array([1] * 700 + [0] * 300, float)
    tight, loose = base.copy(), base.copy()
    tight[700:720] = 1  # 20 more right, none lost
    loose[700:900], loose[0:180] = 1, 0  # 200 more right, 180 lost: also +20
    assert compare(outcomes(tight), outcomes(base), names=("a", "b")).distinguishable
    assert not compare(outcomes(loose), outcomes(base), names=("a", "b")).distinguishable


def test_half_outcomes_take_part():
    a, b = outcomes([0.5] * 30 + [1] * 10), outcomes([0.0] * 30 + [1] * 10)
    result = compare(a, b, names=("a", "b"))
    assert (result.only_a, result.only_b) == (30, 0)
    assert result.difference.value == pytest.approx(15 / 40)


def test_comparing_other_items_is_refused():
    with pytest.raises(UserError, match="1 not shared; 'p2' is only in 'b'"):
        compare(outcomes([1, 0]), outcomes([1, 0, 1]), names=("a", "b"))
    with pytest.raises(UserError, match="'p0' is scored twice"):
        compare(outcomes([1]) * 2, outcomes([1, 1]), names=("a", "b"))


def test_false_alarms_are_rare():
    """Two methods of equal quality are called distinguishable in at most about 5 % of draws."""
    rng = np.random.default_rng(0)
    draw = lambda: outcomes((rng.random(300) < 0.8).astype(float))
    alarms = sum(compare(draw(), draw(), names=("a", "b")).distinguishable for _ in range(200))
    assert alarms <= 16


def test_over_runs_chooses_the_interval_by_the_design():
    rng = np.random.default_rng(0)
    grid = {(d, s): rng.random() for d in range(4) for s in range(3)}
    table = [[grid[d, s] for s in range(3)] for d in range(4)]
    assert over_runs(grid) == (crossed_interval(table), "4 label draws x 3 seeds")
    one_seed = {(d, 0): grid[d, 0] for d in range(4)}
    assert over_runs(one_seed) == (t_interval(list(one_seed.values())), "4 label draws, one seed")
    one_draw = {(0, s): grid[0, s] for s in range(3)}
    assert over_runs(one_draw) == (t_interval(list(one_draw.values())), "3 seeds, one label draw")
    ragged = {k: v for k, v in grid.items() if k != (0, 0)}
    means = [np.mean([v for (d, _), v in ragged.items() if d == draw]) for draw in range(4)]
    interval, over = over_runs(ragged)
    assert interval.low == pytest.approx(t_interval(means).low) and over == "4 label draws"


def test_compare_runs_pairs_by_draw():
    """Large spread over draws that both methods share must not hide a small, steady difference."""
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 0.1, 6)
    b = {(d, 0): 0.8 + spread[d] for d in range(6)}
    a = {(d, 0): b[d, 0] + 0.01 + 0.001 * rng.normal() for d in range(6)}
    result = compare_runs(a, b, names=("a", "b"))
    assert result.distinguishable and result.p is None
    assert result.difference.value == pytest.approx(0.01, abs=0.002)
    assert result.over == "6 label draws, one seed"
    shuffled = {(d, 0): a[(d + 1) % 6, 0] for d in range(6)}
    assert not compare_runs(shuffled, b, names=("a", "b")).distinguishable


def test_compare_runs_refuses_unlike_and_single_runs():
    with pytest.raises(UserError, match=r"\(draw 1, seed 0\) is only in 'a'"):
        compare_runs({(0, 0): 0.5, (1, 0): 0.5}, {(0, 0): 0.5}, names=("a", "b"))
    with pytest.raises(UserError, match="one run each"):
        compare_runs({(0, 0): 0.5}, {(0, 0): 0.5}, names=("a", "b"))
