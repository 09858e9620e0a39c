"""BERT's Hugging Face form: config.json to an `EncoderConfig` and back, and where its tensors' names begin."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from transformers import BertConfig

from rmjax.errors import UserError
from rmjax.models.config import EncoderConfig

ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}  # theirs -> ours
ARCHITECTURES = ("BertModel", "BertForSequenceClassification")  # transformers' bare encoder and classifier
PREFIX = "bert."  # of the encoder's tensors, where a file holds a head beside them
BIAS = "classifier.bias"
POOLER = "pooler.dense.weight"


def read_config(raw: Mapping[str, Any], where: str) -> EncoderConfig:
    """The content of a config.json -> an `EncoderConfig`, with a pooler. UserError for what is not supported."""
    if raw.get("quantization_config"):
        raise UserError(f"{where}: quantization_config: quantised weights are not supported; use the unquantised model")
    try:
        hf = BertConfig.from_dict(copy.deepcopy(dict(raw)))
    except Exception as e:  # its validators raise many types; the user needs the one line
        raise UserError(f"{where}: not a valid bert config: {' '.join(str(e).split())}") from e
    if hf.hidden_act not in ACTIVATIONS:
        raise UserError(f"{where}: activation {hf.hidden_act!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    kind = raw.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise UserError(f"{where}: position_embedding_type {kind!r} is not supported; only 'absolute' is")
    if hf.is_decoder or hf.add_cross_attention:
        raise UserError(f"{where}: is_decoder is not supported; a BERT reward model is an encoder")
    try:
        return EncoderConfig(
            vocab=hf.vocab_size,
            layers=hf.num_hidden_layers,
            embed=hf.hidden_size,
            heads=hf.num_attention_heads,
            mlp=hf.intermediate_size,
            max_positions=hf.max_position_embeddings,
            types=hf.type_vocab_size,
            norm_eps=hf.layer_norm_eps,
            activation=ACTIVATIONS[hf.hidden_act],
        )
    except UserError as e:
        raise UserError(f"{where}: {e}") from e


def write_config(c: EncoderConfig) -> dict[str, Any]:
    """An `EncoderConfig` -> the content of a config.json, without architectures and token ids."""
    if c.family != "bert":
        raise UserError(f"model field family={c.family!r} is not supported for an encoder; use 'bert'")
    out = {
        "model_type": c.family,
        "vocab_size": c.vocab,
        "num_hidden_layers": c.layers,
        "hidden_size": c.embed,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp,
        "max_position_embeddings": c.max_positions,
        "type_vocab_size": c.types,
        "layer_norm_eps": c.norm_eps,
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == c.activation),
        "position_embedding_type": "absolute",
    }
    read = read_config(out, "family 'bert'")
    how = {name: getattr(read, name) for name in ("pooler", "dtype", "remat", "frozen")}
    same = dataclasses.replace(c, **how)
    assert read == same, (read, same)
    return out


def prefix(names: Iterable[str]) -> str:
    """What the encoder's tensors in a file are prefixed with."""
    return PREFIX if any(name.startswith(PREFIX) for name in names) else ""


def spelled(name: str, names: Collection[str]) -> str:
    """The tensor's name as this file spells it: the oldest files call a norm's weight gamma and its bias beta."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return old if name not in names and old in names else name
