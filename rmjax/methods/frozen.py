"""Methods side by side on the features of a frozen trunk: the tuned Bradley-Terry head, and what is built on it.

    baseline    a linear head; penalty and coordinates chosen by cross-validation inside the run's labels
    treated     the same with flips, smoothing or margins by strength (`training.frozen.treatments`)
    auxiliary   a head whose linear part starts at the baseline's and goes on with a loss beside it (`methods.secrets`,
                `methods.proto_rm`)

Every method tries its settings on the same folds and takes the one of least calibrated held-out loss
(`training.frozen.selection`). `Frozen.settings` says how many: as many for each at the defaults, and not in general.
The last two inherit the baseline's coordinates and its penalty (of the strength's heads, or to be multiplied), so they
have had the baseline's tuning too.

Dimensions: N training pairs, e evaluation pairs, r runs, s settings, k folds, d coordinates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from rmjax.bounds import require
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.methods.folding import folded
from rmjax.models.heads import HeadConfig, Linear
from rmjax.models.pooling import Pool
from rmjax.records import Preference
from rmjax.training.frozen import draws, linear, nonlinear, selection
from rmjax.training.frozen.basis import Basis
from rmjax.training.frozen.draws import Runs
from rmjax.training.frozen.nonlinear import Auxiliary, Schedule
from rmjax.training.frozen.treatments import Treatment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
    """How heads on frozen features are trained and tuned."""

    forms: tuple[Literal["standard", "unit"], ...] = ("standard", "unit")  # unit: pooled parts divided by their norms
    axes: int = 256  # principal axes of the features' differences that a head sees
    folds: int = 5  # of cross-validation inside the labels; pairs of one prompt stay together
    penalties: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0)  # L2; differences have mean square 1
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        require("frozen.", self, "axes", least=1)
        require("frozen.", self, "folds", least=2)
        if not self.forms or len(set(self.forms)) < len(self.forms):
            raise UserError(f"frozen.forms={self.forms}: give standard, unit or both")
        if not self.penalties or not all(0 < p < np.inf for p in self.penalties):
            raise UserError(f"frozen.penalties={self.penalties}: give at least one number, all above 0")

    def settings(self, method: Treatment | Auxiliary | None = None) -> int:
        """How many settings a method tries in every run; None: the baseline."""
        if method is None:
            return len(self.forms) * len(self.penalties)
        return len(method.grid) * len(self.penalties if isinstance(method, Treatment) else self.schedule.penalties)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """One method over some runs."""

    differences: Float[np.ndarray, "r e"]  # of the evaluation pairs: chosen minus rejected
    held_loss: Float[np.ndarray, " r"]  # of the setting that was taken
    chosen: Int[np.ndarray, " r"]  # which setting
    words: tuple[str, ...]  # the same in words
    form: Int[np.ndarray, " r"]
    penalty: Float[np.ndarray, " r"]  # the baseline's
    head: Any  # parameters in training coordinates; linear: [r, k + 1, d], the last on all labels


class Bench:
    """The pool of labelled pairs and the evaluation pairs, in the coordinates of every form."""

    def __init__(
        self,
        train: Features,
        evaluation: Features,
        items: Sequence[Preference],
        how: Frozen,
        *,
        parts: int,
        seed: int,
    ):
        """`items` are the pairs of `train`: their weight, margin and smoothing are used. `parts`: pooled parts.

        Raises:
            UserError: features that are not finite, or that do not differ within any pair.
        """
        train.require_finite(), evaluation.require_finite()
        self.how, self.seed = how, seed
        self.bases = [Basis.fit(train, axes=how.axes, parts=parts if f == "unit" else 0) for f in how.forms]
        both = lambda x: np.stack([np.stack([b(x.chosen), b(x.rejected)], 1) for b in self.bases])
        self.x, self.evaluation = both(train), both(evaluation)
        self.columns = tuple(
            np.array([f(p) for p in items], np.float32)
            for f in (lambda p: 1.0 if p.weight is None else p.weight, lambda p: p.margin or 0.0, lambda p: p.smooth)
        )
        _, self.groups = np.unique([repr(p.prompt) for p in items], return_inverse=True)

    def runs(self, labels: int, numbers: Sequence[int], *, whole: bool = False) -> Runs:
        """Label draws; `whole`: padded to the pool, so that one program serves every number of labels."""
        pool = len(self.groups)
        size = pool if whole else draws.bucket(labels, pool)
        return draws.runs(self.groups, labels, numbers, folds=self.how.folds, seed=self.seed, padded=size)

    def baseline(self, labels: int, numbers: Sequence[int]) -> Fitted:
        """The tuned Bradley-Terry head."""
        return self.tuned(self.runs(labels, numbers))

    def tuned(self, runs: Runs) -> Fitted:
        """The tuned Bradley-Terry head on given pairs."""
        how = self.how
        forms = range(len(how.forms))
        found = [self._linear(runs, np.full(len(runs), form)) for form in forms]
        held, weights = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        loss, chosen = self._select(held, runs, "bradley-terry")
        form, number = np.divmod(chosen, len(how.penalties))
        penalty = np.asarray(how.penalties)[number]
        words = tuple(f"{how.forms[f]}, L2 {p:g}" for f, p in zip(form, penalty, strict=True))
        return self._fitted(weights, loss, chosen, words, form, penalty)

    def treated(self, labels: int, numbers: Sequence[int], treatment: Treatment, base: Fitted) -> Fitted:
        """The baseline on labels that are treated by their strength.

        Raises:
            UserError: the pairs have margins or smoothing of their own, which the treatment would replace.
        """
        if np.any(self.columns[1]) or np.any(self.columns[2]):
            raise UserError(
                f"method {name(treatment)}: the pairs have margins, probabilities or votes, which it "
                "would replace: leave those columns out (--data.ignore), or leave the method out"
            )
        runs, penalties = self.runs(labels, numbers), self.how.penalties
        held, weights = self._linear(runs, base.form, treatment=treatment, strength_penalty=base.penalty)
        loss, chosen = self._select(held, runs, name(treatment))
        value, number = np.divmod(chosen, len(penalties))
        words = tuple(f"{treatment.grid[v]:g}, L2 {penalties[n]:g}" for v, n in zip(value, number, strict=True))
        return self._fitted(weights, loss, chosen, words, base.form, np.asarray(penalties)[number])

    def auxiliary(self, labels: int, numbers: Sequence[int], method: Auxiliary, base: Fitted) -> Fitted:
        """A method with a loss of its own, from the baseline on."""
        runs, times = self.runs(labels, numbers, whole=True), self.how.schedule.penalties
        held, on_eval, params = nonlinear.fit(
            self.x,
            self.evaluation,
            runs,
            method,
            self.how.schedule,
            form=base.form,
            start=base.head,
            penalty=base.penalty,
            folds=self.how.folds,
            columns=self.columns,
            seed=self.seed,
        )
        loss, chosen = self._select(held, runs, name(method))
        row = np.arange(len(runs))
        words = tuple(f"{method.grid[c // len(times)]:g}, L2 x {times[c % len(times)]:g}" for c in chosen)
        head = {key: leaf[row, chosen] for key, leaf in params.items()}
        return Fitted(on_eval[row, chosen], loss[row, chosen], chosen, words, base.form, base.penalty, head)

    def served(self, fitted: Fitted, method: Treatment | Auxiliary | None, pool: Pool) -> tuple[HeadConfig, Any, Pool]:
        """The head of the first run, trained on all of its labels, on raw pooled features (`methods.folding`).

        Args:
            method: None: the baseline.
            pool: of the features.
        """
        if isinstance(method, Auxiliary):
            head, params = method.head(self.how.schedule.hidden), {k: leaf[0] for k, leaf in fitted.head.items()}
        else:
            head, params = Linear(), {"weight": fitted.head[0, -1]}
        return folded(head, params, self.bases[fitted.form[0]], pool)

    def _linear(self, runs: Runs, form: np.ndarray, **more: Any) -> tuple[np.ndarray, np.ndarray]:
        x = self.x[:, :, 0] - self.x[:, :, 1]
        how = self.how
        return linear.fit(
            x, runs, form=form, penalties=how.penalties, folds=how.folds, columns=self.columns, seed=self.seed, **more
        )

    def _select(self, held: np.ndarray, runs: Runs, method: str) -> tuple[np.ndarray, np.ndarray]:
        weight, _, smooth = (c[runs.index] for c in self.columns)
        loss = selection.calibrated_loss(held, runs.there, weight=weight, smooth=smooth)
        return loss, selection.best(loss, method=method)

    def _fitted(self, weights, loss, chosen, words, form, penalty) -> Fitted:
        row = np.arange(len(chosen))
        head = weights[row, chosen]
        tests = self.evaluation[:, :, 0] - self.evaluation[:, :, 1]
        differences = np.stack([tests[f] @ w for f, w in zip(form, head[:, -1], strict=True)])
        return Fitted(differences, loss[row, chosen], chosen, words, form, penalty, head)


def name(method: Treatment | Auxiliary) -> str:
    """A method as messages call it."""
    return type(method).__name__.lower()
