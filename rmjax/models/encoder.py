"""The encoder of the BERT family (arXiv:1810.04805): one block, its parameters stacked over layers and scanned.

Every token sees its whole group, before and after it, so candidates cannot share a computed prompt: rows are packed
with share=False. The token type is 0 in the prompt and 1 in the answer. Dropout (training only) is
where BERT has `hidden_dropout_prob`: after the embeddings' norm, and before what attention and the MLP give is added.
Attention probabilities are not dropped: long rows recompute them by blocks.

Dimensions: b rows, t tokens, d width, n heads, h head size, f feed-forward.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from rmjax.models.attention import attend_both_ways
from rmjax.models.config import EncoderConfig
from rmjax.models.layers import Constant, Dropout, Normal, activate, drop, layer_norm, param, rematerialised, walk
from rmjax.models.lora import adapt, adapted
from rmjax.models.quantised import rescaled, store
from rmjax.sharding import shard

NORMAL = Normal(0.02)  # BERT's own


class Norm(nnx.Module):
    """Layer norm with scale and bias."""

    def __init__(self, c: EncoderConfig) -> None:
        self.eps = c.norm_eps
        self.scale = param((c.embed,), ("act_embed",), Constant(1.0))
        self.bias = param((c.embed,), ("act_embed",), Constant(0.0))

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class EncoderBlock(nnx.Module):
    """Attention and an MLP, a norm after each sum with what went in."""

    def __init__(self, c: EncoderConfig) -> None:
        d, n, h, f = c.embed, c.heads, c.head_dim, c.mlp
        self.config = c
        zero = Constant(0.0)
        for name in ("q", "k", "v"):
            setattr(self, f"w{name}", param((d, n, h), ("embed", "heads", "head_dim"), NORMAL))
            setattr(self, f"b{name}", param((n, h), ("heads", "head_dim"), zero))
        self.wo = param((n, h, d), ("heads", "head_dim", "embed"), NORMAL)
        self.bo = param((d,), ("act_embed",), zero)
        self.attn_norm = Norm(c)
        self.up = param((d, f), ("embed", "mlp"), NORMAL)
        self.b_up = param((f,), ("mlp",), zero)
        self.down = param((f, d), ("mlp", "embed"), NORMAL)
        self.b_down = param((d,), ("act_embed",), zero)
        self.mlp_norm = Norm(c)
        adapt(self, c.lora)
        store(self, c.weights)

    def _project(self, pattern: str, x: Array, weight: str, bias: str) -> Array:
        y = rescaled(self, weight, jnp.einsum(pattern, x, getattr(self, weight)[...].astype(x.dtype)))
        y = adapted(self, pattern, x, weight, y)
        return y + getattr(self, bias)[...].astype(x.dtype)

    def __call__(
        self, x: Float[Array, "b t d"], group: Int[Array, "b t"], dropout: Dropout | None = None
    ) -> Float[Array, "b t d"]:
        with jax.named_scope("attention"):
            q, k, v = (self._project("btd,dnh->btnh", x, f"w{name}", f"b{name}") for name in ("q", "k", "v"))
            o = attend_both_ways(shard(q, "batch", "length", "heads", None), k, v, group)
            y = drop(self._project("btnh,nhd->btd", o, "wo", "bo"), dropout, 0)
            x = shard(self.attn_norm(x + y), "batch", "length", "act_embed")
        with jax.named_scope("mlp"):
            z = activate(self._project("btd,df->btf", x, "up", "b_up"), self.config.activation)
            y = drop(self._project("btf,fd->btd", shard(z, "batch", "length", "mlp"), "down", "b_down"), dropout, 1)
            return shard(self.mlp_norm(x + y), "batch", "length", "act_embed")


class Encoder(nnx.Module):
    """An encoder; `blocks` is one module whose parameters carry a leading layer axis."""

    def __init__(self, c: EncoderConfig) -> None:
        self.config = c
        self.table = param((c.vocab, c.embed), ("vocab", "embed"), NORMAL)
        self.positions = param((c.max_positions, c.embed), (None, "embed"), NORMAL)
        self.types = param((c.types, c.embed), (None, "embed"), NORMAL)
        self.norm = Norm(c)
        self.blocks = nnx.vmap(lambda _: EncoderBlock(c))(jnp.arange(c.layers))
        if c.pooler:
            self.pool_weight = param((c.embed, c.embed), ("embed", None), NORMAL)
            self.pool_bias = param((c.embed,), ("act_embed",), Constant(0.0))
        store(self, c.weights)

    def hidden(
        self,
        tokens: Int[Array, "b t"],
        positions: Int[Array, "b t"],
        group: Int[Array, "b t"],
        branch: Int[Array, "b t"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "b t d"]:
        """Hidden states of rows packed with share=False, in the activations' dtype.

        A position at or beyond `max_positions` would read another one's embedding: the host refuses it first
        (`data.limits.require_context`).
        """
        c = self.config
        # Whole rows on every device: looked up in pieces, activations would change their layout the slow way.
        look = lambda table, ids, rows=None: shard(
            shard(table[...].astype(c.dtype), rows, "act_embed")[ids], "batch", "length", "act_embed"
        )
        types = look(self.types, (branch > 0).astype(jnp.int32))
        x = self.norm(look(self.table, tokens, "vocab") + types + look(self.positions, positions))
        x = shard(drop(x, dropout, c.layers), "batch", "length", "act_embed")
        streams = None if dropout is None else dropout.at(jnp.arange(c.layers))

        def body(x: Array, layer: tuple[EncoderBlock, Dropout | None]) -> tuple[Array, None]:
            block, dropout = layer
            return block(x, group, dropout), None

        return walk(rematerialised(body, c.remat), x, (self.blocks, streams), c)[0]

    def pooler(self, first: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """tanh(W x + b) of a text's first token: what Hugging Face's classifiers read; float32."""
        y = first.astype(jnp.float32) @ self.pool_weight[...]
        return jnp.tanh(y + self.pool_bias[...])
