"""One pass (loss and gradient) of multi-level DPO against trl's DPOTrainer: same weights, same pairs, one run.

    python benchmarks/mdpo.py [--peer none] [--runs 3]

8 prompts of 512 tokens, 8 judgments of 64 tokens each at 4 levels x 2, all 24 ordered pairs a prompt with weights
softplus(level gap), by a random Llama of 8 layers and width 256 in float32. We compute every distinct token once, in
packed rows, against reference log-probabilities that are stored with the data (here the reference is another random
model). trl runs each pair as two whole sequences, and the reference model beside it; its weights are those of its
batches, each of which has pairs of one weight.

The last line is a JSON object. `ours` and `peer` are seconds of a pass and `ratio` is peer / ours;
`peer_precomputed` is trl with reference log-probabilities computed once before (`peer_reference` seconds);
`floor_ratio` is our time / the floor's, which is the least arithmetic at the rate of a large matrix product measured
here. `cpu_seconds` is our pass in processor time, which a busy machine disturbs less; with a `load_average` (at the
start) much above 0, the seconds and their ratios say more about the machine than about either side. `agree`: the loss
and every parameter's gradient are trl's to 1e-4, relative (norm of the difference / norm); without a peer, those of
the same pairs computed without any sharing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
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

from rmjax.data import packing
from rmjax.data.rows import Group
from rmjax.jobs.devices import Devices, split_cpu
from rmjax.models import hf
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Implicit, LogProb
from rmjax.training.flops import train_flops
from rmjax.training.loop import Train, place_rows
from rmjax.training.state import current_mesh
from rmjax.training.step import gradients

LLAMA = DecoderConfig(vocab=4096, layers=8, embed=256, heads=4, kv_heads=4, head_dim=64, mlp=704, tied=False)
BETA, LEVELS, TOLERANCE = 0.1, 4, 1e-4


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    peer: Literal["trl", "none"] = "trl"
    runs: int = 3  # of ours; the fastest counts
    microbatches: int = 2  # pieces of our pass (the trainer's option): less memory to touch for the first time
    peer_runs: int = 1  # of trl's
    peer_batch: int = 8  # pairs of a trl batch
    prompts: int = 8
    length: int = 512  # tokens of a prompt
    samples: int = 8  # judgments of a prompt, spread over 4 levels
    new: int = 64  # tokens of a judgment, the final one included


def examples(b: Benchmark, vocab: int) -> list[Group]:
    """Prompts and judgments of random words; the last token of the vocabulary ends a judgment. No reference yet."""
    rng = np.random.default_rng(0)
    level = [i * LEVELS // b.samples for i in range(b.samples)]
    pairs = [(i, j) for i in range(b.samples) for j in range(b.samples) if level[i] < level[j]]
    weight = [math.log1p(math.exp(level[j] - level[i])) for i, j in pairs]
    words = lambda n: rng.integers(0, vocab - 1, n).tolist()
    return [
        Group(
            id=f"prompt {i}",
            prompt=words(b.length),
            completions=[[*words(b.new - 1), vocab - 1] for _ in range(b.samples)],
            pairs=pairs,
            weight=weight,
        )
        for i in range(b.prompts)
    ]


def timed(run: Callable[[], Any], runs: int) -> tuple[Any, float, float]:
    """A result, the least wall-clock seconds and the least processor seconds of several runs."""
    result, wall, cpu = None, math.inf, math.inf
    for _ in range(runs):
        start, start_cpu = time.perf_counter(), time.process_time()
        result = run()
        wall, cpu = min(wall, time.perf_counter() - start), min(cpu, time.process_time() - start_cpu)
    return result, wall, cpu


class Ours:
    """The compiled pass on packed rows; `share=False` copies the prompt for every judgment (the oracle)."""

    def __init__(
        self, model: Model, params: Any, groups: Sequence[Group], *, microbatches: int, share: bool = True
    ) -> None:
        objective = Pairwise(score=Implicit(beta=BETA))
        objective.check(groups, model)
        shape = packing.fit(groups, share=share)
        rows = packing.stack(packing.pack(groups, shape, share=share).rows)
        self.flops = train_flops(model, rows)
        self.rows, self._params = place_rows(rows, current_mesh()), params
        program = jax.jit(lambda params, rows: gradients(model, objective, params, rows, microbatches))
        start = time.perf_counter()
        self._program = program.lower(params, self.rows).compile()
        self.compile_seconds = time.perf_counter() - start

    def run(self) -> tuple[float, Any]:
        """The loss and its gradient, computed to the end."""
        grads, out = jax.block_until_ready(self._program(self._params, self.rows))
        return float(out.loss.value()), grads


class Peer:
    """trl's DPOTrainer on the exported models; a pass is its own `compute_loss` and backward over all batches."""

    def __init__(self, folder: Path, b: Benchmark, groups: Sequence[Group], vocab: int) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import datasets
        import tokenizers
        import torch
        import transformers
        import trl

        for module in (datasets, transformers):
            module.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()
        logging.getLogger("trl").setLevel(logging.ERROR)
        torch.set_num_threads(os.cpu_count() or 1)
        words = {f"w{i}": i for i in range(vocab - 1)} | {"</s>": vocab - 1}
        core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
        core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")

        text = lambda ids: " ".join(f"w{i}" for i in ids)
        pairs = [(w, g, *p) for g in groups for p, w in zip(g.pairs, g.weight, strict=True)]
        pairs.sort(key=lambda p: p[0])  # one weight per batch
        data = datasets.Dataset.from_dict(
            {
                "prompt": [text(g.prompt) + " " for _, g, _, _ in pairs],
                "chosen": [text(g.completions[i][:-1]) for _, g, i, _ in pairs],
                "rejected": [text(g.completions[j][:-1]) for _, g, _, j in pairs],
            }
        )
        load = lambda name: transformers.AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
        self._trainer = trl.DPOTrainer(
            load("policy"),
            load("reference"),
            trl.DPOConfig(
                output_dir=str(folder / "trl"),
                beta=BETA,
                per_device_train_batch_size=b.peer_batch,
                gradient_checkpointing=False,
                max_length=None,
                bf16=False,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=data,
            processing_class=tokenizer,
        )
        self._model, self._reference = self._trainer.model, self._trainer.ref_model
        self._model.train()
        rows = list(self._trainer.train_dataset)
        for row, (_, g, i, j) in zip(rows, pairs, strict=True):
            same = row["prompt_ids"] == g.prompt
            if not (same and row["chosen_ids"] == g.completions[i] and row["rejected_ids"] == g.completions[j]):
                raise AssertionError("trl's token ids are not ours")
        self._batches, total = [], sum(w for w, *_ in pairs)
        for weight in sorted({w for w, *_ in pairs}):
            some = [row for row, (w, *_) in zip(rows, pairs, strict=True) if w == weight]
            for k in range(0, len(some), b.peer_batch):
                batch = some[k : k + b.peer_batch]
                share = weight * len(batch) / total
                self._batches.append((share, self._trainer._prepare_inputs(self._trainer.data_collator(batch))))

    def run(self) -> float:
        """The loss; the gradient is left in the model."""
        self._model.zero_grad()
        loss = 0.0
        for share, inputs in self._batches:
            part = self._trainer.compute_loss(self._model, inputs) * share
            part.backward()
            loss += float(part.detach())
        return loss

    def precompute(self) -> None:
        """Reference log-probabilities of every pair, once; `run` uses them from then on."""
        for _, inputs in self._batches:
            chosen, rejected = self._trainer.compute_ref_log_probs(self._reference, inputs)
            inputs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        self._trainer.precompute_ref_logps = True

    def gradient(self, folder: Path, model: Model) -> Any:
        """Its gradient as our parameter tree, through a model directory like any other."""
        for p in self._model.parameters():
            p.data = p.grad
        self._model.save_pretrained(folder / "gradient")
        return hf.load_params(folder / "gradient", model)


def difference(ours: tuple[float, Any], theirs: tuple[float, Any]) -> dict[str, float]:
    """Relative differences of two losses, and of two gradients: the worst parameter's."""

    def relative(x: Any, y: Any) -> float:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return float(np.linalg.norm(x - y) / np.linalg.norm(y))

    worst = max(jax.tree.leaves(jax.tree.map(relative, ours[1], theirs[1])))
    return {"loss_difference": abs(ours[0] - theirs[0]) / abs(theirs[0]), "gradient_difference": worst}


def matmul_rate() -> float:
    """FLOP/s of a large product, the best of ten."""
    x = jnp.ones((2048, 2048), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    return 2 * 2048**3 / timed(lambda: multiply(x, x).block_until_ready(), 10)[1]


def measure(b: Benchmark, config: DecoderConfig = LLAMA) -> dict[str, Any]:
    """Both sides, one after the other, ours over all devices."""
    load, rate = os.getloadavg()[0], matmul_rate()
    with Devices().use(Train(steps=1, batch=b.prompts, microbatches=b.microbatches)):
        return {**sides(b, config, rate), "load_average": round(load, 2), "cores": os.cpu_count()}


def sides(b: Benchmark, config: DecoderConfig, rate: float) -> dict[str, Any]:
    """`measure`, on whatever mesh is set; `rate` is the floor's, in FLOP/s."""
    model = Model.of(config)
    params, reference = (model.init(jax.random.key(seed), mesh=current_mesh()) for seed in (0, 1))
    bare = examples(b, config.vocab)
    scores = slot_scores(model, reference, bare, LogProb(), batch=b.prompts)
    groups = [dataclasses.replace(g, ref_logps=s.tolist()) for g, s in zip(bare, scores, strict=True)]

    own = Ours(model, params, groups, microbatches=b.microbatches)
    own.run()  # the first touches its memory for the first time
    result, seconds, cpu = timed(own.run, b.runs)
    out: dict[str, Any] = {"name": "mdpo", "ours": round(seconds, 6), "peer": None, "ratio": None}
    out |= {"floor_ratio": round(seconds * rate / own.flops, 3), "agree": False}
    out |= {"cpu_seconds": round(cpu, 3), "compile_seconds": round(own.compile_seconds, 1)}
    out |= {"floor_seconds": round(own.flops / rate, 3), "gflop": round(own.flops / 1e9, 1)}
    out |= {"matmul_gflop_per_s": round(rate / 1e9, 1), "pairs": sum(len(g.pairs) for g in groups)}
    if b.peer == "none":
        # One prompt at a time: all of its copies at once would need tens of gigabytes.
        alone = Ours(model.with_config(remat="full"), params, groups, microbatches=b.prompts, share=False)
        apart = difference(result, alone.run())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            hf.save(folder / "policy", model, params)
            hf.save(folder / "reference", model, reference)
            peer = Peer(folder, b, groups, config.vocab)
            loss, out["peer"], out["peer_cpu_seconds"] = timed(peer.run, b.peer_runs)
            _, out["peer_reference"], _ = timed(peer.precompute, 1)
            _, out["peer_precomputed"], _ = timed(peer.run, b.peer_runs)
            apart = difference(result, (loss, peer.gradient(folder, model)))
        out["ratio"] = round(out["peer"] / seconds, 2)
        out |= {k: round(out[k], 6) for k in ("peer", "peer_cpu_seconds", "peer_reference", "peer_precomputed")}
    return out | {"agree": max(apart.values()) < TOLERANCE, **apart, "tolerance": TOLERANCE, "loss": result[0]}


def main() -> None:
    b = tyro.cli(Benchmark)
    split_cpu()
    print(json.dumps(measure(b)))


if __name__ == "__main__":
    main()
