"""A head with prototypes beside it, which are trained with it and never scored: SwAV's (arXiv:2401.06080, section 3.1).

Dimensions: f features, k prototypes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from rmjax.bounds import require
from rmjax.models.heads import HeadConfig
from rmjax.models.layers import Normal, param


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithPrototypes:
    """The head `of`, and `count` prototypes in the space of the features that it reads."""

    of: HeadConfig
    count: int

    def __post_init__(self) -> None:
        require("head.", self, "count", least=2)

    def build(self, width: int) -> nnx.Module:
        return WithPrototypesHead(self, width)


class WithPrototypesHead(nnx.Module):
    def __init__(self, config: WithPrototypes, width: int) -> None:
        self.of = config.of.build(width)
        self.centres = param((config.count, width), (None, None), Normal(width**-0.5))

    def __call__(self, features: Float[Array, "*b f"]) -> Float[Array, "*b"]:
        return self.of(features)


def around(params: Any, drawn: Any) -> Any:
    """Parameters of `WithPrototypes`: the inner head's as they are, the prototypes as `drawn` has them."""
    return {"of": params, "centres": drawn["centres"]}
