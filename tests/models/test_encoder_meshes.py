"""An encoder on a (2, 2, 2) mesh of eight devices has the scores and the gradient that it has on one."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax
import numpy as np
from encoder_helpers import CONFIG, groups

from rmjax.data import packing
from rmjax.models.heads import Ensemble, Mlp
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar
from rmjax.sharding import make_mesh
from rmjax.training.loop import place_rows
from rmjax.training.step import gradients
import dataclasses

config = dataclasses.replace(CONFIG, vocab=64)
model = Model.of(config, Ensemble(members=2, of=Mlp(hidden=6)), ("cls", "pooler", "mean", "answer"))
items = groups(40)
shape = packing.fit(items, length=256, share=False)  # long enough for attention by blocks
rows = packing.stack(packing.pack(items, shape, share=False).rows[:4])
assert rows.group.shape == (4, 256)
run = jax.jit(lambda p, r: (Scalar()(model, p, r), gradients(model, Pairwise(score=Scalar()), p, r)[0]))
expected = run(model.init(jax.random.key(0)), rows)
mesh = make_mesh((2, 2, 2))
with jax.set_mesh(mesh):
    spread = model.init(jax.random.key(0), mesh=mesh)
    got = run(spread, place_rows(rows, mesh))
assert len(spread["encoder"]["blocks"]["wq"].sharding.device_set) == 8
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), got, expected)
"""


def test_eight_devices_are_one():
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), env.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Involuntary full rematerialization" not in done.stderr, "an activation changes its layout the slow way"
