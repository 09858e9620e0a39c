"""Shapes: few, large enough, within memory."""

import dataclasses
from types import SimpleNamespace

import pytest

from rmjax.errors import UserError
from rmjax.models.config import DecoderConfig
from rmjax.sampling import layout
from rmjax.sampling.layout import Need, bucket, layouts

SMALL = DecoderConfig(vocab=64, layers=2, embed=128, heads=4, kv_heads=4, head_dim=32, mlp=256)


def test_buckets():
    sizes = [bucket(n) for n in range(1, 2000)]
    assert all(size >= n for n, size in enumerate(sizes, 1)) and sizes == sorted(sizes)
    assert sorted(set(sizes)) == [32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]


def test_every_request_is_in_one_group_that_holds_it():
    needs = [Need(length, 1 + length % 3) for length in (700, 3, 40, 20, 300, 41, 9)]
    groups = layouts(needs, SMALL, 50)
    assert sorted(i for _, members in groups for i in members) == list(range(7))
    assert all(needs[i].length <= shape.length for shape, members in groups for i in members)


def test_a_group_too_small_for_the_slots_joins_the_next():
    few = [Need(20, 1)] * 5 + [Need(100, 1)] * 5
    many = [Need(20, 1)] * 2000 + [Need(100, 1)] * 5
    assert [shape.length for shape, _ in layouts(few, SMALL, 50)] == [128]
    assert [shape.length for shape, _ in layouts(many, SMALL, 50)] == [32, 128]


def test_shapes_hardly_depend_on_the_number_of_requests():
    """What is left after an interruption runs in the programs that were compiled for the whole, or in few others."""
    shapes = {layouts([Need(28, 16)] * n, SMALL, 80)[0][0] for n in range(1, 200)}
    assert len(shapes) <= 3


def test_suffix_caches_double_up_to_a_whole_completion():
    sizes = lambda new: layouts([Need(8, 1)], SMALL, new)[0][0].sizes
    assert (sizes(1), sizes(16), sizes(80), sizes(128)) == ((16,), (16,), (80,), (64, 128))
    assert sizes(1000) == (64, 128, 256, 1008)


def test_memory_bounds_the_slots(monkeypatch):
    free = layouts([Need(500, 8)] * 100, SMALL, 500)[0][0]
    monkeypatch.setattr(layout, "_memory", lambda: 30 * 2**20)
    tight = layouts([Need(500, 8)] * 100, SMALL, 500)[0][0]
    assert tight.rows * tight.slots < free.rows * free.slots
    for mib, slots in ((20, 8), (8, 4), (4, 2), (2.1, 1)):  # 1 MiB a prompt, and a little more than 1 a sample
        monkeypatch.setattr(layout, "_memory", lambda mib=mib: mib * 2**20)
        shape = layouts([Need(500, 8)] * 100, SMALL, 500)[0][0]
        assert shape.slots == slots and shape.rows * (1 + slots * 1.001) <= mib
    monkeypatch.setattr(layout, "_memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"500 \+ 500 tokens needs"):
        layouts([Need(500, 8)] * 100, SMALL, 500)


def test_given_shapes_are_kept():
    shape = layouts([Need(28, 16)] * 9, SMALL, 80, prompts=3, slots=5)[0][0]
    assert (shape.rows, shape.slots, shape.reads) == (3, 5, 1)


def test_larger_models_run_fewer_slots():
    large = dataclasses.replace(SMALL, layers=16, embed=2048, mlp=8192, vocab=32000, head_dim=64, heads=32, kv_heads=8)
    slots = lambda c: (s := layouts([Need(28, 8)] * 500, c, 80)[0][0]).rows * s.slots
    assert slots(large) < slots(SMALL)


def test_an_accelerator_runs_as_many_slots_as_its_memory_holds(monkeypatch):
    """A step of a large model reads its weights, for few samples as for many."""
    large = dataclasses.replace(SMALL, layers=32, embed=4096, mlp=14336, vocab=128256, head_dim=128, dtype="bfloat16")
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 3 * 2**30, "bytes_in_use": 2**30})
    monkeypatch.setattr(layout.jax, "local_devices", lambda: [device])
    slots = lambda: (s := layouts([Need(28, 8)] * 500, large, 80)[0][0]).rows * s.slots
    assert slots() == 32
    monkeypatch.setattr(layout.jax, "default_backend", lambda: "gpu")
    assert slots() == 128  # 7.1 MiB each, and 4 MiB of a prompt
    monkeypatch.setattr(layout, "current_mesh", lambda: SimpleNamespace(size=2))
    assert slots() == 256
