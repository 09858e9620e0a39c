"""Numbers outside their bounds are refused by name, value and bounds; NaN and infinities always."""

import math
import re
from types import SimpleNamespace

import pytest

from rmjax.bounds import require
from rmjax.errors import UserError


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        (0, {"least": 1}, "of at least 1"),
        (math.inf, {"least": 0}, "of at least 0"),
        (math.nan, {"least": 0}, "of at least 0"),
        (-math.inf, {"most": 1}, "at most 1"),
        (0.0, {"above": 0}, "above 0"),
        (1.5, {"least": 0, "most": 1}, "of at least 0 and at most 1"),
        (1.0, {"least": 0, "below": 1}, "of at least 0 and below 1"),
        (10**400, {"least": 0, "most": 2**32 - 1}, "of at least 0 and at most 4294967295"),
    ],
)
def test_outside(value, bounds, said):
    with pytest.raises(UserError, match=re.escape(f"part.x={value}: give a number ") + f".*{said}$"):
        require("part.", SimpleNamespace(x=value), "x", **bounds)


@pytest.mark.parametrize(
    ("value", "bounds"),
    [(1, {"least": 1}), (1e-300, {"above": 0}), (1, {"least": 0, "most": 1}), (0, {"least": 0, "below": 1})],
)
def test_inside(value, bounds):
    require("part.", SimpleNamespace(x=value, y=value), "x", "y", **bounds)
