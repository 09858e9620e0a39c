"""kill -9 at any moment, then the same command: the same final numbers as an unbroken run, nothing lost or doubled."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_launch
import pytest

from rmjax import jsonl
from rmjax.records import Judgment
from rmjax.training.checkpoint import Checkpoints

STAGES = ("sft", "sample-1", "refine-1", "mdpo-1", "evaluate", "export")
ENVIRONMENT = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}  # as in this process
ENVIRONMENT["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # a program that one of them compiled no other does
SAME = (
    "sample-1/judgments.jsonl",
    "refine-1/groups.jsonl",
    "mdpo-1/export/model.safetensors",
    "evaluate/gfriend.scores.jsonl",
    "export/model.safetensors",
)


def check_equal(work: Path, unbroken: Path) -> None:
    """The same judgments, weights, training curves and results."""
    for name in SAME:
        assert (work / name).read_bytes() == (unbroken / name).read_bytes(), name
    for stage in ("sft", "mdpo-1"):
        ours, theirs = (
            [{k: v for k, v in row.items() if not k.startswith("perf/")} for _, row in jsonl.lines(p)]
            for p in (work / stage / "metrics.jsonl", unbroken / stage / "metrics.jsonl")
        )
        assert ours == theirs, stage
    ours, theirs = (
        [{**row, "seconds": 0} for row in json.loads((p / "summary.json").read_text())["rows"]]
        for p in (work, unbroken)
    )
    assert ours == theirs
    keys = [(j.item, j.slot, j.index) for j in jsonl.read(work / "sample-1" / "judgments.jsonl", Judgment)]
    assert len(keys) == len(set(keys)) == 8 * 4
    assert not [*work.rglob("checkpoints"), *work.rglob("*.partial"), *work.rglob("*.rollouts.jsonl")]


def test_a_run_killed_again_and_again_ends_as_an_unbroken_one(finished, flags, tmp_path):
    work = tmp_path / "killed"
    command = [sys.executable, "-m", "rmjax.launch", "gfriend", *flags, "--workdir", str(work)]
    for moment in ("sft/metrics.jsonl", "sample-1", "refine-1/graded.jsonl", "evaluate"):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.time() + 240
        while not (work / moment).exists():
            assert process.poll() is None, process.stderr.read().decode()[-2000:]
            assert time.time() < deadline, f"{moment} never appeared"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    check_equal(work, Path(finished.workdir))


@pytest.fixture
def kill(finished, flags, tmp_path):
    """kill(stage, moment) -> (job, workdir): a run that had done what is before `stage` and was killed in it."""

    def run(stage: str, moment: str):
        work = tmp_path / "killed"
        shutil.copytree(finished.workdir, work)
        for name in STAGES[STAGES.index(stage) :]:
            shutil.rmtree(work / name)
        command = [sys.executable, killed_launch.__file__, moment, "gfriend", *flags, "--workdir", str(work)]
        killed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
        return dataclasses.replace(finished, workdir=str(work)), work

    return run


@pytest.fixture
def resumed(monkeypatch) -> list[int | None]:
    """The updates that each training of this process had behind it when it began."""
    usual, steps = Checkpoints.restore, []

    def restore(self, *args):
        found = usual(self, *args)
        steps.append(found and found.step)
        return found

    monkeypatch.setattr(Checkpoints, "restore", restore)
    return steps


def test_killed_in_the_middle_of_a_sample_s_line(kill, finished, monkeypatch):
    job, work = kill("sample-1", "rollout")
    *whole, torn = (work / "sample-1" / "judgments.rollouts.jsonl").read_bytes().split(b"\n")
    assert len(whole) == killed_launch.WHOLE and torn
    usual, drawn = jsonl.Appender.append, []

    def append(self, record):
        if self.path.parent.name == "sample-1":
            drawn.append((record.id, record.index))
        usual(self, record)

    monkeypatch.setattr(jsonl.Appender, "append", append)
    job.run("")
    kept = {(r["id"], r["index"]) for r in map(json.loads, whole)}
    assert len(drawn) == len({*drawn} - kept) == 8 * 4 - killed_launch.WHOLE
    check_equal(work, Path(finished.workdir))


def test_killed_after_a_checkpoint_of_mdpo(kill, finished, resumed):
    job, work = kill("mdpo-1", "checkpoint")
    assert [p.name for p in (work / "mdpo-1" / "checkpoints").iterdir()] == ["2"]
    job.run("")
    assert resumed == [2]
    check_equal(work, Path(finished.workdir))


def test_killed_between_training_and_the_end_of_its_export(kill, finished, resumed):
    job, work = kill("mdpo-1", "export")
    assert (work / "mdpo-1" / ".export.partial" / "model.safetensors").exists()
    job.run("")
    assert resumed == [job.method.train.steps]  # nothing is trained again
    check_equal(work, Path(finished.workdir))


def test_killed_in_the_middle_of_the_last_export(kill, finished, resumed):
    job, work = kill("export", "export")
    assert (work / ".export.partial" / "model.safetensors").exists()
    assert not (work / "export" / "config.json").exists()
    job.run("")
    assert resumed == []
    check_equal(work, Path(finished.workdir))
