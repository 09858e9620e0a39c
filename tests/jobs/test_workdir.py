"""A run's folder: stages once, one configuration."""

import os

import pytest

from rmjax.config import to_json
from rmjax.errors import UserError
from rmjax.jobs.workdir import Workdir, differences
from rmjax.training.loop import Train


def test_a_stage_runs_once(tmp_path):
    calls = []
    for _ in range(2):
        work = Workdir(tmp_path / "run", {"a": 1}, {})
        out = work.stage("one", lambda folder: calls.append(folder) or {"n": 3})
    assert len(calls) == 1 and out["n"] == 3 and out["seconds"] >= 0


def test_an_interrupted_stage_runs_again(tmp_path):
    work = Workdir(tmp_path / "run", {}, {})

    def fail(folder):
        (folder / "checkpoints").mkdir()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        work.stage("one", fail)
    assert work.done("one") is None
    assert work.stage("one", lambda folder: {"seen": (folder / "checkpoints").exists()})["seen"]


def test_checkpoints_go_when_the_stage_is_done(tmp_path):
    work, checkpoints = Workdir(tmp_path / "run", {}, {}), tmp_path / "run" / "one" / "checkpoints"

    def train(folder):
        checkpoints.mkdir()
        assert work.done("one") is None

    work.stage("one", train)
    assert not checkpoints.exists()
    checkpoints.mkdir()  # killed after done.json was written
    work.stage("one", train)
    assert not checkpoints.exists()


def test_other_settings_are_refused_by_name(tmp_path):
    Workdir(tmp_path / "run", {"method": {"samples": 4}, "only": ""}, {"f": "1"})
    Workdir(tmp_path / "run", {"method": {"samples": 4}, "only": "sft"}, {"f": "1"})
    with pytest.raises(UserError, match=r"--method.samples 4 -> 8"):
        Workdir(tmp_path / "run", {"method": {"samples": 8}, "only": ""}, {"f": "1"})
    with pytest.raises(UserError, match=r"content of f '1' -> '2'"):
        Workdir(tmp_path / "run", {"method": {"samples": 4}, "only": ""}, {"f": "2"})


def test_what_changes_no_result_may_change(tmp_path):
    settings = lambda **train: {"sft": to_json(Train(steps=1, **train)), "keep": True}
    Workdir(tmp_path / "run", settings(), {})
    Workdir(tmp_path / "run", settings(save_every=5, keep=7, log_every=3, quiet=True, peak_flops=1.0), {})
    with pytest.raises(UserError, match=r"--sft.batch 16 -> 8"):
        Workdir(tmp_path / "run", settings(batch=8), {})
    with pytest.raises(UserError, match=r"--keep True -> False"):
        Workdir(tmp_path / "run", settings() | {"keep": False}, {})


def test_a_setting_may_change_until_its_stage_begins(tmp_path):
    open_ = lambda length, samples=4: Workdir(
        tmp_path / "run",
        {"method": {"train": {"length": length}, "samples": samples}},
        {},
        first_read={"method.train": "mdpo-1"},
    )
    (tmp_path / "run" / "mdpo-1").mkdir(parents=True)  # refused before it wrote anything
    open_(64)
    work = open_(128)
    with pytest.raises(UserError, match=r"--method.samples 4 -> 8"):
        open_(128, samples=8)
    work.stage("mdpo-1", lambda folder: None)
    with pytest.raises(UserError, match=r"--method.train.length 128 -> 64"):
        open_(64)
    open_(128)


def test_require_names_the_missing_stage(tmp_path):
    work = Workdir(tmp_path / "run", {}, {})
    with pytest.raises(UserError, match="sample-1 needs stage sft"):
        work.require("sft", "sample-1")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="not writable"):
        Workdir(tmp_path / "run", {}, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="not writable"):
        Workdir(tmp_path / "run", {}, {})


def test_differences_are_named():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 2}, "c": 2}) == ["--a.b 1 -> 2"]
