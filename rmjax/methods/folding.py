"""A head fitted in training coordinates, as a head on what the model pools: the same scores, up to a constant.

Training coordinates are z = M' (u(x) - shift) (`training.frozen.basis`). u, each pooled part divided by its norm, is a
pooling of the model (`unit_cls`, ...), and M goes into the head's first product exactly:

    linear       w . z   =  (M w) . u  -  constant
    prototypes   A' z  =  (M A)' (u - shift): the head subtracts the shift first, for features whose differences are
                 far smaller than they are, as those of large models, have no digits to lose in a distance

A constant changes no difference between two answers, which is all that pairs teach. Bradley-Terry, its treatments and
MetaRM end as linear heads; so do SimCSE, SwAV and their control, whose prototypical heads have no valid prototype.

Dimensions: f features, d coordinates, e width of a projection.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rmjax.models.heads import HeadConfig, Linear, Prototypes, as_linear
from rmjax.models.pooling import UNIT, Pool
from rmjax.training.frozen.basis import Basis


def folded(head: HeadConfig, params: Any, basis: Basis, pool: Pool) -> tuple[HeadConfig, Any, Pool]:
    """The head on raw pooled features, its parameters (float32), and the pooling that it reads.

    Args:
        head: linear or prototypical; `params` are its own, in training coordinates.
        pool: of the features that the basis was fitted to.
    """
    pool = tuple(UNIT + kind for kind in pool) if basis.parts else pool
    matrix = basis.matrix.astype(np.float64)
    linear = as_linear(head, params)
    if linear is not None:
        return Linear(), {"weight": (matrix @ linear[0]).astype(np.float32)}, pool
    if not isinstance(head, Prototypes):
        raise ValueError(f"a {type(head).__name__} head has no exact form on raw features")
    projection = matrix @ np.asarray(params["projection"], np.float64)
    new = {"projection": projection.astype(np.float32), "centre": basis.shift.astype(np.float32)}
    return dataclasses.replace(head, centred=True), {**params, **new}, pool
