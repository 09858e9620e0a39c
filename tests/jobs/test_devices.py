"""The mesh of a job: its shape, and the main job on four devices as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.jobs.devices import Devices
from rmjax.records import Judgment
from rmjax.sharding import MESH_AXES
from rmjax.training.loop import Train


def test_the_rest_goes_to_the_axis_that_is_0():
    assert Devices().shape(8) == (1, 8, 1)
    assert Devices().shape(8, cores=True) == (8, 1, 1)
    assert Devices(fsdp=2).shape(8, cores=True) == (4, 2, 1)
    assert Devices(tensor=2).shape(8) == (1, 4, 2)
    assert Devices(data=0, fsdp=2, tensor=2).shape(8) == (2, 2, 2)
    assert Devices().shape(1) == (1, 1, 1)


def test_fewer_devices_than_there_are():
    assert Devices(data=1, fsdp=1).shape(8) == (1, 1, 1)
    assert Devices(data=3, fsdp=2).shape(8) == (3, 2, 1)


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        (Devices(tensor=3), "devices.tensor=3 needs a multiple of 3 devices, but there are 8"),
        (Devices(data=3, fsdp=3), "devices.fsdp=3, devices.tensor=1 needs 9 devices, but there are 8"),
        (Devices(tensor=0), "0 for at most one"),
        (Devices(data=-1), "give numbers above 0"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(devices, said):
    with pytest.raises(UserError, match=said):
        devices.shape(8)


@pytest.mark.parametrize(("tensor", "shape"), [(1, (2, 1, 1)), (2, (2, 1, 2)), (4, (2, 1, 4)), (8, (1, 1, 8))])
def test_the_batch_is_split_over_all_axes_but_tensor(monkeypatch, tensor, shape):
    """Of eight cores as many are used as the batch of 2 splits over, each time as many as hold a row."""
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "set_mesh", lambda mesh: mesh)
    monkeypatch.setattr("rmjax.jobs.devices.make_mesh", lambda shape, _: AbstractMesh(shape, MESH_AXES))
    assert Devices(tensor=tensor).use(Train(steps=1, batch=2)).axis_sizes == shape


def test_the_job_on_four_devices_is_the_job_on_one(flags, finished, tmp_path):
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-m", "rmjax.launch", "gfriend", *flags, "--workdir", str(tmp_path / "w")]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    one, four = Path(finished.workdir), tmp_path / "w"
    metrics = lambda work: [json.loads(line) for line in (work / "sft" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(metrics(four), metrics(one), strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-4)
    judgments = [jsonl.read(work / "sample-1" / "judgments.jsonl", Judgment) for work in (four, one)]
    alike = [a.tokens == b.tokens for a, b in zip(*judgments, strict=True)]
    assert sum(alike) >= 0.9 * len(alike)  # rounding may move a draw across its threshold, seldom


@pytest.mark.parametrize(("cores", "flags", "devices"), [(5, "", 4), (1, "", 1), (96, "", 8), (4, "=3", 3)])
def test_the_cpu_is_as_many_devices_as_it_has_cores(cores, flags, devices):
    """A power of two, at most 8; a number that the user gave stays."""
    env = os.environ | {"XLA_FLAGS": flags and f"--xla_force_host_platform_device_count{flags}"}
    code = (
        f"import os; os.sched_getaffinity = lambda _: set(range({cores}))\n"
        "from rmjax.jobs.devices import split_cpu; split_cpu()\n"
        "import jax; print(jax.device_count())"
    )
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.stdout.strip() == str(devices), run.stderr[-2000:]


@pytest.mark.skipif(jax.device_count() > 1, reason="wants one device")
def test_one_device_needs_no_mesh():
    with Devices().use(Train(steps=1, batch=16), Train(steps=1, batch=3)):
        assert jax.sharding.get_mesh().empty


def test_the_peak_is_measured_on_a_mesh():
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 2)\n"
        "from rmjax.sharding import make_mesh\n"
        "from rmjax.training.flops import measured_peak\n"
        "with jax.set_mesh(make_mesh((2, 1, 1))): print(measured_peak('float32') > 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "True", run.stderr[-2000:]
