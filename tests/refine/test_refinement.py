"""The whole of refinement, and the settings it refuses."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.judging.rescoring import token_scores
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.refine.levels import Graded
from rmjax.refine.perplexity import alone
from rmjax.refine.refinement import PAPER, Refinement, refine_judgments


@pytest.fixture(scope="module")
def policy():
    model = Model.of(DecoderConfig(vocab=50, layers=1, embed=16, heads=2, kv_heads=2, head_dim=8, mlp=16))
    return model, jax.tree.map(lambda x: 4 * x, model.init(jax.random.key(1)))


@dataclasses.dataclass
class Policy:
    """As much of a judge as refinement without further samples needs."""

    model: object
    params: object
    chat: object
    seed: int = 0


class Bos:
    bos = 7


@pytest.fixture
def run(judgment):
    verdicts = {("x", "A"): "AAB", ("x", "B"): "BA", ("y", "A"): "AA", ("y", "B"): "BB"}
    return [
        judgment(item, slot, v, index=i, ppl=1.5 + 0.7 * i + (v == slot))
        for (item, slot), text in verdicts.items()
        for i, v in enumerate(text)
    ]


def test_by_hand(run, pair):
    found = refine_judgments(run, [pair("x"), pair("y")], Refinement(threshold=0.75, alpha=2.0))
    score = lambda ppl: math.exp(-ppl / 10)
    a0, a1, b2 = score(2.5), score(3.2), score(2.9)
    c0, d1 = score(2.5), score(2.2)
    raw = [math.log(1 + math.exp(2 * g)) for g in (a0 + b2, a1 + b2, c0 + d1)]
    assert [(g.id, list(g.pairs)) for g in found.groups] == [("x|A", [(0, 1), (2, 1)]), ("x|B", [(0, 1)])]
    np.testing.assert_allclose([w for g in found.groups for w in g.weight], np.array(raw) / np.mean(raw), rtol=1e-9)
    assert [g.level for g in found.graded] == ["SA", "WA", "WR", "SA", "SR", "SA", "WA", "SA", "WA"]
    assert found.table.without == {"all right": 1} and found.table.pairs == 3


def test_the_same_judgments_give_the_same_bytes(run, pair, tmp_path):
    for name in ("1", "2"):
        found = refine_judgments(run, [pair("x"), pair("y")], Refinement())
        jsonl.write(tmp_path / name, found.graded)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert jsonl.read(tmp_path / "1", Graded) == found.graded


def test_one_pair_and_no_weights_is_plain_dpo(run, pair):
    found = refine_judgments(run, [pair("x"), pair("y")], Refinement(pairs="one", weights="off"))
    (group,) = found.groups
    assert (group.id, group.pairs, group.weight) == ("x|B", [(0, 1)], [1.0])


def test_unparsed_judgments_are_dropped_or_rejected_but_never_a(judgment, pair):
    run = [judgment("x", "B", "B", ppl=3.0), judgment("x", "B", None, index=1)]
    assert refine_judgments(run, [pair("x")], Refinement()).groups == []
    found = refine_judgments(run, [pair("x")], Refinement(unparsed="reject", normalise="none"))
    assert found.groups[0].weight == [pytest.approx(math.log(1 + math.exp(math.exp(-0.3))))]


@pytest.mark.parametrize("bos", [None, 7])
def test_perplexity_of_the_reasoning_alone(run, policy, bos):
    found = alone(run, *policy, bos=bos)
    for j, ppl in zip(run, found, strict=True):
        tokens = j.tokens[: j.reasoning]
        prompt, scored = ((bos,), tokens) if bos else (tokens[:1], tokens[1:])
        logps = token_scores(*policy, [(prompt, scored)])[0].astype(np.float64)
        assert ppl == pytest.approx(math.exp(-logps.mean()), rel=1e-6)


def test_without_context_short_or_unparsed_reasoning_has_no_perplexity(judgment, policy):
    run = [judgment("x", "A", "A", reasoning=1), judgment("x", "A", None), judgment("x", "A", "A", reasoning=0)]
    assert alone(run, *policy, bos=None) == [None, None, None]
    assert [p is None for p in alone(run, *policy, bos=7)] == [False, True, True]


def test_the_papers_constants(run, pair, policy):
    found = refine_judgments(run, [pair("x"), pair("y")], PAPER, judge=Policy(*policy, Bos()))
    expected = alone(run, *policy, bos=7)
    assert [g.perplexity for g in found.graded] == expected
    assert [g.level[0] for g in found.graded] == ["S" if p < 10 * math.log(2) else "W" for p in expected]
    assert all(g.grade == g.score > 0 for g in found.graded)


@pytest.mark.parametrize("config", [PAPER, Refinement(retries=1), Refinement(hints=1)])
def test_a_judge_is_asked_for_where_it_is_needed(run, pair, config):
    with pytest.raises(UserError, match="need the judge"):
        refine_judgments(run, [pair("x"), pair("y")], config)


def test_ties_have_no_right_verdict(run, pair):
    with pytest.raises(UserError, match="'y': labelled tie"):
        refine_judgments(run, [pair("x"), pair("y", tie=True)], Refinement())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grade": "sgined"}, "grade='sgined': use one of signed, unsigned, levels"),
        ({"normalise": "batch"}, "normalise='batch'"),
        ({"tau": 0.0}, "tau=0.0"),
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"alpha": float("inf")}, "alpha=inf"),
        ({"hints": -1}, "hints=-1"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 1, "retry_samples": 0}, "retry_samples=0"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"threshold": "median"}, "threshold='median'"),
        ({"score": "rank", "tau": 3.0}, "tau=3.0 does nothing with score='rank'"),
        ({"weights": "off", "alpha": 3.0}, "alpha=3.0 does nothing with weights='off'"),
        ({"retry_samples": 3}, "retry_samples=3 does nothing with retries=0"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Refinement(**fields)
