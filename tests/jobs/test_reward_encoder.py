"""An encoder through the same jobs: trained, exported, read again, scored; over-long pairs are cut and counted."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import transformers

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore
from rmjax.jobs.reward import PairLengths, load_reward
from rmjax.jobs.score import ScoreJob
from rmjax.jobs.sources import ModelSource, PairFile, Pairs
from rmjax.jobs.train import TrainJob
from rmjax.models import hf
from rmjax.records import Preference
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer

POSITIONS = 24


@pytest.fixture(scope="module")
def trained_encoder(encoder, files, tmp_path_factory) -> TrainJob:
    job = TrainJob(
        workdir=str(tmp_path_factory.mktemp("runs") / "encoder"),
        model=ModelSource(path=str(encoder)),
        data=Pairs(path=str(files / "train.jsonl"), eval_path=str(files / "held.jsonl")),
        train=Train(optimizer=Optimizer(learning_rate=1e-3), batch=2, steps=2, quiet=True),
    )
    job.run("")
    return job


def test_it_is_trained_and_exported(trained_encoder, encoder):
    work = Path(trained_encoder.workdir)
    raw = json.loads((work / "export" / "config.json").read_text())
    assert raw["architectures"] == ["BertForSequenceClassification"] and raw["num_labels"] == 1
    before, after = (hf.load(p)[1]["encoder"] for p in (encoder, work / "export"))
    moved = [float(abs(a - b).max()) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
    assert max(moved) > 1e-4


def test_the_export_scores_as_transformers_does(trained_encoder, files):
    torch = pytest.importorskip("torch")
    path = Path(trained_encoder.workdir) / "export"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    reward, items = load_reward(ModelSource(path=str(path))), jsonl.read(files / "held.jsonl", Preference)[:3]
    score = lambda p, answer: theirs(**tokenizer(p.prompt[0].content, answer, return_tensors="pt")).logits.item()
    with torch.no_grad():
        found = [[score(p, p.chosen), score(p, p.rejected)] for p in items]
    np.testing.assert_allclose(reward.rewards(items), found, atol=1e-4)


def test_over_long_pairs_are_cut_and_counted(trained_encoder, files, tmp_path, capsys):
    held = jsonl.read(files / "held.jsonl", Preference)
    turn = held[0].prompt[0]
    long = dataclasses.replace(turn, content="music " * 2 * POSITIONS + turn.content)
    jsonl.write(tmp_path / "long.jsonl", [dataclasses.replace(held[0], prompt=(long,)), *held[1:]])
    job = ScoreJob(
        workdir=str(tmp_path / "w"),
        model=ModelSource(path=str(Path(trained_encoder.workdir) / "export")),
        data=PairFile(path=str(tmp_path / "long.jsonl")),
    )
    job.run("")
    assert "1 of 12 longer than 24 tokens" in " ".join(capsys.readouterr().out.split())
    ours = jsonl.read(tmp_path / "w" / "scores.jsonl", ItemScore)
    theirs = jsonl.read(Path(trained_encoder.workdir) / "evaluate" / "scores.jsonl", ItemScore)
    np.testing.assert_allclose([s.score_chosen for s in ours[1:]], [s.score_chosen for s in theirs[1:]], atol=1e-5)


def overlong(job, field, policy, folder) -> TrainJob:
    """A job whose first training pair or first held-out pair is too long, with a policy for it."""
    file = job.data.path if field == "train" else job.data.eval_path
    first, *rest = jsonl.read(file, Preference)
    prompt = (dataclasses.replace(first.prompt[0], content="music " * 2 * POSITIONS),)
    jsonl.write(folder / "long.jsonl", [dataclasses.replace(first, prompt=prompt), *rest])
    data = dataclasses.replace(job.data, **{"path" if field == "train" else "eval_path": str(folder / "long.jsonl")})
    return dataclasses.replace(job, data=data, lengths=PairLengths(**{field: policy}), workdir=str(folder / "w"))


@pytest.mark.parametrize(("field", "flag"), [("train", "--lengths.train"), ("evaluation", "--lengths.evaluation")])
def test_over_long_pairs_are_refused_where_that_is_asked(trained_encoder, tmp_path, field, flag):
    with pytest.raises(
        UserError, match=rf"1 of \d+ are too long; .* the limit is 24: shorten them, or give {flag} cut"
    ):
        overlong(trained_encoder, field, "error", tmp_path).run("")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(("policy", "left"), [("drop", 7), ("cut", 8), ("auto", 8)])
def test_what_is_left_of_over_long_pairs(trained_encoder, tmp_path, policy, left, capsys):
    job = overlong(trained_encoder, "train", policy, tmp_path)
    items = jsonl.read(job.data.path, Preference)
    found = job.start().limited(items, most=0, policy=policy, usual="drop", flag="--lengths.train", what="pairs")
    assert len(found) == left
    said = " ".join(capsys.readouterr().out.split())
    assert ("1 of 8 dropped" if policy == "drop" else "1 of 8 longer than 24 tokens") in said


def test_a_length_that_it_cannot_read_is_refused(trained_encoder, encoder, tmp_path):
    export = Path(trained_encoder.workdir) / "export"
    further = dataclasses.replace(trained_encoder.model, path=str(export))
    job = dataclasses.replace(trained_encoder, model=further, workdir=str(tmp_path / "w"))
    with pytest.raises(UserError, match=r"--lengths.max-length 16: .* was trained with pairs of at most 24 tokens"):
        dataclasses.replace(job, lengths=PairLengths(max_length=16)).run("")
    with pytest.raises(UserError, match=r"--max-length 32: .* was trained with pairs of at most 24 tokens; leave it 0"):
        load_reward(further, length=32)
    bare = tmp_path / "bare"
    shutil.copytree(encoder, bare)
    (bare / "contract.json").unlink()
    fresh = dataclasses.replace(job, model=ModelSource(path=str(bare)))
    with pytest.raises(UserError, match=r"--lengths.max-length 32: .* has 24 positions; give at most 24"):
        dataclasses.replace(fresh, lengths=PairLengths(max_length=32)).run("")
    assert dataclasses.replace(fresh, lengths=PairLengths(max_length=16)).start().chat.length == 16
    contract = json.loads((encoder / "contract.json").read_text())
    (bare / "contract.json").write_text(json.dumps(contract | {"length": 32}))
    with pytest.raises(UserError, match=r"contract.json: field 'length' is 32, but the model has 24 positions"):
        fresh.start()
    assert not (tmp_path / "w").exists()


def test_an_encoder_without_a_pooler_gets_a_new_one(trained_encoder, encoder, tmp_path, capsys):
    pytest.importorskip("torch")
    shutil.copytree(encoder, tmp_path / "lm")
    transformers.BertForMaskedLM.from_pretrained(encoder).save_pretrained(tmp_path / "lm")
    assert not hf.load_model(tmp_path / "lm").config.pooler
    job = dataclasses.replace(trained_encoder, model=ModelSource(path=str(tmp_path / "lm")))
    reward = job.start()
    assert "saved without a pooler: a new one is drawn" in " ".join(capsys.readouterr().out.split())
    ours, theirs = reward.params["encoder"], hf.load(encoder)[1]["encoder"]
    assert ours.keys() == theirs.keys() and reward.model.config.pooler
    for name in ours.keys() - {"pool_weight", "pool_bias"}:
        jax.tree.map(np.testing.assert_array_equal, ours[name], theirs[name])
    assert 0.01 < float(ours["pool_weight"].std()) < 0.03 and not ours["pool_bias"].any()
    other = dataclasses.replace(job, seed=1).start().params["encoder"]
    assert abs(ours["pool_weight"] - other["pool_weight"]).max() > 0
    items = jsonl.read(job.data.path, Preference)[:2]
    assert np.isfinite(reward.rewards(items)).all()


def test_the_cards_snippet_gives_the_reward(trained_encoder, files):
    """As it stands on the card; without `function_to_apply` a sigmoid would be over it."""
    pytest.importorskip("torch")
    export = Path(trained_encoder.workdir) / "export"
    card = (export / "README.md").read_text()
    assert "tokenizer(prompt, answer)" in card and "more than 24 tokens" in card
    p = jsonl.read(files / "held.jsonl", Preference)[0]
    snippet = card.split("```python\n")[1].split("```")[0].replace("THIS_DIRECTORY", str(export))
    given = f"prompt, answer = {p.prompt[0].content!r}, {p.chosen!r}\n"
    # A process of its own, as a reader of the card has: without jax's threads beside torch's.
    told = subprocess.run([sys.executable, "-c", given + snippet], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr[-2000:]
    want = load_reward(ModelSource(path=str(export))).rewards([p])[0, 0]
    assert float(told.stdout) == pytest.approx(want, abs=1e-4)


def test_a_template_means_nothing_to_it(trained_encoder):
    source = ModelSource(path=str(Path(trained_encoder.workdir) / "export"), template="chat")
    with pytest.raises(UserError, match="an encoder reads a pair of texts"):
        load_reward(source)
