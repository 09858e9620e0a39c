"""AdamW with warm-up, a schedule, clipping, a decay mask, rates that fall with depth, and parameters left alone.

The learning rate is not part of the compiled step but an argument of it, computed here on the host. So a search over
learning rates, schedules and numbers of steps compiles once, and the rate that is logged is the rate that was used.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.models.model import lookup, partition


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
    layer_decay: float = 1.0  # a layer's share of the rate of the one above it, down to the embeddings; 1: all alike

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "linear", "constant"):
            raise UserError(f"optimizer.schedule={self.schedule!r}: not one of cosine, linear, constant")
        # eps too: Adam divides 0 by it where a parameter has no gradient yet.
        require("optimizer.", self, "learning_rate", "eps", above=0)
        require("optimizer.", self, "warmup", "weight_decay", "clip", least=0)
        require("optimizer.", self, "end", least=0, most=1)
        require("optimizer.", self, "b1", "b2", least=0, below=1)
        require("optimizer.", self, "layer_decay", above=0, most=1)
        if self.schedule == "constant" and self.end:
            raise UserError(f"optimizer.end={self.end}: a constant schedule has no end; set it to 0 or use cosine")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of update number `step` of `steps` (from 0).

        Warm-up is linear and its first update already moves: update i of w has (i + 1) / (w + 1) of the peak. The
        update after it has the peak, and the last one exactly `end` of it.
        """
        warmup = share_of(self.warmup, steps)
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


def share_of(updates: float, steps: int) -> int:
    """A setting in updates, or below 1 in shares of all `steps`, as a number of updates."""
    return round(updates * steps) if updates < 1 else round(updates)


@functools.lru_cache(maxsize=64)
def transform(optimizer: Optimizer, model: Any) -> optax.GradientTransformation:
    """Gradients -> the direction of the update, to be multiplied by minus the learning rate.

    Clipping and Adam come first, then weight decay, then `shares`, as in torch's parameter groups: a rate that is lower
    makes the decay weaker too. The state has moments of what moves: of `Model.split`'s trained parameters those that
    are not frozen, of stacked layers the upper ones. Models with other numbers of frozen layers have other states.

    Args:
      optimizer: what `Optimizer.direction` keeps matters.
      model: its `matrices` (a tree of booleans) says which parameters decay, its `depths` how fast they learn, its
        config's `frozen` which are not trained: their direction is 0, so that they keep every bit.
    """
    parts = [optax.clip_by_global_norm(optimizer.clip)] if optimizer.clip else []
    parts.append(optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps))
    if optimizer.weight_decay:
        decays = lambda params: moving(model, model.split(model.matrices)[0])
        parts.append(optax.add_decayed_weights(optimizer.weight_decay, mask=decays))
    adamw, each = optax.chain(*parts), shares(optimizer, model)
    if all(np.all(share == 1) for share in jax.tree.leaves(each)):
        return adamw
    still = jax.tree.map(lambda x: int(np.sum(~x)), moving(model, learning(model)))  # lowest layers of each parameter
    upper = lambda tree: jax.tree.map(lambda leaf, n: leaf[n:] if n else leaf, moving(model, tree), still)

    def init(params: Any) -> Any:
        # optax.tree.map_params gives one placeholder for all parameters.
        return adamw.init(upper(params) if isinstance(params, dict) else params)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        directions, state = adamw.update(upper(grads), state, upper(params))
        found = dict(jax.tree_util.tree_leaves_with_path(directions))

        def whole(path: Any, share: np.ndarray, p: jax.Array) -> jax.Array:
            if path not in found:
                return jnp.zeros_like(p)
            if found[path].shape == p.shape:
                return share * found[path]
            low = p[: len(p) - len(found[path])]
            return share * jnp.concatenate([jnp.zeros_like(low), found[path]])

        return jax.tree_util.tree_map_with_path(whole, each, params), state

    return optax.GradientTransformation(init, update)


def moving(model: Any, tree: Any) -> Any:
    """What of a tree of trained parameters, or of what is known of each, is not frozen, or not in all layers."""
    known = learning(model)
    return partition(tree, lambda keys: bool(np.any(lookup(known, keys))))[0]


def learning(model: Any) -> Any:
    """Which layers of each trained parameter are not frozen: a tree of boolean arrays that broadcast over them."""
    frozen = model.config.frozen
    return jax.tree.map(lambda depth: (depth > frozen) | (frozen == 0), model.split(model.depths)[0])


def shares(optimizer: Optimizer, model: Any) -> Any:
    """Each trained parameter's share of the learning rate: a tree of float32 arrays that broadcast over the parameters.

    `layer_decay` ** (L - l) for layer l = 1 to L, for embeddings with l = 0; 1 for what is above the layers (a
    decoder's final norm and output head, an encoder's pooler, the reward head); 0 for what is frozen. So the top layer
    has the full rate, as in ULMFiT (arXiv:1801.06146, section 3.2); others count the head as one step more.
    """

    def share(depth: np.ndarray, learns: np.ndarray) -> np.ndarray:
        rate = optimizer.layer_decay ** np.maximum(model.config.layers - depth, 0.0)
        return np.where(learns, rate, 0.0).astype(np.float32)

    return jax.tree.map(share, model.split(model.depths)[0], learning(model))
