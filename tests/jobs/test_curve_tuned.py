"""The curve of fine-tuned models on a tiny encoder: its lines by hand, one compiled step, resuming, refusals."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from rmjax import config, json_file, jsonl, launch
from rmjax.data import packing
from rmjax.errors import UserError
from rmjax.jobs import curve_tuned, tuned_bench
from rmjax.jobs.curve_tuned import FIRST_SEARCH_DRAW, METHODS, CurveTuned
from rmjax.jobs.reward import load_model
from rmjax.jobs.train import drawn
from rmjax.jobs.tuned_bench import RANKING, Bench
from rmjax.methods.fine_tuning import Grm, Plain, ProtoRm
from rmjax.models.heads import Linear
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.training.frozen.draws import draw
from rmjax.training.loop import fit
from rmjax.training.step import train_step
from rmjax.worlds.judge_world import JudgeWorld

SETTINGS = """
    --labels 8 2 --draws 2 --methods swav --search.rates 1e-2 1e-3 --search.labels 6 --search.pairs 5 --seed 3
    --train.freeze 0 --train.dropout 0 --train.steps 2 --train.epochs 0 --train.batch 2 --train.length 192
    --lengths.max-length 0 --devices.data 1 --devices.fsdp 1
"""


@pytest.fixture(scope="module")
def job(encoder, tmp_path_factory) -> Iterator[CurveTuned]:
    """A study whose second method is the baseline under another name: one step is compiled, and its rows are known."""
    folder, world = tmp_path_factory.mktemp("curve_tuned"), JudgeWorld()
    jsonl.write(folder / "train.jsonl", world.draw(labels=20, draw=0))
    jsonl.write(folder / "held.jsonl", world.preferences(10, split="test"))
    place = f"""
        --model.path {encoder} --data.path {folder}/train.jsonl --data.eval-path {folder}/held.jsonl
        --workdir {folder}/run
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "swav", ("twin", Plain()))
        job = config.override(config.load("curve_tuned"), (place + SETTINGS).split(), name="curve_tuned")
        job.run("python -m rmjax.launch curve_tuned")
        yield job


def bench(job: CurveTuned) -> Bench:
    train, held, _ = job.data.load()
    return Bench(load_model(job.model), train, held, job.train, seed=job.seed)


def test_what_a_run_leaves(job):
    work = Path(job.workdir)
    summary, searched = json_file.read(work / "summary.json"), jsonl.read(work / "search.jsonl", dict)
    rows = {(r["method"], r["labels"], r["draw"]): r for r in summary["rows"]}
    assert rows.keys() == {(m, n, d) for m in ("Bradley-Terry", "twin") for n in (2, 8) for d in (0, 1)}
    assert all(r["n"] == 10 and r["settings_tried"] == 2 and r["seed"] == 3 for r in rows.values())
    right = lambda method: [rows[method, n, d]["accuracy"] for n in (2, 8) for d in (0, 1)]
    assert right("twin") == right("Bradley-Terry")  # on a draw all methods have the same pairs, head and order
    assert [c["b"] for c in summary["comparisons"]] == [f"Bradley-Terry, {n} labels" for n in (2, 8)]
    assert len(searched) == 4 and {x["n"] for x in searched} == {5}
    assert {x["draw"] for x in searched} == {FIRST_SEARCH_DRAW}
    for method, means in summary["search"]["accuracy"].items():
        known = {x["rate"]: x["accuracy"] for x in searched if x["method"] == method}
        assert {float(rate): mean for rate, mean in means.items()} == known
        best = min(rate for rate in known if known[rate] == max(known.values()))
        assert {r["learning_rate"] for r in rows.values() if r["method"] == method} == {best}
    page = (work / "report.html").read_text()
    assert "Learning rates" in page and "<script" not in page and "&lt;td" not in page


def test_a_line_by_hand(job):
    """The second draw's baseline, from the train job's pieces."""
    (line,) = [
        x
        for x in jsonl.read(Path(job.workdir) / "rows.jsonl", dict)
        if (x["method"], x["labels"], x["draw"]) == ("Bradley-Terry", 8, 1)
    ]
    summary, here = json_file.read(Path(job.workdir) / "summary.json"), bench(job)
    rate = next(r["learning_rate"] for r in summary["rows"] if r["method"] == "Bradley-Terry")
    start = drawn(here.reward, Linear(), seed=4)
    groups = start.groups([here.pool[i] for i in draw(20, seed=3, number=1)[:8]])
    optimizer = dataclasses.replace(job.train.optimizer, learning_rate=rate)
    train = dataclasses.replace(job.train, seed=4, optimizer=optimizer)
    params = fit(start.model, start.params, RANKING, groups, train, None, name="by hand", pool=here.groups)
    rewards = np.stack(slot_scores(start.model, params, start.groups(here.held), Scalar(), length=192))
    assert line["items"] == "".join("t" if a == b else str(int(a > b)) for a, b in rewards)
    assert not np.array_equal(jax.tree.leaves(params)[0], jax.tree.leaves(start.params)[0])


def test_draws_of_all_sizes_share_one_compiled_step(job):
    here = bench(job)
    shapes = {packing.fit([here.groups[i] for i in here.order(0)[:n]], length=192, share=False) for n in (2, 8)}
    assert len(shapes) == 2  # so it does not happen by itself
    model = drawn(here.reward, Linear(), seed=0).model
    assert train_step(model, RANKING, job.train.optimizer, 1, job.train.dropout)._cache_size() == 1


