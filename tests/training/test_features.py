"""The feature cache: computed once, keyed by all that decides a feature, damaged files made anew, NaN refused."""

import dataclasses

import jax
import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.records import Message, Preference
from rmjax.training import features
from rmjax.training.features import cached, compute, kept, key_of

CONFIG = DecoderConfig(vocab=23, layers=1, embed=8, heads=2, kv_heads=2, head_dim=4, mlp=8, tied=True)
ITEMS = [
    Preference(prompt=(Message("user", f"q{i}"),), chosen="a" * (i + 1), rejected="bc" * (i % 3 + 1)) for i in range(5)
]


class Letters:
    """A token contract of single characters."""

    def __init__(self, end: int = 1):
        self.end = end

    def prompt_ids(self, messages):
        return [2 + ord(c) % 20 for m in messages for c in m.content]

    def completion_ids(self, text):
        return [*(2 + ord(c) % 20 for c in text), self.end]

    def contract(self):
        return {"end": self.end}


@pytest.fixture(scope="module")
def trunk():
    model = Model.of(CONFIG)
    return model, model.init(jax.random.key(0))


def test_features_are_the_last_hidden_states_one_by_one(trunk):
    model, params = trunk
    got = compute(model, params, Letters(), ITEMS, batch=2)
    assert got.shape == (2, 5, 8) and got.dtype == np.float32
    for i, p in enumerate(ITEMS):
        for side, text in enumerate((p.chosen, p.rejected)):
            ids = np.array([[*Letters().prompt_ids(p.prompt), *Letters().completion_ids(text)]])
            zeros, positions = np.zeros_like(ids), np.arange(ids.shape[1])[None]
            hidden = model.bind(params).hidden(ids, positions, zeros, zeros)
            np.testing.assert_allclose(got[side, i], hidden[0, -1], atol=2e-5)


def test_the_second_time_nothing_is_computed(trunk, tmp_path, monkeypatch):
    model, params = trunk
    monkeypatch.setattr(features, "SHARD", 2)
    first = cached(tmp_path, model, params, Letters(), ITEMS)
    assert len(list(tmp_path.rglob("*.npy"))) == 3
    monkeypatch.setattr(features, "compute", lambda *a, **k: pytest.fail("computed again"))
    again = cached(tmp_path, model, params, Letters(), ITEMS)
    np.testing.assert_array_equal(first.chosen, again.chosen)
    np.testing.assert_array_equal(first.rejected, again.rejected)
    assert again.ids == tuple(p.id for p in ITEMS)


def test_a_killed_run_goes_on_at_the_missing_shard(trunk, tmp_path, monkeypatch):
    model, params = trunk
    monkeypatch.setattr(features, "SHARD", 2)
    whole = cached(tmp_path, model, params, Letters(), ITEMS)
    for path in tmp_path.rglob("00001.json"):
        path.unlink()  # killed between the array and its note
    asked = []
    monkeypatch.setattr(features, "compute", lambda m, p, c, items, **k: asked.append(items) or compute(m, p, c, items))
    np.testing.assert_array_equal(cached(tmp_path, model, params, Letters(), ITEMS).chosen, whole.chosen)
    assert asked == [ITEMS[2:4]]


@pytest.mark.parametrize("harm", ["cut", "flip", "note", "gone"])
def test_a_damaged_file_is_said_and_made_anew(tmp_path, capsys, harm):
    path, array = tmp_path / "00000.npy", np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    kept(path, lambda: array, shape=array.shape)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    match harm:
        case "cut":
            path.write_bytes(data[:-4])
        case "flip":
            path.write_bytes(data)
        case "note":
            path.with_suffix(".json").write_text("{")
        case "gone":
            path.unlink()
    np.testing.assert_array_equal(kept(path, lambda: array, shape=array.shape), array)
    assert "computing it again" in capsys.readouterr().out
    np.testing.assert_array_equal(kept(path, lambda: pytest.fail("not mended"), shape=array.shape), array)
    assert not capsys.readouterr().out


def test_the_key_knows_everything_that_decides_a_feature(trunk):
    model, params = trunk
    own = key_of(model, params, Letters(), ITEMS)
    one = jax.tree.map(np.array, params)
    leaf = jax.tree.leaves(one)[0]
    leaf.flat[0] = np.nextafter(leaf.flat[0], np.float32(np.inf))
    changed = [dataclasses.replace(ITEMS[0], rejected="z"), *ITEMS[1:]]
    others = [
        key_of(model, one, Letters(), ITEMS),
        key_of(model.with_head(None, pool=("mean",)), params, Letters(), ITEMS),
        key_of(model.with_config(dtype="bfloat16"), params, Letters(), ITEMS),
        key_of(model, params, Letters(end=0), ITEMS),
        key_of(model, params, Letters(), changed),
        key_of(model, params, Letters(), ITEMS[::-1]),
    ]
    assert len({own, *others}) == 7
    assert own == key_of(model, jax.tree.map(np.array, params), Letters(), list(ITEMS))


def test_values_that_are_not_finite_are_refused_and_not_kept(trunk, tmp_path):
    model, params = trunk
    broken = jax.tree.map(lambda x: x * np.nan, params)
    with pytest.raises(UserError, match="5 of 5 chosen answers have NaN or infinite values"):
        cached(tmp_path, model, broken, Letters(), ITEMS)
    assert not list(tmp_path.rglob("*.npy"))
    with pytest.raises(UserError, match="no pairs"):
        cached(tmp_path, model, params, Letters(), [])
