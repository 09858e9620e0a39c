"""The decoder: one block, its parameters stacked over layers and scanned; forward, prefill and one decoding step.

Dimensions: b rows, t tokens, d width, n query heads, k key/value heads, h head size, f feed-forward, v vocabulary,
p prompts, s prompt tokens, g samples of a prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from rmjax.errors import UserError
from rmjax.models.attention import attend
from rmjax.models.cache import PromptCache, SuffixCache, attend_cached
from rmjax.models.config import DecoderConfig
from rmjax.models.layers import activate, param, rms_norm, rotate, rotations, softcap
from rmjax.sharding import shard

Mix = Callable[[Array, Array, Array], tuple[Array, Any]]  # q, k, v -> output [b t n h], what the caller keeps


class Block(nnx.Module):
    """Attention and a gated MLP, each behind a norm. What attends to what is the caller's `mix`."""

    def __init__(self, c: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        r, d, n, k, h, f = rngs.params, c.embed, c.heads, c.kv_heads, c.head_dim, c.mlp
        self.config = c
        one = nnx.initializers.zeros if c.norm_offset else nnx.initializers.ones
        zero = nnx.initializers.zeros
        # Fan-in scale; what is added to the residual stream is scaled down by the number of additions.
        fan = lambda size, scale=1.0: nnx.initializers.normal(scale * size**-0.5)
        add = (2 * c.layers) ** -0.5
        self.attn_norm = param(r(), (d,), ("act_embed",), one)
        self.wq = param(r(), (d, n, h), ("embed", "heads", "head_dim"), fan(d))
        self.wk = param(r(), (d, k, h), ("embed", "kv_heads", "head_dim"), fan(d))
        self.wv = param(r(), (d, k, h), ("embed", "kv_heads", "head_dim"), fan(d))
        self.wo = param(r(), (n, h, d), ("heads", "head_dim", "embed"), fan(n * h, add))
        self.mlp_norm = param(r(), (d,), ("act_embed",), one)
        self.gate = param(r(), (d, f), ("embed", "mlp"), fan(d))
        self.up = param(r(), (d, f), ("embed", "mlp"), fan(d))
        self.down = param(r(), (f, d), ("mlp", "embed"), fan(f, add))
        if c.qkv_bias:
            self.bq = param(r(), (n, h), ("heads", "head_dim"), zero)
            self.bk = param(r(), (k, h), ("kv_heads", "head_dim"), zero)
            self.bv = param(r(), (k, h), ("kv_heads", "head_dim"), zero)
        if c.out_bias:
            self.bo = param(r(), (d,), ("act_embed",), zero)
        if c.mlp_bias:
            self.b_gate = param(r(), (f,), ("mlp",), zero)
            self.b_up = param(r(), (f,), ("mlp",), zero)
            self.b_down = param(r(), (d,), ("act_embed",), zero)
        if c.qk_norm:
            self.q_norm = param(r(), (h,), ("head_dim",), one)
            self.k_norm = param(r(), (h,), ("head_dim",), one)
        if c.post_norms:
            self.attn_post_norm = param(r(), (d,), ("act_embed",), one)
            self.mlp_post_norm = param(r(), (d,), ("act_embed",), one)

    def _norm(self, x: Array, name: str) -> Array:
        return rms_norm(x, getattr(self, name)[...], self.config.norm_eps, self.config.norm_offset)

    def _project(self, pattern: str, x: Array, weight: str, bias: str | None = None) -> Array:
        y = jnp.einsum(pattern, x, getattr(self, weight)[...].astype(x.dtype))
        return y if bias is None else y + getattr(self, bias)[...].astype(x.dtype)

    def __call__(
        self, x: Float[Array, "b t d"], rotation: Float[Array, "2 b t f"], mix: Mix
    ) -> tuple[Float[Array, "b t d"], Any]:
        c = self.config
        with jax.named_scope("attention"):
            y = self._norm(x, "attn_norm")
            q = self._project("btd,dnh->btnh", y, "wq", "bq" if c.qkv_bias else None)
            k = self._project("btd,dkh->btkh", y, "wk", "bk" if c.qkv_bias else None)
            v = self._project("btd,dkh->btkh", y, "wv", "bv" if c.qkv_bias else None)
            if c.qk_norm:
                q, k = self._norm(q, "q_norm"), self._norm(k, "k_norm")
            q, k = rotate(q, rotation), rotate(k, rotation)
            o, kept = mix(shard(q, "batch", "length", "heads", None), k, v)
            y = self._project("btnh,nhd->btd", o, "wo", "bo" if c.out_bias else None)
            x = shard(x + (self._norm(y, "attn_post_norm") if c.post_norms else y), "batch", "length", "act_embed")
        with jax.named_scope("mlp"):
            y = self._norm(x, "mlp_norm")
            gate = self._project("btd,df->btf", y, "gate", "b_gate" if c.mlp_bias else None)
            up = self._project("btd,df->btf", y, "up", "b_up" if c.mlp_bias else None)
            z = shard(activate(gate, c.activation) * up, "batch", "length", "mlp")
            y = self._project("btf,fd->btd", z, "down", "b_down" if c.mlp_bias else None)
            x = shard(x + (self._norm(y, "mlp_post_norm") if c.post_norms else y), "batch", "length", "act_embed")
        return x, kept


class Decoder(nnx.Module):
    """A decoder; `blocks` is one module whose parameters carry a leading layer axis."""

    def __init__(self, c: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = c
        normal = nnx.initializers.normal(0.02)
        self.table = param(rngs.params(), (c.vocab, c.embed), ("vocab", "embed"), normal)
        if c.lm_head and not c.tied:
            self.unembed = param(rngs.params(), (c.vocab, c.embed), ("vocab", "embed"), normal)
        one = nnx.initializers.zeros if c.norm_offset else nnx.initializers.ones
        self.norm = param(rngs.params(), (c.embed,), ("act_embed",), one)
        self.blocks = nnx.vmap(lambda r: Block(c, rngs=r))(rngs.split(c.layers))

    def hidden(
        self,
        tokens: Int[Array, "b t"],
        positions: Int[Array, "b t"],
        group: Int[Array, "b t"],
        branch: Int[Array, "b t"],
    ) -> Float[Array, "b t d"]:
        """Hidden states of packed rows (`data/rows.py`) after the final norm, in the activations' dtype."""
        hidden, _, _ = self._layers(tokens, positions, _packed(positions, group, branch, self.config), None)
        return hidden

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Next-token logits, float32, the soft cap included. UserError where there is no output head."""
        if not self.config.lm_head:
            raise UserError(
                "this model was saved as a classifier without an output head; use its language model instead"
            )
        table = self.table if self.config.tied else self.unembed
        out = jnp.einsum("...d,vd->...v", hidden, table[...].astype(hidden.dtype), preferred_element_type=jnp.float32)
        if out.ndim > 1:
            out = shard(out, "batch", *(None,) * (out.ndim - 2), "vocab")
        return softcap(out, self.config.logit_softcap)

    def prefill(self, tokens: Int[Array, "p s"], lengths: Int[Array, " p"]) -> tuple[Float[Array, "p d"], PromptCache]:
        """Reads right-padded prompts: the hidden state of each one's last token, and their keys and values."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        group = jnp.where(positions < lengths[:, None], 0, -1)
        mix = _packed(positions, group, jnp.zeros_like(group), self.config, keep=True)
        hidden, _, (k, v) = self._layers(tokens, positions, mix, None)
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        return jnp.take_along_axis(hidden, last, axis=1)[:, 0], PromptCache(k, v, lengths)

    def step(
        self, tokens: Int[Array, "p g"], prompt: PromptCache, suffix: SuffixCache
    ) -> tuple[Float[Array, "p g d"], SuffixCache]:
        """Appends one token to each sample: its hidden state, and the suffix cache one token longer.

        A token's position is prompt.lengths + suffix.lengths. The g samples of prompt p read its one prompt cache.
        """
        c = self.config

        def mix(q: Array, k: Array, v: Array, layer: _Layer, cache: SuffixCache) -> tuple[Array, SuffixCache, None]:
            cache = cache.write(layer.index, k, v)
            key, value = layer.prompt
            o = attend_cached(
                q, key, value, prompt.lengths, cache, layer.index,
                window=layer.window, softcap=c.attn_softcap, scale=c.attn_scale,
            )  # fmt: skip
            return o, cache, None

        positions = prompt.lengths[:, None] + suffix.lengths
        hidden, suffix, _ = self._layers(tokens, positions, mix, suffix, prompt)
        return hidden, dataclasses.replace(suffix, lengths=suffix.lengths + 1)

    def _layers(
        self, tokens: Array, positions: Array, mix: Callable, carry: Any, prompt: PromptCache | None = None
    ) -> tuple[Array, Any, Any]:
        """Embeds, walks the layers with `mix(q, k, v, layer, carry) -> (o, carry, kept)`, and norms.

        What differs between layers (window, rope) is scanned beside their parameters.
        """
        c = self.config
        x = self.table[...].astype(c.dtype)[tokens] * jnp.asarray(c.embed_scale, c.dtype)
        x = shard(x, "batch", "length", "act_embed")
        ropes = (c.rope,) if c.local_rope is None else (c.rope, c.local_rope)
        turns = rotations(ropes, c.head_dim, positions)
        windows = c.windows
        layers = _Layer(
            index=jnp.arange(c.layers),
            window=jnp.asarray(windows, jnp.int32) if isinstance(windows, tuple) else None,
            rope=jnp.asarray(c.sliding, jnp.int32) if len(ropes) > 1 else None,
            prompt=None if prompt is None else (prompt.k, prompt.v),
        )

        def body(state: tuple[Array, Any], xs: tuple[Block, _Layer]) -> tuple[tuple[Array, Any], Any]:
            (x, carry), (block, layer) = state, xs
            turn = turns[0] if layer.rope is None else turns[layer.rope]
            if layer.window is None:
                layer = dataclasses.replace(layer, window=windows)

            def inner(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Any, Any]]:
                o, new, kept = mix(q, k, v, layer, carry)
                return o, (new, kept)

            x, (carry, kept) = block(x, turn, inner)
            return (x, carry), kept

        if c.remat and carry is None:
            body = jax.checkpoint(body, policy=jax.checkpoint_policies.nothing_saveable)
        (x, carry), kept = jax.lax.scan(body, (x, carry), (self.blocks, layers))
        return rms_norm(x, self.norm[...], c.norm_eps, c.norm_offset), carry, kept


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Layer:
    """What one layer of the scan is told beside its parameters."""

    index: Any  # []
    window: Any  # [] int32, or None
    rope: Any  # [] int32: which of the ropes, or None where there is one
    prompt: Any  # its keys and values of the prompts, [p k s h] each, or None


def _packed(positions: Array, group: Array, branch: Array, c: DecoderConfig, keep: bool = False) -> Callable:
    """Attention within the rows themselves; `keep` hands out keys and values as a prompt cache lays them out."""

    def mix(q: Array, k: Array, v: Array, layer: _Layer, carry: None) -> tuple[Array, None, Any]:
        o = attend(q, k, v, positions, group, branch, window=layer.window, softcap=c.attn_softcap, scale=c.attn_scale)
        kept = (jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)) if keep else None
        return o, carry, kept

    return mix
