"""Few labels against all in the reward world: counts, comparisons, refusals."""

from pathlib import Path

import pytest

from rmjax import config, json_file, launch
from rmjax.jobs.curve import BASELINE

MARGIN = "+ margin by strength"
SETTINGS = """
    --seeds 2 --pool 40 --shares 0.25 0.5 --test 60 --world.features 12
    --frozen.folds 2 --frozen.forms standard --frozen.penalties 0.01 0.1 --methods margin
"""


def test_a_small_run(tmp_path):
    job = config.override(
        config.load("curve_world"), f"{SETTINGS} --workdir {tmp_path}/run".split(), name="curve_world"
    )
    job.run("")
    summary = json_file.read(Path(job.workdir) / "summary.json")
    rows = summary["rows"]
    assert {(r["method"], r["labels"]) for r in rows} == {(m, n) for m in (BASELINE, MARGIN) for n in (10, 20, 40)}
    assert len(rows) == 12 and all(r["n"] == 60 for r in rows) and summary["testbed"] == "controlled world"
    pairs = {(c["a"], c["b"]) for c in summary["comparisons"]}
    few = {(f"{MARGIN}, {n} labels", f"{BASELINE}, {m} labels") for n in (10, 20) for m in (n, 40)}
    assert pairs == few | {(f"{MARGIN}, 40 labels", f"{BASELINE}, 40 labels")}
    worlds = [r["accuracy"] for r in rows if r["method"] == BASELINE and r["labels"] == 40]
    assert worlds[0] != worlds[1]  # each seed is a world of its own
    before = (Path(job.workdir) / "rows.jsonl").read_bytes()
    job.run("")
    assert (Path(job.workdir) / "rows.jsonl").read_bytes() == before
    assert "<svg" in (Path(job.workdir) / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--shares 0.5 0.5", "all different"),
        ("--shares 1.5", "shares=(1.5,)"),
        ("--methods proto", "'proto' is none of flip"),
        ("--seeds 1", "seeds=1"),
    ],
)
def test_refused(options, said, capsys):
    assert launch.main(["curve_world", *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
