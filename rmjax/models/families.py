"""Decoder families: Hugging Face's config.json to a `DecoderConfig` and back (encoders: `models/bert.py`).

transformers' own config classes fill in each family's defaults and translate the field names of older files.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from rmjax.errors import UserError
from rmjax.models.config import DecoderConfig, Rope

# model_type -> the class names that transformers gives to its causal language model and classifier.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "LlamaForSequenceClassification"),
    "mistral": ("MistralForCausalLM", "MistralForSequenceClassification"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2ForSequenceClassification"),
    "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
}
GEMMA = ("gemma2", "gemma3_text")
LAYERED = ("qwen2", "qwen3", *GEMMA)  # their config.json says which layers slide
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}  # theirs -> ours


def read_config(raw: Mapping[str, Any], where: str) -> DecoderConfig:
    """The content of a config.json -> a `DecoderConfig`.

    Args:
      raw: the parsed file.
      where: the file's name, for messages.

    Raises:
      UserError: a family, rope type, activation or option that is not supported, or an invalid field.
    """
    family = raw.get("model_type")
    if family == "gemma3":
        raise UserError(f"{where}: model_type 'gemma3' is the multi-modal model; use a text-only one (gemma3_text)")
    if family not in ARCHITECTURES:
        known = ", ".join((*ARCHITECTURES, "bert"))
        raise UserError(f"{where}: model_type {family!r} is not supported; supported: {known}")
    if raw.get("quantization_config"):
        raise UserError(f"{where}: quantization_config: quantised weights are not supported; use the unquantised model")
    try:
        hf = CONFIG_MAPPING[family].from_dict(copy.deepcopy(dict(raw)))
    except Exception as e:  # its validators raise many types; the user needs the one line
        raise UserError(f"{where}: not a valid {family} config: {' '.join(str(e).split())}") from e
    if getattr(hf, "use_bidirectional_attention", None):
        raise UserError(f"{where}: use_bidirectional_attention is not supported; use a causal model")

    gemma = family in GEMMA
    activation = hf.hidden_activation if gemma else hf.hidden_act
    if activation not in ACTIVATIONS:
        raise UserError(f"{where}: activation {activation!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    if family == "gemma3_text" and hf.attn_logit_softcapping:
        raise UserError(f"{where}: attn_logit_softcapping is not part of Gemma 3; set it to null")

    if family in LAYERED:
        sliding = tuple(kind == "sliding_attention" for kind in hf.layer_types)
    else:
        sliding = (getattr(hf, "sliding_window", None) is not None,) * hf.num_hidden_layers
    if not any(sliding):
        sliding = ()
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    bias = family == "qwen2" or getattr(hf, "attention_bias", False)
    ropes = hf.rope_parameters
    local = None
    if family == "gemma3_text":
        local = _read_rope(ropes["sliding_attention"], hf, where) if sliding else None
        ropes = ropes["full_attention"]
    query = hf.query_pre_attn_scalar if gemma else head_dim

    try:
        return DecoderConfig(
            family=family,
            vocab=hf.vocab_size,
            layers=hf.num_hidden_layers,
            embed=hf.hidden_size,
            heads=hf.num_attention_heads,
            kv_heads=hf.num_key_value_heads,
            head_dim=head_dim,
            mlp=hf.intermediate_size,
            max_positions=hf.max_position_embeddings,
            tied=hf.tie_word_embeddings,
            norm_eps=hf.rms_norm_eps,
            norm_offset=gemma,
            post_norms=gemma,
            qk_norm=family in ("qwen3", "gemma3_text"),
            qkv_bias=bias,
            out_bias=bias and family != "qwen2",
            mlp_bias=getattr(hf, "mlp_bias", False),
            activation=ACTIVATIONS[activation],
            embed_scale=hf.hidden_size**0.5 if gemma else 1.0,
            query_scale=0.0 if query == head_dim else query**-0.5,
            attn_softcap=getattr(hf, "attn_logit_softcapping", None) or 0.0,
            logit_softcap=getattr(hf, "final_logit_softcapping", None) or 0.0,
            rope=_read_rope(ropes, hf, where),
            local_rope=local,
            window=hf.sliding_window if sliding else 0,
            sliding=sliding,
        )
    except UserError as e:
        raise UserError(f"{where}: {e}") from e


def write_config(c: DecoderConfig) -> dict[str, Any]:
    """A `DecoderConfig` -> the content of a config.json, without architectures and token ids.

    Raises:
      UserError: the family's config.json cannot say what a field of `c` says.
    """
    if c.family not in ARCHITECTURES:
        raise UserError(f"model field family={c.family!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    theirs = {ours: name for name, ours in ACTIVATIONS.items()}
    out: dict[str, Any] = {
        "model_type": c.family,
        "vocab_size": c.vocab,
        "num_hidden_layers": c.layers,
        "hidden_size": c.embed,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.mlp,
        "max_position_embeddings": c.max_positions,
        "tie_word_embeddings": c.tied,
        "rms_norm_eps": c.norm_eps,
    }
    out["hidden_activation" if c.family in GEMMA else "hidden_act"] = theirs[c.activation]
    if c.family == "llama":
        out |= {"attention_bias": c.qkv_bias, "mlp_bias": c.mlp_bias}
    elif c.family in ("qwen3", *GEMMA):
        out |= {"attention_bias": c.qkv_bias}
    if c.family == "mistral":
        out |= {"sliding_window": c.window or None}
    if c.family in LAYERED:
        slides = c.sliding or (False,) * c.layers
        out |= {"layer_types": ["sliding_attention" if s else "full_attention" for s in slides]}
        out |= {"sliding_window": c.window or None}
    if c.family in ("qwen2", "qwen3"):
        out |= {"use_sliding_window": bool(c.sliding)}
    if c.family in GEMMA:
        out |= {
            "query_pre_attn_scalar": round(c.attn_scale**-2),
            "attn_logit_softcapping": c.attn_softcap or None,
            "final_logit_softcapping": c.logit_softcap or None,
        }
    # Both spellings: rope_parameters is transformers 5's, the others what older readers know.
    rope = _write_rope(c.rope)
    out |= {"rope_theta": c.rope.theta, "rope_scaling": rope if c.rope.scaling != "none" else None}
    if c.family == "gemma3_text":
        local = c.local_rope or c.rope
        out |= {"rope_local_base_freq": local.theta}
        out |= {"rope_parameters": {"full_attention": rope, "sliding_attention": _write_rope(local)}}
    else:
        out |= {"rope_parameters": rope}

    read = read_config(out, f"family {c.family!r}")
    for field in dataclasses.fields(c):
        want, got = getattr(c, field.name), getattr(read, field.name)
        if field.name not in ("dtype", "remat", "frozen", "lm_head") and want != got:
            raise UserError(
                f"model field {field.name}={want!r} cannot be saved as family {c.family!r}, which has {got!r}"
            )
    return out


def _read_rope(raw: Mapping[str, Any], hf: Any, where: str) -> Rope:
    kind = raw.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise UserError(f"{where}: rope_type {kind!r} is not supported; supported: default, linear, llama3")
    if raw.get("partial_rotary_factor") not in (None, 1.0):
        raise UserError(f"{where}: partial_rotary_factor {raw['partial_rotary_factor']} is not supported; only 1.0 is")
    if kind == "default":
        return Rope(theta=raw["rope_theta"])
    if kind == "linear":
        return Rope(theta=raw["rope_theta"], scaling="linear", factor=raw["factor"])
    return Rope(
        theta=raw["rope_theta"],
        scaling="llama3",
        factor=raw["factor"],
        low_freq_factor=raw["low_freq_factor"],
        high_freq_factor=raw["high_freq_factor"],
        original_positions=raw.get("original_max_position_embeddings", hf.max_position_embeddings),
    )


def _write_rope(rope: Rope) -> dict[str, Any]:
    out: dict[str, Any] = {"rope_type": "default" if rope.scaling == "none" else rope.scaling, "rope_theta": rope.theta}
    if rope.scaling != "none":
        out |= {"factor": rope.factor}
    if rope.scaling == "llama3":
        out |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_positions,
        }
    return out
