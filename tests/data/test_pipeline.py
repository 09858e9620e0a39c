"""Batches: every group as often as asked, the same for a seed, resumed bit for bit, split over processes."""

import dataclasses
import itertools
import json
from collections import Counter

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from rmjax.data.packing import fit
from rmjax.data.pipeline import Order, batches, draw
from rmjax.data.rows import Group, Rows
from rmjax.errors import UserError


def make(count: int, *, seed: int = 0, candidates: int = 1) -> list[Group]:
    """Group k has the prompt token k + 1 first, so that a row tells which groups it holds."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.permutations(range(candidates), 2))
    out = []
    for k in range(count):
        prompt = [k + 1, *[0] * int(rng.integers(0, 20))]
        completions = [[1000 * (k + 1) + c] * int(rng.integers(1, 9)) for c in range(candidates)]
        weight = [100.0 * (k + 1) + 10 * i + j for i, j in pairs]
        ref = [-float(c) for c in range(candidates)]
        out.append(Group(id=str(k), prompt=prompt, completions=completions, ref_logps=ref, pairs=pairs, weight=weight))
    return out


def visits(rows: list[Rows]) -> list[int]:
    """The groups that batches hold, in order."""
    out = []
    for batch in rows:
        first = (batch.positions == 0) & (batch.group >= 0) & (batch.branch == 0)
        out += (batch.tokens[first] - 1).tolist()
    return out


def same(a: Rows, b: Rows) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


GROUPS = make(37)
SHAPE = fit(GROUPS, length=64)


def test_epochs_visit_every_group_so_often_and_in_a_new_order():
    it = batches(GROUPS, SHAPE, batch=4, seed=3, epochs=3)
    rows = list(it)
    assert len(rows) == it.total
    seen = visits(rows)
    assert Counter(seen) == {k: 3 for k in range(37)}
    assert all(batch.tokens.shape == (4, 64) for batch in rows)
    firsts = [seen.index(k) for k in range(37)]
    assert firsts != sorted(firsts)


def test_every_epoch_is_another_permutation():
    order, other = Order(50, 3), Order(50, 4)
    epochs = [[order(50 * e + i) for i in range(50)] for e in range(5)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert epochs[0] != list(range(50))
    assert epochs[0] != [other(i) for i in range(50)]
    assert [Order(50, 3)(i) for i in (120, 7, 120)] == [epochs[2][20], epochs[0][7], epochs[2][20]]


def test_the_last_batch_is_padded_with_empty_rows():
    *_, last = batches(GROUPS[:5], fit(GROUPS[:5]), batch=8, seed=0, epochs=1)
    full = (last.group >= 0).any(axis=1)
    assert 0 < full.sum() < 8
    for name, blank in (("group", -1), ("target", -1), ("source", -1), ("slot", -1), ("slot_last", -1), ("pairs", -1)):
        assert (getattr(last, name)[~full] == blank).all()
    for name in ("weight", "margin", "smooth", "ref_logps", "tokens"):
        assert (getattr(last, name)[~full] == 0).all()


def test_a_seed_gives_the_same_batches_and_another_seed_others():
    a, b, c = (list(batches(GROUPS, SHAPE, batch=2, seed=s, steps=9)) for s in (1, 1, 2))
    assert all(map(same, a, b))
    assert not all(map(same, a, c))


def test_steps_go_on_over_epochs():
    rows = list(batches(GROUPS[:3], fit(GROUPS[:3], length=64), batch=1, seed=0, steps=11))
    assert len(rows) == 11
    assert all((batch.group >= 0).any() for batch in rows)


@pytest.mark.parametrize("options", [{"epochs": 4}, {"steps": 30}, {"epochs": 4, "pairs_per_group": 2}])
def test_resuming_anywhere_gives_the_rest_bit_for_bit(options):
    groups = make(19, candidates=3)
    shape = fit(groups, length=128)
    begin = lambda: batches(groups, shape, batch=3, seed=5, **options)
    whole = begin()
    states, rows = [whole.get_state()], []
    for batch in whole:
        rows.append(batch)
        states.append(whole.get_state())
    assert len(rows) > 4
    for k, state in enumerate(states):
        it = begin()
        for _ in range(k % 3):  # whatever was read before is forgotten
            next(it)
        it.set_state(json.loads(json.dumps(state)))
        assert it.get_state() == state
        rest = list(it)
        assert len(rest) == len(rows) - k
        assert all(map(same, rest, rows[k:]))


def test_a_position_in_other_data_is_refused():
    state = batches(GROUPS, SHAPE, batch=2, seed=1, epochs=1).get_state()
    for groups, seed in ((GROUPS[1:], 1), (GROUPS, 2)):
        with pytest.raises(UserError, match="belongs to other data"):
            batches(groups, SHAPE, batch=2, seed=seed, epochs=1).set_state(state)


def test_processes_hold_the_batches_of_one_between_them():
    options = {"batch": 6, "seed": 1, "epochs": 2, "pairs_per_group": 1}
    groups = make(37, candidates=3)
    shape = fit(groups, length=96, pairs_per_group=1)
    shares = [0, 4, 5], [1], [2, 3]  # a mesh may mix the devices of processes
    parts = [batches(groups, shape, own=own, **options) for own in shares]
    for batch, *pieces in zip(list(batches(groups, shape, **options)), *parts, strict=True):
        for own, piece in zip(shares, pieces, strict=True):
            assert same(piece, jax.tree.map(lambda x, own=own: x[own], batch))
        assert len({json.dumps(part.get_state()) for part in parts}) == 1


def test_a_position_continues_with_another_number_of_processes():
    begin = lambda own: batches(GROUPS, SHAPE, batch=4, seed=1, epochs=2, own=own)
    half, whole = begin([1, 3]), list(begin(range(4)))
    next(half), next(half)
    rest = begin(range(4))
    rest.set_state(half.get_state())
    assert len(whole) > 2 and all(same(a, b) for a, b in zip(rest, whole[2:], strict=True))


def test_pairs_are_drawn_anew_at_every_visit_and_bring_only_their_candidates():
    groups = make(6, candidates=4)
    shape = fit(groups, pairs_per_group=1)
    assert shape.slots < fit(groups).slots
    drawn: dict[int, list] = {k: [] for k in range(6)}
    for batch in batches(groups, shape, batch=2, seed=0, epochs=40, pairs_per_group=1):
        for row in range(2):
            for (i, j), weight in zip(batch.pairs[row], batch.weight[row], strict=True):
                if i < 0:
                    continue
                ids = [int(batch.tokens[row][batch.slot_last[row][s]]) for s in (i, j)]
                k = ids[0] // 1000 - 1
                pair = tuple(n % 1000 for n in ids)
                assert weight == 100 * (k + 1) + 10 * pair[0] + pair[1]
                assert batch.ref_logps[row][i] == -pair[0]
                drawn[k].append(pair)
            assert (batch.slot_last[row] >= 0).sum() == 2 * (batch.pairs[row, :, 0] >= 0).sum()
    for pairs in drawn.values():
        assert len(pairs) == 40
        assert len(set(pairs)) > 8  # of 12
        assert max(Counter(pairs).values()) < 15


def test_a_draw_keeps_columns_together():
    group = make(1, candidates=4)[0]
    group = dataclasses.replace(group, margin=[2 * w for w in group.weight])
    for seed in range(20):
        few = draw(group, np.random.default_rng(seed), 3)
        assert len(few.pairs) == 3
        assert sorted({i for pair in few.pairs for i in pair}) == list(range(len(few.completions)))
        for (i, j), weight, margin in zip(few.pairs, few.weight, few.margin, strict=True):
            old = [group.completions.index(few.completions[k]) for k in (i, j)]
            assert weight == 100 + 10 * old[0] + old[1] == margin / 2
            assert few.ref_logps[i] == group.ref_logps[old[0]]
    assert draw(group, np.random.default_rng(0), 99).pairs == group.pairs
    alone = dataclasses.replace(group, pairs=(), weight=(), margin=())
    assert draw(alone, np.random.default_rng(0), 2) is alone


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 1, "epochs": 1}, "give one of the two"),
        ({}, "give one of the two"),
        ({"steps": 1, "batch": 0}, "batch=0"),
        ({"steps": 1, "pairs_per_group": 0}, "pairs_per_group=0"),
        ({"steps": 1, "groups": []}, "no group to train on"),
        ({"steps": 1, "groups": make(1, candidates=99)}, "too_"),
    ],
)
def test_impossible_options_are_refused(options, says):
    options = {"groups": GROUPS, "batch": 2, "seed": 0, **options}
    with pytest.raises(UserError, match=says):
        batches(options.pop("groups"), SHAPE, **options)


def test_orbax_saves_and_restores_the_position(tmp_path):
    begin = lambda: batches(GROUPS, SHAPE, batch=2, seed=1, epochs=2)
    it = begin()
    for _ in range(3):
        next(it)
    with ocp.training.Checkpointer(tmp_path) as checkpoints:
        checkpoints.save_checkpointables(3, {"data": it})
        other = begin()
        checkpoints.load_checkpointables(3, {"data": other})
    assert other.get_state() == it.get_state()
    assert all(map(same, it, other))
