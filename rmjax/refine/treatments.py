"""What is done with labels of known strength (arXiv:2401.06080, section 2.2): edits of records, each pure.

    flip      chosen and rejected change places in the lowest band, and every column with them
    soften    label smoothing: prob_chosen = 1 - a for labels that the ensemble disagrees with (mean < 0)
    widen     adaptive margin: margin = clip(scale * mean), so that the loss is softplus(-(difference - margin))

Each needs records with a strength (`rmjax.refine.strength.annotate`) and reads it in the record's own direction: a
flipped record's strength is negated too, so its mean is positive and its margin widens the gap, while an unflipped
label with mean < 0 has a negative margin that loosens the constraint.

Where this departs from the paper:
  - The paper prints the margin outside of the log-sigmoid, where it would have no gradient; it is meant inside.
  - A label that the ensemble agrees with (mean >= 0) is never flipped, however wide the band. In the paper's data a
    quarter of the labels is below 0, so its bands of 10 and 20 % hold no such label.
  - Margins are clipped, and scaled: the scale of a strength depends on the ensemble's temperature.
  - The paper does not state a; 0.1 to 0.2 are usual.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.records import Preference
from rmjax.refine.strength import COLUMN, column, means


def flip(records: Sequence[Preference], *, share: float) -> list[Preference]:
    """Swaps the answers of the `share` of records with the lowest strength, as far as it is below 0.

    The band holds floor(share * n) records; of equal strengths the earlier record is in it. A flipped record keeps its
    id and has `meta["flipped"]` true; margin, probability, votes and strength are turned around with it.

    Raises:
      UserError: share outside [0, 1]; a record without strength, labelled a tie, or flipped before.
    """
    if not 0 <= share <= 1:
        raise UserError(f"treatment.flip={share}: give a share of at least 0 and at most 1")
    _refuse(records, "tie", lambda p: p.tie)
    _refuse(records, "meta.flipped", is_flipped)
    mean = means(records)
    band = np.argsort(mean, kind="stable")[: int(share * len(records) + 1e-9)]
    chosen = {int(i) for i in band if mean[i] < 0}
    return [flipped(p) if i in chosen else p for i, p in enumerate(records)]


def is_flipped(p: Preference) -> bool:
    """Whether the record's label has been turned around."""
    return p.meta.get("flipped") is True


def flipped(p: Preference) -> Preference:
    """One record with its label turned around; its id stays."""
    strength = column(p)
    turned = {
        **strength,
        "mean": -strength["mean"],
        "differences": [-d for d in strength.get("differences", ())],
    }
    swap = {"chosen": "rejected", "rejected": "chosen"}
    return dataclasses.replace(
        p,
        chosen=p.rejected,
        rejected=p.chosen,
        margin=None if p.margin is None else -p.margin,
        prob_chosen=None if p.prob_chosen is None else 1.0 - p.prob_chosen,
        votes=None if p.votes is None else {swap.get(name, name): n for name, n in p.votes.items()},
        meta={**p.meta, COLUMN: turned, "flipped": True},
    )


def soften(records: Sequence[Preference], *, smoothing: float) -> list[Preference]:
    """Sets prob_chosen = 1 - smoothing of the records with a strength below 0.

    Smoothing of all labels alike needs no strength: it is the objective's `label_smoothing`.

    Raises:
      UserError: smoothing outside [0, 1/2]; a record without strength, labelled a tie, or with a probability or votes,
        which the smoothing would hide.
    """
    if not 0 <= smoothing <= 0.5:
        raise UserError(f"treatment.smoothing={smoothing}: give a probability of at least 0 and at most 0.5")
    _refuse(records, "tie", lambda p: p.tie)
    _refuse(records, "prob_chosen", lambda p: p.prob_chosen is not None)
    _refuse(records, "votes", lambda p: p.votes)
    weak = means(records) < 0
    return [dataclasses.replace(p, prob_chosen=1.0 - smoothing) if w else p for p, w in zip(records, weak, strict=True)]


def widen(records: Sequence[Preference], *, scale: float, low: float, high: float) -> list[Preference]:
    """Sets margin = clip(scale * mean strength, low, high).

    Raises:
      UserError: a scale that is negative, or low not below high; a record without strength, labelled a tie, or with a
        margin, which would be lost.
    """
    if not scale >= 0 or not low < high:
        raise UserError(f"treatment: margin scale {scale}, from {low} to {high}: give a scale >= 0 and low < high")
    _refuse(records, "tie", lambda p: p.tie)
    _refuse(records, "margin", lambda p: p.margin is not None)
    margins = np.clip(scale * means(records), low, high)
    return [dataclasses.replace(p, margin=m) for p, m in zip(records, margins.tolist(), strict=True)]


def _refuse(records: Sequence[Preference], name: str, has: Callable[[Preference], object]) -> None:
    for p in records:
        if has(p):
            raise UserError(f"record {p.id!r} has {name} already: leave the column out, or do without this treatment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Treatment:
    """Which edits are made, in the order flip, smoothing, margin. The default is what we ship."""

    flip: float = 0.1  # share of the labels, weakest first, turned around where the ensemble disagrees; 0: none
    smoothing: float = 0.15  # probability that a label below strength 0, and not flipped, is wrong; 0: none
    margin: float = 1.0  # margin in units of strength, for all pairs; 0: none
    margin_low: float = -3.0  # margins are clipped to these
    margin_high: float = 6.0

    def __post_init__(self) -> None:
        require("treatment.", self, "flip", least=0, most=1)
        require("treatment.", self, "smoothing", least=0, most=0.5)
        require("treatment.", self, "margin", least=0)
        require("treatment.", self, "margin_low", most=0)
        require("treatment.", self, "margin_high", above=0)

    def __call__(self, records: Sequence[Preference]) -> list[Preference]:
        """The treated records, in the same order. Raises UserError (see `flip`, `soften`, `widen`)."""
        out = flip(records, share=self.flip) if self.flip else list(records)
        if self.smoothing:
            out = soften(out, smoothing=self.smoothing)
        if self.margin:
            out = widen(out, scale=self.margin, low=self.margin_low, high=self.margin_high)
        return out


# The combinations of the paper's section 2.2, beside the shipped one.
PAPER = {
    "flip": Treatment(flip=0.1, smoothing=0.0, margin=0.0),
    "margin": Treatment(flip=0.0, smoothing=0.0, margin=1.0),
    "flip, margin": Treatment(flip=0.1, smoothing=0.0, margin=1.0),
    "soft label, margin": Treatment(flip=0.0, smoothing=0.15, margin=1.0),
}
