"""The head job on a tiny encoder and decoder: fit, exact export, report; score, calibrate, export, verify read it."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rmjax import config, json_file, jsonl, launch
from rmjax.errors import UserError
from rmjax.evaluation.baselines import lengths
from rmjax.evaluation.calibrator import Calibrator
from rmjax.evaluation.pairwise import ItemScore
from rmjax.jobs.calibrate import CalibrateJob
from rmjax.jobs.head import HeadJob
from rmjax.jobs.head_report import LINEAR
from rmjax.jobs.reward import load_calibrator, load_reward, save_calibrator
from rmjax.jobs.reward_export import ExportJob
from rmjax.jobs.score import ScoreJob
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.verify import VerifyJob
from rmjax.models import hf
from rmjax.models.heads import Linear, Prototypes
from rmjax.records import Preference
from rmjax.worlds.judge_world import JudgeWorld

SETTINGS = "--frozen.axes 6 --frozen.folds 2 --frozen.penalties 0.1"


def made(folder: Path, model: Path, method: str, *more: str) -> HeadJob:
    world = JudgeWorld()
    jsonl.write(folder / "train.jsonl", world.draw(labels=16, draw=0))
    jsonl.write(folder / "held.jsonl", world.preferences(8, split="test"))
    given = f"""
        --model.path {model} --data.path {folder}/train.jsonl --data.eval-path {folder}/held.jsonl
        --features {folder}/features --workdir {folder}/run --method {method}
    """
    job = config.override(config.load("head"), [*(given + SETTINGS).split(), *more], name="head")
    job.run("python -m rmjax.launch head")
    return job


@pytest.fixture(scope="module")
def prototypes(encoder, tmp_path_factory) -> HeadJob:
    return made(
        tmp_path_factory.mktemp("head"), encoder, "proto-rm", "--frozen.forms", "unit", "--frozen.schedule.steps", "3"
    )


def export_of(job) -> Path:
    return Path(job.workdir) / "export"


def test_what_a_run_leaves(prototypes):
    work, export = Path(prototypes.workdir), export_of(prototypes)
    model = hf.load_model(export)
    assert isinstance(model.head, Prototypes) and model.head.centred
    assert model.pool == ("unit_cls", "unit_mean", "unit_answer")
    summary = json_file.read(work / "summary.json")
    assert [r["method"] for r in summary["rows"]] == ["Proto-RM", LINEAR]
    assert summary["fit"]["difference_after_export"] == 0 and summary["rows"][0]["settings_tried"] == 16
    assert json_file.read(work / "evaluate" / "done.json")["difference_from_fit"] < 1e-4
    gap = json_file.read(export / "rmjax_head.json")["nearest"]
    assert gap == summary["nearest_linear_head"] and gap["pairs"] == 16 and 0 <= gap["order"] <= 1
    card = (export / "README.md").read_text()
    assert "## Two heads" in card and "rmjax_head.safetensors" in card and "labelled pairs" in card
    page = (work / "report.html").read_text()
    assert '<section id="prototypes">' in page and "nearest to prototype 1" in page and "<script" not in page
    assert "distance" in page and "through the prototypes" in page


def test_the_same_command_repeats_nothing(prototypes):
    weights = export_of(prototypes) / "rmjax_head.safetensors"
    before = weights.stat().st_mtime_ns
    prototypes.run("again")
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="--method 'proto-rm' -> 'metarm'"):
        dataclasses.replace(prototypes, method="metarm").run("")


def test_score_reads_the_exact_head_and_calibrate_keeps_to_it(prototypes, tmp_path):
    export = tmp_path / "export"
    shutil.copytree(export_of(prototypes), export)
    held = Path(prototypes.workdir) / "held_out.jsonl"
    scores = lambda name: jsonl.read(tmp_path / name / "scores.jsonl", ItemScore)
    job = ScoreJob(
        workdir=str(tmp_path / "a"),
        model=ModelSource(path=str(export)),
        data=PairFile(path=str(held)),
        calibrated=False,
    )
    job.run("")
    known = jsonl.read(Path(prototypes.workdir) / "evaluate" / "scores.jsonl", ItemScore)
    assert [s.score_chosen for s in scores("a")] == [s.score_chosen for s in known]
    known = tmp_path / "known.jsonl"  # the training pairs in another file: on the few others the head may be wrong
    jsonl.write(known, jsonl.read(prototypes.data.path, Preference)[::-1])
    CalibrateJob(workdir=str(tmp_path / "c"), model=job.model, data=PairFile(path=str(known)), folds=2).run("")
    dataclasses.replace(job, workdir=str(tmp_path / "b"), calibrated=True).run("")
    items, (calibrator, seen) = jsonl.read(held, Preference), load_calibrator(export, load_reward(job.model))
    raw = np.array([[s.score_chosen, s.score_rejected] for s in scores("a")])
    told = np.array([[s.score_chosen, s.score_rejected] for s in scores("b")])
    np.testing.assert_allclose(told, calibrator.apply(raw, lengths(items)), rtol=1e-6)
    assert list(seen) == [str(known)] and np.abs(told - raw).max() > 1e-3
    file = export / "rmjax_head.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"head.prototypes": tensors["head.prototypes"] + 0.5}, file)
    dataclasses.replace(job, workdir=str(tmp_path / "d")).run("")
    assert all(a.score_chosen != b.score_chosen for a, b in zip(scores("a"), scores("d"), strict=True))
    with pytest.raises(UserError, match="was fitted for other weights"):
        dataclasses.replace(job, workdir=str(tmp_path / "e"), calibrated=True).run("")


def test_export_converts_it_again(prototypes, tmp_path):
    held, once = Path(prototypes.workdir) / "held_out.jsonl", tmp_path / "once"
    shutil.copytree(export_of(prototypes), once)
    source = ModelSource(path=str(once))
    save_calibrator(once, Calibrator(temperature=2.0), load_reward(source), data={"x.jsonl": "1"})
    job = ExportJob(workdir=str(tmp_path / "w"), model=source, data=PairFile(path=str(held)))
    job.run("")
    again = tmp_path / "w" / "export"
    found = load_calibrator(again, load_reward(ModelSource(path=str(again))))
    assert found == (Calibrator(temperature=2.0), {"x.jsonl": "1"})
    assert (again / "rmjax_head.safetensors").read_bytes() == (once / "rmjax_head.safetensors").read_bytes()
    items = jsonl.read(held, Preference)
    score = lambda path: load_reward(ModelSource(path=str(path))).rewards(items)
    np.testing.assert_array_equal(score(again), score(once))
    summary = json_file.read(tmp_path / "w" / "summary.json")
    gap = json_file.read(once / "rmjax_head.json")["nearest"]
    assert summary["difference_after_export"] == 0
    # The linear head of the 16 training pairs is nearer than folds of these 8, so it stays.
    assert summary["nearest_linear_head"] == gap == json_file.read(again / "rmjax_head.json")["nearest"]
    assert (again / "model.safetensors").read_bytes() == (once / "model.safetensors").read_bytes()
    card = (again / "README.md").read_text()
    assert "Proto-RM" in card and "| this model |" in card and "held_out.jsonl" in card
    train = dataclasses.replace(job, workdir=str(tmp_path / "t"), data=PairFile(path=prototypes.data.path))
    train.run("")
    assert "was not measured" in (tmp_path / "t" / "export" / "README.md").read_text()
    with pytest.raises(UserError, match="is the model itself; give another --workdir"):
        dataclasses.replace(job, model=ModelSource(path=str(again)), workdir=str(tmp_path / "w")).run("")


def test_verify_passes_on_it(prototypes, tmp_path):
    data = PairFile(path=prototypes.data.path, limit=3)
    job = VerifyJob(workdir=str(tmp_path / "v"), model=ModelSource(path=str(export_of(prototypes))), data=data)
    job.run("")
    checks = json.loads((tmp_path / "v" / "summary.json").read_text())["checks"]
    assert len(checks) == 6 and all(c["passed"] and c["limit"] <= 1e-5 for c in checks)
    assert not any("shared" in c["name"] for c in checks)
    with pytest.raises(UserError, match=r"--samples 2: .* is a reward model, which writes nothing"):
        dataclasses.replace(job, samples=2, workdir=str(tmp_path / "x")).run("")


def test_transformers_pipeline_runs_on_it(prototypes):
    pytest.importorskip("torch")
    import transformers

    pipe = transformers.pipeline("text-classification", str(export_of(prototypes)), device="cpu")
    p = jsonl.read(prototypes.data.path, Preference)[0]
    prompt = (dataclasses.replace(p.prompt[0], content="music or tea"),)
    p = dataclasses.replace(p, prompt=prompt, chosen="the red tea", rejected="music")  # what they read uncut
    found = [
        pipe({"text": "music or tea", "text_pair": answer}, function_to_apply="none")["score"]
        for answer in (p.chosen, p.rejected)
    ]
    linear, params = hf.load_stand_in(export_of(prototypes))
    reward = dataclasses.replace(load_reward(ModelSource(path=str(export_of(prototypes)))), model=linear, params=params)
    assert found[0] != found[1]
    np.testing.assert_allclose(reward.rewards([p])[0], found, atol=1e-3)  # 16 pairs leave it weights of a million


def test_a_decoders_linear_head_needs_no_second_one(files, tmp_path):
    job = made(tmp_path, files / "base", "bradley-terry", "--frozen.forms", "standard")
    export = export_of(job)
    assert hf.load_model(export).head == Linear() and not (export / "rmjax_head.json").exists()
    assert [r["method"] for r in json_file.read(tmp_path / "run" / "summary.json")["rows"]] == ["Bradley-Terry"]
    assert "Two heads" not in (export / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "proto"], "method: 'proto' is none of bradley-terry, flip"),
        (["--method", "grm-sft"], "method: 'grm-sft' has no meaning on a frozen model: its regulariser is"),
        (["--frozen.schedule.steps", "7"], "frozen.schedule.steps=7: none of bradley-terry reads it"),
        (["--method", "margin", "--frozen.schedule.batch", "4"], "batch=4: none of bradley-terry, margin reads it"),
        (["--method", "metarm", "--frozen.schedule.hidden", "77"], "hidden=77: none of bradley-terry, metarm reads it"),
        (["--pool", "unit_cls"], r"leave unit_ out; --frozen.forms says"),
        (["--pool", "last", "end"], "'end' is not one of"),
        (["--data.limit", "1"], "1 training pairs of one prompt"),
        (["--seed", "-1"], "seed=-1"),
    ],
)
def test_wrong_input_is_one_line(prototypes, tmp_path, capsys, flags, says):
    given = f"""
        --model.path {prototypes.model.path} --data.path {prototypes.data.path}
        --data.eval-path {prototypes.data.eval_path} --workdir {tmp_path}/w
    """
    assert launch.main(["head", *given.split(), *flags]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "w").exists()
