"""A real policy judges pairs of the small world, free and constrained; refinement makes groups of what it said."""

import dataclasses

import jax
import numpy as np
import pytest

from rmjax.data.chat import Chat
from rmjax.data.rows import Group
from rmjax.judging.judge import Judge
from rmjax.judging.rescoring import token_scores
from rmjax.judging.votes import summary
from rmjax.models.model import Model
from rmjax.refine.refinement import PAPER, Refinement, refine_judgments
from rmjax.sampling.policy import Sampling
from rmjax.worlds import base_model
from rmjax.worlds.judge_world import JudgeWorld

WORLD = JudgeWorld()


@pytest.fixture(scope="module")
def judge():
    """An untrained decoder whose first A or B counts as its verdict: right, wrong and unparsed all occur."""
    model = Model.of(dataclasses.replace(base_model.DECODER, layers=1, embed=32, head_dim=8, mlp=32))
    prompt = dataclasses.replace(WORLD.prompt(), verdict=r"\b(A|B)\b", take="first")
    sampling = Sampling(temperature=1.0, max_new_tokens=24)
    return Judge(
        model, model.init(jax.random.key(0)), Chat(base_model.tokenizer()), prompt, sampling, seed=1, quiet=True
    )


@pytest.fixture(scope="module")
def items():
    return WORLD.preferences(6, seed=0)


@pytest.fixture(scope="module")
def free(judge, items):
    return judge.judgments(items, samples=8, orders="random")


@pytest.fixture(scope="module")
def constrained(judge, items):
    return dataclasses.replace(judge, constrained=True).judgments(items, samples=8, orders="random")


def same_as_teacher_forced(judge, judgments):
    scores = token_scores(judge.model, judge.params, [(j.prompt, j.tokens) for j in judgments])
    for j, expected in zip(judgments, scores, strict=True):
        np.testing.assert_allclose(j.logps, expected, atol=1e-4)


def test_recorded_log_probabilities_are_the_policys(judge, free, constrained):
    same_as_teacher_forced(judge, free)
    same_as_teacher_forced(judge, constrained)


def test_verdicts_and_their_probabilities(judge, free):
    verdicts = {j.verdict for j in free}
    assert verdicts == {"A", "B", None}
    labels = {v: judge.chat.text_ids(v)[0] for v in "AB"}
    for j in free:
        if j.verdict is None:
            assert j.prob_a is None and not set(j.tokens) & set(labels.values())
            continue
        assert j.tokens[j.reasoning] == labels[j.verdict]
        # the probability at the verdict token, by teacher forcing either label there
        before = j.tokens[: j.reasoning]
        a, b = (token_scores(judge.model, judge.params, [(j.prompt, (*before, labels[v]))])[0][-1] for v in "AB")
        assert j.prob_a == pytest.approx(1 / (1 + np.exp(np.float64(b) - a)), abs=1e-4)


def test_constraining_only_adds_verdicts(free, constrained, items):
    for before, after in zip(free, constrained, strict=True):
        if before.verdict:
            assert after == before
        else:
            assert after.forced and after.verdict in ("A", "B") and 0 < after.prob_a < 1
            assert after.tokens[: after.reasoning] == before.tokens[: before.reasoning]
    assert summary(free, items).unparsed.value > 0 == summary(constrained, items).unparsed.value


def test_other_items_and_restarts_change_nothing(judge, items, free, tmp_path):
    path = tmp_path / "judgments.jsonl"
    judge.judgments(items[2:3], samples=4, orders="random", path=path)
    again = judge.judgments(items[2:3], samples=8, orders="random", path=path)
    for a, b in zip(again, [j for j in free if j.item == items[2].id], strict=True):
        assert (a.tokens, a.verdict, a.index) == (b.tokens, b.verdict, b.index)
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-5)


@pytest.mark.parametrize("config", [PAPER, Refinement(score="rank", alpha=4.0, unparsed="reject", normalise="item")])
def test_groups_carry_the_reference(judge, items, constrained, config):
    found = refine_judgments(constrained, items, config, judge=judge)
    assert found.groups and all(isinstance(g, Group) for g in found.groups)
    for group in found.groups:
        scores = token_scores(judge.model, judge.params, [(group.prompt, c) for c in group.completions])
        np.testing.assert_allclose(group.ref_logps, [s.astype(np.float64).sum() for s in scores], atol=1e-3)


def test_retries_and_hints_give_pairs_to_items_without(judge, items, tmp_path):
    few = judge.judgments(items, samples=1, orders="item")
    config = Refinement(retries=1, retry_samples=2, hints=6)
    found = refine_judgments(few, items, config, judge=judge, seed=1, folder=tmp_path)
    assert found.table.retried == 2 * len(items) and found.table.hinted > 0 < found.table.usable
    open_prompts = {judge.prompt_ids(item, slot) for item in items for slot in "AB"}
    assert {g.prompt for g in found.groups} <= open_prompts
    same_as_teacher_forced(judge, [g.judgment for g in found.graded])
    again = refine_judgments(few, items, config, judge=judge, seed=1, folder=tmp_path)  # from the files
    assert again.groups == found.groups
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hinted.jsonl", "retry_1.jsonl"]
