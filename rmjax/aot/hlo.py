"""Reads optimised HLO text: computations, instructions in the order of the schedule, loops with their trip counts.

Only what estimates need is understood. Traps: a kernel's metadata has line breaks in it and lines that begin with a
brace, so an instruction ends where another begins; the brace that ends a computation may be followed by the core that
it runs on; a loop's trip count is where its condition compares the counter (s32 or u32) with a constant; the counter
may grow by two, where the compiler has made one turn of two; and cycles of 2^63 - 1 are no estimate.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "token": 0}  # other types say their bits: f32, s8, u32, f8e4m3fn
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
HEAD = re.compile(r"(?:ENTRY )?%(\S+) \(.*\{\s*$")
LINE = re.compile(r"\s+(ROOT )?%(\S+) = (.*)", re.S)
END = re.compile(r"\}(, execution_thread=.*)?$")  # of a computation; of a v5p or v6e's sparse cores, with their name
OPERAND = re.compile(r"%([\w.\-]+)")
CALLS = re.compile(
    r"\b(?:calls|to_apply|body|condition|called_computations|branch_computations)=(?:%([\w.\-]+)|\{([^}]*)\})"
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: its type, its sizes, and whether it lies in the chip's main memory (HBM)."""

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes without padding."""
        bits = re.match(r"[a-z]+(\d+)", self.dtype)
        each = BYTES.get(self.dtype) or (int(bits[1]) / 8 if bits else 0)
        return each * self.size


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One line: `%name = shape opcode(operands), attributes`."""

    name: str
    text: str  # the shape, as written
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The result's arrays, one or a tuple's."""
        return arrays(self.text)

    @functools.cached_property
    def calls(self) -> tuple[str, ...]:
        """Computations that it names."""
        found = [a or b for a, b in CALLS.findall(self.attributes)]
        return tuple(name.strip().lstrip("%") for part in found for name in part.split(","))

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes, or None."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate of its time in cycles; None where it makes none."""
        found = self.attribute(r'"estimated_cycles":"(\d+)"')
        return None if found is None or int(found) == 2**63 - 1 else int(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """Instructions in the order in which they run, if the module is scheduled."""

    name: str
    instructions: tuple[Instruction, ...]
    root: Instruction

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions)

    @functools.cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """Its instructions by their names."""
        return {i.name: i for i in self.instructions}

    @functools.cached_property
    def parameters(self) -> Mapping[int, str]:
        """The names of its parameters by number."""
        return {int(i.attributes.split(")")[0]): i.name for i in self.instructions if i.opcode == "parameter"}


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """A program."""

    computations: Mapping[str, Computation]
    entry: Computation

    def called(self, instruction: Instruction) -> list[Computation]:
        """The computations that an instruction runs."""
        return [self.computations[name] for name in instruction.calls if name in self.computations]

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instruction and all that it runs, at any depth."""
        yield instruction
        for computation in self.called(instruction):
            for inner in computation:
                yield from self.inside(inner)

    def trips(self, loop: Instruction, within: Computation) -> int | None:
        """How often a while loop runs, or None where that is data.

        The condition is `counter < constant`; the counter starts at a constant and grows by one, by more where the
        compiler has put several turns into one.
        """
        known = loop.attribute(r'known_trip_count[^}]*?"?n"?\s*[:=]\s*"?(\d+)')
        if known:
            return int(known)
        condition = self.computations[loop.attribute(r"condition=%([\w.\-]+)")]
        test, names = condition.root, condition.by_name
        if test.opcode == "fusion":  # the comparison in a computation of its own, its operands by number
            inner = self.called(test)[0]
            outer = {inner.parameters[n]: name for n, name in enumerate(test.operands)}
            names = {**names, **inner.by_name, **{k: names[v] for k, v in outer.items() if v in names}}
            test = inner.root
        if test.opcode != "compare":
            return None
        direction = test.attribute(r"direction=(\w+)")
        left, right = (names.get(o) for o in test.operands)
        limit, counter = _number(right), left
        if limit is None:
            limit, counter, direction = _number(left), right, {"GT": "LT", "GE": "LE"}.get(direction)
        if limit is None or counter is None or direction not in ("LT", "LE"):
            return None
        index = counter.attribute(r"index=(\d+)")
        start = self._initial(loop, within, int(index)) if index is not None else None
        grows = self._growth(loop, int(index)) if index is not None else None
        if start is None or not grows:
            return None
        return max(0, -(-(limit - start + (direction == "LE")) // grows))

    def _growth(self, loop: Instruction, index: int) -> int | None:
        """What a turn adds to element `index` of the loop's state."""
        body = self.computations[loop.attribute(r"body=%([\w.\-]+)")]
        value = _source(body, body.root.operands[index])
        if value is not None and value.opcode == "fusion":
            body = self.called(value)[0]
            value = _source(body, body.root.name)
        if value is None or value.opcode != "add":
            return None
        terms = [_number(_source(body, name)) for name in value.operands]
        return next((n for n in terms if n is not None), None)

    def _initial(self, loop: Instruction, within: Computation, index: int) -> int | None:
        value = within.by_name.get(loop.operands[0])
        if value is None or value.opcode != "tuple":
            return None
        return _number(_source(within, value.operands[index]))


