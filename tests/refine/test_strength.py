"""Mean, spread, ranking, AUROC, bands and folds against hand-made numbers and slow counting."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmjax import jsonl
from rmjax.data.sources import read_preferences
from rmjax.errors import UserError
from rmjax.records import Message, Preference
from rmjax.refine import strength

DIFFERENCES = np.array([[-1.0, 2.0, 0.5], [-2.0, 4.0, -0.5], [-3.0, 0.0, 0.0]])


def pair(name: str, prompt: str = "", **columns) -> Preference:
    text = (Message("user", prompt or f"prompt {name}"),)
    return Preference(prompt=text, chosen=f"{name} good", rejected=f"{name} bad", id=name, **columns)


def test_mean_and_population_std():
    """methods.md 4.1, by hand: the squares' mean is over M, not M - 1."""
    mean, std = strength.mean_std(DIFFERENCES)
    np.testing.assert_allclose(mean, [-2, 2, 0])
    np.testing.assert_allclose(std, [math.sqrt(2 / 3), math.sqrt(8 / 3), math.sqrt(0.5 / 3)])
    for i in range(3):  # the definition, slowly
        mu = sum(row[i] for row in DIFFERENCES) / 3
        assert std[i] == pytest.approx(math.sqrt(sum((row[i] - mu) ** 2 for row in DIFFERENCES) / 3))


def test_records_carry_it_through_a_file(tmp_path):
    records = [pair("a", meta={"label": "human"}), pair("b", margin=1.5), pair("c")]
    found = strength.annotate(records, DIFFERENCES)
    assert records[0].meta == {"label": "human"}  # the input stays as it was
    jsonl.write(tmp_path / "strengths.jsonl", found)
    back = read_preferences(tmp_path / "strengths.jsonl").records
    assert back == found
    assert back[0].meta["label"] == "human" and back[1].margin == 1.5
    assert back[0].meta["strength"]["differences"] == [-1.0, -2.0, -3.0]
    np.testing.assert_array_equal(strength.means(back), [-2, 2, 0])
    np.testing.assert_allclose(strength.stds(back), strength.mean_std(DIFFERENCES)[1])
    assert [p.id for p in strength.suspicious(back)] == ["a", "c", "b"]
    again = strength.annotate(back, -DIFFERENCES)
    assert strength.means(again).tolist() == [2, -2, 0] and again[0].meta["label"] == "human"


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: len({wrong for _, wrong in rows}) == 2
    )
)
def test_auroc_counts_pairs(rows):
    mean, wrong = np.array([m for m, _ in rows], float), np.array([w for _, w in rows])
    wins = [(a < b) + 0.5 * (a == b) for a in mean[wrong] for b in mean[~wrong]]
    assert strength.auroc(mean, wrong) == pytest.approx(sum(wins) / len(wins))


def test_bands_are_sorted_and_cover_all():
    mean = np.array([3.0, -1.0, 0.0, 2.0, 1.0])
    found = strength.bands(mean, np.array([9.0, 8.0, 1.0, 2.0, 3.0]), count=2)
    assert [b.n for b in found] == [3, 2]
    assert [b.mean for b in found] == [0.0, 2.5]
    assert [b.std for b in found] == [4.0, 5.5]
    assert len(strength.bands(mean, mean**2, count=20)) == 5 and strength.bands(mean[:0], mean[:0]) == []


def test_folds_keep_prompts_together_and_differ_by_member():
    prompts = [pair("", prompt=f"p{i // 2}").prompt for i in range(40)]
    found = strength.folds(prompts, members=3, parts=4, seed=1)
    assert found.shape == (3, 40)
    assert (found[:, ::2] == found[:, 1::2]).all()
    for member in found:
        assert np.bincount(member).tolist() == [10] * 4
    assert (found[0] != found[1]).any()
    np.testing.assert_array_equal(found, strength.folds(prompts, members=3, parts=4, seed=1))
    # A prompt falls where it falls whatever the order of the pairs.
    np.testing.assert_array_equal(found[:, ::-1], strength.folds(prompts[::-1], members=3, parts=4, seed=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strength.mean_std(np.array([[0.0, np.nan]])), "member 0 scores pair 1 with nan"),
        (lambda: strength.mean_std(np.zeros((0, 3))), r"shape \(0, 3\)"),
        (lambda: strength.mean_std(np.zeros(3)), r"shape \(3,\)"),
        (lambda: strength.annotate([pair("a")], DIFFERENCES), "3 pairs for 1 records"),
        (lambda: strength.means([pair("a")]), "record 'a': no meta.strength"),
        (lambda: strength.means([pair("a", meta={"strength": {"mean": None, "std": 0}})]), "meta.strength.mean=None"),
        (lambda: strength.stds([pair("a", meta={"strength": {"mean": 0, "std": math.nan}})]), "std=nan"),
        (lambda: strength.auroc(np.zeros(2), np.array([True, True])), "2 flipped and 0 other"),
        (lambda: strength.folds([pair("a").prompt] * 9, members=1, parts=2, seed=0), "1 different prompts for 2"),
    ],
)
def test_one_line_refusals(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
