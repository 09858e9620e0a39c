"""The verify job passes on a sound model, and its checks see an unsound one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rmjax.jobs import verify
from rmjax.jobs.sources import PairFile
from rmjax.jobs.verify import Check, VerifyJob


def test_a_sound_model_passes(finished, files, tmp_path):
    job = VerifyJob(
        workdir=str(tmp_path / "v"),
        model=dataclasses.replace(finished.model, path=str(Path(finished.workdir) / "export")),
        data=PairFile(path=str(files / "held.jsonl"), limit=3),
        max_new_tokens=8,
        samples=2,
    )
    job.run("")
    checks = json.loads((tmp_path / "v" / "summary.json").read_text())["checks"]
    assert len(checks) == 9 and all(c["passed"] for c in checks)


def test_a_failed_check_exits_with_1(finished, files, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "score_checks", lambda *_: [Check("score", 1.0, 1e-5)])
    monkeypatch.setattr(verify, "export_checks", lambda *_: [])
    monkeypatch.setattr(verify, "sampling_checks", lambda *_: [])
    model = dataclasses.replace(finished.model, path=str(Path(finished.workdir) / "export"))
    job = VerifyJob(workdir=str(tmp_path / "v"), model=model, data=PairFile(path=str(files / "held.jsonl"), limit=2))
    with pytest.raises(SystemExit) as stop:
        job.run("")
    assert stop.value.code == 1


def test_largest():
    assert verify.largest(np.array([1.0, 2.0]), np.array([1.0, 2.5])) == 0.5
