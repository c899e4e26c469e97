"""Accelerators by name, with what their makers say of them, and their compilers' devices.

The devices are of a topology that need not be there: programs can be compiled for them and cannot
run. Sources: Google Cloud's TPU pages; NVIDIA's data sheets (SXM boards, dense bfloat16) and, for a
GPU's description to its compiler, the files that XLA ships for it.
"""

import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.experimental import topologies

from sop_jax.errors import UserError, suggestion

GIB = 2**30


class Chip(NamedTuple):
    """One kind of device."""

    flops: float  # FLOP/s in bfloat16
    bandwidth: float  # bytes/s of its memory
    memory: int  # bytes
    clock: float | None  # cycles/s of a TPU: FLOP/s over the matrix units' FLOPs a cycle
    gpu: Mapping[str, str] | None = None  # of a GPU: what its compiler is told besides

    @property
    def platform(self) -> str:
        """As JAX names it where a program is lowered."""
        return "tpu" if self.gpu is None else "cuda"


def _gpu(name: str, capability: tuple[int, int], cores: int, l2: int) -> dict[str, str]:
    major, minor = capability
    fields = {"cores": str(cores), "l2": str(l2), "major": str(major), "minor": str(minor)}
    return fields | {"description": name}


CHIPS: Mapping[str, Chip] = {
    "v4": Chip(275e12, 1228e9, 32 * GIB, 1.05e9),
    "v5e": Chip(197e12, 819e9, 16 * GIB, 1.5e9),
    "v5p": Chip(459e12, 2765e9, 95 * GIB, 1.75e9),
    "v6e": Chip(918e12, 1640e9, 32 * GIB, 1.75e9),
    "h100": Chip(
        989e12, 3352e9, 84_942_979_072, None, _gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 52428800)
    ),
    "h200": Chip(989e12, 4800e9, 150_754_820_096, None, _gpu("NVIDIA H200", (9, 0), 132, 52428800)),
    "b200": Chip(
        2250e12, 8000e9, 191_510_216_704, None, _gpu("NVIDIA B200", (10, 0), 148, 132120576)
    ),
}
_GPU_TEXT = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: {l2}
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{description}"
"""
# libtpu looks for the machine that it is on; these answer instead.
_TPU_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_INSTALL = {
    "tpu": ("libtpu", "compile_tpu"),
    "cuda": ("jax_plugins.xla_cuda12", "compile_gpu"),
}


def find(name: str) -> tuple[Chip, list[jax.Device]]:
    """A topology's chip, and its devices for a mesh.

    Args:
      name: CHIP:SHAPE; for TPUs the shape of the slice in chips (v5e:4x4, v4:2x2x1), for GPUs how
        many of one host (h100:8), or hosts x GPUs of each (h100:2x8).

    Raises:
      UserError: an unknown chip, a shape that does not exist, or its compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise UserError(
            f"--topology={name}: chip {kind!r} is unknown{suggestion(kind, list(CHIPS))}; the "
            f"chips are {', '.join(CHIPS)}, and a topology is one of them with its shape, such as "
            "v5e:2x2 or h100:4"
        )
    chip = CHIPS[kind]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(
            f"--topology={name}: shape {shape!r} is none; it is such as "
            f"{kind}:{'2x2' if chip.gpu is None else '4'}"
        )
    module, extra = _INSTALL[chip.platform]
    if not _installed(module):
        raise UserError(
            f"--topology={name}: the compiler for it is not installed; pip install "
            f"'sop-jax[{extra}]'"
        )
    sizes = tuple(int(part) for part in shape.split("x"))
    try:
        found = _tpus(name, kind, sizes) if chip.gpu is None else _gpus(chip, sizes)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={name}: its compiler does not know it: {error}") from error
    return chip, list(found.devices)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


def _tpus(name: str, kind: str, sizes: tuple[int, ...]):
    for variable, value in _TPU_VARIABLES.items():
        os.environ.setdefault(variable, value)
    options = {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # a chip's two cores are one device
    if math.prod(sizes) < 4:  # part of a host
        options["chips_per_host_bounds"] = (*sizes, 1, 1)[:3]
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **options)


def _gpus(chip: Chip, sizes: tuple[int, ...]):
    if len(sizes) > 2:
        raise UserError("a topology of GPUs is HOSTSxGPUS or GPUS, such as h100:2x8 or h100:8")
    hosts, each = (1, *sizes)[-2:]
    text = _GPU_TEXT.format(bandwidth=chip.bandwidth, memory=chip.memory, **chip.gpu)
    return topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=text, topology=f"1x{hosts}x{each}"
    )
