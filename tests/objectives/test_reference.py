"""Scores of candidates: what shares a batch, a row or a prompt with them does not change them."""

import dataclasses

import jax
import numpy as np
import pytest
from loss_oracle import example_groups, logp64, model, reward64

from rmjax.errors import UserError
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import LogProb, Scalar

GROUPS = example_groups(5, 7)


@pytest.fixture(scope="module")
def plain():
    m = model(head=True)
    params = m.init(jax.random.key(0))
    return m, params, slot_scores(m, params, GROUPS, LogProb())


def close(got, want):
    assert [x.shape for x in got] == [x.shape for x in want]
    assert all(x.dtype == np.float32 for x in got)
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(want), rtol=0, atol=1e-5)


def test_scores_are_the_oracles(plain):
    m, params, got = plain
    for group, line in zip(GROUPS, got, strict=True):
        np.testing.assert_allclose(line, [logp64(params, group.prompt, c) for c in group.completions], rtol=1e-5)
    for group, line in zip(GROUPS, slot_scores(m, params, GROUPS, Scalar()), strict=True):
        np.testing.assert_allclose(line, [reward64(params, group.prompt, c) for c in group.completions], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_batch_does_not_matter(plain, batch):
    close(slot_scores(*plain[:2], GROUPS, LogProb(), batch=batch), plain[2])


@pytest.mark.parametrize("length", [40, 256])
def test_length_does_not_matter(plain, length):
    close(slot_scores(*plain[:2], GROUPS, LogProb(), length=length), plain[2])


def test_order_does_not_matter(plain):
    order = np.random.default_rng(0).permutation(len(GROUPS))
    got = slot_scores(*plain[:2], [GROUPS[i] for i in order], LogProb())
    close(got, [plain[2][i] for i in order])


def test_sharing_a_prompt_does_not_matter(plain):
    """Every completion alone, under its own copy of the prompt."""
    alone = [
        dataclasses.replace(g, completions=[c], ref_logps=(), pairs=(), weight=(), margin=(), smooth=())
        for g in GROUPS
        for c in g.completions
    ]
    close([np.concatenate(slot_scores(*plain[:2], alone, LogProb()))], [np.concatenate(plain[2])])


def test_nothing_to_score_and_too_long(plain):
    assert slot_scores(*plain[:2], [], LogProb()) == []
    with pytest.raises(UserError, match="raise the length"):
        slot_scores(*plain[:2], GROUPS, LogProb(), length=12)
