"""Selection strategies: against loops in float64, blind to the order of answers, and refusals."""

import dataclasses

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.refine.information import InformationGain
from rmjax.refine.k_center import KCenter
from rmjax.refine.select import OnPolicyMix, Pool, Random
from rmjax.refine.uncertainty import Bald, Entropy, Margin, Variance

EVERY = (
    Random(),
    OnPolicyMix(share=0.5),
    Margin(),
    Entropy(),
    Variance(),
    Bald(),
    KCenter(of="prompt"),
    KCenter(of="answers"),
    InformationGain(),
)
LABELLED = np.array([7, 2, 11])
IDS = [repr(s) for s in EVERY]


def pool(n: int = 24) -> Pool:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return Pool(
        first=draw(n, 5),
        second=draw(n, 5),
        prompt=draw(n, 3),
        differences=draw(n),
        members=draw(6, n),
        on_policy=np.arange(n) % 2 == 0,
    )


@pytest.mark.parametrize("strategy", EVERY, ids=IDS)
def test_unlabelled_pairs_each_once_and_the_same_again(strategy):
    chosen = strategy.choose(pool(), 8, labelled=LABELLED, seed=3)
    assert chosen.dtype == np.int64 and len(set(chosen)) == 8 and not set(chosen) & set(LABELLED)
    assert (strategy.choose(pool(), 8, labelled=LABELLED, seed=3) == chosen).all()
    if not isinstance(strategy, (OnPolicyMix, KCenter)):  # test_k_center.py takes all points
        everything = strategy.choose(pool(), 21, labelled=LABELLED, seed=3)
        assert sorted([*everything, *LABELLED]) == list(range(24))
    none = strategy.choose(pool(), 8, labelled=np.array([], np.int64), seed=0)
    assert len(set(none)) == 8


@pytest.mark.parametrize("strategy", EVERY, ids=IDS)
def test_answers_may_change_places(strategy):
    one = pool()
    turned = np.arange(24) % 3 == 0
    swap = lambda a, b: np.where(turned[:, None], b, a)
    sign = np.where(turned, -1, 1).astype(np.float32)
    other = dataclasses.replace(
        one,
        first=swap(one.first, one.second),
        second=swap(one.second, one.first),
        differences=one.differences * sign,
        members=one.members * sign,
    )
    choose = lambda p: strategy.choose(p, 8, labelled=LABELLED, seed=1).tolist()
    assert choose(one) == choose(other)


@pytest.mark.parametrize(
    ("strategy", "worth"),
    [
        (Margin(), lambda p, i: -abs(p.differences[i])),
        (Entropy(), lambda p, i: entropy(np.mean([sigmoid(m[i]) for m in p.members]))),
        (Variance(), lambda p, i: np.var([float(m[i]) for m in p.members])),
        (
            Bald(),
            lambda p, i: (
                entropy(np.mean([sigmoid(m[i]) for m in p.members]))
                - np.mean([entropy(sigmoid(m[i])) for m in p.members])
            ),
        ),
    ],
)
def test_against_a_loop(strategy, worth):
    p = pool()
    value = {i: worth(p, i) for i in range(24) if i not in LABELLED}
    assert strategy.choose(p, 10, labelled=LABELLED, seed=0).tolist() == sorted(value, key=lambda i: -value[i])[:10]


def test_entropy_of_members_that_agree_ranks_as_the_margin_and_others_do_not():
    p = pool()
    same = dataclasses.replace(p, members=np.stack([p.differences] * 3))
    order = lambda strategy, p: strategy.choose(p, 21, labelled=LABELLED, seed=0).tolist()
    assert order(Entropy(), same) == order(Margin(), same)
    assert len({tuple(order(s, p)) for s in (Margin(), Entropy(), Variance(), Bald())}) == 4


