"""The benchmark on tiny models: its losses are those of trl's trainer, step by step; its line is whole."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from rmjax.models.config import DecoderConfig, EncoderConfig


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "reward.py"
    spec = importlib.util.spec_from_file_location("reward_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


CONFIGS = {
    "llama": DecoderConfig(vocab=4096, layers=2, embed=16, heads=4, kv_heads=2, head_dim=4, mlp=24, tied=False),
    "encoder": EncoderConfig(vocab=4096, layers=2, embed=16, heads=4, mlp=24),
}


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    answer = lambda i, word: " ".join([word, *(f"w{k}" for k in range(1 + i % 5))])
    lines = [
        {"prompt": f"question {i} " * (1 + i % 3), "chosen": answer(i, "good"), "rejected": answer(i + 2, "bad")}
        for i in range(8)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize("backbone", CONFIGS)
def test_losses_are_trl_s(benchmark, pairs, backbone):
    pytest.importorskip("trl")
    b = benchmark.Benchmark(data=pairs, backbone=backbone, steps=2, batch=4)
    out = benchmark.measure(b, CONFIGS[backbone])
    assert out["agree"] is True and out["loss_difference"] < 1e-5, out
    assert out["loss"][0] != out["loss"][1]
    assert json.loads(json.dumps(out))["name"] == f"reward_{backbone}"
    assert out["ratio"] == pytest.approx(out["ours"] / out["peer"], rel=0.05)


def test_too_few_pairs(benchmark, pairs):
    with pytest.raises(SystemExit, match="8 pairs of at most 512 tokens, 64 are needed"):
        benchmark.examples(benchmark.Benchmark(data=pairs))
