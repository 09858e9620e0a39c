"""PEFT's adapters in and out, against peft and transformers: logits and rewards, and every way to be wrong."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from encoder_helpers import CONFIG as ENCODER
from safetensors.numpy import load_file, save_file

from rmjax.errors import UserError
from rmjax.models import hf, peft
from rmjax.models.config import DecoderConfig, Lora
from rmjax.models.heads import Linear
from rmjax.models.model import Model, join

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
theirs = pytest.importorskip("peft")

DECODER = DecoderConfig(
    vocab=61, layers=2, embed=24, heads=4, kv_heads=2, head_dim=8, mlp=20, tied=False, qkv_bias=True, family="qwen2"
)
TOKENS = np.random.default_rng(0).integers(3, 61, (2, 9)).astype(np.int32)
KINDS = {"decoder": DECODER, "encoder": ENCODER}


def noisy(params, seed=0):
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + 0.2 * noise.standard_normal(p.shape).astype(np.float32), params)


def adapted(kind: str, head: bool, **how):
    """(base, its parameters, the adapted model, its parameters): the adapter and a head are not fresh."""
    encoder = kind == "encoder"
    base = Model.of(KINDS[kind])
    params = noisy(base.init(jax.random.key(0)))
    model, all_ = base, params
    if head:
        model = base.with_head(Linear(bias=encoder), ("pooler",) if encoder else ("last",))
        all_ = model.add_head(params, jax.random.key(1))
    model, all_ = model.with_adapters(all_, Lora(**how), jax.random.key(2))
    trained, left = model.split(all_)
    return base, params, model, join(noisy(trained, 1), left)


def said(model, params) -> np.ndarray:
    """Logits of all tokens; with a head, rewards of whole rows; of a bare encoder, hidden states."""
    at = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
    zero = np.zeros_like(TOKENS)

    @jax.jit
    def run(params):
        network = model.bind(params)
        hidden = network.hidden(TOKENS, at, zero, zero)
        if model.head is not None:
            encoder = model.config is not DECODER and hasattr(network, "encoder")
            return network.reward(network.encoder.pooler(hidden[:, 0]) if encoder else hidden[:, -1])
        return network.logits(hidden) if hasattr(network, "decoder") else hidden

    return np.asarray(run(params))


def class_of(kind: str, head: bool):
    if head:
        return transformers.AutoModelForSequenceClassification
    return transformers.AutoModel if kind == "encoder" else transformers.AutoModelForCausalLM


def their_base(path: Path, kind: str, head: bool):
    torch.manual_seed(0)
    more = {"num_labels": 1, "pad_token_id": 0} if head else {}
    return class_of(kind, head).from_pretrained(path, **more).eval()


def they_say(module) -> np.ndarray:
    with torch.no_grad():
        out = module(input_ids=torch.tensor(TOKENS, dtype=torch.long))
    return (out.logits if "logits" in out else out.last_hidden_state).squeeze(-1).numpy()


@pytest.mark.parametrize(
    ("kind", "head", "how"),
    [
        ("decoder", False, {"rank": 3}),
        ("decoder", True, {"rank": 2, "targets": ("v", "o", "down"), "alpha": 5.0}),
        ("encoder", True, {"rank": 3, "rslora": True}),
        ("encoder", False, {"rank": 2, "targets": ("o",)}),
    ],
)
def test_out(kind, head, how, tmp_path):
    """peft loads our adapter upon the exported base, new head included, and says the same; so do we, read again."""
    base, params, model, all_ = adapted(kind, head, **how)
    hf.save(tmp_path / "base", base, params, pad=0)
    peft.save(tmp_path / "adapter", model, all_, base=str(tmp_path / "base"))
    module = theirs.PeftModel.from_pretrained(their_base(tmp_path / "base", kind, head), tmp_path / "adapter").eval()
    want = said(model, all_)
    np.testing.assert_allclose(they_say(module), want, atol=1e-4, rtol=1e-4)
    off, rest = model.without_adapters(all_)
    assert np.abs(said(off, rest) - want).max() > 0.01

    back, same = peft.load(tmp_path / "adapter", *hf.load(tmp_path / "base"))
    assert back.config == model.config and back.head == model.head
    jax.tree.map(np.testing.assert_array_equal, same, all_)

    hf.save(tmp_path / "merged", model, all_, pad=0)
    np.testing.assert_allclose(they_say(their_base(tmp_path / "merged", kind, head)), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "head", "fields"),
    [
        ("decoder", False, {"target_modules": "all-linear"}),
        ("decoder", True, {"target_modules": ["q_proj", "down_proj"], "use_rslora": True}),
        ("encoder", True, {"target_modules": ["query", "value"], "modules_to_save": ["pooler"]}),
    ],
)
def test_in(kind, head, fields, tmp_path):
    """An adapter that peft made gives us peft's logits and rewards."""
    base, params, *_ = adapted(kind, False, rank=1)
    hf.save(tmp_path / "base", base, params, pad=0)
    task = "SEQ_CLS" if head else "CAUSAL_LM"
    config = theirs.LoraConfig(r=3, lora_alpha=7, task_type=task, **fields)
    module = theirs.get_peft_model(their_base(tmp_path / "base", kind, head), config).eval()
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn_like(p))
    module.save_pretrained(tmp_path / "adapter")
    model, all_ = peft.load(tmp_path / "adapter", *hf.load(tmp_path / "base"))
    np.testing.assert_allclose(said(model, all_), they_say(module), atol=1e-4, rtol=1e-4)


