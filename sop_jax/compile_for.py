"""python -m sop_jax.compile_for --config=FILE --topology=v5e:4x4 [--config.field=value ...]

Compiles the training step of a config for a TPU slice or GPUs that are not there, and prints what
the compiler knows of it: memory, collectives, bytes and cycles by part, and the step's time as
estimated from them. Nothing is trained. Its accuracy against a real chip is not measured.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sop_jax import accounts, chips, command_line
from sop_jax.data import dataset as datasets
from sop_jax.data.noise import report as noise_report
from sop_jax.data.sources import Split
from sop_jax.errors import UserError
from sop_jax.experiment import Experiment, build, resolve
from sop_jax.hlo import Program
from sop_jax.mesh import by_batch, make_mesh, replicated
from sop_jax.state import Resident, flat
from sop_jax.table import padded

# training rows, image shape and classes of TFDS sets, so that a user need not have them
KNOWN_SETS = {
    "cifar10": (50_000, (32, 32, 3), 10),
    "cifar10_n": (50_000, (32, 32, 3), 10),
    "cifar100": (50_000, (32, 32, 3), 100),
    "cifar100_n": (50_000, (32, 32, 3), 100),
    "mnist": (60_000, (28, 28, 1), 10),
    "fashion_mnist": (60_000, (28, 28, 1), 10),
}


def zeros(name: str, rows: int, shape: tuple[int, int, int], num_classes: int) -> datasets.Dataset:
    """A data set of black images: a program depends on shapes alone."""
    ids = np.arange(rows)
    labels = (ids % num_classes).astype(np.int32)
    train = Split(np.zeros((rows, *shape), np.uint8), labels, ids)
    channels = shape[-1]
    return datasets.Dataset(
        name=name,
        train=train,
        test=Split(*(part[:1] for part in train)),
        train_index=ids.astype(np.int32),
        validation_index=ids[:0].astype(np.int32),
        class_names=tuple(map(str, range(num_classes))),
        mean=np.full(channels, 0.5, np.float32),
        std=np.full(channels, 0.25, np.float32),
        noise=noise_report("none", 0.0, labels, None, num_classes),
    )


def data_of(config: ConfigDict, flags: argparse.Namespace) -> datasets.Dataset:
    """The config's data set: of the flags' sizes or a known set's, or else read."""
    rows, shape, num_classes = KNOWN_SETS.get(config.data.name, (None, None, None))
    rows, num_classes = flags.rows or rows, flags.num_classes or num_classes
    shape = flags.image_shape or shape
    if rows is None or shape is None or num_classes is None:
        return datasets.load(config)[0]
    factor = config.data.downsample
    shape = (shape[0] // factor, shape[1] // factor, shape[2])
    return zeros(config.data.name, min(rows, config.data.train_limit or rows), shape, num_classes)


def lowered(experiment: Experiment) -> jax.stages.Lowered:
    """The program of one dispatch, for the mesh's devices, before it is compiled."""
    data, config, mesh = experiment.dataset, experiment.config, experiment.mesh

    def shape_of(array: np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=replicated(mesh))

    resident = Resident(shape_of(flat(data.train.images)), shape_of(data.train.labels))
    steps = min(config.steps_per_dispatch, experiment.steps_per_epoch)
    plan = jax.ShapeDtypeStruct(
        (steps, experiment.method.streams * config.batch_size),
        jnp.int32,
        sharding=by_batch(mesh),
    )
    return experiment.programs.lower(experiment.abstract, resident, plan, plan)


def memory_of(compiled: jax.stages.Compiled, chip: chips.Chip, batch: int) -> dict[str, Any]:
    """Bytes on each device; the largest batch supposes temporaries in proportion to it."""
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    kept += memory.generated_code_size_in_bytes - memory.alias_size_in_bytes
    temporary = memory.temp_size_in_bytes
    largest = int(batch * (chip.memory - kept) / max(1, temporary))
    return {
        "state_images_and_program": kept,
        "temporaries": temporary,
        "total": kept + temporary,
        "device": chip.memory,
        "fits": kept + temporary <= chip.memory,
        "largest_batch_per_device": max(0, largest),
    }


def collectives_of(program: Program, num_rows: int) -> dict[str, Any]:
    """What travels between devices in a step, by kind; and what is as long as the data set."""
    kinds: dict[str, Any] = {}
    of_rows, largest_other = [], 0
    for one in accounts.collectives(program):
        own = kinds.setdefault(one.kind, collections.Counter())
        own["count"] += 1
        own["bytes"] += one.num_bytes
        own[f"count_of_{one.part}"] += 1
        for array in one.arrays:
            if {num_rows, padded(num_rows)} & set(array.dims):
                of_rows.append(f"{one.kind} {array.dtype}{list(array.dims)}")
        if one.part != "network":
            largest_other = max(largest_other, one.num_bytes)
    return {
        **{kind: dict(own) for kind, own in kinds.items()},
        "largest_not_of_the_network_bytes": largest_other,
        "as_long_as_the_data_set": of_rows,
    }


def costs_of(costs: list[accounts.Cost], chip: chips.Chip) -> dict[str, Any]:
    """Time, bytes and kernels a step by part, and what takes longest."""
    parts = {name: collections.Counter() for name in accounts.PARTS}
    for one in costs:
        own = parts[one.part]
        own["ms"] += one.seconds * 1e3
        own["megabytes"] += one.num_bytes / 1e6
        own["kernels"] += one.times
        if chip.clock:
            own["kilocycles"] += one.cycles / 1e3
    slowest = []
    for one in sorted(costs, key=lambda cost: -cost.seconds)[:15]:
        shape = ", ".join(f"{a.dtype}{list(a.dims)}" for a in one.instruction.shape[:2])
        scope = one.instruction.op_name[-70:]
        slowest.append(
            f"{one.seconds * 1e3:.3f} ms {one.part}: {one.instruction.op} {shape} "
            f"x{one.times:g}{' (no estimate)' if one.blind else ''} {scope}"
        )
    copies = [
        one.num_bytes / 1e6
        for one in costs
        if one.instruction.op in ("copy", "transpose") and one.instruction.num_bytes > 2**20
    ]
    return {
        "parts": {
            name: {key: round(value, 4) for key, value in own.items()}
            for name, own in parts.items()
            if own
        },
        "slowest": slowest,
        "large_copies_megabytes": round(sum(copies), 1),
    }


def describe(
    name: str, experiment: Experiment, chip: chips.Chip, hlo: pathlib.Path | None = None
) -> dict[str, Any]:
    """Compiles an experiment's step on the devices of its mesh and takes account of it."""
    config, devices = experiment.config, experiment.mesh.devices.size
    steps = min(config.steps_per_dispatch, experiment.steps_per_epoch)
    before = lowered(experiment)
    work = accounts.network_flops(Program(before.as_text(dialect="hlo", debug_info=True)))
    work = work / steps / devices
    start, cpu = time.perf_counter(), time.process_time()
    compiled = before.compile()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    text = compiled.as_text()
    if hlo:
        hlo.write_text(text)
    program = Program(text)
    costs = accounts.costs(program, chip, steps)
    each = config.batch_size // devices
    step_seconds = sum(one.seconds for one in costs)
    moved = sum(one.num_bytes for one in costs)
    return {
        "topology": name,
        "devices": devices,
        "device_kind": experiment.mesh.devices.flat[0].device_kind,
        "network": config.model.name,
        "method": config.method.name,
        "batch_size": config.batch_size,
        "batch_size_per_device": each,
        "dtype": config.dtype,
        "steps_per_dispatch": steps,
        "memory_bytes": memory_of(compiled, chip, each),
        "collectives": collectives_of(program, len(experiment.dataset.train.labels)),
        **costs_of(costs, chip),
        "estimate": {
            "step_ms": step_seconds * 1e3,
            "images_per_second": config.batch_size / step_seconds,
            "images_per_second_per_device": each / step_seconds,
            "network_gigaflops_per_device": work / 1e9,
            "flops_ms": work / chip.flops * 1e3,
            "memory_ms": moved / chip.bandwidth * 1e3,
            "utilisation": work / chip.flops / step_seconds,
        },
        "compile_seconds": round(seconds, 1),
        "compile_cpu_seconds": round(cpu, 1),
    }


def table(result: Mapping[str, Any]) -> str:
    """The account for people."""
    memory, estimate = result["memory_bytes"], result["estimate"]
    lines = [
        f"{result['network']} with {result['method']} on {result['topology']}, "
        f"{result['devices']} x {result['device_kind']}: batch {result['batch_size']} "
        f"({result['batch_size_per_device']} a device), {result['dtype']}, "
        f"{result['steps_per_dispatch']} steps a dispatch",
        f"memory a device: {memory['total'] / 2**30:.2f} of {memory['device'] / 2**30:.0f} GiB"
        f"{'' if memory['fits'] else ' - DOES NOT FIT'}; about "
        f"{memory['largest_batch_per_device']} examples a device would fit",
        "by part of a step (estimated by the compiler):",
    ]
    for name, own in result["parts"].items():
        share = own.get("ms", 0) / estimate["step_ms"]
        lines.append(
            f"  {name:12} {own.get('ms', 0):9.3f} ms {share:6.1%} "
            f"{own.get('megabytes', 0):10.1f} MB {own.get('kernels', 0):8.0f} kernels"
        )
    lines.append("collectives a step:")
    for kind, own in result["collectives"].items():
        if isinstance(own, Mapping):
            lines.append(f"  {kind:18} {own['count']:4} of {own['bytes'] / 1e6:9.3f} MB in all")
    lines.append(
        f"estimate: {estimate['step_ms']:.2f} ms a step, {estimate['images_per_second']:,.0f} "
        f"images/s, {estimate['utilisation']:.1%} of the chip's FLOP/s (the network's FLOPs alone "
        f"take {estimate['flops_ms']:.2f} ms, all bytes {estimate['memory_ms']:.2f} ms)"
    )
    return "\n".join(lines)


def _versions(chip: chips.Chip) -> dict[str, str]:
    """Of what compiled the program."""
    compilers = {
        "tpu": ("libtpu",),
        "cuda": ("jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"),
    }
    names = ("jax", "jaxlib", "flax", "optax", *compilers[chip.platform])
    return {name: importlib.metadata.version(name) for name in names}


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError("it is a whole number, 1 or more")
    return int(text)


def _shape(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError("it is HEIGHTxWIDTHxCHANNELS, such as 32x32x3")
    return tuple(map(int, text.split("x")))


class _Parser(argparse.ArgumentParser):
    """Every mistake is a UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _flags(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = _Parser(
        prog="python -m sop_jax.compile_for",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--topology", required=True, help="CHIP:SHAPE, such as v5e:4x4 or h100:8")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--hlo", type=pathlib.Path, help="file for the compiled program's text")
    parser.add_argument("--rows", type=_count, help="training rows (instead of reading the data)")
    parser.add_argument("--image_shape", type=_shape, help="HEIGHTxWIDTHxCHANNELS, likewise")
    parser.add_argument("--num_classes", type=_count, help="K, likewise")
    return parser.parse_known_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 2 after a mistake, which is said in one line."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # CUDA's compiler looks for a driver
    jax.config.update("jax_platforms", "cpu")  # the process itself computes on the host
    try:
        _compile(*_flags(argv), argv)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:  # a file that cannot be written
        return _fail(f"{error.strerror or error}: {error.filename}")
    return 0


def _compile(flags: argparse.Namespace, rest: list[str], argv: list[str]) -> None:
    config = command_line.parse(["compile_for", *rest, "--dry_run"]).config
    if config.task != "classify":
        raise UserError(f"config.task={config.task!r} has no training step to compile")
    chip, devices = chips.find(flags.topology)
    data = data_of(config, flags)
    resolved, _ = resolve(config, data, devices)
    experiment = build(resolved, data, make_mesh(devices))
    for file in filter(None, (flags.out, flags.hlo)):  # before minutes of compiling
        file.parent.mkdir(parents=True, exist_ok=True)
    result = describe(flags.topology, experiment, chip, flags.hlo)
    print(table(result))
    if flags.out:
        command = "python -m sop_jax.compile_for " + " ".join(argv)
        about = {"command": command, "versions": _versions(chip)}
        flags.out.write_text(json.dumps(result | about, indent=1) + "\n")


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
