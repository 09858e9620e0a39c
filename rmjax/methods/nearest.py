"""The linear head that comes nearest to a reward model, among those that transformers' classifiers can express.

    decoders    v . h_last
    encoders    v . tanh(W h_cls + c) + b     W, c: the pooler

A model that reads the encoder's pooler keeps it, and v is fitted on its output. Of any other model the pooler is free:
it hands h_cls on, W = E I with E tiny, where tanh(E h) / E = h up to a share (E h)^2 / 3 of it (2e-8 at h = 1, 2e-6 at
10), so v is fitted on h_cls itself.
(A free W could be a whole hidden layer. It would be another head, trained again, and not the nearest linear one.)

A head that is linear and reads what the classifier reads is taken over as it is. For others v minimises the squared
error of the *score differences within a pair*, the only thing that a reward model's scores mean; labels play no part.
The ridge penalty is chosen by cross-validation, in which pairs of a prompt stay together, and the gap is that of the
left-out folds: v itself is fitted to all pairs, and the gap is what heads without a pair's fold make of it. A linear
head that the model has already, fitted elsewhere, stays where its error on the pairs is no larger than that gap.

Dimensions: n pairs, f features, k folds, p penalties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from rmjax.errors import UserError
from rmjax.models.config import EncoderConfig
from rmjax.models.head_file import StandIn
from rmjax.models.heads import Linear, as_linear
from rmjax.models.model import Model, Params
from rmjax.models.pooling import Pool, plain

FOLDS = 5
PENALTIES = np.logspace(-7, 2, 19)  # times the mean square of a feature's difference
SMALL = 2.0**-12  # E: tanh is nearly straight there; a power of two costs no digits
USEFUL = 0.5  # a stand-in that explains less of the exact differences' square than this is called of little use


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """How far the linear head's score differences within a pair are from the exact ones."""

    pairs: int
    max: float
    rms: float
    exact_rms: float  # of the exact differences themselves
    explained: float  # 1 - rms^2 / exact_rms^2
    order: float  # share of pairs whose order changes

    @classmethod
    def of(cls, exact: Float[np.ndarray, " n"], linear: Float[np.ndarray, " n"]) -> Gap:
        """Between differences of the same pairs."""
        exact, linear = np.asarray(exact, np.float64), np.asarray(linear, np.float64)
        error, size = np.mean((exact - linear) ** 2), np.mean(exact**2)
        return cls(
            pairs=len(exact),
            max=float(np.abs(exact - linear).max()),
            rms=float(np.sqrt(error)),
            exact_rms=float(np.sqrt(size)),
            explained=float(1 - error / max(size, 1e-30)),
            order=float(np.mean(np.sign(exact) != np.sign(linear))),
        )

    @property
    def useful(self) -> bool:
        """Whether transformers' score says much of the exact one."""
        return self.explained >= USEFUL

    @property
    def words(self) -> str:
        """One sentence."""
        return (
            f"score differences within a pair are off by {self.rms:.2g} (RMS; they are {self.exact_rms:.2g}), at most "
            f"{self.max:.2g}; the order of {100 * self.order:.1f} % of {self.pairs:,} pairs changes"
        )


def pool(model: Model) -> Pool:
    """What of this model's backbone the linear head is fitted on."""
    if not isinstance(model.config, EncoderConfig):
        return ("last",)
    return ("pooler",) if "pooler" in map(plain, model.pool) else ("cls",)


