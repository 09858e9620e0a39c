"""The decoder: one block, its parameters stacked over layers and scanned; forward, prefill and one decoding step.

Dimensions: b rows, t tokens, d width, n query heads, k key/value heads, h head size, f feed-forward, v vocabulary,
p prompts, s prompt tokens, g samples of a prompt.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from rmjax.errors import UserError
from rmjax.models.attention import attend
from rmjax.models.cache import PromptCache, SuffixCache, attend_cached
from rmjax.models.config import DecoderConfig, Rope
from rmjax.models.layers import (
    Constant,
    Dropout,
    Normal,
    activate,
    apart,
    drop,
    gradients_apart,
    param,
    rematerialised,
    rms_norm,
    rotate,
    rotations,
    softcap,
    walk,
    whole,
)
from rmjax.models.lora import adapt, adapted
from rmjax.models.quantised import rescaled, store
from rmjax.models.vocabulary import lookup, target_logps
from rmjax.sharding import shard

Mix = Callable[[Array, Array, Array], tuple[Array, Any]]  # q, k, v -> output [b t n h], what the caller keeps


class Block(nnx.Module):
    """Attention and a gated MLP, each behind a norm. What attends to what is the caller's `mix`."""

    def __init__(self, c: DecoderConfig) -> None:
        d, n, k, h, f = c.embed, c.heads, c.kv_heads, c.head_dim, c.mlp
        self.config = c
        one, zero = Constant(0.0 if c.norm_offset else 1.0), Constant(0.0)
        # Fan-in scale; what is added to the residual stream is scaled down by the number of additions.
        fan = lambda size, scale=1.0: Normal(scale * size**-0.5)
        add = (2 * c.layers) ** -0.5
        self.attn_norm = param((d,), ("act_embed",), one)
        self.wq = param((d, n, h), ("embed", "heads", "head_dim"), fan(d))
        self.wk = param((d, k, h), ("embed", "kv_heads", "head_dim"), fan(d))
        self.wv = param((d, k, h), ("embed", "kv_heads", "head_dim"), fan(d))
        self.wo = param((n, h, d), ("heads", "head_dim", "embed"), fan(n * h, add))
        self.mlp_norm = param((d,), ("act_embed",), one)
        self.gate = param((d, f), ("embed", "mlp"), fan(d))
        self.up = param((d, f), ("embed", "mlp"), fan(d))
        self.down = param((f, d), ("mlp", "embed"), fan(f, add))
        if c.qkv_bias:
            self.bq = param((n, h), ("heads", "head_dim"), zero)
            self.bk = param((k, h), ("kv_heads", "head_dim"), zero)
            self.bv = param((k, h), ("kv_heads", "head_dim"), zero)
        if c.out_bias:
            self.bo = param((d,), ("act_embed",), zero)
        if c.mlp_bias:
            self.b_gate = param((f,), ("mlp",), zero)
            self.b_up = param((f,), ("mlp",), zero)
            self.b_down = param((d,), ("act_embed",), zero)
        if c.qk_norm:
            self.q_norm = param((h,), ("head_dim",), one)
            self.k_norm = param((h,), ("head_dim",), one)
        if c.post_norms:
            self.attn_post_norm = param((d,), ("act_embed",), one)
            self.mlp_post_norm = param((d,), ("act_embed",), one)
        adapt(self, c.lora)
        store(self, c.weights)

    def _norm(self, x: Array, name: str) -> Array:
        return rms_norm(x, getattr(self, name)[...], self.config.norm_eps, self.config.norm_offset)

    def _project(self, pattern: str, x: Array, weight: str, bias: str | None = None) -> Array:
        y = rescaled(self, weight, jnp.einsum(pattern, x, whole(getattr(self, weight), x.dtype)))
        y = adapted(self, pattern, x, weight, y)
        return y if bias is None else y + getattr(self, bias)[...].astype(x.dtype)

    def __call__(
        self, x: Float[Array, "b t d"], rotation: Float[Array, "2 b t f"], mix: Mix, dropout: Dropout | None = None
    ) -> tuple[Float[Array, "b t d"], Any]:
        c = self.config
        with jax.named_scope("attention"):
            y = gradients_apart(self._norm(x, "attn_norm"))
            q = self._project("btd,dnh->btnh", y, "wq", "bq" if c.qkv_bias else None)
            k = self._project("btd,dkh->btkh", y, "wk", "bk" if c.qkv_bias else None)
            v = self._project("btd,dkh->btkh", y, "wv", "bv" if c.qkv_bias else None)
            if c.qk_norm:
                q, k = self._norm(q, "q_norm"), self._norm(k, "k_norm")
            q, k, v = (checkpoint_name(x, "qkv") for x in (rotate(q, rotation), rotate(k, rotation), v))
            o, kept = mix(shard(q, "batch", "length", "heads", None), k, v)
            y = apart(
                checkpoint_name(self._project("btnh,nhd->btd", o, "wo", "bo" if c.out_bias else None), "attended")
            )
            y = self._norm(y, "attn_post_norm") if c.post_norms else y
            x = shard(x + drop(y, dropout, 0), "batch", "length", "act_embed")
        with jax.named_scope("mlp"):
            y = gradients_apart(self._norm(x, "mlp_norm"))
            gate = self._project("btd,df->btf", y, "gate", "b_gate" if c.mlp_bias else None)
            up = self._project("btd,df->btf", y, "up", "b_up" if c.mlp_bias else None)
            gate, up = gradients_apart((checkpoint_name(gate, "gate"), checkpoint_name(up, "up")))
            z = apart(shard(activate(gate, c.activation) * up, "batch", "length", "mlp"))
            y = self._project("btf,fd->btd", z, "down", "b_down" if c.mlp_bias else None)
            y = self._norm(y, "mlp_post_norm") if c.post_norms else y
            x = shard(x + drop(y, dropout, 1), "batch", "length", "act_embed")
        return x, kept


