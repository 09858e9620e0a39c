"""DPO updates against google-tunix's DPOTrainer: same weights, same pairs, on a CPU; and both compiled for a TPU.

    python -m venv tunix && tunix/bin/pip install -e . google-tunix==0.1.7 qwix==0.1.8      # an install of its own
    JAX_NUM_CPU_DEVICES=1 tunix/bin/python -m benchmarks.tunix --data pairs.jsonl
    tunix/bin/pip install 'jax[tpu]' && tunix/bin/python -m benchmarks.tunix --data pairs.jsonl --topology v5e:2x2

The pairs of a file (so that lengths are real) as random ids, one a word; the policy and the reference are two random
Llamas. AdamW with the same settings, `batch` pairs an update in the same order, both on one device. tunix pads every
prompt and every answer to the longest measured, and reads a prompt once for each answer; its update is its own
`_prepare_inputs`, which runs the reference, and its own jitted step. Ours runs packed rows, where both answers share
their prompt, against reference log-probabilities that are stored with the data (`reference_seconds`, once for all
pairs). tunix's Llama leaves its setting of the rotary base out and uses 1,000,000; so does ours here.

On the CPU (float32, 8 layers of width 256) updates alternate, ours then tunix's, and `ours` and `peer` are the medians
of their seconds; `peer_step` is tunix's without the reference. `ratio` is peer / ours, `step_ratio` peer_step / ours.
`agree`: the losses of all updates are tunix's to 1e-3, each after the updates before it. Both sides run once before
they are timed. With a `load_average` much above 0 the seconds say more about the machine than about either side.

For a TPU nothing runs: XLA compiles the updates of Llama-3.2-1B's shape, all layers recomputed in the backward pass,
and its estimates are reported, of one chip (`rmjax.aot`). tunix once with float32 parameters and moments as ours has
them, which makes its activations float32 as well, and once with everything bfloat16, as its examples load weights.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import reward
from rmjax.aot import topology
from rmjax.aot.estimate import DoesNotFit, estimate
from rmjax.aot.presets import PRESETS
from rmjax.aot.programs import Program, like
from rmjax.data import packing
from rmjax.data.rows import Group, Rows
from rmjax.models.config import DecoderConfig, Rope
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Implicit, LogProb
from rmjax.sharding import spec
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import new_state, state_shapes, state_shardings
from rmjax.training.step import train_step

BETA, TOLERANCE = 0.1, 1e-3
LLAMA = dataclasses.replace(reward.LLAMA, rope=Rope(theta=1e6))
OPTIMIZER = Optimizer(learning_rate=1e-4, schedule="constant", weight_decay=0.0, clip=1.0)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    data: str  # a file of labelled pairs, for its lengths
    topology: str = ""  # of TPUs, as v5e:2x2: compile for it and run nothing
    steps: int = 7  # updates that are timed
    batch: int = 8  # pairs of one
    longest: int = 512  # tokens of prompt and answer; longer pairs are left out on both sides


def batches_of(b: Benchmark) -> list[list[Group]]:
    """The file's first pairs, by batches."""
    return reward.examples(reward.Benchmark(data=b.data, steps=b.steps, batch=b.batch, longest=b.longest))


class Ours:
    """AdamW updates on packed rows, each batch in rows of its own."""

    def __init__(self, model: Model, params: Any, reference: Any, batches: Sequence[Sequence[Group]]) -> None:
        start = time.perf_counter()
        groups = [g for batch in batches for g in batch]
        scores = slot_scores(model, reference, groups, LogProb())
        known = iter([dataclasses.replace(g, ref_logps=s.tolist()) for g, s in zip(groups, scores, strict=True)])
        self.reference_seconds = time.perf_counter() - start
        self.batches = packed([[next(known) for _ in batch] for batch in batches])
        self._step = train_step(model, Pairwise(score=Implicit(beta=BETA)), OPTIMIZER)
        self._new = lambda: new_state(model, transform(OPTIMIZER.direction, model), params)
        self.reset()

    def reset(self) -> None:
        """Back to the first weights."""
        self._state = jax.block_until_ready(self._new())

    def update(self, i: int) -> tuple[float, float]:
        """The loss before update i, and its seconds."""
        start = time.perf_counter()
        self._state, metrics = self._step(self._state, self.batches[i], OPTIMIZER.learning_rate)
        jax.block_until_ready(self._state)
        return float(metrics["loss"].value()), time.perf_counter() - start


