"""Packed rows say exactly what the unpacked sequences say: every scored token sees its own prefix, in order."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmjax.data.limits import limit
from rmjax.data.loads import bucket, load
from rmjax.data.packing import FirstFit, empty, fit, pack, stack
from rmjax.data.pipeline import draw
from rmjax.data.rows import Group, Rows, RowShape
from rmjax.errors import UserError

FIELDS = [f.name for f in dataclasses.fields(Rows) if f.name != "dropout"]  # a training step puts it there


@st.composite
def groups(draw, max_groups=8):
    """Groups with distinct tokens, so that a token tells where it came from."""
    out, token = [], iter(range(1, 10**6))
    ids = lambda n: [next(token) for _ in range(n)]
    for number in range(draw(st.integers(1, max_groups))):
        prompt = ids(draw(st.integers(1, 12)))
        completions = [ids(draw(st.integers(1, 7))) for _ in range(draw(st.integers(1, 4)))]
        every = [(i, j) for i in range(len(completions)) for j in range(len(completions)) if i != j]
        pairs = draw(st.lists(st.sampled_from(every), unique=True, max_size=4)) if every else []
        floats = lambda n: [draw(st.floats(-2, 2, width=32)) for _ in range(n)]
        out.append(
            Group(
                id=str(number),
                prompt=prompt,
                completions=completions,
                ref_logps=floats(len(completions)) if draw(st.booleans()) else (),
                pairs=pairs,
                weight=floats(len(pairs)) if draw(st.booleans()) else (),
                margin=floats(len(pairs)) if draw(st.booleans()) else (),
                smooth=floats(len(pairs)) if draw(st.booleans()) else (),
            )
        )
    return out


def context(row: Rows, i: int) -> list[tuple[int, int]]:
    """(position, token) of everything that token i sees, by the rule of rows.py, enumerated."""
    seen = []
    for j in range(len(row.tokens)):
        same = row.group[i] == row.group[j] and row.group[i] >= 0
        if same and j <= i and row.branch[j] in (0, row.branch[i]):
            seen.append((int(row.positions[j]), int(row.tokens[j])))
    return seen


def check_row(row: Rows, members: list[Group]) -> None:
    slots = [(group, c) for group in members for c in range(len(group.completions))]
    scored = [k for k in range(len(row.target)) if row.target[k] >= 0]
    expected = [(s, k) for s, (group, c) in enumerate(slots) for k in range(len(group.completions[c]))]
    assert len(scored) == len(expected)
    for place, (s, k) in zip(scored, expected, strict=True):
        group, c = slots[s]
        sequence = [*group.prompt, *group.completions[c]]
        at = len(group.prompt) + k
        source, target = row.source[place], row.target[place]
        assert row.slot[place] == s
        assert (row.tokens[target], row.positions[target]) == (sequence[at], at)
        assert context(row, source) == list(enumerate(sequence[:at]))
        assert context(row, target) == list(enumerate(sequence[: at + 1]))
    for s, (group, c) in enumerate(slots):
        assert row.tokens[row.slot_last[s]] == group.completions[c][-1]
        assert row.branch[row.slot_last[s]] == s + 1
        assert row.ref_logps[s] == np.float32(group.ref_logps[c] if group.ref_logps else 0)
    expected = []
    first = 0
    for group in members:
        for n, (i, j) in enumerate(group.pairs):
            columns = [getattr(group, name) for name in ("weight", "margin", "smooth")]
            usual = (1.0, 0.0, 0.0)
            expected.append((first + i, first + j, *(c[n] if c else u for c, u in zip(columns, usual, strict=True))))
        first += len(group.completions)
    made = [
        (*row.pairs[k].tolist(), float(row.weight[k]), float(row.margin[k]), float(row.smooth[k]))
        for k in range(len(row.pairs))
    ]
    assert made[: len(expected)] == expected
    assert all(m == (-1, -1, 0, 0, 0) for m in made[len(expected) :])
    assert all(row.slot_last[len(slots) :] == -1)
    for name in ("target", "source", "slot"):
        assert all(getattr(row, name)[len(scored) :] == -1)


@settings(max_examples=60, deadline=None)
@given(groups(), st.booleans(), st.integers(1, 3))
def test_every_scored_token_sees_its_own_sequence_and_nothing_else(batch, share, window):
    shape = fit(batch, length=96, share=share)
    packed = pack(batch, shape, share=share, window=window)
    assert sorted(k for keys in packed.members for k in keys) == list(range(len(batch)))
    for row, keys in zip(packed.rows, packed.members, strict=True):
        check_row(row, [batch[k] for k in keys])


@settings(max_examples=30, deadline=None)
@given(groups())
def test_a_shared_prompt_is_stored_once(batch):
    packed = pack(batch, fit(batch))
    stored = np.concatenate([row.tokens[row.group >= 0] for row in packed.rows])
    every = [t for g in batch for t in [*g.prompt, *(t for c in g.completions for t in c)]]
    assert sorted(stored.tolist()) == sorted(every)


@settings(max_examples=30, deadline=None)
@given(groups())
def test_padding_is_seen_by_nobody_and_sees_nobody(batch):
    for row in pack(batch, fit(batch)).rows:
        for i in np.flatnonzero(row.group < 0):
            assert context(row, i) == []
        blank = empty(fit(batch))
        for name in ("tokens", "positions", "branch"):
            assert all(getattr(row, name)[row.group < 0] == getattr(blank, name)[row.group < 0])


def simple(id_, prompt, *completions, **columns) -> Group:
    return Group(id=str(id_), prompt=[7] * prompt, completions=[[8] * n for n in completions], **columns)


def test_first_fit_fills_gaps_and_is_deterministic():
    batch = [simple(i, size, 1) for i, size in enumerate([60, 40, 20, 50, 10, 3])]  # of 64: rows 61, 41+21, 51+11, 4
    shape = fit(batch, length=64)
    assert pack(batch, shape).members == [[0], [1, 2], [3, 4], [5]]
    assert pack(batch, shape, window=1).members == [[0], [1, 2], [3, 4], [5]]
    wide = [simple(i, size, 1) for i, size in enumerate([40, 60, 20])]
    assert pack(wide, shape).members == [[0, 2], [1]]
    assert pack(wide, shape, window=1).members == [[0], [1], [2]]  # the row of 40 was closed for that of 60


def test_a_row_closes_on_any_full_column():
    batch = [simple(i, 3, 2, 2, pairs=[(0, 1)]) for i in range(4)]
    for shape in (
        RowShape(length=64, slots=4, targets=64, pairs=64),
        RowShape(length=64, slots=64, targets=8, pairs=64),
        RowShape(length=64, slots=64, targets=64, pairs=2),
        RowShape(length=14, slots=64, targets=64, pairs=64),
    ):
        assert pack(batch, shape).members == [[0, 1], [2, 3]]


def test_the_packer_state_can_be_taken_and_restored():
    shape = RowShape(length=64, slots=64, targets=64, pairs=64)
    sizes = [load(simple(i, n, 1)) for i, n in enumerate([40, 30, 20, 50, 10, 60, 5])]
    one = FirstFit(shape, window=2)
    for key in range(4):
        one.add(key, sizes[key])
    two = FirstFit(shape, window=2)
    two.reopen([[(k, sizes[k]) for k in row] for row in one.open_rows()])
    assert [one.add(k, sizes[k]) for k in range(4, 7)] == [two.add(k, sizes[k]) for k in range(4, 7)]
    assert [one.close() for _ in range(3)] == [two.close() for _ in range(3)]
    assert one.close() is None


@pytest.mark.parametrize(("n", "size"), [(0, 32), (1, 32), (32, 32), (33, 64), (256, 256), (257, 384), (1000, 1024)])
def test_buckets(n, size):
    assert bucket(n) == size


def test_fit_gives_the_smallest_bucket_that_holds_all():
    batch = [simple(0, 30, 10), simple(1, 100, 20, 30, pairs=[(0, 1)])]
    assert fit(batch) == RowShape(length=160, slots=2, targets=64, pairs=1)
    assert fit(batch, share=False).length == 256  # 2 x 100 + 50
    assert fit(batch, length=1000) == RowShape(length=1000, slots=4, targets=64, pairs=1)
    assert fit(batch, length=64).length == 64  # the second group is for `limit` to decide on
    with pytest.raises(UserError, match="length 8"):
        fit([simple(0, 100, 1)], length=8)


def test_fit_with_drawn_pairs_holds_the_worst_draw():
    group = simple(0, 10, 5, 9, 3, 7, 60, pairs=[(0, 1), (1, 2), (3, 0)])
    size = load(group, pairs_per_group=1)
    assert (size.length, size.slots, size.targets, size.pairs) == (10 + 9 + 7, 2, 16, 1)
    assert load(group, pairs_per_group=9).slots == 4  # candidate 4 is in no pair
    assert load(group).slots == 5


def test_stack_adds_the_batch_axis():
    shape = fit([simple(0, 3, 2)])
    batch = stack([*pack([simple(0, 3, 2)], shape).rows, empty(shape)])
    assert batch.tokens.shape == (2, shape.length)
    assert batch.pairs.shape == (2, shape.pairs, 2)
    for name in FIELDS:
        kind = np.float32 if name in ("ref_logps", "weight", "margin", "smooth") else np.int32
        assert getattr(batch, name).dtype == kind
    assert batch.group[1].max() == -1
    assert batch.slot_last[1].max() == -1


SHAPE = RowShape(length=32, slots=2, targets=16, pairs=1)
FITS = simple("fits", 20, 6, 6, pairs=[(0, 1)])
LONG = Group(id="long", prompt=list(range(100, 140)), completions=[[1] * 4, [2] * 4], pairs=[(0, 1)])


def test_overlong_error_names_group_and_numbers():
    with pytest.raises(UserError, match=r"group 'long' is too_long: 48 tokens \(prompt 40\).* a row holds 32.*drop"):
        pack([FITS, LONG], SHAPE)


def test_overlong_drop_counts():
    packed = pack([LONG, FITS, LONG], SHAPE, overlong="drop")
    assert (packed.members, packed.dropped) == ([[1]], {"too_long": 2})


@pytest.mark.parametrize("bos", [None, 100, 5])
def test_overlong_keep_end_of_prompt_cuts_the_start_only(bos):
    packed = pack([LONG, FITS], SHAPE, overlong="keep_end_of_prompt", bos=bos)
    assert packed.dropped == {"prompt_cut": 1}
    row = packed.rows[packed.members.index([0])]
    prompt = row.tokens[(row.branch == 0) & (row.group == 0)].tolist()
    assert prompt == ([100, *range(117, 140)] if bos == 100 else list(range(116, 140)))
    assert row.positions[row.branch == 0][: len(prompt)].tolist() == list(range(24))
    assert (row.tokens == 1).sum() == (row.tokens == 2).sum() == 4


def test_keep_end_of_prompt_with_copied_prompts_fits_too():
    packed = pack([LONG], SHAPE, overlong="keep_end_of_prompt", share=False)
    assert (packed.rows[0].group >= 0).sum() == 32


def test_an_answer_is_never_cut():
    huge = simple("huge", 3, 40)
    packed = pack([huge, FITS], RowShape(length=32, slots=2, targets=64, pairs=1), overlong="keep_end_of_prompt")
    assert packed.dropped == {"too_long": 1}
    just = simple("just", 3, 31)
    packed = pack([just], RowShape(length=32, slots=2, targets=64, pairs=1), overlong="keep_end_of_prompt")
    assert (packed.dropped, (packed.rows[0].branch == 0).sum()) == ({"prompt_cut": 1}, 1)


def test_a_prompt_with_reference_logps_is_not_cut():
    scored = dataclasses.replace(LONG, ref_logps=[-1.0, -2.0])
    with pytest.raises(UserError, match="cut before scoring"):
        pack([scored], SHAPE, overlong="keep_end_of_prompt")


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        (simple("x", 3, 1, 1, 1), "too_many_completions"),
        (simple("x", 3, 17), "too_many_targets"),
        (simple("x", 3, 1, 1, pairs=[(0, 1), (1, 0)]), "too_many_pairs"),
    ],
)
def test_other_columns_that_are_too_small(group, reason):
    assert limit([FITS, group], SHAPE, overlong="drop").dropped == {reason: 1}
    assert limit([FITS, group], SHAPE, overlong="drop").kept == [0]
    with pytest.raises(UserError, match=f"'x' is {reason}"):
        limit([group], SHAPE)


def test_limits_after_a_draw():
    group = simple("x", 3, 5, 6, 7, pairs=[(0, 1), (1, 2)])
    assert limit([group], SHAPE, pairs_per_group=1).kept == [0]
    with pytest.raises(UserError, match="too_many_completions"):
        limit([group], SHAPE)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"prompt": []}, "the prompt has no token"),
        ({"completions": []}, "no completion"),
        ({"completions": [[1], []]}, "completion 1 has no token"),
        ({"ref_logps": [0.0]}, "1 ref_logps for 2 completions"),
        ({"pairs": [(0, 2)]}, r"pair \(0, 2\) among 2"),
        ({"pairs": [(1, 1)]}, r"pair \(1, 1\)"),
        ({"weight": [1.0, 2.0]}, "2 values of weight for 1 pairs"),
        ({"margin": [float("nan")]}, "margin is nan"),
        ({"smooth": [float("inf")]}, "smooth is inf"),
    ],
)
def test_malformed_groups_are_refused_under_every_policy(columns, says):
    bad = dataclasses.replace(Group(id="bad", prompt=[1], completions=[[1], [2]], pairs=[(0, 1)]), **columns)
    for policy in ("error", "drop", "keep_end_of_prompt"):
        with pytest.raises(UserError, match=says):
            limit([bad], SHAPE, overlong=policy)


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match="overlong='cut'"):
        limit([FITS], SHAPE, overlong="cut")


def test_columns_may_be_numpy_arrays():
    plain = simple("n", 3, 2, 2, 2, ref_logps=[0.5, 1.5, 2.5], pairs=[(0, 1), (2, 1)], weight=[0.25, 0.5])
    arrays = dataclasses.replace(
        plain,
        prompt=np.asarray(plain.prompt),
        completions=[np.asarray(c) for c in plain.completions],
        **{name: np.asarray(getattr(plain, name)) for name in ("ref_logps", "pairs", "weight")},
    )
    for pairs_per_group in (None, 1):
        shape = fit([arrays], pairs_per_group=pairs_per_group)
        assert shape == fit([plain], pairs_per_group=pairs_per_group)
    a, b = (stack(pack([g], fit([plain])).rows) for g in (plain, arrays))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    few = draw(arrays, np.random.default_rng(0), 1)
    assert (len(few.completions), len(few.ref_logps), len(few.weight)) == (2, 2, 1)