class Decoder(nnx.Module):
    """A decoder; `blocks` is one module whose parameters carry a leading layer axis."""

    def __init__(self, c: DecoderConfig) -> None:
        self.config = c
        self.table = param((c.vocab, c.embed), ("vocab", "embed"), Normal(0.02))
        if c.lm_head and not c.tied:
            self.unembed = param((c.vocab, c.embed), ("vocab", "embed"), Normal(0.02))
        self.norm = param((c.embed,), ("act_embed",), Constant(0.0 if c.norm_offset else 1.0))
        self.blocks = nnx.vmap(lambda _: Block(c))(jnp.arange(c.layers))
        store(self, c.weights)

    def hidden(
        self,
        tokens: Int[Array, "b t"],
        positions: Int[Array, "b t"],
        group: Int[Array, "b t"],
        branch: Int[Array, "b t"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "b t d"]:
        """Hidden states of packed rows (`data/rows.py`) after the final norm, in the activations' dtype.

        Dropout (training only) is before what attention and the MLP give is added to the residual stream.
        """
        return self._layers(tokens, positions, _packed(positions, group, branch, self.config), dropout)[0]

    @property
    def unembedding(self) -> Float[Array, "v d"]:
        """The output head's table. UserError where there is none."""
        if not self.config.lm_head:
            raise UserError(
                "this model was saved as a classifier without an output head; use its language model instead"
            )
        return (self.table if self.config.tied else self.unembed)[...]

    def target_logps(
        self, states: Float[Array, "b n d"], targets: Int[Array, "b n"], pieces: int = 0
    ) -> Float[Array, "b n"]:
        """log p(target | state), float32 (`vocabulary.target_logps`)."""
        return target_logps(states, targets, self.unembedding, self.config.logit_softcap, pieces)

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Next-token logits, float32, the soft cap included. UserError where there is no output head."""
        table = self.unembedding.astype(hidden.dtype)
        out = jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
        if out.ndim > 1:
            out = shard(out, "batch", *(None,) * (out.ndim - 2), "vocab")
        return softcap(out, self.config.logit_softcap)

    def prefill(self, tokens: Int[Array, "p s"], lengths: Int[Array, " p"]) -> tuple[Float[Array, "p d"], PromptCache]:
        """Reads right-padded prompts: the hidden state of each one's last token, and their keys and values."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        group = jnp.where(positions < lengths[:, None], 0, -1)
        mix = _packed(positions, group, jnp.zeros_like(group), self.config, keep=True)
        hidden, (k, v) = self._layers(tokens, positions, mix)
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        return jnp.take_along_axis(hidden, last, axis=1)[:, 0], PromptCache(tuple(k), tuple(v), lengths)

    def unstack(self) -> tuple[Block, ...]:
        """The layers one by one, for `step`. Do it once, before a loop: it copies the weights."""
        layer = lambda i: jax.tree.map(lambda x: x[i], self.blocks)
        return tuple(layer(i) for i in range(self.config.layers))

    def step(
        self,
        tokens: Int[Array, "p g"],
        prompt: PromptCache,
        suffix: SuffixCache,
        blocks: Sequence[Block] = (),
    ) -> tuple[Float[Array, "p g d"], SuffixCache]:
        """Appends one token to each sample: its hidden state, and the suffix cache one token longer.

        A token's position is prompt.lengths + suffix.lengths. The g samples of prompt p read its one prompt cache.
        `blocks` is what `unstack` returns; where a loop gives none, it copies the weights at every step.
        """
        c = self.config
        positions = prompt.lengths[:, None] + suffix.lengths
        at, age = jnp.arange(prompt.v[0].shape[2]), suffix.age()
        see_prompt = (at < prompt.lengths[:, None])[:, None]
        see_own = age <= suffix.lengths[..., None]
        near = see_prompt & (positions[..., None] - at < c.window), see_own & (age < c.window)
        turns = rotations(_ropes(c), c.head_dim, positions)
        x, keys, values = self._embed(tokens), [], []
        for i, block in enumerate(blocks or self.unstack()):
            slides = bool(c.sliding) and c.sliding[i]
            seen = near if slides else (see_prompt, see_own)

            def mix(q: Array, k: Array, v: Array, i: int = i, seen: tuple[Array, Array] = seen) -> tuple[Array, Any]:
                own = suffix.write(i, k, v)
                pair = prompt.k[i], prompt.v[i]
                return attend_cached(q, pair, own, *seen, softcap=c.attn_softcap, scale=c.attn_scale), own

            x, (k, v) = block(x, turns[-1 if slides else 0], mix)
            keys.append(k)
            values.append(v)
        suffix = SuffixCache(tuple(keys), tuple(values), suffix.lengths + 1, suffix.clock + 1)
        return rms_norm(x, self.norm[...], c.norm_eps, c.norm_offset), suffix

    def _embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        c = self.config
        x = lookup(self.table[...], tokens, c.dtype) * jnp.asarray(c.embed_scale, c.dtype)
        return shard(x, "batch", "length", "act_embed")

    def _layers(
        self, tokens: Array, positions: Array, mix: Callable, dropout: Dropout | None = None
    ) -> tuple[Array, Any]:
        """Embeds, walks the layers with `mix(q, k, v, layer) -> (o, kept)`, and norms.

        What differs between layers (window, rope, dropout's streams) is scanned beside their parameters.
        """
        c = self.config
        turns = rotations(_ropes(c), c.head_dim, positions)
        windows = c.windows
        layers = _Layer(
            window=jnp.asarray(windows, jnp.int32) if isinstance(windows, tuple) else None,
            rope=jnp.asarray(c.sliding, jnp.int32) if c.local_rope is not None else None,
            dropout=None if dropout is None else dropout.at(jnp.arange(c.layers)),
        )

        def body(x: Array, xs: tuple[Block, _Layer]) -> tuple[Array, Any]:
            block, layer = xs
            turn = turns[0] if layer.rope is None else turns[layer.rope]
            if layer.window is None:
                layer = dataclasses.replace(layer, window=windows)
            return block(x, turn, functools.partial(mix, layer=layer), layer.dropout)

        x, kept = walk(rematerialised(body, c.remat), self._embed(tokens), (self.blocks, layers), c)
        return rms_norm(x, self.norm[...], c.norm_eps, c.norm_offset), kept


def _ropes(c: DecoderConfig) -> tuple[Rope, ...]:
    return (c.rope,) if c.local_rope is None else (c.rope, c.local_rope)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Layer:
    """What one layer of the scan is told beside its parameters."""

    window: Any  # [] int32, or None
    rope: Any  # [] int32: which of the ropes, or None where there is one
    dropout: Any  # `Dropout` with keys [b], or None


def _packed(positions: Array, group: Array, branch: Array, c: DecoderConfig, keep: bool = False) -> Callable:
    """Attention within the rows themselves; `keep` hands out keys and values as a prompt cache lays them out."""

    def mix(q: Array, k: Array, v: Array, layer: _Layer) -> tuple[Array, Any]:
        o = attend(q, k, v, positions, group, branch, window=layer.window, softcap=c.attn_softcap, scale=c.attn_scale)
        return o, (k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)) if keep else None

    return mix
