"""Jobs that fine-tune, with adapters: what they leave, what peft and the other jobs make of it, what is refused."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.jobs import strength_members
from rmjax.jobs.export import load_judge
from rmjax.jobs.reward import load_reward
from rmjax.jobs.sources import ModelSource, PairFile, Pairs
from rmjax.jobs.strength import StrengthJob
from rmjax.jobs.train import TrainJob
from rmjax.launch import main
from rmjax.methods import gfriend
from rmjax.methods.strength import StrengthEnsemble
from rmjax.models.config import Lora
from rmjax.records import Preference
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer

TRAIN = Train(optimizer=Optimizer(learning_rate=3e-3), batch=2, steps=3, save_every=2, quiet=True)
LORA = Lora(rank=2, targets=("q", "v", "down"))


@pytest.fixture(scope="module")
def adapted(files, tmp_path_factory) -> TrainJob:
    """A workdir in which adapters upon an int8 base were trained, with a new head."""
    job = TrainJob(
        workdir=str(tmp_path_factory.mktemp("runs") / "adapted"),
        model=ModelSource(path=str(files / "base"), quantise="int8"),
        data=Pairs(path=str(files / "train.jsonl"), eval_path=str(files / "held.jsonl")),
        train=TRAIN,
        lora=LORA,
    )
    job.run("python -m rmjax.launch train")
    return job


def held(files) -> list[Preference]:
    return jsonl.read(files / "held.jsonl", Preference)[:4]


def test_the_adapter_upon_its_base_scores_as_the_merged_export(adapted, files):
    """The base in int8, as it was trained upon; what the export holds is that base's weights with the adapter added."""
    work = Path(adapted.workdir)
    merged = load_reward(ModelSource(path=str(work / "export"))).rewards(held(files))
    source = ModelSource(path=str(files / "base"), adapter=str(work / "adapter"), quantise="int8")
    upon = load_reward(source).rewards(held(files))
    exact = load_reward(dataclasses.replace(source, quantise="none")).rewards(held(files))
    assert 0 < np.abs(exact - merged).max() < 0.1 * np.abs(merged).max()  # int8's error, which the export carries
    np.testing.assert_allclose(upon, merged, atol=0.1 * np.abs(merged).max())  # the sum is rounded once more
    plain = adapted.start()
    start = load_reward(ModelSource(path=str(work / "export")))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), start.params, plain.model.merged(plain.params)[1])
    blocks = moved["decoder"]["blocks"]
    assert {name for name, gap in blocks.items() if gap > 1e-6} == {"wq", "wv", "down"}
    card = (work / "export" / "README.md").read_text()
    assert "its matrices were rounded to int8" in card and "adapters of rank 2 upon it" in card
    summary = json.loads((work / "summary.json").read_text())
    assert summary["rows"][0]["labels"] == 8


def test_peft_reads_the_adapter(adapted, files):
    """transformers' classifier of the base with the adapter gives the rewards of ours upon the same base."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    work, items = Path(adapted.workdir), held(files)
    ours = load_reward(ModelSource(path=str(files / "base"), adapter=str(work / "adapter")))
    base = transformers.AutoModelForSequenceClassification.from_pretrained(files / "base", num_labels=1)
    module = peft.PeftModel.from_pretrained(base, work / "adapter").eval()
    for group, want in zip(ours.groups(items), ours.rewards(items), strict=True):
        for answer, reward in zip(group.completions, want, strict=True):
            with torch.no_grad():
                got = module(input_ids=torch.tensor([[*group.prompt, *answer]])).logits.item()
            assert got == pytest.approx(float(reward), abs=1e-4)


def test_members_are_adapters_upon_one_base(files, tmp_path, monkeypatch):
    """Each has its own adapter, head and order of data; the arrays of the base are the same ones."""
    seen = []

    def fit(model, params, objective, groups, train, *args, **more):
        seen.append((model, params, train.seed))
        return params

    monkeypatch.setattr(strength_members, "fit", fit)
    job = StrengthJob(
        workdir=str(tmp_path / "run"),
        model=ModelSource(path=str(files / "base")),
        data=PairFile(path=str(files / "train.jsonl")),
        trunk="tuned",
        ensemble=StrengthEnsemble(members=2, scoring="training"),
        train=dataclasses.replace(TRAIN, save_every=0),
        lora=Lora(rank=2),
    )
    job.run("")
    (model, one, first), (_, other, second) = seen
    assert (first, second) == (0, 1) and model.config.lora == Lora(rank=2)
    (trained, base), (also, same) = model.split(one), model.split(other)
    assert all(a is b for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(same), strict=True))
    drawn = lambda tree: [x for x in jax.tree.leaves(tree) if np.any(x)]  # B is 0 in both
    assert all(np.abs(a - b).max() > 0 for a, b in zip(drawn(trained), drawn(also), strict=True))
    assert "2 adapters of rank 2" in (tmp_path / "run" / "report.html").read_text()


def test_a_judge_with_adapters_is_handed_on_as_it_is_and_exported_whole(job, tmp_path, monkeypatch):
    """The next stage has the int8 base and the very adapters, small ones too, which rounding their sum would undo."""
    source = dataclasses.replace(job.model, quantise="int8")
    job = dataclasses.replace(job, workdir=str(tmp_path), model=source, lora=Lora(rank=2))
    trained = []

    def fit(model, params, *args, **more):
        trained.append(model.config.lora)
        bump = lambda path, x: x + 1e-3 if any(k.key == "lora" for k in path) else x
        return jax.tree_util.tree_map_with_path(bump, params)

    monkeypatch.setattr(gfriend, "fit", fit)
    base = job.model.directory()
    start = job.tuned(job.judge(base))
    judge = gfriend.mdpo(start, [], job.method, folder=None)
    job.hand_on(tmp_path, judge)
    following = job.tuned(job.judge(tmp_path / "export"))
    assert trained == [Lora(rank=2)] and following.model == judge.model
    jax.tree.map(np.testing.assert_array_equal, following.params, judge.params)
    back = load_judge(tmp_path / "export", ModelSource(), judge.prompt, judge.sampling, seed=0)
    want = judge.model.merged(judge.params)[1]
    assert back.model.plain
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), back.params, want)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --model.quantise int8", "weights=int8: such parameters cannot be trained"),
        ("train --lora.alpha 8", "lora.rank=0: the other settings of lora count only with a rank"),
        ("train --lora.rank 2 --lora.targets query", "lora.targets"),
        ("train --model.adapter {base}", "adapter_config.json: missing"),
        ("strength --lora.rank 2", "lora.rank=2: is for members that are tuned; add --trunk tuned"),
        ("calibrate --model.quantise int8", "--model.quantise int8: the calibrator is kept beside the weights"),
        ("export --model.quantise int8", "--model.quantise int8: an export would keep its rounding"),
    ],
)
def test_one_line_refusals(files, tmp_path, capsys, command, message):
    name, *given = command.format(base=files / "base").split()
    flags = ["--model.path", str(files / "base"), "--data.path", str(files / "train.jsonl")]
    assert main([name, *flags, *given, "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("job", ["head", "curve", "score"])
def test_jobs_that_train_no_model_have_no_such_option(job):
    with pytest.raises(SystemExit, match="2"):
        main([job, "--lora.rank", "2"])


def test_a_source_that_cannot_be_meant():
    with pytest.raises(UserError, match=r"model\.quantise='int4': not one of none, int8"):
        ModelSource(quantise="int4")