def packed(batches: Sequence[Sequence[Group]], multiple: int = 1) -> list[Rows]:
    """Each batch in rows of its own, filled up with empty ones to as many as the fullest batch has, or a multiple."""
    shape = packing.fit([g for batch in batches for g in batch])
    rows = [packing.pack(batch, shape).rows for batch in batches]
    most = max(map(len, rows))
    most += -most % multiple
    return [jax.device_put(packing.stack([*r, *[packing.empty(shape)] * (most - len(r))])) for r in rows]


def llama(config: DecoderConfig, **changes: Any) -> Any:
    """tunix's config of the same model."""
    from tunix.models.llama3.model import ModelConfig

    return ModelConfig(
        num_layers=config.layers,
        vocab_size=config.vocab,
        embed_dim=config.embed,
        hidden_dim=config.mlp,
        num_heads=config.heads,
        head_dim=config.head_dim,
        num_kv_heads=config.kv_heads,
        rope_theta=int(config.rope.theta),
        norm_eps=config.norm_eps,
        weight_tying=config.tied,
        **changes,
    )


def filled(config: DecoderConfig, params: Any) -> nnx.Module:
    """tunix's Llama with our parameters."""
    from tunix.models.llama3.model import Llama3

    model, ours = Llama3(llama(config), rngs=nnx.Rngs(0)), params["decoder"]
    model.embedder.input_embedding[...] = ours["table"]
    model.final_norm.w[...] = ours["norm"]
    if not config.tied:
        model.lm_head.w[...] = ours["unembed"].T
    for i, layer in enumerate(model.layers):
        block = {name: value[i] for name, value in ours["blocks"].items()}
        layer.input_layernorm.w[...], layer.post_attention_layernorm.w[...] = block["attn_norm"], block["mlp_norm"]
        for name in "qkvo":
            getattr(layer.attn, f"{name}_proj").w[...] = block[f"w{name}"]
        for name in ("gate", "up", "down"):
            getattr(layer.mlp, f"{name}_proj").kernel[...] = block[name]
    return model


def adamw() -> optax.GradientTransformation:
    """Our optimizer's settings in optax's own words."""
    o = OPTIMIZER
    adam = optax.adamw(o.learning_rate, b1=o.b1, b2=o.b2, eps=o.eps, weight_decay=o.weight_decay)
    return optax.chain(optax.clip_by_global_norm(o.clip), adam)


def trainer(policy: nnx.Module, reference: nnx.Module | None) -> Any:
    """tunix's DPOTrainer."""
    from tunix.sft.dpo.dpo_trainer import DPOTrainer, DPOTrainingConfig

    return DPOTrainer(policy, reference, adamw(), DPOTrainingConfig(eval_every_n_steps=1 << 30, beta=BETA))


def padded(batches: Sequence[Sequence[Group]]) -> list[Any]:
    """tunix's inputs: prompts padded on the left, answers on the right, to the longest of all."""
    from tunix.sft.dpo.dpo_trainer import TrainingInput

    groups = [g for batch in batches for g in batch]
    prompt, answer = max(len(g.prompt) for g in groups), max(len(c) for g in groups for c in g.completions)

    def block(lists: Sequence[Sequence[int]], size: int, left: bool) -> tuple[np.ndarray, np.ndarray]:
        ids, mask = np.zeros((len(lists), size), np.int32), np.zeros((len(lists), size), np.int32)
        for i, x in enumerate(lists):
            where = slice(size - len(x), size) if left else slice(0, len(x))
            ids[i, where], mask[i, where] = x, 1
        return ids, mask

    out = []
    for batch in batches:
        x = block([g.prompt for g in batch], prompt, True)
        chosen, rejected = (block([g.completions[k] for g in batch], answer, False) for k in (0, 1))
        out.append(TrainingInput(*x, *chosen, *rejected))
    return out