def test_equal_worth_goes_to_the_earlier_pair():
    p = Pool(differences=np.array([1.0, -1.0, 0.5, 1.0, -0.5]))
    assert Margin().choose(p, 5, labelled=np.array([], int), seed=0).tolist() == [2, 4, 0, 1, 3]


@pytest.mark.parametrize("ridge", [1e-5, 1.0])
def test_information_gain_inverts_the_matrix_anew_for_every_pick(ridge):
    p = pool()
    d = p.first.astype(np.float64) - p.second
    v = ridge * np.eye(5) + d[LABELLED].T @ d[LABELLED]
    wanted, left = [], [i for i in range(24) if i not in LABELLED]
    for _ in range(12):
        inverse = np.linalg.inv(v)
        gain = [d[i] @ inverse @ d[i] for i in left]
        wanted.append(left.pop(int(np.argmax(gain))))
        v += np.outer(d[wanted[-1]], d[wanted[-1]])
    assert InformationGain(ridge=ridge).choose(p, 12, labelled=LABELLED, seed=0).tolist() == wanted


def test_a_mix_takes_its_share_and_says_when_it_cannot():
    for share, new in ((0.0, 0), (0.25, 2), (1.0, 8)):
        chosen = OnPolicyMix(share=share).choose(pool(), 8, labelled=LABELLED, seed=0)
        assert pool().on_policy[chosen].sum() == new
    with pytest.raises(UserError, match="12 of count=12 are to be on-policy pairs, and 11 have no label"):
        OnPolicyMix(share=1.0).choose(pool(), 12, labelled=LABELLED, seed=0)
    with pytest.raises(UserError, match=r"share=1\.5"):
        OnPolicyMix(share=1.5)


def test_random_is_uniform():
    p, counts = Pool(differences=np.zeros(6)), np.zeros(6)
    for seed in range(600):
        counts[Random().choose(p, 2, labelled=np.array([3]), seed=seed)] += 1
    assert counts[3] == 0 and (abs(counts[[0, 1, 2, 4, 5]] - 240) < 60).all()


@pytest.mark.parametrize("strategy", EVERY, ids=IDS)
@pytest.mark.parametrize(
    ("count", "labelled", "said"),
    [(22, LABELLED, "count=22: 21 of 24"), (0, LABELLED, "count=0"), (1, np.array([24]), "of a pool of 24")],
)
def test_refused(strategy, count, labelled, said):
    with pytest.raises(UserError, match=said):
        strategy.choose(pool(), count, labelled=labelled, seed=0)


@pytest.mark.parametrize("strategy", [s for s in EVERY if not isinstance(s, Random)], ids=IDS[1:])
def test_what_a_strategy_reads_must_be_there(strategy):
    bare = Pool(prompt=pool().prompt) if strategy != KCenter(of="prompt") else Pool(differences=np.zeros(24))
    with pytest.raises(UserError, match=r"the pool has no (differences|members|first|prompt|on_policy); give it"):
        strategy.choose(bare, 2, labelled=LABELLED, seed=0)


@pytest.mark.parametrize("name", ["first", "second", "prompt", "differences", "members"])
def test_values_that_are_none_are_refused(name):
    value = getattr(pool(), name).copy()
    value.flat[-1] = np.nan
    with pytest.raises(UserError, match=f"pool: {name} has NaN"):
        dataclasses.replace(pool(), **{name: value})


def test_fields_that_do_not_fit():
    with pytest.raises(UserError, match="nothing is known"):
        Pool()
    for wrong in ({"first": np.zeros((24, 5))}, {"differences": np.zeros(3), "prompt": np.zeros((4, 2))}):
        with pytest.raises(ValueError, match="shapes"):
            Pool(**wrong)
    with pytest.raises(UserError, match="an ensemble of 1"):
        Bald().choose(Pool(members=np.zeros((1, 4))), 2, labelled=np.array([], int), seed=0)


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-float(x)))


def entropy(p: float) -> float:
    return -p * np.log(p) - (1 - p) * np.log(1 - p)
