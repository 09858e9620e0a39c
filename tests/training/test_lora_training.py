"""Training adapters: what moves, what is kept of it, resumed, on a mesh, and the reference with adapters off."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import equal, groups

from rmjax.data import packing
from rmjax.data.rows import TwoRows
from rmjax.errors import UserError
from rmjax.models.config import DecoderConfig, Lora
from rmjax.models.heads import Linear
from rmjax.models.model import Model, join
from rmjax.objectives.meta import MetaRm
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores, with_reference
from rmjax.objectives.scores import LogProb, Scalar
from rmjax.training import loop
from rmjax.training.flops import train_flops
from rmjax.training.loop import Train, fit
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import new_state
from rmjax.training.step import gradients

CONFIG = DecoderConfig(vocab=13, layers=1, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=8)
BASE = Model.of(CONFIG, Linear())
SCALAR = Pairwise(score=Scalar())
DATA = [dataclasses.replace(g, ref_logps=()) for g in groups(9, pairs=True)]
TRAIN = Train(
    optimizer=Optimizer(learning_rate=0.02, schedule="constant", weight_decay=0.3), steps=6, batch=4, quiet=True
)


def start(weights: str = "float32", base: Model = BASE):
    """A model with adapters that have moved a little, for a fresh A has no gradient yet; and its parameters."""
    kept = base.with_config(weights=weights)
    model, params = kept.with_adapters(kept.init(jax.random.key(0)), Lora(rank=2), jax.random.key(1))
    noise = np.random.default_rng(0)
    trained, rest = model.split(params)
    moved = jax.tree.map(lambda x: np.asarray(x) + 0.05 * noise.standard_normal(x.shape).astype(np.float32), trained)
    return model, join(moved, rest)


def named(tree):
    return {".".join(k.key for k in path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def rows():
    shape = packing.fit(DATA)
    return packing.stack(packing.pack(DATA, shape).rows)


def test_adapters_and_the_head_move_and_the_base_keeps_every_bit():
    """Every leaf of theirs has a gradient, which is that of the loss by differences; nothing else has one."""
    model, params = start("int8")
    trained, base = model.split(params)
    program = jax.jit(lambda trained: gradients(model, SCALAR, trained, rows(), base=base))
    grads, _ = program(trained)
    direction = jax.tree.map(lambda x: np.random.default_rng(x.size).standard_normal(x.shape).astype(np.float32), grads)
    loss = lambda t: float(program(jax.tree.map(lambda p, d: p + t * d, trained, direction))[1].loss.value())
    along = sum(float(np.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True))
    assert along == pytest.approx((loss(1e-3) - loss(-1e-3)) / 2e-3, rel=0.01)
    assert jax.tree.structure(grads) == jax.tree.structure(trained)
    assert all(np.any(g) for g in named(grads).values())
    assert set(named(trained)) == {n for n in named(params) if ".lora." in n or n.startswith("head.")}

    before = named(params)
    after = named(fit(model, params, SCALAR, DATA, TRAIN, None, name="int8"))
    for name, value in before.items():
        same = np.array_equal(value.view(np.uint8), after[name].view(np.uint8))
        assert same == (name not in named(trained)), name
        assert value.dtype == after[name].dtype


def test_a_resumed_run_is_unbroken_and_its_checkpoints_hold_what_is_trained(tmp_path, monkeypatch):
    """Killed after update 4 of 6; the base is not in the files, another base or rank is refused."""
    wide = Model.of(dataclasses.replace(CONFIG, vocab=50_000), Linear())  # 1.6 MB of embeddings
    model, params = start("float32", wide)
    train = dataclasses.replace(TRAIN, save_every=2)
    want = fit(model, params, SCALAR, DATA, train, tmp_path / "unbroken", name="unbroken")

    class Killed(Exception):
        pass

    def place(*args, left=[5], **more):  # noqa: B006 - counts calls
        left[0] -= 1
        if not left[0]:
            raise Killed
        return usual(*args, **more)

    usual = loop.place_rows
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "place_rows", place)
        fit(model, params, SCALAR, DATA, train, tmp_path / "killed", name="killed")
    saved = tmp_path / "killed" / "checkpoints"
    assert max(int(p.name) for p in saved.iterdir()) == 4
    assert sum(p.stat().st_size for p in saved.rglob("*") if p.is_file()) < 400_000
    assert equal(fit(model, params, SCALAR, DATA, train, tmp_path / "killed", name="again"), want)
    assert equal(model.split(want)[1], model.split(params)[1]) and not equal(want, params)

    other = model.with_config(lora=Lora(rank=2, alpha=1.0))
    with pytest.raises(UserError, match=r"other settings \(model.lora.alpha: 32.0 -> 1.0\)"):
        fit(other, params, SCALAR, DATA, train, tmp_path / "killed", name="other")
    base = {**params, "decoder": {**params["decoder"], "norm": params["decoder"]["norm"] + 1e-3}}
    with pytest.raises(UserError, match="initial parameters"):
        fit(model, base, SCALAR, DATA, train, tmp_path / "killed", name="other")


def test_the_state_holds_what_is_trained():
    model, params = start("bfloat16")
    tx = transform(Optimizer().direction, model)
    state = new_state(model, tx, params)
    trained, base = model.split(params)
    assert equal(state.params, trained) and base["decoder"]["table"].dtype == jnp.bfloat16
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sum(x.size for x in moments) == 2 * sum(x.size for x in jax.tree.leaves(trained))


def test_the_reference_is_the_model_with_its_adapters_off():
    """Recorded log-probabilities stay; the others are those of the base alone, though the adapters have moved."""
    lm = Model.of(CONFIG)
    model, params = start(base=lm)
    data = groups(5, pairs=True)
    data = [data[0], *(dataclasses.replace(g, ref_logps=()) for g in data[1:])]
    found = with_reference(model, params, data)
    assert found[0] is data[0]
    base = lm.init(jax.random.key(0))
    want = slot_scores(lm, base, data[1:], LogProb())
    moved = slot_scores(model, params, data[1:], LogProb())
    for group, ref, other in zip(found[1:], want, moved, strict=True):
        np.testing.assert_allclose(group.ref_logps, ref, rtol=1e-6)
        assert np.abs(np.asarray(group.ref_logps) - other).max() > 1e-3
    Pairwise().check(found, model)


def test_a_direction_of_its_own_is_one_of_adapters():
    """MetaRM's look-ahead moves what is trained and nothing else (by shapes)."""
    model, params = start()
    trained, base = model.split(params)
    two = TwoRows(rows(), rows())
    run = lambda t: gradients(model, MetaRm(ranking=SCALAR, eta=0.1), t, two, 1, base)[0]
    assert jax.tree.structure(jax.eval_shape(run, trained)) == jax.tree.structure(trained)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_small_weights_are_not_trained_whole(weights):
    model = BASE.with_config(weights=weights)
    with pytest.raises(UserError, match=rf"weights={weights}: such parameters cannot be trained.*--lora.rank 16"):
        fit(model, model.init(jax.random.key(0)), SCALAR, DATA, TRAIN, None, name="whole")


