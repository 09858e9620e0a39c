"""The benchmark on few points: our picks are numpy's."""

import importlib.util
import sys
from pathlib import Path


def test_agrees_with_numpy():
    path = Path(__file__).parents[2] / "benchmarks" / "k_center.py"
    spec = importlib.util.spec_from_file_location("k_center_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look their module up
    spec.loader.exec_module(benchmark)
    small = benchmark.Benchmark(points=600, width=5, picks=30, clusters=7, labelled=4, peer_picks=30)
    out = benchmark.measure(small)
    assert out["agree"] is True and out["picks"] == 30 and out["seconds"] > 0 and out["floor_seconds"] >= 0
