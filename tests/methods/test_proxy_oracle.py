"""The proxy oracle: what is bought stays under the budget, labels that were not bought have no say, pairs by a loop."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers.small_policy import METHOD, TRAIN, write_base

from rmjax.data.loads import load
from rmjax.errors import UserError
from rmjax.jobs.sources import ModelSource
from rmjax.methods import proxy_oracle
from rmjax.methods.proxy_oracle import Bought
from rmjax.methods.responses import Policy, Responses, respond
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import LogProb, Scalar
from rmjax.oracles.gold import GoldOracle
from rmjax.records import Pair, Vote
from rmjax.refine.information import InformationGain
from rmjax.refine.k_center import KCenter
from rmjax.refine.select import OnPolicyMix
from rmjax.refine.uncertainty import Bald, Margin
from rmjax.sampling.policy import Sampling
from rmjax.worlds.policy_world import PolicyWorld


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    return Policy(*ModelSource(path=str(write_base(tmp_path_factory.mktemp("policy") / "base"))).load())


@pytest.fixture(scope="module")
def responses(policy) -> list[Responses]:
    prompts = {f"p{i}": p for i, p in enumerate(PolicyWorld().prompts(16))}
    return respond(policy, prompts, METHOD.sampling, samples=METHOD.responses, seed=0)


class Counting:
    """Calls the longer answer better, whatever is asked, and remembers what it was."""

    name = "longer"

    def __init__(self):
        self.asked = []

    def label(self, pairs):
        self.asked += [p.id for p in pairs]
        choice = lambda p: "first" if (len(p.first), p.first) > (len(p.second), p.second) else "second"
        return [Vote(item=p.id, choice=choice(p), by=self.name) for p in pairs]


def test_responses_are_different_and_their_log_probabilities_the_policys(policy, responses):
    assert all(len(set(r.texts)) == len(r.texts) <= 3 for r in responses)
    slow = slot_scores(policy.model, policy.params, [r.group() for r in responses], LogProb())
    np.testing.assert_allclose(np.concatenate(slow), np.concatenate([r.logps for r in responses]), atol=1e-4)


@pytest.mark.parametrize("selection", [KCenter(of="prompt"), InformationGain(), Bald()])
def test_the_budget_is_spent_once_and_never_exceeded(policy, responses, selection):
    oracle, method = Counting(), dataclasses.replace(METHOD, selection=selection)
    bought = proxy_oracle.buy(policy, responses, oracle, method, seed=0)
    assert len(oracle.asked) == len(set(oracle.asked)) == method.budget
    assert [p.id for p in bought.pairs] == [v.item for v in bought.votes] == oracle.asked
    start = proxy_oracle.buy(policy, responses, Counting(), dataclasses.replace(METHOD, budget=2), seed=0)
    assert oracle.asked[:2] == [p.id for p in start.pairs]  # every selection starts with the same labels at random


def test_labels_that_were_not_bought_have_no_say(policy, responses):
    """The truth of every pair that was not bought is turned around: the policy stays the same, bit for bit."""
    method = dataclasses.replace(METHOD, selection=Margin())

    def pipeline(turned: frozenset[str]):
        class Turned(Counting):
            def label(self, pairs):
                other = {"first": "second", "second": "first"}
                votes = super().label(pairs)
                return [dataclasses.replace(v, choice=other[v.choice]) if v.item in turned else v for v in votes]

        bought = proxy_oracle.buy(policy, responses, Turned(), method, seed=0)
        evaluator = proxy_oracle.evaluation_model(policy, responses, bought, method, seed=0)
        given = proxy_oracle.label_rest(responses, evaluator.scores(responses, length=32), bought, method)
        groups = [*proxy_oracle.bought_groups(responses, bought), *given.groups]
        return bought, jax.tree.leaves(proxy_oracle.dpo(policy, groups, method, seed=0).params)

    bought, first = pipeline(frozenset())
    ids = {p.id for p in bought.pairs}
    _, same = pipeline(frozenset(r.id for r in responses) - ids)
    _, other = pipeline(frozenset(ids))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def made(id: str, scores: list[float]) -> Responses:
    return Responses(
        id=id,
        prompt=(),
        ids=(1,),
        texts=tuple(map(str, range(len(scores)))),
        tokens=tuple((i,) for i in range(len(scores))),
        logps=tuple(-float(i) for i in range(len(scores))),
    )


def test_given_pairs_are_highest_and_lowest():
    rng = np.random.default_rng(0)
    scores = {f"p{i}": np.round(rng.normal(size=rng.integers(1, 5)), 1) for i in range(60)}
    responses = [made(id, list(s)) for id, s in scores.items()]
    paid = [Pair(prompt=(), first="0", second="1", id=f"p{i}") for i in range(3)]
    bought = Bought(tuple(paid), tuple(Vote(item=p.id, choice="first", by="x") for p in paid))
    method = dataclasses.replace(METHOD, per_label=9, min_gap=0.3)
    given = proxy_oracle.label_rest(responses, list(scores.values()), bought, method)
    slow, close = {}, 0
    for id, s in scores.items():
        high = low = 0
        for i in range(len(s)):
            high, low = (i if s[i] > s[high] else high), (i if s[i] < s[low] else low)
        if id not in ("p0", "p1", "p2"):
            if s[high] - s[low] > 0.3:
                slow[id] = (high, low)
            else:
                close += 1
    assert given.pairs == dict(list(slow.items())[:27]) and len(given.groups) == 27
    assert (given.bought, given.close, given.left) == (3, close, len(slow) - 27)
    for group in given.groups:
        high, low = given.pairs[group.id]
        assert group.completions == [(high,), (low,)] and group.pairs == [(0, 1)]
        assert group.ref_logps == [-float(high), -float(low)]
    everything = proxy_oracle.label_rest(
        responses, list(scores.values()), bought, dataclasses.replace(method, per_label=0)
    )
    assert everything.pairs == slow


def test_ties_teach_nothing():
    pairs = tuple(Pair(prompt=(), first="0", second="1", id=f"p{i}") for i in range(4))
    choices = ("second", "tie", "unknown", "first")
    bought = Bought(pairs, tuple(Vote(item=p.id, choice=c, by="x") for p, c in zip(pairs, choices, strict=True)))
    responses = [made(p.id, [0.0, 0.0]) for p in pairs]
    groups = proxy_oracle.bought_groups(responses, bought)
    assert [(g.id, g.completions) for g in groups] == [("p0", [(1,), (0,)]), ("p3", [(0,), (1,)])]
    with pytest.raises(UserError, match="2 bought labels: all are ties"):
        proxy_oracle.bought_groups(responses, Bought(pairs[1:3], bought.votes[1:3]))


def test_the_evaluation_model_learns_its_labels(policy, responses):
    """Both kinds of score rank the bought pairs as they were labelled, after a few more updates."""
    bought = proxy_oracle.buy(policy, responses, Counting(), METHOD, seed=0)
    for evaluator in (METHOD.evaluator, Pairwise(score=Scalar())):
        longer = dataclasses.replace(TRAIN, steps=25)
        method = dataclasses.replace(METHOD, evaluator=evaluator, evaluator_train=longer)
        evaluator = proxy_oracle.evaluation_model(policy, responses, bought, method, seed=0)
        by_id = dict(zip((r.id for r in responses), evaluator.scores(responses, length=32), strict=True))
        assert all(by_id[id][better] > by_id[id][worse] for id, (better, worse) in bought.groups.items())


def test_gold_of_the_world_sells(policy, responses):
    world = PolicyWorld()
    assert world.reward(responses[0].prompt, "no answer at all") == 0
    pair = Pair(prompt=world.prompts(1)[0], first="car 3 red", second="nonsense")
    assert GoldOracle(world.reward).label([pair])[0].choice in ("first", "tie")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 1}, "budget=1"),
        ({"start": 1.5}, "start=1.5"),
        ({"responses": 1}, "responses=1"),
        ({"sampling": Sampling(temperature=0)}, "temperature=0"),
        ({"objective": Pairwise(score=Scalar())}, "use Implicit"),
        ({"selection": Margin(), "start": 0.0}, "Margin asks an evaluation model"),
        ({"selection": KCenter(), "start": 0.9}, "all 4 labels would be bought at random and none by KCenter"),
        ({"selection": OnPolicyMix(), "start": 0.0}, "nothing to mix"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(METHOD, **change)


def test_no_pair_of_a_prompt_is_longer_than_its_longest():
    rng = np.random.default_rng(0)
    for lengths in rng.integers(1, 9, size=(20, 4)):
        r = made("p", [0.0] * 4)
        r = dataclasses.replace(r, tokens=tuple((0,) * int(n) for n in lengths))
        first, second = r.longest
        assert first < second
        most = load(r.group(first, second)).length
        assert most == max(load(r.group(i, j)).length for i in range(4) for j in range(4) if i != j)


def test_what_cannot_be_trained_on_is_refused_before_anything_is_bought(policy, responses):
    oracle = Counting()
    with pytest.raises(UserError, match="take 50"):
        proxy_oracle.buy(policy, responses, oracle, dataclasses.replace(METHOD, budget=5, per_label=9), seed=0)
    short = dataclasses.replace(METHOD, train=dataclasses.replace(TRAIN, length=9))
    with pytest.raises(UserError, match=r"method.train.length=9: a prompt and two responses take up to \d+ tokens"):
        proxy_oracle.buy(policy, responses, oracle, short, seed=0)
    assert not oracle.asked
