"""The purse: what is bought is counted, kept and never paid for twice."""

import dataclasses

import pytest

from rmjax.errors import UserError
from rmjax.oracles.budget import Budget
from rmjax.records import Vote


class Shop:
    """Says "first", remembers what was paid for, and breaks when it is told to."""

    name = "shop"

    def __init__(self, breaks_at=None):
        self.sold, self.breaks_at = [], breaks_at

    def label(self, pairs):
        if len(self.sold) == self.breaks_at:
            raise KeyboardInterrupt
        self.sold += [p.id for p in pairs]
        return [Vote(item=p.id, choice="first", by=self.name) for p in pairs]


def test_it_counts_and_refuses_above(pairs):
    shop = Shop()
    bought = Budget(shop, 4)
    assert [v.item for v in bought.label([pairs[1], pairs[0], pairs[1]])] == ["pair-1", "pair-0", "pair-1"]
    assert (bought.spent, bought.left, shop.sold) == (2, 2, ["pair-1", "pair-0"])
    with pytest.raises(UserError, match="budget of 4 labels: 2 are bought and 3 more are asked for; ask for 2 at most"):
        bought.label(pairs[1:5])
    assert len(shop.sold) == 2
    bought.label(pairs[:4])
    assert (bought.left, shop.sold) == (0, ["pair-1", "pair-0", "pair-2", "pair-3"])
    bought.label(pairs[:4])  # what is bought is free


def test_a_broken_run_goes_on_and_pays_for_nothing_twice(pairs, tmp_path):
    path = tmp_path / "votes.jsonl"
    shop = Shop(breaks_at=3)
    first = Budget(shop, 6, path=path)
    with pytest.raises(KeyboardInterrupt):
        first.label(pairs[:6])
    with pytest.raises(UserError, match="another run is writing votes here"):
        Budget(Shop(), 6, path=path)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"item": "pair-3", "cho')  # killed in the middle of a line
    again = Shop()
    bought = Budget(again, 6, path=path)
    assert bought.spent == 3
    votes = bought.label(pairs[:6])
    assert again.sold == ["pair-3", "pair-4", "pair-5"]
    assert [v.item for v in votes] == [p.id for p in pairs[:6]] and {v.choice for v in votes} == {"first"}
    bought.close()
    assert len(path.read_bytes().splitlines()) == 6


def test_parts(pairs):
    class Counting(Shop):
        sizes = ()

        def label(self, pairs):
            self.sizes += (len(pairs),)
            return super().label(pairs)

    shop = Counting()
    Budget(shop, 10, part=4).label(pairs)
    assert shop.sizes == (4, 4, 2)


def test_what_it_refuses(pairs, tmp_path):
    path = tmp_path / "votes.jsonl"
    bought = Budget(Shop(), 5, path=path)
    bought.label(pairs[:3])
    with pytest.raises(UserError, match="bought before with other texts"):
        bought.label([dataclasses.replace(pairs[0], second="other")])
    bought.close()
    with pytest.raises(UserError, match="holds 3 bought votes, above budget=2"):
        Budget(Shop(), 2, path=path)
    other = Shop()
    other.name = "another"
    with pytest.raises(UserError, match="holds votes by 'shop', not by 'another'"):
        Budget(other, 5, path=path)
    with pytest.raises(UserError, match="part=0"):
        Budget(Shop(), 5, part=0)
