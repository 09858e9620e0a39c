"""One device and a (2, 2, 2) mesh of eight give the same numbers: forward, decoding, weights out and in."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from rmjax.errors import UserError
from rmjax.models import hf
from rmjax.models.config import DecoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.sharding import MESH_AXES
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import state_shardings

PROGRAM = """
import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from rmjax.models import hf
from rmjax.models.cache import SuffixCache
from rmjax.models.config import DecoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.sharding import make_mesh

model = Model.of(DecoderConfig(vocab=64, layers=2, embed=16, heads=4, kv_heads=2, head_dim=8, mlp=24), Linear())
prompts = jax.random.randint(jax.random.key(1), (8, 16), 0, 64)
new = jax.random.randint(jax.random.key(2), (8, 2, 2), 0, 64)
lengths, positions = jnp.arange(8) + 5, jnp.broadcast_to(jnp.arange(16), (8, 16))


def run(params):
    net = model.bind(params)
    hidden = net.hidden(prompts, positions, jnp.zeros_like(positions), jnp.zeros_like(positions))
    last, cache = net.prefill(prompts, lengths)
    first, suffix = net.step(new[:, :, 0], cache, SuffixCache.empty(model.config, 8, 2, 4))
    second, _ = net.step(new[:, :, 1], cache, suffix)
    return net.logits(hidden), net.reward(hidden), net.logits(last), net.logits(first), net.logits(second)


def loss(params, pieces):
    net = model.bind(params)
    hidden = net.hidden(prompts, positions, jnp.zeros_like(positions), jnp.zeros_like(positions))
    if pieces:
        return jnp.sum(jnp.sin(net.target_logps(hidden[:, :-1], prompts[:, 1:], pieces)))
    logps = jax.nn.log_softmax(net.logits(hidden[:, :-1]))
    return jnp.sum(jnp.sin(jnp.take_along_axis(logps, prompts[:, 1:, None], axis=-1)))


params = model.init(jax.random.key(0))
expected = jax.jit(run)(params)
slope = jax.jit(jax.value_and_grad(loss), static_argnums=1)
expected_slope = slope(params, 0)
mesh = make_mesh((2, 2, 2))
with jax.set_mesh(mesh):
    spread = model.init(jax.random.key(0), mesh=mesh)
    got = jax.jit(lambda params: run(params))(spread)
    got_slope = slope(spread, 3)  # of 22 words and, on the last devices, fewer
    back = hf.load_params(hf.save(sys.argv[1], model, spread), model, mesh=mesh)
assert len(spread["decoder"]["blocks"]["wq"].sharding.device_set) == 8
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), got_slope, expected_slope)
jax.tree.map(np.testing.assert_array_equal, back, params)
assert jax.tree.map(lambda x: x.sharding, back) == jax.tree.map(lambda x: x.sharding, spread)
"""


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 1, 4), "tensor=4 does not divide kv_heads=2"),
        ((1, 1, 8), "tensor=8 does not divide kv_heads=2, tensor=8 does not divide heads=4"),
        ((1, 8, 1), "fsdp=8 does not divide embed=20"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_refused(tmp_path: Path, shape: tuple[int, int, int], said: str):
    config = DecoderConfig(vocab=64, layers=1, embed=20, heads=4, kv_heads=2, head_dim=8, mlp=24)
    model = Model.of(config, Linear())
    saved = hf.save(tmp_path / "m", model, model.init(jax.random.key(0)))
    mesh = AbstractMesh(shape, MESH_AXES)  # is refused before anything is put on a device
    for use in (
        lambda: model.init(jax.random.key(0), mesh=mesh),
        lambda: hf.load(saved, mesh=mesh),
        lambda: state_shardings(model, transform(Optimizer().direction, model), mesh),
    ):
        with pytest.raises(UserError, match=f"^devices: {said} of the model: choose [^\n]+$"):
            use()


def test_eight_devices_are_one(tmp_path: Path):
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "m")], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Involuntary full rematerialization" not in done.stderr, "an activation changes its layout the slow way"
