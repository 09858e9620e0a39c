"""Flips, smoothing, margins and their combinations against hand-made numbers."""

import dataclasses

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.objectives.pairwise import sigmoid_loss
from rmjax.records import Message, Preference
from rmjax.refine import strength, treatments
from rmjax.refine.treatments import Treatment

MEANS = [0.5, -4.0, 2.0, -0.5, 9.0, -2.0, 0.0, 1.0, 3.0, 4.0]  # ten pairs; weakest: 1, then 5, then 3
SCORES = np.stack([np.array(MEANS) + 0.1, np.array(MEANS) - 0.1])


def pair(i: int, **columns) -> Preference:
    return Preference(prompt=(Message("user", f"p{i}"),), chosen="good", rejected="bad", id=f"r{i}", **columns)


@pytest.fixture
def records() -> list[Preference]:
    return strength.annotate([pair(i) for i in range(10)], SCORES)


def test_the_shipped_default(records):
    """methods.md 4.2: lowest tenth flipped with |mean| as margin; rest below 0 softened; margin for all."""
    out = Treatment()(records)
    assert [p.meta.get("flipped", False) for p in out] == [i == 1 for i in range(10)]
    assert out[1].chosen == "bad" and out[1].rejected == "good" and out[1].id == "r1"
    np.testing.assert_allclose([p.margin for p in out], [0.5, 4, 2, -0.5, 6, -2, 0, 1, 3, 4])  # 9 clipped to 6
    np.testing.assert_allclose([p.smooth for p in out], [0, 0, 0, 0.15, 0, 0.15, 0, 0, 0, 0])
    assert records == strength.annotate([pair(i) for i in range(10)], SCORES)


def test_a_flip_turns_every_column_around():
    p = strength.annotate([pair(0, votes={"chosen": 3, "rejected": 1, "tie": 2}, margin=0.5)], np.array([[-2.0], [-4]]))
    (out,) = treatments.flip(p, share=1.0)
    assert out.votes == {"rejected": 3, "chosen": 1, "tie": 2} and out.margin == -0.5
    assert out.smooth == pytest.approx(1 - p[0].smooth)
    assert out.meta["strength"] == {"mean": 3.0, "std": 1.0, "differences": [2.0, 4.0]}
    (known,) = treatments.flip([dataclasses.replace(p[0], prob_chosen=0.75)], share=1.0)
    assert known.prob_chosen == 0.25


def test_a_label_that_the_ensemble_agrees_with_is_never_flipped(records):
    out = treatments.flip(records, share=1.0)
    assert [i for i, p in enumerate(out) if p.meta.get("flipped")] == [1, 3, 5]
    assert min(strength.means(out)) == 0
    assert [len([p for p in treatments.flip(records, share=s) if "flipped" in p.meta]) for s in (0, 0.09, 0.3)] == [
        0,
        0,
        3,
    ]


@pytest.mark.parametrize(("value", "flipped"), [(True, True), (False, False), ("no", False), (None, False)])
def test_flipped_is_said_by_true_alone(value, flipped):
    (one,) = strength.annotate([pair(0)], np.array([[-1.0]]))
    one = dataclasses.replace(one, meta={**one.meta, "flipped": value})
    assert treatments.is_flipped(one) == flipped
    if flipped:
        with pytest.raises(UserError, match=r"has meta\.flipped already"):
            treatments.flip([one], share=1.0)
    else:
        assert treatments.is_flipped(treatments.flip([one], share=1.0)[0])


def test_equal_strengths_flip_the_earlier():
    same = strength.annotate([pair(i) for i in range(4)], np.full((1, 4), -1.0))
    assert ["flipped" in p.meta for p in treatments.flip(same, share=0.5)] == [True, True, False, False]


def test_combinations_of_the_paper(records):
    made = {name: t(records) for name, t in treatments.PAPER.items()}
    flips = lambda name: [i for i, p in enumerate(made[name]) if "flipped" in p.meta]
    assert [flips(n) for n in made] == [[1], [], [1], []]
    assert all(p.margin is None for p in made["flip"])
    np.testing.assert_allclose([p.margin for p in made["margin"]], np.clip(MEANS, -3, 6))
    assert made["flip, margin"][1].margin == 4.0 and made["margin"][1].margin == -3.0
    soft = made["soft label, margin"]
    np.testing.assert_allclose([p.smooth for p in soft], [0.15 * (m < 0) for m in MEANS])
    assert [p.margin for p in soft] == [p.margin for p in made["margin"]]


def test_scale_comes_before_the_clip(records):
    out = treatments.widen(records, scale=2.0, low=-1.0, high=5.0)
    np.testing.assert_allclose([p.margin for p in out], np.clip(2 * np.array(MEANS), -1, 5))


def test_columns_give_the_papers_losses(records):
    """Margin inside the log-sigmoid (methods.md 8): (difference 1, margin .5) -> .474077; (-.5, 1) -> 1.701413."""
    out = Treatment(flip=0, smoothing=0)(records)
    loss = lambda difference, p: float(sigmoid_loss(difference - p.margin, p.smooth))
    assert loss(1.0, out[0]) == pytest.approx(0.474077, abs=1e-6)
    assert loss(-0.5, out[7]) == pytest.approx(1.701413, abs=1e-6)
    soft = treatments.soften(records, smoothing=0.1)[3]
    assert float(sigmoid_loss(-1.0, soft.smooth)) == pytest.approx(1.213262, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "treatment", "message"),
    [
        ({"meta": {}}, Treatment(), "no meta.strength"),
        ({"tie": True}, Treatment(), "tie already"),
        ({"meta": {"strength": {"mean": float("nan"), "std": 0.0}}}, Treatment(), "mean=nan"),
        ({"margin": 1.0}, Treatment(), "margin already"),
        ({"prob_chosen": 0.5}, Treatment(), "prob_chosen already"),
        ({"votes": {"chosen": 1}}, Treatment(), "votes already"),
        ({"meta": {"strength": {"mean": 1.0, "std": 0.0}, "flipped": True}}, Treatment(), "meta.flipped already"),
    ],
)
def test_records_that_cannot_be_treated(records, change, treatment, message):
    spoilt = [dataclasses.replace(records[0], **change), *records[1:]]
    with pytest.raises(UserError, match=f"record 'r0'.*{message}"):
        treatment(spoilt)


@pytest.mark.parametrize(
    ("field", "value"),
    [("flip", 1.5), ("smoothing", 0.6), ("margin", -1), ("margin_low", 1), ("margin_high", 0), ("flip", float("nan"))],
)
def test_settings_that_mean_nothing(field, value):
    with pytest.raises(UserError, match=f"treatment.{field}="):
        Treatment(**{field: value})


def test_single_edits_refuse_impossible_numbers(records):
    for call in (
        lambda: treatments.flip(records, share=2),
        lambda: treatments.soften(records, smoothing=0.7),
        lambda: treatments.widen(records, scale=1, low=2, high=1),
    ):
        with pytest.raises(UserError, match="treatment"):
            call()
