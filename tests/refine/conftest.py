"""Records to refine."""

import pytest
from judgment_factory import build

from rmjax.records import Message, Preference


@pytest.fixture
def judgment():
    return build


@pytest.fixture
def pair():
    """(id) -> a labelled pair."""
    return lambda name, **fields: Preference(
        id=name, prompt=(Message("user", "q"),), chosen="good", rejected="bad", **fields
    )
