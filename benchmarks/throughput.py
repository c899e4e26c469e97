"""Times CE, SOP and SOP+ training steps in turns, and the PyTorch peer beside them, in one process.

    python benchmarks/throughput.py --network=preact_resnet18 --batch_size=128 --steps=8
    [--peer=torch] --out=FILE.json

A round runs one dispatch of each contestant. Images/s count examples, not views. Ratios are medians
over rounds of the two times of the same round. FLOPs are XLA's count for one step before
optimisation (forward, backward, update); they divided by the step's time and by the measured rate
of a large matrix product is the utilisation.
"""

import argparse
import collections
import importlib.util
import math
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import timing

from sop_jax.config import check, default
from sop_jax.data.dataset import Dataset
from sop_jax.experiment import build, make_augment, resolve
from sop_jax.mesh import by_batch, make_mesh, put
from sop_jax.programs import make_batch
from sop_jax.state import Resident, flat

METHODS = ("ce", "sop", "sop_plus")
COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) "  # what it carries
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
MOST_PLANS = 32  # dispatches that are prepared beforehand; then they come again


class Ours:
    """A method's compiled steps; a call runs one dispatch and waits for it."""

    def __init__(
        self, method: str, flags: argparse.Namespace, dataset: Dataset, devices: list[jax.Device]
    ):
        self.config, _ = resolve(make_config(method, flags), dataset)
        self.steps = self.config.steps_per_dispatch
        mesh = make_mesh(devices)
        experiment = build(self.config, dataset, mesh)
        self.resident = experiment.resident()
        self.state, *epoch = experiment.plan(experiment.init(), 0)
        split = by_batch(mesh)
        self.plans = []
        for begin in range(0, len(epoch[0]) - self.steps + 1, self.steps)[:MOST_PLANS]:
            parts = (array[begin : begin + self.steps] for array in epoch)
            self.plans.append([put(part, split) for part in parts])
        one = jax.ShapeDtypeStruct((1, self.config.batch_size), jnp.int32, sharding=split)
        lower = experiment.programs.lower
        start = time.perf_counter()
        self.flops = lower(self.state, self.resident, one, one).cost_analysis()["flops"]
        self.compiled = lower(self.state, self.resident, *self.plans[0]).compile()
        self.compile_seconds = time.perf_counter() - start
        self.turn = 0

    def __call__(self) -> None:
        plan = self.plans[self.turn % len(self.plans)]
        self.state, _ = jax.block_until_ready(self.compiled(self.state, self.resident, *plan))
        self.turn += 1

    def memory_bytes(self) -> int:
        """Of the program on each device: state, images, temporaries."""
        memory = self.compiled.memory_analysis()
        return (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )


def make_config(method: str, flags: argparse.Namespace):
    """The default config with the flags' fields."""
    config = default()
    config.method.name, config.model.name = method, flags.network
    config.batch_size, config.dtype = flags.batch_size, flags.dtype
    config.steps_per_dispatch = flags.steps_per_dispatch
    config.augment.strong = flags.strong
    check(config)
    return config


def augmentation(ours: Ours, dataset: Dataset, views: tuple[str, ...]) -> Callable[[], None]:
    """A contestant that only makes the batches of a dispatch, with these views."""
    augment = make_augment(ours.config, dataset)
    images, labels = dataset.train.images, dataset.train.labels
    resident = jax.device_put(Resident(flat(images), labels))

    @jax.jit
    def batch(resident, example):
        key, epoch = jax.random.key(0), jnp.int32(0)
        shape = images.shape[1:]
        return make_batch(
            augment, views, key, epoch, resident, example, example, len(labels), shape
        )

    example = jnp.arange(ours.config.batch_size)

    def run() -> None:
        for _ in range(ours.steps):
            made = batch(resident, example)
        jax.block_until_ready(made)

    return run


def count_collectives(hlo: str) -> dict:
    """Counts of the compiled program's collectives.

    Those that carry a weight's gradient, that of a kernel of rank 4, are counted apart.
    """
    counts, of_kernels, of_others = collections.Counter(), [], [0]
    for result, kind in COLLECTIVE.findall(hlo):
        shapes = [tuple(map(int, filter(None, text.split(",")))) for text in SHAPE.findall(result)]
        values = sum(math.prod(shape) for shape in shapes)
        has_kernel = any(len(shape) == 4 for shape in shapes)
        (of_kernels if has_kernel else of_others).append(values)
        counts[kind] += 1
    return {
        "counts": dict(counts),
        "gradient_all_reduces": len(of_kernels),
        "values_in_gradient_all_reduces": sum(of_kernels),
        "values_in_largest_other": max(of_others),
    }


