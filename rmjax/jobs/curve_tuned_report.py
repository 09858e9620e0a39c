"""What a study of fine-tuned reward models says of its search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmjax.evaluation.listing import Listing

SEARCHED = (
    "Mean accuracy of each learning rate over {draws} label draws of {labels:,} pairs, on {pairs:,} training pairs of "
    "other prompts; the best one (*) is taken for every number of labels. Final draws and held-out pairs play no part."
)


def rates_tried(search: Mapping[str, Mapping[str, float]], **how: Any) -> Listing:
    """Mean accuracy of every method at every learning rate, a star where it is the first of the highest.

    Args:
        search: method -> learning rate -> mean accuracy; the rates in one order.
        how: draws, labels and pairs of the search.
    """
    names = ("method", *next(iter(search.values())))
    star = lambda means, rate: " *" * (rate == max(means, key=means.__getitem__))
    lines = [(m, *(f"{100 * v:.1f}{star(means, rate)}" for rate, v in means.items())) for m, means in search.items()]
    return Listing(id="search", title="Learning rates", names=names, lines=lines, note=SEARCHED.format(**how))
