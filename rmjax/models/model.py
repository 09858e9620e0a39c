"""A decoder with an optional reward head, split into what is static and plain nested dicts of parameters."""

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

from rmjax.models.cache import PromptCache, SuffixCache
from rmjax.models.config import DecoderConfig
from rmjax.models.decoder import Decoder
from rmjax.models.heads import HeadConfig
from rmjax.models.layers import Init
from rmjax.sharding import tree_shardings

Params = Any  # nested dicts of arrays: {"decoder": {...}, "head": {...}}


class Network(nnx.Module):
    """What `Model.bind` returns: the decoder's methods, and `reward` where there is a head."""

    def __init__(self, config: DecoderConfig, head: HeadConfig | None) -> None:
        self.config = config
        self.decoder = Decoder(config)
        if head is not None:
            self.head = head.build(config.embed)

    def hidden(
        self,
        tokens: Int[Array, "b t"],
        positions: Int[Array, "b t"],
        group: Int[Array, "b t"],
        branch: Int[Array, "b t"],
    ) -> Float[Array, "b t d"]:
        return self.decoder.hidden(tokens, positions, group, branch)

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        return self.decoder.logits(hidden)

    def prefill(self, tokens: Int[Array, "p s"], lengths: Int[Array, " p"]) -> tuple[Array, PromptCache]:
        return self.decoder.prefill(tokens, lengths)

    def step(self, tokens: Int[Array, "p g"], prompt: PromptCache, suffix: SuffixCache) -> tuple[Array, SuffixCache]:
        return self.decoder.step(tokens, prompt, suffix)

    def reward(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b"]:
        """The head's score of each token, float32. AttributeError where the model has no head."""
        return self.head(hidden)


@dataclasses.dataclass(frozen=True)
class Model:
    """A network's static part. Hash and equality are its configs', so jitted functions can be memoised on it."""

    config: DecoderConfig
    head: HeadConfig | None
    graphdef: Any = dataclasses.field(compare=False, repr=False)
    axes: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as tuples of logical axis names
    shapes: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as ShapeDtypeStructs
    inits: Any = dataclasses.field(compare=False, repr=False)  # the parameter tree, as what draws new values

    @classmethod
    def of(cls, config: DecoderConfig, head: HeadConfig | None = None) -> Model:
        """The model of these configs; nothing is allocated."""
        return _model(config, head)

    def init(self, key: Array, *, mesh: Mesh | None = None) -> Params:
        """New parameters, float32; with a mesh, laid out over it by `sharding.RULES`.

        Each is drawn from a stream of its own (key, path), on the host: the same on every platform and mesh, untouched
        by what else the model has, and without the compilation that a jitted draw per shape costs.
        """
        return self._draw(key, self.inits, self.shapes, mesh)

    def bind(self, params: Params) -> Network:
        """The network with these parameters; call it inside jit."""
        return nnx.merge(self.graphdef, params)

    def with_config(self, **changes: Any) -> Model:
        """The same model with fields of its config changed, e.g. dtype or remat: parameters stay valid."""
        return Model.of(dataclasses.replace(self.config, **changes), self.head)

    def with_head(self, head: HeadConfig | None) -> Model:
        return Model.of(self.config, head)

    def add_head(self, params: Params, key: Array, *, mesh: Mesh | None = None) -> Params:
        """The decoder's parameters with a new head of this model beside them."""
        new = self._draw(key, {"head": self.inits["head"]}, {"head": self.shapes["head"]}, mesh)
        return {"decoder": params["decoder"], **new}

    def _draw(self, key: Array, inits: Any, shapes: Any, mesh: Mesh | None) -> Params:
        seed = [int(word) for word in jax.random.key_data(key).ravel()]
        shardings = None if mesh is None else tree_shardings(self.axes, self.shapes, mesh)

        def draw(path: Any, init: Init, shape: jax.ShapeDtypeStruct) -> Array:
            names = [k.key for k in path]
            rng = np.random.default_rng([*seed, zlib.crc32(".".join(names).encode())])
            return place(init(rng, shape.shape), None if shardings is None else lookup(shardings, names))

        return jax.tree_util.tree_map_with_path(draw, inits, shapes)

    @property
    def matrices(self) -> Any:
        """The parameter tree, as booleans: weight matrices and tables (which decay), not norms and biases."""
        return jax.tree.map(lambda axes: "embed" in axes, self.axes, is_leaf=lambda a: isinstance(a, tuple))


def lookup(tree: Any, keys: Sequence[str]) -> Any:
    """The leaf or branch of nested dicts at a path."""
    return functools.reduce(lambda branch, key: branch[key], keys, tree)


def place(value: np.ndarray, sharding: NamedSharding | None) -> Array:
    """A host array on the devices; with a sharding, each process hands over its own pieces."""
    if sharding is None:
        return jnp.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


@functools.lru_cache
def _model(config: DecoderConfig, head: HeadConfig | None) -> Model:
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Network(config, head)))
    is_variable = lambda v: isinstance(v, nnx.Variable)

    def names(v: nnx.Variable) -> tuple[str, ...]:
        axes = v.get_metadata("axes")
        return ("layers",) * (v.get_value().ndim - len(axes)) + axes

    def tree(what: Callable[[nnx.Variable], Any]) -> Any:
        return nnx.to_pure_dict(jax.tree.map(lambda v: v.replace(what(v)), state, is_leaf=is_variable))

    inits = tree(lambda v: v.get_metadata("init"))
    return Model(config, head, graphdef, tree(names), nnx.to_pure_dict(state), inits)
