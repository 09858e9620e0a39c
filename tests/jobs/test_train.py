"""The training job end to end: its files, its export in transformers, what it refuses, what it repeats."""

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

from rmjax import config, jsonl, launch
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore
from rmjax.jobs import reward as rewards
from rmjax.jobs.reward import PairLengths, load_reward
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.train import TrainJob
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Implicit, Scalar
from rmjax.records import Preference
from rmjax.training.loop import Train

KEPT = ("model.safetensors", "config.json", "contract.json", "tokenizer.json", "README.md", "rmjax_reward.json")


def test_the_run_leaves_its_files(trained):
    work = Path(trained.workdir)
    assert all((work / "export" / name).stat().st_size for name in KEPT)
    summary = json.loads((work / "summary.json").read_text())
    (row,) = summary["rows"]
    assert (row["method"], row["labels"], row["n"]) == ("reward model", 8, 12)
    assert row["ci95"][0] <= row["accuracy"] <= row["ci95"][1]
    assert {"longer answer wins", "shorter answer wins", "bag of words, prompt-blind"} == set(summary["baselines"])
    assert {(c["a"], c["b"]) for c in summary["against_baselines"]} == {
        (row["method"], b) for b in summary["baselines"]
    }
    run = json.loads((work / "run.json").read_text())
    assert run["contract"]["template"] == "chat" and run["seconds"] > 0
    spent = run["spent"]
    assert list(spent["labels"].values()) == [8, 12] and spent["tokens_sampled"] == 0
    lengths = [sum(map(len, (p.chosen.split(), p.rejected.split()))) for p in jsonl.read(trained.data.path, Preference)]
    assert spent["tokens_trained"] > 3 * 2 * min(lengths) and not spent["at_least"]  # 3 updates of 2 rows
    assert (work / "train" / "metrics.jsonl").stat().st_size
    assert [p.id for p in jsonl.read(work / "held_out.jsonl", Preference)] == [
        s.id for s in jsonl.read(work / "evaluate" / "scores.jsonl", ItemScore)
    ]
    card = (work / "export" / "README.md").read_text()
    assert f"| this model | {100 * row['accuracy']:.1f} |" in card and "longer answer wins" in card


def test_the_same_command_repeats_nothing_and_other_settings_are_refused(trained):
    work = Path(trained.workdir)
    before = {p: p.read_bytes() for p in (work / "summary.json", work / "evaluate" / "scores.jsonl")}
    weights = (work / "export" / "model.safetensors").stat().st_mtime_ns
    trained.run("again")
    assert (work / "export" / "model.safetensors").stat().st_mtime_ns == weights
    assert before == {p: p.read_bytes() for p in before}
    with pytest.raises(UserError, match=r"--seed 0 -> 1"):
        dataclasses.replace(trained, seed=1).run("")


def test_a_run_killed_before_its_export_ends_as_an_unbroken_one(trained, tmp_path, monkeypatch):
    """The trained parameters are in a checkpoint: the same command exports them, and trains nothing again."""
    job = dataclasses.replace(trained, workdir=str(tmp_path / "w"))

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rmjax.jobs.train.export_reward", die)
        with pytest.raises(KeyboardInterrupt):
            job.run("")
    assert not (tmp_path / "w" / "export").exists()
    job.run("")
    ours, theirs = (Path(j.workdir) / "export" / "model.safetensors" for j in (job, trained))
    assert ours.read_bytes() == theirs.read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "w" / "train" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))  # no step twice


def test_a_run_killed_in_its_training_goes_on(trained, tmp_path):
    """SIGKILL when the first checkpoint is whole; the same settings end as the unbroken run did."""
    job = dataclasses.replace(trained, workdir=str(tmp_path / "w"))
    given = {"workdir": job.workdir, "model.path": job.model.path, "data.path": job.data.path}
    given |= {"data.eval-path": job.data.eval_path, "train.optimizer.learning-rate": 1e-3, "train.batch": 2}
    given |= {"train.steps": 3, "train.epochs": 0, "train.save-every": 2}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, killed_launch.__file__, "checkpoint", "train", *flags]
    alone = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}  # as in this process
    killed = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert [p.name for p in (tmp_path / "w" / "train" / "checkpoints").iterdir()] == ["2"]
    assert not (tmp_path / "w" / "export").exists()
    optimizer = dataclasses.replace(TrainJob().train.optimizer, learning_rate=1e-3)
    dataclasses.replace(job, train=dataclasses.replace(job.train, optimizer=optimizer)).run("")
    ours, theirs = (Path(j.workdir) / "export" / "model.safetensors" for j in (job, trained))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_few_label_run_is_protected():
    assert TrainJob().train.save_every == 10


def test_rows_too_short_for_the_pairs_are_refused_before_any_work(trained, tmp_path):
    train = dataclasses.replace(trained.train, length=16)
    with pytest.raises(
        UserError, match=r"--train.length 16: 8 of 8 training pairs need longer rows; give at least (\d+)"
    ) as e:
        dataclasses.replace(trained, train=train, workdir=str(tmp_path / "w")).run("")
    assert not (tmp_path / "w").exists()
    need = int(str(e.value).split("at least ")[1].split(",")[0])
    reward = trained.start()
    groups = reward.groups(jsonl.read(trained.data.path, Preference))
    fits = dataclasses.replace(trained, train=dataclasses.replace(train, length=need))
    fits.check_rows(groups, reward.model)
    with pytest.raises(UserError, match="need longer rows"):
        dataclasses.replace(fits, train=dataclasses.replace(train, length=need - 1)).check_rows(groups, reward.model)


