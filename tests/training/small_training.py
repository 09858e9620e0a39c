"""A tiny training for all tests of the loop."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from rmjax.data.rows import Group
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.objectives.sft import Sft
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler
from rmjax.sharding import current_mesh
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


EVALUATED = dict(eval_every=6, eval_share=0.3, select="best", keep=3)  # changes of it


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
    return MODEL.init(jax.random.key(seed), mesh=current_mesh())


def sampler(params: Any) -> Sampler:
    chat = SimpleNamespace(eos=(0,), text=lambda ids: " ".join(map(str, ids)))
    return Sampler(MODEL, params, chat, Sampling(max_new_tokens=6), seed=3, slots=2, quiet=True)


def requests() -> list[Request]:
    return [Request(f"r{i}", g.prompt, 2) for i, g in enumerate(groups(9))]


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
