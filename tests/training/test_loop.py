"""The loop: it learns, compiles once, accumulates exactly, writes what it should and nothing else."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from small_training import MODEL, TRAIN, equal, groups, params

from rmjax.data import packing
from rmjax.data.pipeline import batches
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.models.heads import Linear
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar
from rmjax.objectives.sft import Sft
from rmjax.training import loop
from rmjax.training.flops import body_size, measured_peak, train_flops
from rmjax.training.loop import Train, fit
from rmjax.training.step import train_step

FREE = dataclasses.replace(TRAIN, save_every=0)
FAST = dataclasses.replace(TRAIN.optimizer, learning_rate=0.01)


def loss(objective, model, params, data) -> float:
    shape = packing.fit(data)
    rows = packing.stack(packing.pack(data, shape).rows)
    return float(objective(model, params, rows).loss.value())


def read(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["sft", "implicit", "scalar"])
def test_fit_lowers_its_own_loss(kind):
    objective = {"sft": Sft(), "implicit": Pairwise(), "scalar": Pairwise(score=Scalar())}[kind]
    model = MODEL.with_head(Linear()) if kind == "scalar" else MODEL
    data = groups(pairs=kind != "sft")
    if kind == "scalar":
        data = [dataclasses.replace(g, ref_logps=()) for g in data]
    start = model.init(jax.random.key(0))
    before = jax.tree.map(np.array, start)
    train = dataclasses.replace(FREE, optimizer=FAST, steps=40)
    end = fit(model, start, objective, data, train, None, name=kind)
    assert loss(objective, model, end, data) < 0.8 * loss(objective, model, start, data)
    assert equal(start, before)


def test_nothing_is_recompiled_over_rates_and_steps():
    fit(MODEL, params(), Sft(), groups(), FREE, None, name="first")
    step = train_step(MODEL, Sft(), FREE.optimizer)
    size = step._cache_size()
    compiled = []
    listen = lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for rate, schedule, steps in ((1e-4, "linear", 5), (1e-2, "cosine", 9), (3e-3, "constant", 3)):
            optimizer = dataclasses.replace(FREE.optimizer, learning_rate=rate, schedule=schedule, warmup=0.2)
            train = dataclasses.replace(FREE, optimizer=optimizer, steps=steps, seed=steps)
            fit(MODEL, params(), Sft(), groups(), train, None, name="again")
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert step._cache_size() == size
    assert compiled == []


def test_microbatches_do_not_matter(tmp_path):
    data = groups(pairs=True)
    train = dataclasses.replace(FREE, steps=0, epochs=3)
    ends = []
    for name, pieces in (("whole", 1), ("pieces", 2)):
        split = dataclasses.replace(train, microbatches=pieces)
        ends.append(fit(MODEL, params(), Pairwise(), data, split, tmp_path / name, name=name))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *ends)
    for a, b in zip(read(tmp_path / "whole"), read(tmp_path / "pieces"), strict=True):
        for key in a:
            if not key.startswith("perf/"):
                assert b[key] == pytest.approx(a[key], rel=1e-4, abs=1e-6)


def test_ragged_last_batch_counts_its_own_tokens_only(tmp_path):
    """An epoch of 5 rows in batches of 4: the last update is that of the one row that is left."""
    data = [Group(id=str(i), prompt=[1] * 10, completions=[[2 + i] * 14]) for i in range(5)]
    train = dataclasses.replace(FREE, optimizer=FAST, steps=0, epochs=1, length=32, log_every=1)
    end = fit(MODEL, params(), Sft(), data, train, tmp_path, name="ragged")
    rows = read(tmp_path)
    assert [row["train/completion_tokens"] for row in rows] == [4 * 14, 14]
    state = params()
    for size, update in zip(
        (4, 1), batches(data, packing.fit(data, length=32), batch=4, seed=0, epochs=1), strict=True
    ):
        assert int(np.sum(update.group.max(axis=1) >= 0)) == size
    want = loss(Sft(), MODEL, state, data)
    assert rows[0]["train/loss"] == pytest.approx(want, rel=0.05)
    assert not equal(end, state)


def test_rows_are_means_over_their_steps(tmp_path):
    each = dataclasses.replace(FREE, log_every=1)
    fit(MODEL, params(), Sft(), groups(), each, tmp_path / "each", name="each")
    fit(MODEL, params(), Sft(), groups(), FREE, tmp_path / "some", name="some")
    single, some = read(tmp_path / "each"), read(tmp_path / "some")
    assert [row["step"] for row in single] == list(range(1, 15))
    assert [row["step"] for row in some] == [3, 6, 9, 12, 14]
    tokens = [row["train/completion_tokens"] for row in single[:3]]
    want = sum(n * row["train/loss"] for n, row in zip(tokens, single, strict=False)) / sum(tokens)
    assert some[0]["train/loss"] == pytest.approx(want, rel=1e-6)
    assert [row["train/learning_rate"] for row in single] == [FREE.optimizer.rate(i, 14) for i in range(14)]
    assert all(row["perf/tokens_per_s"] > 0 and 0 <= row["perf/input_wait"] <= 1 for row in some)
    assert all(row["perf/checkpoint_wait"] == row["perf/evaluation_wait"] == 0 for row in some)
    assert not any("perf/mfu" in row for row in some)  # too short to measure the peak for
    assert list((tmp_path / "some" / "tensorboard").iterdir())


def test_the_host_never_waits_for_the_step_that_it_has_queued(tmp_path, monkeypatch):
    """Every step's metrics are read when the next one is under way."""
    usual, get, events = loop.train_step, jax.device_get, []

    def noting(*args):
        step = usual(*args)
        return lambda *inputs: (events.append("step"), step(*inputs))[1]

    monkeypatch.setattr(loop, "train_step", noting)
    monkeypatch.setattr(jax, "device_get", lambda tree: (events.append("read"), get(tree))[1])
    fit(MODEL, params(), Sft(), groups(), dataclasses.replace(FREE, steps=4), tmp_path, name="late")
    assert events == ["step", *["step", "read"] * 3, "read"]


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(MODEL, params(), Sft(), groups(), dataclasses.replace(TRAIN, quiet=False), None, name="nowhere")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_new_run_starts_new_files(tmp_path):
    fit(MODEL, params(), Sft(), groups(), FREE, tmp_path, name="first")
    fit(MODEL, params(), Sft(), groups(), dataclasses.replace(FREE, steps=4), tmp_path, name="second")
    assert [row["step"] for row in read(tmp_path)] == [3, 4]


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    train = dataclasses.replace(TRAIN, optimizer=dataclasses.replace(TRAIN.optimizer, learning_rate=1e30))
    with pytest.raises(UserError, match=r"SFT: \w+ is (nan|inf) at step 2 of 14, learning rate 6.67e\+29: lower train"):
        fit(MODEL, params(), Sft(), groups(), train, tmp_path, name="SFT")
    assert not read(tmp_path)


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"train.batch=6 does not split into train.microbatches=4"):
        Train(batch=6, microbatches=4)
    with pytest.raises(UserError, match=r"train.log_every=0"):
        Train(log_every=0)
    for name, value in (
        ("save_every", -1), ("seed", -1), ("steps", -1), ("epochs", -2), ("length", -1), ("peak_flops", math.nan),
        ("pairs_per_group", 0), ("batch", 0), ("keep", 0),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"train\.{name}={value}: give a number"):
            Train(**{"steps": 1, name: value})
    for both in (dict(steps=0, epochs=0), dict(steps=30, epochs=3)):
        with pytest.raises(UserError, match=rf"train.steps={both['steps']}, train.epochs={both['epochs']}: give one"):
            Train(**both)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/metrics.jsonl: cannot be written"):
        fit(MODEL, params(), Sft(), groups(), FREE, tmp_path / "file", name="x")


