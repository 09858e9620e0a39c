"""Dropout in training: its seed, its share. A resumed run repeats its masks: `tests/jobs/test_train_methods.py`."""

import pytest
import small_training
from small_training import equal, train

from rmjax.errors import UserError
from rmjax.training.loop import Train


def test_the_seed_decides_the_masks(monkeypatch):
    """With one group, the order of the data is the same under every seed."""
    one = small_training.groups(1)
    monkeypatch.setattr(small_training, "groups", lambda: one)
    run = lambda seed: train(None, dropout=0.3, steps=2, save_every=0, seed=seed)
    assert not equal(run(0), run(2**40 + 1))


def test_a_rate_that_drops_all_is_refused():
    with pytest.raises(UserError, match=r"train\.dropout=1"):
        Train(steps=1, dropout=1.0)
