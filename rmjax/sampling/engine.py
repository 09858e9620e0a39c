"""What runs on the device: prompts read into rows, and rounds of one-token steps over all slots.

A slot (p, g) holds one sample of the prompt in row p. Every step draws a token in each slot from its pending hidden
state and feeds it to the decoder; what the host changes between rounds (which sample a slot holds) are small arrays.

Dimensions: p rows (prompts), g slots of a row, b prompts read at once, s prompt tokens, r steps of a round, d width,
w watched ids.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rmjax import compiler
from rmjax.models.cache import PromptCache, SuffixCache
from rmjax.models.model import Model
from rmjax.sampling.draws import draw, uniforms, whole
from rmjax.sampling.policy import Sampling
from rmjax.sharding import RULES, shard

Leaf = Any  # an array, or what tree.map put in its place; the shape is in the comment
ROUND = 64  # the most steps of a round


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What stays on the device between rounds; each call takes it and hands it back."""

    prompt: PromptCache
    suffix: SuffixCache
    last: Leaf  # [p, d]: hidden state of each prompt's last token
    hidden: Leaf  # [p, g, d]: hidden state from which a slot's next token is drawn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """What the host says of the slots before a round."""

    ids: Leaf  # [p, 2] uint32: hash of each row's request
    index: Leaf  # [p, g] int32: which sample of the request
    fresh: Leaf  # [p, g] bool: begins now
    idle: Leaf  # [p, g] bool: holds no sample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Limits:
    """When a round and a completion end; numbers, so that changing them compiles nothing."""

    steps: Leaf  # [] int32: of this round, at most ROUND
    keep: Leaf  # [] int32: the round also ends when no more than this many slots are busy
    length: Leaf  # [] int32: tokens of a completion


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
    """A round's tokens. Slot (p, g) has drawn those of the steps before `counts[p, g]`."""

    tokens: Leaf  # [r, p, g] int32
    logps: Leaf  # [r, p, g] float32
    watched: Leaf  # [r, p, g, w] float32
    counts: Leaf  # [p, g] int32
    done: Leaf  # [p, g] bool: idle, or its completion has ended
    stopped: Leaf  # [p, g] bool: by a stop id in this round


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters as decoding reads them: matrices in the activations' dtype, layers apart, output head `_filled`."""

    params: Any
    blocks: Any


