"""The methods of the training job: how they are chosen, what they refuse; MetaRM's unlabelled answers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rmjax import config, jsonl
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.jobs.reward import load_reward
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.train import TrainJob
from rmjax.jobs.unlabelled import without_labels
from rmjax.methods import proto_rm as methods
from rmjax.methods.fine_tuning import MetaRm, Plain, ProtoRm, SimCse, Swav
from rmjax.models import head_file
from rmjax.models.config import DecoderConfig
from rmjax.models.heads import Linear, Prototypes
from rmjax.models.model import Model
from rmjax.objectives.meta import unlabelled
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar
from rmjax.records import Preference
from rmjax.training import loop
from rmjax.training.loop import Train, fit, updates
from rmjax.training.optimizer import Optimizer

MODEL = Model.of(DecoderConfig(vocab=13, layers=1, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=8), Linear())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", Plain()),
        ("--train.dropout 0.1 method:plain", Plain()),
        ("--train.dropout 0.05 method:simcse --method.beta 0.3", SimCse(beta=0.3)),
        ("--train.dropout 0.05 method:swav --method.form difference", Swav(form="difference")),
        ("method:metarm --method.eta 0.5", MetaRm(eta=0.5)),
        ("method:proto-rm --method.init kmeans++", ProtoRm(init="kmeans++")),
    ],
)
def test_a_method_is_chosen_with_its_own_settings_only(flags, expected, capsys):
    assert config.override(config.load("train"), flags.split(), name="train").method == expected
    with pytest.raises(SystemExit):
        config.override(config.load("train"), [*flags.split(), "--method.of-another", "1"], name="train")


@pytest.mark.parametrize("method", [SimCse(), Swav()])
def test_contrast_needs_dropout_and_whole_batches(method):
    with pytest.raises(UserError, match=r"train.dropout=0.0: the method compares two dropout passes"):
        TrainJob(method=method)
    with pytest.raises(UserError, match=r"train.microbatches=2: the method compares all answers"):
        TrainJob(method=method, train=Train(steps=1, dropout=0.05, microbatches=2))
    for build, said in ((ProtoRm, "init='mean'"), (methods.ProtoRm, "init='mean'"), (type(method), "form='diff'")):
        with pytest.raises(UserError, match=f"{said}: not one of"):
            build(**{said.split("=")[0]: said.split("'")[1]})


def test_unlabelled_answers_come_from_a_file_or_from_the_pairs(trained, files, tmp_path, capsys):
    reward, pairs = trained.start(), jsonl.read(files / "train.jsonl", Preference)
    read = lambda path, **how: without_labels(reward, pairs, MetaRm(responses=str(path), **how), seed=0)
    groups, hashes = read("")
    assert len(groups) == len({repr(p.prompt) for p in pairs}) and not hashes
    assert all(len(g.pairs) == len(g.weight) and sum(g.weight) == pytest.approx(1) for g in groups)
    lines = [{"prompt": p, "completion": c} for p, c in [("a", "x"), ("b", "u"), ("a", "y"), ("b", "v"), ("a", "z")]]
    path = tmp_path / "r.jsonl"
    write = lambda lines: path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(lines)
    groups, hashes = read(path)
    assert [len(g.completions) for g in groups] == [3, 2] and list(hashes) == [f"responses {path}"]
    assert groups[0].pairs == [(0, 1), (0, 2), (1, 2)]
    few = read(path, answers=2)[0]
    assert [len(g.completions) for g in few] == [2, 2] and few == read(path, answers=2)[0]
    write([*lines, lines[0]])  # a policy says the same twice
    assert [g.completions for g in read(path)[0]] == [g.completions for g in groups]
    assert "dropped: 1 duplicate" in capsys.readouterr().out
    write([{**line, "prompt": f"{line['prompt']}!"} for line in lines])
    assert read(path)[1] != hashes
    write(lines[:2])
    with pytest.raises(UserError, match=r"a prompt has one answer \('a'\)"):
        read(path)
    write([{"prompt": "a", "completion": f"{c} " * 4000} for c in "xy"])
    with pytest.raises(UserError, match=r"the model reads \d+; shorten it"):
        read(path)


def test_prototypes_are_not_put_on_a_reward_model(trained, tmp_path):
    export = dataclasses.replace(trained.model, path=str(tmp_path / "absent"))
    job = dataclasses.replace(trained, method=ProtoRm(), model=export, workdir=str(tmp_path / "w"))
    with pytest.raises(UserError, match="no such directory"):
        job.run("")
    job = dataclasses.replace(job, model=dataclasses.replace(trained.model, path=f"{trained.workdir}/export"))
    with pytest.raises(UserError, match="a reward model with its own head, and the method trains a new one"):
        job.run("")
    assert not (tmp_path / "w").exists()


def test_metarm_under_dropout_continues_as_it_would_have(tmp_path, monkeypatch):
    """Both streams of data and the masks: the same parameters, bit for bit, as without the interruption."""
    model = MODEL
    r = np.random.default_rng(0)
    text = lambda n: r.integers(1, 13, n).tolist()
    labelled = [Group(id=str(i), prompt=text(2), completions=[text(2), text(2)], pairs=[(0, 1)]) for i in range(5)]
    free = [unlabelled(f"u{k}", text(2), [text(2) for _ in range(k)]) for k in (2, 3, 2)]
    objective = MetaRm(eta=0.5).objective(Pairwise(score=Scalar()))
    how = Train(steps=4, batch=2, save_every=2, dropout=0.2, quiet=True)
    first = model.init(jax.random.key(0))
    run = lambda folder, more: fit(model, first, objective, labelled, how, folder, name="meta", unlabelled=more)
    unbroken, usual, left = run(tmp_path / "a", free), loop.place_rows, [3]

    def breaking(*args, **more):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return usual(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "place_rows", breaking)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", free)
    with pytest.raises(UserError, match="belongs to"):
        run(tmp_path / "b", free[:2])
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "b", free), unbroken)


def test_the_ascent_sees_other_rows_than_the_descent():
    """Also where the unlabelled answers are those of the pairs."""
    answers = [Group(id=str(i), prompt=[i], completions=[[1], [2]], pairs=[(0, 1)]) for i in range(8)]
    rows = [next(updates(MODEL, answers, Train(steps=4, batch=2, length=6, seed=s), answers)) for s in (0, 1)]
    for both in rows:
        assert not np.array_equal(both.labelled.tokens, both.unlabelled.tokens)


def test_an_objective_gets_unlabelled_answers_if_and_only_if_it_needs_them():
    ranking, how = Pairwise(score=Scalar()), Train(steps=1, batch=1)
    groups = [Group(id="g", prompt=[1], completions=[[2], [3]], pairs=[(0, 1)])]
    run = lambda objective, more: fit(MODEL, {}, objective, groups, how, None, name="x", unlabelled=more)
    with pytest.raises(UserError, match="MetaRm: needs unlabelled answers beside the pairs, and 0 prompts"):
        run(MetaRm().objective(ranking), [])
    with pytest.raises(UserError, match="Pairwise: takes no unlabelled answers beside the pairs, and 1 prompts"):
        run(ranking, groups)


def test_prototypes_are_trained_exported_and_found_once(encoder, files, tmp_path, monkeypatch):
    """Killed in its training, on an encoder: the second run reads the head that it began with. The best evaluated
    parameters are exported, and no prototype began on what was evaluated.
    """
    how = Train(
        optimizer=Optimizer(learning_rate=0.03, schedule="constant"), batch=2, steps=3, quiet=True,
        eval_every=1, eval_share=0.6, select="best", save_every=9,
    )  # fmt: skip
    job = TrainJob(
        workdir=str(tmp_path / "w"),
        model=ModelSource(path=str(encoder)),
        data=Pairs(path=str(files / "train.jsonl"), eval_path=str(files / "held.jsonl")),
        method=ProtoRm(embed=4, capacity=6, start_with=2),
        train=how,
    )
    usual, calls = ProtoRm.first_head, []
    monkeypatch.setattr(ProtoRm, "first_head", lambda *args: calls.append(args[3]) or usual(*args))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rmjax.jobs.train.fit", raising(KeyboardInterrupt))
        job.run("")
    job.run("")
    (begun_on,) = calls
    export = load_reward(ModelSource(path=str(tmp_path / "w" / "export")))
    begun = head_file.load(tmp_path / "w" / "start", export.model)
    head = export.params["head"]
    assert isinstance(export.model.head, Prototypes) and head["valid"].sum() >= 4
    np.testing.assert_array_equal(head["valid"], begun["head.valid"])
    assert not np.array_equal(head["prototypes"], begun["head.prototypes"])
    lines = map(json.loads, (tmp_path / "w" / "train" / "metrics.jsonl").read_text().splitlines())
    losses = {row["step"]: row["eval/loss"] for row in lines if "eval/loss" in row}
    items = jsonl.read(files / "train.jsonl", Preference)
    held = [p for p, g in zip(items, export.groups(items), strict=True) if g.id not in {g.id for g in begun_on}]
    assert 0 < len(held) < len(items) == len(held) + len(begun_on)
    chosen, rejected = export.rewards(held).astype(np.float64).T
    assert np.mean(np.log1p(np.exp(rejected - chosen))) == pytest.approx(min(losses.values()), rel=1e-4)
    assert min(losses, key=losses.get) == 2 < max(losses)
    one = tmp_path / "one.jsonl"
    one.write_text((files / "train.jsonl").read_text().splitlines()[0] + "\n")
    few = dataclasses.replace(job, data=dataclasses.replace(job.data, path=str(one)), workdir=str(tmp_path / "few"))
    few = dataclasses.replace(few, train=Train(steps=1))  # one pair cannot be evaluated as well
    with pytest.raises(UserError, match="1 training pairs of one prompt"):
        few.run("")
    assert not (tmp_path / "few").exists()


def raising(error):
    def run(*args, **more):
        raise error

    return run
