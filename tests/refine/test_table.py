"""What was made, counted; AUC against a double loop."""

import dataclasses
import io
import json

import pytest
import rich.console
from hypothesis import given
from hypothesis import strategies as st
from judgment_factory import build

from rmjax.refine.levels import graded
from rmjax.refine.pairs import by_prompt, pairs
from rmjax.refine.perplexity import given_prompt
from rmjax.refine.table import auc, auc_within, table


def grade(run):
    return graded(run, given_prompt(run), score="perplexity", tau=10.0, threshold=0.5, grade="signed")


def make(run, *, unparsed=False, retried=0):
    grades = grade(run)
    return table(grades, by_prompt(grades), pairs(grades, policy="all", unparsed=unparsed, seed=0), retried)


def test_counts_and_reasons(judgment):
    run = [judgment("a", "A", v, index=i) for i, v in enumerate(["A", "A", "B", None])]  # two pairs
    run += [judgment("b", s, s) for s in "AB"]  # all right
    run += [judgment("c", s, "A", ppl=20.0) for s in "AB"]  # right and wrong in different orders
    run += [judgment("d", "A", v, index=i) for i, v in enumerate(["B", "tie"])]  # all wrong
    run += [judgment("e", "B", None, hint="A")]
    found = make(run, retried=2)
    assert found.levels == {"SA": 4, "WA": 1, "SR": 3, "WR": 1, "unparsed": 2}
    assert (found.items, found.judgments, found.pairs, found.groups, found.usable) == (5, 11, 2, 1, 1)
    assert found.without == {
        "all right": 1,
        "right and wrong in different slot orders only": 1,
        "all wrong": 1,
        "nothing parsed": 1,
    }
    assert (found.retried, found.hinted, found.weight_spread) == (2, 1, 0.0)
    assert found.perplexity["50 %"] == pytest.approx(2.0) and found.perplexity["99 %"] == pytest.approx(20.0)
    json.dumps(dataclasses.asdict(found), allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("AB"), st.integers(1, 6)), max_size=20))
def test_auc_is_the_double_loop(spec):
    run = [build(item, "A", v, index=i, ppl=float(p)) for i, (item, v, p) in enumerate(spec)]
    grades = grade(run)
    beat = lambda a, r: 0.5 if a == r else float(a < r)

    def slow(within):
        wins = [
            beat(a[2], r[2]) for a in spec for r in spec if a[1] == "A" and r[1] == "B" and (a[0] == r[0] or not within)
        ]
        return pytest.approx(sum(wins) / len(wins)) if wins else None

    assert auc(grades) == slow(within=False)
    assert auc_within(by_prompt(grades).values()) == slow(within=True)


def test_the_rich_table_shows_every_count(judgment):
    run = [judgment("a", "A", v, index=i) for i, v in enumerate(["A", "A", "B", None])]
    run += [judgment("b", s, s) for s in "AB"]
    console = rich.console.Console(file=io.StringIO(), width=100)
    console.print(make(run, retried=3).rich())
    text = console.file.getvalue()
    for piece in ("strong accept (SA)", "unparsed", "2 in 1 prompts", "without: all right", "from retries", "AUC"):
        assert piece in text
    assert "hints" not in text


def test_a_table_of_nothing_parsed(judgment):
    found = make([judgment("a", "A", None)])
    assert (found.pairs, found.auc, found.auc_within, found.weight_spread, found.perplexity) == (
        0,
        None,
        None,
        None,
        {},
    )
    rich.console.Console(file=io.StringIO()).print(found.rich())
