"""Several processes are one: its losses, samples and scores; and where one dies, all end and say so."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rmjax import distributed, jsonl
from rmjax.errors import UserError
from rmjax.jobs.devices import Devices
from rmjax.launch import main
from rmjax.records import Rollout

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "training"))
import small_training  # noqa: E402

WORKER = HERE / "helpers" / "one_of_several.py"


def port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def together(count: int, *words: str | Path) -> list[tuple[int, str]]:
    """Runs so many processes; the status and stderr of each."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_NUM_PROCESSES": str(count)}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE / "training"), env.get("PYTHONPATH", "")])
    env["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port()}"
    command = [sys.executable, str(WORKER), *map(str, words)]
    start = lambda i: subprocess.Popen(command, env=env | {"JAX_PROCESS_ID": str(i)}, stderr=subprocess.PIPE, text=True)
    processes = [start(i) for i in range(count)]
    try:
        said = [p.communicate(timeout=240)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()
    return [(p.returncode, text) for p, text in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Work of two processes, one of which was killed; then of four, which finished it.

    One of the four cannot read the newest checkpoint; all go back to the one before.
    """
    folder = tmp_path_factory.mktemp("several")
    (code, said), (killed, _) = together(2, "killed", folder, 10)
    assert (code, killed) == (1, -9), said
    assert "process 0 of 2: another process has ended" in said.splitlines()[-1]
    assert "run the same command again" in said.splitlines()[-1]
    assert (folder / "checkpoints" / "4").exists()
    assert not (folder / "params.npz").exists()
    ended = together(4, "train", folder)
    for code, said in ended:
        assert code == 0, said
    assert ended[0][1].count("DAMAGED") == ended[0][1].count("another process cannot read it; put aside") == 1
    return folder


def test_the_losses_and_parameters_are_those_of_one_process(folder, tmp_path):
    end = jax.tree.leaves(small_training.train(tmp_path, **small_training.EVALUATED))
    ours, theirs = small_training.rows(folder), small_training.rows(tmp_path)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert [row["step"] for row in theirs if "eval/loss" in row] == [6, 12, 14]
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    with np.load(folder / "params.npz") as stored:
        for name, leaf in zip(stored.files, end, strict=True):
            np.testing.assert_allclose(stored[name], leaf, atol=1e-4)


def test_each_process_samples_a_part_and_all_have_the_whole(folder, tmp_path):
    sampler, requests = small_training.sampler(small_training.params()), small_training.requests()
    samples = jsonl.read(folder / "samples.jsonl", Rollout)
    for ours, theirs in zip(samples, sampler.run(requests), strict=True):
        assert (ours.id, ours.index, ours.tokens) == (theirs.id, theirs.index, theirs.tokens)
    shards = [folder / f"rollouts.process-{i}-of-2.jsonl" for i in range(2)]
    parts = [jsonl.read(shard, Rollout) for shard in shards]
    assert {r.id for r in parts[0]}.isdisjoint(r.id for r in parts[1])
    assert sorted([*parts[0], *parts[1]], key=lambda r: (r.id, r.index)) == samples
    assert not (folder / "rollouts.jsonl").read_text()

    # One process that takes over what the two have left samples only what is missing.
    for shard in shards:
        shutil.copy(shard, tmp_path)
        shutil.copy(f"{shard}.run.json", tmp_path)
    jsonl.write(tmp_path / shards[0].name, parts[0][:3])
    path = tmp_path / "rollouts.jsonl"
    assert [r.tokens for r in sampler.run(requests, path=path)] == [r.tokens for r in samples]
    assert jsonl.read(path, Rollout)[: 3 + len(parts[1])] == [*parts[0][:3], *parts[1]]
    assert not list(tmp_path.glob("*process*"))


def test_a_process_that_dies_in_silence_ends_the_others():
    """No collective fails, for none is under way: XLA misses the heartbeat and aborts them."""
    (code, said), (killed, _) = together(2, "silent")
    assert (code, killed) == (-signal.SIGABRT, -signal.SIGKILL), said
    assert "most likely indicates that another task died" in said


def test_only_what_comes_from_another_process_is_its_end(monkeypatch):
    gloo = RuntimeError("Gloo all-reduce failed: Connection closed by peer")
    assert not distributed.lost(gloo)  # the only process
    monkeypatch.setattr(distributed, "_count", 2)
    assert distributed.lost(gloo)
    assert not distributed.lost(UserError("/data/barrier/pairs.jsonl: no such file"))
    unwritten = UserError("/runs/a: the checkpoint cannot be written")
    assert not distributed.lost(OSError(28, "No space left on device", "/data/barrier/a"))
    for unwritten.__cause__ in (gloo, TimeoutError("Barrier failed")):
        assert distributed.lost(unwritten)


def test_every_process_has_a_device(monkeypatch):
    monkeypatch.setattr(distributed, "_count", 2)
    with pytest.raises(UserError, match="1 of them do not split over 2 processes"):
        Devices(data=1, fsdp=1).use()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ADDRESS": "node1:99"}, "JAX_NUM_PROCESSES, JAX_PROCESS_ID not set"),
        ({"ADDRESS": "node1", "NUM": "2", "ID": "0"}, "JAX_COORDINATOR_ADDRESS=node1: give HOST:PORT"),
        ({"ADDRESS": "node1:99", "NUM": "0", "ID": "0"}, "JAX_NUM_PROCESSES=0: give a number of processes"),
        ({"ADDRESS": "node1:99", "NUM": "2", "ID": "2"}, "JAX_PROCESS_ID=2: with JAX_NUM_PROCESSES=2 give .* 0 to 1"),
        ({"ADDRESS": "node1:99", "NUM": "2", "ID": "-1"}, "JAX_PROCESS_ID=-1: "),
    ],
)
def test_wrong_environments_are_refused(monkeypatch, given, said):
    for short, name in zip(("ADDRESS", "NUM", "ID"), distributed.NAMES, strict=True):
        monkeypatch.setenv(name, given.get(short, ""))
    with pytest.raises(UserError, match=f"^(--distributed: )?{said}[^\n]*$"):
        distributed.start()


def test_a_coordinator_that_does_not_answer_is_named():
    with pytest.raises(UserError, match=r"process 0 did not answer within 1 s \([^\n]+\); start it too"):
        distributed._reach(f"localhost:{port()}", 1, 1)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"cannot be opened [^\n]* choose another one"):
            distributed._reach(f"localhost:{taken.getsockname()[1]}", 0, 1)


def test_without_a_cluster_the_flag_is_an_error(monkeypatch):
    for name in (*distributed.NAMES, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    with pytest.raises(UserError, match="neither Slurm nor a Cloud TPU slice is found"):
        distributed.start()


def test_a_job_for_one_process_is_refused(capsys):
    assert main(["plan", "--distributed"]) == 2
    said = capsys.readouterr().err
    assert "--distributed: plan runs in one process; made for several are gfriend, judge, score and train" in said


def test_one_of_several_without_the_flag_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert main(["plan"]) == 2
    assert "JAX_NUM_PROCESSES=2: without --distributed each of these processes" in capsys.readouterr().err


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch):
    values = {"ADDRESS": "localhost:99", "NUM": "4", "ID": "1"}
    for value, name in zip(values.values(), distributed.NAMES, strict=True):
        monkeypatch.setenv(name, value)
    assert distributed.here() == 4
    monkeypatch.setenv(distributed.NAMES[0], "node1:99")
    assert distributed.here() == 1
