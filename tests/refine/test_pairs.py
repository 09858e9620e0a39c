"""Pairs, weights and groups against slow loops in float64."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judgment_factory import build

from rmjax.refine.levels import graded
from rmjax.refine.pairs import by_prompt, gap, groups, item_of, pairs, softplus_weight, weighted
from rmjax.refine.perplexity import given_prompt

WEIGHTS = dict(weights="softplus", grade="signed", alpha=1.0, normalise="none")


def grade(run, **settings):
    return graded(
        run, given_prompt(run), **dict(score="perplexity", tau=10.0, threshold=0.5, grade="signed") | settings
    )


def make(run, *, policy="all", unparsed=False, seed=0, **settings):
    return pairs(grade(run, **settings), policy=policy, unparsed=unparsed, seed=seed)


@st.composite
def runs(draw):
    """Judgments of a few items in both orders, in any order of arrival."""
    spec = draw(
        st.lists(
            st.tuples(
                st.sampled_from("xyz"),
                st.sampled_from("AB"),
                st.sampled_from(["A", "B", "tie", None]),
                st.floats(1.0, 30.0),
            ),
            max_size=24,
        )
    )
    return [build(item, slot, v, index=i, ppl=ppl) for i, (item, slot, v, ppl) in enumerate(spec)]


@pytest.mark.parametrize(
    ("alpha", "gap", "weight"),
    [
        *(
            (1, g, w)
            for g, w in [
                (0, 0.6931),
                (0.25, 0.8259),
                (0.5, 0.9741),
                (0.75, 1.1369),
                (1, 1.3133),
                (1.5, 1.7014),
                (2, 2.1269),
            ]
        ),
        (2, 0.5, 1.3133),
        (2, 1, 2.1269),
    ],
)
def test_worked_weights(alpha, gap, weight):
    assert softplus_weight(gap, alpha) == pytest.approx(weight, abs=5e-5)


def test_weights_stay_finite_at_any_slope():
    assert softplus_weight(2.0, 1e4) == pytest.approx(2e4) and softplus_weight(-2.0, 1e4) == 0.0


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans())
def test_all_pairs_are_the_loop(data, unparsed):
    run = data.draw(runs())
    found = [(p.accepted.judgment, p.rejected.judgment) for p in make(run, unparsed=unparsed)]
    slow = [
        (a, r)
        for a in run
        for r in run
        if a.item == r.item
        and a.slot == r.slot
        and a.verdict == a.slot
        and (r.verdict != r.slot if r.verdict else unparsed)
    ]
    assert sorted(found, key=repr) == sorted(slow, key=repr)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(["all", "one"]))
def test_pairs_never_cross_items_or_orders(data, policy):
    for p in make(data.draw(runs()), policy=policy, unparsed=True):
        a, r = p.accepted.judgment, p.rejected.judgment
        assert a.prompt == r.prompt and (a.item, a.slot) == (r.item, r.slot)
        assert a.correct is True and r.correct is not True


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 3))
def test_one_pair_is_the_earliest(data, seed):
    run = data.draw(runs())
    found = {p.accepted.judgment.item: p for p in make(run, policy="one", seed=seed)}
    for item in "xyz":
        when = {}
        for slot in "AB":
            of = [j for j in run if (j.item, j.slot) == (item, slot) and j.verdict]
            right, wrong = ([j.index for j in of if j.correct is c] for c in (True, False))
            if right and wrong:
                when[slot] = (max(min(right), min(wrong)), min(right), min(wrong))
        assert (item in found) == bool(when)
        if when:
            a, r = found[item].accepted.judgment, found[item].rejected.judgment
            assert (max(a.index, r.index), a.index, r.index) == when[a.slot]
            assert when[a.slot][0] == min(w[0] for w in when.values())


def test_ties_between_orders_are_drawn_by_item(judgment):
    run = [
        judgment(f"{c}{n}", s, v, index=i) for c in "abcd" for n in range(50) for s in "AB" for i, v in enumerate("AB")
    ]
    slots = lambda seed: [p.accepted.judgment.slot for p in make(run, policy="one", seed=seed)]
    assert len(slots(0)) == 200 and slots(0) == slots(0) != slots(1)
    assert 70 < slots(0).count("A") < 130


def test_hinted_judgments_come_last(judgment):
    run = [
        judgment("x", "A", "B", index=0, hint="B"),
        judgment("x", "A", "A", index=0),
        judgment("x", "A", "B", index=5),
    ]
    (found,) = make(run, policy="one")
    assert found.rejected.judgment.index == 5 and len(make(run)) == 2


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.sampled_from(["signed", "unsigned", "levels"]),
    st.sampled_from(["none", "run", "item"]),
    st.floats(0, 5),
)
def test_weights_are_the_loop(data, kind, normalise, alpha):
    made = make(data.draw(runs()), unparsed=True, grade=kind)
    found = [p.weight for p in weighted(made, weights="softplus", grade=kind, alpha=alpha, normalise=normalise)]
    levels = {"SA": 2, "WA": 1, "WR": -1, "SR": -2, "unparsed": -1}

    def raw(p):
        score = lambda g: 0.0 if g.perplexity is None else math.exp(-g.perplexity / 10)
        a, r = score(p.accepted), score(p.rejected)
        g = {"signed": a + r, "unsigned": abs(a - r), "levels": levels[p.accepted.level] - levels[p.rejected.level]}[
            kind
        ]
        return math.log(1 + math.exp(alpha * g))

    item = lambda p: p.accepted.judgment.item
    raws, sums = [raw(p) for p in made], {}
    for p, w in zip(made, raws, strict=True):
        sums[item(p)] = sums.get(item(p), 0.0) + w
    for p, w, r in zip(made, found, raws, strict=True):
        divisor = {"none": 1.0, "run": sum(raws) / len(made), "item": sums[item(p)] * len(sums) / len(made)}[normalise]
        assert w == pytest.approx(r / divisor, rel=1e-9)
    if normalise != "none" and made:
        assert np.mean(found) == pytest.approx(1.0)


def test_weights_off(judgment):
    run = [judgment("x", "A", v, index=i, ppl=1 + i) for i, v in enumerate("AABB")]
    run += [judgment("y", "B", v, index=i) for i, v in enumerate("AB")]
    off = lambda normalise: [
        p.weight for p in weighted(make(run), **WEIGHTS | {"weights": "off", "normalise": normalise})
    ]
    assert off("none") == off("run") == [1.0] * 5
    assert off("item") == pytest.approx([5 / 8] * 4 + [5 / 2])


def test_strong_pairs_weigh_most_when_signed_and_least_when_unsigned(judgment):
    run = [judgment("x", "A", v, index=i, ppl=p) for i, (v, p) in enumerate([("A", 2), ("A", 20), ("B", 2), ("B", 20)])]
    gaps = {
        k: [gap(p, k) for p in make(run, grade=k)] for k in ("signed", "unsigned", "levels")
    }  # SA-SR SA-WR WA-SR WA-WR
    assert max(gaps["signed"]) == gaps["signed"][0] and min(gaps["signed"]) == gaps["signed"][3]
    assert gaps["unsigned"][0] == gaps["unsigned"][3] == 0.0
    assert gaps["levels"] == [4.0, 3.0, 3.0, 2.0]


def test_groups_hold_each_judgment_once(judgment):
    run = [judgment("x", "A", v, index=i) for i, v in enumerate("AAB")] + [
        judgment("x", "B", v, index=i) for i, v in enumerate("ABB")
    ]
    made = weighted(make(run), **WEIGHTS)
    a, b = groups(made)
    assert (a.id, b.id) == ("x|A", "x|B") and item_of(a) == item_of(b) == "x" and a.prompt == run[0].prompt
    assert [tuple(c) for c in a.completions] == [run[0].tokens, run[2].tokens, run[1].tokens]
    assert a.pairs == [(0, 1), (2, 1)] and a.weight == [p.weight for p in made[:2]]
    for group in (a, b):
        for completion, logp in zip(group.completions, group.ref_logps, strict=True):
            (j,) = [j for j in run if j.tokens == completion]
            assert logp == pytest.approx(float(np.sum(np.array(j.logps, np.float64))))


def test_equal_samples_are_one_candidate_and_keep_their_pairs(judgment):
    run = [judgment("x", "A", "A", index=0, tokens=(5, 6, 7)), judgment("x", "A", "A", index=1, tokens=(5, 6, 7))]
    run += [judgment("x", "A", "B", index=2, tokens=(5, 6, 8))]
    (group,) = groups(weighted(make(run), **WEIGHTS))
    assert group.completions == [(5, 6, 7), (5, 6, 8)]
    assert group.pairs == [(0, 1), (0, 1)] and len(group.weight) == 2 and len(group.ref_logps) == 2


def test_arrival_does_not_matter(judgment):
    run = [judgment(i, s, v, index=k) for i, s, (k, v) in itertools.product("xy", "AB", enumerate("ABBA"))]
    shuffled = random.Random(1).sample(run, len(run))
    by_id = lambda run: {g.id: g for g in groups(weighted(make(run), **WEIGHTS))}
    assert by_id(run) == by_id(shuffled)


def test_a_prompt_that_changed_on_the_way_is_refused(judgment):
    run = [judgment("x", "A", "A"), dataclasses.replace(judgment("x", "A", "B", index=1), prompt=(9,))]
    with pytest.raises(ValueError, match=r"'x'.*different prompts"):
        by_prompt(grade(run))