def test_the_search_is_scored_on_prompts_that_its_draw_does_not_take(job):
    here = bench(job)
    here._prompts = [str(i // 2) for i in range(20)]  # two pairs a prompt
    taken, others = here.order(1000)[:6], here.others(6, 1000, 5)
    prompts = {i // 2 for i in taken}
    left = [i for i in here.order(1000).tolist() if i // 2 not in prompts]
    assert others == left[:5]
    with pytest.raises(UserError, match=f"leave {len(left)} to score; give --search.pairs {len(left)} at most"):
        here.others(6, 1000, len(left) + 1)


def test_a_killed_run_goes_on(job, monkeypatch):
    path, trained = Path(job.workdir) / "rows.jsonl", []
    before = path.read_text()
    path.write_text("".join(before.splitlines(keepends=True)[:-1]) + '{"torn')

    def counted(*args, **more):
        trained.append(len(args[3]))
        return fit(*args, **more)

    monkeypatch.setattr(tuned_bench, "fit", counted)
    monkeypatch.setattr(curve_tuned, "conclude", lambda *args, **facts: None)
    job.run("again")
    assert trained == [8]
    same = lambda text: [line.split('"seconds"')[0] + line.split('"items"')[1] for line in text.splitlines()]
    assert same(path.read_text()) == same(before)


def test_what_methods_begin_with(job, monkeypatch):
    """Proto-RM's head begins on the pairs that the draw takes; MetaRM gets the answers of all pairs, without labels;
    what a training returns is scored."""
    here, drawn_on, given, scored = bench(job), [], [], []

    def first(method, model, params, groups, key):
        drawn_on.append([g.id for g in groups])
        return {name: leaf + 1 for name, leaf in params["head"].items()}

    def untrained(model, params, objective, groups, *args, **more):
        given.append((params["head"], more["unlabelled"]))
        return {**params, "head": len(given)}

    def scores(model, params, groups, *args, **more):
        scored.append(params["head"])
        return [np.array([1.0, 0.0])] * len(groups)

    monkeypatch.setattr(ProtoRm, "first_head", first)
    monkeypatch.setattr(tuned_bench, "fit", untrained)
    monkeypatch.setattr(tuned_bench, "slot_scores", scores)
    for name in ("proto-rm", "metarm"):
        line = here.run(METHODS[name][1], 1e-3, here.order(1)[:8], 0, here.held)
        assert line["items"] == "1" * 10 and line["accuracy"] == 1
    assert drawn_on == [[here.groups[i].id for i in here.order(1)[:8]]] and scored == [1, 2]
    (head, none), (_, unlabelled) = given
    start = drawn(here.reward, METHODS["proto-rm"][1].head, seed=0).params["head"]
    assert all(np.array_equal(head[name], leaf + 1) for name, leaf in start.items()) and none == []
    assert [len(g.completions) for g in unlabelled] == [2] * 20 and here.unlabelled(METHODS["metarm"][1]) is unlabelled


def test_grm_is_the_ranking_loss_with_its_terms():
    assert METHODS["grm-sft"][1].objective(RANKING) == dataclasses.replace(RANKING, sft=0.1)
    assert METHODS["grm-dpo"][1].objective(RANKING) == dataclasses.replace(RANKING, dpo=0.01)
    with pytest.raises(UserError, match="both 0"):
        Grm()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--methods plain",
            "methods: 'plain' is none of simcse, swav, metarm, proto-rm, grm-sft, grm-dpo; the baseline",
        ),
        ("--methods simcse simcse", "give each once"),
        ("--train.dropout 0", "train.dropout=0.0: the method compares two dropout passes"),
        ("--train.microbatches 2", "train.microbatches=2"),
        ("--train.save-every 5", "train.save_every=5: not read by these runs"),
        ("--train.eval-every 5", "train.eval_every=5: this training keeps no files"),
        ("--train.optimizer.learning-rate 1e-3", "set those"),
        ("--search.rates 0", "search.rates=(0.0,)"),
        ("--search.draws 0", "search.draws=0"),
        ("--labels 5 5", "labels=(5, 5)"),
        ("--draws 1", "draws=1"),
        ("--seed -1", "seed=-1"),
    ],
)
def test_refused_before_any_file_is_read(options, said, capsys):
    assert launch.main(["curve_tuned", *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": (21,)}, "labels=21: --data.path has 20 training pairs"),
        ({"search": {"labels": 18}}, "leave 2 to score"),
        ({"train": {"length": 8}}, "--train.length 8: 20 of 20 training pairs need longer rows"),
        ({"methods": ("grm-sft",)}, "objective.sft=0.1: the model has no output head"),
        ({"train": {"freeze": 9}}, "train.freeze=9: the model has 1 layers"),
    ],
)
def test_refused_before_any_work(job, tmp_path, change, said):
    nested = {k: dataclasses.replace(getattr(job, k), **v) if isinstance(v, dict) else v for k, v in change.items()}
    with pytest.raises(UserError, match=said):
        dataclasses.replace(job, **nested, workdir=str(tmp_path / "w")).run("")
    assert not (tmp_path / "w").exists()