def _source(computation: Computation, name: str) -> Instruction | None:
    """What a value is, before it was copied."""
    value = computation.by_name.get(name)
    while value is not None and value.opcode in ("copy", "bitcast", "convert"):
        value = computation.by_name.get(value.operands[0])
    return value


def _number(instruction: Instruction | None) -> int | None:
    if instruction is None or instruction.opcode != "constant":
        return None
    found = re.match(r"(-?\d+)\)", instruction.attributes)
    return int(found[1]) if found else None


def arrays(text: str) -> tuple[Shape, ...]:
    """The arrays of a shape as HLO writes it; memory space 0 is HBM, and S(n) in a layout is another."""
    return tuple(
        Shape(dtype, tuple(int(d) for d in dims.split(",") if d), "S(" not in layout)
        for dtype, dims, layout in ARRAY.findall(text)
    )


def parse(text: str) -> Module:
    """Optimised HLO text -> a module. ValueError where it holds no entry computation."""
    computations: dict[str, Computation] = {}
    entry, name, instructions, root = None, None, [], None
    for line in _lines(text):
        if name is None:
            head = HEAD.match(line)
            if head:
                name, instructions, root = head[1], [], None
                entry = name if line.startswith("ENTRY") else entry
        elif END.match(line):
            computations[name] = Computation(name, tuple(instructions), root or instructions[-1])
            name = None
        elif found := LINE.match(line):
            instruction = _instruction(found[2], found[3])
            instructions.append(instruction)
            root = instruction if found[1] else root
    if entry is None:
        raise ValueError("no ENTRY computation: not the text of a compiled module")
    return Module(computations, computations[entry])


def _lines(text: str) -> Iterator[str]:
    """Lines, each with those that continue it: what does not begin like an instruction within a computation.

    A closing brace ends a computation only where an empty line or nothing follows: a kernel's metadata has braces, too.
    """
    lines = text.splitlines()
    held: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        ends = END.match(line) and not following.strip()
        if held and not (ends or LINE.match(line)):
            held.append(line)
            continue
        if held:
            yield "\n".join(held)
            held = []
        if LINE.match(line):
            held = [line]
        else:
            yield line


def _closing(text: str, start: int) -> int:
    """Where the parenthesis at `start` is closed."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return len(text) - 1


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    at = rest.index("(")
    close = _closing(rest, at)
    opcode, inside = rest[:at], rest[at + 1 : close]
    if opcode in ("parameter", "constant"):
        return Instruction(name, shape, opcode, (), rest[at + 1 :])
    return Instruction(name, shape, opcode, tuple(OPERAND.findall(inside)), rest[close + 1 :])
