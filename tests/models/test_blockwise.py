"""Blockwise attention against the dense one: values, gradients, the work it skips, memory, and its loops on a mesh."""

import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.models import attention, blockwise
from rmjax.models.blockwise import How, Layout, classes

BLOCK = 8
attend = blockwise.differentiable(blockwise.forward, blockwise.backward)


def rows(t: int, seed: int = 0, b: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random packed rows: groups of a prompt and branches, until the row is full; padding behind."""
    r = np.random.default_rng(seed)
    positions, group, branch = np.zeros((b, t), int), np.full((b, t), -1), np.zeros((b, t), int)
    for row in range(b):
        at = slot = number = 0
        while at < t - 10 * row:  # later rows have more padding
            prompt = int(r.integers(1, 20))
            lengths = [prompt, *(int(n) for n in r.integers(1, 14, int(r.integers(0, 4))))]
            for i, n in enumerate(lengths):
                n = min(n, t - at)
                slot += i > 0
                span = slice(at, at + n)
                group[row, span], branch[row, span] = number, slot if i else 0
                positions[row, span] = np.arange(n) + (prompt if i else 0)
                at += n
            number += 1
    return positions, group, branch


def qkv(t: int, *, b: int = 3, heads: int = 2, per: int = 2, size: int = 4) -> list[jax.Array]:
    r = np.random.default_rng(1)
    return [jnp.float32(r.normal(size=(b, t, heads, *(() if kv else (per,)), size))) for kv in (False, True, True)]


@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), (5, 1.5)])
@pytest.mark.parametrize("t", [8, 40, 72])
def test_blocks_are_dense(t: int, window: int | None, softcap: float):
    q, k, v = qkv(t)
    vectors = tuple(map(jnp.int32, rows(t)))
    layout = Layout(*vectors, None if window is None else jnp.int32(window))
    here = np.asarray(vectors[1] >= 0)
    g = jnp.where(here[..., None, None, None], jnp.float32(np.random.default_rng(2).normal(size=q.shape)), 0)

    def both(f):
        return jax.jit(lambda *a: (*jax.vjp(f, *a)[1](g), f(*a)))(q, k, v)

    want = both(lambda *a: attention.dense(*a, attention.visible(*vectors, window), softcap, 0.5))
    got = both(lambda *a: attend(*a, layout, How(softcap, 0.5, block=BLOCK)))
    for name, x, y in zip(("dq", "dk", "dv", "out"), got, want, strict=True):
        assert np.isfinite(x).all(), name
        where = here.reshape(here.shape + (1,) * (x.ndim - 2))
        np.testing.assert_allclose(np.where(where, x, 0), np.where(where, y, 0), atol=3e-6, err_msg=name)


def test_plan_covers_what_is_seen_and_little_else():
    t = 256
    vectors = rows(t, seed=3)
    plan = jax.jit(lambda *a: blockwise._plan(Layout(*a, None), BLOCK))(*vectors)
    mask = np.array(attention.visible(*map(jnp.int32, vectors), None)) & (vectors[1] >= 0)[:, :, None]
    j = t // BLOCK
    seen = mask.reshape(-1, j, BLOCK, j, BLOCK).any(axis=(2, 4)).reshape(-1, j)
    planned = np.zeros_like(seen)
    for i, (blocks, n) in enumerate(zip(plan.blocks, plan.needs, strict=True)):
        planned[i, np.asarray(blocks)[: int(n)]] = True
    assert not (seen & ~planned).any(), "a visible key block is left out"
    assert planned.sum() <= 1.05 * seen.sum(), "extents should be nearly exact on contiguous groups"
    assert planned.sum() < 0.4 * len(planned) * (j + 1) / 2, "short groups must skip most of the causal half"


def test_every_item_is_visited_once_and_padding_never():
    vectors = rows(256, seed=4)
    plan = blockwise._plan(Layout(*map(jnp.int32, vectors), None), BLOCK)
    visits = blockwise._each_item(plan, jnp.zeros(plan.needs.shape, jnp.int32), lambda n, i, size: n.at[i].add(size))
    assert np.array_equal(visits > 0, plan.needs > 0)
    assert (np.asarray(visits) >= np.asarray(plan.needs)).all()


@pytest.mark.parametrize("blocks", [1, 2, 7, 8, 64, 256])
def test_classes(blocks: int):
    sizes = classes(blocks)
    assert sizes[0] == 1 and sizes[-1] == blocks and list(sizes) == sorted(set(sizes))
    assert all(b <= max(a + 1, a * 4 / 3) for a, b in itertools.pairwise(sizes))


def test_memory_is_linear():
    """Four times the tokens: below five times the gradient's temporary memory; dense needs nearly 16 times."""

    def temporary(t: int) -> int:
        q, k, v = qkv(t, b=1)
        vectors = tuple(map(jnp.int32, rows(t, b=1)))
        f = lambda *a: attend(*a, Layout(*vectors, None), How(0.0, 1.0, block=32)).sum()
        compiled = jax.jit(jax.grad(f, argnums=(0, 1, 2))).lower(q, k, v).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(512) < 5 * temporary(128)


def test_long_rows_of_any_length_take_blocks():
    """`attend` pads rows that are not whole blocks, and gives the dense numbers."""
    t = attention.LONG + 10
    q, k, v = qkv(t, b=1)
    vectors = tuple(map(jnp.int32, rows(t, b=1)))
    got = attention.attend(q.reshape(1, t, 4, 4), k, v, *vectors, window=None, softcap=0.0, scale=0.5)
    want = attention.dense(q, k, v, attention.visible(*vectors, None), 0.0, 0.5).reshape(got.shape)
    here = np.asarray(vectors[1] >= 0)
    np.testing.assert_allclose(np.asarray(got)[here], np.asarray(want)[here], atol=3e-6)


MESH = """
import jax, jax.numpy as jnp, numpy as np
from rmjax.models import attention
from rmjax.sharding import make_mesh
from test_blockwise import qkv, rows
t = attention.LONG
vectors = tuple(map(jnp.int32, rows(t, b=4)))
q, k, v = qkv(t, b=4)
f = lambda q, k, v: attention.attend(q.reshape(4, t, 4, 4), k, v, *vectors, window=None, softcap=0.0, scale=0.5)
g = jax.jit(jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2)))
want = g(q, k, v)
for shape in ((2, 2, 2), (8, 1, 1)):
    with jax.set_mesh(make_mesh(shape)):
        got = g(q, k, v)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-5), got, want)
"""


def test_same_on_a_mesh():
    flags = {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.path.dirname(os.path.dirname(here)), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", MESH], check=True, env={**os.environ, **flags, "PYTHONPATH": path})
