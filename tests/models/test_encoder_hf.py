"""Encoders against transformers, in and out: hidden states, classifiers' scores, pipelines; ways to be wrong."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_helpers import CONFIG, groups, minilm
from safetensors.numpy import load_file, save_file

from rmjax.data.rows import Group
from rmjax.data.text_pair import TextPair
from rmjax.errors import UserError
from rmjax.models import hf
from rmjax.models.heads import Linear, Mlp
from rmjax.models.model import Model
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.records import Message

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 1,
}
CLASSIFIER = "AutoModelForSequenceClassification"
TEXTS = [
    ("How do I boil an egg?", "Put it into boiling water for eight minutes."),
    ("What is the capital of France?", "No idea. " * 30),
]


def theirs(kind: str = "AutoModel", **fields) -> "torch.nn.Module":
    """A random BERT; norms and biases too, which transformers would start at one and zero."""
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_config(transformers.BertConfig(**TINY | fields)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def batch(items: list[Group]) -> dict[str, "torch.Tensor"]:
    """Right-padded [prompt + first completion] of each group, as a transformers tokenizer lays them out."""
    texts = [(g.prompt, g.completions[0]) for g in items]
    t = max(len(p) + len(c) for p, c in texts)
    fill = lambda make: torch.tensor([make(p, c) + [0] * (t - len(p) - len(c)) for p, c in texts])
    return {
        "input_ids": fill(lambda p, c: [*p, *c]),
        "token_type_ids": fill(lambda p, c: [0] * len(p) + [1] * len(c)),
        "attention_mask": fill(lambda p, c: [1] * (len(p) + len(c))),
    }


def hidden(model: Model, params, inputs: dict) -> np.ndarray:
    tokens, types, here = (inputs[k].numpy() for k in ("input_ids", "token_type_ids", "attention_mask"))
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    rows = [jnp.asarray(x, jnp.int32) for x in (tokens, positions, np.where(here > 0, 0, -1), types)]
    return np.asarray(jax.jit(lambda p, *rows: model.bind(p).hidden(*rows))(params, *rows))


def worst(a: np.ndarray, b: np.ndarray) -> float:
    assert np.ptp(b) > 0.1, "a comparison of near zeros shows nothing"
    return float(np.abs(a - b).max())


@pytest.mark.parametrize(
    "fields", [{}, {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-5, "type_vocab_size": 3}]
)
def test_hidden_states_and_export(fields: dict, tmp_path: Path):
    inputs, reference = batch(groups(5)), theirs(**fields)
    reference.save_pretrained(tmp_path / "in")
    here = inputs["attention_mask"].numpy() > 0
    with torch.no_grad():
        expected = reference(**inputs).last_hidden_state.numpy()
    model, params = hf.load(tmp_path / "in")
    difference = worst(hidden(model, params, inputs)[here], expected[here])
    print(f"max abs hidden difference {difference:.1e}")
    assert difference < 1e-4

    hf.save(tmp_path / "out", model, params, pad=0)
    assert not (tmp_path / "out" / "generation_config.json").exists()
    again, info = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(again) is type(reference) and not any(info[k] for k in ("missing_keys", "unexpected_keys"))
    with torch.no_grad():
        np.testing.assert_array_equal(again(**inputs).last_hidden_state, reference(**inputs).last_hidden_state)
    back, same = hf.load(tmp_path / "out")
    assert back == model
    jax.tree.map(np.testing.assert_array_equal, same, params)


def scores(model: Model, params, items: list[Group]) -> np.ndarray:
    return np.stack(slot_scores(model, params, items, Scalar(), batch=2))[:, 0]


def test_classifier_in_and_out(tmp_path: Path):
    """A classifier's logits, and the same after an export; the class keeps its prefix, pooler and bias."""
    items = groups(5)
    reference = theirs(CLASSIFIER)
    reference.save_pretrained(tmp_path / "in")
    with torch.no_grad():
        expected = reference(**batch(items)).logits[:, 0].numpy()
    model, params = hf.load(tmp_path / "in")
    assert model.head == Linear(bias=True) and model.pool == ("pooler",)
    assert worst(scores(model, params, items), expected) < 1e-4
    hf.save(tmp_path / "out", model, params, pad=0)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert type(again) is type(reference) and again.config.num_labels == 1
    with torch.no_grad():
        np.testing.assert_array_equal(again(**batch(items)).logits[:, 0], expected)


def test_new_head_is_exported_as_a_classifier(tmp_path: Path):
    items = groups(5)
    theirs().save_pretrained(tmp_path / "in")
    base, params = hf.load(tmp_path / "in")
    model = base.with_head(Linear(), pool=("pooler",))
    params = model.add_head(params, jax.random.key(1))
    hf.save(tmp_path / "out", model, params, pad=0)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert worst(scores(model, params, items), again(**batch(items)).logits[:, 0].numpy()) < 1e-4
    back, same = hf.load(tmp_path / "out")
    np.testing.assert_allclose(scores(back, same, items), scores(model, params, items), atol=1e-6)


