"""Choosing settings by cross-validation inside a run's labels: the same rule for every method.

Dimensions: r runs, s settings, n pairs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from rmjax.errors import UserError

TEMPERATURES = np.concatenate([[0.0], np.logspace(-2, 2, 33)])


def calibrated_loss(
    held: Float[np.ndarray, "r s n"],
    there: Bool[np.ndarray, "r n"],
    *,
    weight: Float[np.ndarray, "r n"],
    smooth: Float[np.ndarray, "r n"],
) -> Float[np.ndarray, "r s"]:
    """Weighted, smoothed held-out log-loss of each setting after the best single scaling of its scores, over all folds.

    Accuracy on 50 held-out pairs jumps by 2 points a pair, and plain log-loss is decided by the scale of the scores,
    which penalties and margins change and accuracy does not see. Scaling each setting by its best factor (at least 0;
    0 gives log 2) leaves what matters: how well the order and the gaps of the differences agree with the labels.
    Margins have no part in it: they are in units of the scores, whose scale is what is taken out here.

    Args:
        weight, smooth: of the pairs, as in training: a smoothing of 1 is a label that is turned around.
    """
    last = 1 + np.flatnonzero(there.any(0))[-1]  # what only pads costs as much as what counts
    held, there, weight, smooth = (a[..., :last] for a in (held, there, weight, smooth))
    held = np.where(there[:, None], held, 0.0)
    share = np.where(there, weight, 0.0).astype(held.dtype)[:, None]
    total = np.maximum(share.sum(-1, dtype=np.float64), 1e-9)
    unit = held / np.maximum(np.sqrt(np.sum(share * held**2, -1) / total), 1e-12)[..., None]
    loss = [  # softplus(z) = softplus(-z) + z
        np.sum(share * (np.logaddexp(0.0, -t * unit) + smooth[:, None] * t * unit), -1) / total for t in TEMPERATURES
    ]
    return np.min(loss, axis=0)


def best(loss: Float[np.ndarray, "r s"], *, method: str) -> Int[np.ndarray, " r"]:
    """The setting of least loss; of settings that are equal to 1e-9, the last (the larger penalty).

    A loss that is NaN is never taken.

    Raises:
        UserError: a run in which all are NaN.
    """
    loss = np.where(np.isnan(loss), np.inf, loss)
    if (lost := np.isinf(loss).all(1)).any():
        raise UserError(
            f"method {method}: in {lost.sum()} of {len(loss)} runs no setting has finite held-out scores; lower "
            "--frozen.schedule.learning-rate, or, of a linear head, look for huge features"
        )
    near = loss <= loss.min(1, keepdims=True) + 1e-9
    return loss.shape[1] - 1 - np.argmax(near[:, ::-1], axis=1)
