"""The main job end to end, and its promises: files of every stage, one stage alone, resumption, clear errors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore
from rmjax.jobs.export import load_judge, saved_prompt
from rmjax.jobs.judge import JudgeJob
from rmjax.jobs.lengths import Lengths
from rmjax.jobs.sources import PairFile, Pairs
from rmjax.methods import gfriend
from rmjax.records import Judgment, Preference

STAGES = ("sft", "sample-1", "refine-1", "mdpo-1", "evaluate", "export")


def test_every_stage_leaves_its_files(finished):
    work = Path(finished.workdir)
    for name in ("sft/export/model.safetensors", "sample-1/judgments.jsonl", "refine-1/groups.jsonl"):
        assert (work / name).stat().st_size, name
    for name in ("mdpo-1/metrics.jsonl", "evaluate/gfriend.scores.jsonl", "export/rmjax_judge.json", "report.html"):
        assert (work / name).stat().st_size, name
    rows = json.loads((work / "summary.json").read_text())["rows"]
    assert [(r["method"], r["labels"], r["n"]) for r in rows] == [("SFT judge", 0, 12), ("GFRIEND", 8, 12)]
    run = json.loads((work / "run.json").read_text())
    kept = [j for f in work.rglob("*judgments.jsonl") for j in jsonl.read(f, Judgment)]
    held = sum(len(j.tokens) for j in kept)  # forced verdicts among them, which are scored and not sampled
    assert 0.8 * held < run["spent"]["tokens_sampled"] <= held and run["spent"]["tokens_trained"] > 0
    assert list(run["spent"]["labels"].values()) == [8, 12]
    assert run["command"].startswith("python -m rmjax.launch") and len(run["data"]) == 4 and run["seconds"] > 0
    assert run["config"]["method"]["samples"] == 4


def test_a_training_that_the_model_cannot_have_is_refused_before_any_work(job, tmp_path):
    fresh, how = dataclasses.replace(job, workdir=str(tmp_path / "w")), {"freeze": 99}
    method = dataclasses.replace(job.method, train=dataclasses.replace(job.method.train, **how))
    for change in ({"method": method}, {"sft": dataclasses.replace(job.sft, **how)}):
        with pytest.raises(UserError, match=r"train.freeze=99: the model has \d+ layers"):
            dataclasses.replace(fresh, **change).run("")
    assert not (tmp_path / "w").exists()


def test_sampled_and_trained_judgments_fit_the_labels(finished):
    judgments = jsonl.read(Path(finished.workdir) / "sample-1" / "judgments.jsonl", Judgment)
    assert len(judgments) == 8 * 4
    assert all(j.verdict in ("A", "B") for j in judgments)  # forced where it was not written
    assert {j.slot for j in judgments} == {"A", "B"}


def test_training_changed_the_judge_and_the_export_is_it(finished):
    work = Path(finished.workdir)
    load = lambda p: load_judge(p, finished.model, finished.prompt, finished.method.sampling, seed=0)
    before, after, export = (load(work / p) for p in ("sft/export", "mdpo-1/export", "export"))
    flat = lambda j: np.concatenate([np.ravel(x) for x in _leaves(j.params)])
    assert np.abs(flat(before) - flat(after)).max() > 1e-4
    np.testing.assert_array_equal(flat(after), flat(export))
    assert saved_prompt(work / "export") == finished.prompt


def _leaves(tree):
    return [x for v in tree.values() for x in _leaves(v)] if isinstance(tree, dict) else [np.asarray(tree)]


def test_the_same_command_repeats_nothing(finished):
    work = Path(finished.workdir)
    times = {s: (work / s / "done.json").stat().st_mtime_ns for s in STAGES}
    before = (work / "summary.json").read_bytes()
    finished.run("again")
    assert times == {s: (work / s / "done.json").stat().st_mtime_ns for s in STAGES}
    assert before == (work / "summary.json").read_bytes()


def test_other_settings_are_refused(finished):
    changed = dataclasses.replace(finished, method=dataclasses.replace(finished.method, samples=6))
    with pytest.raises(UserError, match=r"--method.samples 4 -> 6"):
        changed.run("")


def test_a_stage_alone_needs_the_one_before(job, tmp_path):
    alone = dataclasses.replace(job, workdir=str(tmp_path / "w"), only="sample")
    with pytest.raises(UserError, match="needs stage sft"):
        alone.run("")


def test_labels_that_give_no_pair(finished, files, tmp_path, monkeypatch):
    refine = gfriend.refine
    monkeypatch.setattr(gfriend, "refine", lambda *a, **k: dataclasses.replace(refine(*a, **k), groups=[]))
    work, train = Path(finished.workdir), jsonl.read(files / "train.jsonl", Preference)
    (tmp_path / "refine-1").mkdir()
    with pytest.raises(UserError, match=r"refine-1: no label has a right and a wrong .* --method.refinement.hints 1"):
        finished.refine_stage(work / "sft" / "export", train, 1, work, tmp_path / "refine-1")
    assert not any((tmp_path / "refine-1").iterdir())


def test_judge_job_reads_the_exported_prompt(finished, files, tmp_path):
    judge = JudgeJob(
        workdir=str(tmp_path / "judged"),
        model=dataclasses.replace(finished.model, path=str(Path(finished.workdir) / "export")),
        data=PairFile(path=str(files / "held.jsonl")),
        sampling=dataclasses.replace(finished.method.sampling, temperature=0.0),
    )
    judge.run("")
    ours = jsonl.read(tmp_path / "judged" / "scores.jsonl", ItemScore)
    theirs = jsonl.read(Path(finished.workdir) / "evaluate" / "gfriend.scores.jsonl", ItemScore)
    assert [s.outcome for s in ours] == [s.outcome for s in theirs]
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    assert summary["rows"][0]["n"] == 12 and "consistency" in summary["judge"]
    assert set(summary["baselines"]) >= {"longer answer wins", "shorter answer wins"}


def test_over_long_pairs(job, tmp_path):
    short = dataclasses.replace(job, workdir=str(tmp_path / "w"), lengths=Lengths(max_length=40))
    with pytest.raises(UserError, match="training pairs: 8 of 8 are too long"):
        short.run("")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data", Pairs(path="no.jsonl"), "no.jsonl"),
        ("data", Pairs(), "--data.path is empty"),
        ("demonstrations", "no-such.jsonl", "no-such.jsonl"),
    ],
)
def test_bad_input_is_one_line(job, tmp_path, field, value, message):
    broken = dataclasses.replace(job, workdir=str(tmp_path / "w"), **{field: value})
    with pytest.raises(UserError, match=message) as error:
        broken.run("")
    assert "\n" not in str(error.value)


def test_model_paths(job, tmp_path):
    for path, message in (("", "is empty"), (str(tmp_path), "config.json: missing"), ("/no/such", "no such directory")):
        broken = dataclasses.replace(job, workdir=str(tmp_path / "w"), model=dataclasses.replace(job.model, path=path))
        with pytest.raises(UserError, match=message):
            broken.run("")
        assert not (tmp_path / "w").exists()  # a refused command leaves no settings behind


def test_a_held_out_pair_must_not_be_trained_on(job, files, tmp_path):
    data = dataclasses.replace(job.data, eval_path=str(files / "train.jsonl"))
    with pytest.raises(UserError, match=r"8 pairs are in --data\.path too"):
        dataclasses.replace(job, workdir=str(tmp_path / "w"), data=data).run("")
