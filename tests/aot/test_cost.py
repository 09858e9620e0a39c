"""FLOPs against loops over positions, bytes against what a chip must touch."""

import itertools

import pytest
from hlo_text import TEXT

from rmjax.aot import cost, hlo


def computation(*lines):
    return hlo.parse("ENTRY %m (a: f32[]) -> f32[] {\n" + "\n".join(f"  {line}" for line in lines) + "\n}\n").entry


def test_a_dot_in_a_fusion():
    module = hlo.parse(TEXT)
    body = module.computations["body"]
    assert cost.is_matrix(module, body.by_name["matmul"])
    assert cost.flops(module, body, body.by_name["matmul"]) == 2 * 8 * 128 * 128
    assert cost.flops(module, body, body.by_name["kernel.1"]) == 1.97e9
    alone = module.computations["fused_matmul"]
    assert cost.flops(module, alone, alone.root) == 2 * 8 * 128 * 128


@pytest.mark.parametrize(
    ("size", "kernel", "window"),
    [
        (1, 8, "size=8 pad=7_7 rhs_reversal=1"),  # how a TPU writes an output axis of a dot
        (9, 3, "size=3 pad=1_1 stride=2"),
        (5, 2, "size=2 pad=3_1 lhs_dilate=2"),
        (9, 3, "size=3 pad=0_2 rhs_dilate=2"),
    ],
)
def test_a_convolution_counts_no_padding(size, kernel, window):
    numbers = dict(part.split("=") for part in window.split())
    low, high = map(int, numbers["pad"].split("_"))
    stride, holes, spread = (int(numbers.get(n, 1)) for n in ("stride", "lhs_dilate", "rhs_dilate"))
    out = ((size - 1) * holes + 1 + low + high - (kernel - 1) * spread - 1) // stride + 1
    pairs = 0
    for o, k in itertools.product(range(out), range(kernel)):
        at = o * stride + k * spread - low
        pairs += 0 <= at <= (size - 1) * holes and at % holes == 0
    c = computation(
        f"%x = bf16[4,{size},16]{{2,1,0}} parameter(0)",
        f"%w = bf16[16,{kernel},32]{{2,1,0}} parameter(1)",
        f"ROOT %y = bf16[4,{out},32]{{2,1,0}} convolution(%x, %w), window={{{window}}}, dim_labels=b0f_i0o->b0f",
    )
    assert cost.product(c, c.root) == 2 * 4 * 16 * 32 * pairs


def test_bytes_of_slices_and_updates():
    text = """%body (p: f32[32,64], i: s32[]) -> f32[1,64] {
  %p = f32[32,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = f32[1,64]{1,0} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,64}
}

%update (q: f32[32,64], u: f32[1,64], j: s32[]) -> f32[32,64] {
  %q = f32[32,64]{1,0} parameter(0)
  %u = f32[1,64]{1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %d = f32[32,64]{1,0} dynamic-update-slice(%q, %u, %j, %j)
}

ENTRY %m (x: f32[32,64], n: s32[]) -> f32[32,64] {
  %x = f32[32,64]{1,0} parameter(0)
  %n = s32[]{:S(2)} parameter(1)
  %one = f32[1,64]{1,0} fusion(%x, %n), kind=kLoop, calls=%body
  %near = f32[32,64]{1,0:S(1)} add(%x, %x)
  ROOT %all = f32[32,64]{1,0} fusion(%x, %one, %n), kind=kLoop, calls=%update
}
"""
    module = hlo.parse(text)
    moved = {i.name: cost.moved(module, module.entry, i) for i in module.entry if i.opcode != "parameter"}
    assert moved["one"] == 2 * 256  # a slice in, a slice out
    assert moved["near"] == 2 * 8192  # the result stays in fast memory
    assert moved["all"] == 2 * 256  # the update in and out, in place


def test_bytes_of_what_stays_where_it_is():
    text = """%both (p: f32[32,64], q: f32[32,64], u: f32[1,64], j: s32[]) -> (f32[32,64], f32[1,64], f32[32,64]) {
  %p = f32[32,64]{1,0} parameter(0)
  %q = f32[32,64]{1,0} parameter(1)
  %u = f32[1,64]{1,0} parameter(2)
  %j = s32[] parameter(3)
  %d = f32[32,64]{1,0} dynamic-update-slice(%p, %u, %j, %j)
  %b = f32[2048]{0} bitcast(%q)
  %s = f32[64]{0} dynamic-slice(%b, %j), dynamic_slice_sizes={64}
  %r = f32[1,64]{1,0} reshape(%s)
  ROOT %t = (f32[32,64]{1,0}, f32[1,64]{1,0}, f32[32,64]{1,0}) tuple(%d, %r, %q)
}

ENTRY %m (x: f32[32,64], y: f32[32,64], u: f32[1,64], n: s32[]) -> f32[32,64] {
  %x = f32[32,64]{1,0} parameter(0)
  %y = f32[32,64]{1,0} parameter(1)
  %u = f32[1,64]{1,0} parameter(2)
  %n = s32[]{:S(2)} parameter(3)
  %room = f32[32,64]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %many = (f32[32,64]{1,0}, f32[1,64]{1,0}, f32[32,64]{1,0}) fusion(%x, %y, %u, %n), kind=kLoop, calls=%both
  ROOT %put = f32[32,64]{1,0} dynamic-update-slice(%room, %u, %n, %n)
}
"""
    module = hlo.parse(text)
    moved = {i.name: cost.moved(module, module.entry, i) for i in module.entry if i.opcode != "parameter"}
    assert moved["room"] == 0
    assert moved["put"] == 2 * 256  # in place without a fusion, too
    assert moved["many"] == 4 * 256  # an update in and out, a slice in and out; the third result is an operand
