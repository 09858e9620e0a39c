"""The benchmark on a tiny model: greedy tokens and log-probabilities are transformers', and its last line is whole."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from rmjax.models.config import DecoderConfig

pytest.importorskip("torch")

TINY = DecoderConfig(vocab=61, layers=2, embed=32, heads=4, kv_heads=2, head_dim=8, mlp=48, tied=False)


def test_agrees_with_transformers():
    path = Path(__file__).parents[2] / "benchmarks" / "sampling.py"
    spec = importlib.util.spec_from_file_location("sampling_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look their module up
    spec.loader.exec_module(benchmark)
    out = benchmark.measure(benchmark.Benchmark(runs=1, prompts=3, length=20, samples=2, new=8), TINY)
    assert out["agree"] is True and out["max_logp_difference"] < 1e-4
    assert json.loads(json.dumps(out))["name"] == "sampling"
    assert out["ratio"] == pytest.approx(out["ours"] / out["peer"], rel=0.05)
    alone = benchmark.measure(benchmark.Benchmark(peer="none", runs=1, prompts=3, length=20, samples=2, new=8), TINY)
    assert alone["agree"] is True and alone["peer"] is None and alone["ratio"] is None
