"""Contrastive, MetaRM and prototypical objectives of a whole network: against float64 loops, and where they vanish."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rmjax.data import packing
from rmjax.data.rows import Group, TwoRows
from rmjax.errors import UserError
from rmjax.methods import fine_tuning
from rmjax.models.config import DecoderConfig, EncoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.objectives.contrastive import Contrastive
from rmjax.objectives.meta import Difference, MetaRm, unlabelled
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar, hidden_states
from rmjax.training.optimizer import Optimizer
from rmjax.training.step import gradients, train_step, with_dropout

DECODER = Model.of(DecoderConfig(vocab=13, layers=1, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=8), Linear())
ENCODER = Model.of(EncoderConfig(vocab=13, layers=1, embed=8, heads=2, mlp=8, max_positions=16), Linear(), ("pooler",))
RANKING = Pairwise(score=Scalar())
gradient = jax.jit(gradients, static_argnums=(0, 1, 4))
WEIGHTS = (1.0, 2.0, 0.0, 0.5)


def rows(model, weights=WEIGHTS):
    """A pair a row, one of them without weight, and a row that is empty."""
    r = np.random.default_rng(0)
    text = lambda n: r.integers(1, 13, n).tolist()
    groups = [
        Group(id=str(i), prompt=text(3), completions=[text(2), text(3)], pairs=[(1, 0)], weight=[w])
        for i, w in enumerate(weights)
    ]
    shape = packing.RowShape(length=12, slots=4, targets=8, pairs=2)
    some = [packing.assemble([g], shape, share=model.share) for g in groups]
    return packing.stack([*some, packing.empty(shape), packing.empty(shape)])


def features(model, params, batch):
    """[rows, 2, f] float64: what the head reads of the better and the worse answer of the first pair slot."""
    pooled = np.asarray(forward(model, params, batch), np.float64)
    return np.stack([pooled[i, np.maximum(batch.pairs[i, 0], 0)] for i in range(len(pooled))])


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, batch):
    network = model.bind(params)
    return network.pooled(hidden_states(network, batch), batch)


def softplus(x):
    return np.log1p(np.exp(-abs(x))) + max(x, 0)


def ranking(f, head):
    """The mean Bradley-Terry loss of the weighted pairs, in float64."""
    gaps = [(f[i, 0] - f[i, 1]) @ np.asarray(head, np.float64) for i in range(len(WEIGHTS))]
    return sum(w * softplus(-g) for w, g in zip(WEIGHTS, gaps, strict=True)) / sum(WEIGHTS)


def views(model, params, batch):
    return [features(model, params, dataclasses.replace(batch, dropout=batch.dropout.at(v))) for v in (0, 1)]


def stacked(f, form):
    there = [i for i, w in enumerate(WEIGHTS) if w]
    chosen, rejected = f[there, 0], f[there, 1]
    parts = [chosen, rejected] if form == "direct" else [chosen - rejected, rejected - chosen]
    out = np.concatenate(parts)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def nll(logits, row):
    return np.log(np.sum(np.exp(logits))) - logits[row]


def test_simcse_is_its_loop():
    model, form = ENCODER, "difference"
    params, batch = model.init(jax.random.key(0)), with_dropout(rows(model), jax.random.key(1), 0.2)
    method = fine_tuning.SimCse(beta=0.7, form=form, temperature=0.5)
    out = jax.jit(lambda p, b: method.objective(RANKING)(model, p, b))(params, batch)
    f, g = views(model, params, batch)
    a, b = stacked(f, form), stacked(g, form)
    pulled = np.mean([nll(a[i] @ b.T / 0.5, i) for i in range(len(a))])
    plain = (ranking(f, params["head"]["weight"]) + ranking(g, params["head"]["weight"])) / 2
    assert abs(f - g).max() > 0.01  # two passes, not one
    assert float(out.loss.value()) == pytest.approx(plain + 0.7 * pulled, abs=1e-5)
    assert float(out.metrics["simcse"].value()) == pytest.approx(pulled, abs=1e-5)


def test_swav_is_its_loop_and_leaves_its_prototypes_behind():
    method, model = fine_tuning.Swav(beta=0.3, temperature=0.4, prototypes=3), DECODER
    first = model.init(jax.random.key(0))
    around, params = method.start(model, first, jax.random.key(5))
    batch = with_dropout(rows(model), jax.random.key(1), 0.2)
    grads, out = gradient(around, method.objective(RANKING), params, batch)
    f, g = views(around, params, batch)
    c = np.asarray(params["head"]["centres"], np.float64)
    c = c / np.linalg.norm(c, axis=1, keepdims=True)
    scores = [stacked(x, "direct") @ c.T for x in (f, g)]
    total = 0.0
    for mine, other in (scores, scores[::-1]):
        q = np.exp(other / 0.05)
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdims=True)
        total += np.mean([sum(q[i, k] * nll(mine[i] / 0.4, k) for k in range(3)) for i in range(len(mine))])
    plain = (ranking(f, first["head"]["weight"]) + ranking(g, first["head"]["weight"])) / 2
    assert float(out.loss.value()) == pytest.approx(plain + 0.3 * total, abs=1e-4)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    back, left = method.end(around, params)
    assert back == model
    jax.tree.map(np.testing.assert_array_equal, left, first)


def test_beta_0_is_the_mean_of_two_plain_passes():
    params, batch = DECODER.init(jax.random.key(0)), with_dropout(rows(DECODER), jax.random.key(1), 0.2)
    own = lambda b, v: dataclasses.replace(b, dropout=b.dropout.at(v))
    contrast = fine_tuning.SimCse(beta=0.0).objective(RANKING)
    value = lambda objective, p, b: objective(DECODER, p, b).loss.value()
    both = lambda p, b: (value(contrast, p, b), *(value(RANKING, p, own(b, v)) for v in (0, 1)))
    got, one, other = jax.jit(both)(params, batch)
    assert float(got) == pytest.approx((float(one) + float(other)) / 2, abs=1e-6)
    assert abs(one - other) > 1e-3


def test_without_dropout_or_in_pieces_there_is_no_contrast():
    objective = fine_tuning.SimCse().objective(RANKING)
    with pytest.raises(ValueError, match="no dropout"):
        objective(DECODER, DECODER.init(jax.random.key(0)), rows(DECODER))
    with pytest.raises(UserError, match=r"train.microbatches=2: .* compares all answers"):
        train_step(DECODER, objective, Optimizer(), 2)
    assert isinstance(objective, Contrastive)


def answers(model):
    """Prompts with 3, 2 and 4 unlabelled answers; two rows."""
    r = np.random.default_rng(3)
    text = lambda n: r.integers(1, 13, n).tolist()
    groups = [unlabelled(str(k), text(2), [text(2) for _ in range(k)]) for k in (3, 2, 4)]
    shape = packing.RowShape(length=48, slots=8, targets=32, pairs=8)
    packed = [[groups[0], groups[1]], [groups[2]]]
    return packing.stack([packing.assemble(p, shape, share=model.share) for p in packed])


@pytest.mark.parametrize("model", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_the_difference_of_unlabelled_answers_is_its_loop(model):
    params, batch = model.init(jax.random.key(0)), answers(model)
    out, rewards = jax.jit(lambda p, b: (Difference()(model, p, b), Scalar()(model, p, b)))(params, batch)
    rewards = np.asarray(rewards, np.float64)
    total = 0.0
    for r in (rewards[0, :3], rewards[0, 3:5], rewards[1, :4]):
        k = len(r)
        gaps = [abs(r[i] - r[j]) for i in range(k) for j in range(i + 1, k)]
        total += 2 / k**2 * sum(1 / (1 + np.exp(-g)) for g in gaps)
    assert float(out.loss.value()) == pytest.approx(total / 3, abs=1e-5)
    assert float(out.loss.weight) == pytest.approx(3)


def test_metarm_is_two_gradients_however_they_are_split():
    params = DECODER.init(jax.random.key(0))
    batch = TwoRows(rows(DECODER), answers(DECODER))
    halves, out = gradient(DECODER, MetaRm(ranking=RANKING, eta=0.5), params, batch, 2)
    up = gradient(DECODER, Difference(), params, batch.unlabelled)[0]
    ahead = jax.tree.map(lambda p, g: p + 0.5 * g, params, up)
    by_hand, plain = (gradient(DECODER, RANKING, p, batch.labelled)[0] for p in (ahead, params))
    near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)
    jax.tree.map(near, halves, by_hand)
    assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(halves), jax.tree.leaves(plain), strict=True)) > 1e-3
    assert {"difference", "accuracy"} <= out.metrics.keys()
