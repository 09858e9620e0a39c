"""What one instruction of optimised HLO costs: FLOPs of its matrix products, bytes of memory that it moves."""

from __future__ import annotations

import math
import re

from rmjax.aot.hlo import Computation, Instruction, Module, Shape
from rmjax.aot.links import KINDS

MATRIX = ("convolution", "dot")
MOVING = ("dynamic-slice", "slice", "gather")


def is_matrix(module: Module, instruction: Instruction) -> bool:
    """Whether it is, or is fused around, a matrix product: TPUs write a dot as a convolution."""
    return any(i.opcode in MATRIX for i in module.inside(instruction))


def flops(module: Module, computation: Computation, instruction: Instruction) -> float:
    """FLOPs of the matrix products in it; of a kernel, what it declares."""
    if instruction.opcode == "custom-call":
        return float(instruction.attribute(r'"cost_estimate":\{"flops":"(\d+)"') or 0)
    if instruction.opcode in MATRIX:
        return product(computation, instruction)
    return sum(flops(module, called, inner) for called in module.called(instruction) for inner in called)


def is_kernel(instruction: Instruction) -> bool:
    """Whether it runs a kernel written by hand."""
    return 'custom_call_target="tpu_custom_call"' in instruction.attributes


def product(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of a dot or a convolution: 2 per multiply-add, products with padding left out."""
    operands = [computation.by_name[name].shapes[0] for name in instruction.operands[:2]]
    (result,) = instruction.shapes
    if instruction.opcode == "dot":
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        return 2.0 * result.size * math.prod(operands[0].dims[int(d)] for d in contracted.split(",") if d)
    left, right, out = re.match(r"(\w+)_(\w+)->(\w+)", instruction.attribute(r"dim_labels=([\w>-]+)")).groups()
    pairs = 1
    for axis in (c for c in left if c.isdigit()):
        pairs *= _valid(
            operands[0].dims[left.index(axis)],
            operands[1].dims[right.index(axis)],
            result.dims[out.index(axis)],
            instruction,
            int(axis),
        )
    batch, features = result.dims[out.index("b")], result.dims[out.index("f")]
    return 2.0 * batch * features * operands[1].dims[right.index("i")] * pairs


def _valid(size: int, kernel: int, out: int, instruction: Instruction, axis: int) -> int:
    """How many (output, kernel) positions of one spatial axis meet a value, not padding or a hole between values."""

    def window(name: str, default: str) -> str:
        found = instruction.attribute(rf"window=\{{[^}}]*\b{name}=(\S+?)[\s}}]")
        return found.split("x")[axis] if found else default

    low = int(window("pad", "0_0").split("_")[0])
    stride, holes, spread = (int(window(n, "1")) for n in ("stride", "lhs_dilate", "rhs_dilate"))
    count = 0
    for k in range(kernel):
        # Output o meets value (o * stride + k * spread - low) / holes; an arithmetic sequence in o.
        if holes == 1:
            first = max(0, -(-(low - k * spread) // stride))
            last = min(out - 1, (size - 1 + low - k * spread) // stride)
            count += max(0, last - first + 1)
        else:
            at = (o * stride + k * spread - low for o in range(out))
            count += sum(0 <= a < size * holes and a % holes == 0 for a in at)
    return count


def moved(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Bytes of main memory that it reads and writes; what lies in the chip's fast memory does not count.

    Neither do collectives, on their own or in a fusion, nor custom calls that are no kernels and take no time: those
    only name or set apart a place in memory.
    """
    if instruction.opcode.endswith(("-start", "-done")):
        # A copy between memories: once, when it starts.
        shapes = instruction.shapes[:2] if instruction.opcode in ("copy-start", "slice-start") else ()
        return min((s.bytes for s in shapes), default=0.0)
    if instruction.opcode == "custom-call" and instruction.cycles is None and not is_kernel(instruction):
        return 0.0
    total = 0.0
    for number, name in enumerate(instruction.operands):
        for shape in computation.by_name[name].shapes if name in computation.by_name else ():
            if shape.in_hbm:
                total += _read(module, computation, instruction, number, shape)
    results = [instruction] * len(instruction.shapes)
    if instruction.opcode == "fusion":
        (computation,) = module.called(instruction)
        root = computation.root
        results = [computation.by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if len(results) != len(instruction.shapes):
            results = [root] * len(instruction.shapes)
    for result, shape in zip(results, instruction.shapes, strict=True):
        if shape.in_hbm:
            total += _written(computation, result, shape)
    return total


def _read(module: Module, computation: Computation, user: Instruction, number: int, whole: Shape) -> float:
    """Bytes that an instruction reads of one operand: of one that is only sliced, the slices."""
    if user.opcode == "fusion":
        (computation,) = module.called(user)
        return _read_by_all(module, computation, computation.parameters[number], whole)
    if user.opcode == "bitcast":
        return _read_by_all(module, computation, user.name, whole)
    if number == 0 and user.opcode in MOVING:
        return sum(s.bytes for s in user.shapes)
    if (number == 0 and user.opcode == "dynamic-update-slice") or user.opcode in (*KINDS, "tuple"):
        return 0.0  # stays where it is
    return whole.bytes


def _read_by_all(module: Module, computation: Computation, name: str, whole: Shape) -> float:
    users = ((user, n) for user in computation for n, operand in enumerate(user.operands) if operand == name)
    return min(sum(_read(module, computation, user, n, whole) for user, n in users), whole.bytes)


def _written(computation: Computation, result: Instruction, whole: Shape) -> float:
    """Bytes that are written of one result: of an update in place, the update."""
    while result.opcode == "bitcast" and result.operands[0] in computation.by_name:
        result = computation.by_name[result.operands[0]]
    if result.opcode == "dynamic-update-slice" and result.operands[1] in computation.by_name:
        return sum(s.bytes for s in computation.by_name[result.operands[1]].shapes)
    return 0.0 if result.opcode in (*KINDS, "parameter") else whole.bytes
