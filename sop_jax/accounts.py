"""What a compiled program costs: bytes, cycles, kernels and collectives, by part of the step.

Cycles are the TPU compiler's own estimates. It has none for gathers and scatters of single
elements, which a TPU does one after the other: they are counted at BUNDLES_PER_ELEMENT (v5e's
bundles show 7 to 18). A GPU's compiler has no such estimates: there a kernel takes as long as its
bytes or its FLOPs need, whichever is longer, and LAUNCH_SECONDS.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from sop_jax.chips import Chip
from sop_jax.hlo import Array, Instruction, Program, flops

BUNDLES_PER_ELEMENT = 10
LAUNCH_SECONDS = 2e-6  # an assumption: kernels inside one CUDA graph start about so far apart
COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?$"
)
PARTS = ("augmentation", "network", "method", "table", "optimizer", "other")
_BY_FILE = (  # what an instruction belongs to, by the end of a file's path or a function's name
    ("sop_jax/data/", "augmentation"),
    ("sop_jax/models/", "network"),
    ("sop_jax/methods/", "method"),
    ("sop_jax/table.py", "table"),
    ("sop_jax/exchange.py", "table"),
    ("sop_jax/optimizer.py", "optimizer"),
    ("/optax/", "optimizer"),
    ("/flax/", "network"),
)
_BY_FUNCTION = {"make_batch": "augmentation", "track": "table", "count_correct": "table"}
# no work of their own, or counted where they begin
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "partition-id", "replica-id", "after-all", "opt-barrier", "iota"),
    *("copy-done", "slice-done", "all-reduce-done", "all-gather-done", "reduce-scatter-done"),
    *("collective-permute-done", "async-done", "async-update", "add-dependency"),
}
_LOOK_UPS = ("gather", "dynamic-slice")
_WRITES = {"scatter": 2, "dynamic-update-slice": 1}  # which operand holds what is written


class Cost(NamedTuple):
    """What one instruction costs a step."""

    instruction: Instruction
    part: str  # one of PARTS
    times: float  # how often a step runs it
    seconds: float  # of all these times
    num_bytes: float  # read from memory and written to it
    flops: float
    cycles: float
    blind: bool  # the compiler has no estimate


def part_of(program: Program, instruction: Instruction) -> str | None:
    """The part of the step that an instruction was traced in; None where nothing tells."""
    for path, function in program.stack(instruction):
        name = function.rsplit(".", 1)[-1]
        if name in _BY_FUNCTION:
            return _BY_FUNCTION[name]
        for ending, part in _BY_FILE:
            if ending in path:
                return part
    if re.search(r"ResNet|FastNet", instruction.op_name):
        return "network"
    if instruction.op == "fusion":
        inside = collections.Counter(
            part for other in program.inside(instruction) if (part := part_of(program, other))
        )
        if inside:
            return inside.most_common(1)[0][0]
    return None


def costs(program: Program, chip: Chip, steps: int) -> list[Cost]:
    """The instructions that cost anything, of a program that runs so many steps, by step."""
    found, parts = [], {}
    for i, times, around in program.run():
        part = part_of(program, i)
        if part is None:  # a copy belongs to what it copies, a loop's body to the loop
            near = [parts[name] for name in i.operands if parts.get(name, "other") != "other"]
            near += [parts[outer.name] for outer in reversed(around) if outer.name in parts]
            part = next((name for name in near if name != "other"), "other")
        parts[i.name] = part
        if i.op in _FREE or i.op.endswith("-done"):
            continue
        found.append(_cost(program, i, part, times / steps, chip))
    return found


def _cost(program: Program, i: Instruction, part: str, times: float, chip: Chip) -> Cost:
    moved = traffic(program, i)
    work = sum(flops(program, other) for other in program.inside(i))
    cycles, blind = i.cycles, False
    if chip.clock is None:
        seconds = max(moved / chip.bandwidth, work / chip.flops) + LAUNCH_SECONDS
    else:
        if not cycles:
            for other in program.inside(i):
                if other.op in ("gather", "scatter"):
                    cycles += places(program, other) * BUNDLES_PER_ELEMENT
                    blind = True
        seconds = cycles / chip.clock
    return Cost(i, part, times, seconds * times, moved * times, work * times, cycles * times, blind)


def _in_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.num_bytes for array in arrays if not array.on_chip)


def traffic(program: Program, i: Instruction) -> int:
    """Bytes that an instruction reads from memory and writes to it.

    Of an operand that is only looked into, what is looked up; of one that is written in place, what
    is written.
    """
    if i.op.endswith("-start"):  # an asynchronous copy names its two ends
        return max((array.num_bytes for array in i.shape), default=0)
    body = program.computations.get(i.callee or "") if i.op == "fusion" else None
    if body is None:
        return _traffic_of_one(program, i)
    total, in_place = 0, False
    parameters = [other for other in body if other.op == "parameter"]
    for parameter in parameters:
        place = int(re.match(r"(\d+)\)", parameter.text)[1])
        outer = program.by_name.get(i.operands[place]) if place < len(i.operands) else None
        whole = _in_memory(outer.shape if outer else parameter.shape)
        users = [other for other in body if parameter.name in other.operands]
        if users and all(_looks_into(other, parameter) for other in users):
            whole = min(whole, sum(_touched(program, other) for other in users))
            in_place |= any(other.op in _WRITES for other in users)
        total += whole
    return total if in_place else total + _in_memory(i.shape)


def _looks_into(user: Instruction, parameter: Instruction) -> bool:
    known = user.op in _LOOK_UPS or user.op in _WRITES
    return known and user.operands[0] == parameter.name and user.operands.count(parameter.name) == 1


def _touched(program: Program, user: Instruction) -> int:
    """Bytes of an operand that a look-up reads, or twice those that a write in place changes."""
    if user.op in _WRITES:
        written = program.by_name.get(user.operands[_WRITES[user.op]])
        return 2 * (written.num_bytes if written else 0)
    return user.num_bytes


def _traffic_of_one(program: Program, i: Instruction) -> int:
    operands = program.operands(i)
    if i.op in _LOOK_UPS:
        return 2 * i.num_bytes
    if i.op in _WRITES:
        return _touched(program, i)
    return _in_memory(i.shape) + sum(_in_memory(other.shape) for other in operands)


def places(program: Program, i: Instruction) -> int:
    """How many places a gather or a scatter goes to, one after the other."""
    if i.op == "gather":
        sizes = re.search(r"slice_sizes=\{([\d,]*)\}", i.text)[1]
        window = [int(n) for n in sizes.split(",") if n]
        whole = math.prod(i.shape[0].dims)
    else:
        updates = program.by_name[i.operands[_WRITES["scatter"]]].shape[0].dims
        axes = re.search(r"update_window_dims=\{([\d,]*)\}", i.text)[1]
        window = [updates[int(axis)] for axis in axes.split(",") if axis]
        whole = math.prod(updates)
    return max(1, whole // max(1, math.prod(window)))


class Collective(NamedTuple):
    """Something that travels between devices."""

    kind: str
    arrays: tuple[Array, ...]
    part: str

    @property
    def num_bytes(self) -> int:
        """Of its result on one device."""
        return sum(array.num_bytes for array in self.arrays)


def collectives(program: Program) -> Iterator[Collective]:
    """Each collective of the program once; one inside a loop counts once a step."""
    seen = set()
    for body in program.computations.values():
        for i in body:
            found = COLLECTIVE.match(i.op)
            if found and i.channel not in seen:
                seen.add(i.channel)
                yield Collective(found[1], i.shape, part_of(program, i) or "other")


def network_flops(program: Program) -> int:
    """FLOPs of the network's convolutions and matrix products in one run of a program.

    Of a program before optimisation these are what the mathematics asks for; values that do not
    exist (padding) do not count.
    """
    total = 0
    for i, times, _ in program.run():
        if i.op in ("convolution", "dot") and part_of(program, i) == "network":
            total += times * flops(program, i)
    return total
