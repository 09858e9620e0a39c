"""A step, scores and samples are the same on a (2, 2, 2) mesh of eight devices; and no large array is whole on one."""

import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from rmjax.models.config import DecoderConfig, EncoderConfig, Lora
from rmjax.models.heads import Ensemble, Linear, Mlp
from rmjax.models.model import Model
from rmjax.sharding import MESH_AXES
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import state_shapes, state_shardings

PROGRAM = """
from types import SimpleNamespace

import jax, numpy as np
from small_training import groups

from rmjax.data import packing
from rmjax.judging.rescoring import token_scores
from rmjax.methods.fine_tuning import ProtoRm
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler
from rmjax.sharding import current_mesh, make_mesh, place_rows
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import new_state, state_shardings
from rmjax.training.step import train_step

config = DecoderConfig(vocab=66, layers=1, embed=16, heads=4, kv_heads=2, head_dim=4, mlp=24)
plain = Model.of(config)
data = groups(24, pairs=True)
shape = packing.fit(data, length=40)
rows = packing.pack(data, shape).rows
rows = packing.stack((rows + [packing.empty(shape)] * 8)[:8])
o = Optimizer(learning_rate=1e-3, weight_decay=0.1)
proto = ProtoRm(embed=8, capacity=8, start_with=2)
chat = SimpleNamespace(eos=(0,), text=str)


def steps(model, objective, params):
    tx = transform(o.direction, model)
    state, losses = new_state(model, tx, params), []
    if (mesh := current_mesh()) is not None:
        assert jax.tree.map(lambda x: x.sharding, state) == state_shardings(model, tx, mesh)
    for _ in range(3):
        placed = place_rows(rows, current_mesh())
        state, metrics = train_step(model, objective, o)(state, placed, 1e-3)
        losses.append(float(metrics["loss"].value()))
    return losses, state.params


def run():
    key, mesh = jax.random.key(0), current_mesh()
    init = lambda model: model.init(key, mesh=mesh)
    params, prototypes = init(plain), plain.with_head(proto.head)
    first = init(prototypes)
    first = {**first, "head": proto.first_head(prototypes, first, data, key)}
    requests = [Request(f"r{i}", g.prompt, 4) for i, g in enumerate(data[:8])]
    sampler = Sampler(plain, params, chat, Sampling(max_new_tokens=12), seed=1, quiet=True)
    return {
        "M-DPO": steps(plain, Pairwise(), params),
        "prototypes": steps(prototypes, proto.objective(Pairwise(score=Scalar())), first),
        "scores": (slot_scores(prototypes, first, data, Scalar(), batch=6), ()),
        "samples": ([r.tokens for r in sampler.run(requests)], ()),
    }


want = run()
with jax.set_mesh(make_mesh((2, 2, 2))):
    got = run()
assert got["samples"] == want["samples"]
for name in want:
    (losses, params), (losses_got, params_got) = want[name], got[name]
    if name != "samples":
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name), losses_got, losses)
    close = lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4, err_msg=name)
    jax.tree.map(close, params_got, params)
"""


def test_eight_devices_are_one():
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is not compiled gives no warning
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Involuntary full rematerialization" not in done.stderr, "an activation changes its layout the slow way"


LLAMA_8B = DecoderConfig(vocab=128256, layers=32, embed=4096, heads=32, kv_heads=8, head_dim=128, mlp=14336)
GEMMA_9B = DecoderConfig(
    family="gemma2", vocab=256000, layers=42, embed=3584, heads=16, kv_heads=8, head_dim=256, mlp=14336, tied=True,
    post_norms=True,
)  # fmt: skip
ONE_AXIS = ("head", "lora", "pool_weight", "positions")  # whose other axis is narrow, or nothing's in the rules
BERT_LARGE = EncoderConfig(vocab=30528, layers=24, embed=1024, heads=16, mlp=4096, max_positions=512, pooler=True)


@pytest.mark.parametrize(
    "model",
    [
        Model.of(LLAMA_8B),
        Model.of(LLAMA_8B, Ensemble(members=4, of=Mlp(hidden=256))),
        Model.of(LLAMA_8B).with_config(lora=Lora(rank=64)),
        Model.of(LLAMA_8B).with_config(frozen=20),
        Model.of(GEMMA_9B, Linear()),
        Model.of(BERT_LARGE, Linear(bias=True), ("pooler",)),
    ],
    ids=["8B", "8B, ensemble", "8B, LoRA", "8B, frozen", "gemma 9B", "BERT large"],
)
def test_no_large_leaf_is_whole_on_a_device(model):
    """Every leaf of the state above a megabyte, Adam's moments too, is cut by fsdp, and a matrix by tensor as well."""
    mesh, tx = AbstractMesh((2, 2, 2), MESH_AXES), transform(Optimizer().direction, model)
    shapes, shardings = state_shapes(model, tx), state_shardings(model, tx, mesh)
    large = 0
    for (path, x), s in zip(jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True):
        size = math.prod(x.shape) * x.dtype.itemsize
        parts = size // (math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize)
        if size > 1 << 20:
            large += 1
            name = jax.tree_util.keystr(path)
            assert parts == (2 if any(part in name for part in ONE_AXIS) else 4), f"{name} {x.shape}: {s.spec}"
    assert large > 10
