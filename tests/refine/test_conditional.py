"""Labels drawn in balance, tags read whatever is around them, every guard counted."""

import collections
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from rmjax.errors import UserError
from rmjax.records import Message
from rmjax.refine.aspects import HELPFULNESS
from rmjax.refine.conditional import (
    REASONS,
    Drop,
    Guards,
    counts,
    direction_of,
    directions,
    drawn_aspects,
    drop_table,
    extract,
    listed,
    pair,
    thinned,
)
from rmjax.refine.edit_prompts import EDIT
from rmjax.refine.writers import Item

FIRST = "an answer of forty characters, give or so"


@given(st.integers(0, 60), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_half_of_the_labels_are_better_to_one_whatever_the_order(n, seed):
    ids = [f"item {i}" for i in range(n)]
    found = directions(ids, seed=seed)
    number = collections.Counter(found.values())
    assert abs(number["better"] - number["worse"]) == n % 2
    assert found == directions(random.Random(seed).sample(ids, n), seed=seed)


def test_labels_are_drawn():
    """Each item gets either label over seeds, the odd one too, and neighbours are independent."""
    found = [directions(["a", "b", "c"], seed=seed) for seed in range(200)]
    share = lambda fits: sum(map(fits, found)) / len(found)
    for id in "abc":
        assert 0.4 < share(lambda f, id=id: f[id] == "better") < 0.6
    assert 0.4 < share(lambda f: list(f.values()).count("better") == 2) < 0.6
    assert 0.23 < share(lambda f: f["a"] == f["b"]) < 0.43  # 1/3: two labels of three are alike


def test_aspects_are_drawn_evenly_and_in_the_lists_order():
    found = [drawn_aspects(HELPFULNESS, f"q{i}", count=2, seed=0) for i in range(400)]
    assert all(HELPFULNESS.index(a) < HELPFULNESS.index(b) for a, b in found)
    number = collections.Counter(a.name for two in found for a in two)
    assert set(number) == {a.name for a in HELPFULNESS} and all(160 < n < 240 for n in number.values())
    assert found[7] == drawn_aspects(HELPFULNESS, "q7", count=2, seed=0)


@given(st.text(), st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_what_stands_between_the_tags_is_read_whatever_is_around_it(before, answer, after):
    """Unless what is around it holds tags itself: an open one before it does no harm."""
    text = f"{before}<response></response><response><response>{answer}</response>{after}"
    if not any(mark in part for part in (before, answer, after) for mark in ("<response>", "</response>")):
        assert extract(text, EDIT.response) == answer.strip()


@given(st.text(alphabet="<>/responsacti \n"))
@settings(max_examples=300, deadline=None)
def test_reading_never_fails(text):
    found = Guards().read(text, EDIT.response, EDIT.aspects)
    assert isinstance(found, tuple) or found in REASONS
    if isinstance(found, tuple):
        assert "</response>" not in found[0]


def test_the_last_answer_counts_and_a_cut_one_does_not():
    twice = "I put it in <response>these tags</response>.\n<aspects>honesty</aspects><response>the answer</response>"
    assert Guards().read(twice, EDIT.response, EDIT.aspects) == ("the answer", "honesty")
    assert Guards().read("<aspects>honesty</aspects><response>the ans", EDIT.response, EDIT.aspects) == "tag missing"
    assert Guards().read(f"{twice[:50]} <response>the ans", EDIT.response, EDIT.aspects) == "tag missing"
    named = f"I end with a <response> tag. {twice[-60:]}"
    assert Guards().read(named, EDIT.response, EDIT.aspects) == ("the answer", "honesty")
    assert Guards().read("<response>the answer</response>", EDIT.response, EDIT.aspects) == "aspect tag missing"
    assert Guards().read(" whole \n", "") == ("whole", "")


@pytest.mark.parametrize(
    ("text", "names", "others"),
    [
        ("Honesty, helpfulness", ["honesty", "helpfulness"], []),
        ("helpfulness; honesty; honesty", ["honesty", "helpfulness"], []),
        ("1. **Instruction_Following**: says what\n2) truthfulness", ["instruction following", "truthfulness"], []),
        ("- honesty\n- charm", ["honesty"], ["charm"]),
        ("honest", [], ["honest"]),
        ("", [], []),
    ],
)
def test_names_that_were_picked(text, names, others):
    assert listed(text, HELPFULNESS) == (names, others)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("another answer, of much the same length", None),
        ("  ", "empty"),
        (f" {FIRST}\n", "equal"),
        ("I\u2019m sorry, but I can't write that.", "refusal"),
        ("Unfortunately, I am unable to write that.", "refusal"),
        ("It is a pity, but he said: I can't swim.", None),
        ("I'm so sorry to hear that; what happened?", None),
        ("x" * 11, "length ratio"),
        ("x" * 13, None),
        ("x" * 123, None),
        ("x" * 124, "length ratio"),
    ],
)
def test_guards(second, reason):
    assert len(FIRST) == 41
    assert Guards().fault(FIRST, second) == reason


def test_an_answer_may_refuse_where_that_can_be_right():
    refusal = "I'm sorry, I can't help with that here."
    lenient = Guards(refusing_answers="keep")
    assert lenient.fault(FIRST, refusal) is None and lenient.fault_of_first(refusal) is None
    assert (
        Guards().fault_of_first(refusal) == "response 1 refusal" and Guards().fault_of_first(" ") == "response 1 empty"
    )
    assert lenient.read(refusal, EDIT.response, EDIT.aspects) == "refusal"  # of the writing itself


def made(directions):
    item = lambda i: Item(id=f"q{i}", prompt=(Message("user", f"q{i}"),))
    return [pair(item(i), "a", "b", method="m", direction=d) for i, d in enumerate(directions)]


@pytest.mark.parametrize(
    ("better", "worse", "left"), [(7, 3, (4, 3)), (2, 9, (2, 3)), (3, 3, (3, 3)), (4, 3, (4, 3)), (5, 0, (1, 0))]
)
def test_thinning_leaves_as_many_of_either_to_one(better, worse, left):
    pairs = made(["better"] * better + ["worse"] * worse)
    kept, drops = thinned(pairs, seed=0)
    found = [direction_of(p) for p in kept]
    assert (found.count("better"), found.count("worse")) == left
    assert len(kept) + len(drops) == len(pairs) and {d.reason for d in drops} <= {"balance"}
    again, _ = thinned(pairs[::-1], seed=0)
    assert {p.id for p in again} == {p.id for p in kept}


def test_the_table_counts_every_drop():
    drops = [Drop(item=str(i), reason=r, direction=d) for i, (r, d) in enumerate([(r, "worse") for r in REASONS])]
    drops += [Drop(item="x", reason="equal", direction="better"), Drop(item="y", reason="prompt too long")]
    found = counts(drops)
    assert list(found) == list(REASONS)
    assert found["equal"] == {"better": 1, "worse": 1} and found["prompt too long"] == {"worse": 1, "": 1}
    table = drop_table(made(["better", "worse"]), drops)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    assert text.splitlines()[-1].split() == ["begun", "2", "14", "1", "17", "100.0%"]
    assert all(reason in text for reason in REASONS)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Guards(shortest=1.5), "guards.shortest=1.5"),
        (lambda: Guards(longest=0.5), "guards.longest=0.5"),
        (lambda: Guards(refusals=("(",)), "guards.refusals: '(' is not a regular expression"),
        (lambda: drawn_aspects(HELPFULNESS, "q", count=9, seed=0), "method.sampled=9: there are 4 aspects"),
    ],
)
def test_mistakes(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
