"""Configs are found, overridden with types, and saved; mistakes name the nearest right names."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from rmjax import config, launch
from rmjax.errors import UserError


def test_every_config_loads_and_has_a_line():
    names = config.names()
    assert "quickstart" in names and "gfriend" in names and "judge" in names
    for name, line in names.items():
        job = config.load(name)
        assert dataclasses.is_dataclass(job) and hasattr(job, "run"), name
        assert len(line) > 10, name
        assert config.in_world(name, line) == hasattr(job, "world"), name
        json.dumps(config.to_json(job))


def test_override_is_typed_and_nested():
    job = config.override(config.load("gfriend"), ["--model.path", "x", "--method.samples", "4"], name="gfriend")
    assert job.model.path == "x" and job.method.samples == 4


def test_losses_for_wrong_labels_are_flags():
    flags = ["--method.objective.loss", "robust", "--method.objective.label-smoothing", "0.1"]
    objective = config.override(config.load("gfriend"), flags, name="gfriend").method.objective
    assert (objective.loss, objective.label_smoothing) == ("robust", 0.1)


def test_wrong_field_names_the_right_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        config.override(config.load("gfriend"), ["--method.sample", "4"], name="gfriend")
    assert stop.value.code == 2
    assert "--method.samples" in capsys.readouterr().err


def test_wrong_type_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        config.override(config.load("gfriend"), ["--method.samples", "four"], name="gfriend")
    assert stop.value.code == 2
    assert "four" in capsys.readouterr().err


def test_unknown_config_names_the_nearest():
    with pytest.raises(UserError, match="gfriend"):
        config.load("gfreind")


def test_file_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from rmjax.jobs.judge import JudgeJob\ndef get_config():\n    return JudgeJob(seed=7)\n")
    assert config.load(str(path)).seed == 7
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="get_config"):
        config.load(str(path))
    with pytest.raises(UserError, match="no such config file"):
        config.load(str(tmp_path / "other.py"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("from rmjax.jobs.judge import JudgeJob\ndef get_config(): return JudgeJob(workdr='x')", "workdr"),
        ("def get_config(): return 3", "returns int, not a job"),
        ("def get_config(): return nothing", "nothing"),
    ],
)
def test_a_file_config_that_makes_no_job(tmp_path, body, said):
    (tmp_path / "mine.py").write_text(body)
    with pytest.raises(UserError, match=said):
        config.load(str(tmp_path / "mine.py"))


def test_json_carries_class_paths():
    value = config.to_json(config.load("judge"))
    assert value["class"] == "rmjax.jobs.judge:JudgeJob"
    assert value["evaluation"]["class"].endswith(":Evaluation")


def test_comments_of_fields_are_where_the_help_text_is_read_from():
    """On the field's line or above it: within brackets around a default they would not be shown."""
    inside = re.compile(r"^    \w+: .*\(\n        .*  # ", re.MULTILINE)
    assert inside.search('    path: str = (\n        ""  # a file\n    )')
    for file in Path(config.__file__).parent.rglob("*.py"):
        assert not (found := inside.search(file.read_text(encoding="utf-8"))), f"{file}: {found[0]}"


def test_help_lists_configs(capsys):
    assert launch.main(["--help"]) == 0
    out = capsys.readouterr().out
    last = out.index("studies in controlled worlds")
    assert all(out.index(f"\n{name} ") < last for name in ("head", "train", "score", "inspect"))
    assert all(out.index(f"\n{name} ") > last for name in ("quickstart", "shift", "noise_world", "study_noise"))


def test_user_errors_are_one_line(tmp_path, capsys):
    assert launch.main(["judge", "--workdir", str(tmp_path / "w")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --data.path is empty") and err.count("\n") == 1
