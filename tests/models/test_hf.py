"""Directories in and out: sharded files, what is written beside the weights, whole saves, and every way to be wrong."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from rmjax.errors import UserError
from rmjax.models import hf, tensors
from rmjax.models.config import DecoderConfig, Rope
from rmjax.models.heads import Linear
from rmjax.models.model import Model, Params
from rmjax.models.weights import Tensor
from rmjax.sharding import make_mesh

CONFIG = DecoderConfig(vocab=19, layers=2, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=12, tied=False)


def new(config: DecoderConfig = CONFIG, head: Linear | None = None) -> tuple[Model, Params]:
    model = Model.of(config, head)
    return model, model.init(jax.random.key(0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return hf.save(tmp_path / "model", *new())


def edit_config(path: Path, **changes: object) -> None:
    raw = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(raw | changes))


def edit_weights(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors")


def assert_same(a: Params, b: Params) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_layouts():
    """A row of the table, spelled out by hand: [n * h, d] on disk, [d, n, h] here."""
    row = Tensor("model.layers.{l}.x", "decoder.blocks.x", "(n h) d", "d n h")
    theirs = np.arange(30).reshape(6, 5)  # n = 2, h = 3, d = 5
    ours = row.read(theirs, (5, 2, 3))
    assert row.their_shape((5, 2, 3)) == (6, 5)
    assert ours[4, 1, 2] == theirs[1 * 3 + 2, 4]
    np.testing.assert_array_equal(row.write(ours), theirs)


def test_round_trip_and_what_is_beside_the_weights(tmp_path: Path):
    class Tokenizer:
        bos_token_id, eos_token_id, pad_token_id = 3, 4, None

        def save_pretrained(self, path: Path) -> None:
            (Path(path) / "tokenizer.json").write_text("{}")

    model, params = new()
    path = hf.save(
        tmp_path / "a" / "b", model, params, tokenizer=Tokenizer(), eos=(4, 5), pad=0,
        files=lambda p: (p / "contract.json").write_text("{}"),
    )  # fmt: skip
    names = {"config.json", "contract.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert {p.name for p in path.iterdir()} == names
    ids = {"bos_token_id": 3, "eos_token_id": [4, 5], "pad_token_id": 0}
    assert json.loads((path / "generation_config.json").read_text()) == ids
    config = json.loads((path / "config.json").read_text())
    assert config.items() >= {**ids, "architectures": ["LlamaForCausalLM"], "dtype": "float32"}.items()
    back, same = hf.load(path)
    assert back == model and hf.load_model(path).config == model.config
    assert_same(same, params)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(CONFIG, rope=Rope(theta=5e5, scaling="llama3", factor=8.0, original_positions=64)),
        dataclasses.replace(CONFIG, qkv_bias=True, out_bias=True, mlp_bias=True, tied=True),
        dataclasses.replace(CONFIG, family="mistral", window=3, sliding=(True, True)),
        dataclasses.replace(CONFIG, family="qwen2", qkv_bias=True, window=3, sliding=(False, True)),
        dataclasses.replace(CONFIG, family="qwen3", qk_norm=True),
        dataclasses.replace(
            CONFIG, family="gemma3_text", qk_norm=True, norm_offset=True, post_norms=True, activation="gelu_tanh",
            embed_scale=8**0.5, query_scale=10**-0.5, window=2, sliding=(True, False), local_rope=Rope(theta=9.0),
        ),
        dataclasses.replace(
            CONFIG, family="gemma2", norm_offset=True, post_norms=True, activation="gelu_tanh", embed_scale=8**0.5,
            attn_softcap=50.0, logit_softcap=30.0,
        ),
    ],
)  # fmt: skip
def test_every_field_survives(config: DecoderConfig, tmp_path: Path):
    model, params = new(config)
    back, same = hf.load(hf.save(tmp_path / "m", model, params))
    assert back == model
    assert_same(same, params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_disk(dtype: str, tmp_path: Path):
    model, params = new()
    path = hf.save(tmp_path / "m", model, params, dtype=dtype)
    with safe_open(path / "model.safetensors", "numpy") as f:
        assert f.get_slice("model.norm.weight").get_dtype() == {"bfloat16": "BF16", "float16": "F16"}[dtype]
    assert_same(hf.load_params(path, model), jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params))


def test_several_files(tmp_path: Path):
    model, params = new()
    path = hf.save(tmp_path / "m", model, params, max_shard=1000)
    files = sorted(path.glob("*.safetensors"))
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert len(files) > 2 and set(index["weight_map"].values()) == {f.name for f in files}
    assert index["metadata"]["total_size"] == 4 * sum(x.size for x in jax.tree.leaves(params))
    # Each keeps the limit unless it is one large tensor.
    assert all(len(t) == 1 or sum(x.nbytes for x in t.values()) <= 1000 for t in map(load_file, files))
    assert_same(hf.load_params(path, model), params)
    files[1].unlink()
    with pytest.raises(UserError, match=rf"{files[1].name}: missing, but model.safetensors.index.json names it"):
        hf.load(path)


def test_head_without_its_language_model(tmp_path: Path):
    """A classifier of an untied family holds no output head: rewards work, logits say why not, saving again works."""
    model, params = new(head=Linear())
    path = hf.save(tmp_path / "m", model, params, pad=0)
    assert not (path / "generation_config.json").exists()
    back, less = hf.load(path)
    assert back == Model.of(dataclasses.replace(CONFIG, lm_head=False), Linear())
    assert_same(less["head"], params["head"])
    with pytest.raises(UserError, match="without an output head"):
        back.bind(less).logits(jnp.zeros((1, 8)))
    again, same = hf.load(hf.save(tmp_path / "again", back, less))
    assert again == back
    assert_same(same, less)
    with pytest.raises(UserError, match="lm_head=False"):
        hf.save(tmp_path / "lm", back.with_head(None), less)
    # With a tied table it does have one.
    tied = hf.load_model(hf.save(tmp_path / "tied", *new(dataclasses.replace(CONFIG, tied=True), Linear())))
    assert tied.config.lm_head and tied.head == Linear()


def test_a_mesh_lays_parameters_out(saved: Path):
    mesh = make_mesh((1, 1, 1))
    model, params = hf.load(saved, mesh=mesh)
    assert_same(params, hf.load_params(saved, model))
    assert params["decoder"]["blocks"]["wq"].sharding.spec == jax.P(None, "fsdp", "tensor", None)
    drawn = model.init(jax.random.key(0), mesh=mesh)
    assert drawn["decoder"]["table"].sharding.spec == jax.P("tensor", "fsdp")
    assert_same(drawn, model.init(jax.random.key(0)))


def test_stray_tensors_that_mean_nothing(saved: Path):
    edit_weights(saved, lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}))
    hf.load(saved)


def test_a_save_replaces_the_older_model_or_leaves_it(saved: Path, monkeypatch: pytest.MonkeyPatch):
    model, params = hf.load(saved)
    more = jax.tree.map(lambda x: x + 1, params)
    for error in (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: no space")):

        def full(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        with monkeypatch.context() as m:
            m.setattr(tensors, "save_file", full)
            with pytest.raises(UserError, match=rf"{saved}: the model cannot be saved: .*(N|n)o space"):
                hf.save(saved, model, more)
        assert_same(hf.load_params(saved, model), params)
    (saved.parent / f".{saved.name}.partial").mkdir()  # of a killed run
    hf.save(saved, model, more)
    assert_same(hf.load_params(saved, model), more)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("max_shard", [5 * 2**30, 1000])
def test_files_have_the_usual_mode(tmp_path: Path, max_shard: int):
    before = os.umask(0o027)
    try:
        path = hf.save(tmp_path / "m", *new(), max_shard=max_shard)
    finally:
        os.umask(before)
    modes = {f.name: f.stat().st_mode & 0o777 for f in path.iterdir()}
    assert modes == dict.fromkeys(modes, 0o640)


def test_what_cannot_be_saved(tmp_path: Path):
    model, params = new()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")

    class Unknown:
        def build(self, embed: int):
            return Linear().build(embed)

    one = dict.fromkeys(("qkv_bias", "out_bias"), True)
    for path, m, says, more in [
        ("notes", model, "not a model directory, so it is not replaced", {}),
        ("file", model, "not a model directory, so it is not replaced", {}),
        ("file/m", model, "cannot be saved", {}),
        ("m", model, "dtype 'int8'", {"dtype": "int8"}),
        ("m", model.with_config(family="bert"), "family='bert' is not supported", {}),
        ("m", model.with_config(qkv_bias=True), "out_bias=False cannot be saved as family 'llama', which has True", {}),
        ("m", model.with_config(family="qwen2", **one), "out_bias=True cannot be saved as family 'qwen2'", {}),
        ("m", model.with_config(logit_softcap=3.0), "logit_softcap=3.0 cannot be saved as family 'llama'", {}),
        ("m", model.with_config(window=2, sliding=(True, False), family="mistral"), "sliding=", {}),
        ("m", model.with_head(Unknown()), "Unknown head has no Hugging Face form", {}),
    ]:
        with pytest.raises(UserError, match=says) as e:
            hf.save(tmp_path / path, m, params, **more)
        assert "\n" not in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "notes"]


def unlink(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).unlink()


def config(**changes: object) -> Callable[[Path], object]:
    return lambda path: edit_config(path, **changes)


def weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], object]:
    return lambda path: edit_weights(path, change)


def rename_weights(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def truncate(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


Q = "model.layers.1.self_attn.q_proj.weight"
WRONG = {
    "no config": (unlink("config.json"), r"config.json: missing; a model directory holds"),
    "not json": (lambda p: (p / "config.json").write_text("{"), r"config.json: not valid JSON \("),
    "not an object": (lambda p: (p / "config.json").write_text("[]"), r"config.json: not a JSON object"),
    "family": (config(model_type="t5"), r"model_type 't5' is not supported; supported: llama, mist.*, bert"),
    "multi-modal": (config(model_type="gemma3"), r"model_type 'gemma3' is the multi-modal model; use a text-only"),
    "rope": (
        config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}, rope_scaling=None),
        r"config.json: rope_type 'yarn' is not supported; supported: default, linear, llama3",
    ),
    "part of rope": (
        config(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        r"config.json: partial_rotary_factor 0.5 is not supported",
    ),
    "activation": (config(hidden_act="relu"), r"config.json: activation 'relu' is not supported"),
    "quantised": (config(quantization_config={"bits": 4}), r"quantised weights are not supported"),
    "bidirectional": (
        config(model_type="gemma2", hidden_activation="gelu_pytorch_tanh", use_bidirectional_attention=True),
        r"use_bidirectional_attention is not supported",
    ),
    "gemma3 cap": (
        config(model_type="gemma3_text", rope_parameters=None, rope_scaling=None, attn_logit_softcapping=1.0),
        r"attn_logit_softcapping is not part of Gemma 3",
    ),
    "field type": (config(hidden_size="wide"), r"config.json: not a valid llama config: .*hidden_size"),
    "field value": (config(num_key_value_heads=3), r"heads=2 is not a multiple of kv_heads=3"),
    "labels": (config(architectures=["LlamaForSequenceClassification"], num_labels=2), r"a classifier with 2 labels"),
    "no weights": (unlink("model.safetensors"), r"model: no weights \(neither model.safetensors nor .*download"),
    "torch weights": (rename_weights, r"no weights .* it has pytorch_model.bin: save it again as safetensors"),
    "cut off": (truncate, r"model.safetensors: not a readable safetensors file .*download it again"),
    "missing tensor": (
        weights(lambda w: w.pop(Q)),
        rf"model.safetensors: tensor '{Q}' of shape \[8, 8\] is missing; use the config.json",
    ),
    "shape": (
        weights(lambda w: w.update({Q: np.zeros((8, 6), np.float32)})),
        rf"model.safetensors: tensor '{Q}' has shape \[8, 6\], config.json asks for \[8, 8\]",
    ),
    "extra layer": (config(num_hidden_layers=1), r"tensor 'model.layers.1.*' \(9 in all\) is not part of the llama"),
    "untied": (config(tie_word_embeddings=False, vocab_size=20), r"embed_tokens.weight' has shape \[19, 8\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_directories(name: str, saved: Path):
    spoil, says = WRONG[name]
    spoil(saved)
    with pytest.raises(UserError, match=says) as e:
        hf.load(saved)
    assert ("\n" not in str(e.value) and str(e.value).startswith(str(saved))) or name == "field value"


def test_no_directory(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere: no such model directory; give one that holds config.json"):
        hf.load(tmp_path / "nowhere")