def peers(flags: argparse.Namespace, dataset: Dataset) -> dict[str, Callable[[], None]]:
    """The PyTorch contestants 'torch/VARIANT/METHOD'; each runs as many steps a call as ours."""
    import torch_peer

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    steps = flags.steps_per_dispatch or (1 if device == "cpu" else 64)
    found = {}
    for variant in torch_peer.variants(device):
        for method in flags.peer_methods:
            step = torch_peer.make_step(
                method,
                flags.network,
                variant,
                dataset.train.images,
                dataset.train.labels,
                flags.num_classes,
                flags.batch_size,
                device,
            )

            def run(step=step) -> None:
                for _ in range(steps):
                    step()
                torch_peer.synchronise(device)

            found[f"torch/{variant}/{method}"] = run
    return found


def report(
    flags: argparse.Namespace, ours: dict[str, Ours], seconds: dict[str, np.ndarray], views: dict
) -> dict:
    """The figures, from the seconds of each dispatch."""
    ce = ours["ce"]
    images = ce.config.batch_size * ce.steps
    rate = timing.matrix_product_rate(ce.config.dtype)
    devices = len(jax.tree.leaves(ce.state)[0].sharding.device_set)
    result = {
        "network": flags.network,
        "batch_size": flags.batch_size,
        "dtype": ce.config.dtype,
        "steps_per_dispatch": ce.steps,
        "rounds": flags.steps,
        "num_devices": devices,
        "strong_view": flags.strong,
        "images_per_second": {
            name: images / float(np.median(seconds[name])) for name in seconds if name in ours
        },
        "step_ms_quartiles": {
            name: [q / ce.steps for q in timing.quartiles(s)] for name, s in seconds.items()
        },
        "sop_over_ce": timing.ratio(seconds["sop"], seconds["ce"]),
        "sop_plus_over_ce": timing.ratio(seconds["sop_plus"], seconds["ce"]),
        "augmentation_share_of_step": {
            name: timing.ratio(seconds[view], seconds[name]) for name, view in views.items()
        },
        "compile_seconds": {name: one.compile_seconds for name, one in ours.items()},
        "flops_per_step": {name: one.flops for name, one in ours.items()},
        "matrix_product_flops_per_second": rate,
        "utilisation": {
            name: one.flops * one.steps / float(np.median(seconds[name])) / rate / devices
            for name, one in ours.items()
        },
        "program_bytes": {name: one.memory_bytes() for name, one in ours.items()},
        "peak_device_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "collectives": {
            name: count_collectives(one.compiled.as_text()) for name, one in ours.items()
        },
    }
    raced = [name.split("/")[1:] for name in seconds if name.startswith("torch/")]
    if raced:
        result["torch_images_per_second"] = {
            f"{variant}/{method}": images / float(np.median(seconds[f"torch/{variant}/{method}"]))
            for variant, method in raced
        }
        for method in METHODS:
            name = "ours_over_torch" if method == "ce" else f"ours_over_torch_{method}"
            ratios = {
                variant: timing.ratio(seconds[f"torch/{variant}/{method}"], seconds[method])
                for variant, of in raced
                if of == method
            }
            if ratios:
                result[name] = ratios
    return result | timing.describe()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    timing.add_device_flags(parser)
    parser.add_argument(
        "--network",
        choices=("small_resnet", "resnet34", "preact_resnet18"),
        default="preact_resnet18",
    )
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="timed rounds")
    parser.add_argument(
        "--steps_per_dispatch", type=int, default=0, help="0: as in training (1 on a CPU, else 64)"
    )
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument(
        "--strong",
        choices=("autoaugment", "weak"),
        default="autoaugment",
        help="second view of SOP+",
    )
    parser.add_argument("--num_rows", type=int, default=50_000)
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument(
        "--peer", choices=("torch",), help="race PyTorch in the same rounds (needs torch)"
    )
    parser.add_argument(
        "--peer_methods", nargs="+", choices=METHODS, default=["ce"], help="what the peer runs"
    )
    flags = parser.parse_args()
    if flags.peer and not importlib.util.find_spec("torch"):
        parser.error("--peer=torch needs PyTorch: pip install torch==2.13.0")

    devices = timing.use_devices(flags.devices)
    dataset = timing.random_dataset(flags.num_rows, flags.num_classes, flags.image_size)
    ours = {method: Ours(method, flags, dataset, devices) for method in METHODS}
    views = {"sop": "batch/1 view", "sop_plus": "batch/2 views"}
    contestants = ours | {
        "batch/1 view": augmentation(ours["sop"], dataset, ("weak",)),
        "batch/2 views": augmentation(ours["sop_plus"], dataset, ("weak", "strong")),
    }
    if flags.peer:
        contestants |= peers(flags, dataset)
    seconds = timing.in_turns(contestants, flags.steps)
    result = report(flags, ours, seconds, views)
    for name, values in result["step_ms_quartiles"].items():
        print(f"{name:24} {values[1]:10.2f} ms a step  [{values[0]:.2f}, {values[2]:.2f}]")
    for name in (
        "images_per_second",
        "sop_over_ce",
        "sop_plus_over_ce",
        "utilisation",
        "ours_over_torch",
    ):
        if name in result:
            print(f"{name}: {result[name]}")
    timing.write(flags.out, result)


if __name__ == "__main__":
    main()
