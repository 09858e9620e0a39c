"""Dropout in training: the same update however it is split, the same run after an interruption, another by its seed."""

import jax
import numpy as np
import pytest
import small_training
from small_training import MODEL, equal, groups, params, rows, train
from test_resume import interrupt

from rmjax.data import packing
from rmjax.errors import UserError
from rmjax.objectives.sft import Sft
from rmjax.training.loop import Train
from rmjax.training.step import gradients, with_dropout


def test_microbatches_change_no_mask():
    items = groups(4)
    shape = packing.fit(items[:1], length=16)
    batch = packing.stack([packing.assemble([g], shape) for g in items])
    batch = with_dropout(batch, jax.random.key(0), 0.4)
    run = lambda n: jax.jit(lambda p: gradients(MODEL, Sft(), p, batch, n)[0])(params())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), run(1), run(2))


def test_a_resumed_run_repeats_its_masks(tmp_path, monkeypatch):
    how = {"dropout": 0.3, "steps": 6}
    unbroken = train(tmp_path / "a", **how)
    interrupt(tmp_path / "b", monkeypatch, after=5, **how)
    assert equal(train(tmp_path / "b", **how), unbroken)
    assert rows(tmp_path / "b") == rows(tmp_path / "a")
    assert not equal(train(None, **how | {"dropout": 0.0}), unbroken)


def test_the_seed_decides_the_masks(monkeypatch):
    """With one group, the order of the data is the same under every seed."""
    one = small_training.groups(1)
    monkeypatch.setattr(small_training, "groups", lambda: one)
    run = lambda seed: train(None, dropout=0.3, steps=2, save_every=0, seed=seed)
    assert not equal(run(0), run(2**40 + 1))


def test_a_rate_that_drops_all_is_refused():
    with pytest.raises(UserError, match=r"train\.dropout=1"):
        Train(steps=1, dropout=1.0)
