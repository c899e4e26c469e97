"""Does a step's time, or its memory, grow with the number of rows N? SOP on the small network.

    python benchmarks/table_scale.py --out=FILE.json [--rows=50000,1000000 --num_classes=10]

Few images stand in for N: a batch takes table rows from all of N and images modulo their number,
the predictions of training rows are not kept (track_predictions=False). For each K, all N live at
once and take turns, in an order that rotates, so that a machine that slows down slows all of them:
`ratio_to_smallest` is the median over rounds of t(N) / t(smallest N) within the round, and
`step_ms` the median of a step waited for, its plan already on the device.
"""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import timing

from sop_jax.config import default
from sop_jax.data.arrays import make_dataset
from sop_jax.experiment import build, resolve
from sop_jax.mesh import by_batch, make_mesh, put
from sop_jax.table import padded

NUM_IMAGES, IMAGE_SHAPE, WARM_UP = 4096, (8, 8, 3), 3


def numbers(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    timing.add_device_flags(parser)
    parser.add_argument("--rows", type=numbers, default=numbers("50000,1000000,5000000,10000000"))
    parser.add_argument("--num_classes", type=numbers, default=numbers("10,100,1000"))
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30, help="rounds, of one step for every N")
    parser.add_argument(
        "--max_bytes", type=int, default=4 * 2**30, help="largest table, over all devices"
    )
    return parser.parse_args()


def expected_bytes(num_rows: int, num_classes: int, devices: int = 1) -> int:
    """Of u and v on each device."""
    return padded(num_rows) * (num_classes + 1) * 4 // devices


def bytes_on_a_device(rows: dict) -> int:
    """The most that any device holds of these leaves."""
    held: dict[Any, int] = {}
    for leaf in jax.tree.leaves(rows):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


class Scale:
    """One (N, K): its state and the compiled step."""

    def __init__(self, num_rows: int, num_classes: int, batch_size: int, mesh: jax.sharding.Mesh):
        rng = np.random.default_rng(0)
        config = default()
        config.update(batch_size=batch_size, track_predictions=False, steps_per_dispatch=1)
        data = make_dataset(
            rng.integers(0, 256, (NUM_IMAGES, *IMAGE_SHAPE), dtype=np.uint8),
            rng.integers(0, num_classes, num_rows, dtype=np.int32),
            np.arange(num_classes),
        )
        config, _ = resolve(config, data)
        experiment = build(config, data, mesh)
        self.num_rows, self.num_classes, self.mesh = num_rows, num_classes, mesh
        self.state = experiment.init()
        self._resident = experiment.resident()
        self._draw = functools.partial(rng.choice, num_rows, batch_size, replace=False)
        lowered = experiment.programs.lower(self.state, self._resident, *self._plan())
        self._step = lowered.compile()
        self.temp_bytes = self._step.memory_analysis().temp_size_in_bytes

    def _plan(self) -> list[jax.Array]:
        index = self._draw().astype(np.int32)[None]
        return [put(part, by_batch(self.mesh)) for part in (index % NUM_IMAGES, index)]

    def draw(self) -> None:
        """Puts rows drawn anew on the device, for the next step."""
        self._next = jax.block_until_ready(self._plan())

    def __call__(self) -> None:
        """One step, waited for."""
        self.state, loss = jax.block_until_ready(
            self._step(self.state, self._resident, *self._next)
        )
        if not np.isfinite(loss).all():
            raise RuntimeError(f"the loss of N={self.num_rows}, K={self.num_classes} is {loss}")


class Result(NamedTuple):
    """One line of the table; bytes are those of each device."""

    rows: int
    num_classes: int
    step_ms: float
    step_ms_quartiles: list[float]
    ratio_to_smallest: float
    table_bytes: int  # measured
    expected_bytes: int  # N*(K+1)*4 / devices, N padded to a multiple of 256
    tracker_bytes: int  # margin and prediction, 8 a row
    program_temp_bytes: int  # of the compiled step


def results_of(scales: list[Scale], seconds: dict[int, np.ndarray]) -> list[Result]:
    """Of one K; the first is the one with the fewest rows."""
    found = []
    for scale, own in zip(scales, seconds.values(), strict=True):
        devices = scale.mesh.devices.size
        low, median, high = timing.quartiles(own)
        found.append(
            Result(
                rows=scale.num_rows,
                num_classes=scale.num_classes,
                step_ms=median,
                step_ms_quartiles=[low, high],
                ratio_to_smallest=timing.ratio(own, seconds[scales[0].num_rows]),
                table_bytes=bytes_on_a_device(scale.state.table),
                expected_bytes=expected_bytes(scale.num_rows, scale.num_classes, devices),
                tracker_bytes=bytes_on_a_device(scale.state.tracker),
                program_temp_bytes=scale.temp_bytes,
            )
        )
    return found


def compare(
    rows: list[int], num_classes: int, arguments: argparse.Namespace, mesh: jax.sharding.Mesh
) -> list[Result]:
    """Builds and measures every N of one K; `rows` rise.

    The largest is built first: drawing v takes three times its memory on a CPU, and only while it
    is drawn.
    """
    largest_first = [
        Scale(num_rows, num_classes, arguments.batch_size, mesh) for num_rows in reversed(rows)
    ]
    scales = largest_first[::-1]
    steps = {scale.num_rows: scale for scale in scales}

    def prepare(num_rows: int) -> None:
        steps[num_rows].draw()

    return results_of(scales, timing.in_turns(steps, arguments.steps, WARM_UP, prepare))


def main() -> None:
    arguments = parse()
    mesh = make_mesh(timing.use_devices(arguments.devices))
    results, skipped = [], []
    print(
        f"{'N':>12} {'K':>5} {'ms a step':>10} {'ratio':>7} {'table bytes':>14} {'temp bytes':>12}"
    )
    for num_classes in arguments.num_classes:
        sizes = {num_rows: expected_bytes(num_rows, num_classes) for num_rows in arguments.rows}
        skipped += [
            {
                "rows": num_rows,
                "num_classes": num_classes,
                "reason": f"its {size} bytes exceed --max_bytes={arguments.max_bytes}",
            }
            for num_rows, size in sizes.items()
            if size > arguments.max_bytes
        ]
        fitting = [num_rows for num_rows, size in sizes.items() if size <= arguments.max_bytes]
        found = compare(fitting, num_classes, arguments, mesh) if fitting else []
        for r in found:
            print(
                f"{r.rows:12,} {r.num_classes:5} {r.step_ms:10.2f} {r.ratio_to_smallest:7.3f} "
                f"{r.table_bytes:14,} {r.program_temp_bytes:12,}",
                flush=True,
            )
        results += found
    timing.write(
        arguments.out,
        {
            "what": " ".join(__doc__.split("\n\n")[2].split()),
            **timing.describe(),
            "batch_size": arguments.batch_size,
            "image_shape": IMAGE_SHAPE,
            "steps": arguments.steps,
            "rows": [r.rows for r in results],
            "num_classes": [r.num_classes for r in results],
            "step_ms": [r.step_ms for r in results],
            "ratio_to_smallest": [r.ratio_to_smallest for r in results],
            "results": [r._asdict() for r in results],
            "skipped": skipped,
        },
    )


if __name__ == "__main__":
    main()
