"""Frozen layers, rates that fall with depth, the head alone first: against slow oracles, and what they save."""

import dataclasses
import functools
import math

import jax
import jax.extend
import numpy as np
import optax
import pytest
from small_training import TRAIN, equal, groups

from rmjax.data import packing
from rmjax.data.pipeline import batches
from rmjax.errors import UserError
from rmjax.models import layers
from rmjax.models.config import DecoderConfig, EncoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar
from rmjax.objectives.sft import Sft
from rmjax.training import loop
from rmjax.training.flops import train_flops
from rmjax.training.loop import Train, fit
from rmjax.training.optimizer import Optimizer, shares, transform
from rmjax.training.state import new_state
from rmjax.training.step import gradients, train_step

DECODER = Model.of(
    DecoderConfig(vocab=13, layers=3, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=8, tied=False), Linear()
)
ENCODER = Model.of(EncoderConfig(vocab=13, layers=3, embed=8, heads=2, mlp=16, max_positions=32), Linear(), ("pooler",))
MODELS = {"decoder": DECODER, "encoder": ENCODER}
SCALAR = Pairwise(score=Scalar())
DATA = [dataclasses.replace(g, ref_logps=()) for g in groups(9, pairs=True)]
FAST = Optimizer(learning_rate=0.02, schedule="constant", weight_decay=0.3, clip=0.5, layer_decay=0.5)
SEED = np.uint32(0)
HEAD_FIRST = Train(optimizer=FAST, steps=7, batch=4, head_only=3, freeze=1, quiet=True)


@pytest.fixture(autouse=True, scope="module")
def rolled():
    """Loops over layers stay loops: they compile once, not once a layer."""
    usual, layers.SHALLOW = layers.SHALLOW, 0
    yield
    layers.SHALLOW = usual


def updates(model):
    """The batches of HEAD_FIRST; the seed's type and the shapes are the loop's, so that nothing compiles twice."""
    return batches(DATA, packing.fit(DATA, share=model.share), batch=4, seed=0, steps=7, share=model.share)


def rows_of(model):
    return next(updates(model))


def noisy(model):
    noise = np.random.default_rng(0)
    params = model.init(jax.random.key(0))
    return jax.tree.map(lambda p: np.asarray(p) + 0.1 * noise.standard_normal(p.shape).astype(np.float32), params)


