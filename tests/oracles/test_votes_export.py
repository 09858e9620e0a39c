"""Votes of several people as records that training reads."""

import pytest

from rmjax import jsonl
from rmjax.data.sources import read_preferences
from rmjax.oracles.export import preferences
from rmjax.records import Vote


def votes(*rows):
    """Rows of choices, one a pair: "12t?" are four people's."""
    names = {"1": "first", "2": "second", "t": "tie", "?": "unknown"}
    return [
        Vote(item=f"pair-{i}", choice=names[c], by=f"person {j}")
        for i, row in enumerate(rows)
        for j, c in enumerate(row)
    ]


def test_the_majority_is_chosen(pairs, tmp_path):
    made = preferences(pairs, votes("1", "22", "12", "t", "1?", "??", "1tt", "1t", "221t", ""))
    found = {p.id: (p.chosen.split()[0], p.tie, tuple(p.votes.values())) for p in made.records}
    assert found == {
        "pair-0": ("first", False, (1, 0, 0)),
        "pair-1": ("second", False, (2, 0, 0)),
        "pair-2": ("first", True, (1, 1, 0)),
        "pair-3": ("first", True, (0, 0, 1)),
        "pair-4": ("<b>bold</b>", False, (1, 0, 0)),
        "pair-6": ("first", True, (1, 0, 2)),
        "pair-7": ("first", False, (1, 0, 1)),
        "pair-8": ("second", False, (2, 1, 1)),
    }
    assert (made.unknown, made.unlabelled, made.ties) == (1, 1, 3)
    assert [p.smooth for p in made.records] == [0, 0, 0.5, 0.5, 0, 0.5, 0.25, 0.375]
    jsonl.write(tmp_path / "preferences.jsonl", made.records)
    assert read_preferences(tmp_path / "preferences.jsonl").records == made.records


def test_a_vote_on_another_pair(pairs):
    with pytest.raises(ValueError, match="not among the pairs"):
        preferences(pairs[1:], votes("1"))
