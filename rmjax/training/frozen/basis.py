"""The coordinates in which heads on frozen features are trained: a fixed linear map.

    z = M' (u(x) - shift)        u: nothing, or each pooled part divided by its norm ("unit")

M standardises by the root mean square of chosen - rejected, turns to the principal axes of that difference and keeps
the first d of them, unwhitened; the mean squared length of a difference is 1. All of this is of the training features
*without their labels*: the second moment of a difference does not change when the two answers change places. So pairs
whose labels a run does not see help to choose its coordinates, and nothing of the labels leaks.

Why principal axes and no whitening: they make the loss's curvature nearly diagonal, which the solver uses, and an L2
penalty in them shrinks directions that hardly vary, which are noise. Whitened axes lose several points of accuracy.

Dimensions: n pairs, f features, d axes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from rmjax.data.features import Features
from rmjax.errors import UserError

TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Basis:
    """A map from pooled features to training coordinates."""

    parts: int  # pooled parts that are divided by their norms one by one; 0: none
    shift: Float[np.ndarray, " f"]
    matrix: Float[np.ndarray, "f d"]

    @classmethod
    def fit(cls, features: Features, *, axes: int, parts: int = 0) -> Basis:
        """The basis of unlabelled training features.

        Args:
            axes: at most so many; as many as the features have where that is less.
            parts: see the class; must divide the width.

        Raises:
            UserError: no chosen answer differs from its rejected one in any feature.
        """
        chosen, rejected = (normalised(x, parts) for x in (features.chosen, features.rejected))
        difference = (chosen - rejected).astype(np.float64)
        scale = np.sqrt(np.mean(difference**2, axis=0))
        if not scale.max(initial=0.0) > 0:
            raise UserError(
                f"features: in all {len(features)} pairs the chosen answer's are equal to the rejected one's; "
                "check that the model reads the answers and that they differ"
            )
        inverse = 1.0 / np.maximum(scale, 1e-6 * scale.max())
        standard = difference * inverse
        power, vectors = np.linalg.eigh(standard.T @ standard / len(features))
        kept = np.argsort(power)[::-1][: min(axes, len(power))]
        matrix = inverse[:, None] * vectors[:, kept] / np.sqrt(max(power[kept].sum(), TINY))
        shift = (chosen.mean(0, dtype=np.float64) + rejected.mean(0, dtype=np.float64)) / 2
        return cls(parts, shift.astype(np.float32), matrix.astype(np.float32))

    def __call__(self, x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n d"]:
        """Training coordinates, float32."""
        return (normalised(x, self.parts) - self.shift) @ self.matrix


def normalised(x: Float[np.ndarray, "n f"], parts: int) -> Float[np.ndarray, "n f"]:
    """Each of `parts` equal parts of every row divided by its norm; 0: `x` itself."""
    if not parts:
        return x
    split = x.reshape(len(x), parts, -1)
    return (split / np.maximum(np.linalg.norm(split, axis=-1, keepdims=True), TINY)).reshape(x.shape)
