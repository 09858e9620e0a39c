"""run.json: what it holds, and what an interrupted run leaves."""

import json

import jax
import pytest

from rmjax.errors import UserError
from rmjax.evaluation.provenance import Provenance, versions

FACTS = dict(command="python -m rmjax.launch x", config={"seed": 3}, data={"pairs.jsonl": "sha256:00"}, seed=3)


def test_a_finished_run(tmp_path):
    path = tmp_path / "run.json"
    held = Provenance(path, **FACTS, contract={"length": 512}).finish(peak_bytes=12)
    run = json.loads(path.read_text())
    assert run == held
    assert {k: run[k] for k in FACTS} == FACTS
    assert (run["contract"], run["peak_bytes"]) == ({"length": 512}, 12)
    assert run["device"]["platform"] == "cpu" and run["device"]["count"] == len(jax.devices())
    assert run["versions"]["jax"] == jax.__version__
    assert run["seconds"] >= 0 and run["attempts"][0]["seconds"] == run["seconds"]


def test_a_killed_attempt_is_remembered(tmp_path):
    path = tmp_path / "run.json"
    Provenance(path, **FACTS)  # killed: never finished
    Provenance(path, **FACTS).finish()
    run = Provenance(path, **FACTS).finish()
    assert [a["seconds"] is None for a in run["attempts"]] == [True, False, False]
    assert run["seconds"] == pytest.approx(sum(a["seconds"] or 0 for a in run["attempts"]), abs=2e-3)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: not valid JSON"):
        Provenance(tmp_path / "run.json", **FACTS)


def test_a_file_that_is_no_record_is_named(tmp_path):
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UserError, match=r"run\.json: not a run's record"):
        Provenance(tmp_path / "run.json", **FACTS)


def test_versions_name_every_package():
    found = versions()
    assert found["python"].count(".") == 2
    assert all(found.values()) and "flax" in found and "rmjax" in found
