"""The time of a module, added up by hand."""

import pytest
from hlo_text import TEXT

from rmjax.aot import hlo
from rmjax.aot.chips import CHIPS
from rmjax.aot.links import Network
from rmjax.aot.timeline import Timeline

CHIP = CHIPS["v5e"]
LINE = Network(CHIP, (4, 1), tuple((x, 0) for x in range(4)))


def run(text=TEXT, **more):
    return Timeline(hlo.parse(text), LINE, **more).run()


def test_every_part():
    tally = run()
    cycles = 32 * 1500 + 300 + 3 * 15
    assert tally.seconds["matrix"] == pytest.approx(cycles / 1.5e9)
    assert tally.seconds["copies"] == pytest.approx(3000 / 1.5e9)
    # 1.97 GFLOP at half of 197 TFLOP/s, in a loop of 32.
    assert tally.seconds["kernels"] == pytest.approx(32 * 20e-6)
    assert tally.flops == 32 * 1.97e9 + 2 * 8 * 128 * 128 * (32 + 1 + 3)
    assert tally.unknown == 0


def test_collectives_are_counted_once_and_hidden_by_what_carries_them():
    tally = run()
    gathered, permuted, reduced = 128 * 128 * 2, 8 * 128 * 2, 512 * 1024 * 4
    assert tally.collectives == {"all-gather": gathered, "collective-permute": 3 * permuted, "all-reduce": reduced}
    assert tally.counts == {"all-gather": 1, "collective-permute": 3, "all-reduce": 1}
    gather = gathered * 3 / 4 / 50e9  # over the one axis, a line
    permute = permuted / 50e9  # 3 -> 0 takes three links, each as busy as the others
    reduce = 2 * reduced * 3 / 4 / 50e9
    assert tally.links == pytest.approx(gather + 3 * permute + reduce)
    left = (gather - 300 / 1.5e9) + 3 * (permute - 15 / 1.5e9)
    assert left > 0
    assert tally.seconds["communication"] == pytest.approx(left + reduce)


@pytest.mark.parametrize(
    ("kind", "shapes", "operands", "size"),
    [
        ("all-reduce", "(f32[512], f32[256])", "%x, %x", 4 * 768),  # its results alone
        ("all-gather", "((f32[128], f32[64]), (f32[512], f32[256]))", "%x, %x", 4 * 768),
        ("reduce-scatter", "((f32[512]), f32[128], u32[], u32[])", "%x", 4 * 512),
        ("collective-permute", "(f32[512], f32[512], u32[], u32[])", "%x", 4 * 512),
    ],
)
def test_bytes_of_collectives_that_are_started(kind, shapes, operands, size):
    text = f"""ENTRY %m (x: f32[512]) -> f32[512] {{
  %x = f32[512]{{0}} parameter(0)
  %s = {shapes} {kind}-start({operands}), replica_groups={{{{0,1,2,3}}}}, source_target_pairs={{{{0,1}}}}
  ROOT %d = f32[512]{{0}} {kind}-done(%s)
}}
"""
    assert run(text).collectives == {kind: size}


def test_what_arithmetic_hides_costs_nothing():
    text = TEXT.replace('"estimated_cycles":"300"', '"estimated_cycles":"3000"')
    waited = run().seconds["communication"] - run(text).seconds["communication"]
    assert waited == pytest.approx(128 * 128 * 2 * 3 / 4 / 50e9 - 300 / 1.5e9)


def test_rows_that_need_less_than_kernels_declare():
    assert run(kernels=0.25).seconds["kernels"] == pytest.approx(run().seconds["kernels"] / 4)


def test_a_loop_of_unknown_length_counts_once_and_is_said():
    tally = run(TEXT.replace("%zero = s32[] constant(0)", "%zero = s32[] negate(%x)"))
    assert tally.unknown == 1
    assert tally.seconds["kernels"] == pytest.approx(20e-6)