class Engine:
    """The compiled programs of one (model, sampling, stop ids). Get it from `engine`, which keeps it."""

    def __init__(self, model: Model, sampling: Sampling, eos: tuple[int, ...]) -> None:
        self._model = model
        self._sampling = sampling
        self._eos = eos
        self.weights = jax.jit(self._weights)
        self.start = jax.jit(self._start, static_argnums=(0, 1, 2, 3))
        self.fill = jax.jit(self._fill, donate_argnums=1)
        self.grow = jax.jit(self._grow, static_argnums=1)
        self.round = jax.jit(self._round, donate_argnums=1, compiler_options=compiler.here(compiler.DECODE))

    def _weights(self, params: Any) -> Weights:
        dtype = self._model.config.dtype
        params = jax.tree.map(lambda x, m: x.astype(dtype) if m else x, params, self._model.matrices)
        decoder = params["decoder"]
        head = "table" if self._model.config.tied else "unembed"
        if head in decoder:
            params = {**params, "decoder": {**decoder, head: _filled(decoder[head])}}
        return Weights(params, self._model.bind(params).decoder.unstack())

    def _start(self, rows: int, slots: int, length: int, size: int) -> State:
        c = self._model.config
        return State(
            prompt=PromptCache.empty(c, rows, length),
            suffix=SuffixCache.empty(c, rows, slots, size),
            last=jnp.zeros((rows, c.embed), c.dtype),
            hidden=jnp.zeros((rows, slots, c.embed), c.dtype),
        )

    def _fill(
        self,
        weights: Weights,
        state: State,
        tokens: Int[Array, "b s"],
        lengths: Int[Array, " b"],
        rows: Int[Array, " b"],
    ) -> State:
        """Reads prompts into rows; a row beyond the last is dropped."""
        last, prompt = self._model.bind(weights.params).prefill(tokens, lengths)
        return dataclasses.replace(
            state, prompt=state.prompt.put(rows, prompt), last=state.last.at[rows].set(last, mode="drop")
        )

    def _grow(self, state: State, size: int) -> State:
        return dataclasses.replace(state, suffix=state.suffix.grow(size))

    def _round(self, weights: Weights, state: State, slots: Slots, limits: Limits, seed: Array) -> tuple[State, Drawn]:
        """Steps until `limits` say so, or all slots are done."""
        sampling, p_g = self._sampling, slots.index.shape
        network = self._model.bind(weights.params)
        lengths = jnp.where(slots.fresh, 0, state.suffix.lengths)
        state = dataclasses.replace(
            state,
            suffix=dataclasses.replace(state.suffix, lengths=lengths),
            hidden=jnp.where(slots.fresh[..., None], state.last[:, None], state.hidden),
        )
        numbers = None if sampling.greedy else uniforms(seed, slots.ids, slots.index, lengths, ROUND)
        stop, vocab = jnp.asarray(self._eos, jnp.int32), self._model.config.vocab
        empty = Drawn(
            tokens=jnp.zeros((ROUND, *p_g), jnp.int32),
            logps=jnp.zeros((ROUND, *p_g), jnp.float32),
            watched=jnp.zeros((ROUND, *p_g, len(sampling.watch)), jnp.float32),
            counts=jnp.zeros(p_g, jnp.int32),
            done=slots.idle,
            stopped=jnp.zeros(p_g, bool),
        )

        def going(carry: tuple[Array, State, Drawn]) -> Array:
            step, _, drawn = carry
            return (step < limits.steps) & (jnp.sum(~drawn.done) > limits.keep)

        def body(carry: tuple[Array, State, Drawn]) -> tuple[Array, State, Drawn]:
            step, state, drawn = carry
            logits = network.logits(state.hidden)
            token, normaliser = draw(logits, None if numbers is None else numbers[step], sampling, vocab=vocab)
            logp = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0] - normaliser
            busy = ~drawn.done
            stopped = busy & jnp.isin(token, stop)
            full = state.suffix.lengths + 1 >= limits.length
            watched = drawn.watched
            if sampling.watch:
                seen = logits[..., jnp.asarray(sampling.watch)] - normaliser[..., None]
                watched = watched.at[step].set(seen)
            drawn = Drawn(
                tokens=drawn.tokens.at[step].set(token),
                logps=drawn.logps.at[step].set(logp),
                watched=watched,
                counts=drawn.counts + busy,
                done=drawn.done | stopped | full,
                stopped=drawn.stopped | stopped,
            )
            hidden, suffix = network.decoder.step(token, state.prompt, state.suffix, weights.blocks)
            return step + 1, dataclasses.replace(state, suffix=suffix, hidden=hidden), drawn

        _, state, drawn = jax.lax.while_loop(going, body, (jnp.int32(0), state, empty))
        return state, drawn


def _filled(table: Float[Array, "v d"]) -> Float[Array, "w d"]:
    """An output head with rows up to `whole`: cut between blocks, logits are summed by blocks where they lie."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.shape[RULES["vocab"]]
    return shard(jnp.pad(table, ((0, whole(table.shape[0], devices) - table.shape[0]), (0, 0))), "vocab", "embed")


@functools.lru_cache(maxsize=32)
def engine(model: Model, sampling: Sampling, eos: tuple[int, ...]) -> Engine:
    """The engine of what programs depend on: `max_new_tokens` and `stop` are the host's, and do not compile anew."""
    return Engine(model, sampling, eos)


def engine_of(model: Model, sampling: Sampling, eos: tuple[int, ...]) -> Engine:
    return engine(model, dataclasses.replace(sampling, max_new_tokens=1, stop=()), eos)
