"""Token log-probabilities and scores: chunks do not matter, nothing of the size [b, t, v] exists, padding is inert."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from loss_oracle import CONFIG, example_groups, logp64, model, reward64, to_rows

from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.models import vocabulary
from rmjax.objectives.scores import Implicit, LogProb, Scalar, hidden_states, slot_sums, token_logps
from rmjax.objectives.sft import Sft


@pytest.fixture(scope="module")
def setup():
    m = model()
    groups = example_groups(3)
    return m, m.init(jax.random.key(0)), groups, to_rows([groups[:1], groups[1:]])


def test_log_probabilities_are_the_oracles(setup):
    m, params, groups, rows = setup
    got = LogProb()(m, params, rows)
    want = [float(logp64(params, g.prompt, c)) for g in groups for c in g.completions]
    first = len(groups[0].completions)
    np.testing.assert_allclose(got[0, :first], want[:first], rtol=1e-5)
    np.testing.assert_allclose(got[1, : len(want) - first], want[first:], rtol=1e-5)


@pytest.mark.parametrize("pieces", [2, 5])
def test_pieces_of_the_vocabulary_do_not_matter(setup, pieces):
    m, params, _, rows = setup

    def total(params, pieces):
        module = m.bind(params)
        return jnp.sum(jnp.sin(token_logps(module, hidden_states(module, rows), rows, pieces=pieces)))

    value, grad = jax.value_and_grad(total)(params, pieces)
    want, want_grad = jax.value_and_grad(total)(params, 0)
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grad, want_grad)


def test_logits_exist_only_in_pieces(setup, monkeypatch):
    """No array of the gradient's program holds more logits of a token than a piece of the vocabulary has."""
    m, params, _, rows = setup
    size = 8  # of a piece; 23 words are three
    b, n = rows.target.shape
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 4 * b * n * size)

    def total(params):
        module = m.bind(params)
        return jnp.sum(token_logps(module, hidden_states(module, rows), rows))

    sizes = set()

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            sizes.update(getattr(v.aval, "shape", ()) for v in eqn.outvars)
            for sub in jax.extend.core.jaxprs_in_params(eqn.params):
                walk(sub)

    walk(jax.make_jaxpr(jax.grad(total))(params).jaxpr)
    assert (b, n, size) in sizes
    assert not any(s[:2] == (b, n) and s[2:] and s[2] >= CONFIG.vocab for s in sizes), sizes


def test_padding_is_inert(setup):
    m, params, groups, rows = setup
    padded = dataclasses.replace(rows, tokens=np.where(rows.group >= 0, rows.tokens, 7))
    wider = to_rows([groups[:1], groups[1:]], length=96, slots=14, targets=50, pairs=30)
    want = LogProb()(m, params, rows)
    np.testing.assert_array_equal(LogProb()(m, params, padded), want)
    np.testing.assert_allclose(LogProb()(m, params, wider)[:, :10], want, rtol=1e-6, atol=1e-6)


def test_implicit_score(setup):
    m, params, groups, rows = setup
    logps = LogProb()(m, params, rows)
    summed, mean = Implicit(beta=0.2)(m, params, rows), Implicit(beta=0.2, length_normalised=True)(m, params, rows)
    for s, completion in enumerate(groups[0].completions):
        ratio = float(logps[0, s]) - groups[0].ref_logps[s]
        assert float(summed[0, s]) == pytest.approx(0.2 * ratio, rel=1e-5)
        assert float(mean[0, s]) == pytest.approx(0.2 * ratio / len(completion), rel=1e-5)


def test_scalar_score_reads_the_last_token():
    m, groups = model(head=True), example_groups(4)
    params = m.init(jax.random.key(5))
    got = Scalar()(m, params, to_rows([groups]))[0]
    want = [float(reward64(params, g.prompt, c)) for g in groups for c in g.completions]
    np.testing.assert_allclose(got[: len(want)], want, rtol=1e-4, atol=1e-5)


def test_slot_sums_are_segment_sums(setup):
    rows = setup[3]
    values = np.random.default_rng(0).normal(size=rows.target.shape).astype(np.float32)
    want = np.zeros(rows.slot_last.shape)
    for b, n in zip(*np.nonzero(rows.target >= 0), strict=True):
        want[b, rows.slot[b, n]] += values[b, n]
    np.testing.assert_allclose(slot_sums(jnp.asarray(values), rows), want, rtol=1e-5, atol=1e-6)


def test_sft_counts_completion_tokens_only(setup):
    m, params, groups, _ = setup
    groups = [dataclasses.replace(g, pairs=(), weight=(), margin=(), smooth=()) for g in groups]
    out = Sft()(m, params, to_rows([groups]))
    tokens = sum(len(c) for g in groups for c in g.completions)
    want = -sum(float(logp64(params, g.prompt, c)) for g in groups for c in g.completions) / tokens
    assert float(out.loss.value()) == pytest.approx(want, rel=1e-5)
    assert float(out.loss.weight) == tokens


def test_sft_refuses_pairs():
    with pytest.raises(UserError, match=r"g1.*rejected"):
        Sft().check([Group(id="g1", prompt=[1], completions=[[2], [3]], pairs=[(0, 1)])])
