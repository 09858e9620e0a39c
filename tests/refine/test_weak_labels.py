"""Labelling functions: measures worked out by hand, thresholds, abstentions, the user's words."""

import math

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.records import Message, Pair
from rmjax.refine import weak_labels
from rmjax.refine.weak_labels import FUNCTIONS, By, flesch, keywords, matches, numbers, syllables, type_token, votes


def pair(first, second, number=0):
    return Pair(prompt=(Message("user", str(number)),), first=first, second=second)


def test_measures_by_hand():
    assert type_token("The cat saw the cat.") == 3 / 5 and math.isnan(type_token("42 !"))
    assert numbers("1,000.5 and 3 of 4th") == 3 and numbers("none") == 0
    assert [syllables(w) for w in ("cat", "table", "made", "see", "reading", "hmm")] == [1, 2, 1, 1, 2, 1]
    # 7 words, 2 sentences, 8 syllables
    assert flesch("The cat sat. It was a table.") == pytest.approx(206.835 - 1.015 * 3.5 - 84.6 * 8 / 7)
    assert math.isnan(flesch("..."))


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("longer", "a" * 30, "a" * 10),
        (
            "harder to read",
            "Interminable deliberation invariably complicates.",
            "The dog ran up the hill to the old barn.",
        ),
        ("less varied words", "go go go go stop", "go and then do stop"),
        ("more numbers", "1 2 3 4", "1"),
    ],
)
def test_each_function_speaks_and_its_opposite_contradicts(name, first, second):
    opposite = {
        "longer": "shorter",
        "harder to read": "easier to read",
        "less varied words": "more varied words",
        "more numbers": "fewer numbers",
    }[name]
    if name == "harder to read":
        gap = flesch(second) - flesch(first)
        assert FUNCTIONS[name](pair(first, second)) == 0 and gap > 50  # too far apart is no sign of anything
        first = "The animals ran over the hill to the old barn."
        assert 5 <= flesch(second) - flesch(first) <= 50
    for f, sign in ((FUNCTIONS[name], 1), (FUNCTIONS[opposite], -1)):
        assert f(pair(first, second)) == sign and f(pair(second, first)) == -sign
        assert f(pair(first, first)) == 0


def test_thresholds_are_inclusive():
    assert [FUNCTIONS["longer"](pair("a" * n, "")) for n in (19, 20)] == [0, 1]
    assert [FUNCTIONS["more numbers"](pair("7 " * n, "")) for n in (2, 3)] == [0, 1]
    near = By("near", len, 2, 4)
    assert [near(pair("a" * n, "")) for n in (1, 2, 4, 5)] == [0, 1, 1, 0]
    assert FUNCTIONS["less varied words"](pair("12", "a a a")) == 0  # no word, no measure


def test_words_and_patterns_of_the_user():
    bad = keywords("bad", ["stupid", "a.b"])
    assert bad(pair("You are STUPID.", "Fine.")) == -1 and bad(pair("Fine.", "stupid")) == 1
    assert bad(pair("stupidity axb", "fine")) == 0 and bad(pair("a.b", "fine")) == -1
    assert keywords("end", ["c++"])(pair("c++ is old", "c is")) == -1
    good = matches("thanks", [r"thank(s| you)"], better=True)
    assert good(pair("Thank you, thanks", "thanks")) == 1
    with pytest.raises(UserError, match=r"'x': pattern '\(' cannot be read"):
        matches("x", ["("])
    with pytest.raises(UserError, match="'x': no pattern"):
        keywords("x", [])
    with pytest.raises(UserError, match=r"'x': 'a\*' matches the empty text"):
        matches("x", ["a*"])
    with pytest.raises(UserError, match="matches the empty text"):
        keywords("x", ["fine", ""])


def test_votes():
    pairs = [pair("a" * 30, "1 2 3", 0), pair("b", "b", 1)]
    named = [FUNCTIONS[n] for n in ("longer", "more numbers")]
    assert votes(pairs, named).tolist() == [[1, -1], [0, 0]]
    assert votes([], named).shape == (0, 2)
    with pytest.raises(UserError, match="each once"):
        votes(pairs, named[:1] * 2)
    with pytest.raises(UserError, match="at least one"):
        votes(pairs, [])

    class Odd:
        name = "odd"

        def __call__(self, pair):
            return 2

    with pytest.raises(UserError, match=f"'odd': 2 for pair {pairs[0].id!r}"):
        votes(pairs, [Odd()])
    assert set(weak_labels.PAPER) <= FUNCTIONS.keys() and not np.isnan([f.least for f in FUNCTIONS.values()]).any()