def test_a_decoder_cuts_nothing(trained, tmp_path):
    for field in ("train", "evaluation"):
        job = dataclasses.replace(trained, lengths=PairLengths(**{field: "cut"}), workdir=str(tmp_path / "w"))
        with pytest.raises(UserError, match=f"--lengths.{field} cut: a decoder's pairs are never cut"):
            job.run("")
    assert not (tmp_path / "w").exists()


def test_the_export_scores_as_transformers_does(trained, files, capsys):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = Path(trained.workdir) / "export"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    assert theirs.config.num_labels == 1 and theirs.config.pad_token_id is not None
    reward = load_reward(ModelSource(path=str(path)))
    items = jsonl.read(files / "held.jsonl", Preference)[:4]
    with torch.no_grad():
        found = [
            [theirs(torch.tensor([[*g.prompt, *c]])).logits.item() for c in g.completions] for g in reward.groups(items)
        ]
    np.testing.assert_allclose(reward.rewards(items), found, atol=1e-4)
    snippet = (path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    capsys.readouterr()
    given = {"prompt": items[0].prompt[0].content, "answer": items[0].chosen}
    exec(snippet.replace("THIS_DIRECTORY", str(path)), given)
    assert float(capsys.readouterr().out) == pytest.approx(found[0][0], abs=1e-4)


def test_an_export_that_scores_differently_is_no_success(trained, files, tmp_path, monkeypatch):
    source = ModelSource(path=str(Path(trained.workdir) / "export"))
    good, items = load_reward(source), jsonl.read(files / "held.jsonl", Preference)
    assert rewards.export_reward(tmp_path / "good", good, source, items, origin={}) <= 1e-4
    save = rewards.hf.save
    worse = lambda path, model, params, **how: save(
        path, model, {**params, "head": {"weight": params["head"]["weight"] + 0.1}}, **how
    )
    monkeypatch.setattr(rewards.hf, "save", worse)
    with pytest.raises(UserError, match="rewards differ by"):
        rewards.export_reward(tmp_path / "bad", good, source, items, origin={})


def test_a_reward_model_is_trained_further(trained, tmp_path):
    export = dataclasses.replace(trained.model, path=str(Path(trained.workdir) / "export"))
    further = dataclasses.replace(trained, model=export, workdir=str(tmp_path / "w"))
    head = load_reward(export).params["head"]["weight"]
    np.testing.assert_array_equal(further.start().params["head"]["weight"], head)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"train": Train(steps=1, seed=3)}, "train.seed=3: the job's own --seed decides"),
        ({"objective": Pairwise(score=Implicit())}, "objective.score=Implicit"),
    ],
)
def test_an_impossible_job(change, said):
    with pytest.raises(UserError, match=said):
        TrainJob(**change)


def with_column(files, path, **columns):
    lines = [json.loads(line) for line in (files / "train.jsonl").read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, **columns}) + "\n" for line in lines))
    return str(path)


def test_ties_and_unusable_columns_are_refused_before_any_work(trained, files, tmp_path):
    fresh = dataclasses.replace(trained, workdir=str(tmp_path / "w"))
    ties = Pairs(path=with_column(files, tmp_path / "t.jsonl", tie=True), eval_path=str(files / "held.jsonl"))
    with pytest.raises(UserError, match="8 of 8 pairs are labelled ties"):
        dataclasses.replace(fresh, data=ties).run("")
    soft = Pairs(path=with_column(files, tmp_path / "s.jsonl", prob_chosen=0.7), eval_path=str(files / "held.jsonl"))
    with pytest.raises(UserError, match="loss='hinge' ignores smoothing"):
        dataclasses.replace(fresh, data=soft, objective=Pairwise(score=Scalar(), loss="hinge")).run("")
    assert not (tmp_path / "w").exists()


def test_strength_columns_reach_the_loss(trained, files, tmp_path):
    """Weight, margin and soft label of the file are those of the groups that are trained on."""
    path = with_column(files, tmp_path / "c.jsonl", prob_chosen=0.75, margin=0.5, weight=2.0)
    train, _, _ = Pairs(path=path, eval_path=str(files / "held.jsonl")).load()
    (group,) = trained.start().groups(train[:1])
    assert (group.weight, group.margin, group.smooth) == ([2.0], [0.5], [0.25])


def test_the_command_line_makes_the_job():
    job = config.override(
        config.load("train"),
        ["--objective.label-smoothing", "0.1", "--objective.center", "0.01", "--train.epochs", "1"],
        name="train",
    )
    assert (job.objective.label_smoothing, job.objective.center, job.train.epochs) == (0.1, 0.01, 1)
    assert isinstance(job.objective.score, Scalar)


def test_a_wrong_command_is_one_line(capsys):
    assert launch.main(["train", "--train.batch", "0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: train.batch=0") and said.count("\n") == 1