def test_flops_are_those_of_an_independent_count(tmp_path):
    c = MODEL.config
    body = c.layers * (c.embed * c.head_dim * (2 * c.heads + 2 * c.kv_heads) + 3 * c.embed * c.mlp)
    assert body_size(MODEL) == body
    data = groups(3, pairs=True)
    rows = packing.stack(packing.pack(data, packing.fit(data)).rows)
    want = 0
    for g in data:
        spans = [range(len(g.prompt)), *(range(len(g.prompt), len(g.prompt) + len(x)) for x in g.completions)]
        want += 6 * body * sum(map(len, spans)) + 6 * c.embed * c.vocab * sum(map(len, g.completions))
        want += sum(12 * c.layers * c.heads * c.head_dim * (p + 1) for span in spans for p in span)
    assert train_flops(MODEL, rows) == want
    windowed = MODEL.with_config(window=2, sliding=(True,))
    less = 12 * c.heads * c.head_dim * sum(max(0, p - 1) for p in rows.positions[rows.group >= 0].tolist())
    assert train_flops(windowed, rows) == want - less
    head = 6 * c.embed * c.vocab * sum(len(x) for g in data for x in g.completions)
    assert train_flops(MODEL.with_head(Linear()), rows) == want - head


def test_mfu_is_written_where_the_peak_is_known(tmp_path, monkeypatch):
    fit(MODEL, params(), Sft(), groups(), dataclasses.replace(FREE, peak_flops=1e9), tmp_path / "a", name="given")
    assert all(row["perf/mfu"] > 0 for row in read(tmp_path / "a"))
    monkeypatch.setattr(loop, "LONG", 1.0)
    monkeypatch.setattr(loop, "measured_peak", lambda dtype: 2e9 if dtype == "float32" else math.nan)
    fit(MODEL, params(), Sft(), groups(), FREE, tmp_path / "b", name="measured")
    assert all(row["perf/mfu"] > 0 for row in read(tmp_path / "b"))
    assert measured_peak("float32") > 1e8
