"""The one pairwise loss: weight * f(score_better - score_worse - margin), f one of four.

Dimensions: b rows, c candidate slots, p pairs.

    delta_ij  =  score_i - score_j - m_ij
    loss_ij   =  w_ij * f(delta_ij, a_ij)
    total     =  sum(loss_ij) / sum(w_ij)          normalise="weight"
                 sum(loss_ij) / (number of pairs)  normalise="count"

Weight w, margin m and smoothing a are columns of the data. DPO, cDPO, IPO, M-DPO and Bradley-Terry are this loss with
another score, f or column; a column that f ignores is refused by `Pairwise.check`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rmjax.bounds import require
from rmjax.data.rows import Group, Rows
from rmjax.errors import UserError
from rmjax.objectives.base import LossOutput, Mean
from rmjax.objectives.scores import Implicit, Score, hidden_states, slot_lengths, slot_sums, token_logps

Pairs = Float[Array, "..."]


def sigmoid_loss(delta: Pairs, smooth: Pairs) -> Pairs:
    """(1 - a) softplus(-delta) + a softplus(delta): a is the probability that the label is wrong.

    a = 0: Bradley-Terry, or DPO (arXiv:2305.18290, eq. 7). a > 0: conservative DPO, or a soft label 1 - a, whose
    minimum is at delta = ln((1 - a) / a). softplus keeps it finite for any delta.
    """
    return (1.0 - smooth) * jax.nn.softplus(-delta) + smooth * jax.nn.softplus(delta)


def robust_loss(delta: Pairs, smooth: Pairs) -> Pairs:
    """((1 - a) softplus(-delta) - a softplus(delta)) / (1 - 2a): unbiased under label flips with probability a < 1/2.

    arXiv:2403.00409, eq. 11; TRL's `robust`, whose `label_smoothing` is a.
    """
    return ((1.0 - smooth) * jax.nn.softplus(-delta) - smooth * jax.nn.softplus(delta)) / (1.0 - 2.0 * smooth)


def either_flip(smooth: Any, label_smoothing: float) -> Any:
    """a (1 - s) + s (1 - a): the probability that exactly one of two independent flips happens; a for s = 0."""
    return smooth * (1.0 - label_smoothing) + label_smoothing * (1.0 - smooth)


def hinge_loss(delta: Pairs) -> Pairs:
    """relu(1 - delta): SLiC's calibration loss on rewards (arXiv:2309.06657, eq. 8); TRL's `hinge`."""
    return jax.nn.relu(1.0 - delta)


def ipo_loss(delta: Pairs, *, beta: float) -> Pairs:
    """(delta / beta - 1 / (2 beta))^2, delta being beta times the difference of log-ratios (arXiv:2310.12036, eq. 17).

    `beta` is the paper's tau. TRL's `ipo` is this with the score `Implicit(length_normalised=True)`. A margin counts in
    units of the score: it moves the regression target from 1/2 to 1/2 + m.
    """
    return jnp.square((delta - 0.5) / beta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairwise:
    """The weighted pairwise loss on packed rows, any score, with optional auxiliary terms.

    `label_smoothing` is TRL's: the probability that any label is wrong. A label is flipped by it or by its own column
    a, independently: a' = a (1 - s) + s (1 - a). `sft` adds, per pair and under the pair's weight, the mean negative
    log-probability per token of the better candidate (arXiv:2404.19733, eq. 1). `center` adds (score_i + score_j)^2 of
    unweighted pairs' scores, TRL's `center_rewards_coefficient`; only a scalar head has the free constant that it pins
    down.

    `sft` and `dpo` beside a scalar head are GRM's regularisers (arXiv:2406.10216, section 3): they keep the hidden
    states fit for the language model's output head. `dpo` adds its DPO without reference, per pair and under the pair's
    weight, -log sigmoid(dpo_beta (log pi(better) - log pi(worse))) of log-probabilities summed over the completion.
    Departures: GRM's SFT term is -log sigmoid(beta log pi(better)), where `sft` is the loss of language models, which
    needs no scale and does not depend on an answer's length; the paper mixes, (1 - a) L_BT + a L_reg with a = 0.01,
    where this adds (the same up to a factor that Adam divides out, with dpo = a / (1 - a)); a smoothed pair is smoothed
    here too, as by `loss`, or a tie would be taught as a preference; the margin column is in units of the reward and
    stays out.

    Metrics carry TRL's names. For `Implicit`: rewards/chosen, rewards/rejected, rewards/accuracies, rewards/margins,
    logps/chosen, logps/rejected; for scalar scores: accuracy, margin, mean_reward, min_reward, max_reward. They count
    every pair (mean, min and max: every candidate) once, whatever its weight, and leave the margin column out.
    """

    score: Score = dataclasses.field(default_factory=Implicit)
    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    normalise: Literal["weight", "count"] = "weight"
    label_smoothing: float = 0.0  # probability that a label is wrong, for sigmoid (conservative DPO) and robust
    sft: float = 0.0
    center: float = 0.0
    dpo: float = 0.0  # of a decoder with a scalar head: GRM's regulariser; the paper's is 0.01, useful 0.005 to 0.05
    dpo_beta: float = 0.1  # its scale of log-probabilities

    def __post_init__(self) -> None:
        if self.loss not in ("sigmoid", "ipo", "hinge", "robust"):
            raise UserError(f"loss={self.loss!r}: not one of sigmoid, ipo, hinge, robust")
        if self.normalise not in ("weight", "count"):
            raise UserError(f"normalise={self.normalise!r}: not one of weight, count")
        if self.label_smoothing and not self.smoothed:
            raise UserError(
                f"label_smoothing={self.label_smoothing}: loss={self.loss!r} ignores it; use sigmoid or robust, or 0"
            )
        if not self.allows(self.label_smoothing):
            raise UserError(
                f"label_smoothing={self.label_smoothing}: must lie in {self.probabilities} for loss={self.loss!r}"
            )
        require("objective.", self, "sft", "center", "dpo", least=0)
        require("objective.", self, "dpo_beta", above=0)
        if self.center and isinstance(self.score, Implicit):
            raise UserError(f"center={self.center}: centring is for scalar heads; set it to 0 with the implicit score")
        if self.dpo and isinstance(self.score, Implicit):
            raise UserError(f"dpo={self.dpo}: it regularises scalar heads; set it to 0 with the implicit score")
        if self.dpo_beta != 0.1 and not self.dpo:
            raise UserError(f"dpo_beta={self.dpo_beta}: there is no such term while dpo is 0; set dpo, or leave it out")

    def check(self, groups: Iterable[Group], model: Any = None) -> None:
        """Refuses data that this objective cannot use or would ignore.

        Raises:
          UserError: no pairs at all; a column that is not as long as the pairs; a weight that is negative or not
            finite; a smoothing, alone or combined with `label_smoothing`, outside [0, 1] (robust: [0, 0.5)) or under
            a loss without smoothing; no reference log-probabilities (Implicit); no reward head (Scalar); `sft` or `dpo`
            without an output head.
        """
        groups = list(groups)
        self.score.check(groups, model)
        for name in ("sft", "dpo"):
            if getattr(self, name) and model is not None and not getattr(model.config, "lm_head", False):
                raise UserError(
                    f"objective.{name}={getattr(self, name)}: the model has no output head, whose log-probabilities it "
                    "needs; start from a language model, or set it to 0"
                )
        if not any(len(g.pairs) for g in groups):
            raise UserError(f"no pairs in any of {len(groups)} groups: nothing to train on")
        for g in groups:
            for name in ("weight", "margin", "smooth"):
                column = getattr(g, name)
                if len(column) not in (0, len(g.pairs)):
                    raise UserError(f"group {g.id!r}: {len(column)} values of {name} for {len(g.pairs)} pairs")
                bad = [v for v in column if not math.isfinite(v) or (name == "weight" and v < 0)]
                if bad:
                    raise UserError(f"group {g.id!r}: {name}={bad[0]}: must be finite, and a weight not negative")
            for a in g.smooth:
                self.check_smooth(a, f"group {g.id!r}")

    def check_smooth(self, a: float, where: str) -> None:
        """Raises UserError where a pair's probability of a wrong label is none that this loss can use."""
        if a and not self.smoothed:
            raise UserError(f"{where}: smooth={a}, but loss={self.loss!r} ignores smoothing: use sigmoid or robust")
        both = either_flip(a, self.label_smoothing)
        if not (self.allows(a) and self.allows(both)):
            more = f" (with label_smoothing={self.label_smoothing}: {both})" if self.label_smoothing else ""
            raise UserError(f"{where}: smooth={a}{more}: must lie in {self.probabilities} for loss={self.loss!r}")

    @property
    def smoothed(self) -> bool:
        """Whether the loss knows that labels may be wrong."""
        return self.loss in ("sigmoid", "robust")

    @property
    def probabilities(self) -> str:
        """The interval in which the probability of a wrong label must lie, in words."""
        return "[0, 0.5)" if self.loss == "robust" else "[0, 1]"

    def allows(self, smooth: float) -> bool:
        """Whether the loss can take this probability of a wrong label."""
        return 0 <= smooth < 0.5 if self.loss == "robust" else 0 <= smooth <= 1

    def per_pair(self, delta: Pairs, smooth: Pairs) -> Pairs:
        """f(delta, smooth and `label_smoothing`), float32, unweighted."""
        smooth = either_flip(smooth, self.label_smoothing)
        match self.loss:
            case "sigmoid":
                return sigmoid_loss(delta, smooth)
            case "robust":
                return robust_loss(delta, smooth)
            case "hinge":
                return hinge_loss(delta)
            case "ipo":
                return ipo_loss(delta, beta=self.score.beta)

    def __call__(self, model: Any, params: Any, rows: Rows) -> LossOutput:
        module = model.bind(params)
        return self.on(module, hidden_states(module, rows), rows)

    def on(self, module: Any, hidden: Float[Array, "b t d"], rows: Rows) -> LossOutput:
        """The loss, given what the forward pass left: for objectives that read the hidden states themselves as well."""
        logps = None
        if self.score.needs_logps or self.sft or self.dpo:
            logps = slot_sums(token_logps(module, hidden, rows), rows)
        scores = self.score.of(module, hidden, logps, rows)

        there = rows.pairs[..., 0] >= 0

        def better(x: Float[Array, "b c"]) -> Float[Array, "b p"]:
            return jnp.take_along_axis(x, jnp.maximum(rows.pairs[..., 0], 0), axis=1)

        def worse(x: Float[Array, "b c"]) -> Float[Array, "b p"]:
            return jnp.take_along_axis(x, jnp.maximum(rows.pairs[..., 1], 0), axis=1)

        chosen, rejected = better(scores), worse(scores)
        losses = self.per_pair(chosen - rejected - rows.margin, rows.smooth)
        if self.sft:
            losses = losses - self.sft * better(logps / slot_lengths(rows))
        if self.dpo:
            regulariser = robust_loss if self.loss == "robust" else sigmoid_loss
            smooth = either_flip(rows.smooth, self.label_smoothing)
            losses = losses + self.dpo * regulariser(self.dpo_beta * (better(logps) - worse(logps)), smooth)
        if self.center:
            losses = losses + self.center * jnp.square(chosen + rejected)
        weight = jnp.where(there, rows.weight, 0.0)
        loss = Mean.of(losses, weight)
        if self.normalise == "count":
            loss = Mean(loss.total, jnp.sum(there, dtype=jnp.float32))
        if isinstance(self.score, Implicit):
            metrics = {
                "rewards/chosen": Mean.of(chosen, there),
                "rewards/rejected": Mean.of(rejected, there),
                "rewards/accuracies": Mean.of(chosen > rejected, there),
                "rewards/margins": Mean.of(chosen - rejected, there),
                "logps/chosen": Mean.of(better(logps), there),
                "logps/rejected": Mean.of(worse(logps), there),
            }
        else:
            slots = rows.slot_last >= 0
            metrics = {
                "accuracy": Mean.of(chosen > rejected, there),
                "margin": Mean.of(chosen - rejected, there),
                "mean_reward": Mean.of(scores, slots),
                "min_reward": _extreme(jnp.min(jnp.where(slots, scores, jnp.inf)), slots),
                "max_reward": _extreme(jnp.max(jnp.where(slots, scores, -jnp.inf)), slots),
            }
        return LossOutput(loss, metrics)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnRanking:
    """An objective that is built on a ranking loss, and needs of the data what that needs."""

    ranking: Pairwise

    def check(self, groups: Iterable[Group], model: Any = None) -> None:
        """Raises UserError for what the ranking loss cannot use."""
        self.ranking.check(groups, model)


def _extreme(value: Float[Array, ""], slots: Array) -> Mean:
    """A batch's extreme as a mean over batches; a batch without candidates counts nothing."""
    some = jnp.any(slots).astype(jnp.float32)
    return Mean(jnp.where(some > 0, value, 0.0), some)
