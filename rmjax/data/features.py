"""Features of labelled pairs: what a frozen trunk says of each answer, all that a reward head needs.

Dimensions: n pairs, f width of a pooled feature (model width x number of poolings).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rmjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Features:
    """Pooled features of the chosen and the rejected answer of each pair, float32, on the host."""

    ids: tuple[str, ...]
    chosen: Float[np.ndarray, "n f"]
    rejected: Float[np.ndarray, "n f"]

    def __post_init__(self) -> None:
        if self.chosen.shape != self.rejected.shape or self.chosen.ndim != 2 or len(self.ids) != len(self.chosen):
            raise ValueError(
                f"features of shape {self.chosen.shape} and {self.rejected.shape} for {len(self.ids)} pairs"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """f."""
        return self.chosen.shape[1]

    def take(self, index: Sequence[int] | np.ndarray) -> Features:
        """The pairs of these positions, in this order."""
        index = np.asarray(index, np.int64)
        return Features(tuple(self.ids[i] for i in index), self.chosen[index], self.rejected[index])

    def require_finite(self) -> Features:
        """Itself. Raises UserError, with the first pair's id, where a value is NaN or infinite."""
        for side in ("chosen", "rejected"):
            bad = ~np.isfinite(getattr(self, side)).all(1)
            if bad.any():
                raise UserError(
                    f"features: {int(bad.sum())} of {len(self)} {side} answers have NaN or infinite values (first: "
                    f"pair {self.ids[int(np.argmax(bad))]!r}): check the model's weights, or use --model.dtype float32"
                )
        return self
