"""The benchmark on a tiny model: loss and gradient are those of trl's trainer, weights included; its line is whole."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rmjax.models.config import DecoderConfig

TINY = DecoderConfig(vocab=61, layers=2, embed=16, heads=4, kv_heads=2, head_dim=4, mlp=24, tied=False)
SMALL = dict(runs=1, microbatches=2, prompts=2, length=12, samples=4, new=4)


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "mdpo.py"
    spec = importlib.util.spec_from_file_location("mdpo_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def test_packed_agrees_with_unshared(benchmark):
    out = benchmark.measure(benchmark.Benchmark(peer="none", **SMALL), TINY)
    assert out["agree"] is True and out["gradient_difference"] < 1e-4
    assert out["peer"] is None and out["ratio"] is None
    assert json.loads(json.dumps(out))["name"] == "mdpo"
    assert out["pairs"] == 2 * 6


def test_agrees_with_trl(benchmark):
    pytest.importorskip("trl")
    out = benchmark.measure(benchmark.Benchmark(peer_batch=2, **SMALL), TINY)
    assert out["agree"] is True, out
    assert out["ratio"] == pytest.approx(out["peer"] / out["ours"], rel=0.1)


def test_issue_sizes(benchmark):
    """8 prompts x 24 ordered pairs at 4 levels x 2, and weights that are not all one."""
    groups = benchmark.examples(benchmark.Benchmark(), 4096)
    assert len(groups) == 8 and all(len(g.pairs) == 24 and len(g.completions) == 8 for g in groups)
    assert {len(g.prompt) for g in groups} == {512} and {len(c) for g in groups for c in g.completions} == {64}
    assert sorted(set(np.round(groups[0].weight, 4))) == [1.3133, 2.1269, 3.0486]


def test_disagreement_is_seen(benchmark):
    """One parameter's gradient that is off by a thousandth does not pass."""
    grads = {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}
    apart = benchmark.difference((1.0, grads | {"b": grads["b"] * 1.001}), (1.0, grads))
    assert apart["gradient_difference"] == pytest.approx(1e-3, rel=1e-3)
    assert apart["gradient_difference"] > benchmark.TOLERANCE
