"""Proto-RM on a whole network: its loss against a float64 loop, its first prototypes, what moves served scores."""

import dataclasses

import jax
import numpy as np
import pytest
from test_fine_tuning_losses import DECODER, RANKING, WEIGHTS, features, gradient, rows, softplus

from rmjax.data import packing
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.methods.fine_tuning import ProtoRm
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar

METHOD = ProtoRm(embed=4, capacity=6, start_with=2, assignment=0.7, diversity=0.3, gamma=0.5, sigma=1e-3)
MODEL = DECODER.with_head(METHOD.head)


def groups(count=8):
    r = np.random.default_rng(1)
    text = lambda n: r.integers(1, 13, n).tolist()
    return [Group(id=str(i), prompt=text(3), completions=[text(2), text(3)], pairs=[(0, 1)]) for i in range(count)]


@pytest.fixture(scope="module")
def started():
    params = MODEL.init(jax.random.key(0))
    return MODEL, {**params, "head": METHOD.first_head(MODEL, params, groups(), jax.random.key(2))}


def test_the_first_prototypes_are_means_of_the_training_answers(started):
    """One a class, and no room for more: the class means of the embeddings."""
    one = ProtoRm(embed=4, capacity=2, start_with=1)
    model = DECODER.with_head(one.head)
    params = model.init(jax.random.key(0))
    items = groups(4)
    tie, turned = dataclasses.replace(items[0], smooth=[0.5]), dataclasses.replace(items[1], smooth=[0.9])
    head = one.first_head(model, params, [tie, turned, *items[2:]], jax.random.key(2))
    shape = packing.RowShape(length=12, slots=2, targets=8, pairs=1)
    batch = packing.stack([packing.assemble([g], shape, share=True) for g in items])
    z = features(model, params, batch) @ np.asarray(head["projection"], np.float64)
    assert np.mean(np.sum((z - z.mean((0, 1))) ** 2, -1)) == pytest.approx(1, abs=1e-4)  # the unit of gamma and sigma
    whole = [np.asarray(h["projection"]) @ np.asarray(h["weight"]) for h in (params["head"], head)]
    np.testing.assert_allclose(*whole, rtol=1e-4)
    for label, side in ((1.0, 0), (0.0, 1)):
        row = int(np.flatnonzero(head["classes"] == label)[0])
        own = [z[1, 1 - side], z[2, side], z[3, side]]  # without the tie, and the turned pair turned
        np.testing.assert_allclose(head["prototypes"][row], np.mean(own, 0), atol=1e-5)
    assert started[1]["head"]["valid"].sum() > 4  # IMP found room for more


def test_the_loss_is_its_loop_and_every_leaf_learns(started):
    model, params = started
    batch = dataclasses.replace(rows(model), smooth=np.tile([[0.0], [0.3], [0.5], [0.8], [0.0], [0.0]], 2))
    grads, out = gradient(model, METHOD.objective(RANKING), params, batch)
    head = {k: np.asarray(v, np.float64) for k, v in params["head"].items()}
    there = head["valid"] > 0.5
    f = features(model, params, batch)[: len(WEIGHTS)]
    total = 0.0
    for weight, pair, wrong in zip(WEIGHTS, f, batch.smooth[:, 0], strict=False):
        rewards, pulled = [], 0.0
        for x, label in zip(pair, (1.0, 0.0), strict=True):
            z = x @ head["projection"]
            logits = np.array([-0.5 * np.sum((z - p) ** 2) for p in head["prototypes"]])
            a = np.where(there, np.exp(logits), 0.0)
            a = a / a.sum()
            rewards.append(head["weight"] @ (0.5 * z + 0.5 * a @ head["prototypes"]))
            mass = [a[there & (head["classes"] == c)].sum() for c in (label, 1 - label)]
            pulled -= ((1 - wrong) * np.log(mass[0]) + wrong * np.log(mass[1])) / 2
        gap = rewards[0] - rewards[1]
        total += weight * ((1 - wrong) * softplus(-gap) + wrong * softplus(gap) + 0.7 * pulled)
    apart = 0.0
    for label in (0.0, 1.0):
        own = head["prototypes"][there & (head["classes"] == label)]
        gaps = [0.5 - np.linalg.norm(a - b) for i, a in enumerate(own) for b in own[i + 1 :]]
        near = [g for g in gaps if g > 0]
        apart += sum(near) / max(len(near), 1)
    assert float(out.loss.value()) == pytest.approx(total / sum(WEIGHTS) + 0.3 * apart, abs=1e-5)
    fixed = {"valid", "classes", "gamma", "mix"}
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert (np.abs(g).max() > 0) != (path[-1].key in fixed), path
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        gradient(model, METHOD.objective(RANKING), params, batch, 2)[0],
        grads,
    )


def test_a_moved_prototype_moves_served_scores(started):
    model, params = started
    moved = {**params, "head": {**params["head"], "prototypes": params["head"]["prototypes"] + 0.5}}
    before, after = (np.stack(slot_scores(model, p, groups(), Scalar())) for p in (params, moved))
    assert np.abs(before - after).max() > 1e-3


def test_no_room_for_the_first_prototypes_is_refused():
    with pytest.raises(UserError, match=r"method.capacity=3: two classes of 2"):
        ProtoRm(capacity=3, start_with=2)