class Peer:
    """tunix's updates."""

    def __init__(self, config: DecoderConfig, params: Any, reference: Any, batches: Sequence[Sequence[Group]]) -> None:
        self._make = lambda: trainer(filled(config, params), filled(config, reference))
        self._batches = padded(batches)
        self.reset()

    def reset(self) -> None:
        """Back to the first weights; compiled programs stay."""
        made = self._make()
        if not hasattr(self, "_trainer"):
            self._trainer = made
            self._step, _ = made.jit_train_and_eval_step()
            return
        nnx.update(self._trainer.model, nnx.state(made.model))
        nnx.update(self._trainer.optimizer, nnx.state(made.optimizer, nnx.optimizer.OptState))

    def update(self, i: int) -> tuple[float, float, float]:
        """The loss before update i, its seconds, and those of them after the reference."""
        start = time.perf_counter()
        example = jax.block_until_ready(self._trainer._prepare_inputs(self._batches[i]))
        middle = time.perf_counter()
        loss, _, _ = self._step(example)
        jax.block_until_ready((loss, nnx.state(self._trainer.model)))
        end = time.perf_counter()
        return float(loss), end - start, end - middle


def measure(b: Benchmark, config: DecoderConfig = LLAMA) -> dict[str, Any]:
    """Both sides on the CPU, update by update in turns."""
    load, model = os.getloadavg()[0], Model.of(config)
    params, reference = (model.init(jax.random.key(seed)) for seed in (0, 1))
    batches = batches_of(b)
    ours, peer = Ours(model, params, reference, batches), Peer(config, params, reference, batches)
    for side in (ours, peer):  # compiles, and touches its memory for the first time
        side.update(0)
        side.reset()
    found = [(ours.update(i), peer.update(i)) for i in range(b.steps)]
    losses = np.asarray([[o[0], p[0]] for o, p in found])
    seconds = np.median([[o[1], p[1], p[2]] for o, p in found], axis=0)
    apart = np.abs(losses[:, 0] - losses[:, 1]).max()
    tokens, rows = sum(len(g.prompt) + sum(map(len, g.completions)) for x in batches for g in x), ours.batches[0].tokens
    out: dict[str, Any] = {
        "name": "tunix",
        **dict(zip(("ours", "peer", "peer_step"), seconds.round(4).tolist(), strict=True)),
    }
    out |= {"ratio": round(seconds[1] / seconds[0], 2), "step_ratio": round(seconds[2] / seconds[0], 2)}
    out |= {"agree": bool(apart < TOLERANCE), "loss_difference": float(apart), "tolerance": TOLERANCE}
    out |= {"losses": losses.round(6).tolist(), "reference_seconds": round(ours.reference_seconds, 2)}
    out |= {"distinct_tokens": round(tokens / b.steps), "row_tokens": rows.size}
    x = peer._batches[0]
    out["peer_tokens"] = 2 * b.batch * (x.prompt_ids.shape[1] + x.chosen_ids.shape[1])
    return out | {"load_average": round(load, 2), "cores": os.cpu_count(), "settings": dataclasses.asdict(b)}


def compiled(b: Benchmark) -> dict[str, Any]:
    """Both sides' updates on one batch, for TPUs that are not there."""
    mesh = topology.mesh(b.topology, (1, len(topology.devices(b.topology)), 1))
    batch = batches_of(dataclasses.replace(b, steps=1))
    config = dataclasses.replace(PRESETS["llama-3.2-1b"], rope=Rope(theta=1e6))
    model = Model.of(dataclasses.replace(config, dtype="bfloat16", remat="full"))
    rows = packed(batch, multiple=mesh.size)[0]
    out: dict[str, Any] = {"name": "tunix_tpu", "row_tokens": rows.tokens.size}
    x = padded(batch)[0]
    out["peer_tokens"] = 2 * b.batch * (x.prompt_ids.shape[1] + x.chosen_ids.shape[1])
    tx = transform(OPTIMIZER.direction, model)
    state = like(state_shapes(model, tx), state_shardings(model, tx, mesh))
    step = train_step(model, Pairwise(score=Implicit(beta=BETA)), OPTIMIZER)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = step.lower(state, like(rows, NamedSharding(mesh, spec(("batch",)))), 1e-6, np.uint32(0))
    out["ours"] = costs(b, lowered, mesh, None)
    print(json.dumps(out), flush=True)
    for dtype in ("bfloat16", "float32"):
        reference, update = (costs(b, lowered, mesh, {}) for lowered in peer_programs(config, x, mesh, dtype))
        out[f"peer_{dtype}"] = {"update": update, "reference": reference}
        own = out["ours"]["step"]
        out[f"step_ratio_{dtype}"] = round(update["step"] / own, 2)
        out[f"ratio_{dtype}"] = round((update["step"] + reference["step"]) / own, 2)
        out[f"memory_ratio_{dtype}"] = round(update["peak_bytes"] / out["ours"]["peak_bytes"], 2)
        print(json.dumps(out), flush=True)
    return out | {"jax": jax.__version__, "settings": dataclasses.asdict(b)}


