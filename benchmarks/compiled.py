"""Compiles CE, SOP and SOP+ of two networks for accelerators that are not there; a file for each.

    python benchmarks/compiled.py --out=benchmarks/results/compiled/after [--only=v5e:2x2 ...]

Every file holds its own command (`python -m sop_jax.compile_for ...`). What is there already is
left, so the run can be stopped and goes on: a program for a TPU takes one to six minutes of CPU.
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


def devices(topology: str) -> int:
    """How many a topology's name stands for."""
    count = 1
    for side in topology.split(":")[1].split("x"):
        count *= int(side)
    return count


def command(topology: str, network: str, method: str) -> list[str]:
    """Arguments of `sop_jax.compile_for`."""
    config, each = NETWORKS[network]
    batch = min(each * devices(topology), LARGEST_BATCH)
    return [
        f"--config={config}",
        f"--topology={topology}",
        f"--config.method.name={method}",
        f"--config.batch_size={batch}",
        "--config.steps_per_dispatch=0",
    ]


def file_name(topology: str, network: str, method: str) -> str:
    """Of a program's result."""
    return f"{topology.replace(':', '_')}_{network}_{method}.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=TOPOLOGIES, default=TOPOLOGIES)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    flags = parser.parse_args()
    for topology, network, method in itertools.product(flags.only, flags.networks, flags.methods):
        name = file_name(topology, network, method)
        if (flags.out / name).exists():
            continue
        arguments = [*command(topology, network, method), f"--out={flags.out / name}"]
        print(name, flush=True)
        subprocess.run([sys.executable, "-m", "sop_jax.compile_for", *arguments], check=True)


if __name__ == "__main__":
    main()
