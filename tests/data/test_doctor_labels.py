"""Contradictions, cycles and agreement, against slow oracles."""

import itertools

import numpy as np
from clean_pairs import intake, pair
from hypothesis import given, settings
from hypothesis import strategies as st

from rmjax.data.doctor.labels import cycles, labels
from rmjax.data.doctor.pairs import Pairs

EDGES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 4)).filter(lambda e: e[1] != e[2]),
    min_size=1,
    max_size=9,
)


def records(edges):
    return [pair(f"question {q}", f"answer {a}", f"answer {b}", id=str(i)) for i, (q, a, b) in enumerate(edges)]


def has_cycle(edges, question) -> bool:
    """Whether some three to five answers of a question go round, by trying all."""
    better = {(a, b) for q, a, b in edges if q == question}
    return any(
        all(step in better for step in zip(ring, (*ring[1:], ring[0]), strict=True))
        for size in (3, 4, 5)
        for ring in itertools.permutations(range(5), size)
    )


@given(EDGES)
@settings(max_examples=150, deadline=None)
def test_cycles_are_those_of_brute_force(edges):
    found = cycles(Pairs(intake(records(edges))))
    truth = [q for q in (0, 1) if has_cycle(edges, q)]
    cases = found[0].cases if found else ()
    assert sorted({edges[c.members[0]][0] for c in cases}) == truth
    for c in cases:
        ring = [edges[i] for i in c.members]
        assert len(ring) >= 3 and len({a for _, a, _ in ring}) == len(ring)  # a simple cycle
        for (_, _, worse), (_, better, _) in zip(ring, (*ring[1:], ring[0]), strict=True):
            assert worse == better


@given(EDGES)
@settings(max_examples=100, deadline=None)
def test_contradictions_and_agreement(edges):
    found = {f.kind: f for f in labels(Pairs(intake(records(edges))))}
    both = {frozenset((q, a, b) for q, a, b in [e]) for e in edges if (e[0], e[2], e[1]) in edges}
    assert ("contradiction" in found) == bool(both)
    again = [
        (x, y) for x, y in itertools.combinations(edges, 2) if x[0] == y[0] and {*x[1:]} == {*y[1:]}
    ]  # all comparisons of two labels of the same pair
    assert ("agreement" in found) == bool(again)
    if again:
        assert (found["agreement"].count, found["agreement"].of) == (sum(x == y for x, y in again), len(again))


def test_votes_that_agree():
    voted = [pair("a", "b", "c", votes={"chosen": 3, "rejected": 1}), pair("d", "e", "f", votes={"chosen": 1})]
    finding = {f.kind: f for f in labels(Pairs(intake(voted)))}["votes"]
    assert (finding.count, finding.of) == (3, 6)
    assert finding.detail.startswith("agreement 50.0 % (5.5 to 94.5)")  # Wilson's of one pair, not of six


def test_a_cycle_of_three_is_shown_in_its_order():
    found = cycles(Pairs(intake(records([(0, 0, 1), (0, 3, 4), (0, 2, 0), (0, 1, 2)]))))
    assert found[0].count == 3 and np.roll(found[0].cases[0].members, 0).tolist() == [0, 3, 2]
