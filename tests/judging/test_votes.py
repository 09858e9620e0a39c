"""Votes, their probabilities, and a judge's figures; unparsed counted apart."""

import pytest

from rmjax.errors import UserError
from rmjax.judging.votes import prob_chosen, summary, verdicts
from rmjax.records import Judgment
from rmjax.statistics import wilson


def judgment(item, slot, verdict, prob_a=None, index=0, forced=False):
    return Judgment(
        item=item, slot=slot, index=index, prompt=(1,), tokens=(2,), logps=(0.0,), reasoning=0, text="",
        verdict=verdict, prob_a=prob_a, finish="stop", forced=forced,
    )  # fmt: skip


def test_probability_of_the_chosen_answer():
    assert prob_chosen(judgment("1", "A", "A", 0.9)) == 0.9
    assert prob_chosen(judgment("1", "B", "A", 0.9)) == pytest.approx(0.1)
    assert prob_chosen(judgment("1", "B", "B")) == 1.0
    assert prob_chosen(judgment("1", "B", "A")) == 0.0
    assert prob_chosen(judgment("1", "A", "tie")) == 0.5
    assert prob_chosen(judgment("1", "A", None, 0.9)) is None


def test_orders_weigh_alike_in_the_probability(item):
    votes = [judgment("1", "A", "A", 0.9), judgment("1", "A", "A", 0.7), judgment("1", "B", "A", 0.8)]
    assert verdicts(votes, [item("1")])[0].prob_chosen == pytest.approx((0.8 + 0.2) / 2)


@pytest.mark.parametrize(
    ("a", "b", "outcome", "consistent"),
    [
        ("AAB", "BBB", 1.0, True),
        ("AAA", "AAA", 0.5, False),  # always A: the orders contradict each other
        ("BBB", "AAA", 0.0, True),
        ("AB", "BA", 0.5, True),  # even in both orders
        ("A??", "???", 1.0, None),
        ("??", "??", None, None),
        ("A?", "AA", 0.0, False),
        ("T", "T", 0.5, True),
    ],
)
def test_verdict_of_an_item(item, a, b, outcome, consistent):
    names = {"?": None, "T": "tie"}
    votes = [judgment("1", s, names.get(v, v)) for s, text in (("A", a), ("B", b)) for v in text]
    found = verdicts(votes, [item("1")])[0]
    assert (found.outcome, found.consistent) == (outcome, consistent)
    assert found.unparsed == (a + b).count("?") and found.parsed + found.unparsed == len(votes)
    assert found.ties == (a + b).count("T")


def test_summary_by_hand(item):
    votes = [
        *(judgment("1", s, s, 0.9 if s == "A" else 0.2) for s in "AB"),  # right twice
        *(judgment("2", s, "A") for s in "AB"),  # A both times
        *(judgment("3", s, None) for s in "AB"),  # unparsed
        judgment("4", "A", "B", 0.3, forced=True),  # wrong, and
        judgment("4", "B", None),  # unparsed
        *(judgment("5", s, "tie", 0.5) for s in "AB"),
    ]
    found = summary(votes, [item(str(i)) for i in range(1, 6)])
    value = lambda x: (pytest.approx(x.value), x.n)
    assert value(found.accuracy) == ((1 + 0.5 + 0.5 + 0 + 0.5) / 5, 5)
    assert value(found.accuracy_parsed) == ((1 + 0.5 + 0 + 0.5) / 4, 4)
    assert value(found.accuracy_prob) == ((1 + 0.5 + 0 + 0.5) / 4, 4)
    assert value(found.single) == ((2 + 1 + 0 + 1) / 7, 7)
    assert value(found.single_by_slot["A"]) == ((1 + 1 + 0 + 0.5) / 4, 4)
    assert value(found.single_by_slot["B"]) == ((1 + 0 + 0.5) / 3, 3)
    assert value(found.says_a) == (3 / 5, 5)
    assert value(found.consistency) == (2 / 3, 3)
    assert value(found.unparsed) == (3 / 10, 10)
    assert value(found.forced) == (1 / 10, 10)
    assert (found.accuracy.low, found.accuracy.high) == wilson(2.5, 5)


def test_a_judge_that_answers_nothing_is_not_right_by_default(item):
    found = summary([judgment("1", s, None) for s in "AB"], [item("1")])
    assert (found.accuracy.value, found.accuracy_parsed.n, found.unparsed.value) == (0.5, 0, 1.0)
    assert (found.accuracy_parsed.low, found.accuracy_parsed.high) == (0.0, 1.0)


def test_items_and_judgments_must_match(item):
    with pytest.raises(ValueError, match="'1' has no judgment"):
        verdicts([], [item("1")])
    with pytest.raises(ValueError, match="'2', which is not among"):
        verdicts([judgment("2", "A", "A")], [item("1")])
    with pytest.raises(UserError, match="'1': labelled tie"):
        verdicts([judgment("1", "A", "A")], [item("1", tie=True)])