def named(tree) -> dict[str, np.ndarray]:
    return {".".join(k.key for k in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def level(name: str, layers: int) -> np.ndarray | int:
    """How high a parameter is, by its name alone: the embeddings 0, the layers 1 to L, what is above them more."""
    if ".blocks." in name:
        return np.arange(1, layers + 1)
    low = ("decoder.table", "encoder.table", "encoder.positions", "encoder.types", "encoder.norm")
    return 0 if name.startswith(low) else layers + 1 + (name.startswith("head") or ".pool_" in name)


def decays(name: str) -> bool:
    """Matrices and tables; not norms, biases or a reward head's weight."""
    return name.split(".")[-1] in (
        "table", "unembed", "positions", "types", "wq", "wk", "wv", "wo", "gate", "up", "down", "pool_weight",
    )  # fmt: skip


def adamw64(params, grads, o: Optimizer, rates) -> dict:
    """AdamW over several gradients, parameter by parameter, in float64; `rates` by name broadcast over layers."""
    names = list(params)
    p = {n: params[n].astype(np.float64) for n in names}
    m, v = ({n: np.zeros_like(p[n]) for n in names} for _ in range(2))
    for t, g in enumerate(grads, 1):
        g = {n: np.where(rates[n] > 0, g[n].astype(np.float64), 0) for n in names}
        norm = math.sqrt(sum(float((x**2).sum()) for x in g.values()))
        for n in names:
            x = g[n] * min(1.0, o.clip / norm)
            m[n] = o.b1 * m[n] + (1 - o.b1) * x
            v[n] = o.b2 * v[n] + (1 - o.b2) * x**2
            step = m[n] / (1 - o.b1**t) / (np.sqrt(v[n] / (1 - o.b2**t)) + o.eps)
            p[n] = p[n] - rates[n] * (step + (o.weight_decay if decays(n) else 0.0) * p[n])
    return p


@functools.cache
def gradient(kind: str, frozen: int):
    model = MODELS[kind].with_config(frozen=frozen)
    program = jax.jit(lambda p, rows: gradients(model, SCALAR, p, rows)[0])
    return functools.partial(program, rows=rows_of(model))


def test_updates_are_adamw_with_a_rate_of_each_layers_own():
    """Two updates of an encoder with one frozen layer of three, against gradients of the model that is not frozen.

    What is frozen keeps every bit under weight decay, -0 too; all else moves.
    """
    model, rate = ENCODER, 0.02
    part, rows = model.with_config(frozen=1), rows_of(model)
    start = noisy(model)
    for p in jax.tree.leaves(start):
        p[..., :1] = -0.0
    step = train_step(part, SCALAR, FAST)
    state = new_state(part, transform(FAST.direction, part), start)
    seen = []
    for _ in range(2):
        seen.append(named(gradient("encoder", 0)(state.params)))
        state, _ = step(state, rows, rate, SEED)

    before, end, rates, moving = named(start), named(state.params), {}, 0
    for name, p in before.items():
        at = level(name, 3)
        share = np.where(np.less_equal(at, 1), 0.0, rate * 0.5 ** np.maximum(3 - at, 0))
        rates[name] = share.reshape(-1, *(1,) * (p.ndim - 1)) if ".blocks." in name else share
        still = np.broadcast_to(rates[name] == 0, p.shape)
        np.testing.assert_array_equal(end[name].view(np.int32)[still], p.view(np.int32)[still], err_msg=name)
        assert still.all() or not np.array_equal(end[name][~still], p[~still]), name
        moving += np.count_nonzero(~still)
    assert sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim) == 2 * moving  # no moments of the others
    want = adamw64(before, seen, FAST, rates)
    for name, got in end.items():
        np.testing.assert_allclose(got, want[name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_nothing_asked_for_changes_nothing():
    """The same program as before there were such settings: optax's chain and nothing after it."""
    plain = dataclasses.replace(FAST, layer_decay=1.0)
    parts = optax.clip_by_global_norm(0.5), optax.scale_by_adam(), optax.add_decayed_weights(0.3, DECODER.matrices)
    before, now = optax.chain(*parts), transform(plain.direction, DECODER)
    params = DECODER.shapes
    programs = [str(jax.make_jaxpr(t.update)(params, jax.eval_shape(t.init, params), params)) for t in (before, now)]
    assert programs[0] == programs[1]


def test_gradients_stop_at_the_border_and_nowhere_else():
    params = noisy(DECODER)
    whole, part = named(gradient("decoder", 0)(params)), named(gradient("decoder", 1)(params))
    for n in whole:
        at = np.broadcast_to(level(n, 3), whole[n].shape[:1] if ".blocks." in n else (1,))
        a, b = (g[n].reshape(len(at), -1) for g in (whole, part))
        assert not np.any(b[at <= 1]), n
        np.testing.assert_allclose(b[at > 1], a[at > 1], rtol=1e-4, atol=1e-6, err_msg=n)
        assert np.any(b[at > 1], axis=1).all() or n == "decoder.unembed", n  # no loss of a reward head reads that


def products(jaxpr) -> int:
    """Multiplications and additions of all matrix products that a program computes."""
    total = 0
    for e in jaxpr.eqns:
        if e.primitive.name == "dot_general":
            contracted, _ = e.params["dimension_numbers"][0]
            shape = e.invars[0].aval.shape
            total += 2 * math.prod(e.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        for sub in jax.extend.core.jaxprs_in_params(e.params):
            total += products(sub) * (e.params["length"] if e.primitive.name == "scan" else 1)
    return total


@pytest.mark.parametrize("kind", MODELS)
def test_no_backward_pass_is_computed_below(kind):
    """What the program's matrix products cost falls as the FLOPs say: four of a layer's six units a layer."""
    model = MODELS[kind]
    rows = rows_of(model)

    def cost(frozen: int) -> tuple[int, float]:
        part = model.with_config(frozen=frozen)
        program = jax.make_jaxpr(lambda p: gradients(part, SCALAR, p, rows)[0])(model.shapes)
        return products(program.jaxpr), train_flops(part, rows)

    costs, flops = zip(*(cost(frozen) for frozen in (0, 1, 2, 3)), strict=True)
    forward = products(jax.make_jaxpr(lambda p: SCALAR(model, p, rows).loss.total)(model.shapes).jaxpr)
    layer = (costs[0] - forward) / 3  # a layer's backward pass
    assert costs[0] > 2.5 * forward
    # A border saves the gradient of what goes into the lowest trained layer too: that of its queries, keys and values.
    for frozen, saved in ((1, 1.0), (2, 2.0)):
        assert saved - 0.01 < (costs[0] - costs[frozen]) / layer < saved + 0.3
    np.testing.assert_allclose(-np.diff(flops) / flops[0], 2 / 9)
    assert costs[3] < 1.1 * forward


def test_flops_of_a_frozen_output_head():
    lm, rows = DECODER.with_head(None), rows_of(DECODER)
    c = lm.config
    logits = c.embed * c.vocab * np.count_nonzero(rows.target >= 0)
    flops = lambda head, **k: train_flops(DECODER.with_head(head).with_config(**k), rows)
    for frozen, tied, want in ((0, False, 6), (1, False, 6), (1, True, 4), (4, False, 2), (4, True, 2)):
        k = {"frozen": frozen, "tied": tied}
        assert flops(None, **k) - flops(Linear(), **k) == pytest.approx(want * logits)


def by_hand(model, start):
    """HEAD_FIRST as two trainings that know nothing of each other but the parameters."""
    data = updates(model)
    params, middle = start, None
    for frozen, count in ((4, 3), (1, 4)):
        part = model.with_config(frozen=frozen)
        step = train_step(part, SCALAR, FAST)
        state = new_state(part, transform(FAST.direction, part), params)
        for _ in range(count):
            state, _ = step(state, next(data), 0.02, SEED)
        params = state.params
        middle = middle or params
    return middle, params


@pytest.mark.parametrize("kind", MODELS)
def test_the_head_alone_first_is_a_training_before_the_training(kind):
    model = MODELS[kind]
    start = noisy(model)
    middle, end = by_hand(model, start)
    assert equal(fit(model, start, SCALAR, DATA, HEAD_FIRST, None, name=kind), end)
    for name, before in named(start).items():
        same = np.array_equal(named(middle)[name], before)
        assert same == (not name.startswith("head") and ".pool_" not in name), name
        low = name.startswith(("decoder.table", "encoder.table", "encoder.positions", "encoder.types", "encoder.norm"))
        assert np.array_equal(named(end)[name], named(middle)[name]) == low, name


class Stop(Exception):
    pass


def test_resumed_is_unbroken_across_the_switch(tmp_path, monkeypatch):
    """Killed at it, where the checkpoint is the head's last update, and two updates later."""
    start, usual, left = noisy(DECODER), loop.train_step, [0]
    train = dataclasses.replace(HEAD_FIRST, head_only=4, save_every=2)
    want = fit(DECODER, start, SCALAR, DATA, train, tmp_path / "unbroken", name="unbroken")

    def breaking(*args):
        def run(*inputs):
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            return usual(*args)(*inputs)

        return run

    for left[0], newest in ((4, 4), (2, 6)):
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(loop, "train_step", breaking)
            fit(DECODER, start, SCALAR, DATA, train, tmp_path / "killed", name="killed")
        assert max(int(p.name) for p in (tmp_path / "killed" / "checkpoints").iterdir()) == newest
    assert equal(fit(DECODER, start, SCALAR, DATA, train, tmp_path / "killed", name="again"), want)
    with pytest.raises(UserError, match=r"other settings \(train.freeze: 1 -> 2; train.optimizer.layer_decay"):
        other = dataclasses.replace(train, freeze=2, optimizer=dataclasses.replace(FAST, layer_decay=0.9))
        fit(DECODER, start, SCALAR, DATA, other, tmp_path / "killed", name="other")


def test_nothing_is_compiled_over_shares_and_steps():
    """One program for the head alone and one for the rest, whatever the updates; a share is a share of all."""
    run = lambda **k: fit(
        DECODER, noisy(DECODER), SCALAR, DATA, dataclasses.replace(HEAD_FIRST, **k), None, name="again"
    )
    once = run(), compiled()
    assert not equal(run(head_only=0.3, steps=10), once[0])
    assert not equal(run(head_only=0), once[0])
    assert compiled() == once[1]


def compiled() -> list[int]:
    return [train_step(DECODER.with_config(frozen=n), SCALAR, FAST)._cache_size() for n in (1, 4)]


def test_shares_of_the_rate():
    each = named(shares(Optimizer(layer_decay=0.5), ENCODER.with_config(frozen=1)))
    assert each["encoder.blocks.up"].ravel().tolist() == [0, 0.5, 1]
    assert each["encoder.table"] == 0 and each["head.weight"] == each["encoder.pool_bias"] == 1
    assert named(shares(Optimizer(layer_decay=0.5), DECODER))["decoder.table"] == 0.125


def test_what_cannot_be_is_refused():
    start = DECODER.init(jax.random.key(0))
    run = lambda model, objective, data, **k: fit(
        model, start, objective, data, dataclasses.replace(HEAD_FIRST, **k), None, name="x"
    )
    with pytest.raises(UserError, match=r"^train.freeze=4: the model has 3 layers; give at most 3$"):
        run(DECODER, SCALAR, DATA, freeze=4)
    with pytest.raises(UserError, match=r"^train.head_only=3: the model has no reward head; set it to 0$"):
        run(DECODER.with_head(None), Sft(), groups(4))
    with pytest.raises(UserError, match=r"^train.head_only=7: 7 updates of the head alone leave none of 7"):
        run(DECODER, SCALAR, DATA, head_only=7)
    for bad in (0.0, 1.1, -0.5, math.nan):
        with pytest.raises(UserError, match=rf"^optimizer.layer_decay={bad}: "):
            Optimizer(layer_decay=bad)
    for name in ("freeze", "head_only"):
        with pytest.raises(UserError, match=rf"^train.{name}=-1: "):
            dataclasses.replace(TRAIN, **{name: -1})
    with pytest.raises(UserError, match=r"model field frozen=5: must lie between 0 and layers \+ 1 = 4"):
        DECODER.with_config(frozen=5)
    few = dataclasses.replace(HEAD_FIRST, steps=40, head_only=0.01)
    assert (few.alone(40), dataclasses.replace(few, head_only=0.1).alone(40)) == (1, 4)
    by_epochs = dataclasses.replace(HEAD_FIRST, steps=0, epochs=1, head_only=5)
    by_epochs.check(DECODER)
    with pytest.raises(UserError, match=r"^train.head_only=5: 5 updates of the head alone leave none of [1-5] for"):
        by_epochs.check(DECODER, DATA)