def costs(b: Benchmark, lowered: Any, mesh: Mesh, options: dict[str, str] | None) -> dict[str, Any]:
    """What the compiler says of one program on one chip."""
    try:
        found = estimate(Program(lowered, mesh, 0.0, 1), b.topology, options)
    except DoesNotFit as e:
        return {"step": math.nan, "peak_bytes": e.needs, "fits": False}
    out = {"step": found.step, "cycles": found.step * found.chip.clock, "seconds": dict(found.tally.seconds)}
    out |= {"peak_bytes": found.peak, "arguments": found.arguments, "temporaries": found.temporaries, "fits": True}
    return out | {"unknown_loops": found.tally.unknown}


def peer_programs(config: DecoderConfig, x: Any, mesh: Mesh, dtype: str) -> tuple[Any, Any]:
    """tunix's reference pass and its update, lowered for a mesh (fsdp, tp) of the same chips, in its own layout."""
    from tunix.models.llama3 import model as tunix_llama
    from tunix.rl import common
    from tunix.sft.dpo import dpo_trainer

    grid = Mesh(mesh.devices.reshape(mesh.size, 1), ("fsdp", "tp"), axis_types=(AxisType.Auto,) * 2)
    place = lambda *axes: NamedSharding(grid, PartitionSpec(*axes))
    # Its own does nothing where the machine that compiles has no TPU.
    tunix_llama.shard = lambda x, axes: jax.lax.with_sharding_constraint(x, place(*axes))
    settings = llama(config, remat_config=tunix_llama.RematConfig.DECODER)

    def build() -> nnx.Module:
        made = tunix_llama.Llama3(settings, rngs=nnx.Rngs(0))
        nnx.update(made, jax.tree.map(lambda p: p.astype(dtype), nnx.state(made)))
        return made

    def abstract(make: Any) -> tuple[Any, Any]:
        graph, state = nnx.split(nnx.eval_shape(make))
        specs = nnx.get_partition_spec(state)
        at = lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=place(*s))
        return graph, jax.tree.map(at, state, specs)

    tiny = dataclasses.replace(config, vocab=8, layers=1, embed=4, heads=1, kv_heads=1, head_dim=4, mlp=4)
    helper = trainer(tunix_llama.Llama3(llama(tiny), rngs=nnx.Rngs(0)), None)  # for its step; it keeps no model
    rows = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=place("fsdp"))
    n, answer, length = 2 * len(x.prompt_ids), x.chosen_ids.shape[1], x.prompt_ids.shape[1] + x.chosen_ids.shape[1]
    example = dpo_trainer.TrainExample(
        input_ids=rows((n, length), np.int32),
        positions=rows((n, length), np.int32),
        attention_mask=rows((n, length, length), np.bool_),
        ref_chosen_logps=rows((n // 2,), np.float32),
        ref_rejected_logps=rows((n // 2,), np.float32),
        completion_mask=rows((n, answer), np.int32),
        logits_to_keep=answer,
    )
    graph, policy = abstract(build)
    both_graph, both = abstract(lambda: (m := build(), nnx.Optimizer(m, adamw(), wrt=nnx.Param)))

    def reference(state: Any, e: Any) -> Any:
        module = nnx.merge(graph, state)
        logps = common.get_per_token_logps(module, e.input_ids, e.positions, e.attention_mask, e.logits_to_keep)
        return (logps * e.completion_mask).sum(axis=-1)

    def update(state: Any, e: Any) -> Any:
        module, optimizer = nnx.merge(both_graph, state)
        found = helper._train_step(module, optimizer, e)
        return nnx.state((module, optimizer)), found

    with jax.sharding.use_abstract_mesh(grid.abstract_mesh):
        return jax.jit(reference).lower(policy, example), jax.jit(update, donate_argnums=0).lower(both, example)


def main() -> None:
    b = tyro.cli(Benchmark, description=__doc__)
    print(json.dumps(compiled(b) if b.topology else measure(b)))


if __name__ == "__main__":
    main()
