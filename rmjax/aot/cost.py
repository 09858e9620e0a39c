"""What one instruction of optimised HLO costs: FLOPs of its matrix products, bytes of memory that it moves."""

from __future__ import annotations

import math
import re

from rmjax.aot.hlo import Computation, Instruction, Module, Shape

MATRIX = ("convolution", "dot")
MOVING = ("dynamic-slice", "slice", "gather")


def is_matrix(module: Module, instruction: Instruction) -> bool:
    """Whether it is, or is fused around, a matrix product: TPUs write a dot as a convolution."""
    return any(i.opcode in MATRIX for i in module.inside(instruction))


def flops(module: Module, instruction: Instruction) -> float:
    """FLOPs of the matrix products in it; of a kernel, what it declares."""
    if instruction.opcode == "custom-call":
        return float(instruction.attribute(r'"cost_estimate":\{"flops":"(\d+)"') or 0)
    total = 0.0
    for computation in module.called(instruction):
        for inner in computation:
            total += product(computation, inner) if inner.opcode in MATRIX else flops(module, inner)
    return total


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
    grouped = int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    return 2.0 * batch * grouped * features * operands[1].dims[right.index("i")] * pairs / grouped


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
    """Bytes of main memory that it reads and writes. What lies in the chip's fast memory does not count."""
    if instruction.opcode.endswith(("-start", "-done")):
        # A copy between memories: once, when it starts.
        shapes = instruction.shapes[:2] if instruction.opcode in ("copy-start", "slice-start") else ()
        return min((s.bytes for s in shapes), default=0.0)
    called = module.called(instruction) if instruction.opcode == "fusion" else []
    read = 0.0
    for number, name in enumerate(instruction.operands):
        for shape in computation.by_name[name].shapes if name in computation.by_name else ():
            if shape.in_hbm:
                read += _read(module, called[0], number, shape) if called else shape.bytes
    if instruction.opcode in MOVING:
        read = sum(s.bytes for s in instruction.shapes)
    return read + _written(module, called[0] if called else None, instruction)


def _read(module: Module, body: Computation, number: int, whole: Shape) -> float:
    """Bytes that a fusion reads of one operand: of one that is only sliced, the slices."""
    name = body.parameters.get(number)
    users = [i for i in body if name in i.operands]
    total = 0.0
    for user in users:
        if user.opcode in MOVING:
            total += sum(s.bytes for s in user.shapes)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue
        elif user.opcode == "fusion":
            total += _read(module, module.called(user)[0], user.operands.index(name), whole)
        elif user.opcode == "bitcast":
            return whole.bytes if not _sliced(body, user.name) else total
        else:
            return whole.bytes
    return min(total, whole.bytes)


def _sliced(body: Computation, name: str) -> bool:
    return all(i.opcode in (*MOVING, "dynamic-update-slice") for i in body if name in i.operands)


def _written(module: Module, body: Computation | None, instruction: Instruction) -> float:
    """Bytes that it writes: of an update in place, the update."""
    update = instruction if instruction.opcode == "dynamic-update-slice" else None
    if body is not None:
        root = body.root
        while root.opcode in ("bitcast", "copy") and root.operands[0] in body.by_name:
            root = body.by_name[root.operands[0]]
        update = root if root.opcode == "dynamic-update-slice" else None
    if update is not None and body is not None and update.operands[1] in body.by_name:
        return sum(s.bytes for s in body.by_name[update.operands[1]].shapes)
    return sum(s.bytes for s in instruction.shapes if s.in_hbm)
