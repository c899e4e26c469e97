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
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import timing

from sop_jax import config as configs
from sop_jax import experiment as experiments
from sop_jax import mesh as meshes
from sop_jax import seeds
from sop_jax.data.dataset import Dataset
from sop_jax.step import make_batch

METHODS = ("ce", "sop", "sop_plus")
COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


class Ours:
    """A method's compiled steps; a call runs one dispatch and waits for it."""

    def __init__(
        self, method: str, flags: argparse.Namespace, dataset: Dataset, devices: list[jax.Device]
    ):
        config, _ = experiments.resolve(make_config(method, flags), flags.num_classes)
        group = seeds.build(config, [dataset] * flags.num_seeds, meshes.make_mesh(devices))
        self.state, self.resident = group.init(), group.resident()
        self.config, self.steps = config, config.steps_per_dispatch
        plans = [array[: len(array) // self.steps * self.steps] for array in group.plan(0)]
        self.plans = [
            tuple(meshes.put(part, group.plan_sharding) for part in parts)
            for parts in zip(
                *(np.split(array, len(array) // self.steps)[:32] for array in plans), strict=True
            )
        ]
        one = [
            jax.ShapeDtypeStruct((1, *part.shape[1:]), part.dtype, sharding=group.plan_sharding)
            for part in self.plans[0]
        ]
        start = time.perf_counter()
        self.flops = group.run_steps.lower(self.state, self.resident, *one).cost_analysis()["flops"]
        self.compiled = group.run_steps.lower(self.state, self.resident, *self.plans[0]).compile()
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
    config = configs.default()
    config.method.name, config.model.name, config.batch_size = (
        method,
        flags.network,
        flags.batch_size,
    )
    config.dtype, config.steps_per_dispatch = flags.dtype, flags.steps_per_dispatch
    config.num_seeds, config.seeds_by = flags.num_seeds, flags.seeds_by
    config.augment.strong = flags.strong
    configs.check(config)
    return config


def augmentation(ours: Ours, dataset: Dataset, num_views: int):
    """A contestant that only makes the batches of a dispatch, with this many views."""
    augment = experiments.make_augment(ours.config, dataset)
    images, labels = dataset.train.images, dataset.train.labels
    resident = jax.device_put(type(ours.resident)(images, labels))

    @jax.jit
    def batch(resident, example):
        return make_batch(
            augment,
            num_views,
            jax.random.key(0),
            jnp.int32(0),
            resident,
            example,
            example,
            len(labels),
        )

    example = jnp.arange(ours.config.batch_size)

    def run() -> None:
        for _ in range(ours.steps):
            made = batch(resident, example)
        jax.block_until_ready(made)

    return run


def count_collectives(hlo: str) -> dict:
    """Counts of the compiled program's collectives; those that carry a weight's gradient (a rank-4
    kernel) apart.
    """
    found = [
        (
            kind,
            [
                [int(n) for n in shape.split(",") if n]
                for shape in re.findall(r"\w+\[([\d,]*)\]", result)
            ],
        )
        for result, kind in COLLECTIVE.findall(hlo)
    ]

    def values(shapes: list[list[int]]) -> int:
        return sum(int(np.prod(shape)) for shape in shapes)

    with_kernels = [shapes for _, shapes in found if any(len(shape) == 4 for shape in shapes)]
    return {
        "counts": dict(collections.Counter(kind for kind, _ in found)),
        "gradient_all_reduces": len(with_kernels),
        "values_in_gradient_all_reduces": sum(map(values, with_kernels)),
        "values_in_largest_other": max(
            (values(s) for _, s in found if s not in with_kernels), default=0
        ),
    }


def peers(flags: argparse.Namespace, dataset: Dataset) -> dict:
    """The PyTorch contestants 'torch/VARIANT/METHOD'; each runs as many steps a call as ours
    does.
    """
    import torch_peer

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
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
                for _ in range(flags.steps_per_dispatch or (1 if device == "cpu" else 64)):
                    step()
                torch_peer.synchronise(device)

            found[f"torch/{variant}/{method}"] = run
    return found


def report(
    flags: argparse.Namespace, ours: dict[str, Ours], seconds: dict[str, np.ndarray], views: dict
) -> dict:
    """The figures, from the seconds of each dispatch."""
    ce = ours["ce"]
    images = ce.config.batch_size * ce.steps * flags.num_seeds
    rate = timing.matrix_product_rate(ce.config.dtype)
    devices = len(jax.tree.leaves(ce.state)[0].sharding.device_set)
    result = {
        "network": flags.network,
        "batch_size": flags.batch_size,
        "dtype": ce.config.dtype,
        "steps_per_dispatch": ce.steps,
        "rounds": flags.steps,
        "num_devices": devices,
        "num_seeds": flags.num_seeds,
        "seeds_by": ce.config.seeds_by,
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
            for variant, method in raced}  # fmt: skip
        for method in METHODS:
            name = "ours_over_torch" if method == "ce" else f"ours_over_torch_{method}"
            ratios = {
                variant: timing.ratio(seconds[f"torch/{variant}/{method}"], seconds[method])
                for variant, of in raced
                if of == method
            }
            if ratios:
                result[name] = ratios
    return result | timing.describe(ce.config)


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
    parser.add_argument("--dtype", choices=configs.DTYPES, default="auto")
    parser.add_argument("--num_seeds", type=int, default=1)
    parser.add_argument("--seeds_by", choices=configs.SEEDS_BY, default="auto")
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
    if flags.peer and flags.num_seeds > 1:
        parser.error("--peer=torch trains one seed; leave out --num_seeds")
    if flags.peer and not importlib.util.find_spec("torch"):
        parser.error("--peer=torch needs PyTorch: pip install torch==2.13.0")

    devices = timing.use_devices(flags.devices)
    dataset = timing.random_dataset(flags.num_rows, flags.num_classes, flags.image_size)
    ours = {method: Ours(method, flags, dataset, devices) for method in METHODS}
    views = {"sop": "batch/1 view", "sop_plus": "batch/2 views"}
    contestants = ours | {
        view: augmentation(ours[name], dataset, place + 1)
        for place, (name, view) in enumerate(views.items())
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
