"""The TPU kernels, interpreted on a CPU, against dense attention; and the programs that are made for a TPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, AxisType
from test_blockwise import rows

from rmjax.models import attention, blockwise, flash, flash_tiles
from rmjax.models.blockwise import Layout
from rmjax.sharding import MESH_AXES

T, HEADS, KV, SIZE = 300, 4, 2, 8  # 3 blocks of 128, the last one with padding
LONG = 4096
attend = functools.partial(attention.attend, window=None, softcap=0.0, scale=0.125)


@pytest.fixture
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`attention.attend` takes the kernels, interpreted, with small blocks."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, tpu, default: tpu(*args))
    monkeypatch.setattr(flash.pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))
    monkeypatch.setattr(flash, "block_size", lambda t: 128)


def vectors(t: int = T) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of many short groups; one long prompt with two branches; one that is padding from its middle on."""
    positions, group, branch = rows(t, b=3)
    positions[1:], group[1:], branch[1:] = np.arange(t), 0, 0
    start = t - 30
    branch[1, start:] = np.repeat((1, 2), 15)
    positions[1, start:] = start + np.tile(np.arange(15), 2)
    group[2, t // 2 :] = -1
    return positions, group, branch


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("window", "softcap", "dtype", "tolerance"),
    [(40, 1.5, "float32", 1e-5), (None, 0.0, "bfloat16", 0.03)],
)
def test_kernels_are_dense(on_tpu, window: int | None, softcap: float, dtype: str, tolerance: float):
    shapes = (3, T, HEADS, SIZE), (3, T, KV, SIZE), (3, T, KV, SIZE)
    args = [jnp.asarray(normal(i, *shape), dtype) for i, shape in enumerate(shapes)]
    marks = tuple(map(jnp.int32, vectors()))
    # Padding has a gradient here: nothing of it may reach a token.
    g = jnp.asarray(normal(3, *shapes[0]), dtype)

    def dense(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q = q.reshape(3, T, KV, -1, SIZE)
        return attention.dense(q, k, v, attention.visible(*marks, window), softcap, 0.5).reshape(shapes[0])

    def kernels(*args: jax.Array) -> jax.Array:
        return attention.attend(*args, *marks, window=window, softcap=softcap, scale=0.5)

    both = lambda f, *args: jax.jit(lambda g, *a: (f(*a), *jax.vjp(f, *a)[1](g)))(g.astype(args[0].dtype), *args)
    want = both(dense, *(x.astype(jnp.float32) for x in args))
    got = both(kernels, *args)
    here = np.asarray(marks[1] >= 0)
    for name, x, y in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
        assert x.dtype == dtype and np.isfinite(x.astype(jnp.float32)).all(), name
        x, y = np.asarray(x, np.float32)[here], np.asarray(y)[here]
        assert np.linalg.norm(x - y) < tolerance * np.linalg.norm(y), name
        np.testing.assert_allclose(x, y, atol=4 * tolerance * np.abs(y).max(), err_msg=name)


def test_encoders_see_both_ways(on_tpu):
    q, k, v = (jnp.float32(normal(i, 3, T, KV, SIZE)) for i in range(3))
    group = jnp.int32(vectors()[1])
    here = np.asarray(group >= 0)

    def loss(attend, *args):
        return jnp.sum(jnp.where(here[..., None, None], jnp.sin(attend(*args)), 0))

    def dense(q, k, v):
        return attention.dense(q[:, :, :, None], k, v, group[:, :, None] == group[:, None], 0.0, SIZE**-0.5)[:, :, :, 0]

    value = lambda attend: jax.jit(jax.value_and_grad(functools.partial(loss, attend), argnums=(0, 1, 2)))(q, k, v)
    got, want = value(lambda *a: attention.attend_both_ways(*a, group)), value(dense)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for x, y in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(np.asarray(x)[here], np.asarray(y)[here], atol=2e-6)


def anything(t: int, seed: int) -> list[np.ndarray]:
    """A row of runs of any group and branch, in any order, padding between them; a row of padding."""
    r = np.random.default_rng(seed)
    lengths = r.integers(1, (4, 400)[seed % 2], t)
    runs = [np.repeat(r.integers(low, high, t), lengths)[:t] for low, high in ((-1, 3), (0, 3))]
    return [np.stack((x, np.full(t, y))) for x, y in zip((r.integers(0, 90, t), *runs), (0, -1, 0), strict=True)]


def test_any_layout_is_dense(on_tpu):
    t = 384
    q, k, v, g = (jnp.float32(normal(i, 2, t, n, SIZE)) for i, n in enumerate((2, 1, 1, 2)))

    def dense(q, k, v, marks, window):
        mask = attention.visible(*marks, window)
        return attention.dense(q[:, :, None], k, v, mask, 0.0, 0.5).reshape(q.shape)

    kernels = lambda q, k, v, marks, window: attention.attend(q, k, v, *marks, window=window, softcap=0.0, scale=0.5)

    @functools.partial(jax.jit, static_argnums=0)
    def both(f, g, marks, window):
        out, vjp = jax.vjp(lambda *a: f(*a, marks, window), q, k, v)
        return out, *vjp(g)

    for seed in range(4):
        marks, window = tuple(map(jnp.int32, anything(t, seed))), jnp.int32((90, 30)[seed // 2])
        here = np.asarray(marks[1] >= 0)[:, :, None, None]
        got, want = both(kernels, g, marks, window), both(dense, jnp.where(here, g, 0), marks, window)
        for name, x, y in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
            assert np.isfinite(x).all() and (name == "out" or not np.where(here, 0, x).any()), "padding has no gradient"
            np.testing.assert_allclose(np.where(here, x, 0), np.where(here, y, 0), atol=1e-5, err_msg=name)


def test_what_nobody_sees_is_not_read(on_tpu):
    """Values of another group's blocks are NaN: one product with them, even with weights 0, would show."""
    group = jnp.repeat(jnp.arange(3), 128)[None]
    none = jnp.zeros_like(group)
    q, k, v = (jnp.float32(normal(i, 1, 384, 1, SIZE)) for i in range(3))
    v = v.at[:, 128:256].set(jnp.nan)
    out = jax.jit(functools.partial(attend, scale=1.0))(q, k, v, none, group, none)
    assert np.array_equal(np.isnan(np.asarray(out[0, :, 0, 0])), np.asarray(group[0] == 1))


@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize("causal", [True, False])
def test_lists_hold_every_tile_that_is_needed(causal: bool, window: int | None):
    block, t = 16, 320
    positions, group, branch = vectors(t)
    layout = Layout(*map(jnp.int32, (positions, group, branch)), None if window is None else jnp.int32(window))
    query, key = (lambda x: x[:, :, None]), (lambda x: x[:, None, :])
    mask = (query(group) == key(group)) & query(group >= 0) & ((key(branch) == 0) | (key(branch) == query(branch)))
    if causal:
        mask &= np.tri(t, dtype=bool)
    if window is not None:
        mask &= query(positions) - key(positions) < window
    j = t // block
    cut = mask.reshape(3, j, block, j, block)
    any_seen, all_seen = cut.any(axis=(2, 4)), cut.all(axis=(2, 4))
    most = np.count_nonzero(np.tri(j) if causal else np.ones((j, j)))
    assert flash_tiles.most_tiles(3, j, causal) == 3 * most

    def tiles(by_key: bool) -> tuple[np.ndarray, np.ndarray]:
        lists = jax.jit(lambda x: flash_tiles.list_tiles(x, block, causal, by_key))(layout)
        n = int(lists.count)
        outer, inner, full = (np.asarray(x) for x in lists[:3])
        assert (outer[n:] == -1).all() and (outer[:n] >= 0).all() and (np.diff(outer[:n]) >= 0).all()
        assert np.array_equal(np.unique(outer[:n]), np.arange(3 * j)), "every block is written"
        listed, unmasked = np.zeros((2, 3, j, j), bool)
        at = (outer[:n] // j, outer[:n] % j, inner[:n])
        listed[at], unmasked[at] = True, full[:n] == 1
        assert listed.sum() == n, "no tile twice"
        return (listed.swapaxes(1, 2), unmasked.swapaxes(1, 2)) if by_key else (listed, unmasked)

    listed, unmasked = tiles(by_key=False)
    assert not (any_seen & ~listed).any() and listed.sum() <= 1.05 * any_seen.sum() + 3 * j
    assert not (unmasked & ~all_seen).any() and unmasked.sum() >= 0.9 * all_seen.sum() > 0
    for x, y in zip(tiles(by_key=True), (listed, unmasked), strict=True):
        assert np.array_equal(x, y)


def lowered(platform: str, f, *, b: int = 1, mesh: AbstractMesh | None = None) -> str:
    """StableHLO of the value and gradients of attention over rows of `LONG` tokens."""
    dtype = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    args = [dtype(b, LONG, n, 64) for n in (4, 2, 2)] + [jax.ShapeDtypeStruct((b, LONG), jnp.int32)] * 3
    loss = lambda *args: jnp.sum(f(*args).astype(jnp.float32))
    with jax.sharding.use_abstract_mesh(mesh) if mesh else jax.default_matmul_precision("default"):
        traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).trace(*args)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["tpu", "cuda", "cpu"])
def test_the_platform_chooses_and_nothing_is_quadratic(platform: str):
    text = lowered(platform, attend)
    assert ("tpu_custom_call" in text) == (platform == "tpu")
    sizes = [np.prod([int(n) for n in dims.split("x")[:-1]]) for dims in re.findall(r"tensor<((?:\d+x)+)", text)]
    assert 0 < max(sizes) < LONG * LONG / 2


def test_kernels_run_on_each_device_of_a_mesh():
    mesh = AbstractMesh((2, 2, 2), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    text = lowered("tpu", attend, b=4, mesh=mesh)
    kernels = [line for line in text.splitlines() if "tpu_custom_call" in line]
    assert len(kernels) == 3
    assert all(f"tensor<1x2x{LONG}x64xbf16>" in line for line in kernels), "1 row and 2 of 4 heads a device"


def test_a_policy_can_keep_what_the_forward_kernel_made():
    def calls(policy) -> int:
        f = jax.checkpoint(lambda *a: jnp.sin(attend(*a)), policy=policy)
        return len(re.findall(r'kernel_name = "forward_kernel"', lowered("tpu", f)))

    policies = jax.checkpoint_policies
    assert calls(policies.nothing_saveable) == 2
    assert calls(policies.save_only_these_names(blockwise.NAME)) == 1
