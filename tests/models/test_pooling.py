"""Pooling: the features of packed rows, against loops over tokens."""

import jax
import numpy as np
import pytest
from encoder_helpers import CONFIG, groups

from rmjax.data import packing
from rmjax.errors import UserError
from rmjax.models.config import DecoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.models.pooling import pooled
from rmjax.objectives.reference import packed_scores
from rmjax.objectives.scores import hidden_states

DECODER = DecoderConfig(vocab=61, layers=1, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=12)
ALL = {
    "encoder": ("last", "cls", "pooler", "mean", "answer", "unit_pooler", "unit_mean"),
    "decoder": ("last", "mean", "answer", "unit_last"),
}
ITEMS = groups(4)


def one(params: dict, h: np.ndarray, prompt: int) -> dict[str, np.ndarray]:
    """Every pooling of one text's hidden states, of which `prompt` are the prompt's."""
    out = {"last": h[-1], "cls": h[0], "mean": sum(h) / len(h), "answer": sum(h[prompt:]) / len(h[prompt:])}
    if "encoder" in params:
        p = params["encoder"]
        out["pooler"] = np.tanh(h[0] @ np.asarray(p["pool_weight"]) + np.asarray(p["pool_bias"]))
    return out | {f"unit_{kind}": part / np.sqrt(np.sum(part**2)) for kind, part in out.items()}


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_every_kind_by_loops(kind: str):
    """Of several texts in a row, for decoders with a shared prompt; concatenated in the given order."""
    config = CONFIG if kind == "encoder" else DECODER
    model = Model.of(config, pool=ALL[kind])
    params = jax.tree.map(lambda p: p + 0.1, model.init(jax.random.key(0)))
    shape = packing.fit(ITEMS, length=160, share=model.share)
    packed = packing.pack(ITEMS, shape, share=model.share)
    rows = packing.stack(packed.rows)
    run = jax.jit(lambda p, r: (hidden_states(model.bind(p), r), pooled(model, p, r)))
    hidden, features = (np.asarray(x) for x in run(params, rows))
    assert features.shape[2] == model.features == len(ALL[kind]) * config.embed and features.dtype == np.float32
    seen = 0
    for r, c in zip(*np.nonzero(rows.slot_last >= 0), strict=True):
        answer = np.nonzero(rows.branch[r] == c + 1)[0]
        prompt = [
            t for t in range(shape.length) if rows.group[r, t] == rows.group[r, answer[0]] and not rows.branch[r, t]
        ]
        want = one(params, hidden[r, [*prompt, *answer]], len(prompt))
        np.testing.assert_allclose(features[r, c], np.concatenate([want[k] for k in ALL[kind]]), atol=1e-5, rtol=1e-5)
        seen += 1
    assert seen == 2 * len(ITEMS)


def test_order_of_kinds_and_a_texts_own_features():
    """The same from `packed_scores`, one array a group."""
    several, [cls, answer] = (
        Model.of(CONFIG, pool=("answer", "cls")),
        (Model.of(CONFIG, pool=(k,)) for k in ("cls", "answer")),
    )
    params = several.init(jax.random.key(0))
    run = lambda model: packed_scores(model, params, ITEMS, pooled, [2] * len(ITEMS), batch=2)
    for both, a, c in zip(run(several), run(answer), run(cls), strict=True):
        assert both.shape == (2, 2 * CONFIG.embed)
        np.testing.assert_allclose(both, np.concatenate([a, c], axis=1), atol=1e-6)


def test_defaults_and_what_a_head_reads():
    assert Model.of(CONFIG).pool == ("cls", "mean", "answer") and Model.of(DECODER).pool == ("last",)
    model = Model.of(CONFIG, Linear())
    assert model.shapes["head"]["weight"].shape == (3 * CONFIG.embed,)
    one = model.with_head(Linear(), pool=("mean",))
    assert one.shapes["head"]["weight"].shape == (CONFIG.embed,) and one != model
    assert one.with_head(Linear(scale=0.0)).pool == one.with_config(remat="full").pool == ("mean",)


def test_empty_rows_are_finite():
    model = Model.of(CONFIG)
    shape = packing.fit(ITEMS, share=False)
    rows = packing.stack([packing.empty(shape)])
    params = model.init(jax.random.key(0))
    assert np.all(np.isfinite(jax.jit(lambda p: pooled(model, p, rows))(params)))


@pytest.mark.parametrize(
    ("config", "pool", "says"),
    [
        (DECODER, ("cls",), r"pool=\('cls',\): 'cls' is not one of last, mean, answer for this model"),
        (DECODER, ("mean", "pooler"), "'pooler' is not one of last"),
        (CONFIG, ("max",), "'max' is not one of last, cls, pooler, mean, answer"),
        (CONFIG, (), "give one or more of last"),
        (CONFIG, ("cls", "cls"), "each once"),
        (DECODER, ("unit_cls",), "'unit_cls' is not one of last, mean, answer"),
    ],
)
def test_impossible_pools(config, pool: tuple[str, ...], says: str):
    with pytest.raises(UserError, match=says):
        Model.of(config, pool=pool)
