"""Preference strength: what an ensemble of reward models thinks of each label (arXiv:2401.06080, section 2.1).

    d_im = r_m(x_i, chosen_i) - r_m(x_i, rejected_i)      member m's score difference on pair i
    mean_i = mean over m of d_im                          strength: below 0, the ensemble disagrees with the label
    std_i = sqrt(mean over m of (d_im - mean_i)^2)        population standard deviation, as in the paper

Nothing is trained here: differences come in, and records go out that carry them under `meta["strength"]`, in the
direction of the record's own label: {"mean": -1.2, "std": 0.3, "differences": [-1.0, -1.4]}.

The paper lets the members score the very pairs that they were trained on. A flexible model fits wrong labels too, and
its score of a label that it has seen is partly that label. `folds` are for the better way: each member is cut into
parts, and each part scores only pairs whose prompts it has not seen.

Dimensions: m members, n pairs, g bands.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from rmjax.errors import UserError
from rmjax.records import Messages, Preference

COLUMN = "strength"  # in `meta`


def folds(prompts: Sequence[Messages], *, members: int, parts: int, seed: int) -> Int[np.ndarray, "m n"]:
    """Which of `parts` parts each pair falls into, drawn anew for every member; pairs of one prompt stay together.

    Parts hold equally many prompts, give or take one.

    Raises:
      UserError: fewer prompts than parts.
    """
    _, owner = np.unique([repr(p) for p in prompts], return_inverse=True)
    count = int(owner.max()) + 1 if len(owner) else 0
    if count < parts:
        raise UserError(f"{count} different prompts for {parts} folds: give at least {parts} prompts, or fewer folds")
    rng = np.random.default_rng(seed)
    return np.stack([(rng.permutation(count) % parts)[owner] for _ in range(members)])


def mean_std(differences: Float[np.ndarray, "m n"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Mean and population standard deviation of each pair over the members, float64.

    Raises:
      UserError: no members, or a difference that is not a finite number.
    """
    d = np.asarray(differences, np.float64)
    if d.ndim != 2 or not d.shape[0]:
        raise UserError(
            f"strength: score differences have shape {d.shape}; give [members, pairs] with a member at least"
        )
    if not np.isfinite(d).all():
        member, pair = (int(i) for i in np.argwhere(~np.isfinite(d))[0])
        raise UserError(
            f"strength: member {member} scores pair {pair} with {d[member, pair]}: lower the learning rate, or look "
            "for NaN in the features"
        )
    return d.mean(0), d.std(0)


def annotate(records: Sequence[Preference], differences: Float[np.ndarray, "m n"]) -> list[Preference]:
    """The records with their strength in `meta`; an older one is replaced.

    Raises:
      UserError: the differences are not those of the records, or are not finite.
    """
    mean, std = mean_std(differences)
    if len(records) != len(mean):
        raise UserError(f"strength: differences of {len(mean)} pairs for {len(records)} records: score the same file")
    columns = zip(mean.tolist(), std.tolist(), np.asarray(differences, np.float64).T.tolist(), strict=True)
    return [
        dataclasses.replace(p, meta={**p.meta, COLUMN: {"mean": mu, "std": sigma, "differences": d}})
        for p, (mu, sigma, d) in zip(records, columns, strict=True)
    ]


def column(record: Preference) -> Mapping[str, Any]:
    """A record's strength.

    Raises:
      UserError: it has none, or one whose mean or std is not a finite number.
    """
    found = record.meta.get(COLUMN)
    if not isinstance(found, Mapping):
        raise UserError(f"record {record.id!r}: no meta.{COLUMN}: run the job `strength` on this file first")
    for name in ("mean", "std"):
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(
                f"record {record.id!r}: meta.{COLUMN}.{name}={value!r} is not a finite number: score it anew"
            )
    return found


def means(records: Sequence[Preference]) -> Float[np.ndarray, " n"]:
    """The records' mean strengths. Raises UserError where one has none."""
    return np.array([column(p)["mean"] for p in records], np.float64)


def stds(records: Sequence[Preference]) -> Float[np.ndarray, " n"]:
    """The records' standard deviations over members. Raises UserError where one has none."""
    return np.array([column(p)["std"] for p in records], np.float64)


def suspicious(records: Sequence[Preference]) -> list[Preference]:
    """The records, the one whose label the ensemble contradicts most first; equal ones keep their order."""
    return [records[i] for i in np.argsort(means(records), kind="stable")]


def auroc(mean: Float[np.ndarray, " n"], flipped: Bool[np.ndarray, " n"]) -> float:
    """The probability that a flipped label is weaker than one that is not; equal strengths count one half.

    1/2: strength says nothing about flips; 1: every flipped label is below all others.

    Raises:
      UserError: no label is flipped, or all are.
    """
    flipped = np.asarray(flipped, bool)
    wrong, right = int(flipped.sum()), int((~flipped).sum())
    if not wrong or not right:
        raise UserError(f"AUROC of {wrong} flipped and {right} other labels: there must be some of both")
    ranks = stats.rankdata(-np.asarray(mean, np.float64))
    return float((ranks[flipped].sum() - wrong * (wrong + 1) / 2) / (wrong * right))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Band:
    """Pairs of similar strength."""

    n: int
    mean: float  # of the mean strengths
    std: float  # of the standard deviations over members


def bands(mean: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"], *, count: int = 20) -> list[Band]:
    """The pairs sorted by strength in `count` bands of equal size, give or take one, weakest first.

    In the paper's figure 2 the standard deviations are U-shaped over 20 bands: members differ most on the pairs with
    the clearest strengths, wrong or right. Fewer pairs than bands: one band a pair.
    """
    order = np.argsort(mean, kind="stable")
    groups = np.array_split(order, min(count, len(order))) if len(order) else []
    return [Band(n=len(g), mean=float(np.mean(mean[g])), std=float(np.mean(std[g]))) for g in groups]
