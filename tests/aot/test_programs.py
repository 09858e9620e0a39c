"""Rows, work and shapes of the programs, without a compiler."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from rmjax.aot import programs
from rmjax.aot.chips import CHIPS
from rmjax.aot.estimate import Estimate, _needs
from rmjax.aot.presets import PRESETS
from rmjax.aot.programs import RowLayout
from rmjax.aot.timeline import Tally
from rmjax.aot.topology import sizes
from rmjax.errors import UserError
from rmjax.models.config import DecoderConfig
from rmjax.models.families import write_config
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.objectives.scores import Scalar
from rmjax.sharding import MESH_AXES, make_mesh


def test_a_row_holds_what_the_layout_says():
    rows = RowLayout(prompt=64, completions=4, completion=16, pairs=5).rows()
    assert rows.tokens.shape == (1, 128) and np.all(rows.group == 0)
    assert int(np.sum(rows.target >= 0)) == 4 * 16
    assert int(np.sum(rows.pairs[..., 0] >= 0)) == 5
    assert int(np.max(rows.positions)) == 64 + 16 - 1


def test_kernels_need_no_more_than_what_is_seen():
    causal = RowLayout(prompt=1023, completions=1, completion=1, pairs=0)
    packed = RowLayout(prompt=512, completions=4, completion=512)
    assert programs.kernel_share(causal.rows()) == 1
    # 5 blocks: each sees itself, four see the prompt; 9 of 15.
    assert programs.kernel_share(packed.rows()) == pytest.approx(9 / 15)
    # One row of 4 blocks; a window of one block sees itself and the block before it: 7 of 10.
    long = RowLayout(prompt=2040, completions=1, completion=8, pairs=0).rows()
    assert programs.kernel_share(long, 512) == pytest.approx(7 / 10)
    assert programs.kernel_share(long, (512, 2**30)) == pytest.approx((7 / 10 + 1) / 2)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_scoring_reads_the_weights_as_they_are_kept(weights):
    c = DecoderConfig(vocab=64, layers=2, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, dtype="bfloat16")
    model = Model.of(dataclasses.replace(c, weights=weights), Linear())
    layout = RowLayout(prompt=8, completions=2, completion=4, pairs=1)
    program = programs.score(model, make_mesh((1, 1, 1), jax.devices()[:1]), Scalar(), layout=layout, rows=1)
    kept = program.lowered.in_avals[0][0]["decoder"]["blocks"]["wq"]
    assert kept.dtype == weights


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-3.2-1b", 1.24), ("llama-3-8b", 8.03), ("llama-3-70b", 70.6), ("qwen-2.5-7b", 7.62), ("gemma-2-9b", 9.24)],
)
def test_presets_are_the_published_models(name, billions):
    """Parameters as the model cards count them; every preset can be written as the family's config.json."""
    model = Model.of(PRESETS[name])
    count = sum(int(np.prod(s.shape, dtype=np.int64)) for s in jax.tree.leaves(model.shapes))
    assert count / 1e9 == pytest.approx(billions, rel=0.005)
    write_config(PRESETS[name])


def test_a_decoding_step_reads_every_matrix_once():
    c = dataclasses.replace(PRESETS["llama-3-8b"])
    # 2 FLOPs for each of 7.5 billion parameters (the embedding table is looked up), and attention to 1,000 tokens.
    assert programs.decode_flops(Model.of(c), 1000) == pytest.approx(2 * 7.50e9 + 4 * 32 * 4096 * 1000, rel=1e-3)


def test_rows_that_do_not_split():
    mesh = AbstractMesh((1, 4, 1), MESH_AXES)
    with pytest.raises(UserError, match="6 rows do not split over 4"):
        programs.batch(RowLayout(prompt=8, completions=2, completion=8, pairs=1), 6, mesh)


def test_estimates_by_hand():
    tally = Tally(flops=394e12, bytes=819e9, links=3.0)
    tally.seconds.update({"matrix": 3.0, "communication": 1.0})
    e = Estimate(
        chip=CHIPS["v5e"],
        chips=16,
        arguments=1,
        temporaries=2,
        peak=3,
        tally=tally,
        model_flops=2 * 16 * 197e12,
        tokens=40_000,
        compile_seconds=0.0,
    )
    assert (e.step, e.mfu, e.tokens_per_second) == (4.0, 0.5, 10_000)
    assert e.bounds == {"arithmetic": 2.0, "memory": 1.0, "communication": 3.0} and e.bound == "communication"


def test_what_the_compiler_says_of_memory():
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm."
    assert _needs(said) == 20.5 * 2**30
    said = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (512.0M) exceeds available HBM (15.75G)."
    assert _needs(said) == 2**29
    assert _needs("RESOURCE_EXHAUSTED: something else") is None


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5e:4xfour", "v5e:0x4", "v5e:4x4x4", "v5p:4x4"])
def test_topologies_that_are_none(name):
    with pytest.raises(UserError, match=f"--topology {name}"):
        sizes(name)


def test_peaks_are_those_of_the_matrix_units():
    """The clock in which the compiler counts: a cycle of the units is the peak."""
    units = {"v5e": 4 * 128**2, "v5p": 8 * 128**2, "v6e": 4 * 256**2}
    for name, each in units.items():
        assert 2 * each * CHIPS[name].clock == pytest.approx(CHIPS[name].peak, rel=0.01)
