"""The text of a compiled program (XLA's HLO), as instructions that know where they come from.

Works on the text before optimisation and after it, of any platform.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8, "token": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


class Array(NamedTuple):
    """One array of a shape."""

    dtype: str  # XLA's name: bf16
    dims: tuple[int, ...]
    on_chip: bool  # in a TPU's own memory (space 1, and 2 on for flags), not in HBM

    @property
    def num_bytes(self) -> int:
        """Bytes of its values, without padding."""
        return _BYTES.get(self.dtype, 4) * math.prod(self.dims)


class Instruction(NamedTuple):
    """One instruction of a computation."""

    name: str
    shape: tuple[Array, ...]  # of the result; several of a tuple
    op: str
    operands: tuple[str, ...]  # names
    text: str  # all that stands behind the operation's bracket

    def _one(self, pattern: str) -> str | None:
        found = re.search(pattern, self.text)
        return found[1] if found else None

    @property
    def num_bytes(self) -> int:
        """Bytes of the result."""
        return sum(array.num_bytes for array in self.shape)

    @property
    def cycles(self) -> int:
        """The TPU compiler's own estimate; 0 where it has none."""
        return int(self._one(r'"estimated_cycles":"(\d+)"') or 0)

    @property
    def op_name(self) -> str:
        """The path of JAX's name scopes that it was traced in."""
        return self._one(r'op_name="([^"]*)"') or ""

    @property
    def channel(self) -> str:
        """Of a collective: what tells it from others; an asynchronous one stands in several."""
        return self._one(r"channel_id=(\d+)") or self.name

    @property
    def target(self) -> str | None:
        """Of a custom call: the library's function."""
        return self._one(r'custom_call_target="([^"]*)"')

    @property
    def callee(self) -> str | None:
        """The computation that a fusion or a call runs."""
        return self._one(r"(?:calls|to_apply)=%?([\w.\-]+)")


