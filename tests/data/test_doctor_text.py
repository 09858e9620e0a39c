"""Near duplicates and n-gram overlap against loops over sets of words."""

import itertools
import random

import numpy as np
import pytest
from clean_pairs import clean, found, intake, pair, prose
from hypothesis import given, settings
from hypothesis import strategies as st

from rmjax.data.doctor.duplicates import FEWEST, SHINGLE, similar
from rmjax.data.doctor.intake import Fault
from rmjax.data.doctor.overlap import LITTLE, overlap
from rmjax.data.doctor.pairs import Pairs
from rmjax.data.doctor.text import Vocabulary, grams, normalise


def runs(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.lower().replace(".", "").split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=7), min_size=1, max_size=6), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_grams_are_those_of_a_loop(rows, n):
    found = grams(Vocabulary().encode(" ".join(row) for row in rows), n, short=True)
    number: dict = {}
    for i, row in enumerate(rows):
        expected = [tuple(row[k : k + n]) for k in range(len(row) - n + 1)] or ([tuple(row)] if row else [])
        values = found.row(i).tolist()
        assert len(values) == len(expected)
        for value, words in zip(values, expected, strict=True):
            assert number.setdefault(words, value) == value
    assert len(set(number.values())) == len(number)  # different runs, different hashes


def test_near_duplicates_are_those_of_a_loop():
    rng = random.Random(3)
    texts = [prose(rng, 40) for _ in range(40)]
    for i in range(20):  # copies with one to twenty words changed
        words = texts[i].split()
        for k in rng.sample(range(40), 1 + i):
            words[k] = "changed"
        texts.append(" ".join(words))
    sets = [runs(t, SHINGLE) for t in texts]
    jaccard = lambda a, b: len(a & b) / len(a | b)
    close = {(i, j) for i, j in itertools.combinations(range(60), 2) if jaccard(sets[i], sets[j]) >= 0.8}
    assert 2 <= len(close) <= 18
    found = similar(grams(Vocabulary().encode(texts), SHINGLE, short=True), range(60))
    assert {tuple(g) for g in found} == close  # every original has one copy, so groups are pairs
    assert similar(grams(Vocabulary().encode(["same few words"] * 3), SHINGLE, short=True), range(3)) == []
    assert FEWEST > 1


def test_overlap_is_that_of_a_loop():
    rng = random.Random(4)
    train, held = clean(30), clean(12, seed=1)
    for i in range(6):  # more and more of an evaluation prompt stands in a training answer
        part = " ".join(held[i].prompt[0].content.split()[: 4 * (i + 1)])
        train.append(pair(prose(rng, 25), f"{prose(rng, 10)} {part} {prose(rng, 10)}", prose(rng, 30), id=f"leak-{i}"))
    n = 5
    ours = set().union(*(runs(t, n) for p in train for t in (p.prompt[0].content, p.chosen, p.rejected)))
    share = [len(runs(p.prompt[0].content, n) & ours) / len(runs(p.prompt[0].content, n)) for p in held]
    findings = overlap(Pairs(intake(train)), {"test": intake(held)}, n=n)
    assert [f.kind for f in findings] == ["overlap-prompt"]
    assert findings[0].count == sum(s >= LITTLE for s in share) and findings[0].severity == "error"
    told = {c.ids[0]: (c.ids[1], c.detail) for c in findings[0].cases}
    for i, p in enumerate(held):
        if share[i] >= LITTLE:
            assert told[p.id][0] == f"leak-{i}" and told[p.id][1].startswith(f"{100 * share[i]:.0f} %")


def test_overlap_of_answers_and_of_short_prompts():
    held = [pair("Who?", prose(random.Random(8), 30), "No.", id="held"), *clean(5, seed=1)]
    train = [*clean(20), pair("why", "because", held[0].chosen, id="leak"), pair(" WHO? ", "he", "she", id="short")]
    found_ = found(train, held)
    assert found_["overlap-answers"].cases[0].ids == ("held", "leak")
    assert found_["overlap-prompt"].cases[0].ids == ("held", "short") and found_["overlap-prompt"].count == 1


def test_a_leaked_prompt_with_many_pairs_is_no_boilerplate():
    """As of a list of ranked answers: what the pairs of one prompt share is that prompt's own."""
    prompt = clean(1, seed=6)[0].prompt[0].content
    held = [pair(prompt, p.chosen, p.rejected, id=p.id) for p in clean(15, seed=1)]
    finding = found([*clean(20), pair(prompt, "yes", "no", id="leak")], held)["overlap-prompt"]
    assert finding.count == 15 and finding.cases[0].ids[1] == "leak"


def test_evaluation_lines_that_cannot_be_read_are_told():
    held = intake(clean(3, seed=1), faults=[Fault("test.jsonl:4", "no answer")])
    (finding,) = overlap(Pairs(intake(clean(5))), {"test": held}, n=13)
    assert (finding.kind, finding.count, finding.of) == ("overlap-unreadable", 1, 4)


def test_what_many_items_share_is_nobodys_own():
    rule = prose(random.Random(9), 30)
    held = [pair(f"{rule} {p.prompt[0].content}", p.chosen, p.rejected, id=p.id) for p in clean(40, seed=1)]
    train = [pair(f"{rule} {p.prompt[0].content}", p.chosen, p.rejected, id=p.id) for p in clean(40)]
    assert "overlap-prompt" not in found(train, held)


@pytest.mark.parametrize(("a", "b"), [("A  b\n", "a B"), ("ﬁne", "FINE"), ("Ａ", "a"), ("straße", "STRASSE")])
def test_normalised(a, b):
    assert normalise(a) == normalise(b)


def test_vocabulary_numbers_are_shared():
    words = Vocabulary()
    assert np.array_equal(words.encode(["a b c"]).values, words.encode(["A, b; C!"]).values)
