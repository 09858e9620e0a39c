"""Buying labels in rounds: what is bought alone is known, and every strategy begins alike."""

import dataclasses
import itertools

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.jobs.active import unordered
from rmjax.jobs.active_world import prompts_of
from rmjax.methods.active import Buying, Market, learnt
from rmjax.methods.frozen import Frozen
from rmjax.oracles.column import ColumnOracle, hide
from rmjax.records import Pair, Vote
from rmjax.refine.select import Random
from rmjax.refine.uncertainty import Bald, Margin
from rmjax.training.frozen import bootstrap
from rmjax.worlds.reward_world import RewardWorld

BUYING = Buying(start=6, step=5, most=14, members=3)
WORLD = RewardWorld(features=12)
TRAIN, TEST = WORLD.pairs(40), WORLD.pairs(60, split="test")
ITEMS = TRAIN.records()
PAIRS = hide(ITEMS, seed=0)


class Liar:
    """An oracle that turns around every label but those of some pairs, and that keeps what it was asked."""

    name = "liar"

    def __init__(self, honest: set[str]):
        self.inner, self.honest, self.asked = ColumnOracle(ITEMS), honest, []

    def label(self, pairs: list[Pair]) -> list[Vote]:
        self.asked += [p.id for p in pairs]
        turned = {"first": "second", "second": "first"}
        votes = self.inner.label(pairs)
        return [v if v.item in self.honest else dataclasses.replace(v, choice=turned[v.choice]) for v in votes]


@pytest.fixture(scope="module")
def market() -> Market:
    how = Frozen(forms=("standard",), folds=2, penalties=(0.01, 0.1))
    features = unordered(TRAIN.features(), ITEMS, PAIRS)
    return Market(PAIRS, features, TEST.features(), prompts_of(WORLD, TRAIN), how, parts=1, seed=0)


def test_counts():
    assert BUYING.counts() == [6, 11, 14]
    with pytest.raises(UserError, match=r"buying\.most=14: a start of 10 and a round of 5"):
        Buying(start=10, step=5, most=14)


@pytest.mark.parametrize("strategy", [Random(), Margin(), Bald()], ids=repr)
def test_only_bought_labels_matter(market, strategy):
    rounds = list(market.rounds(strategy, ColumnOracle(ITEMS), BUYING, 1))
    assert [r.labels for r in rounds] == [6, 11, 14] == [len(set(r.bought)) for r in rounds]
    for i, (r, later) in enumerate(itertools.pairwise(rounds)):
        # Every other label is turned around: the next choice, which cannot know, is the same.
        liar = Liar({PAIRS[i].id for i in r.bought})
        other = list(market.rounds(strategy, liar, BUYING, 1))
        assert (other[i + 1].bought == later.bought).all()
        assert (other[i].fitted.differences == r.fitted.differences).all()
        assert len(liar.asked) == len(set(liar.asked)) == 14  # none is asked for twice, none beyond the budget
    turned = list(market.rounds(strategy, Liar(set()), BUYING, 1))
    assert not np.allclose(turned[0].fitted.differences, rounds[0].fitted.differences)  # bought labels do matter


def test_strategies_begin_alike_and_runs_do_not(market):
    start = lambda strategy, number: next(market.rounds(strategy, ColumnOracle(ITEMS), BUYING, number)).bought.tolist()
    assert start(Random(), 0) == start(Margin(), 0) != start(Margin(), 1)


def newton(x: np.ndarray, l2: float) -> np.ndarray:
    """The Bradley-Terry head of chosen minus rejected, in float64."""
    x, w = x.astype(np.float64), np.zeros(x.shape[1])
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ w))
        curvature = (x.T * (p * (1 - p))) @ x / len(x) + l2 * np.eye(len(w))
        w -= np.linalg.solve(curvature, x.T @ (p - 1) / len(x) + l2 * w)
    return w


def test_a_head_is_the_usual_one(market):
    """Answers in a random order with turned labels give the head that chosen and rejected ones give."""
    *_, last = market.rounds(Random(), ColumnOracle(ITEMS), BUYING, 0)
    x = market.bench.bases[0](TRAIN.chosen) - market.bench.bases[0](TRAIN.rejected)
    wanted = newton(x[last.bought], last.fitted.penalty[0])
    assert np.allclose(last.fitted.head[0, -1], wanted, atol=2e-3 * abs(wanted).max())


def test_bootstrap_is_a_head_on_repeated_pairs():
    rng = np.random.default_rng(0)
    # Shapes as in a market above, so that its program serves.
    x, smooth = rng.standard_normal((14, 12)).astype(np.float32), rng.integers(0, 2, 14).astype(np.float32)
    heads = bootstrap.heads(x, np.ones(14, np.float32), smooth, labels=11, l2=0.1, members=3, seed=5)
    drawn = np.random.default_rng(5).multinomial(11, np.full(11, 1 / 11), size=3)
    for head, count in zip(heads, drawn, strict=True):
        rows = np.repeat(np.arange(11), count)
        wanted = newton(x[rows] * (1 - 2 * smooth[rows])[:, None], 0.1)
        assert np.allclose(head, wanted, atol=2e-3 * abs(wanted).max())
    assert not np.allclose(heads[0], heads[1], atol=0.1)


@pytest.mark.parametrize(
    ("vote", "wanted"),
    [
        ({"choice": "first"}, (0.0, 1.0)),
        ({"choice": "second"}, (1.0, 1.0)),
        ({"choice": "tie"}, (0.5, 1.0)),
        ({"choice": "unknown"}, (0.5, 0.0)),
        ({"choice": "first", "prob_first": 0.75}, (0.25, 1.0)),
    ],
)
def test_what_a_vote_teaches(vote, wanted):
    assert learnt(Vote(item="a", by="x", **vote)) == wanted


def test_more_labels_than_pairs(market):
    with pytest.raises(UserError, match=r"buying\.most=50: the pool has 40 pairs"):
        next(market.rounds(Random(), ColumnOracle(ITEMS), Buying(most=50), 0))
