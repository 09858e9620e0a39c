"""Checkpoints by themselves: what was saved comes back, or is not believed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from small_training import groups

from rmjax.data import packing
from rmjax.data.pipeline import batches
from rmjax.errors import UserError
from rmjax.training import checkpoint
from rmjax.training.checkpoint import Checkpoints
from rmjax.training.identity import checksum, describe, fingerprint
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer
from rmjax.training.state import TrainState


def state(seed: int = 0) -> TrainState:
    """Noise: numbers that are stored as they are, so that a flipped byte is still a number."""
    values = np.random.default_rng(seed).normal(size=(200, 300)).astype(np.float32)
    return TrainState(jnp.int32(seed), {"w": jnp.asarray(values)}, {"m": jnp.asarray(values.astype(jnp.bfloat16))})


def abstract(step: int = 0) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state())


def position():
    return batches(groups(), packing.fit(groups()), batch=4, seed=0, steps=20)


def saved(folder, *seeds: int, keep: int = 2) -> Checkpoints:
    with Checkpoints(folder, {"a": "1"}, keep=keep) as checkpoints:
        data = position()
        for seed in seeds:
            next(data)
            checkpoints.save(seed, state(seed), data, {"loss": (0.1, 3.0)})
    return checkpoints


def test_round_trip(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3)
    assert checkpoints.steps() == [2, 3]
    data = position()
    found = checkpoints.restore(abstract, data)
    assert found.step == 3
    assert dict(found.sums) == {"loss": [0.1, 3.0]}
    jax.tree.map(np.testing.assert_array_equal, found.state, state(3))
    want = list(position())[3]
    np.testing.assert_array_equal(next(data).tokens, want.tokens)
    assert Checkpoints(tmp_path / "none", {"a": "1"}, keep=2).restore(abstract, data) is None


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_flipped_byte_is_noticed(tmp_path, capsys, at):
    checkpoints = saved(tmp_path, 1, 2)
    file = max((tmp_path / "2").glob("state/**/d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 0x10
    file.write_bytes(content)
    found = checkpoints.restore(abstract, position())
    assert found.step == 1
    jax.tree.map(np.testing.assert_array_equal, found.state, state(1))
    error = capsys.readouterr().err
    assert f"DAMAGED checkpoint {tmp_path / '2'}: " in error
    assert error.count("\n") == 1


def test_what_another_process_cannot_read_none_uses(tmp_path, monkeypatch, capsys):
    """All say after each part whether they could read it, before any goes on to what needs the others."""
    checkpoints, usual, loaded = saved(tmp_path, 1, 2, 3, keep=3), ocp.load_checkpointables, []
    elsewhere = iter([False, True, True, False, False])  # 3: its arrays cannot be read; 2: what is kept beside them

    def load(path, *args):
        loaded.append(path.name)
        return usual(path, *args)

    monkeypatch.setattr(ocp, "load_checkpointables", load)
    monkeypatch.setattr(checkpoint, "_any", lambda one: one or next(elsewhere))
    assert checkpoints.restore(abstract, position()).step == 1
    assert loaded == ["3", "1"] and not list(elsewhere)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(";")[0] for line in said] == ["another process cannot read it"] * 2
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2.damaged", "3.damaged"}


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)

    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    with monkeypatch.context() as patch, pytest.raises(jax.errors.JaxRuntimeError):
        patch.setattr(ocp, "load_checkpointables", full)
        checkpoints.restore(abstract, position())
    assert checkpoints.steps() == [1]


def test_donated_after_saving_is_saved_as_it_was(tmp_path):
    with Checkpoints(tmp_path, {}, keep=1) as checkpoints:
        old = state(5)
        checkpoints.save(5, old, position(), {})
        new = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(old)
    assert float(jnp.sum(new.params["w"])) == 0
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(abstract, position()).state, state(5))


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/1: the checkpoint cannot be written \(.*make room"):
        saved(tmp_path / "file", 1)


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_save_that_fails_costs_no_checkpoint(tmp_path, monkeypatch, when):
    """Not the best one either, which the failed one would have replaced."""

    class Failing:
        def result(self):
            raise OSError("disk full")

    def fail(*_, **__):
        return Failing() if when == "later" else Failing().result()

    with pytest.raises(UserError, match="disk full"), Checkpoints(tmp_path, {}, keep=1) as checkpoints:
        checkpoints.save(1, state(1), position(), {}, loss=1.0)
        checkpoints.save(2, state(2), position(), {}, loss=2.0)
        checkpoints.wait()
        monkeypatch.setattr(ocp, "save_checkpointables_async", fail)
        checkpoints.save(3, state(3), position(), {}, loss=0.5)
        checkpoints.save(4, state(4), position(), {})
    assert checkpoints.steps() == [1, 2]


def test_checksum_is_of_every_bit():
    a = state()
    assert checksum(a) == checksum(state())
    other = np.array(a.params["w"])
    other[7, 7] = np.nextafter(other[7, 7], 9)
    assert checksum(dataclasses.replace(a, params={"w": jnp.asarray(other)})) != checksum(a)


def test_settings_are_described_by_field():
    one, other = Train(steps=1), Train(steps=1, optimizer=Optimizer(learning_rate=1.0))
    one, two = describe(one, "train"), describe(other, "train")
    assert {k for k in one if one[k] != two[k]} == {"train.optimizer.learning_rate"}


@pytest.mark.parametrize("field", ["id", "prompt", "completions", "ref_logps", "pairs", "weight"])
def test_fingerprint_is_of_every_field(field):
    one, two = groups(3, pairs=True), groups(3, pairs=True)
    assert fingerprint(one) == fingerprint(two)
    new = {
        "id": "other", "prompt": [5, 5], "completions": [*two[1].completions[:1], [4]], "ref_logps": [-6.0, -9.5],
        "pairs": [(1, 0)], "weight": [0.25],
    }  # fmt: skip
    two[1] = dataclasses.replace(two[1], **{field: new[field]})
    assert fingerprint(one) != fingerprint(two)
