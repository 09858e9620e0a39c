"""A decoder with an optional reward head, split into what is static and plain nested dicts of parameters."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rmjax.models.cache import PromptCache, SuffixCache
from rmjax.models.config import DecoderConfig
from rmjax.models.decoder import Decoder
from rmjax.models.heads import HeadConfig
from rmjax.sharding import tree_shardings

Params = Any  # nested dicts of arrays: {"decoder": {...}, "head": {...}}


class Network(nnx.Module):
    """What `Model.bind` returns: the decoder's methods, and `reward` where there is a head."""

    def __init__(self, config: DecoderConfig, head: HeadConfig | None, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.decoder = Decoder(config, rngs=rngs)
        if head is not None:
            self.head = head.build(config.embed, rngs=rngs)

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

    @classmethod
    def of(cls, config: DecoderConfig, head: HeadConfig | None = None) -> Model:
        """The model of these configs; nothing is allocated."""
        return _model(config, head)

    def init(self, key: Array, *, mesh: Mesh | None = None) -> Params:
        """New parameters, float32; with a mesh, laid out over it by `sharding.RULES`."""
        shardings = None if mesh is None else tree_shardings(self.axes, mesh)
        build = lambda key: nnx.to_pure_dict(nnx.state(Network(self.config, self.head, rngs=nnx.Rngs(key))))
        return jax.jit(build, out_shardings=shardings)(key)

    def bind(self, params: Params) -> Network:
        """The network with these parameters; call it inside jit."""
        return nnx.merge(self.graphdef, params)

    def with_config(self, **changes: Any) -> Model:
        """The same model with fields of its config changed, e.g. dtype or remat: parameters stay valid."""
        return Model.of(dataclasses.replace(self.config, **changes), self.head)

    def with_head(self, head: HeadConfig | None) -> Model:
        return Model.of(self.config, head)

    def add_head(self, params: Params, key: Array) -> Params:
        """The decoder's parameters with a new head of this model beside them."""
        build = lambda key: nnx.to_pure_dict(nnx.state(self.head.build(self.config.embed, rngs=nnx.Rngs(key))))
        return {"decoder": params["decoder"], "head": jax.jit(build)(key)}

    @property
    def matrices(self) -> Any:
        """The parameter tree, as booleans: weight matrices and tables (which decay), not norms and biases."""
        return jax.tree.map(lambda axes: "embed" in axes, self.axes, is_leaf=lambda a: isinstance(a, tuple))


@functools.lru_cache
def _model(config: DecoderConfig, head: HeadConfig | None) -> Model:
    network = nnx.eval_shape(lambda: Network(config, head, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(network)

    def names(v: nnx.Variable) -> nnx.Variable:
        axes = v.get_metadata("axes")
        return v.replace(("layers",) * (v.get_value().ndim - len(axes)) + axes)

    axes = nnx.to_pure_dict(jax.tree.map(names, state, is_leaf=lambda v: isinstance(v, nnx.Variable)))
    return Model(config, head, graphdef, axes, nnx.to_pure_dict(state))
