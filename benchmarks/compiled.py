"""Compiles steps for accelerators that are not there; a JSON file for each.

    python benchmarks/compiled.py --out=benchmarks/results/compiled/after [--only=v5e:2x2 ...]
    python benchmarks/compiled.py --out=benchmarks/results/compiled/batch --sweep

CE, SOP and SOP+ of two networks, or with --sweep, CE at several batches a device and widths. Every
file holds its own command (`python -m sop_jax.compile_for ...`). What is there already is left, so
a run can be stopped and goes on: a program for a TPU takes one to seven minutes of CPU.
"""

import argparse
import itertools
import pathlib
import subprocess
import sys

TOPOLOGIES = ("h100:4", "v5e:2x2", "v6e:2x2", "v5e:4x4", "v5e:16x16")
METHODS = ("sop_plus", "ce", "sop")
NETWORKS = {  # config, and the batch of a device
    "preact_resnet18": ("configs/cifar10_sop_plus.py", 128),
    "fast_net": ("configs/cifar10n_fast.py", 256),
}
LARGEST_BATCH = 32_768  # the set has 50,000 rows
SWEEP_TOPOLOGIES = ("h100:1", "v5e:1x1")
SWEEP = {  # (network, width) -> batches of a device; None: the published width
    ("preact_resnet18", None): (32, 64, 128, 256, 512, 1024),
    ("fast_net", 64): (256, 512, 1024, 2048),
    ("fast_net", 128): (256, 512, 1024, 2048),
}


def devices(topology: str) -> int:
    """How many a topology's name stands for."""
    count = 1
    for side in topology.split(":")[1].split("x"):
        count *= int(side)
    return count


def command(topology: str, network: str, method: str, each: int, width: int | None) -> list[str]:
    """Arguments of `sop_jax.compile_for`, with a batch of `each` examples a device."""
    batch = min(each * devices(topology), LARGEST_BATCH)
    arguments = [
        f"--config={NETWORKS[network][0]}",
        f"--topology={topology}",
        f"--config.method.name={method}",
        f"--config.batch_size={batch}",
    ]
    return arguments if width is None else [*arguments, f"--config.model.width={width}"]


def file_name(topology: str, network: str, method: str) -> str:
    """Of a program's result."""
    return f"{topology}_{network}_{method}.json".replace(":", "_")


def wanted(flags: argparse.Namespace) -> dict[str, list[str]]:
    """{name of a file: arguments}."""
    found = {}
    if flags.sweep:
        for topology, ((network, width), batches) in itertools.product(
            flags.only or SWEEP_TOPOLOGIES, SWEEP.items()
        ):
            for each in batches:
                name = file_name(topology, f"{network}{width or ''}", str(each))
                found[name] = command(topology, network, "ce", each, width)
        return found
    for topology, network, method in itertools.product(flags.only or TOPOLOGIES, NETWORKS, METHODS):
        name = file_name(topology, network, method)
        found[name] = command(topology, network, method, NETWORKS[network][1], None)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument("--only", nargs="+", help="topologies; default: all")
    parser.add_argument("--sweep", action="store_true", help="batches and widths instead")
    flags = parser.parse_args()
    for name, arguments in wanted(flags).items():
        out = flags.out / name
        if not out.exists():
            print(out, flush=True)
            program = [sys.executable, "-m", "sop_jax.compile_for", *arguments, f"--out={out}"]
            subprocess.run(program, check=True)


if __name__ == "__main__":
    main()
