"""Every family against transformers, on random tiny configs: logits, export, classifiers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.models import hf
from rmjax.models.heads import Linear
from rmjax.models.model import Model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 5}
FAMILIES = {
    "llama2": ("llama", {}),
    "llama_biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "tie_word_embeddings": True}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama_linear": ("llama", {"rope_parameters": LINEAR, "hidden_act": "gelu_pytorch_tanh"}),
    "mistral": ("mistral", {"sliding_window": 6, "head_dim": 10}),
    "mistral_full": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2_window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3_biases": ("qwen3", {"head_dim": 8, "attention_bias": True, "use_sliding_window": True, "sliding_window": 4,
                               "max_window_layers": 2}),
    "gemma2": ("gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2_biases": ("gemma2", GEMMA | {"attention_bias": True, "final_logit_softcapping": None,
                                         "tie_word_embeddings": False}),
    "gemma3": ("gemma3_text", GEMMA | {"num_hidden_layers": 7, "rope_parameters": {
        "full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}}),
    "gemma3_pattern": ("gemma3_text", GEMMA | {"head_dim": 24, "layer_types": [
        "full_attention", "sliding_attention", "full_attention"]}),
}  # fmt: skip
LENGTHS = (19, 11, 1)  # right padded; several windows long


def theirs(name: str, kind: str = "AutoModelForCausalLM", **extra) -> "torch.nn.Module":
    """A random model of that family; norms and biases too, which transformers would start at one and zero."""
    family, fields = FAMILIES[name]
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[family](**TINY | {"num_labels": 1} | fields | extra)
    model = getattr(transformers, kind).from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Tokens (never the padding id) and which of them are there."""
    tokens = np.random.default_rng(0).integers(3, TINY["vocab_size"], (len(LENGTHS), max(LENGTHS)))
    here = np.arange(max(LENGTHS)) < np.asarray(LENGTHS)[:, None]
    return np.where(here, tokens, 0), here


def torch_logits(model, tokens: np.ndarray, here: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(here.astype(np.int64))).logits.numpy()


def hidden(model: Model, params, tokens: np.ndarray, here: np.ndarray) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    group = jnp.where(here, 0, -1)
    run = jax.jit(lambda p, *rows: model.bind(p).hidden(*rows))
    return run(params, jnp.asarray(tokens), positions, group, jnp.zeros_like(group))


def torch_classifier(path: Path) -> "torch.nn.Module":
    return transformers.AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager")


def difference(ours, reference: np.ndarray, here: np.ndarray) -> float:
    return float(np.abs(np.asarray(ours) - reference)[here].max())


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_export(name: str, tmp_path: Path):
    tokens, here = batch()
    reference = theirs(name)
    reference.save_pretrained(tmp_path / "in")
    expected = torch_logits(reference, tokens, here)
    assert np.abs(expected).max() > 0.5, "a comparison of near zeros shows nothing"

    model, params = hf.load(tmp_path / "in")
    logits = model.bind(params).logits(hidden(model, params, tokens, here))
    worst = difference(logits, expected, here)
    print(f"{name}: max abs logit difference {worst:.1e}")
    assert worst < 1e-4

    hf.save(tmp_path / "out", model, params, eos=(2,), pad=0)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager", output_loading_info=True
    )
    assert type(again) is type(reference)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert difference(torch_logits(again, tokens, here), expected, here) < 1e-6
    back, same = hf.load(tmp_path / "out")
    assert back == model
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize("name", ["llama3", "qwen2", "mistral", "gemma2", "gemma3"])
def test_classifier_in_and_out(name: str, tmp_path: Path):
    tokens, here = batch()
    reference = theirs(name, "AutoModelForSequenceClassification")
    reference.save_pretrained(tmp_path / "in")
    expected = torch_logits(reference, tokens, here)[:, 0]
    assert np.ptp(expected) > 0.1

    def rewards(model: Model, params) -> np.ndarray:
        last = hidden(model, params, tokens, here)[jnp.arange(len(LENGTHS)), jnp.asarray(LENGTHS) - 1]
        return np.asarray(model.bind(params).reward(last))

    model, params = hf.load(tmp_path / "in")
    assert model.head == Linear()
    assert np.abs(rewards(model, params) - expected).max() < 1e-4

    hf.save(tmp_path / "out", model, params, pad=0)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    )
    assert type(again) is type(reference)
    np.testing.assert_allclose(torch_logits(again, tokens, here)[:, 0], expected, atol=1e-6)
    back, same = hf.load(tmp_path / "out")
    np.testing.assert_array_equal(rewards(back, same), rewards(model, params))


def test_new_head_is_exported_as_a_classifier(tmp_path: Path):
    """A head added to a language model gives transformers' classifier the same rewards."""
    tokens, here = batch()
    theirs("llama3").save_pretrained(tmp_path / "in")
    base, params = hf.load(tmp_path / "in")
    model = base.with_head(Linear())
    params = model.add_head(params, jax.random.key(1))
    hf.save(tmp_path / "out", model, params, pad=0)
    last = hidden(model, params, tokens, here)[jnp.arange(len(LENGTHS)), jnp.asarray(LENGTHS) - 1]
    again = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    )
    np.testing.assert_allclose(
        torch_logits(again, tokens, here)[:, 0], model.bind(params).reward(last), atol=1e-5, rtol=1e-5
    )


def test_older_field_names_and_dtypes(tmp_path: Path):
    """config.json as transformers 4 wrote it, and bfloat16 weights in several files, read into float32."""
    tokens, here = batch()
    theirs("llama3").to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    raw = json.loads((tmp_path / "config.json").read_text())
    rope = raw.pop("rope_parameters")
    raw |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    model, params = hf.load(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    expected = torch_logits(reference, tokens, here)
    assert difference(model.bind(params).logits(hidden(model, params, tokens, here)), expected, here) < 1e-4
