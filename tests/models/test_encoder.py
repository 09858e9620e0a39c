"""The encoder on packed rows: who sees whom, an independent forward pass, blocks, gradients, invariance, training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_helpers import CONFIG, groups
from scipy.special import erf

from rmjax.data import packing
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.models import attention
from rmjax.models.heads import Ensemble, Linear, Prototypes
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Implicit, Scalar, hidden_states
from rmjax.objectives.sft import Sft
from rmjax.training.flops import body_size, train_flops
from rmjax.training.loop import Train, fit
from rmjax.training.optimizer import Optimizer
from rmjax.training.step import gradients

MODEL = Model.of(CONFIG, Linear(), ("cls", "pooler", "mean", "answer"))
ITEMS = groups(5)


def noisy(model: Model, seed: int = 0) -> dict:
    """Parameters with biases and scales that are not those of a new model."""
    params = model.init(jax.random.key(seed))
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + 0.1 * noise.standard_normal(p.shape).astype(np.float32), params)


def hidden64(params: dict, ids: list[int], types: list[int]) -> np.ndarray:
    """One text through the encoder: float64, loops over layers and heads."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["encoder"])

    def norm(x: np.ndarray, n: dict) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * n["scale"] + n["bias"]

    x = norm(p["table"][ids] + p["positions"][: len(ids)] + p["types"][types], p["norm"])
    for layer in range(CONFIG.layers):
        w = jax.tree.map(lambda x, layer=layer: x[layer], p["blocks"])
        out = w["bo"].copy()
        for n in range(CONFIG.heads):
            q, k, v = (x @ w[f"w{i}"][:, n] + w[f"b{i}"][n] for i in "qkv")
            a = np.exp(q @ k.T / np.sqrt(CONFIG.head_dim))
            out = out + a / a.sum(-1, keepdims=True) @ v @ w["wo"][n]
        x = norm(x + out, w["attn_norm"])
        y = x @ w["up"] + w["b_up"]
        y = y * 0.5 * (1 + erf(y / np.sqrt(2)))
        x = norm(x + y @ w["down"] + w["b_down"], w["mlp_norm"])
    return x


def rows_of(items: list[Group], length: int = 0) -> packing.Rows:
    shape = packing.fit(items, length=length, share=False)
    return packing.stack(packing.pack(items, shape, share=False).rows)


@pytest.mark.parametrize("length", [96, 384])
def test_packed_rows_are_every_text_by_itself(length: int):
    """In short rows (dense attention) and long ones (by blocks)."""
    assert (length < attention.LONG) == (length == 96)
    params, rows = noisy(MODEL), rows_of(groups(9), length)
    got = np.asarray(jax.jit(lambda p, r: hidden_states(MODEL.bind(p), r))(params, rows))
    texts = 0
    for r, g in [(r, g) for r, line in enumerate(rows.group) for g in sorted(set(line.tolist()) - {-1})]:
        at = rows.group[r] == g
        want = hidden64(params, rows.tokens[r, at].tolist(), (rows.branch[r, at] > 0).astype(int).tolist())
        np.testing.assert_allclose(got[r, at], want, atol=2e-5)
        texts += 1
    assert texts == 18


def test_gradients_by_blocks_are_those_of_dense_attention(monkeypatch: pytest.MonkeyPatch):
    model = MODEL.with_config(layers=1)
    params, rows = noisy(model), rows_of(groups(9), 384)
    objective = Pairwise(score=Scalar())
    run = lambda: jax.jit(lambda p: gradients(model, objective, p, rows)[0])(params)
    blocks = run()
    monkeypatch.setattr(attention, "LONG", 10_000)
    dense = run()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3), blocks, dense)


def test_tokens_see_both_ways_within_their_text_only():
    params, rows = noisy(MODEL), rows_of(ITEMS[:2], 96)
    run = jax.jit(lambda p, r: hidden_states(MODEL.bind(p), r))
    before = np.asarray(run(params, rows))
    at = int(np.nonzero(rows.group[0] == 1)[0][-2])  # near the end of the second text
    tokens = rows.tokens.copy()
    tokens[0, at] = 3 + (tokens[0, at] - 2) % 50
    change = np.abs(np.asarray(run(params, dataclasses.replace(rows, tokens=tokens))) - before).max(-1)[0]
    assert np.array_equal(change > 1e-6, rows.group[0] == 1)


