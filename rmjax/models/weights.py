"""How each family names and lays out its tensors on disk: one table per family, read in both directions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One row: their name, ours (a path from the parameters' root), and both layouts.

    A layout lists axes; axes in brackets are flattened into one: "(n h) d" is [n * h, d]. `{l}` in the name is the
    layer, which our stacked arrays have as a leading axis not listed here.
    """

    name: str
    path: str
    theirs: str
    ours: str

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.path.split("."))

    @property
    def stacked(self) -> bool:
        return "{l}" in self.name

    def their_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape on disk of a tensor of shape `ours` (without the layer axis)."""
        size = dict(zip(self.ours.split(), ours, strict=True))
        return tuple(math.prod(size[axis] for axis in group) for group in layout(self.theirs))

    def read(self, x: np.ndarray, ours: tuple[int, ...]) -> np.ndarray:
        """On-disk layout -> ours."""
        size = dict(zip(self.ours.split(), ours, strict=True))
        flat = [axis for group in layout(self.theirs) for axis in group]
        x = x.reshape([size[axis] for axis in flat])
        return x.transpose([flat.index(axis) for axis in self.ours.split()])

    def write(self, x: np.ndarray) -> np.ndarray:
        """Our layout -> the one on disk."""
        shape, axes = self.their_shape(x.shape), self.ours.split()
        flat = [axis for group in layout(self.theirs) for axis in group]
        return np.ascontiguousarray(x.transpose([axes.index(axis) for axis in flat]).reshape(shape))


def layout(text: str) -> list[list[str]]:
    """ "(n h) d" -> [["n", "h"], ["d"]]."""
    groups: list[list[str]] = []
    inside = False
    for word in text.replace("(", " ( ").replace(")", " ) ").split():
        if word in "()":
            inside = word == "("
            groups += [[]] if inside else []
        elif inside:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def _block(name: str, ours: str, theirs_layout: str, ours_layout: str) -> Tensor:
    return Tensor(f"model.layers.{{l}}.{name}", f"decoder.blocks.{ours}", theirs_layout, ours_layout)


COMMON = (
    Tensor("model.embed_tokens.weight", "decoder.table", "v d", "v d"),
    _block("self_attn.q_proj.weight", "wq", "(n h) d", "d n h"),
    _block("self_attn.k_proj.weight", "wk", "(k h) d", "d k h"),
    _block("self_attn.v_proj.weight", "wv", "(k h) d", "d k h"),
    _block("self_attn.o_proj.weight", "wo", "d (n h)", "n h d"),
    _block("self_attn.q_proj.bias", "bq", "(n h)", "n h"),
    _block("self_attn.k_proj.bias", "bk", "(k h)", "k h"),
    _block("self_attn.v_proj.bias", "bv", "(k h)", "k h"),
    _block("self_attn.o_proj.bias", "bo", "d", "d"),
    _block("self_attn.q_norm.weight", "q_norm", "h", "h"),
    _block("self_attn.k_norm.weight", "k_norm", "h", "h"),
    _block("mlp.gate_proj.weight", "gate", "f d", "d f"),
    _block("mlp.up_proj.weight", "up", "f d", "d f"),
    _block("mlp.down_proj.weight", "down", "d f", "f d"),
    _block("mlp.gate_proj.bias", "b_gate", "f", "f"),
    _block("mlp.up_proj.bias", "b_up", "f", "f"),
    _block("mlp.down_proj.bias", "b_down", "d", "d"),
    _block("input_layernorm.weight", "attn_norm", "d", "d"),
    Tensor("model.norm.weight", "decoder.norm", "d", "d"),
    Tensor("lm_head.weight", "decoder.unembed", "v d", "v d"),
    Tensor("score.weight", "head.weight", "() d", "d"),
)
PRE_NORM = (*COMMON, _block("post_attention_layernorm.weight", "mlp_norm", "d", "d"))
GEMMA = (
    *COMMON,
    _block("post_attention_layernorm.weight", "attn_post_norm", "d", "d"),
    _block("pre_feedforward_layernorm.weight", "mlp_norm", "d", "d"),
    _block("post_feedforward_layernorm.weight", "mlp_post_norm", "d", "d"),
)


def _layer(name: str, ours: str, theirs_layout: str, ours_layout: str) -> Tensor:
    return Tensor(f"encoder.layer.{{l}}.{name}", f"encoder.blocks.{ours}", theirs_layout, ours_layout)


BERT = (
    Tensor("embeddings.word_embeddings.weight", "encoder.table", "v d", "v d"),
    Tensor("embeddings.position_embeddings.weight", "encoder.positions", "p d", "p d"),
    Tensor("embeddings.token_type_embeddings.weight", "encoder.types", "t d", "t d"),
    Tensor("embeddings.LayerNorm.weight", "encoder.norm.scale", "d", "d"),
    Tensor("embeddings.LayerNorm.bias", "encoder.norm.bias", "d", "d"),
    _layer("attention.self.query.weight", "wq", "(n h) d", "d n h"),
    _layer("attention.self.query.bias", "bq", "(n h)", "n h"),
    _layer("attention.self.key.weight", "wk", "(n h) d", "d n h"),
    _layer("attention.self.key.bias", "bk", "(n h)", "n h"),
    _layer("attention.self.value.weight", "wv", "(n h) d", "d n h"),
    _layer("attention.self.value.bias", "bv", "(n h)", "n h"),
    _layer("attention.output.dense.weight", "wo", "d (n h)", "n h d"),
    _layer("attention.output.dense.bias", "bo", "d", "d"),
    _layer("attention.output.LayerNorm.weight", "attn_norm.scale", "d", "d"),
    _layer("attention.output.LayerNorm.bias", "attn_norm.bias", "d", "d"),
    _layer("intermediate.dense.weight", "up", "f d", "d f"),
    _layer("intermediate.dense.bias", "b_up", "f", "f"),
    _layer("output.dense.weight", "down", "d f", "f d"),
    _layer("output.dense.bias", "b_down", "d", "d"),
    _layer("output.LayerNorm.weight", "mlp_norm.scale", "d", "d"),
    _layer("output.LayerNorm.bias", "mlp_norm.bias", "d", "d"),
    Tensor("pooler.dense.weight", "encoder.pool_weight", "e d", "d e"),
    Tensor("pooler.dense.bias", "encoder.pool_bias", "e", "e"),
    Tensor("classifier.weight", "head.weight", "() d", "d"),
    Tensor("classifier.bias", "head.bias", "()", ""),
)
TABLES = {
    "bert": BERT,
    "llama": PRE_NORM,
    "mistral": PRE_NORM,
    "qwen2": PRE_NORM,
    "qwen3": PRE_NORM,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
}


def ignored(name: str) -> bool:
    """Tensors that files carry and nobody reads: tables that are computed, and BERT's pretraining heads."""
    return name.endswith((".rotary_emb.inv_freq", "embeddings.position_ids")) or name.startswith("cls.")


def table(family: str, shapes: Any, prefix: str = "") -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """The family's rows for which the model has a parameter, each with that parameter's whole shape.

    Args:
      prefix: of the encoder's names in this file; a head's have none.

    Raises:
      ValueError: a parameter of the model has no row, so it could not be saved.
    """
    left = {tuple(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]}
    for row in TABLES[family]:
        if row.keys in left:
            name = prefix + row.name if row.keys[0] == "encoder" else row.name
            yield dataclasses.replace(row, name=name), left.pop(row.keys)
    if left:
        raise ValueError(f"no name on disk in family {family!r} for {['.'.join(keys) for keys in left]}")
