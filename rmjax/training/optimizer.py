"""AdamW with warm-up, a schedule, clipping and a decay mask.

The learning rate is not part of the compiled step but an argument of it, computed here on the host. So a search over
learning rates, schedules and numbers of steps compiles once, and the rate that is logged is the rate that was used.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import optax

from rmjax.bounds import require
from rmjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW (arXiv:1711.05101): moments, decay and clipping by optax, the learning rate by `rate`."""

    learning_rate: float = 1e-5  # the peak
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after warm-up, from the peak to `end` of it
    warmup: float = 0.0  # steps; below 1: a share of all steps
    end: float = 0.0  # the last step's rate, as a share of the peak
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # of matrices and tables only; norms and biases are left alone
    clip: float = 1.0  # the global gradient norm's limit; 0: none

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "linear", "constant"):
            raise UserError(f"optimizer.schedule={self.schedule!r}: not one of cosine, linear, constant")
        # eps too: Adam divides 0 by it where a parameter has no gradient yet.
        require("optimizer.", self, "learning_rate", "eps", above=0)
        require("optimizer.", self, "warmup", "weight_decay", "clip", least=0)
        require("optimizer.", self, "end", least=0, most=1)
        require("optimizer.", self, "b1", "b2", least=0, below=1)
        if self.schedule == "constant" and self.end:
            raise UserError(f"optimizer.end={self.end}: a constant schedule has no end; set it to 0 or use cosine")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of update number `step` of `steps` (from 0).

        Warm-up is linear and its first update already moves: update i of w has (i + 1) / (w + 1) of the peak. The
        update after it has the peak, and the last one exactly `end` of it.
        """
        warmup = round(self.warmup * steps) if self.warmup < 1 else round(self.warmup)
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - 1 - warmup)
        match self.schedule:
            case "cosine":
                left = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
            case "linear":
                left = 1.0 - min(done, 1.0)
            case "constant":
                left = 1.0
        return self.learning_rate * (self.end + (1.0 - self.end) * left)

    @property
    def direction(self) -> Optimizer:
        """What the compiled step depends on: this optimizer with a rate that is always 1."""
        return dataclasses.replace(self, learning_rate=1.0, schedule="constant", warmup=0.0, end=0.0)


@functools.lru_cache(maxsize=64)
def transform(optimizer: Optimizer, model: Any) -> optax.GradientTransformation:
    """Gradients -> the direction of the update, to be multiplied by minus the learning rate.

    Args:
      optimizer: what `Optimizer.direction` keeps matters.
      model: its `matrices` (a tree of booleans) says which parameters decay.
    """
    parts = [optax.clip_by_global_norm(optimizer.clip)] if optimizer.clip else []
    parts.append(optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps))
    if optimizer.weight_decay:
        parts.append(optax.add_decayed_weights(optimizer.weight_decay, mask=lambda params: model.matrices))
    return optax.chain(*parts)