def test_an_adapter_that_would_not_be_trained_is_refused():
    """Without a head, nothing else is trained; beside one, the head is."""
    frozen = dataclasses.replace(TRAIN, freeze=1)
    with pytest.raises(UserError, match=r"train\.freeze=1: .* no adapter would be trained; give at most 0"):
        frozen.check(Model.of(CONFIG).with_config(lora=Lora(rank=2)))
    frozen.check(BASE.with_config(lora=Lora(rank=2)))


def test_flops_of_adapters():
    """4 N for matrices that gradients only pass through, 6 N for adapters; attention as ever."""
    model, _ = start()
    tokens = int(np.count_nonzero(rows().group >= 0))
    d, layers = 8, 1
    matrices = layers * (d * 8 + 2 * d * 4 + 8 * d + 3 * d * 8)
    adapters = layers * 2 * ((d + 8) + 2 * (d + 4) + (8 + d) + 3 * (d + 8))
    want = train_flops(BASE, rows()) + tokens * (-2 * matrices + 6 * adapters)
    assert train_flops(model, rows()) == pytest.approx(want)
    frozen = lambda part: train_flops(part.with_config(frozen=layers), rows())
    assert frozen(model) == pytest.approx(frozen(BASE) + tokens * 2 * adapters)


MESH = """
import dataclasses, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from test_lora_training import SCALAR, Lora, Model, CONFIG, Linear, Optimizer, start, transform
from small_training import groups
from rmjax.data import packing
from rmjax.sharding import make_mesh, tree_shardings
from rmjax.training.loop import place_rows
from rmjax.training.state import current_mesh, new_state
from rmjax.training.step import train_step

data = [dataclasses.replace(g, ref_logps=()) for g in groups(12, pairs=True)]
shape = packing.fit(data, length=64)
lines = packing.pack(data, shape).rows
rows = packing.stack((lines + [packing.empty(shape)] * 16)[:16])
config = dataclasses.replace(CONFIG, vocab=16, kv_heads=2)
model, params = start("int8", Model.of(config, Linear()))
o = Optimizer(learning_rate=1e-2, weight_decay=0.1)


def run(params, microbatches):
    state, base, losses = new_state(model, transform(o.direction, model), params), model.split(params)[1], []
    step = train_step(model, SCALAR, o, microbatches)
    for _ in range(2):
        state, metrics = step(state, place_rows(rows, current_mesh()), 1e-2, 0, base)
        losses.append(float(metrics["loss"].value()))
    return losses, state


want = run(params, 1)
mesh = make_mesh((2, 2, 2))
with jax.set_mesh(mesh):
    losses, got = run(jax.device_put(params, tree_shardings(model.axes, model.shapes, mesh)), 2)
np.testing.assert_allclose(losses, want[0], rtol=1e-5)
jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), jax.device_get(got.params), want[1].params)
for tree, part, spec in ((got.params, "a", (None, "fsdp")), (got.opt_state[1].mu, "b", (None, None, "tensor"))):
    leaf = tree["decoder"]["blocks"]["lora"]["wq"][part]
    assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(*spec)), leaf.ndim), leaf.sharding
"""


def test_adapters_train_alike_on_a_mesh():
    """data, fsdp and tensor of 2 each (8 virtual devices), int8 base, two microbatches; adapters lie by the rules."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    flags = {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", MESH], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Involuntary full rematerialization" not in done.stderr
