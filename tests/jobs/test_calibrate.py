"""The calibration job: what it keeps beside the weights, what score makes of it, what it refuses."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.evaluation.baselines import lengths
from rmjax.evaluation.calibrator import fit
from rmjax.jobs.calibrate import CalibrateJob
from rmjax.jobs.reward import load_calibrator, load_reward
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.records import Preference
from rmjax.worlds.judge_world import JudgeWorld


@pytest.fixture(scope="module")
def job(trained, tmp_path_factory) -> CalibrateJob:
    """A job on a copy of the trained export and pairs that it ranks right about as often as wrong, and a bit more."""
    folder = tmp_path_factory.mktemp("calibrate")
    for file in (Path(trained.workdir) / "export").iterdir():
        (folder / "export").mkdir(exist_ok=True)
        (folder / "export" / file.name).write_bytes(file.read_bytes())
    source = ModelSource(path=str(folder / "export"))
    items = JudgeWorld().preferences(60, split="dev")
    rewards = load_reward(source).rewards(items)
    turn = [p if r[0] > r[1] or i % 3 == 0 else swapped(p) for i, (p, r) in enumerate(zip(items, rewards, strict=True))]
    jsonl.write(folder / "pairs.jsonl", turn)
    return CalibrateJob(
        workdir=str(folder / "run"), model=source, data=PairFile(path=str(folder / "pairs.jsonl")), folds=3
    )


def swapped(p: Preference) -> Preference:
    return dataclasses.replace(p, chosen=p.rejected, rejected=p.chosen)


@pytest.mark.parametrize("length", [False, True])
def test_the_fitted_calibrator_is_kept_beside_the_weights(job, length, tmp_path, capsys):
    dataclasses.replace(job, length=length, workdir=str(tmp_path / "w")).run("")
    reward, items = load_reward(job.model), jsonl.read(job.data.path, Preference)
    found, files = load_calibrator(Path(job.model.path), reward)
    assert found == fit(reward.rewards(items).astype(np.float64), lengths(items), length=length)
    assert bool(found.length) == length and list(files) == [job.data.path]
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert summary["n"] == 60 and summary["before"]["n"] == summary["after"]["n"] == 60
    assert summary["calibrator"] == dataclasses.asdict(found)
    said = capsys.readouterr().out
    assert "before" in said and "after" in said and "change of the Brier score" in said


def test_pairs_that_were_trained_on_are_refused(job, files, tmp_path):
    data = PairFile(path=str(files / "train.jsonl"))
    with pytest.raises(UserError, match="was trained on pairs of this file"):
        dataclasses.replace(job, data=data, workdir=str(tmp_path / "w")).run("")


@pytest.mark.parametrize(("limit", "said"), [(1, "calibration on 1 pairs"), (2, "prompts cannot make folds=3|calibr")])
def test_too_few_pairs(job, tmp_path, limit, said):
    data = dataclasses.replace(job.data, limit=limit)
    with pytest.raises(UserError, match=said) as error:
        dataclasses.replace(job, data=data, workdir=str(tmp_path / "w")).run("")
    assert "\n" not in str(error.value) and not (tmp_path / "w").exists()


def test_a_language_model_has_nothing_to_calibrate(job, files, tmp_path):
    base = ModelSource(path=str(files / "base"))
    with pytest.raises(UserError, match="a model without a reward head"):
        dataclasses.replace(job, model=base, workdir=str(tmp_path / "w")).run("")


def test_no_directory_is_said_before_anything_is_downloaded(job, monkeypatch):
    monkeypatch.delattr(ModelSource, "directory")
    with pytest.raises(UserError, match=r"--model.path owner/name: give a local directory"):
        dataclasses.replace(job, model=ModelSource(path="owner/name")).run("")


def test_a_reward_that_is_no_number(job, tmp_path, monkeypatch):
    items = jsonl.read(job.data.path, Preference)
    values = np.zeros((len(items), 2), np.float32)
    values[3, 1] = np.inf
    monkeypatch.setattr("rmjax.jobs.reward.RewardModel.rewards", lambda self, found: values)
    with pytest.raises(UserError, match=f"item '{items[3].id}': rewards .* are not finite"):
        dataclasses.replace(job, workdir=str(tmp_path / "w")).run("")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(("change", "said"), [({"folds": 1}, "folds=1"), ({"seed": -1}, "seed=-1")])
def test_an_impossible_job(change, said):
    with pytest.raises(UserError, match=said):
        CalibrateJob(**change)