def edit(path: Path, **changes) -> None:
    raw = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(raw | changes))


def edit_tensors(path: Path, change) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, path / "adapter_model.safetensors")


Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
WRONG = {
    "dora": (lambda p: edit(p, use_dora=True), "use_dora=True is not supported; merge the adapter with peft"),
    "bias": (lambda p: edit(p, bias="all"), "bias='all' is not supported"),
    "pissa": (lambda p: edit(p, init_lora_weights="pissa"), "init_lora_weights='pissa' is not supported"),
    "kind": (lambda p: edit(p, peft_type="IA3"), "peft_type 'IA3' is not supported"),
    "ranks": (lambda p: edit(p, rank_pattern={"q_proj": 4}), "rank_pattern={'q_proj': 4} is not supported"),
    "no rank": (lambda p: edit(p, r=None), "r=None, lora_alpha=32.0"),
    "wrong rank": (lambda p: edit(p, r=5), r"has shape \[2, 20\], rank 5 and the base ask for \[5, 20\]"),
    "layer": (lambda p: edit_tensors(p, lambda t: t.pop(Q)), r"layers.1.self_attn.q_proj.lora_A.weight' is missing"),
    "module": (
        lambda p: edit_tensors(p, lambda t: t.update({Q.replace("self_attn.q_proj", "mlp.router"): t[Q]})),
        "mlp.router.lora_A.weight' .1 in all. has no place in the base",
    ),
    "embedding": (
        lambda p: edit_tensors(p, lambda t: t.update({"base_model.model.lm_head.weight": t[Q]})),
        "'lm_head.weight' .1 in all. is no part of an adapter that is supported",
    ),
    "no file": (lambda p: (p / "adapter_model.safetensors").unlink(), "missing; save the adapter as safetensors"),
    "no json": (lambda p: (p / "adapter_config.json").unlink(), "adapter_config.json: missing"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(the base, its parameters, a folder with an adapter of it)."""
    base, params, model, all_ = adapted("decoder", False, rank=2)
    path = tmp_path_factory.mktemp("peft") / "adapter"
    peft.save(path, model, all_, base="base")
    return base, params, path


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_named(what, written, tmp_path):
    base, params, path = written
    change, message = WRONG[what]
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    with pytest.raises(UserError, match=message):
        peft.load(folder, base, params)
