"""What a decoder or an encoder is made of: a frozen, hashable dataclass each covers every supported family."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Literal

from rmjax.bounds import require
from rmjax.errors import UserError

Activation = Literal["silu", "gelu", "gelu_tanh"]
RopeScaling = Literal["none", "linear", "llama3"]
Weights = Literal["float32", "bfloat16", "int8"]
# What of a layer's forward pass is kept for the backward pass; the rest is computed again. Each keeps more than the one
# before: nothing but the layer's input, what attention gives, its queries, keys and values too, all matrix products.
Remat = Literal["full", "attention", "qkv", "products", "none"]
REMATS = typing.get_args(Remat)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding: base, and how its frequencies are stretched for longer contexts."""

    theta: float = 10_000.0
    scaling: RopeScaling = "none"
    factor: float = 1.0
    # llama3 only: which wavelengths, as shares of the original context, are kept and which are stretched.
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self) -> None:
        if self.scaling not in ("none", "linear", "llama3"):
            raise UserError(f"rope scaling {self.scaling!r} is not supported; use none, linear or llama3")


TARGETS = {"q": "wq", "k": "wk", "v": "wv", "o": "wo", "gate": "gate", "up": "up", "down": "down"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """Which matrices get an adapter, how wide, and what its product is multiplied by."""

    rank: int = 0  # width of the adapters; 0: none, and all parameters are trained
    alpha: float = 32.0  # an adapter's product is multiplied by alpha / rank
    rslora: bool = False  # by alpha / sqrt(rank) instead (arXiv:2312.03732)
    targets: tuple[str, ...] = ()  # matrices: q, k, v, o, gate, up, down (an encoder has no gate); empty: all

    def __post_init__(self) -> None:
        require("lora.", self, "rank", least=0)
        require("lora.", self, "alpha", above=0)
        if odd := [t for t in self.targets if t not in TARGETS]:
            raise UserError(f"lora.targets={odd[0]!r}: not one of {', '.join(TARGETS)}")
        if not self.rank and (self.alpha, self.rslora, self.targets) != (32.0, False, ()):
            raise UserError("lora.rank=0: the other settings of lora count only with a rank, such as 16")

    @property
    def scale(self) -> float:
        """What an adapter's product is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def matrices(self, there: tuple[str, ...]) -> tuple[str, ...]:
        """Our names of the matrices that get an adapter, of those that are there.

        Raises:
          UserError: a target that the model does not have.
        """
        if odd := [t for t in self.targets if TARGETS[t] not in there]:
            raise UserError(f"lora.targets={odd[0]!r}: this model's layers have no such matrix; leave it out")
        asked = {TARGETS[t] for t in self.targets or TARGETS}
        return tuple(name for name in there if name in asked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only transformer. The defaults are Llama's; `models/families.py` sets the rest per family."""

    vocab: int
    layers: int
    embed: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    family: str = "llama"  # Hugging Face's model_type: how config and weights are named on disk
    max_positions: int = 2048  # the context it was trained for; written to config.json, never enforced here
    tied: bool = True  # the output head is the embedding table
    lm_head: bool = True  # false: a classifier's decoder that was saved without its own, untied output head
    norm_eps: float = 1e-6
    norm_offset: bool = False  # norms scale by 1 + w (Gemma)
    post_norms: bool = False  # a norm after attention and one after the MLP as well (Gemma 2, 3)
    qk_norm: bool = False  # a norm over each query and key head (Qwen 3, Gemma 3)
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    activation: Activation = "silu"
    embed_scale: float = 1.0  # multiplies the embeddings (Gemma: the root of the width)
    query_scale: float = 0.0  # multiplies the attention logits; 0: head_dim ** -0.5
    attn_softcap: float = 0.0  # cap * tanh(logits / cap); 0: none
    logit_softcap: float = 0.0
    rope: Rope = Rope()
    local_rope: Rope | None = None  # of the sliding layers, where it differs (Gemma 3)
    window: int = 0  # a sliding layer's token sees itself and the window - 1 before it
    sliding: tuple[bool, ...] = ()  # which layers slide; empty: none
    dtype: str = "float32"  # of activations; parameters that are trained are float32 masters
    weights: Weights = "float32"  # how matrices and tables are kept (`models/quantised.py`); smaller: none is trained
    lora: Lora | None = None  # adapters beside the matrices: they and the reward head alone are trained
    remat: Remat = "none"  # what of a layer is kept for the backward pass; full: nothing, all is computed again
    frozen: int = 0  # n: no gradient for the embeddings and the lowest n layers; layers + 1: for the whole backbone

    def __post_init__(self) -> None:
        for name in ("vocab", "layers", "embed", "heads", "kv_heads", "head_dim", "mlp"):
            if getattr(self, name) < 1:
                raise UserError(f"model field {name}={getattr(self, name)} is not positive")
        if self.heads % self.kv_heads:
            raise UserError(f"model field heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise UserError(f"model field head_dim={self.head_dim} is odd: rotary embeddings need an even one")
        if self.sliding and len(self.sliding) != self.layers:
            raise UserError(f"model field sliding has {len(self.sliding)} entries for layers={self.layers}")
        if any(self.sliding) and self.window < 1:
            raise UserError(f"model field window={self.window} must be positive where a layer slides")
        if self.local_rope is not None and not any(self.sliding):
            raise UserError("model field local_rope is set but no layer slides; drop it or set sliding")
        if self.tied and not self.lm_head:
            raise UserError("model field lm_head=False contradicts tied=True: a tied output head is always there")
        if not 0 <= self.frozen <= self.layers + 1:
            raise UserError(f"model field frozen={self.frozen}: must lie between 0 and layers + 1 = {self.layers + 1}")
        if self.remat not in REMATS:
            raise UserError(f"model field remat={self.remat!r}: use {', '.join(REMATS)}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f"model field dtype={self.dtype!r}: use float32, bfloat16 or float16")
        if self.activation not in ("silu", "gelu_tanh"):
            raise UserError(f"model field activation={self.activation!r}: use silu or gelu_tanh")

    @property
    def attn_scale(self) -> float:
        """What attention logits are multiplied by."""
        return self.query_scale or self.head_dim**-0.5

    @property
    def windows(self) -> tuple[int, ...] | int | None:
        """The sliding window: None where no layer slides, one number where all do, else one per layer.

        A layer that does not slide has a window longer than any row.
        """
        if not any(self.sliding):
            return None
        if all(self.sliding):
            return self.window
        return tuple(self.window if s else 2**30 for s in self.sliding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A bidirectional transformer of the BERT family (arXiv:1810.04805): learned positions, norms after each sum."""

    vocab: int
    layers: int
    embed: int
    heads: int
    mlp: int
    family: str = "bert"  # Hugging Face's model_type
    max_positions: int = 512  # rows of the position table: a longer text cannot be read
    types: int = 2  # rows of the token-type table; 0: prompt, 1: answer
    norm_eps: float = 1e-12
    activation: Activation = "gelu"
    pooler: bool = True  # a dense layer and tanh over the first token, which Hugging Face's classifiers read
    dtype: str = "float32"  # of activations; parameters that are trained are float32 masters
    weights: Weights = "float32"  # how matrices and tables are kept (`models/quantised.py`); smaller: none is trained
    lora: Lora | None = None  # adapters beside the matrices: they and the reward head alone are trained
    remat: Remat = "none"  # what of a layer is kept for the backward pass; full: nothing, all is computed again
    frozen: int = 0  # n: no gradient for the embeddings and the lowest n layers; layers + 1: for the whole backbone

    def __post_init__(self) -> None:
        for name in ("vocab", "layers", "embed", "heads", "mlp", "max_positions"):
            if getattr(self, name) < 1:
                raise UserError(f"model field {name}={getattr(self, name)} is not positive")
        if self.embed % self.heads:
            raise UserError(f"model field embed={self.embed} is not a multiple of heads={self.heads}")
        if self.types < 2:
            raise UserError(f"model field types={self.types}: prompt and answer need a token type each")
        if not 0 <= self.frozen <= self.layers + 1:
            raise UserError(f"model field frozen={self.frozen}: must lie between 0 and layers + 1 = {self.layers + 1}")
        if self.remat not in ("full", "attention", "none"):
            raise UserError(f"model field remat={self.remat!r}: an encoder has full, attention or none")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f"model field dtype={self.dtype!r}: use float32, bfloat16 or float16")
        if self.activation not in ("gelu", "gelu_tanh"):
            raise UserError(f"model field activation={self.activation!r}: use gelu or gelu_tanh")

    @property
    def head_dim(self) -> int:
        return self.embed // self.heads
