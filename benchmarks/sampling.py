"""Sampling against transformers' `generate`: same weights, same prompts, one run.

    python benchmarks/sampling.py [--peer none] [--runs 3]

8 prompts of 512 tokens, 8 samples each of 128 new tokens at temperature 1, float32, by a random Llama of 8 layers and
width 256. The last line is a JSON object; `ours` and `peer` are new tokens per second, `ratio` is ours / peer,
`floor_ratio` our time / the floor's. The floor is the arithmetic at the rate of a large matrix product plus the bytes
that every step must read (weights, prompt caches once per prompt, suffixes) at the rate of a large copy, both measured
here, in the same run. `agree`: greedy tokens are the peer's, and recorded log-probabilities are those of its forward
pass (of our own, where there is no peer) to 1e-4.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from rmjax.jobs.devices import Devices, split_cpu
from rmjax.models import hf
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.records import Rollout
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler
from rmjax.training.state import current_mesh

LLAMA = DecoderConfig(vocab=4096, layers=8, embed=256, heads=4, kv_heads=4, head_dim=64, mlp=704, tied=False)
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    peer: Literal["transformers", "none"] = "transformers"
    runs: int = 3  # the fastest counts, for both
    prompts: int = 8
    length: int = 512  # tokens of a prompt
    samples: int = 8
    new: int = 128  # tokens of a sample


class Endless:
    """A chat without a final token: every sample has `new` tokens."""

    eos: tuple[int, ...] = ()

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def requests(b: Benchmark, config: DecoderConfig, samples: int) -> list[Request]:
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, config.vocab, (b.prompts, b.length))
    return [Request(f"prompt {i}", prompt.tolist(), samples) for i, prompt in enumerate(prompts)]


def fastest(run: Callable[[], Any], runs: int) -> tuple[Any, float]:
    """A result and the least seconds; a first run, which compiles, does not count."""
    result, best = run(), float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    return result, best


def floor(b: Benchmark, c: DecoderConfig) -> dict[str, float]:
    """The least work, and how long it takes at this machine's measured rates."""
    block = c.embed * c.head_dim * (2 * c.heads + 2 * c.kv_heads) + 3 * c.embed * c.mlp
    head, steps, rows = c.vocab * c.embed, b.new, b.prompts * b.samples
    attend = 4 * c.layers * c.heads * c.head_dim  # operations per query and key
    prefill = b.prompts * b.length * (2 * c.layers * block + attend * (b.length + 1) / 2)
    decode = rows * steps * (2 * (c.layers * block + head) + attend * (b.length + (steps + 1) / 2))
    token = 2 * 4 * c.layers * c.kv_heads * c.head_dim  # bytes of a cached token
    read = 4 * (c.layers * block + head) + token * (b.prompts * b.length + rows * (steps + 1) / 2)
    a = jnp.ones((2048, 2048), jnp.float32)
    matmul = jax.jit(lambda a: a @ a)
    rate = 2 * 2048**3 / fastest(lambda: matmul(a).block_until_ready(), 10)[1]
    source = np.ones(2**26, np.float32)
    target = np.empty_like(source)
    copy = 2 * source.nbytes / fastest(lambda: np.copyto(target, source), 5)[1]
    return {
        "gflop": (prefill + decode) / 1e9,
        "gbyte": steps * read / 1e9,
        "gflop_per_s": rate / 1e9,
        "gbyte_per_s": copy / 1e9,
        "seconds": (prefill + decode) / rate + steps * read / copy,
    }


def own_logps(model: Model, params: Any, prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout]) -> np.ndarray:
    """Teacher-forced log-probabilities of rollouts of equal length by our own forward pass."""
    rows = np.asarray([[*p, *r.tokens] for p, r in zip(prompts, rollouts, strict=True)], np.int32)
    zeros = np.zeros_like(rows)

    @jax.jit
    def run(params: Any, rows: jax.Array) -> jax.Array:
        net = model.bind(params)
        hidden = net.hidden(rows, jnp.broadcast_to(jnp.arange(rows.shape[1]), rows.shape), zeros, zeros)
        new = len(rollouts[0].tokens)
        logps = jax.nn.log_softmax(net.logits(hidden[:, -new - 1 : -1]))
        return jnp.take_along_axis(logps, rows[:, -new:, None], axis=-1)[..., 0]

    return np.asarray(run(params, rows))


