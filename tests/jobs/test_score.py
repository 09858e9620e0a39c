"""The scoring job: pairs, single responses, two models compared, RewardBench's files, what it refuses."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import killed_launch
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.evaluation.calibrator import Calibrator
from rmjax.evaluation.pairwise import ItemScore
from rmjax.jobs import score
from rmjax.jobs.reward import load_reward, save_calibrator
from rmjax.jobs.score import ScoreJob, model_name, same_items
from rmjax.jobs.score_report import ResponseScore
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.records import Demonstration, Preference


@pytest.fixture(scope="module")
def scored(trained, files, tmp_path_factory) -> ScoreJob:
    """A run over two sets, of which one holds items of a RewardBench subset."""
    folder = tmp_path_factory.mktemp("scored")
    held = jsonl.read(files / "held.jsonl", Preference)
    jsonl.write(folder / "a.jsonl", held[:8])
    jsonl.write(folder / "b.jsonl", [dataclasses.replace(p, subset="math-prm") for p in held[8:]])
    job = ScoreJob(
        workdir=str(folder / "run"),
        model=ModelSource(path=str(Path(trained.workdir) / "export")),
        data=PairFile(path=str(folder / "a.jsonl")),
        more=(str(folder / "b.jsonl"),),
    )
    job.run("python -m rmjax.launch score")
    return job


def test_scores_are_those_of_the_training_run(scored, trained):
    ours = jsonl.read(Path(scored.workdir) / "scores.jsonl", ItemScore)
    theirs = jsonl.read(Path(trained.workdir) / "evaluate" / "scores.jsonl", ItemScore)
    assert [s.id for s in ours] == [s.id for s in theirs]
    np.testing.assert_allclose([s.score_chosen for s in ours], [s.score_chosen for s in theirs], atol=1e-5)


def test_the_summary_has_every_figure(scored):
    summary = json.loads((Path(scored.workdir) / "summary.json").read_text())
    assert [(name, s["n"]) for name, s in summary["sets"].items()] == [("a", 8), ("b", 4)]
    assert sum(s["n"] for s in summary["sets"]["a"]["subsets"].values()) == 8
    assert (summary["rows"][0]["n"], summary["rows"][0]["labels"]) == (12, 8)
    assert set(summary["baselines"]) == {"longer answer wins", "shorter answer wins"}
    assert [c["b"] for c in summary["against_baselines"]] == list(summary["baselines"])
    assert "p by Holm for 2 baselines" in (Path(scored.workdir) / "report.html").read_text()
    assert summary["calibrator"] == {"temperature": 1.0, "offset": 0.0, "length": 0.0}
    assert 0 <= summary["calibration"]["ece95"][0] <= summary["calibration"]["ece"]
    assert {"pearson", "spearman", "within", "strata", "controlled"} == set(summary["length"])
    assert summary["rewardbench_subsets"]["subsets"]["math-prm"]["n"] == 4
    assert "RewardBench score" not in json.dumps(summary)


def test_rewardbenchs_files(scored):
    owned = model_name(scored.model.path)
    folder, name = Path(scored.workdir) / "rewardbench", owned.replace("/", "-")
    lines = [json.loads(line) for line in (folder / f"{name}_outputs.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(line["text_chosen"] != line["text_rejected"] for line in lines)
    assert all("<eos>" in line["text_chosen"] for line in lines)  # what is scored, the end token included
    assert json.loads((folder / f"{name}.json").read_text())["num_prompts"] == 4
    board = json.loads((folder / "eval-set" / f"{owned}.json").read_text())
    assert board["model"] == owned and board["math-prm"] == sum(line["results"] for line in lines) / 4
    kept = json.loads((folder / "eval-set-scores" / f"{owned}.json").read_text())
    assert kept["scores_chosen"] == [line["scores_chosen"] for line in lines]


def test_the_page_shows_calibration(scored):
    page = (Path(scored.workdir) / "report.html").read_text()
    assert 'id="calibration"' in page and "Reliability diagram of reward model" in page and "longer answer wins" in page
    assert "By subset" in page and "<script" not in page


def test_a_killed_run_goes_on(scored, tmp_path, monkeypatch):
    """Killed in the middle of a line of the second part: the first part is not scored again, and the bytes agree."""
    monkeypatch.setattr(score, "PART", 4)
    unbroken = dataclasses.replace(scored, workdir=str(tmp_path / "unbroken"))
    unbroken.run("")
    work = tmp_path / "killed"
    given = f"--workdir {work} --model.path {scored.model.path} --data.path {scored.data.path} --more {scored.more[0]}"
    command = [sys.executable, killed_launch.__file__, "score", "score", *given.split()]
    one = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}  # as in this process
    killed = subprocess.run(command, env=one, capture_output=True, text=True, timeout=400)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    killed_clock = (work / "seconds.json").read_text()
    *whole, torn = (work / "scores.jsonl").read_bytes().split(b"\n")
    assert len(whole) == killed_launch.WHOLE and torn
    usual, parts = score.slot_scores, []
    monkeypatch.setattr(score, "slot_scores", lambda *a, **k: parts.append(len(a[2])) or usual(*a, **k))
    job = dataclasses.replace(scored, workdir=str(work))
    job.run("")
    assert parts == [4, 4]  # of three parts
    seconds = lambda: json.loads((work / "summary.json").read_text())["rows"][0]["seconds"]
    before, took = json.loads(killed_clock)["seconds"], seconds()
    assert took > before > 0  # the killed attempt's count
    assert (work / "scores.jsonl").read_bytes() == (tmp_path / "unbroken" / "scores.jsonl").read_bytes()
    job.run("")
    assert parts == [4, 4] and seconds() == took  # a run that is done scores nothing, and what it took stays
    lines = jsonl.read(work / "scores.jsonl", ItemScore)
    jsonl.write(work / "scores.jsonl", lines[1:])
    with pytest.raises(UserError, match="holds scores of other items"):
        job.run("")


def test_two_models_are_compared_on_the_same_items(scored, tmp_path):
    against = str(Path(scored.workdir) / "scores.jsonl")
    dataclasses.replace(scored, workdir=str(tmp_path / "w"), against=against).run("")
    (found,) = json.loads((tmp_path / "w" / "summary.json").read_text())["comparisons"]
    assert found["difference"]["value"] == 0 and found["p"] == 1 and found["over"] == "the same 12 items"


def test_other_items_are_refused_before_any_work_and_leave_the_folder_free(scored, tmp_path, monkeypatch):
    lines = jsonl.read(Path(scored.workdir) / "scores.jsonl", ItemScore)
    job = dataclasses.replace(scored, workdir=str(tmp_path / "w"), against=str(tmp_path / "s.jsonl"))
    with monkeypatch.context() as patch:
        patch.delattr("rmjax.jobs.score.load_reward")
        jsonl.write(tmp_path / "s.jsonl", lines[1:])
        with pytest.raises(UserError, match=rf"judged different items \(1 not shared; '{lines[0].id}' is only here"):
            job.run("")
        jsonl.write(tmp_path / "s.jsonl", [*lines, lines[0]])
        with pytest.raises(UserError, match="1 items are scored twice"):
            job.run("")
    assert not (tmp_path / "w").exists()
    # The comparison changes no score, so it may change in the folder of a run.
    against = str(Path(scored.workdir) / "scores.jsonl")
    dataclasses.replace(scored, against=against).run("")
    scored.run("")


def test_items_that_may_still_be_dropped():
    other = ("s.jsonl", [ItemScore(id="a", outcome=0.5)])
    same_items(["a", "b"], other, dropping=True)
    with pytest.raises(UserError, match="'b' is only here"):
        same_items(["a", "b"], other)
    with pytest.raises(UserError, match="'a' is only there"):
        same_items(["b"], other, dropping=True)


def test_the_name_of_a_model(tmp_path, monkeypatch):
    (tmp_path / "run" / "export").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run" / "export")
    assert model_name(".") == "run/export" and model_name("../export/") == "run/export"
    assert model_name("owner/name") == "owner/name"


def test_single_responses(scored, files, tmp_path):
    held = jsonl.read(files / "held.jsonl", Preference)
    path = tmp_path / "responses.jsonl"
    jsonl.write(path, [Demonstration(prompt=p.prompt, completion=p.chosen, id=p.id) for p in held])
    job = ScoreJob(workdir=str(tmp_path / "w"), model=scored.model, responses=str(path))
    job.run("")
    ours = jsonl.read(tmp_path / "w" / "scores.jsonl", ResponseScore)
    pairs = jsonl.read(Path(scored.workdir) / "scores.jsonl", ItemScore)
    np.testing.assert_allclose([s.score for s in ours], [s.score_chosen for s in pairs], atol=1e-5)
    assert [s.characters for s in ours] == [len(p.chosen) for p in held]
    assert json.loads((tmp_path / "w" / "summary.json").read_text())["n"] == 12


def test_a_calibrator_beside_the_weights_is_applied_unless_refused(scored, tmp_path):
    path = tmp_path / "export"
    path.mkdir()
    for file in Path(scored.model.path).iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    source = ModelSource(path=str(path))
    save_calibrator(path, Calibrator(temperature=4.0, offset=1.0), load_reward(source))
    read = lambda job: [s.score_chosen for s in jsonl.read(Path(job.workdir) / "scores.jsonl", ItemScore)]
    job = dataclasses.replace(scored, model=source, workdir=str(tmp_path / "w"))
    job.run("")
    np.testing.assert_allclose(read(job), np.array(read(scored)) / 4 - 1)
    raw = dataclasses.replace(job, workdir=str(tmp_path / "x"), calibrated=False)
    raw.run("")
    np.testing.assert_array_equal(read(raw), read(scored))


def broken(scored, tmp_path, change):
    """A copy of the export whose head is changed."""
    path = tmp_path / "broken"
    path.mkdir()
    for file in Path(scored.model.path).iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(path / "model.safetensors")
    tensors["score.weight"] = change(tensors["score.weight"])
    save_file(tensors, path / "model.safetensors")
    return ModelSource(path=str(path))


def test_weights_that_are_no_numbers(scored, tmp_path):
    model = broken(scored, tmp_path, lambda w: np.full_like(w, np.nan))
    with pytest.raises(UserError, match=r"parameter head\.weight holds NaN"):
        dataclasses.replace(scored, model=model, workdir=str(tmp_path / "w")).run("")


def test_a_calibrator_of_other_weights(scored, tmp_path):
    model = broken(scored, tmp_path, lambda w: w + 1)
    save_calibrator(Path(model.path), Calibrator(temperature=2.0), load_reward(scored.model))
    with pytest.raises(UserError, match="was fitted for other weights"):
        dataclasses.replace(scored, model=model, workdir=str(tmp_path / "w")).run("")


def test_a_language_model_has_no_scores(scored, files, tmp_path):
    job = dataclasses.replace(scored, model=ModelSource(path=str(files / "base")), workdir=str(tmp_path / "w"))
    with pytest.raises(UserError, match="a model without a reward head") as error:
        job.run("")
    assert "\n" not in str(error.value) and not (tmp_path / "w").exists()


def test_ties_and_one_pair(scored, files, tmp_path):
    lines = [json.loads(line) for line in (files / "held.jsonl").read_text().splitlines()]
    ties = tmp_path / "ties.jsonl"
    ties.write_text("".join(json.dumps({**x, "tie": i == 0}) + "\n" for i, x in enumerate(lines[:2])))
    job = dataclasses.replace(scored, more=(), data=PairFile(path=str(ties)), workdir=str(tmp_path / "w"))
    with pytest.raises(UserError, match="1 of 2 pairs are labelled ties"):
        job.run("")
    one = dataclasses.replace(job, data=PairFile(path=str(ties), tie="drop"))
    one.run("")  # one pair is left: an accuracy of 0 or 1 with a wide interval, and nothing that fails
    (row,) = json.loads((tmp_path / "w" / "summary.json").read_text())["rows"]
    assert row["n"] == 1 and row["ci95"][1] - row["ci95"][0] > 0.7


def test_over_long_answers_are_refused_or_dropped(scored, tmp_path):
    job = dataclasses.replace(scored, max_length=3, workdir=str(tmp_path / "w"))
    with pytest.raises(UserError, match="pairs of a: 8 of 8 are too long"):
        job.run("")


def test_an_item_in_two_files(scored, tmp_path):
    copy = tmp_path / "c.jsonl"
    copy.write_bytes(Path(scored.data.path).read_bytes())
    with pytest.raises(UserError, match=r"c\.jsonl: item .* is in .*a\.jsonl too"):
        dataclasses.replace(scored, more=(str(copy),), workdir=str(tmp_path / "w")).run("")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"max_length": -1}, "max_length=-1"),
        ({"responses": "r.jsonl", "against": "s.jsonl"}, "--responses is scored instead of pairs"),
        ({"responses": "r.jsonl", "data": PairFile(path="p.jsonl")}, "--responses is scored instead of pairs"),
        ({"more": ("m.jsonl",), "data": PairFile(path="p.jsonl", limit=2)}, "--data.limit 2 with --more"),
    ],
)
def test_an_impossible_job(change, said):
    with pytest.raises(UserError, match=said):
        ScoreJob(**change)
