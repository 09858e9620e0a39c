"""Heads that transformers has no class for: exact files beside a linear head, read back bit for bit or refused."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_helpers import CONFIG, groups
from safetensors.numpy import load_file, save_file

from rmjax.errors import UserError
from rmjax.methods import nearest
from rmjax.models import hf
from rmjax.models.config import DecoderConfig
from rmjax.models.heads import Ensemble, Linear, Mlp, Prototypes
from rmjax.models.model import Model
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar

DECODER = DecoderConfig(vocab=61, layers=1, embed=24, heads=2, kv_heads=1, head_dim=12, mlp=40)
CASES = {
    "prototypes": (CONFIG, Prototypes(embed=4, capacity=6, centred=True), ("unit_cls", "unit_mean", "unit_answer")),
    "mlp": (CONFIG, Mlp(hidden=5), ("pooler",)),
    "ensemble": (CONFIG, Ensemble(members=2, of=Prototypes(embed=3, capacity=4), lcb=0.5), ("cls", "mean")),
    "linear": (CONFIG, Linear(), ("cls", "mean", "answer")),
    "linear with a bias": (DECODER, Linear(bias=True), ("last",)),
    "prototypes of a decoder": (DECODER, Prototypes(embed=4, capacity=6), ("last", "mean")),
}


def made(config, head, pool):
    """A model with parameters everywhere: valid prototypes, biases."""
    model = Model.of(config, head, pool)
    params = model.init(jax.random.key(0))

    def fill(path, leaf):
        name, draw = path[-1].key, np.random.default_rng(len(path)).normal(size=leaf.shape).astype(np.float32)
        return jnp.ones_like(leaf) if name == "valid" else leaf if name in ("gamma", "mix") else jnp.asarray(draw)

    return model, {**params, "head": jax.tree_util.tree_map_with_path(fill, params["head"])}


def saved(model, params, path: Path) -> Path:
    random = np.random.default_rng(0)
    read, weight = random.normal(size=(40, 2, model.config.embed)), random.normal(size=model.config.embed)
    stand_in, _ = nearest.stand_in(model, params, read, read @ weight, range(len(read)))
    return hf.save(path, model, params, pad=0, stand_in=stand_in)


@pytest.fixture(scope="module")
def prototypes(tmp_path_factory):
    model, params = made(*CASES["prototypes"])
    return model, params, saved(model, params, tmp_path_factory.mktemp("head") / "m")


@pytest.mark.parametrize("case", CASES)
def test_read_back_bit_for_bit(case, tmp_path):
    model, params = made(*CASES[case])
    back, same = hf.load(saved(model, params, tmp_path / "m"))
    assert back == model
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize("case", ["prototypes", "mlp", "prototypes of a decoder"])
def test_transformers_reads_the_stand_in(case, tmp_path):
    """The classifier's logits are those of our own linear model of the same files."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, params = made(*CASES[case])
    path = saved(model, params, tmp_path / "m")
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    linear, weights = hf.load_stand_in(path)
    items = groups(3)
    ours = np.stack(slot_scores(linear, weights, items, Scalar(), batch=4))
    found = np.zeros_like(ours)
    for i, g in enumerate(items):
        for j, c in enumerate(g.completions):
            given = {"input_ids": torch.tensor([[*g.prompt, *c]])}
            if linear.pool == ("pooler",):
                given["token_type_ids"] = torch.tensor([[0] * len(g.prompt) + [1] * len(c)])
            with torch.no_grad():
                found[i, j] = theirs.eval()(**given).logits.item()
    assert np.ptp(found) > 1e-3
    np.testing.assert_allclose(ours, found, atol=1e-4)


def test_a_moved_prototype_moves_served_scores(prototypes, tmp_path):
    model, params, path = prototypes
    shutil.copytree(path, tmp_path / "m")
    file = tmp_path / "m" / "rmjax_head.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"head.prototypes": tensors["head.prototypes"] + 1.0}, file)
    score = lambda folder: np.stack(slot_scores(*hf.load(folder), groups(3), Scalar(), batch=4))
    before, after = score(path), score(tmp_path / "m")
    np.testing.assert_array_equal(before, np.stack(slot_scores(model, params, groups(3), Scalar(), batch=4)))
    assert np.abs(before - after).min() > 1e-3


def without(name):
    return lambda path: (path / name).unlink()


def cut(path):
    file = path / "rmjax_head.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def tensors(change):
    def damage(path):
        file = path / "rmjax_head.safetensors"
        save_file(change(load_file(file)), file)

    return damage


def described(**changes):
    def damage(path):
        content = json.loads((path / "rmjax_head.json").read_text())
        (path / "rmjax_head.json").write_text(json.dumps(content | changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without("rmjax_head.safetensors"), r"rmjax_head.safetensors: missing, but config.json says"),
        (without("rmjax_head.json"), r"rmjax_head.json: missing, but config.json says"),
        (cut, r"rmjax_head.safetensors: not a readable safetensors file"),
        (tensors(lambda t: {k: v for k, v in t.items() if k != "head.valid"}), "tensor 'head.valid' is missing"),
        (tensors(lambda t: t | {"head.more": t["head.valid"]}), "tensor 'head.more' is unknown"),
        (tensors(lambda t: t | {"head.valid": np.ones(7, np.float32)}), r"'head.valid' has shape \[7\], not \[6\]"),
        (described(format=2), "not a head in format 1"),
        (described(head={"kind": "Tree"}), "field 'head' is none of Linear, Mlp, Prototypes, Ensemble"),
        (described(head={"kind": "Prototypes", "embed": "x"}), "field 'embed' is \"x\"; int is expected"),
        (described(pool=["end"]), "'end' is not one of"),
    ],
)
def test_damage_is_one_line(prototypes, tmp_path, damage, says):
    path = tmp_path / "m"
    shutil.copytree(prototypes[2], path)
    damage(path)
    with pytest.raises(UserError, match=says) as e:
        hf.load(path)
    assert "\n" not in str(e.value)
