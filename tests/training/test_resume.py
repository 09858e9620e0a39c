"""Interrupted in any way and repeated, a training ends as an unbroken one: the same parameters, the same rows."""

import random
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import small_training
from forked_training import on_meshes, run, start
from small_training import TRAIN, equal, rows, train

from rmjax.errors import UserError
from rmjax.training import checkpoint, loop


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The parameters and rows of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    params = train(folder)
    assert saved(folder) == ["12", "14"]
    return params, rows(folder)


class Stop(Exception):
    pass


def interrupt(folder: Path, monkeypatch: pytest.MonkeyPatch, *, after: int, **changes) -> None:
    """Runs until step `after` has been queued, then fails."""
    usual = loop.train_step
    left = [after]

    def breaking(*args):
        step = usual(*args)

        def run(*inputs):
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            return step(*inputs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", breaking)
        with pytest.raises(Stop):
            train(folder, **changes)


def saved(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("after", [2, 4, 11])
def test_resumed_is_unbroken(tmp_path, monkeypatch, unbroken, after):
    interrupt(tmp_path, monkeypatch, after=after)
    assert equal(train(tmp_path), unbroken[0])
    assert rows(tmp_path) == unbroken[1]
    assert [row["step"] for row in rows(tmp_path)] == [3, 6, 9, 12, 14]


def test_what_is_only_shown_may_change_on_resume(tmp_path, monkeypatch, unbroken):
    interrupt(tmp_path, monkeypatch, after=9)
    assert equal(train(tmp_path, save_every=0, log_every=7), unbroken[0])
    assert [row["step"] for row in rows(tmp_path)] == [3, 6, 14]
    assert saved(tmp_path) == ["4", "8"]


def test_a_finished_run_costs_nothing_when_repeated(tmp_path, monkeypatch, unbroken):
    """Its caller may be killed before the parameters are safe."""
    train(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", lambda *_: None)  # no step is made
        assert equal(train(tmp_path), unbroken[0])
    assert rows(tmp_path) == unbroken[1]
    checkpoint.remove(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    checkpoint.remove(tmp_path)  # there may be none


def test_the_newest_are_kept(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, after=11, save_every=2)
    assert saved(tmp_path) == ["10", "8"]


def test_sigterm_saves_and_exits_with_0(tmp_path, unbroken):
    process = start(run, tmp_path, {"seconds": 0.2})
    until = time.monotonic() + 60
    while not (tmp_path / "checkpoints" / "4").exists() and time.monotonic() < until and process.exitcode is None:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.5))
    process.terminate()
    process.join(60)
    assert process.exitcode == 0
    assert max(int(name) for name in saved(tmp_path)) > 4
    assert not (tmp_path / "params.npz").exists()
    assert equal(train(tmp_path), unbroken[0])
    assert rows(tmp_path) == unbroken[1]


def test_sigterm_in_the_last_step_still_exits(tmp_path, monkeypatch, capsys, unbroken):
    usual = loop.train_step
    count = []

    def last(*args):
        step = usual(*args)

        def run(*inputs):
            count.append(1)
            if len(count) == TRAIN.steps:
                signal.raise_signal(signal.SIGTERM)
            return step(*inputs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", last)
        with pytest.raises(SystemExit) as stop:
            train(tmp_path)
    assert f"SIGTERM, saved step 14 in {tmp_path}" in capsys.readouterr().err
    assert stop.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert equal(train(tmp_path), unbroken[0])
    assert rows(tmp_path) == unbroken[1]


def arrays(checkpoint: Path) -> Path:
    """The file that holds the most numbers of a checkpoint."""
    return max(checkpoint.glob("state/**/d/*"), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("how", ["cut", "flipped", "another data position"])
def test_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, monkeypatch, capsys, unbroken, how):
    interrupt(tmp_path, monkeypatch, after=11)
    newest = tmp_path / "checkpoints" / "8"
    if how == "another data position":
        file = newest / "_CHECKPOINT_METADATA"
        text = file.read_text()
        assert text.count('"batch": 8') == 1
        file.write_text(text.replace('"batch": 8', '"batch": 7'))
    else:
        file = arrays(newest)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    assert equal(train(tmp_path), unbroken[0])
    assert f"DAMAGED checkpoint {newest}" in capsys.readouterr().err
    assert rows(tmp_path) == unbroken[1]


def test_no_readable_checkpoint_is_an_error(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, after=6)
    arrays(tmp_path / "checkpoints" / "4").unlink()
    for _ in range(2):  # nor does the same command, given again, start anew
        with pytest.raises(UserError, match=r"none of its checkpoints can be read \(4.damaged\); remove it to start"):
            train(tmp_path)
    assert saved(tmp_path) == ["4.damaged"]


def test_checkpoint_of_another_run_is_refused(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, after=6)
    with pytest.raises(UserError, match=r"other settings \(train.batch: 4 -> 2; train.seed: 0 -> 1\)"):
        train(tmp_path, batch=2, seed=1)
    other = small_training.groups(seed=1)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"data: \w+ -> \w+\)"):
        patch.setattr(small_training, "groups", lambda: other)
        train(tmp_path)
    first = small_training.params(seed=1)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="initial parameters: "):
        patch.setattr(small_training, "params", lambda: first)
        train(tmp_path)
    assert saved(tmp_path) == ["4"]


def test_token_contract_belongs_to_the_settings(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, after=6)
    with pytest.raises(UserError, match=r"contract.bos: None -> 1"):
        loop.fit(
            small_training.MODEL, small_training.params(), small_training.Sft(), small_training.groups(), TRAIN,
            tmp_path, name="small", contract={"bos": 1},
        )  # fmt: skip


def test_left_over_pieces_of_a_killed_save_are_removed(tmp_path, monkeypatch, unbroken):
    interrupt(tmp_path, monkeypatch, after=6)
    (tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp-1").mkdir()
    interrupt(tmp_path, monkeypatch, after=5)
    assert saved(tmp_path) == ["4", "8"]
    assert jax.tree.leaves(train(tmp_path))


def test_a_run_goes_on_on_another_mesh_and_on_one_device(tmp_path):
    options = dict(eval_every=4, eval_share=0.3)
    process = start(on_meshes, tmp_path / "meshes", options, (2, 2, 1), (4, 1, 1))
    unbroken = train(tmp_path / "one", **options)
    process.join(120)
    assert process.exitcode == 0
    assert saved(tmp_path / "meshes") == ["4", "8"]
    end = train(tmp_path / "meshes", **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), end, unbroken)
    for got, want in zip(rows(tmp_path / "meshes"), rows(tmp_path / "one"), strict=True):
        assert got == pytest.approx(want, rel=1e-4, abs=1e-6)