def test_other_files_of_the_family(tmp_path: Path):
    """A pretraining checkpoint has a prefix, heads that nobody reads, no pooler, and, if old, other names of norms."""
    reference = theirs("AutoModelForMaskedLM")
    reference.save_pretrained(tmp_path / "in")
    old = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    file = tmp_path / "in" / "model.safetensors"
    save_file({old(name): value for name, value in load_file(file).items()}, file)
    model, params = hf.load(tmp_path / "in")
    assert not model.config.pooler
    inputs = batch(groups(2))
    here = inputs["attention_mask"].numpy() > 0
    with torch.no_grad():
        expected = reference.bert(**inputs).last_hidden_state.numpy()
    assert worst(hidden(model, params, inputs)[here], expected[here]) < 1e-4
    with pytest.raises(UserError, match="saved without its pooler"):
        model.with_head(Linear(), pool=("pooler",))


def test_real_weights(tmp_path: Path):
    """MiniLM, real texts through the token contract: hidden states, export, transformers' pipeline on the export."""
    path = minilm()
    base, params = hf.load(path)
    pair = TextPair.load(path, length=base.context, vocab=base.config.vocab)
    reference = transformers.AutoModel.from_pretrained(path).eval()
    inputs = pair.tokenizer(*map(list, zip(*TEXTS, strict=True)), padding=True, return_tensors="pt")
    here = inputs["attention_mask"].numpy() > 0
    with torch.no_grad():
        expected = reference(**inputs).last_hidden_state.numpy()
    difference = worst(hidden(base, params, inputs)[here], expected[here])
    print(f"MiniLM: max abs hidden difference {difference:.1e}")
    assert difference < 1e-4

    model = base.with_head(Linear(scale=100.0), pool=("pooler",))
    params = model.add_head(params, jax.random.key(1))
    items = [
        Group(id=q, prompt=pair.prompt_ids((Message("user", q),)), completions=[pair.completion_ids(a)])
        for q, a in TEXTS
    ]
    ours = scores(model, params, items)
    hf.save(tmp_path / "out", model, params, pad=pair.pad, files=pair.save)
    pipe = transformers.pipeline("text-classification", str(tmp_path / "out"), device="cpu")
    out = [pipe({"text": q, "text_pair": a}, function_to_apply="none")["score"] for q, a in TEXTS]
    print(f"MiniLM: max abs score difference {worst(ours, np.asarray(out)):.1e}")
    assert worst(ours, np.asarray(out)) < 1e-4
    assert TextPair.load(tmp_path / "out").contract() == pair.contract()


def test_every_field_survives(tmp_path: Path):
    model = Model.of(dataclasses.replace(CONFIG, types=3, activation="gelu_tanh", norm_eps=1e-3, pooler=False))
    back, same = hf.load(hf.save(tmp_path / "m", model, params := model.init(jax.random.key(0))))
    assert back == model
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_what_cannot_be_saved(tmp_path: Path):
    for head, pool, says in [
        (Mlp(hidden=3), ("pooler",), "a Mlp head has no Hugging Face form"),
        (Linear(), ("cls",), r"pool=\('cls',\): a Hugging Face BertForSequenceClassification reads \('pooler',\)"),
    ]:
        model = Model.of(CONFIG, head, pool)
        with pytest.raises(UserError, match=says):
            hf.save(tmp_path / "m", model, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "relu"}, "activation 'relu' is not supported; supported: gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, "is_decoder is not supported"),
        ({"num_attention_heads": 5}, "embed=24 is not a multiple of heads=5|hidden size"),
        ({"type_vocab_size": 1}, "types=1: prompt and answer need a token type each"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
        ({"architectures": ["BertForSequenceClassification"], "num_labels": 3}, "a classifier with 3 labels"),
        ({"max_position_embeddings": 65}, r"position_embeddings.weight' has shape \[64, 24\]"),
        (
            {"architectures": ["BertForSequenceClassification"], "num_labels": 1},
            "tensor 'classifier.weight' .* missing",
        ),
    ],
)
def test_wrong_directories(changes: dict, says: str, tmp_path: Path):
    model = Model.of(CONFIG)
    path = hf.save(tmp_path / "m", model, model.init(jax.random.key(0)))
    raw = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(raw | changes))
    with pytest.raises(UserError, match=says) as e:
        hf.load(path)
    assert "\n" not in str(e.value) and str(path) in str(e.value)


def test_stray_tensors(tmp_path: Path):
    model = Model.of(CONFIG)
    path = hf.save(tmp_path / "m", model, model.init(jax.random.key(0)))
    weights = load_file(path / "model.safetensors") | {"embeddings.position_ids": np.arange(64)[None]}
    save_file(weights, path / "model.safetensors")
    hf.load(path)
    save_file(weights | {"dense.weight": np.ones(3, np.float32)}, path / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor 'dense.weight' .* is not part of the bert model"):
        hf.load(path)
