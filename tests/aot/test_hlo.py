"""The text of a compiled module, with its traps: metadata over several lines, braces, counters, steps."""

import pytest
from hlo_text import TEXT

from rmjax.aot import hlo

MODULE = hlo.parse(TEXT)


def test_every_instruction_is_read_and_the_kernels_metadata_is_its_own():
    body = MODULE.computations["body"]
    assert [i.opcode for i in body][-4:] == ["custom-call", "constant", "fusion", "tuple"]
    assert 'op_name="jit(step)/attention"' in body.by_name["kernel.1"].attributes
    assert body.by_name["matmul"].cycles == 1500
    assert body.by_name["matmul"].operands == ("kernel.1", "w")
    assert body.root.name == "out"
    assert len(MODULE.computations) == 10 and MODULE.entry.name == "main"


def test_a_brace_alone_on_a_line_of_metadata_ends_nothing():
    text = TEXT.replace('\n"xprof_metadata"', '\n}\n"xprof_metadata"')
    assert hlo.parse(text).computations["body"].root.name == "out"


def test_a_computation_of_another_core_ends_too():
    text = TEXT.replace("}\n\n%condition", '}, execution_thread="sparsecore"\n\n%condition')
    assert text != TEXT and hlo.parse(text).computations.keys() == MODULE.computations.keys()


def test_cycles_that_are_no_estimate():
    text = TEXT.replace('"estimated_cycles":"1500"', f'"estimated_cycles":"{2**63 - 1}"')
    assert hlo.parse(text).computations["body"].by_name["matmul"].cycles is None


@pytest.mark.parametrize(
    ("loop", "old", "new", "trips"),
    [
        ("while.1", "", "", 32),  # s32, by one from 0 (behind a copy)
        ("while.2", "", "", 3),  # u32, by two from 1 below 7
        ("while.2", "direction=LT", "direction=LE", 4),
        ("while.1", "%zero = s32[] constant(0)", "%zero = s32[] negate(%x)", None),  # data
        ("while.1", "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}', 5),
    ],
)
def test_trips(loop, old, new, trips):
    module = hlo.parse(TEXT.replace(old, new) if old else TEXT)
    assert module.trips(module.entry.by_name[loop], module.entry) == trips


def test_shapes():
    (a, b) = hlo.arrays("(bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/s4[3]{0})")
    assert (a.dims, a.bytes, a.in_hbm) == ((8, 128), 2048, False)
    assert (b.bytes, b.in_hbm) == (1.5, True)
    assert hlo.arrays("f8e4m3fn[]")[0].bytes == 1


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("hello")
