"""The probe finds a style that is there, and none where there is none."""

import random

import numpy as np
import pytest

from rmjax.evaluation.style_leak import style_leak
from rmjax.records import Message
from rmjax.refine.conditional import pair
from rmjax.refine.writers import Item

WORDS = ["ash", "beech", "cedar", "elm", "fir", "oak", "pine", "yew"]


def synthetic(n, *, mark="", longer=0, balanced=True, seed=0):
    """Pairs of random words; an edit holds `mark`, a better one `longer` words more."""
    rng, out = random.Random(seed), []
    for i in range(n):
        better = i % 2 == 0 or not balanced
        say = lambda k: " ".join(rng.choice(WORDS) for _ in range(k))
        edit = f"{say(8 + longer * better)} {mark}".strip()
        texts = (edit, say(8)) if better else (say(8), edit)
        origin = {"direction": "better" if better else "worse", "edited": "chosen" if better else "rejected"}
        out.append(pair(Item(id=f"q{i}", prompt=(Message("user", f"q{i}"),)), *texts, method="m", **origin))
    return out


def test_nothing_is_found_where_there_is_nothing():
    found = style_leak(synthetic(300))
    for i in (found.edited, found.label, found.longer):
        assert i.low < 0.5 < i.high and i.n == 300
    assert found.length.low < 0 < found.length.high


def test_a_balanced_mark_tells_the_edit_and_not_the_label():
    found = style_leak(synthetic(300, mark="indeed"))
    assert found.edited.low > 0.95
    assert found.label.high < 0.6  # it can only be unlearnt: the mark is on either side as often


def test_an_unbalanced_mark_tells_the_label():
    found = style_leak(synthetic(100, mark="indeed", balanced=False))
    assert found.label.low > 0.9 and found.length is None


def test_length_goes_with_the_label():
    pairs = synthetic(200, longer=6)
    found = style_leak(pairs)
    edit = lambda p: (p.chosen, p.rejected) if p.meta["origin"]["edited"] == "chosen" else (p.rejected, p.chosen)
    difference = [len(edit(p)[0]) - len(edit(p)[1]) for p in pairs]
    label = [p.meta["origin"]["direction"] == "better" for p in pairs]
    assert found.length.value == pytest.approx(np.corrcoef(difference, label)[0, 1])
    assert found.length.low > 0.5
    share = sum((len(p.chosen) > len(p.rejected)) + 0.5 * (len(p.chosen) == len(p.rejected)) for p in pairs) / 200
    assert found.longer.value == share


def test_too_few_pairs_or_no_edits_say_nothing():
    found = style_leak(synthetic(19))
    assert found.edited is None and found.label is None and found.longer.n == 19
    plain = [pair(Item(id=f"q{i}", prompt=(Message("user", f"q{i}"),)), "a b", "c", method="rlaif") for i in range(30)]
    found = style_leak(plain)
    assert found.edited is None and found.length is None and found.label.value == 1.0
    assert style_leak([]).longer is None and "not known" in found.rich().columns[1]._cells
