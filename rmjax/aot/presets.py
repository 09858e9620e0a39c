"""Shapes of well-known models, as their public config.json have them; no weights."""

from __future__ import annotations

from collections.abc import Mapping

from rmjax.models.config import DecoderConfig, Rope

LLAMA = dict(kv_heads=8, head_dim=128, vocab=128256, norm_eps=1e-5, tied=False, rope=Rope(theta=5e5))

PRESETS: Mapping[str, DecoderConfig] = {
    "llama-3.2-1b": DecoderConfig(
        **{
            **LLAMA,
            "head_dim": 64,
            "tied": True,
            "rope": Rope(theta=5e5, scaling="llama3", factor=32.0),
        },
        layers=16,
        embed=2048,
        heads=32,
        mlp=8192,
    ),
    "llama-3-8b": DecoderConfig(**LLAMA, layers=32, embed=4096, heads=32, mlp=14336),
    "llama-3-70b": DecoderConfig(**LLAMA, layers=80, embed=8192, heads=64, mlp=28672),
    "qwen-2.5-7b": DecoderConfig(
        family="qwen2",
        vocab=152064,
        layers=28,
        embed=3584,
        heads=28,
        kv_heads=4,
        head_dim=128,
        mlp=18944,
        qkv_bias=True,
        tied=False,
        rope=Rope(theta=1e6),
    ),
    "gemma-2-9b": DecoderConfig(
        family="gemma2",
        vocab=256000,
        layers=42,
        embed=3584,
        heads=16,
        kv_heads=8,
        head_dim=256,
        mlp=14336,
        tied=True,
        norm_offset=True,
        post_norms=True,
        activation="gelu_tanh",
        embed_scale=3584**0.5,
        attn_softcap=50.0,
        logit_softcap=30.0,
        window=4096,
        sliding=(True, False) * 21,
    ),
}
