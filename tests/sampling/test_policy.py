"""Impossible settings are refused, with the field and the fix."""

import pytest

from rmjax.errors import UserError
from rmjax.sampling.policy import Sampling


@pytest.mark.parametrize(
    "field, value",
    [
        ("temperature", -0.1),
        ("temperature", 1e-40),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("max_new_tokens", 0),
        ("stop", ("a", "")),
        ("stop", "abc"),
        ("watch", (-1,)),
        ("allowed", (-2,)),
        ("allowed", (3, 3)),
    ],
)
def test_impossible_values(field, value):
    with pytest.raises(UserError, match=f"sampling field {field}="):
        Sampling(**{field: value})


def test_ids_beyond_the_vocabulary():
    Sampling(watch=(4,), allowed=(1, 4)).check_vocab(5)
    with pytest.raises(UserError, match="watch: id 5 is beyond the model's 5"):
        Sampling(watch=(5,)).check_vocab(5)
    with pytest.raises(UserError, match="allowed: id 9"):
        Sampling(allowed=(1, 9)).check_vocab(5)
