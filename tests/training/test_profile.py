"""An XLA trace of a few steps."""

import gzip
import json

import pytest
from small_training import train

from rmjax.errors import UserError


def test_the_steps_asked_for_are_in_the_trace(tmp_path, capsys):
    train(tmp_path, profile=2, steps=6, save_every=0)
    assert f"small: steps 3 to 4 are traced in {tmp_path / 'profile'}" in capsys.readouterr().err
    (binary,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert binary.stat().st_size > 1000
    (events,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    found = json.loads(gzip.decompress(events.read_bytes()))["traceEvents"]
    steps = {int(e["args"]["step_num"]) for e in found if e.get("name") == "train"}
    assert steps == {3, 4}


def test_a_trace_that_cannot_be_is_said(tmp_path, capsys):
    with pytest.raises(UserError, match=r"train.profile=2: this training keeps no files; set it to 0"):
        train(None, profile=2)
    train(tmp_path, profile=5, steps=2, save_every=0)
    assert "small: train.profile=5: 2 steps are left, and the first 2 are not traced" in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()