class Peer:
    """transformers' `generate`, with the weights that we exported."""

    def __init__(self, directory: Path) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self._torch = torch
        torch.set_num_threads(os.cpu_count() or 1)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def generate(self, prompts: Sequence[Sequence[int]], new: int, samples: int, *, greedy: bool) -> np.ndarray:
        """New tokens [prompts * samples, new]."""
        ids = self._torch.tensor(prompts)
        how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        with self._torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                num_return_sequences=samples,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=0,
                eos_token_id=None,
                **how,
            )
        return out[:, ids.shape[1] :].numpy()

    def logps(self, prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout]) -> np.ndarray:
        """Teacher-forced log-probabilities [r, new] of rollouts of equal length."""
        torch, out = self._torch, []
        for prompt, rollout in zip(prompts, rollouts, strict=True):
            with torch.inference_mode():
                logits = self._model(torch.tensor([[*prompt, *rollout.tokens]])).logits[0, len(prompt) - 1 : -1]
            out.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(rollout.tokens)[:, None])[:, 0].numpy())
        return np.stack(out)


def measure(b: Benchmark, config: DecoderConfig = LLAMA) -> dict[str, Any]:
    """Runs the benchmark, our side over all devices; what the last line says."""
    nnx.set_graph_mode(False)
    least = floor(b, config)
    with Devices().use():
        return sides(b, config, least)


def sides(b: Benchmark, config: DecoderConfig, least: dict[str, float]) -> dict[str, Any]:
    """`measure`, on whatever mesh is set."""
    model = Model.of(config)
    params = model.init(jax.random.key(0), mesh=current_mesh())
    asked, tokens = requests(b, config, b.samples), b.prompts * b.samples * b.new
    sampler = Sampler(model, params, Endless(), Sampling(max_new_tokens=b.new), seed=0, quiet=True)
    rollouts, seconds = fastest(lambda: sampler.run(asked), b.runs)
    print(f"rmjax: {seconds:.2f} s, {tokens / seconds:,.0f} tokens/s")
    print(
        f"floor: {least['seconds']:.2f} s = {least['gflop']:.0f} GFLOP at {least['gflop_per_s']:.0f} GFLOP/s"
        f" + {least['gbyte']:.1f} GB at {least['gbyte_per_s']:.1f} GB/s; ours is {seconds / least['seconds']:.2f} of it"
    )
    some = rollouts[:: b.samples]  # one of each prompt
    prompts = [r.prompt for r in asked]
    recorded = np.asarray([r.logps for r in some])
    differences = {"own": float(np.abs(own_logps(model, params, prompts, some) - recorded).max())}
    same, peer_seconds = True, None
    if b.peer == "transformers":
        with tempfile.TemporaryDirectory() as folder:
            peer = Peer(hf.save(Path(folder) / "model", model, params))
        _, peer_seconds = fastest(lambda: peer.generate(prompts, b.new, b.samples, greedy=False), b.runs)
        print(f"transformers: {peer_seconds:.2f} s, {tokens / peer_seconds:,.0f} tokens/s")
        how = Sampling(temperature=0, max_new_tokens=b.new)
        greedy = Sampler(model, params, Endless(), how, seed=0, quiet=True).run(requests(b, config, 1))
        same = bool((peer.generate(prompts, b.new, 1, greedy=True) == [r.tokens for r in greedy]).all())
        differences["peer"] = float(np.abs(peer.logps(prompts, some) - recorded).max())
        print(f"greedy tokens identical: {same}")
    print("log-probabilities, largest difference:", ", ".join(f"{k} {v:.1e}" for k, v in differences.items()))
    return {
        "name": "sampling",
        "ours": round(tokens / seconds, 1),
        "peer": peer_seconds and round(tokens / peer_seconds, 1),
        "ratio": peer_seconds and round(peer_seconds / seconds, 2),
        "floor_ratio": round(seconds / least["seconds"], 2),
        "agree": same and max(differences.values()) < TOLERANCE,
        "seconds": round(seconds, 3),
        "floor": {name: round(value, 2) for name, value in least.items()},
        "max_logp_difference": max(differences.values()),
        "settings": dataclasses.asdict(b),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    split_cpu()
    print(json.dumps(measure(tyro.cli(Benchmark, description=__doc__))))
