"""A file's labels: hidden, in a blind order, sold one by one."""

import dataclasses

import pytest

from rmjax.errors import UserError
from rmjax.oracles.column import ColumnOracle, hide
from rmjax.records import Message, Preference


def test_hidden_pairs_tell_nothing(preferences):
    pairs = hide(preferences, seed=0)
    assert [p.id for p in pairs] == [p.id for p in preferences]
    assert all({a.first, a.second} == {b.chosen, b.rejected} for a, b in zip(pairs, preferences, strict=True))
    assert all(p.meta == {} for p in pairs)
    assert [p.first for p in hide(preferences[::-1], seed=0)] == [p.first for p in pairs[::-1]]


def test_the_order_is_a_fair_coin():
    records = [Preference(prompt=(Message("user", str(i)),), chosen="c", rejected="r") for i in range(1000)]
    first = [sum(p.first == "c" for p in hide(records, seed=seed)) for seed in (0, 1)]
    assert all(440 < n < 560 for n in first)
    assert [p.first for p in hide(records, seed=0)] != [p.first for p in hide(records, seed=1)]


def test_what_it_sells(preferences):
    said = {}
    for seed in range(4):  # both orders of every pair
        pairs = hide(preferences, seed=seed)
        for pair, vote in zip(pairs, ColumnOracle(preferences).label(pairs), strict=True):
            named = {"first": pair.first, "second": pair.second, "tie": "tie"}[vote.choice]
            chosen = pair.first == preferences[pairs.index(pair)].chosen
            prob = vote.prob_first if vote.prob_first is None or chosen else 1 - vote.prob_first
            said.setdefault(pair.id, set()).add((named, prob if prob is None else round(prob, 9)))
    assert said == {
        "pair-0": {("first answer 0", None)},
        "pair-1": {("tie", None)},
        "pair-2": {("second answer 2", 0.2)},
        "pair-3": {("first answer 3", 0.75)},
        "pair-4": {("tie", 0.5)},
    }


def test_what_was_bought_is_counted_once(preferences):
    oracle, pairs = ColumnOracle(preferences), hide(preferences, seed=0)
    oracle.label(pairs[:2])
    oracle.label(pairs[1:3])
    assert oracle.bought == {"pair-0", "pair-1", "pair-2"}


def test_foreign_pairs_are_refused_and_sell_nothing(preferences, pairs):
    oracle = ColumnOracle(preferences)
    with pytest.raises(UserError, match="no label for pair 'pair-9'"):
        oracle.label([pairs[0], pairs[9]])
    with pytest.raises(UserError, match="'pair-0' has other texts"):
        oracle.label([dataclasses.replace(pairs[0], first="something else")])
    assert not oracle.bought
    with pytest.raises(UserError, match="'pair-0' repeats"):
        ColumnOracle([preferences[0], preferences[0]])
