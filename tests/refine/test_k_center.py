"""k-center greedy takes what a loop over all points takes, whatever its batch; ties go to the first."""

import jax
import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.refine.k_center import BLOCK, KCenter, _top, greedy
from rmjax.refine.select import Pool


def loop(x: np.ndarray, count: int, centres: np.ndarray) -> list[int]:
    x = x.astype(np.float64)
    nearest, out = np.full(len(x), np.inf), []
    for c in centres:
        nearest = np.minimum(nearest, ((x - x[c]) ** 2).sum(1))
    nearest[centres] = -1
    for _ in range(count):
        out.append(j := int(np.argmax(nearest)))
        taken = nearest < 0
        nearest = np.minimum(nearest, ((x - x[j]) ** 2).sum(1))
        nearest[taken] = nearest[j] = -1
    return out


# Small whole numbers: every distance is exact in float32, and many are equal.
@pytest.mark.parametrize(
    ("n", "f", "count", "labelled", "batch", "seeds"),
    [(40, 1, 40, 0, 16, 1), (3 * BLOCK + 1, 2, 49, 5, 2, 1), (300, 4, 60, 5, 16, 12)],
    ids=["all of them, none labelled, most coincide", "more blocks than a batch has points", "ties of many kinds"],
)
def test_against_a_loop(n, f, count, labelled, batch, seeds):
    for seed in range(seeds):  # a tie that is broken wrongly shows in some sets of points only
        rng = np.random.default_rng(seed)
        x = rng.integers(-3, 4, (n, f)).astype(np.float32)
        centres = rng.permutation(n)[:labelled]
        assert greedy(x, count, centres=centres, batch=batch).tolist() == loop(x, count, centres)


def test_the_largest_of_equal_values_are_the_first():
    value = np.random.default_rng(0).integers(0, 4, 3 * BLOCK + 1).astype(np.float32)
    value[BLOCK : 2 * BLOCK] -= 1  # the blocks' own maxima differ
    found, place = jax.jit(_top, static_argnums=1)(value, 900)
    wanted = np.argsort(-value, kind="stable")[:900]
    assert place.tolist() == wanted.tolist() and found.tolist() == value[wanted].tolist()


def test_real_numbers_in_the_space_of_answers():
    rng = np.random.default_rng(1)
    first, second = (rng.standard_normal((2, 300, 3)) + 3 * rng.integers(0, 4, (2, 300, 1))).astype(np.float32)
    x = np.concatenate([first + second, abs(first - second)], axis=1)
    labelled = np.array([3, 9])
    chosen = KCenter(of="answers").choose(Pool(first=first, second=second), 60, labelled=labelled, seed=0)
    assert chosen.tolist() == loop(x, 60, labelled)
    large = Pool(first=1e19 * first, second=second)  # same shapes: no new program
    with pytest.raises(UserError, match=r"squared length is inf; scale the features down"):
        KCenter(of="answers").choose(large, 60, labelled=labelled, seed=0)


def test_more_picks_than_points_end():
    with pytest.raises(ValueError, match="count=4: 3 of 5 points are no centres"):
        greedy(np.zeros((5, 2), np.float32), 4, centres=np.array([0, 3, 3]))