def stand_in(
    model: Model,
    params: Params,
    read: Float[np.ndarray, "n 2 f"],
    scores: Float[np.ndarray, "n 2"],
    prompts: Sequence[Hashable],
    *,
    known: StandIn | None = None,
) -> tuple[StandIn, Gap]:
    """The model that transformers can express, and its gap on these pairs.

    Args:
        read: pooled features of pairs' answers, as `pool(model)` says.
        scores: the model's rewards of the same answers.
        prompts: of the pairs.
        known: one that this very model came with. It is returned, with the gap that it came with, where it is no
            further from the scores of these pairs than left-out folds of a new one.

    Raises:
        UserError: pairs of fewer than two prompts.
    """
    read, scores = np.asarray(read, np.float64), np.asarray(scores, np.float64)
    x, y = read[:, 0] - read[:, 1], scores[:, 0] - scores[:, 1]
    exact = as_linear(model.head, params["head"]) if model.pool == pool(model) else None
    if exact is not None:
        weight, gap = exact[0], Gap.of(y, x @ exact[0])
    else:
        weight, gap = ridge(x, y, prompts)
        if known is not None:
            theirs = rewards(known.params, pool(model)[0], read)
            if (old := Gap.of(y, theirs[:, 0] - theirs[:, 1])).rms <= gap.rms:
                return known, old
    bias = float(np.mean(scores) - np.mean(read, axis=(0, 1)) @ weight) if exact is None else exact[1]
    facts = {**dataclasses.asdict(gap), "useful": gap.useful, "pool": list(pool(model))}
    if not isinstance(model.config, EncoderConfig):
        head = {"weight": weight.astype(np.float32)}
        return StandIn(model=model.with_head(Linear(), ("last",)), params={**params, "head": head}, nearest=facts), gap
    theirs = model.with_config(pooler=True).with_head(Linear(bias=True), ("pooler",))
    encoder = dict(params["encoder"])
    if pool(model) == ("cls",):
        width = model.config.embed
        encoder |= {"pool_weight": SMALL * np.eye(width, dtype=np.float32), "pool_bias": np.zeros(width, np.float32)}
        weight = weight / SMALL
    head = {"weight": weight.astype(np.float32), "bias": np.float32(bias)}
    return StandIn(model=theirs, params={**params, "encoder": encoder, "head": head}, nearest=facts), gap


def rewards(params: Params, kind: str, read: Float[np.ndarray, "*n f"]) -> Float[np.ndarray, "*n"]:
    """What a stand-in with these parameters makes of features that are known already.

    Args:
        kind: of the features: `pool(model)`'s.
    """
    branch, head = params.get("encoder", {}), params["head"]
    host = lambda x: np.asarray(x, np.float64)
    if kind == "cls":
        read = np.tanh(host(read) @ host(branch["pool_weight"]) + host(branch["pool_bias"]))
    return host(read) @ host(head["weight"]) + host(head.get("bias", 0.0))


def ridge(
    x: Float[np.ndarray, "n f"], y: Float[np.ndarray, " n"], prompts: Sequence[Hashable]
) -> tuple[Float[np.ndarray, " f"], Gap]:
    """The weights of least squared error with the best penalty, and the gap of the folds that were left out."""
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    if len(numbers) < 2:
        raise UserError(
            f"{len(x)} pairs of {len(numbers)} prompt: the linear head that transformers reads is fitted on pairs of "
            "at least 2 prompts; give more"
        )
    scale = np.sqrt(np.mean(x**2, axis=0))
    scale = np.maximum(scale, 1e-6 * max(scale.max(), 1e-30))
    x = x / scale
    folds = np.random.default_rng(0).permutation(len(numbers)) % min(FOLDS, len(numbers))
    folds = folds[[numbers[prompt] for prompt in prompts]]
    held = np.zeros((len(PENALTIES), len(x)))
    for fold in range(folds.max() + 1):
        there = folds == fold
        held[:, there] = paths(x[~there], y[~there]) @ x[there].T
    best = int(np.argmin(np.sum((held - y) ** 2, axis=1)))
    return paths(x, y)[best] / scale, Gap.of(y, held[best])


def paths(x: Float[np.ndarray, "n f"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, "p f"]:
    """argmin_v mean (y - v . x)^2 + l |v|^2 for every penalty l."""
    power, vectors = np.linalg.eigh(x.T @ x / len(x))
    along = vectors.T @ (x.T @ y / len(x))
    return (along / (np.maximum(power, 0.0) + PENALTIES[:, None])) @ vectors.T
