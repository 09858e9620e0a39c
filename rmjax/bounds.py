"""Numbers that a user gives, refused by name where they cannot be meant."""

from __future__ import annotations

import math
from typing import Any

from rmjax.errors import UserError

LAST_SEED = 2**32 - 1  # jobs derive other seeds from theirs, and all of them must fit 63 bits


def require(
    where: str,
    owner: Any,
    *names: str,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Raises UserError unless the fields `names` of `owner` are within the bounds; NaN and infinities never are.

    Args:
      where: what stands before a field's name: "train."; empty for a job's own fields.
      least, most: bounds that are allowed themselves.
      above, below: bounds that are not.
    """
    for name in names:
        value = getattr(owner, name)
        if not (least <= value <= most and above < value < below):
            low = f"above {above}" if above > -math.inf else f"of at least {least}"
            high = f" and at most {most}" if most < math.inf else f" and below {below}" if below < math.inf else ""
            raise UserError(f"{where}{name}={value}: give a number {low}{high}")
