"""A policy so small that its programs compile fast, and settings under which tests of one process share them."""

import dataclasses
from pathlib import Path

from rmjax.methods.proxy_oracle import ProxyOracle
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer
from rmjax.worlds import base_model

SMALL = dataclasses.replace(base_model.DECODER, layers=1, embed=16, heads=1, kv_heads=1, head_dim=16, mlp=16)
TRAIN = Train(optimizer=Optimizer(learning_rate=1e-2), batch=4, steps=2, length=32, quiet=True)
METHOD = ProxyOracle(
    responses=3,
    budget=4,
    per_label=2,
    members=2,
    sampling=Sampling(max_new_tokens=4),
    evaluator_train=TRAIN,
    train=TRAIN,
)


def write_base(path: Path, *, seed: int = 0) -> Path:
    """The untrained policy as a directory."""
    return base_model.write(path, config=SMALL, seed=seed)
