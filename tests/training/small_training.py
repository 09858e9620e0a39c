"""A tiny training for all tests of the loop; run as a program, it is the command that is killed and repeated.

python small_training.py FOLDER [SECONDS_PER_STEP]
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmjax.data.rows import Group
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.objectives.sft import Sft
from rmjax.training import loop
from rmjax.training.loop import Train, fit
from rmjax.training.optimizer import Optimizer

MODEL = Model.of(DecoderConfig(vocab=13, layers=1, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=8))
TRAIN = Train(
    optimizer=Optimizer(learning_rate=3e-3, warmup=2, weight_decay=0.1),
    steps=14,
    batch=4,
    log_every=3,
    save_every=4,
    quiet=True,
)


def groups(count: int = 11, *, pairs: bool = False, seed: int = 0) -> list[Group]:
    """Prompts whose completion repeats their last token, and, with pairs, completions that do not."""
    r = np.random.default_rng(seed)
    out = []
    for i in range(count):
        prompt = r.integers(1, 13, int(r.integers(2, 6))).tolist()
        right = [prompt[-1]] * int(r.integers(1, 5)) + [0]
        wrong = r.integers(1, 13, int(r.integers(2, 6))).tolist()
        columns = dict(ref_logps=[-6.0, -9.0], pairs=[(0, 1)], weight=[float(r.uniform(0.5, 2))]) if pairs else {}
        out.append(Group(id=f"g{i}", prompt=prompt, completions=[right, wrong] if pairs else [right], **columns))
    return out


def params(seed: int = 0) -> Any:
    return MODEL.init(jax.random.key(seed))


def train(folder: Path | None, *, seconds: float = 0.0, **changes: Any) -> Any:
    """Runs the training; `seconds` of sleep in every step give a signal the time to arrive in the middle."""
    usual = loop.train_step

    def slow(*args: Any) -> Any:
        step = usual(*args)
        return lambda *inputs: (time.sleep(seconds), step(*inputs))[1]

    loop.train_step = slow if seconds else usual
    try:
        return fit(MODEL, params(), Sft(), groups(), dataclasses.replace(TRAIN, **changes), folder, name="small")
    finally:
        loop.train_step = usual


def rows(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl, without what is never the same twice."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]


def equal(a: Any, b: Any) -> bool:
    """Whether two trees of parameters are the same bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


if __name__ == "__main__":
    where = Path(sys.argv[1])
    result = train(where, seconds=float(sys.argv[2]) if sys.argv[2:] else 0.0)
    np.savez(where / "params.npz", *jax.tree.leaves(result))
