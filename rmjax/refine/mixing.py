"""Real and synthetic pairs in one training set, the synthetic ones with a weight of their own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from rmjax.errors import UserError
from rmjax.records import Preference


def mix(real: Sequence[Preference], synthetic: Sequence[Preference], *, weight: float) -> list[Preference]:
    """Real pairs as they are, then the synthetic ones, their weights times `weight`.

    A pair without a weight counts 1. Which pairs a batch holds is the trainer's business: it shuffles.

    Raises:
        UserError: a weight that is not above 0, or an id that is on both sides.
    """
    if not 0 < weight < math.inf:
        raise UserError(f"mix.weight={weight}: give a number above 0; without synthetic pairs there is nothing to mix")
    both = {p.id for p in real} & {p.id for p in synthetic}
    if both:
        raise UserError(f"pair {min(both)!r} is among the real and the synthetic pairs: give pairs their own ids")
    weigh = lambda p: dataclasses.replace(p, weight=weight * (1.0 if p.weight is None else p.weight))
    return [*real, *map(weigh, synthetic)]
