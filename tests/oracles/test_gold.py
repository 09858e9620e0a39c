"""The oracle of a world: truth, ties, and noise that belongs to the pair."""

import dataclasses

import pytest

from rmjax.errors import UserError
from rmjax.oracles.gold import GoldOracle
from rmjax.records import Message, Pair
from rmjax.worlds.judge_world import JudgeWorld


def length(prompt, answer):
    return float(len(answer))


def many(n):
    return [Pair(prompt=(Message("user", "?"),), first="long one", second="short", id=str(i)) for i in range(n)]


def test_it_names_the_answer_of_higher_reward(pairs):
    pair = dataclasses.replace(pairs[0], first="a", second="bb")
    turned = dataclasses.replace(pair, first="bb", second="a")
    equal = dataclasses.replace(pair, second="b")
    votes = GoldOracle(length).label([pair, turned, equal])
    assert [v.choice for v in votes] == ["second", "first", "tie"]
    assert [v.item for v in votes] == [pair.id] * 3 and votes[0].by == "gold"


def test_noise_is_the_pair_s_own():
    oracle, pairs = GoldOracle(length, noise=0.3, seed=1), many(1000)
    votes = {v.item: v.choice for v in oracle.label(pairs)}
    wrong = sum(choice == "second" for choice in votes.values())
    assert 250 < wrong < 350
    assert {v.item: v.choice for v in oracle.label(pairs[::-1][:10])} == {p.id: votes[p.id] for p in pairs[-10:]}
    turned = oracle.label([dataclasses.replace(p, first=p.second, second=p.first) for p in pairs])
    assert all((v.choice == "first") == (votes[v.item] == "second") for v in turned)
    assert [v.choice for v in GoldOracle(length, noise=0.3, seed=2).label(pairs)] != list(votes.values())


def test_a_tie_is_never_wrong():
    even = [dataclasses.replace(p, second=p.first) for p in many(50)]
    assert {v.choice for v in GoldOracle(length, noise=0.5).label(even)} == {"tie"}


def test_the_judge_world_s_truth():
    world = JudgeWorld()
    items = world.preferences(8, split="test")
    oracle = GoldOracle(lambda prompt, answer: world.gold(prompt[-1].content, answer))
    pairs = [Pair(prompt=p.prompt, first=p.chosen, second=p.rejected, id=p.id) for p in items]
    assert {v.choice for v in oracle.label(pairs)} == {"first"}


def test_noise_out_of_range():
    with pytest.raises(UserError, match=r"noise=0\.6"):
        GoldOracle(length, noise=0.6)