@pytest.mark.parametrize("head", [Linear(), Ensemble(members=2, of=Prototypes(embed=4, capacity=3))])
def test_every_leaf_gets_a_gradient(head: Linear | Ensemble):
    """Positions and words that occur, and all else that is trained; with remat the same."""
    model = MODEL.with_head(head)
    params = noisy(model)
    if isinstance(head, Ensemble):
        params["head"]["heads"] |= {"valid": jnp.ones((2, 3)), "mix": jnp.full(2, 0.5), "gamma": jnp.ones(2)}
    rows, objective = rows_of(ITEMS, 96), Pairwise(score=Scalar())
    run = lambda m: jax.jit(lambda p: gradients(m, objective, p, rows)[0])(params)
    grads = run(model)
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        fixed = path[-1].key in ("valid", "classes", "gamma", "mix")
        assert bool(jnp.any(g != 0)) != fixed, path
    if isinstance(head, Linear):
        again = run(model.with_config(remat="full"))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4), again, grads)


def test_scores_do_not_depend_on_company():
    """Batch sizes 1 to 32, order, padding, buckets, and whether a pair is scored together."""
    params, items = noisy(MODEL), groups(12, longest=20)
    want = np.stack(slot_scores(MODEL, params, items, Scalar(), batch=16))
    assert np.ptp(want) > 0.1
    ways = {f"batch {b}": slot_scores(MODEL, params, items, Scalar(), batch=b) for b in (1, 3, 32)}
    ways |= {f"length {n}": slot_scores(MODEL, params, items, Scalar(), length=n) for n in (384,)}
    ways["order"] = slot_scores(MODEL, params, items[::-1], Scalar(), batch=4)[::-1]
    single = [Group(id=g.id, prompt=g.prompt, completions=[c]) for g in items for c in g.completions]
    ways["alone"] = np.reshape(slot_scores(MODEL, params, single, Scalar(), batch=4), (-1, 2))
    worst = {name: float(np.abs(np.stack(list(got)) - want).max()) for name, got in ways.items()}
    print("largest differences", worst)
    assert max(worst.values()) < 1e-5


def test_a_tiny_encoder_learns_a_preference():
    """Answers that hold word 7 are better; the loop packs with share=False, and held-out pairs are ranked."""
    r = np.random.default_rng(0)

    def item(i: int) -> Group:
        words = lambda: r.integers(8, 30, int(r.integers(2, 6))).tolist()
        good = words()
        good[int(r.integers(len(good)))] = 7
        return Group(id=f"p{i}", prompt=[1, *words(), 2], completions=[[*good, 2], [*words(), 2]], pairs=[(0, 1)])

    items = [item(i) for i in range(96)]
    train = Train(optimizer=Optimizer(learning_rate=5e-3), epochs=6, batch=2, quiet=True)
    model = MODEL.with_head(Linear(), pool=("pooler",))
    before = model.init(jax.random.key(0))
    params = fit(model, before, Pairwise(score=Scalar()), items[:64], train, None, name="toy")
    right = lambda p: np.mean([s[0] > s[1] for s in slot_scores(model, p, items[64:], Scalar())])
    assert right(before) < 0.8 and right(params) > 0.95
    jax.tree.map(lambda a, b: None if np.any(a != b) else pytest.fail("a parameter did not move"), before, params)


def test_flops_are_those_of_an_independent_count():
    c = CONFIG
    body = c.layers * (4 * c.embed**2 + 2 * c.embed * c.mlp)
    assert body_size(MODEL) == body
    sizes = [len(g.prompt) + len(a) for g in ITEMS for a in g.completions]
    want = 6 * body * sum(sizes) + 12 * c.layers * c.embed * sum(n * n for n in sizes)
    assert train_flops(MODEL, rows_of(ITEMS)) == want


def test_too_long_and_impossible_uses():
    params = MODEL.init(jax.random.key(0))
    long = Group(id="x", prompt=[1, *[5] * 50, 2], completions=[[5] * 13], pairs=[])
    for run in (
        lambda: slot_scores(MODEL, params, [long], Scalar()),
        lambda: fit(
            MODEL, params, Pairwise(score=Scalar()), [*ITEMS, long], Train(steps=1, quiet=True), None, name="x"
        ),
    ):
        with pytest.raises(
            UserError, match="group 'x': prompt and completion 0 have 65 tokens, but the model reads 64"
        ):
            run()
    rows = rows_of(ITEMS)
    for objective in (Sft(), Pairwise(score=Implicit())):
        with pytest.raises(UserError, match="an encoder gives no log-probabilities"):
            objective(MODEL, params, rows)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 5}, "embed=24 is not a multiple of heads=5"),
        ({"layers": 0}, "layers=0"),
        ({"types": 1}, "types=1"),
        ({"dtype": "float8"}, "dtype='float8'"),
        ({"activation": "silu"}, "activation='silu'"),
    ],
)
def test_impossible_configs(changes: dict, says: str):
    with pytest.raises(UserError, match=says):
        dataclasses.replace(CONFIG, **changes)