class Program:
    """The instructions of a program by computation.

    Attributes:
      entry: name of the computation that runs first.
      computations: {name: instructions in order}.
      by_name: {name: instruction}; names are unique in a program.
    """

    def __init__(self, text: str):
        self.entry = ""
        self.computations: dict[str, list[Instruction]] = {}
        tables: dict[str, dict[str, str]] = collections.defaultdict(dict)
        section, body = None, None
        for line in text.splitlines():
            if line in _TABLES:
                section = line
            elif section and re.match(r"\d+ ", line):
                number, value = line.split(" ", 1)
                tables[section][number] = value
            elif line.startswith("}"):
                body = None
            elif found := _COMPUTATION.match(line):
                section, body = None, self.computations.setdefault(found[2], [])
                self.entry = found[2] if found[1] else self.entry
            elif body is not None and (found := _INSTRUCTION.match(line)):
                body.append(_instruction(found))
        self.by_name = {i.name: i for body in self.computations.values() for i in body}
        self._frames = {}
        for number, value in tables["StackFrames"].items():
            at = dict(re.findall(r"(\w+)=(\d+)", value))
            place = dict(
                re.findall(r"(\w+)=(\d+)", tables["FileLocations"][at["file_location_id"]])
            )
            path = tables["FileNames"][place["file_name_id"]].strip('"')
            function = tables["FunctionNames"][place["function_name_id"]].strip('"')
            self._frames[number] = (path, function, at.get("parent_frame_id"))

    def stack(self, instruction: Instruction) -> list[tuple[str, str]]:
        """(file, function) of each frame that an instruction was traced in, the innermost first."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.text)
        number, stack = found and found[1], []
        while number in self._frames:
            path, function, parent = self._frames[number]
            stack.append((path, function))
            number = parent if parent != number else None  # the outermost is its own parent
        return stack

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions that it reads."""
        return [self.by_name[name] for name in instruction.operands if name in self.by_name]

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions within a fusion, in any depth; of another one, itself."""
        is_fusion = instruction.op == "fusion"
        body = self.computations.get(instruction.callee or "") if is_fusion else None
        if body is None:
            yield instruction
            return
        for other in body:
            yield from self.inside(other)

    def run(self) -> Iterator[tuple[Instruction, int, tuple[Instruction, ...]]]:
        """What runs: (instruction, how often, the loops and calls around it, outermost first).

        A fusion is one instruction; reducers and the like are not entered.
        """
        todo: list[tuple[str, int, tuple[Instruction, ...]]] = [(self.entry, 1, ())]
        while todo:
            name, times, around = todo.pop()
            for i in self.computations[name]:
                yield i, times, around
                inner = (*around, i)
                if i.op == "while":
                    body = re.search(r"body=%?([\w.\-]+)", i.text)[1]
                    todo.append((body, times * self.trips(i), inner))
                elif i.op in ("call", "async-start") and i.callee:
                    todo.append((i.callee, times, inner))
                elif i.op == "conditional":
                    branches = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", i.text)
                    listed = re.search(r"branch_computations=\{([^}]*)\}", i.text)
                    branches += re.findall(r"%?([\w.\-]+)", listed[1]) if listed else []
                    todo += [(branch, times, inner) for branch in branches]

    def trips(self, loop: Instruction) -> int:
        """Of a `while` that counts to a constant."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text)
        if known:
            return int(known[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.text)[1]
        limits = []
        for i in self.computations[condition]:
            value = re.match(r"(\d+)\)", i.text)
            if i.op == "constant" and value and i.shape == (Array("s32", (), False),):
                limits.append(int(value[1]))
        return max(limits, default=1)


def _instruction(found: re.Match) -> Instruction:
    arrays = []
    for dtype, dims, layout in _SHAPE.findall(found[3]):
        sizes = tuple(int(n) for n in dims.split(",") if n)
        arrays.append(Array(dtype, sizes, bool(re.search(r"S\([1-9]\)", layout))))
    listed = re.split(r"\)(?:, |$)", found[5], maxsplit=1)[0]
    operands = tuple(re.findall(r"(?:^|[ (])%?([A-Za-z_][\w.\-]*)(?=,|$)", listed))
    return Instruction(found[2], tuple(arrays), found[4], operands, found[5])


def flops(program: Program, instruction: Instruction) -> int:
    """Floating-point operations of a convolution or matrix product, 0 of anything else.

    Two for each product of two values that exist: those with padding are not counted.
    """
    if instruction.op == "dot":
        return _flops_of_dot(program, instruction)
    target = instruction.target or ""
    if instruction.op != "convolution" and not target.startswith("__cudnn$conv"):
        return 0
    left, kernel = (program.by_name[name].shape[0].dims for name in instruction.operands[:2])
    out = instruction.shape[0].dims
    if target == "__cudnn$convBackwardInput":  # the text describes the forward convolution
        left, out = out, left
    elif target == "__cudnn$convBackwardFilter":
        kernel, out = out, kernel
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    of_left, of_kernel, of_out = labels.groups()
    window = dict(
        re.findall(r"(size|stride|pad|lhs_dilate|rhs_dilate)=([\dx_\-]+)", instruction.text)
    )
    total = 2 * out[of_out.index("b")] * out[of_out.index("f")] * kernel[of_kernel.index("i")]
    for axis, size in enumerate(window.get("size", "").split("x") if "size" in window else ()):
        stride, dilated_left, dilated = (
            int(window[name].split("x")[axis]) if name in window else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(window["pad"].split("x")[axis].split("_")[0]) if "pad" in window else 0
        length = left[of_left.index(str(axis))]
        outputs = out[of_out.index(str(axis))]
        total *= _real_products(int(size), length, outputs, stride, low, dilated_left, dilated)
    return total


def _real_products(
    size: int, length: int, outputs: int, stride: int, low: int, dilated_left: int, dilated: int
) -> int:
    """Pairs of output and kernel positions along one axis that meet a value, not padding."""
    count = 0
    for tap in range(size):
        for place in range(outputs):
            at = place * stride + tap * dilated - low
            count += at >= 0 and at % dilated_left == 0 and at // dilated_left < length
    return count


def _flops_of_dot(program: Program, instruction: Instruction) -> int:
    left = program.by_name[instruction.operands[0]].shape[0].dims
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)[1]
    inner = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * inner * math.prod(instruction.shape[0].dims)
