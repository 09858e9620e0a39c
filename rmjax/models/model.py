"""A decoder or encoder with an optional reward head, split into what is static and plain nested dicts of parameters."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from rmjax.data.rows import Rows
from rmjax.errors import UserError
from rmjax.models import lora, pooling, quantised
from rmjax.models.cache import PromptCache, SuffixCache
from rmjax.models.config import DecoderConfig, EncoderConfig, Lora
from rmjax.models.decoder import Decoder
from rmjax.models.encoder import Encoder
from rmjax.models.heads import HeadConfig
from rmjax.models.layers import Dropout, Init, parts
from rmjax.models.pooling import Pool
from rmjax.sharding import tree_shardings

Params = Any  # nested dicts of arrays: {"decoder" or "encoder": {...}, "head": {...}}
Config = DecoderConfig | EncoderConfig


class Network(nnx.Module):
    """What `Model.bind` returns: the backbone's methods, `pooled`, and `reward` where there is a head."""

    def __init__(self, config: Config, head: HeadConfig | None, pool: Pool) -> None:
        self.config = config
        self.pool = pool
        if isinstance(config, EncoderConfig):
            self.encoder = Encoder(config)
        else:
            self.decoder = Decoder(config)
        if head is not None:
            self.head = head.build(config.embed * len(pool))

    def hidden(
        self,
        tokens: Int[Array, "b t"],
        positions: Int[Array, "b t"],
        group: Int[Array, "b t"],
        branch: Int[Array, "b t"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "b t d"]:
        """Final hidden states of packed rows (`data/rows.py`), in the activations' dtype."""
        backbone = self.encoder if isinstance(self.config, EncoderConfig) else self.decoder
        return backbone.hidden(tokens, positions, group, branch, dropout)

    def pooled(self, hidden: Float[Array, "b t d"], rows: Rows) -> Float[Array, "b c f"]:
        """Each candidate's features, as the model's `pool` says."""
        pooler = self.encoder if isinstance(self.config, EncoderConfig) else None
        return pooling.pool(pooler, hidden, rows, self.pool)

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Next-token logits, float32. UserError where there is no output head."""
        if isinstance(self.config, EncoderConfig):
            raise UserError("an encoder gives no log-probabilities; use a scalar score, or a decoder")
        return self.decoder.logits(hidden)

    def target_logps(
        self, states: Float[Array, "b n d"], targets: Int[Array, "b n"], pieces: int = 0
    ) -> Float[Array, "b n"]:
        """log p(target | state), float32. UserError where there is no output head."""
        if isinstance(self.config, EncoderConfig):
            raise UserError("an encoder gives no log-probabilities; use a scalar score, or a decoder")
        return self.decoder.target_logps(states, targets, pieces)

    def prefill(self, tokens: Int[Array, "p s"], lengths: Int[Array, " p"]) -> tuple[Array, PromptCache]:
        return self.decoder.prefill(tokens, lengths)

    def step(self, tokens: Int[Array, "p g"], prompt: PromptCache, suffix: SuffixCache) -> tuple[Array, SuffixCache]:
        return self.decoder.step(tokens, prompt, suffix)

    def reward(self, pooled: Float[Array, "*b f"]) -> Float[Array, "*b"]:
        """The head's score of pooled features, float32. AttributeError where the model has no head."""
        return self.head(pooled)


@dataclasses.dataclass(frozen=True)
class Model:
    """A network's static part. Hash and equality are its configs', so jitted functions can be memoised on it."""

    config: Config
    head: HeadConfig | None
    pool: Pool  # how a candidate's hidden states become the features that the head reads
    graphdef: Any = dataclasses.field(compare=False, repr=False)
    axes: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as tuples of logical axis names
    shapes: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as ShapeDtypeStructs
    inits: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as what draws new values

    @classmethod
    def of(cls, config: Config, head: HeadConfig | None = None, pool: Pool | None = None) -> Model:
        """The model of these configs; nothing is allocated. None: the backbone's usual pooling (`pooling.default`).

        Raises:
          UserError: a pooling that this backbone cannot give.
        """
        pool = pooling.default(config) if pool is None else tuple(pool)
        pooling.check(pool, config)
        return _model(config, head, pool)

    @property
    def share(self) -> bool:
        """Whether candidates share their prompt's tokens in a packed row: only where no token sees ahead."""
        return isinstance(self.config, DecoderConfig)

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt with a completion that can be read; None: no limit of the architecture's."""
        return self.config.max_positions if isinstance(self.config, EncoderConfig) else None

    @property
    def features(self) -> int:
        """f: the width of what the head reads."""
        return self.config.embed * len(self.pool)

    def init(self, key: Array, *, mesh: Mesh | None = None) -> Params:
        """New parameters; with a mesh, laid out over it by `sharding.RULES`.

        Each is drawn from a stream of its own (key, path), on the host: the same on every platform and mesh, untouched
        by what else the model has, and without the compilation that a jitted draw per shape costs.
        """
        plain = self.with_config(weights="float32")
        return self.stored(plain._draw(key, plain.inits, plain.shapes, mesh), mesh=mesh)

    def stored(self, params: Params, *, mesh: Mesh | None = None) -> Params:
        """float32 parameters of this model, adapters aside, as it keeps them (`config.weights`)."""
        if self.config.weights == "float32":
            return params
        shardings = None if mesh is None else tree_shardings(self.axes, self.shapes, mesh)
        return jax.jit(lambda tree: quantised.stored_tree(tree, self.shapes), out_shardings=shardings)(params)

    def with_adapters(self, params: Params, how: Lora, key: Array, *, mesh: Mesh | None = None) -> tuple[Model, Params]:
        """The model with new adapters beside its matrices, and its parameters with them; nothing is copied."""
        model = self.with_config(lora=how)
        pick = lambda tree: partition(tree, lambda keys: "lora" in keys)[0]
        return model, join(params, model._draw(key, pick(model.inits), pick(model.shapes), mesh))

    def without_adapters(self, params: Params) -> tuple[Model, Params]:
        """The model with its adapters off, and its parameters without them: the reference of one that was adapted."""
        return self.with_config(lora=None), partition(params, lambda keys: "lora" not in keys)[0]

    def merged(self, params: Params, *, mesh: Mesh | None = None) -> tuple[Model, Params]:
        """The plain model that computes the same: adapters added to their matrices, all parameters float32."""
        if self.plain:
            return self, params
        plain = self.with_config(lora=None, weights="float32")
        one = lambda params, path: lora.plain(params, [key.key for key in path], self.config.lora)
        whole = lambda params: jax.tree_util.tree_map_with_path(lambda path, _: one(params, path), plain.shapes)
        shardings = None if mesh is None else tree_shardings(plain.axes, plain.shapes, mesh)
        return plain, jax.jit(whole, out_shardings=shardings)(params)

    @property
    def plain(self) -> bool:
        """Whether all parameters are float32 and none are adapters: what can be trained whole, and saved."""
        return self.config.lora is None and self.config.weights == "float32"

    def split(self, params: Params) -> tuple[Params, Params | None]:
        """(what is trained, what is left alone or None); `join` puts them together again.

        With adapters, they and the reward head, with an encoder's pooler, are trained; else all parameters.
        """
        if self.config.lora is None:
            return params, None
        head = lambda keys: keys[0] == "head" or (self.head is not None and keys[1].startswith("pool_"))
        return partition(params, lambda keys: "lora" in keys or head(keys))

    def bind(self, params: Params) -> Network:
        """The network with these parameters; call it inside jit."""
        if self.config.frozen:
            still = lambda depth, leaf: jax.lax.stop_gradient(leaf) if np.all(depth <= self.config.frozen) else leaf
            params = jax.tree.map(still, self.depths, params)
        return nnx.merge(self.graphdef, params)

    def with_config(self, **changes: Any) -> Model:
        """The same model with fields of its config changed.

        Parameters stay valid, but for `lora` and `weights` (`with_adapters`, `stored`, `merged`).
        """
        return Model.of(dataclasses.replace(self.config, **changes), self.head, self.pool)

    def with_head(self, head: HeadConfig | None, pool: Pool | None = None) -> Model:
        """The same backbone with another head; None: the pooling stays."""
        return Model.of(self.config, head, self.pool if pool is None else pool)

    def add_head(self, params: Params, key: Array, *, mesh: Mesh | None = None) -> Params:
        """The backbone's parameters with a new head of this model beside them."""
        new = self._draw(key, {"head": self.inits["head"]}, {"head": self.shapes["head"]}, mesh)
        return {**params, **new}

    def _draw(self, key: Array, inits: Any, shapes: Any, mesh: Mesh | None) -> Params:
        seed = [int(word) for word in jax.random.key_data(key).ravel()]
        shardings = None if mesh is None else tree_shardings(self.axes, self.shapes, mesh)

        def draw(path: Any, init: Init, shape: jax.ShapeDtypeStruct) -> Array:
            names = [k.key for k in path]
            rng = np.random.default_rng([*seed, zlib.crc32(".".join(names).encode())])
            return place(init(rng, shape.shape), None if shardings is None else lookup(shardings, names))

        return jax.tree_util.tree_map_with_path(draw, inits, shapes)

    @property
    def depths(self) -> Any:
        """How deep each parameter lies: a tree of int arrays that broadcast over the parameters.

        Embeddings (an encoder's norm of them as well): 0. Layers, lowest first: 1 to L. A decoder's final norm and
        untied output head: L + 1. The reward head and an encoder's pooler: L + 2.
        """
        layers = self.config.layers
        backbone = "encoder" if isinstance(self.config, EncoderConfig) else "decoder"
        above = {"decoder": ("norm", "unembed"), "encoder": ()}[backbone]

        def depth(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
            branch, name, *_ = (key.key for key in path)
            if branch != backbone or name.startswith("pool_"):
                return np.array(layers + 2)
            if name == "blocks":
                return np.arange(1, layers + 1).reshape(-1, *(1,) * (len(shape.shape) - 1))
            return np.array(layers + 1 if name in above else 0)

        return jax.tree_util.tree_map_with_path(depth, self.shapes)

    @property
    def matrices(self) -> Any:
        """The parameter tree, as booleans: weight matrices, tables and adapters (which decay), not norms and biases."""
        decays = lambda path, axes: "embed" in axes or any(k.key == "lora" for k in path)
        return jax.tree_util.tree_map_with_path(decays, self.axes, is_leaf=lambda a: isinstance(a, tuple))


def partition(tree: Any, wanted: Callable[[tuple[str, ...]], bool]) -> tuple[Any, Any]:
    """Nested dicts -> (those leaves whose path is wanted, the others), without empty branches."""

    def walk(branch: Any, keys: tuple[str, ...]) -> tuple[Any, Any]:
        if not isinstance(branch, dict):
            return (branch, {}) if wanted(keys) else ({}, branch)
        both = {name: walk(leaf, (*keys, name)) for name, leaf in branch.items()}
        empty = lambda x: isinstance(x, dict) and not x
        return tuple({name: two[i] for name, two in both.items() if not empty(two[i])} for i in (0, 1))

    return walk(tree, ())


def join(one: Any, other: Any | None) -> Any:
    """The nested dicts with the leaves of both, sorted by name as a model's own; `one` where there is no other."""
    if other is None:
        return one
    both = lambda name: join(one[name], other[name]) if name in one and name in other else {**one, **other}[name]
    return {name: both(name) for name in sorted(one.keys() | other.keys())}


def lookup(tree: Any, keys: Sequence[str]) -> Any:
    """The leaf or branch of nested dicts at a path."""
    return functools.reduce(lambda branch, key: branch[key], keys, tree)


def place(value: np.ndarray, sharding: NamedSharding | None) -> Array:
    """A host array on the devices; with a sharding, each process hands over its own pieces."""
    if sharding is None:
        return jnp.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


@functools.lru_cache
def _model(config: Config, head: HeadConfig | None, pool: Pool) -> Model:
    p = parts(lambda: Network(config, head, pool))
    return Model(config, head, pool, p.graphdef, p.axes, p.shapes, p.inits)
